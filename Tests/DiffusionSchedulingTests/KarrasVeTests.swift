// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The stochastic sampler of Karras et al. beyond the goldens: where its noise goes, runs that begin late, refusals.
@Suite struct KarrasVeTests {
    static func make(_ change: (inout KarrasVeConfiguration) -> Void = { _ in }) throws -> KarrasVeScheduler {
        var configuration = KarrasVeConfiguration()
        change(&configuration)
        return try KarrasVeScheduler(configuration)
    }

    /// Levels are squares, evenly spaced by their quotient, and those from s_min to s_max are asked about raised.
    @Test func levelsAreRaisedBetweenTheEnds() throws {
        let plan = try Self.make().plan(.count(4)), raised = 2.0.squareRoot()
        #expect(plan.stepCount == 7 && plan.starts == [0, 2, 4, 6])
        #expect(zip(plan.timesteps, plan.sigmas).allSatisfy { abs($0 - $1) <= 0x1p-23 * $1 })
        let expected = [1e4, 34.19951, 34.19951 * raised, 0.1169607, 0.1169607 * raised, 4e-4, 4e-4, 0]
        #expect(zip(plan.sigmas, expected).allSatisfy { abs($0 - $1) <= 1e-6 * max($1, 1) }, "\(plan.sigmas)")
    }

    /// A row holds the noise of the step after it: noise of the deviation that leads from τ to ς̂.
    @Test func theStepBeforeAddsTheNoise() throws {
        let plan = try Self.make().plan(.count(4))
        for index in 0..<7 {
            let row = plan.row(at: index, age: index), (level, next) = (plan.sigmas[index], plan.sigmas[index + 1])
            #expect(row.drawCount == (index == 0 || index % 2 == 1 ? 1 : 0))
            let variance = index % 2 == 1 ? 1.007 * 1.007 * (next * next - level * level) : 0
            #expect(abs(row.nextSample.noise * row.nextSample.noise - variance) <= 1e-12 * max(variance, 1))
        }
    }

    /// The noise of the first step and that of the start are one, of the sum of their variances.
    @Test func theFirstStepsNoiseIsPartOfTheStart() throws {
        #expect(try Self.make().plan(.count(10)).initNoiseSigma == 100)
        let plan = try Self.make { ($0.sMax, $0.sigmaMax, $0.sNoise, $0.sChurn) = (1e6, 10, 1, 3) }.plan(.count(10))
        // γ = 0.3 at the level 100: 10² + 100² (1.3² − 1).
        #expect(abs(plan.initNoiseSigma - 7000.0.squareRoot()) <= 1e-10 && plan.sigmas[0] == 130)
    }

    /// A model that predicts the data at every level: each step goes straight towards the data, and the last one ends there.
    @Test func aPerfectModelEndsAtTheData() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(6)
        let data = [0.25, -1.5, 3], noise = [1.0, -0.5, 0.75]
        var x = noise.map { $0 * scheduler.initNoiseSigma }
        for (index, timestep) in scheduler.timesteps.enumerated() {
            let level = try #require(scheduler.plan).sigmas[index]
            let e = zip(data, x).map { ($0 - $1) / level }
            try scheduler.step(modelOutput: e, timestep: timestep, sample: &x, noise: noise)
        }
        #expect(zip(x, data).allSatisfy { abs($0 - $1) <= 1e-9 })
    }

    /// A run begins late at a sample with as much noise as the model is told.
    @Test func aRunMayBeginAtAStep() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(4)
        let told = scheduler.timesteps[2]
        let noisy = try scheduler.addNoise([1.0], to: [2.0], timesteps: [told])
        #expect(abs(noisy[0] - (2 + told)) <= 1e-5)
        try scheduler.setBeginIndex(2)
        expectInvalid("begin index", "3", allowed: "such as 2") { try scheduler.setBeginIndex(3) }
    }

    @Test func aSingleStepLeadsFromTheGreatestLevelToTheData() throws {
        let plan = try Self.make().plan(.count(1)), row = plan.row(at: 0, age: 0)
        #expect(plan.sigmas == [1e4, 0] && row.nextSample == row.prediction && row.drawCount == 1 && plan.slotCount == 0)
    }

    /// Levels of the caller's are ς̂ and τ in turn.
    @Test func levelsOfTheCallersAreTakenAsTheyAre() throws {
        func plan(_ sigmas: [Double]) throws -> SamplingPlan {
            try Self.make { $0.sNoise = 1 }.plan(
                on: TimestepGrid(timesteps: Array(sigmas.dropLast()), sigmas: sigmas, process: .varianceExploding))
        }
        let row = try plan([10, 3, 5, 0]).row(at: 1, age: 1)
        #expect(row.nextSample.noise == 4 && row.nextSample.modelOutput == 3.5)
        expectInvalid("sigmas[2]", "2.0", allowed: "at least 3.0") { _ = try plan([10, 3, 2, 0]) }
    }

    @Test func whatIsRefused() throws {
        expectInvalid("sigma_min", "0.0", allowed: "from 1e-18") { _ = try Self.make { $0.sigmaMin = 0 } }
        expectInvalid("sigma_min", "101.0", allowed: "sigma_max = 100.0") { _ = try Self.make { $0.sigmaMin = 101 } }
        expectInvalid("sigma_max", "inf", allowed: "1e18") { _ = try Self.make { $0.sigmaMax = .infinity } }
        expectInvalid("s_noise", "-1.0", allowed: "from 0") { _ = try Self.make { $0.sNoise = -1 } }
        expectInvalid("s_churn", "-1.0", allowed: "at least 0") { _ = try Self.make { $0.sChurn = -1 } }
        expectInvalid("s_min", "nan", allowed: "a number") { _ = try Self.make { $0.sMin = .nan } }
        expectInvalid("s_max", "nan", allowed: "a number") { _ = try Self.make { $0.sMax = .nan } }
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try Self.make().plan(.sigmas([3, 1])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try Self.make().plan(.count(4, mu: 1)) }
        expectInvalid("timestep", "-1.0", allowed: "at least 0") { _ = try Self.make().trainingLevel(atTimestep: -1) }
    }
}
