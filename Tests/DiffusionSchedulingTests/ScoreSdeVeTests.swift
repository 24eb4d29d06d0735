// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The predictor and corrector of score models beyond the goldens: levels, steps, the law of their results, refusals.
@Suite struct ScoreSdeVeTests {
    static func make(_ change: (inout ScoreSdeVeConfiguration) -> Void = { _ in }) throws -> ScoreSdeVeScheduler {
        var configuration = ScoreSdeVeConfiguration()
        change(&configuration)
        return try ScoreSdeVeScheduler(configuration)
    }

    @Test func aStepCorrectsAndThenPredicts() throws {
        let plan = try Self.make { $0.correctSteps = 2 }.plan(.count(3)), middle = (1348 * 0.01).squareRoot()
        #expect(plan.steps == [0, 0, 0, 1, 1, 1, 2, 2, 2] && plan.isStart(3) && !plan.isStart(4))
        // Corrections lead from a level to itself.
        let levels = [1348, 1348, 1348, middle, middle, middle, 0.01, 0.01, 0.01, 0]
        #expect(zip(plan.sigmas, levels).allSatisfy { abs($0 - $1) <= Tolerance.sigma * $1 })
        #expect(plan.initNoiseSigma == 1348 && plan.reportName == "prev_sample_mean")
        for index in 0..<9 {
            let row = plan.row(at: index, age: 0), level = plan.sigmas[index], next = plan.sigmas[index + 1]
            let isCorrection = index % 3 < 2,
                size = isCorrection ? 2 * (0.15 * level) * (0.15 * level) : level * level - next * next
            #expect(abs(row.nextSample.modelOutput - size) <= 1e-12 * size, "evaluation \(index)")
            let variance = row.nextSample.noise * row.nextSample.noise, expected = isCorrection ? 2 * size : size
            #expect(abs(variance - expected) <= 1e-12 * expected, "evaluation \(index)")
            #expect(row.report == Combination(sample: 1, modelOutput: row.nextSample.modelOutput) && row.drawCount == 1)
        }
    }

    /// The model is told levels at float32 shares of the range, which end at `sampling_eps`.
    @Test func theModelIsToldTheLevelsOfTheShares() throws {
        let plan = try Self.make { ($0.samplingEps, $0.correctSteps) = (0.25, 0) }.plan(.count(4))
        let told = [1, 0.75, 0.5, 0.25].map { 0.01 * power(134_800, $0) }
        #expect(zip(plan.timesteps, told).allSatisfy { abs($0 - $1) <= 0x1p-21 * $1 }, "\(plan.timesteps)")
        // The places of the shares among the four levels are 3, 2.25, 1.5 and 0.75.
        let places = plan.sigmas.dropLast().map { ((logarithm($0) - logarithm(0.01)) / logarithm(134_800) * 3).rounded() }
        #expect(places == [3, 2, 1, 0])
    }

    /// Where the data are a point and the score is exact, the variance of predictions exceeds that of their level by a share of order 1.
    @Test func predictionsTendToTheVarianceOfTheirLevels() throws {
        func excess(_ count: Int) throws -> Double {
            let plan = try Self.make { $0.correctSteps = 0 }.plan(.count(count)), sigmas = plan.sigmas
            var variance = sigmas[0] * sigmas[0]
            for index in 0..<count / 2 {
                // e = −x/ς², so x' is a multiple of x plus noise.
                let row = plan.row(at: index, age: 0).nextSample, factor = 1 - row.modelOutput / (sigmas[index] * sigmas[index])
                variance = factor * factor * variance + row.noise * row.noise
            }
            return variance / (sigmas[count / 2] * sigmas[count / 2]) - 1
        }
        let (coarse, fine) = try (excess(500), excess(1000))
        #expect(fine > 0 && abs(coarse / fine - 2) < 0.1, "\(coarse), \(fine)")
    }

