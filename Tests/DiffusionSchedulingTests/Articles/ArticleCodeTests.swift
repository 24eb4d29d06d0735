// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Testing

/// The code of the articles "Run a plan elsewhere" and "Serve many requests", which `make check-docs` compares with them.
@Suite struct ArticleCodeTests {
    /// A stand-in for a network: as many numbers as it is given.
    func model(_ samples: [Float], _ timesteps: [Double]) -> [Float] {
        samples.indices.map { samples[$0] * Float(timesteps[$0 / (samples.count / timesteps.count)] / 1000) }
    }

    func plan(_ count: Int = 20) throws -> SamplingPlan { try DPMSolverMultistepScheduler().plan(.count(count)) }

    // MARK: Run a plan elsewhere

    @Test func aPlanIsText() throws {
        let scheduler = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "DPMSolverMultistepScheduler"}"#)
        let plan = try scheduler.plan(.count(20))
        let text = plan.json.text
        let again = try SamplingPlan(jsonText: text)
        #expect(again == plan)
    }

    @Test func theTableIsTheRun() throws {
        let plan = try plan(), start: [Float] = [1, -2, 0.5, 3]
        let result = try run(plan, from: start)
        var session = SamplingSession(plan: plan), sample = start
        while let timestep = session.timestep {
            try session.step(modelOutput: model(sample, [timestep]), sample: &sample)
        }
        #expect(zip(result, sample).allSatisfy { abs($0 - $1) <= 1e-4 * max(1, abs($1)) })
    }

    /// Runs a plan with arrays in the place of a device's tensors.
    func run(_ plan: SamplingPlan, from start: [Float]) throws -> [Float] {
        var x = start, slots: [Stream: [Float]] = [:]
        for index in plan.timesteps.indices {
            let input = x.map { $0 * Float(plan.inputScales[index]) }
            let e = model(input, [plan.timesteps[index]])
            let row = plan.row(at: index, age: index)
            var tensors = slots
            tensors[.sample] = x
            tensors[.modelOutput] = e

            func total(_ combination: Combination) -> [Float] {
                combination.terms.reduce([Float](repeating: 0, count: x.count)) { sum, term in
                    zip(sum, tensors[term.stream]!).map { $0 + Float(term.coefficient) * $1 }
                }
            }

            tensors[.prediction] = total(row.prediction)
            let stored = row.stores.map { (Stream.slot($0.slot), total($0.value)) }
            x = total(row.nextSample)
            for (slot, tensor) in stored { slots[slot] = tensor }
        }
        return x
    }

    // MARK: Serve many requests

    @Test func rowsComeAndGo() throws {
        let plan = try plan(), perRow = 4
        var batch = [Float](repeating: 0.25, count: 2 * perRow)
        var sessions: [SamplingSession?] = [SamplingSession(plan: plan), nil]
        var finished = 0
        var waiting = [SamplingSession(plan: try self.plan(5)), SamplingSession(plan: plan, beginIndex: 12)]
        while sessions.contains(where: { $0 != nil }) || !waiting.isEmpty {
            for row in sessions.indices where sessions[row] == nil && !waiting.isEmpty {
                sessions[row] = waiting.removeFirst()
            }
            let timesteps = sessions.map { $0?.timestep ?? 0 }
            let output = model(batch, timesteps)
            var samples = batch.mutableSpan
            try SamplingSession.step(rows: &sessions, modelOutput: output.span, sample: &samples)
            for row in sessions.indices where sessions[row] != nil && sessions[row]?.timestep == nil {
                sessions[row] = nil
                finished += 1
            }
        }
        #expect(finished == 3)
    }

    @Test func aSessionCanBePutAside() throws {
        let plan = try plan(), start: [Float] = [1, -2, 0.5, 3]
        var session = SamplingSession(plan: plan), sample = start
        for _ in 0..<7 { try session.step(modelOutput: model(sample, [session.timestep!]), sample: &sample) }
        let bytes = session.savedState()
        var resumed = try SamplingSession(plan: plan, restoring: bytes)
        #expect(resumed.timestep == session.timestep)
        var other = sample
        try session.step(modelOutput: model(sample, [session.timestep!]), sample: &sample)
        try resumed.step(modelOutput: model(other, [resumed.timestep!]), sample: &other)
        #expect(sample == other)
    }

    @Test func guidanceIsAPartOfTheStep() throws {
        let plan = try plan()
        var session = SamplingSession(plan: plan), sample: [Float] = [1, -2, 0.5, 3]
        let conditional: [Float] = [0.5, 0, 1, 2], unconditional: [Float] = [0, 1, 1, 2]
        let guidance = Guidance(scale: 7.5, rescale: 0.7)
        try session.step(conditional: conditional, unconditional: unconditional, guidance: guidance, sample: &sample)
        #expect(session.stepIndex == 1)
    }
}
