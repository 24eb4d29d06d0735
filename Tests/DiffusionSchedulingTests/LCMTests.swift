// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// LCM beyond the goldens: diffusers' own constants, its timesteps, the last step, its report, refusals.
@Suite struct LCMTests {
    static func make(_ change: (inout LCMConfiguration) -> Void = { _ in }) throws -> LCMScheduler {
        var configuration = LCMConfiguration()
        change(&configuration)
        return try LCMScheduler(configuration)
    }

    @Test(
        arguments: [
            (1, 50, 1, [999.0]), (2, 50, 1, [999, 499]), (4, 50, 1, [999, 759, 499, 259]),
            (8, 50, 1, [999, 879, 759, 639, 499, 379, 259, 139]), (4, 100, 1, [999, 749, 499, 249]),
            (4, 100, 0.5, [499, 379, 249, 129]),
        ] as [(Int, Int, Double, [Double])])
    func theTimestepsAreDiffusers(_ count: Int, _ original: Int, _ strength: Double, _ timesteps: [Double]) throws {
        let scheduler = try Self.make()
        #expect(try scheduler.plan(.count(count), originalInferenceSteps: original, strength: strength).timesteps == timesteps)
        let configured = try Self.make { $0.originalInferenceSteps = original }
        #expect(try configured.plan(.count(count), strength: strength).timesteps == timesteps)
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let plan = try Self.make { $0.clipSample = true }.plan(.count(4))
        let row = plan.row(at: 1, age: 1), report = try #require(row.report)
        #expect(abs(report.sample - 4.3396675e-09) <= 1e-15)
        #expect(abs(report.prediction - 0.99999999783) <= 1e-11)
        #expect(abs(row.nextSample.prediction - 0.5269434787328264) <= 1e-8)
        #expect(abs(row.nextSample.noise - 0.8499003295804439) <= 1e-14)
        #expect(plan.reportName == "denoised")
    }

    /// diffusers' loops with a generator of seed 0.
    @Test(arguments: [(1, 0.0243615601), (10, 0.257502139)]) func meansAreUpstreams(_ count: Int, _ mean: Double) throws {
        var scheduler = try Self.make()
        let found = try UpstreamTests.meanWithNoise(&scheduler, steps: count)
        #expect(abs(found - mean) <= 1e-5, "\(found)")
    }

    @Test func theLastStepGivesWhatItReports() throws {
        let scheduler = try Self.make()
        var options = LCMConfiguration.Options()
        options.strength = 0.5
        // diffusers adds noise in the last of these steps.
        for plan in [
            try scheduler.plan(.count(4)), try scheduler.plan(.timesteps([900, 700, 300, 100]), options: options),
        ] {
            let last = plan.stepCount - 1, row = plan.row(at: last, age: last)
            #expect(row.nextSample == row.report && row.drawCount == 0)
            #expect((0..<last).allSatisfy { plan.row(at: $0, age: $0).drawCount == 1 })
        }
        #expect(try scheduler.plan(.timesteps([900, 700, 300, 100]), options: options).timesteps == [300, 100])
    }

    @Test func theBoundaryHoldsTheSampleAtTimestepZero() throws {
        let plan = try Self.make().plan(.timesteps([500, 0]))
        #expect(plan.row(at: 1, age: 1).nextSample == Combination(.sample))
        // The model output drops out without scaling, and the sample remains.
        let unscaled = try Self.make { $0.timestepScaling = 0 }.plan(.count(4))
        #expect(unscaled.row(at: 3, age: 3).nextSample == Combination(.sample))
    }

    @Test func velocityAndNoiseAreThoseOfTheTrainingTimestep() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(4)
        let alpha = scheduler.noiseSchedule.alphasCumprod[333]
        let (signal, noise) = (alpha.squareRoot(), (1 - alpha).squareRoot())
        #expect(try scheduler.getVelocity(sample: [2.0], noise: [3], timesteps: [333]) == [3 * signal - 2 * noise])
        #expect(abs(try scheduler.addNoise([3.0], to: [2], timesteps: [333])[0] - (2 * signal + 3 * noise)) <= 1e-15)
    }

    // MARK: Faults

    @Test func whatLCMRefuses() throws {
        expectInvalid("original_inference_steps", "0", allowed: "from 1") { _ = try Self.make { $0.originalInferenceSteps = 0 } }
        expectInvalid("timestep_scaling", "-1.0", allowed: "from 0") { _ = try Self.make { $0.timestepScaling = -1 } }
        let scheduler = try Self.make()
        expectInvalid("number of steps", "51", allowed: "rounded down: 50") { _ = try scheduler.plan(.count(51)) }
        expectInvalid("number of steps", "26", allowed: "rounded down: 25") { _ = try scheduler.plan(.count(26), strength: 0.5) }
        expectInvalid("number of steps", "1", allowed: "rounded down: 0") { _ = try scheduler.plan(.count(1), strength: 0.01) }
        expectInvalid("strength", "1.5", allowed: "at most 1") { _ = try scheduler.plan(.count(4), strength: 1.5) }
        expectInvalid("strength", "0.4", allowed: "at least 1/2") { _ = try scheduler.plan(.timesteps([5, 1]), strength: 0.4) }
        expectInvalid("original_inference_steps", "1001", allowed: "num_train_timesteps = 1000") {
            _ = try scheduler.plan(.count(4), originalInferenceSteps: 1001, strength: 1)
        }
        expectInvalid("original_inference_steps", "50", allowed: "num_train_timesteps = 20") {
            _ = try Self.make { $0.numTrainTimesteps = 20 }.plan(.count(4))
        }
        #expect(throws: SchedulerError.unsupportedOperation("step outside of a run", className: "LCMScheduler")) {
            try scheduler.row(at: 999)
        }
    }

    /// Betas of every kind: equal levels, levels without noise and levels without signal.
    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction], [0, 0.5, 0.999999])
    func plansAreFinite(_ type: PredictionType, _ beta: Double) throws {
        for (clips, rescales, scaling) in [(true, true, 10), (false, true, 1e100), (false, false, 0.0)] {
            let scheduler = try Self.make {
                ($0.numTrainTimesteps, $0.originalInferenceSteps) = (50, 25)
                $0.trainedBetas = (0..<50).map { $0 < 25 ? 0 : beta }
                ($0.predictionType, $0.clipSample, $0.rescaleBetasZeroSNR, $0.timestepScaling) = (type, clips, rescales, scaling)
            }
            for count in 1...25 { _ = try scheduler.plan(.count(count)) }
        }
    }
}
