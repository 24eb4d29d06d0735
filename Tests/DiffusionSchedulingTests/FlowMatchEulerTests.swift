// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The quirks of the Euler scheduler for flow matching; check values are diffusers 0.42.1's.
@Suite struct FlowMatchEulerTests {
    private func make(
        _ change: (inout FlowMatchEulerDiscreteConfiguration) -> Void = { _ in }
    ) throws -> FlowMatchEulerDiscreteScheduler {
        var configuration = FlowMatchEulerDiscreteConfiguration()
        change(&configuration)
        return try FlowMatchEulerDiscreteScheduler(configuration)
    }

    private func expectSigmas(
        _ expected: [Double], _ request: TimestepRequest = .count(4), sourceLocation: SourceLocation = #_sourceLocation,
        _ change: (inout FlowMatchEulerDiscreteConfiguration) -> Void = { _ in }
    ) throws {
        let plan = try make(change).plan(request)
        #expect(plan.sigmas.count == expected.count, sourceLocation: sourceLocation)
        for (sigma, value) in zip(plan.sigmas, expected) {
            #expect(abs(sigma - value) <= 6e-9 + 1e-7 * value, "\(plan.sigmas)", sourceLocation: sourceLocation)
        }
        // The model gets Tς in float32.
        #expect(plan.timesteps == plan.sigmas.dropLast().map { Double(Float($0) * 1000) }, sourceLocation: sourceLocation)
    }

    private static let even = [1, 0.75, 0.5, 0.25]

    @Test func levelsAreTheReferences() throws {
        try expectSigmas([1, 0.667, 0.334, 0.001, 0])
        // The ends of the grid are shifted already, so the shift applies twice.
        try expectSigmas([1, 0.857692301, 0.602150559, 0.008928572, 0]) { $0.shift = 3 }
        try expectSigmas([1, 0.904530764, 0.759510934, 0.512844145, 0], .sigmas(Self.even, mu: 1.15)) {
            $0.useDynamicShifting = true
        }
        try expectSigmas([1, 0.775280893, 0.534883678, 0.277108431, 0], .sigmas(Self.even, mu: 1.15)) {
            $0.useDynamicShifting = true
            $0.timeShiftType = .linear
        }
        try expectSigmas([1, 0.859970987, 0.618127823, 0.1, 0], .count(4, mu: 1)) {
            $0.useDynamicShifting = true
            $0.shiftTerminal = 0.1
        }
        try expectSigmas([1, 0.1936097, 0.0225747451, 0.001, 0]) { $0.useKarrasSigmas = true }
        try expectSigmas([1, 0.1, 0.01, 0.001, 0]) { $0.useExponentialSigmas = true }
        try expectSigmas([1, 0.724862099, 0.276137888, 0.001, 0]) { $0.useBetaSigmas = true }
        try expectSigmas([0, 0.333, 0.666, 0.999, 1]) { $0.invertSigmas = true }
    }

    @Test func timestepsAreTakenAsTheyAreAndTheirLevelsShifted() throws {
        let plan = try make { $0.shift = 3 }.plan(.timesteps([1000, 500]))
        #expect(plan.timesteps == [1000, 500])
        #expect(plan.sigmas == [1, 0.75, 0])
        let both = try make { $0.shift = 3 }.plan(.timestepsAndSigmas([900, 400], [1, 0.5]))
        let dynamic = try make { $0.useDynamicShifting = true }.plan(.timesteps([1000, 500], mu: 0))
        #expect(dynamic.sigmas == [1, 0.5, 0])
        #expect(both.timesteps == [900, 400])
        #expect(both.sigmas == [1, 0.75, 0])
    }

    @Test func dynamicShiftingNeedsMu() throws {
        let scheduler = try make { $0.useDynamicShifting = true }
        expectInvalid("mu", "missing", allowed: "use_dynamic_shifting") { _ = try scheduler.plan(.count(4)) }
        expectInvalid("mu", "100.0", allowed: "-80 to 80") { _ = try scheduler.plan(.count(4, mu: 100)) }
        let linear = try make {
            $0.useDynamicShifting = true
            $0.timeShiftType = .linear
        }
        expectInvalid("mu", "0.0", allowed: "linear") { _ = try linear.plan(.count(4, mu: 0)) }
        // Pipelines always pass mu.
        #expect(try make().plan(.count(4, mu: 2)) == make().plan(.count(4)))
    }

    @Test func muLiesOnALine() throws {
        let configuration = FlowMatchEulerDiscreteConfiguration()
        #expect(configuration.mu(imageSequenceLength: 256) == 0.5)
        #expect(abs(configuration.mu(imageSequenceLength: 4096)! - 1.15) < 1e-15)
    }

    /// diffusers divides 0 by 0 here.
    @Test func oneStepWithATerminalLevelIsFinite() throws {
        let plan = try make { $0.shiftTerminal = 0.1 }.plan(.count(1))
        #expect(plan.sigmas == [1, 0])
        let stretched = try make { $0.shiftTerminal = 0.1 }.plan(.sigmas([0.5])).sigmas
        #expect(abs(stretched[0] - 0.1) < 1e-7 && stretched[1] == 0)
    }

