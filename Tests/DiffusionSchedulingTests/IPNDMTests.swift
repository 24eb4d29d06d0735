// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// IPNDM beyond the goldens: diffusers' own constants, the first step, coefficients, refusals.
@Suite struct IPNDMTests {
    static func make(_ betas: [Double]? = nil) throws -> IPNDMScheduler {
        var configuration = IPNDMConfiguration()
        configuration.trainedBetas = betas
        return try IPNDMScheduler(configuration)
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let plan = try Self.make().plan(.count(10)), row = plan.row(at: 5, age: 5).nextSample
        // Levels are float32 numbers, so coefficients differ by up to 1e-6.
        #expect(abs(row.sample - 0.858661645133545) <= 1e-6 && abs(row.modelOutput + 0.38959826411479886) <= 1e-6)
        let older = [0.4825871031011092, -0.30263936974137357, 0.07361498182898275]
        for (back, coefficient) in older.enumerated() {
            #expect(abs(row.slots[(5 - back - 1) % 3] - coefficient) <= 1e-6)
        }
        #expect(plan.row(at: 5, age: 0).nextSample.slots[1] == 0)
        #expect(abs(plan.timesteps[0] - 1) <= 1e-7 && plan.sigmas[0] == Double(NoiseSchedule.greatestRatio) && plan.sigmas[10] == 0)
    }

    /// diffusers takes 0/1e-8 as the clean sample of pure noise.
    @Test func theFirstStepKeepsTheNoiseAlone() throws {
        let plan = try Self.make().plan(.count(4)), beta = plan.levels[1].noiseRate
        #expect(plan.row(at: 0, age: 0).nextSample == Combination(sample: beta))
        #expect(try Self.make().plan(.count(1)).row(at: 0, age: 0).nextSample == Combination())
    }

    /// The first loop of diffusers' own tests.
    @Test func theMeanIsUpstreams() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(10)
        var x = UpstreamTests.sample.map { Float($0) }
        for timestep in scheduler.timesteps {
            let factor = Float(timestep) / Float(timestep + 1)
            let output = x.map { $0 * factor }
            x = try scheduler.step(modelOutput: output, timestep: timestep, sample: x, batchSize: 4).nextSample
        }
        let mean = UpstreamTests.mean(x.map { Double($0) })
        #expect(abs(mean - 0.322188646) <= 1e-5, "\(mean)")
    }

    @Test func theNumberOfStepsIsThatOfTheLevels() throws {
        let scheduler = try Self.make([1, 0.8, 0.8, 0.1])
        #expect(try scheduler.plan(.count(20)).stepCount == 3)
        #expect(try scheduler.plan(.count(20)).row(at: 1, age: 0).nextSample.modelOutput == 0)
        // Levels without signal in the middle of a run, and levels without noise.
        for betas in [[1, 1, 1, 0.5], [0, 0, 1, 0], [0.5, 0, 0, 1]] {
            _ = try Self.make(betas).plan(.count(3))
        }
    }

    @Test func whatIPNDMRefuses() throws {
        expectInvalid("trained_betas[1]", "1.5", allowed: "from 0 to 1") { _ = try Self.make([1, 1.5]) }
        expectInvalid("trained_betas", "a list of 1", allowed: "2 to") { _ = try Self.make([1]) }
        expectInvalid("number of steps", "0", allowed: "from 1") { _ = try Self.make().plan(.count(0)) }
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try Self.make().plan(.timesteps([1])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try Self.make().plan(.count(4, mu: 1)) }
    }
}
