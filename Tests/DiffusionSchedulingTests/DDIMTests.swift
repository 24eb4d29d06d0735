// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// DDIM beyond the goldens: refusals, floors instead of the original's divisions by zero, steps in any order, the static step.
@Suite struct DDIMTests {
    static let sample: [Double] = [-1.5, -0.25, 0, 0.5, 1.25, 2]
    static let modelOutput: [Double] = [0.5, -1, 0.25, 1.5, -0.75, 0]

    @Test(arguments: [-0.1, 1.5, Double.nan]) func etaOutsideItsRangeIsRefused(_ eta: Double) throws {
        var scheduler = try makeDDIM()
        try scheduler.setTimesteps(10)
        let stepper = scheduler
        expectInvalid("eta", "\(eta)", allowed: "from 0 (deterministic) to 1 (ancestral)") {
            _ = try stepper.step(modelOutput: Self.modelOutput, timestep: 900, sample: Self.sample, eta: eta)
        }
    }

    @Test func offsetsThatLeaveTheTableAreRefusedAndTheMessageSaysWhatFits() throws {
        var scheduler = try makeDDIM { $0.stepsOffset = 1 }
        expectInvalid("steps_offset", "1", allowed: "at most 0 for 1000 steps") { try scheduler.setTimesteps(1000) }
        try scheduler.setTimesteps(999)
        #expect(scheduler.timesteps.first == 999)
    }

    @Test func moreStepsThanTimestepsAreRefused() throws {
        var scheduler = try makeDDIM()
        expectInvalid("number of steps", "1001", allowed: "from 1 to num_train_timesteps = 1000") {
            try scheduler.setTimesteps(1001)
        }
    }

    @Test func stochasticStepsNeedNoise() throws {
        var scheduler = try makeDDIM()
        try scheduler.setTimesteps(10)
        let stepper = scheduler
        let fault = fault { _ = try stepper.step(modelOutput: Self.modelOutput, timestep: 900, sample: Self.sample, eta: 1) }
        #expect(fault == .missingNoise(step: nil))
    }

    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction]) func zeroTerminalSNRStaysFinite(_ type: PredictionType) throws
    {
        var scheduler = try makeDDIM {
            $0.rescaleBetasZeroSNR = true
            $0.timestepSpacing = .trailing
            $0.predictionType = type
        }
        try scheduler.setTimesteps(10)
        #expect(scheduler.noiseSchedule.alphasCumprod[999] == 0)
        for eta in [0, 1.0] {
            var x = Self.sample
            for timestep in scheduler.timesteps {
                x = try scheduler.step(
                    modelOutput: Self.modelOutput, timestep: timestep, sample: x, eta: eta, noise: Self.modelOutput
                ).nextSample
            }
            #expect(x.allFinite, "\(type), eta \(eta)")
        }
    }

    @Test(arguments: [PredictionType.epsilon, .sample, .vPrediction]) func theInverseStartsFromTheCleanSample(
        _ type: PredictionType
    ) throws {
        var configuration = DDIMInverseConfiguration()
        (configuration.clipSample, configuration.predictionType) = (false, type)
        var scheduler = try DDIMInverseScheduler(configuration)
        try scheduler.setTimesteps(10)
        #expect(scheduler.sigmas.first == 0)
        var x = Self.sample
        for timestep in scheduler.timesteps {
            x = try scheduler.step(modelOutput: Self.modelOutput, timestep: timestep, sample: x).nextSample
        }
        #expect(x.allFinite, "\(type)")
    }

    @Test func stepsMayComeInAnyOrder() throws {
        var scheduler = try makeDDIM()
        try scheduler.setTimesteps(20)
        let forwards = try scheduler.timesteps.map {
            try scheduler.step(modelOutput: Self.modelOutput, timestep: $0, sample: Self.sample).nextSample
        }
        let backwards = try scheduler.timesteps.reversed().map {
            try scheduler.step(modelOutput: Self.modelOutput, timestep: $0, sample: Self.sample).nextSample
        }
        #expect(forwards == backwards.reversed())
        // The call also works at a timestep outside the run.
        #expect(try scheduler.step(modelOutput: Self.modelOutput, timestep: 333, sample: Self.sample).nextSample.allFinite)
    }

    @Test(arguments: [TimestepSpacing.linspace, .trailing]) func theScheduleRuleLeadsFromTimestepToTimestep(
        _ spacing: TimestepSpacing
    ) throws {
        var scheduler = try makeDDIM {
            $0.timestepSpacing = spacing
            $0.previousTimestep = .schedule
        }
        try scheduler.setTimesteps(28)
        let plan = try #require(scheduler.plan)
        for (index, timestep) in plan.timesteps.enumerated() {
            let next = index + 1 < plan.stepCount ? plan.timesteps[index + 1] : nil
            let expected = try scheduler.row(from: timestep, to: next)
            #expect(plan.row(at: index, age: 0) == expected)
        }
    }

    @Test func velocityIsThatOfTheTrainingTimestep() throws {
        let scheduler = try makeDDIM()
        let velocity = try scheduler.getVelocity(sample: Self.sample, noise: Self.modelOutput, timesteps: [0, 500, 999])
        for (index, value) in velocity.enumerated() {
            let alpha = scheduler.noiseSchedule.alphasCumprod[[0, 500, 999][index / 2]]
            let expected = alpha.squareRoot() * Self.modelOutput[index] - (1 - alpha).squareRoot() * Self.sample[index]
            #expect(abs(value - expected) <= 1e-15)
        }
    }

    @Test func rescaledGuidanceHasTheConditionalOutputsDeviation() throws {
        func deviation(_ values: ArraySlice<Double>) -> Double {
            let mean = values.reduce(0, +) / Double(values.count)
            return (values.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(values.count)).squareRoot()
        }
        let conditional: [Double] = (0..<40).map { Double(($0 * 37) % 11) / 5 - 1 }
        let guided: [Double] = (0..<40).map { 3 * Double(($0 * 53) % 13) / 6 - 2 }
        var rescaled = guided
        try Guidance(scale: 1, rescale: 1).rescale(&rescaled, conditional: conditional, batchSize: 2)
        for item in [0..<20, 20..<40] {
            #expect(abs(deviation(rescaled[item]) - deviation(conditional[item])) <= 1e-12)
        }
        var untouched = guided
        try Guidance(scale: 1, rescale: 0).rescale(&untouched, conditional: conditional, batchSize: 2)
        #expect(untouched == guided)
        var half = guided
        try Guidance(scale: 1, rescale: 0.5).rescale(&half, conditional: conditional, batchSize: 2)
        #expect(zip(half, zip(guided, rescaled)).allSatisfy { abs($0 - ($1.0 + $1.1) / 2) <= 1e-12 })
    }

    @Test func guidanceThatCannotBeRescaled() {
        var guided: [Float] = [1, 2, 3]
        #expect(
            fault { try Guidance(scale: 1, rescale: 0.7).rescale(&guided, conditional: [1, 2]) }
                == .wrongElementCount(argument: "conditional", count: 2, expected: "3, like guided"))
        for batchSize in [2, 0, -1] {
            #expect(
                fault { try Guidance(scale: 1, rescale: 0.7).rescale(&guided, conditional: [1, 2, 4], batchSize: batchSize) }
                    == .wrongElementCount(argument: "guided", count: 3, expected: "a multiple of the batch size \(batchSize)"))
        }
        #expect(guided == [1, 2, 3])
    }
}
