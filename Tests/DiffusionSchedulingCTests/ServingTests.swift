// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling
import Testing

@testable import DiffusionSchedulingC

/// Guided steps, steps of many sessions, and sessions on a plan alone give C the bits that they give Swift.
@Suite struct ServingTests {
    static let configurations = SessionStateTests.configurations
    static let shape: [Int64] = [2, 3, 4]

    private func values(_ index: Int) -> [Float] { SessionStateTests.tensor(index, count: 24) }

    @Test(arguments: configurations) func guidedSteps(_ json: String) throws {
        let scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 4, nil))
        for guidance in [Guidance(scale: 6), Guidance(scale: 3, rescale: 0.7), Guidance(scale: 1)] {
            var handle = ds_session(), session = SamplingSession(plan: try SessionStateTests.plan(json, steps: 4))
            try call(ds_session_create(scheduler, 0, &handle))
            defer { ds_session_free(handle) }
            var x = values(0), expected = x, options = ds_guidance(scale: guidance.scale, rescale: guidance.rescale)
            for index in 0..<4 {
                let c = values(3 * index + 1), u = values(3 * index + 2), z = values(3 * index + 3)
                try session.step(
                    conditional: c, unconditional: u, guidance: guidance, sample: &expected, noise: z, batchSize: 2)
                var tensors = [c, u, z, x]
                try withTensors(&tensors, shape: Self.shape) { t in
                    try call(ds_session_step_guided(handle, t[0], t[1], &options, t[3], t[2], t[3], nil, 0))
                }
                x = tensors[3]
                #expect(x.map(\.bitPattern) == expected.map(\.bitPattern), "\(guidance), step \(index)")
            }
        }
    }

    /// Two rows of different plans around a free row, with and without guidance; the outputs are separate tensors.
    @Test func rowsOfSessions() throws {
        let schedulers = try Self.configurations.prefix(2).map { try makeScheduler($0) }
        defer { schedulers.forEach { ds_scheduler_free($0) } }
        var handles = [ds_session](repeating: ds_session(), count: 3)
        var alone: [SamplingSession?] = [nil, nil, nil]
        for (place, index) in [(0, 0), (2, 1)] {
            try call(ds_scheduler_set_timesteps(schedulers[index], 5, nil))
            try call(ds_session_create(schedulers[index], place, &handles[place]))
            alone[place] = SamplingSession(
                plan: try SessionStateTests.plan(Self.configurations[index], steps: 5), beginIndex: place)
        }
        defer { handles.forEach { ds_session_free($0) } }
        let guidance = [ds_guidance(scale: 1, rescale: 0), ds_guidance(scale: 1, rescale: 0), ds_guidance(scale: 4, rescale: 0.5)]
        let shape: [Int64] = [3, 8]
        var x = values(0)
        for index in 0..<3 {
            let c = values(3 * index + 1), u = values(3 * index + 2), z = values(3 * index + 3)
            var expected = x
            for place in [0, 2] {
                let range = place * 8..<place * 8 + 8
                var row = Array(x[range])
                let noise = Array(z[range])
                if place == 2 {
                    try alone[place]!.step(
                        conditional: Array(c[range]), unconditional: Array(u[range]), guidance: Guidance(scale: 4, rescale: 0.5),
                        sample: &row, noise: noise)
                } else {
                    try alone[place]!.step(modelOutput: Array(c[range]), sample: &row, noise: noise)
                }
                expected.replaceSubrange(range, with: row)
            }
            var tensors = [c, u, x, z, [Float](repeating: .nan, count: 24)]
            try withTensors(&tensors, shape: shape) { t in
                try call(ds_sessions_step(handles, 3, t[0], t[1], guidance, t[2], t[3], t[4], nil, 0))
            }
            var next = tensors[4]
            #expect(next[8..<16].allSatisfy { $0.isNaN }, "a free row was written")
            next.replaceSubrange(8..<16, with: x[8..<16])
            #expect(next.map(\.bitPattern) == expected.map(\.bitPattern), "step \(index)")
            x = next
        }
    }

    /// Sessions made from a plan's text step like the scheduler's, and restore their states.
    @Test(arguments: configurations) func sessionsOnAPlan(_ json: String) throws {
        let scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 4, nil))
        let planText = try text { ds_scheduler_plan_json(scheduler, $0, $1, $2) }
        let plan = try SamplingPlan(jsonText: planText), expected = try SessionStateTests.plan(json, steps: 4)
        #expect(plan == expected)
        var first = ds_session(), second = ds_session(), restored = ds_session()
        try call(ds_session_create(scheduler, 0, &first))
        try call(ds_session_create_on_plan(planText, planText.utf8.count, 0, &second))
        defer { [first, second, restored].forEach { ds_session_free($0) } }
        var x = values(0), y = x
        func step(_ session: ds_session, _ sample: inout [Float], _ index: Int) throws {
            var e = values(2 * index + 1), z = values(2 * index + 2)
            try withTensor(&e) { e in
                try withTensor(&z) { z in
                    try withTensor(&sample) { x in try call(ds_session_step(session, e, x, z, x, nil, 0)) }
                }
            }
        }
        for index in 0..<2 {
            try step(first, &x, index)
            try step(second, &y, index)
        }
        #expect(x == y)
        let saved = try bytes { ds_session_save(first, $0, $1, $2) }
        try call(ds_session_restore_like(second, saved, saved.count, &restored))
        try step(first, &x, 2)
        try step(restored, &y, 2)
        #expect(x.map(\.bitPattern) == y.map(\.bitPattern))
    }
}
