// SPDX-License-Identifier: Apache-2.0

import CKernels
import CTestSupport
import Foundation
import TestDraws
import Testing

@testable import DiffusionScheduling

/// A step of many sessions against each session's own step: no bit differs, whatever the other rows contain.
@Suite(.serialized) struct SessionRowsTests {
    /// A request and its twin, which steps on its own.
    private struct Request {
        var session: SamplingSession?
        var alone: SamplingSession
        var x: [Float]
        var aloneX: [Float]
        var guidance: Guidance?
    }

    static let elementCount = 37

    static func plans() throws -> [SamplingPlan] {
        try [
            try makeDEIS { $0.solverOrder = 3 }.plan(.count(9)),
            try makeDEIS { ($0.solverOrder, $0.thresholding, $0.dynamicThresholdingRatio) = (2, true, 0.9) }.plan(.count(4)),
            try makeDPMSolver { $0.solverOrder = 2 }.plan(.count(12)),
            try makeDPMSolver { ($0.algorithmType, $0.solverOrder) = (.sdeDPMSolverPlusPlus, 3) }.plan(.count(6)),
            try makeDPMSolver { ($0.thresholding, $0.dynamicThresholdingRatio) = (true, 0.6) }.plan(.count(5)),
            try makeDDIM { ($0.clipSample, $0.clipSampleRange) = (true, 1) }.plan(.count(7)),
            try EulerDiscreteScheduler().plan(.count(6), optionValues: ["s_churn": 2]),
            try HeunDiscreteScheduler(.init(json: #"{"clip_sample": true}"#)).plan(.count(4)),
        ] + cataloguePlans()
    }

    /// A plan of every class in the catalogue.
    static func cataloguePlans() throws -> [SamplingPlan] {
        try SchedulerCatalog.supportedClassNames.map {
            try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "\#($0)"}"#).plan(.count(5))
        }
    }

    /// 10,000 steps of random compositions: rows come, go and pause, at different steps of different plans.
    @Test func everyRowIsWhatItIsAlone() throws {
        let limits = dsk_get_limits()
        defer { dsk_set_limits(limits) }
        dsk_set_limits(dsk_limits(parallel_elements: 64, streaming_bytes: limits.streaming_bytes))
        var random = SeededGenerator("rows")
        let plans = try Self.plans(), n = Self.elementCount
        func newRequest() -> Request {
            let plan = plans.randomElement(using: &random)!
            let session = SamplingSession(plan: plan, beginIndex: plan.starts.randomElement(using: &random)!)
            let x = (0..<n).map { _ in Float.random(in: -2...2, using: &random) }
            let guidance: [Guidance?] = [nil, nil, Guidance(scale: 5), Guidance(scale: 3, rescale: 0.6)]
            return Request(session: session, alone: session, x: x, aloneX: x, guidance: guidance.randomElement(using: &random)!)
        }
        var pool = (0..<16).map { _ in newRequest() }
        for composition in 0..<TestDraws.count(10_000) {
            let members = Array((0..<pool.count).shuffled(using: &random).prefix(.random(in: 1...6, using: &random)))
            let rowCount = members.count + Int.random(in: 0...2, using: &random)
            let places = Array((0..<rowCount).shuffled(using: &random).prefix(members.count))
            var sessions = [SamplingSession?](repeating: nil, count: rowCount),
                guidance = [Guidance?](repeating: nil, count: rowCount)
            // Free rows may contain anything, and don't change.
            var x = [Float](repeating: .nan, count: rowCount * n)
            func draw() -> [Float] { (0..<rowCount * n).map { _ in Float.random(in: -1...1, using: &random) } }
            let c = draw(), u = draw(), noise = draw()
            for (member, place) in zip(members, places) {
                swap(&sessions[place], &pool[member].session)
                guidance[place] = pool[member].guidance
                x.replaceSubrange(place * n..<(place + 1) * n, with: pool[member].x)
            }
            try SamplingSession.step(
                rows: &sessions, modelOutput: c, unconditional: u, guidance: guidance, sample: &x, noise: noise,
                maximumThreads: [1, 1, 2, 7].randomElement(using: &random)!)
            for (member, place) in zip(members, places) {
                let range = place * n..<(place + 1) * n
                var request = pool[member]
                swap(&sessions[place], &request.session)
                request.x = Array(x[range])
                let (ownC, ownU, ownNoise) = (Array(c[range]), Array(u[range]), Array(noise[range]))
                if let guidance = request.guidance {
                    try request.alone.step(
                        conditional: ownC, unconditional: ownU, guidance: guidance, sample: &request.aloneX, noise: ownNoise)
                } else {
                    try request.alone.step(modelOutput: ownC, sample: &request.aloneX, noise: ownNoise)
                }
                guard bits(request.x) == bits(request.aloneX), request.session?.stepIndex == request.alone.stepIndex else {
                    Issue.record("composition \(composition), row \(place) of \(rowCount), step \(request.alone.stepIndex - 1)")
                    return
                }
                pool[member] = request.alone.timestep == nil ? newRequest() : request
            }
            let free = Set(0..<rowCount).subtracting(places)
            #expect(free.allSatisfy { x[$0 * n..<($0 + 1) * n].allSatisfy(\.isNaN) }, "a free row was written")
        }
    }

    /// Many threads with their own sessions, all on one plan.
    @Test func manyThreadsShareAPlan() throws {
        let plan = try makeDPMSolver { $0.solverOrder = 3 }.plan(.count(4))
        @Sendable func run(_ seed: Int) -> [Float] {
            var session = SamplingSession(plan: plan)
            session.maximumThreads = 1
            var x = (0..<8).map { Float(($0 * 31 + seed) % 17) / 8 - 1 }
            while session.timestep != nil {
                let e = x.map { $0 * 0.5 - 0.1 }
                do { try session.step(modelOutput: e, sample: &x) } catch { return [] }
            }
            return x
        }
        let expected = (0..<1000).map(run)
        nonisolated(unsafe) var faults = [Int](repeating: 0, count: 64)
        faults.withUnsafeMutableBufferPointer { faults in
            nonisolated(unsafe) let faults = faults
            DispatchQueue.concurrentPerform(iterations: 64) { thread in
                for seed in 0..<1000 where bits(run(seed)) != bits(expected[seed]) { faults[thread] += 1 }
            }
        }
        #expect(faults.allSatisfy { $0 == 0 })
    }

    // MARK: Errors

    /// An error names its row, and no row changes.
    @Test func errorsNameTheRowAndChangeNothing() throws {
        let plans = try Self.plans()
        let begun = { () throws -> SamplingSession in
            var session = SamplingSession(plan: plans[0])
            var x: [Double] = [1, 2]
            try session.step(modelOutput: [0, 0], sample: &x)
            return session
        }
        var finished = SamplingSession(plan: plans[0], beginIndex: plans[0].stepCount - 1)
        var y: [Float] = [1, 2]
        try finished.step(modelOutput: [0, 0], sample: &y)
        let fresh = SamplingSession(plan: plans[2]), stochastic = SamplingSession(plan: plans[3])
        let cases: [(SamplingSession?, [Guidance?], SchedulerError)] = [
            (finished, [], .row(2, .stepPastEnd(stepCount: 9))),
            (stochastic, [], .row(2, .missingNoise(step: 0))),
            (try begun(), [], .row(2, .wrongElementType(argument: "sample", type: "float32", expected: "float64"))),
            (
                fresh, [nil, nil, Guidance(scale: 2)],
                .row(2, .invalidValue(key: "guidance", value: "given", allowed: "left out if there is no unconditional output"))
            ),
            (fresh, [nil], .invalidValue(key: "number of guidances", value: "1", allowed: "0 or the number of rows, 3")),
        ]
        for (session, guidance, expected) in cases {
            var sessions: [SamplingSession?] = [fresh, nil, session], x: [Float] = [1, 2, 3, 4, 5, 6]
            let actual = fault {
                try SamplingSession.step(rows: &sessions, modelOutput: [1, 1, 1, 1, 1, 1], guidance: guidance, sample: &x)
            }
            #expect(actual == expected)
            #expect(
                x == [1, 2, 3, 4, 5, 6] && sessions[0]?.stepIndex == 0 && sessions[0]?.elementType == nil && sessions[1] == nil)
            #expect(sessions[2]?.stepIndex == session?.stepIndex)
        }
        #expect("\(SchedulerError.row(2, .stepPastEnd(stepCount: 9)))".hasPrefix("row 2: all 9 steps"))
    }

    @Test func wrongCounts() throws {
        let fresh = SamplingSession(plan: try Self.plans()[2])
        var sessions: [SamplingSession?] = [fresh, fresh], none: [SamplingSession?] = []
        var x: [Float] = [1, 2, 3]
        #expect(
            fault { try SamplingSession.step(rows: &sessions, modelOutput: [1, 1, 1], sample: &x) }
                == .wrongElementCount(argument: "sample", count: 3, expected: "a multiple of the batch size 2"))
        #expect(
            fault { try SamplingSession.step(rows: &none, modelOutput: [1, 1, 1], sample: &x) }
                == .wrongElementCount(argument: "sample", count: 3, expected: "0, because there are no rows"))
        var empty: [Float] = []
        try SamplingSession.step(rows: &none, modelOutput: [], sample: &empty)
        try SamplingSession.step(rows: &sessions, modelOutput: [], sample: &empty)
        #expect(sessions.map { $0?.stepIndex } == [1, 1])
    }
}

extension SamplingPlan {
    /// The evaluations at which a run may begin.
    var starts: [Int] { timesteps.indices.filter(isStart) }
}
