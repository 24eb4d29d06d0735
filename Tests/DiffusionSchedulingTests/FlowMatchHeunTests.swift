// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Heun's method for flow matching beyond the goldens: diffusers' means, its levels, churn, begins, refusals.
@Suite struct FlowMatchHeunTests {
    static func make(shift: Double = 1) throws -> FlowMatchHeunDiscreteScheduler {
        var configuration = FlowMatchHeunDiscreteConfiguration()
        configuration.shift = shift
        return try FlowMatchHeunDiscreteScheduler(configuration)
    }

    @Test func theLevelsAreTwiceShifted() throws {
        let plan = try Self.make(shift: 3).plan(.count(4))
        let expected: [Double] = [1, 0.857692301, 0.857692301, 0.602150559, 0.602150559, 0.008928572, 0.008928572, 0]
        #expect(plan.stepCount == 7 && zip(plan.sigmas, expected).allSatisfy { abs($0 - $1) <= 1e-8 })
        #expect(plan.steps == [0, 0, 1, 1, 2, 2, 3] && plan.slotCount == 1)
        let single = try Self.make().plan(.count(1))
        #expect(single.stepCount == 1 && single.slotCount == 0)
    }

    @Test func theMeanIsUpstreams() throws {
        var scheduler = try Self.make(shift: 3)
        try scheduler.setTimesteps(10)
        var x = UpstreamTests.sample.map { Float($0) }
        for timestep in scheduler.timesteps {
            let factor = Float(timestep) / Float(timestep + 1)
            let output = x.map { $0 * factor }
            x = try scheduler.step(modelOutput: output, timestep: timestep, sample: x, batchSize: 4).nextSample
        }
        let mean = UpstreamTests.mean(x.map { Double($0) })
        #expect(abs(mean - 0.187707543) <= 1e-5, "\(mean)")
    }

    @Test func churnDrawsInBothEvaluations() throws {
        var options = FlowMatchHeunDiscreteConfiguration.Options()
        (options.sChurn, options.sTmax) = (7, 0.9)
        let plan = try Self.make().plan(.count(4), options: options)
        #expect((0..<7).map { plan.row(at: $0, age: $0).drawCount } == [0, 0, 1, 1, 1, 1, 1])
        #expect((0..<7).map { plan.needsNoise(at: $0, age: $0) } == [false, false, true, false, true, false, true])
        // γ = √2 − 1, its maximum.
        let first = plan.row(at: 2, age: 2).nextSample, sigma = plan.sigmas[2]
        #expect(abs(first.noise - sigma) <= 1e-15)
        #expect(abs(first.modelOutput - (plan.sigmas[3] / 2.0.squareRoot() - sigma)) <= 1e-15)
    }

    @Test func whatItRefuses() throws {
        expectInvalid("shift", "0.0", allowed: "from 1e-30") { _ = try Self.make(shift: 0) }
        let scheduler = try Self.make()
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try scheduler.plan(.sigmas([1, 0.5])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try scheduler.plan(.count(4, mu: 1)) }
        var options = FlowMatchHeunDiscreteConfiguration.Options()
        options.sChurn = -1
        expectInvalid("s_churn", "-1.0", allowed: "at least 0") { _ = try scheduler.plan(.count(4), options: options) }
        let plan = try scheduler.plan(.count(4))
        expectInvalid("begin_index", "3", allowed: "such as 2") { try plan.requireStart(3, "begin_index") }
        for shift in [1e-30, 1e30] { _ = try Self.make(shift: shift).plan(.count(50)) }
    }
}
