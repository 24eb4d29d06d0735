// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// CogVideoX's schedulers beyond the goldens: the shifted tables, coefficients, refusals.
@Suite struct CogVideoXTests {
    static func make(_ change: (inout CogVideoXDDIMConfiguration) -> Void = { _ in }) throws -> CogVideoXDDIMScheduler {
        var configuration = CogVideoXDDIMConfiguration()
        change(&configuration)
        return try CogVideoXDDIMScheduler(configuration)
    }

    @Test func theTablesAreDiffusers() throws {
        let table = try Self.make().noiseSchedule.alphasCumprod
        for (index, alpha) in [(0, 0.9974543276430068), (500, 0.1129116877478969), (999, 0.001558207103429585)] {
            #expect(abs(table[index] - alpha) <= 2 * alpha.ulp)
        }
        let stretched = try Self.make { $0.rescaleBetasZeroSNR = true }.noiseSchedule
        #expect(stretched.alphasCumprod[999] == 0 && abs(stretched.alphasCumprod[0] - table[0]) <= 4 * table[0].ulp)
        #expect(stretched.sigmas[999] == Double(NoiseSchedule.greatestRatio))
        // The other schedules' tables are float32 numbers.
        let cosine = try Self.make { $0.betaSchedule = .squaredcosCapV2 }.noiseSchedule.alphasCumprod
        #expect(cosine.allSatisfy { Double(Float($0)) == $0 })
        // A single level has nothing to stretch: diffusers' would be 0/0.
        let single = try Self.make { ($0.numTrainTimesteps, $0.rescaleBetasZeroSNR) = (1, true) }
        #expect(single.noiseSchedule.alphasCumprod == [table[0]])
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let scheduler = try Self.make {
            ($0.rescaleBetasZeroSNR, $0.timestepSpacing, $0.predictionType) = (true, .trailing, .sample)
        }
        let plan = try scheduler.plan(.count(10)), row = plan.row(at: 4, age: 4)
        #expect(plan.timesteps[4] == 599)
        #expect(abs(row.nextSample.sample - 0.9735406137173228) <= 1e-12)
        #expect(abs(row.nextSample.modelOutput - 0.1006224142508827) <= 1e-12)
        #expect(plan.row(at: 9, age: 9).nextSample == Combination(modelOutput: 1))
    }

    // MARK: The DPM-Solver

    static func makeDPM(_ change: (inout CogVideoXDPMConfiguration) -> Void = { _ in }) throws -> CogVideoXDPMScheduler {
        var configuration = CogVideoXDPMConfiguration()
        change(&configuration)
        return try CogVideoXDPMScheduler(configuration)
    }

    @Test func aSecondOrderStepHasTheCoefficientsOfTheReference() throws {
        var scheduler = try Self.makeDPM {
            ($0.rescaleBetasZeroSNR, $0.timestepSpacing, $0.predictionType) = (true, .trailing, .sample)
        }
        try scheduler.setTimesteps(10)
        let plan = try #require(scheduler.plan), row = plan.row(at: 4, age: 4), next = row.nextSample
        #expect(plan.timesteps[4] == 599 && row.drawCount == 2 && plan.row(at: 0, age: 0).drawCount == 1)
        #expect(abs(next.sample - 0.6573259164814949) <= 1e-12 && abs(next.modelOutput - 0.24014093195649255) <= 1e-12)
        #expect(abs(next.slots[0] + 0.0715791634207489) <= 1e-12 && abs(next.noise - 0.7013546623840633) <= 1e-12)
        // The last step is of order 1, and draws once.
        #expect(plan.row(at: 9, age: 9).nextSample == Combination(modelOutput: 1) && plan.row(at: 9, age: 9).drawCount == 1)

        // Callers who keep the prediction get the plan's row without its stores.
        var kept = try scheduler.row(at: 599, optionValues: ["timestep_back": 699])
        kept.stores = row.stores
        #expect(kept == row)
        #expect(try scheduler.row(at: 599, after: nil).nextSample == plan.row(at: 4, age: 0).nextSample)
        expectInvalid("timestep_back", "\"x\"", allowed: "a number") {
            _ = try scheduler.row(at: 599, optionValues: ["timestep_back": "x"])
        }
        #expect(throws: SchedulerError.self) { _ = try scheduler.row(at: 599, after: 1000) }
        #expect(throws: SchedulerError.self) { _ = try scheduler.row(at: 599) }
        #expect(throws: SchedulerError.self) { _ = try Self.make().row(at: 599, after: 699) }
    }

    @Test func aGeneratorKeepsPaceWithTwoDraws() throws {
        var scheduler = try Self.makeDPM(), other = scheduler
        try scheduler.setTimesteps(4)
        try other.setTimesteps(4)
        var source = TorchCPUNoise(seed: 1), counted = source, x: [Float] = [0.1, 0.2, 0.3], y = x
        for (timestep, draws) in zip(scheduler.timesteps, [1, 2, 2, 1]) {
            let output = x.map { $0 / 2 }
            try scheduler.step(modelOutput: output, timestep: timestep, sample: &x, generator: &source)
            var noise: [Float] = []
            for _ in 0..<draws { noise = counted.normals(3) }
            try other.step(modelOutput: output, timestep: timestep, sample: &y, noise: noise)
            #expect(x == y)
        }
    }

    // MARK: Faults

    @Test func whatCogVideoXRefuses() throws {
        expectInvalid("snr_shift_scale", "0.0", allowed: "from 1e-30") { _ = try Self.make { $0.snrShiftScale = 0 } }
        expectInvalid("steps_offset", "1000", allowed: "to 999") { _ = try Self.make { $0.stepsOffset = 1000 } }
        expectInvalid("number of steps", "1001", allowed: "num_train_timesteps") { _ = try Self.make().plan(.count(1001)) }
    }

    /// Plans are finite for equal levels, levels without noise and levels without signal.
    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction], [0, 0.5, 0.999999])
    func plansAreFinite(_ type: PredictionType, _ beta: Double) throws {
        for (scale, rescales, isOne) in [(3.0, true, true), (1e-30, false, false), (1e30, true, false)] {
            let scheduler = try Self.make {
                ($0.numTrainTimesteps, $0.snrShiftScale, $0.setAlphaToOne) = (50, scale, isOne)
                $0.trainedBetas = (0..<50).map { $0 < 25 ? 0 : beta }
                ($0.predictionType, $0.rescaleBetasZeroSNR) = (type, rescales)
            }
            let solver = try CogVideoXDPMScheduler(CogVideoXDPMConfiguration(from: scheduler.configuration))
            for count in 1...50 {
                _ = try scheduler.plan(.count(count))
                _ = try solver.plan(.count(count))
            }
        }
    }
}
