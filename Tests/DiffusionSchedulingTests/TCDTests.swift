// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// TCD beyond the goldens: diffusers' own constants, its timesteps, coefficients, draws, refusals.
@Suite struct TCDTests {
    static func make(_ change: (inout TCDConfiguration) -> Void = { _ in }) throws -> TCDScheduler {
        var configuration = TCDConfiguration()
        change(&configuration)
        return try TCDScheduler(configuration)
    }

    static func options(_ change: (inout TCDConfiguration.Options) -> Void) -> TCDConfiguration.Options {
        var options = TCDConfiguration.Options()
        change(&options)
        return options
    }

    @Test func theTimestepsAreDiffusers() throws {
        let scheduler = try Self.make()
        #expect(try scheduler.plan(.count(4)).timesteps == [999, 759, 499, 259])
        let free = Self.options { $0.originalInferenceSteps = 100 }
        #expect(try scheduler.plan(.count(4), options: free).timesteps == [999, 749, 499, 249])
        let half = Self.options { $0.strength = 0.5 }
        #expect(try scheduler.plan(.timesteps([900, 700, 300, 100]), options: half).timesteps == [300, 100])
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let plan = try Self.make { $0.predictionType = .sample }.plan(.count(4)), row = plan.row(at: 1, age: 1)
        #expect(plan.timesteps[1...2] == [759, 499])
        #expect(abs(row.nextSample.noise - 0.6734798266394788) <= 1e-12)
        // The coefficients of ε and p, recovered from x's and the model output's.
        let level = NoiseLevel(alphaCumprod: try Self.make().noiseSchedule.alphaCumprod(atTimestep: 759))
        #expect(abs(row.nextSample.sample * level.noiseRate - 0.5184163320446269) <= 1e-12)
        #expect(abs(row.nextSample.modelOutput + row.nextSample.sample * level.signalRate - 0.5269434787328264) <= 1e-12)
    }

    /// diffusers' loops at η = 0.
    @Test(arguments: [(1, 0.0388952307), (10, 0.235942721)]) func meansAreUpstreams(_ count: Int, _ mean: Double) throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(.count(count), options: Self.options { $0.eta = 0 })
        var x = UpstreamTests.sample.map { Float($0) }
        for timestep in scheduler.timesteps {
            let factor = Float(timestep) / Float(timestep + 1)
            let output = x.map { $0 * factor }
            x = try scheduler.step(modelOutput: output, timestep: timestep, sample: x, batchSize: 4).nextSample
        }
        let found = UpstreamTests.mean(x.map { Double($0) })
        #expect(abs(found - mean) <= 1e-6, "\(found)")
    }

    @Test func theLastStepGivesWhatItReports() throws {
        let scheduler = try Self.make()
        let plan = try scheduler.plan(.count(4)), row = plan.row(at: 3, age: 3)
        #expect(row.nextSample == row.report && plan.reportName == "pred_noised_sample")
        #expect((0..<4).map { plan.row(at: $0, age: $0).drawCount } == [1, 1, 1, 0])
        let deterministic = try scheduler.plan(.count(4), options: Self.options { $0.eta = 0 })
        #expect((0..<4).allSatisfy { deterministic.row(at: $0, age: $0).drawCount == 0 } && !deterministic.isStochastic)
        // diffusers draws for the last of these steps, and multiplies by 0.
        let cut = try scheduler.plan(.timesteps([900, 700, 300, 100]), options: Self.options { $0.strength = 0.5 })
        #expect(cut.row(at: 1, age: 1).drawCount == 1 && !cut.row(at: 1, age: 1).needsNoise)
    }

    // MARK: Faults

    @Test func whatTCDRefuses() throws {
        let scheduler = try Self.make()
        expectInvalid("original_inference_steps", "0", allowed: "from 1") { _ = try Self.make { $0.originalInferenceSteps = 0 } }
        expectInvalid("eta", "1.5", allowed: "to 1") { _ = try scheduler.plan(.count(4), options: Self.options { $0.eta = 1.5 }) }
        expectInvalid("number of steps", "51", allowed: "from 1 to 50") { _ = try scheduler.plan(.count(51)) }
        expectInvalid("number of steps", "1", allowed: "from 1 to 0") {
            _ = try scheduler.plan(.count(1), options: Self.options { $0.strength = 0.01 })
        }
        expectInvalid("strength", "0.4", allowed: "at least 1/2") {
            _ = try scheduler.plan(.timesteps([5, 1]), options: Self.options { $0.strength = 0.4 })
        }
        expectInvalid("original_inference_steps", "50", allowed: "num_train_timesteps = 20") {
            _ = try Self.make { $0.numTrainTimesteps = 20 }.plan(.count(4))
        }
    }

    /// Plans are finite for equal levels, levels without noise and levels without signal.
    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction], [0, 0.5, 0.999999])
    func plansAreFinite(_ type: PredictionType, _ beta: Double) throws {
        for (eta, rescales) in [(0.0, true), (0.5, false), (1, true)] {
            let scheduler = try Self.make {
                ($0.numTrainTimesteps, $0.originalInferenceSteps) = (50, 25)
                $0.trainedBetas = (0..<50).map { $0 < 25 ? 0 : beta }
                ($0.predictionType, $0.rescaleBetasZeroSNR) = (type, rescales)
            }
            for count in 1...25 { _ = try scheduler.plan(.count(count), options: Self.options { $0.eta = eta }) }
        }
    }
}
