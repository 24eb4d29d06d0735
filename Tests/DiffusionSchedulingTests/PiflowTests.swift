// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Piflow beyond the goldens: each weight against the policy itself, sums of weights, the plan's JSON, refusals.
@Suite struct PiflowTests {
    static func make(_ change: (inout PiflowConfiguration) -> Void = { _ in }) throws -> PiflowScheduler {
        var configuration = PiflowConfiguration()
        change(&configuration)
        return try PiflowScheduler(configuration)
    }

    /// The policy, followed step by step: the change of the sample 0 if only prediction `unit` is 1, and all others are 0.
    private func change(of configuration: PiflowConfiguration, plan: SamplingPlan, step: Int, unit: Int) -> Double {
        let count = plan.stepCount, shift = configuration.shift
        func level(_ raw: Double) -> Double { shift * raw / (1 + (shift - 1) * raw) }
        func raw(_ step: Int) -> Double {
            step == count ? configuration.eps : 1 - Double(step) / (Double(count) - 1 + configuration.finalStepSizeScale)
        }
        let begin = raw(step), end = raw(step + 1), sigma = level(begin)
        let substeps = max(1, ((begin - end) * Double(configuration.numPolicySubsteps)).rounded(.toNearestOrEven))
        var x = 0.0
        for substep in 0..<Int(substeps) {
            let share = Double(substep) / substeps, time = begin + share * (end - begin)
            // The clean samples between which the policy interpolates are 0, but for the one of the unit.
            let place = (1 - share) * Double(configuration.nGrid - 1)
            let clean = -sigma * max(0, 1 - abs(place - Double(unit)))
            let next = level(begin + (share + 1 / substeps) * (end - begin))
            x += (next - level(time)) * (x - clean) / max(level(time), configuration.eps)
        }
        return x
    }

    @Test(arguments: [(1, 10, 5.0, 0.5), (4, 10, 5.0, 0.5), (3, 2, 1.0, 1.0), (7, 5, 12.0, 0.1)])
    func weightsAreThePolicys(count: Int, outputs: Int, shift: Double, last: Double) throws {
        let scheduler = try Self.make { ($0.nGrid, $0.shift, $0.finalStepSizeScale) = (outputs, shift, last) }
        let plan = try scheduler.plan(.count(count))
        for (index, weights) in plan.outputWeights.enumerated() {
            let row = plan.row(at: index, age: 0)
            #expect(row.nextSample.sample == 1 && weights.count == outputs)
            for (unit, weight) in weights.enumerated() {
                let expected = change(of: scheduler.configuration, plan: plan, step: index, unit: unit)
                // The plan's levels are rounded to float32.
                #expect(abs(row.nextSample.modelOutput * weight - expected) <= 1e-6, "step \(index), output \(unit)")
            }
        }
    }

    /// A model that predicts one velocity for all times is followed on a straight line.
    @Test func weightsSumToOne() throws {
        for count in [1, 2, 4, 50, 1000] {
            let plan = try Self.make().plan(.count(count))
            #expect(plan.outputWeights.count == count)
            for (index, weights) in plan.outputWeights.enumerated() {
                #expect(abs(weights.reduce(0, +) - 1) <= 1e-15 && weights.allSatisfy { $0 >= 0 })
                let target = index + 1 < count ? plan.sigmas[index + 1] : 5e-6
                #expect(abs(plan.row(at: index, age: 0).nextSample.modelOutput - (target - plan.sigmas[index])) <= 1e-6)
            }
        }
    }

    @Test(arguments: [1e-30, 1e30]) func extremeShiftsGiveWeights(shift: Double) throws {
        for eps in [1e-30, 1e-6, 1] {
            let plan = try Self.make { ($0.shift, $0.eps) = (shift, eps) }.plan(.count(4))
            for (index, weights) in plan.outputWeights.enumerated() {
                #expect(abs(weights.reduce(0, +) - 1) <= 1e-15, "eps \(eps), step \(index)")
            }
        }
    }

    @Test func planJSONHasTheWeights() throws {
        let plan = try Self.make().plan(.count(4)), again = try SamplingPlan(json: plan.json)
        #expect(again == plan && again.outputWeights == plan.outputWeights)
        #expect(try FlowMatchEulerDiscreteScheduler().plan(.count(4)).outputWeights.isEmpty)
    }

    /// Levels of one's own, which have the plan's bits, give the plan's rows.
    @Test func levelsOfOnesOwnAreTaken() throws {
        let scheduler = try Self.make(), plan = try scheduler.plan(.count(4))
        let own = try scheduler.configuration.plan(on: plan.grid, options: NoRunOptions())
        for (a, b) in zip(own.outputWeights.joined(), plan.outputWeights.joined()) { #expect(abs(a - b) <= 1e-6) }
    }

    @Test func whatIsRefused() throws {
        for (key, value, allowed) in [
            ("n_grid", "1", "from 2 to 100"), ("n_grid", "101", "from 2 to 100"), ("eps", "0.0", "from 1e-30 to 1"),
            ("final_step_size_scale", "0.0", "greater than 0 and at most 1"), ("num_policy_substeps", "0", "from 1 to 1000000"),
            ("shift", "0.0", "from 1e-30 to 1e30"),
        ] {
            expectInvalid(key, value, allowed: allowed) {
                _ = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "PiflowScheduler", "\#(key)": \#(value)}"#)
            }
        }
        #expect(throws: SchedulerError.self) { try Self.make().plan(.sigmas([1, 0.5])) }
        #expect(throws: SchedulerError.self) { try Self.make().plan(.count(4, mu: 1)) }
        let ascending = TimestepGrid(timesteps: [500, 900], exactSigmas: [0.5, 0.9, 0], process: .flow)
        expectInvalid("sigmas[1]", "0.9", allowed: "at most 0.5, the one before") {
            _ = try Self.make().configuration.plan(on: ascending, options: NoRunOptions())
        }
    }

    @Test func weightsOfPlansAreChecked() throws {
        let plan = try Self.make().plan(.count(2)), rows = (0..<2).map { [plan.row(at: $0, age: 0)] }
        func make(_ weights: [[Double]]) throws(SchedulerError) {
            _ = try SamplingPlan(grid: plan.grid, outputWeights: weights, rows: rows)
        }
        expectInvalid("number of output weights", "1", allowed: "the number of timesteps, 2") { try make([[0.5, 0.5]]) }
        expectInvalid("number of model outputs", "1", allowed: "from 2 to 100") { try make([[1], [1]]) }
        expectInvalid("number of output weights of evaluation 1", "3", allowed: "2") { try make([[0.5, 0.5], [1, 0, 0]]) }
        #expect(throws: SchedulerError.unrepresentablePlan(step: 1)) { try make([[0.5, 0.5], [.nan, 1]]) }
    }
}