    /// Langevin dynamics leaves the variance of its level unchanged, to the order of the step size.
    @Test func aCorrectionKeepsTheVariance() throws {
        let plan = try Self.make { $0.snr = 0.01 }.plan(.count(10)), level = plan.sigmas[4]
        let row = plan.row(at: 4, age: 0).nextSample, factor = 1 - row.modelOutput / (level * level)
        let ratio = factor * factor + row.noise * row.noise / (level * level)
        #expect(abs(ratio - 1) <= 1e-7 && row.modelOutput > 0)
    }

    /// A correction at another level is the one of measured norms: ‖z‖/‖e‖ = 2 there.
    @Test func levelsOfTheCallersAreTakenAsTheyAre() throws {
        func plan(_ sigmas: [Double]) throws -> SamplingPlan {
            try Self.make().plan(
                on: TimestepGrid(timesteps: Array(sigmas.dropLast()), sigmas: sigmas, process: .varianceExploding))
        }
        let rows = try plan([2, 2, 1.5])
        #expect(abs(rows.row(at: 0, age: 0).nextSample.modelOutput - 2 * 0.09) <= 1e-15)
        #expect(rows.row(at: 1, age: 0).nextSample.modelOutput == 1.75)
        expectInvalid("sigmas[1]", "3.0", allowed: "at most 2.0") { _ = try plan([2, 3]) }
    }

    @Test func aRunMayBeginAtAStep() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(4)
        let noisy = try scheduler.addNoise([1.0], to: [2.0], timesteps: [scheduler.timesteps[2]])
        #expect(abs(noisy[0] - (2 + scheduler.sigmas[2])) <= 1e-12)
        try scheduler.setBeginIndex(2)
        expectInvalid("begin index", "3", allowed: "such as 2") { try scheduler.setBeginIndex(3) }
    }

    /// As in diffusers, the single level of a run of one step is the least, though the model is told the greatest.
    @Test func aSingleStepIsAtTheLeastLevel() throws {
        let plan = try Self.make { $0.correctSteps = 0 }.plan(.count(1))
        #expect(plan.sigmas[0] == Double(Float(0.01)) && plan.sigmas[1] == 0 && abs(plan.timesteps[0] - 1348) <= 1e-4)
    }

    /// Where all levels are the same, corrections still move the sample, and predictions lead nowhere.
    @Test func aSingleLevelLeavesTheCorrections() throws {
        let plan = try Self.make { ($0.sigmaMin, $0.sigmaMax) = (3, 3) }.plan(.count(2))
        #expect(plan.row(at: 0, age: 0).nextSample.noise > 0 && plan.row(at: 1, age: 0).nextSample == Combination(sample: 1))
    }

    @Test func whatIsRefused() throws {
        expectInvalid("num_train_timesteps", "0", allowed: "from 1") { _ = try Self.make { $0.numTrainTimesteps = 0 } }
        expectInvalid("snr", "-1.0", allowed: "from 0") { _ = try Self.make { $0.snr = -1 } }
        expectInvalid("sigma_min", "0.0", allowed: "from 1e-18") { _ = try Self.make { $0.sigmaMin = 0 } }
        expectInvalid("sigma_min", "2000.0", allowed: "sigma_max = 1348.0") { _ = try Self.make { $0.sigmaMin = 2000 } }
        expectInvalid("sigma_max", "inf", allowed: "1e18") { _ = try Self.make { $0.sigmaMax = .infinity } }
        expectInvalid("sampling_eps", "nan", allowed: "from 0 to 1") { _ = try Self.make { $0.samplingEps = .nan } }
        expectInvalid("correct_steps", "1001", allowed: "from 0 to 1000") { _ = try Self.make { $0.correctSteps = 1001 } }
        expectInvalid("number of steps", "50001", allowed: "at most 50000") { _ = try Self.make().plan(.count(50001)) }
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try Self.make().plan(.sigmas([3, 1])) }
        expectInvalid("timestep", "-1.0", allowed: "at least 0") { _ = try Self.make().trainingLevel(atTimestep: -1) }
    }
}