    @Test func stepsAreEulers() throws {
        let plan = try make().plan(.count(4))
        let row = plan.row(at: 1, age: 1)
        #expect(row.nextSample == Combination(sample: 1, modelOutput: plan.sigmas[2] - plan.sigmas[1]))
        #expect(row.prediction == Combination(sample: 1, modelOutput: -plan.sigmas[1]))
        #expect(!plan.isStochastic && row.drawCount == 0)
        #expect(plan.initNoiseSigma == 1 && plan.slotCount == 0)
    }

    @Test func stochasticStepsDrawOnceEach() throws {
        let plan = try make { $0.stochasticSampling = true }.plan(.count(4))
        expectInvalid("sigma_max", "80.0", allowed: "at most 1") {
            _ = try make { ($0.stochasticSampling, $0.useBetaSigmas, $0.sigmaMax) = (true, true, 80) }
        }
        let row = plan.row(at: 1, age: 1), source = plan.sigmas[1], target = plan.sigmas[2]
        #expect(row.nextSample == Combination(sample: 1 - target, modelOutput: -source * (1 - target), noise: target))
        #expect((0..<4).allSatisfy { plan.row(at: $0, age: $0).drawCount == 1 })
        #expect(!plan.needsNoise(at: 3, age: 3))
    }

    /// A run whose level is the share of data ends at 1 with the prediction.
    @Test func invertedLevelsEndInData() throws {
        let plan = try make { $0.invertSigmas = true }.plan(.count(4))
        #expect(plan.row(at: 0, age: 0).prediction == Combination(sample: 1, modelOutput: 1))
        #expect(plan.row(at: 3, age: 3).nextSample == plan.row(at: 3, age: 3).prediction)
    }

    @Test func noiseIsAddedAtThePlansLevelsAndBeforeAtTheTrainings() throws {
        var scheduler = try make { $0.shift = 3 }
        #expect(scheduler.timesteps.first == 1000 && scheduler.timesteps.count == 1000)
        #expect(try scheduler.level(atTimestep: 1000).signalRate == 0)
        try scheduler.setTimesteps(4)
        let noisy: [Double] = try scheduler.addNoise([1], to: [3], timesteps: [scheduler.timesteps[2]])
        let sigma = scheduler.sigmas[2]
        #expect(abs(noisy[0] - (sigma + (1 - sigma) * 3)) < 1e-15)
        #expect(fault { _ = try make().trainingLevel(atTimestep: 1001) } != nil)
    }

    /// Cosmos-Predict2 sets sigma_min and sigma_max from 0.002 to 80 and asks for levels by count alone.
    @Test func levelsAboveOneAreOfTheExplodingProcess() throws {
        var configuration = FlowMatchEulerDiscreteConfiguration()
        configuration.useKarrasSigmas = true
        configuration.sigmaMin = 0.002
        configuration.sigmaMax = 80
        let plan = try FlowMatchEulerDiscreteScheduler(configuration).plan(.sigmas([0, 0.5, 1]))
        #expect(plan.grid.process == .varianceExploding)
        #expect(abs(plan.sigmas[0] - 80) < 1e-4 && plan.initNoiseSigma == plan.sigmas[0] && plan.sigmas.last == 0)
        #expect(plan.row(at: 0, age: 0).nextSample.modelOutput == plan.sigmas[1] - plan.sigmas[0])
        configuration.invertSigmas = true
        expectInvalid("sigma_max", "80.0", allowed: "at most 1") { _ = try FlowMatchEulerDiscreteScheduler(configuration) }
    }

    @Test func badValuesAreNamed() throws {
        expectInvalid("shift", "0.0", allowed: "from") { _ = try make { $0.shift = 0 } }
        expectInvalid("shift_terminal", "1.0", allowed: "less than 1") { _ = try make { $0.shiftTerminal = 1 } }
        expectInvalid("num_train_timesteps", "0", allowed: "from 1") { _ = try make { $0.numTrainTimesteps = 0 } }
        expectInvalid("sigmas[1]", "2.0", allowed: "from 0 to 1") { _ = try make().plan(.sigmas([1, 2])) }
        expectInvalid("sigmas[1]", "0.0", allowed: "use_exponential_sigmas") {
            _ = try make { $0.useExponentialSigmas = true }.plan(.sigmas([1, 0]))
        }
        expectInvalid("number of timesteps", "1", allowed: "the number of sigmas, 2") {
            _ = try make().plan(.timestepsAndSigmas([1000], [1, 0.5]))
        }
        expectInvalid("time_shift_type", "\"cubic\"", allowed: "exponential, linear") {
            _ = try FlowMatchEulerDiscreteScheduler.Configuration(json: #"{"time_shift_type": "cubic"}"#)
        }
        #expect(
            fault {
                _ = try make {
                    $0.useKarrasSigmas = true
                    $0.useBetaSigmas = true
                }
            }
                == .conflictingKeys(
                    ["use_karras_sigmas", "use_beta_sigmas"], reason: "the noise levels can follow one grid only"))
    }
}
