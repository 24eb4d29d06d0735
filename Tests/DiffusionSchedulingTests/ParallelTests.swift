// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// DDIM and DDPM for parallel sampling beyond the goldens: agreement with DDIM and DDPM, steps without noise, refusals.
@Suite struct ParallelTests {
    static func ddim(_ change: (inout DDIMConfiguration) -> Void = { _ in }) throws -> DDIMParallelScheduler {
        var configuration = DDIMParallelScheduler.Configuration()
        change(&configuration.base)
        return try DDIMParallelScheduler(configuration)
    }

    static func ddpm(_ change: (inout DDPMConfiguration) -> Void = { _ in }) throws -> DDPMParallelScheduler {
        var configuration = DDPMParallelScheduler.Configuration()
        change(&configuration.base)
        return try DDPMParallelScheduler(configuration)
    }

    static func withoutNoise<Base>(_ type: DefinedScheduler<ParallelDefinition<Base>>.Type) -> ParallelDefinition<Base>.Options {
        var options = ParallelDefinition<Base>.Options()
        options.withoutNoise = true
        return options
    }

    @Test func namesAndKeysAreThoseOfTheOthers() throws {
        #expect(DDIMParallelScheduler.Configuration.className == "DDIMParallelScheduler")
        #expect(DDPMParallelScheduler.Configuration.className == "DDPMParallelScheduler")
        let text = #"{"_class_name": "DDIMParallelScheduler", "beta_end": 0.012, "clip_sample": false, "foreign": 1}"#
        var configuration = try DDIMParallelScheduler.Configuration(json: text)
        #expect(configuration.betaEnd == 0.012 && configuration.unusedKeys == ["foreign"])
        let parameters = DDIMParallelScheduler.Configuration.parameters, others = DDIMConfiguration.parameters
        #expect(parameters.map(\.key) == others.map(\.key) && parameters.map(\.summary) == others.map(\.summary))
        #expect(try DDIMConfiguration(from: configuration).jsonText == DDIMConfiguration(json: text).jsonText)
        configuration.betaEnd = 0.5
        #expect(configuration.base.betaEnd == 0.5)
    }

    @Test func stepsAreThoseOfTheOthers() throws {
        var parallel = try Self.ddim { $0.setAlphaToOne = false }
        var plain = try DDIMScheduler(parallel.configuration.base)
        try parallel.setTimesteps(20)
        try plain.setTimesteps(20)
        #expect(parallel.plan == plain.plan)
        for timestep in [0.0, 3, 950, 999] {
            var options = DDIMParallelScheduler.Configuration.Options()
            options.base.eta = 0.5
            #expect(try parallel.row(at: timestep, options: options) == plain.row(at: timestep, options: options.base))
        }
    }

    // MARK: Without noise

    /// diffusers' steps with `set_alpha_to_one` false end at timestep 0, and its steps without noise at the clean sample.
    @Test(arguments: [true, false]) func stepsWithoutNoiseEndAtTheCleanSample(_ setAlphaToOne: Bool) throws {
        var scheduler = try Self.ddim {
            $0.setAlphaToOne = setAlphaToOne
            $0.clipSample = false
        }
        let options = Self.withoutNoise(DDIMParallelScheduler.self), plain = try DDIMScheduler(scheduler.configuration.base)
        try scheduler.setTimesteps(20)
        for timestep in [50.0, 321, 999] {
            #expect(try scheduler.row(at: timestep, options: options) == plain.row(from: timestep, to: timestep - 50))
        }
        for timestep in [0.0, 49] {
            let row = try scheduler.row(at: timestep, options: options)
            #expect(row.nextSample == row.prediction && row.drawCount == 0)
        }
    }

    @Test(arguments: [DDPMVarianceType.fixedLarge, .learnedRange])
    func stepsOfDDPMWithoutNoiseAreMeans(_ type: DDPMVarianceType) throws {
        var scheduler = try Self.ddpm { $0.varianceType = type }
        let options = Self.withoutNoise(DDPMParallelScheduler.self), plain = try DDPMScheduler(scheduler.configuration.base)
        try scheduler.setTimesteps(.timesteps([900, 870, 300]))
        // The step covers a third of the training, whatever the plan's next timestep.
        for (timestep, target) in [(900.0, 567.0), (870, 537), (333, 0), (332, nil)] {
            let row = try scheduler.row(at: timestep, options: options)
            var expected = try plain.row(from: timestep, to: target).nextSample
            expected.noise = 0
            #expect(row.nextSample == expected && row.drawCount == 0 && row.noiseFactor == .none)
        }
    }

    @Test func aPlanWithoutNoiseHasTheSameRows() throws {
        var scheduler = try Self.ddpm()
        let options = Self.withoutNoise(DDPMParallelScheduler.self)
        let plan = try scheduler.plan(.count(7), options: options)
        try scheduler.setTimesteps(7)
        #expect(plan.timesteps == scheduler.timesteps && !plan.isStochastic && plan.sigmas[7] == 0)
        for (index, timestep) in plan.timesteps.enumerated() {
            #expect(try plan.row(at: index, age: index) == scheduler.row(at: timestep, options: options))
        }
    }

    @Test func noiseAsTheyHaveNone() throws {
        var scheduler = try Self.ddim()
        try scheduler.setTimesteps(10)
        var options = Self.withoutNoise(DDIMParallelScheduler.self)
        options.base.eta = 0.5
        expectInvalid("eta", "0.5", allowed: "0 for steps without noise") { _ = try scheduler.row(at: 500, options: options) }
        options.base.eta = 2
        expectInvalid("eta", "2.0", allowed: "from 0") { _ = try scheduler.row(at: 500, options: options) }
        #expect(throws: SchedulerError.self) {
            try scheduler.row(at: -1, options: Self.withoutNoise(DDIMParallelScheduler.self))
        }
    }
}
