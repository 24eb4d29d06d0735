// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// MiniMax-H3's Euler beyond the goldens: levels that coincide, noise at any time, refusals.
@Suite struct MiniMaxH3Tests {
    static func make(shift: Double = 12) throws -> MiniMaxH3Scheduler {
        var configuration = MiniMaxH3Configuration()
        configuration.shift = shift
        return try MiniMaxH3Scheduler(configuration)
    }

    @Test func theLevelWithoutNoiseIsCounted() throws {
        let plan = try Self.make().plan(.count(5))
        #expect(plan.sigmas.map { Float($0) } == [1, 0.972972989, 0.923076928, 0.800000012, 0])
        #expect(plan.timesteps == plan.sigmas.dropLast().map { Double(1 - Float($0)) } && plan.stepCount == 4)
        #expect(MiniMaxH3Scheduler.countsEnd && !FlowMatchEulerDiscreteScheduler.countsEnd)
    }

    @Test func levelsThatCoincideAreOne() throws {
        #expect(try Self.make(shift: 1e12).plan(.count(9)).sigmas == [1, 0])
        #expect(try Self.make(shift: 1e-12).plan(.count(3)).sigmas.first == 1)
    }

    /// The caller's levels aren't shifted; the last step ends at the predicted clean sample.
    @Test func levelsOfTheCallersAreTakenAsTheyAre() throws {
        let plan = try Self.make().plan(.sigmas([0.75, 0.5, 0]))
        #expect(plan.sigmas == [0.75, 0.5, 0] && plan.timesteps == [0.25, 0.5])
        let first = plan.row(at: 0, age: 0), last = plan.row(at: 1, age: 0)
        #expect(abs(first.nextSample.modelOutput - 0.25) <= 1e-16 && last.nextSample.modelOutput == 0.5)
        #expect(last.nextSample == last.prediction)
    }

    /// A time of 1 has a level that rounds to 0 in float32; the step from it changes nothing.
    @Test func timesAreRounded() throws {
        let plan = try Self.make().plan(.sigmas([0.5, 1e-9, 0]))
        #expect(plan.timesteps == [0.5, 1] && plan.row(at: 1, age: 0).nextSample.modelOutput == 0)
    }

    @Test func noStepLeadsAwayFromALevelWithoutNoise() throws {
        let grid = TimestepGrid(timesteps: [0.5, 1, 1], sigmas: [0.5, 0, 0, 0], process: .flow)
        let plan = try Self.make().plan(on: grid)
        #expect(plan.row(at: 2, age: 0).nextSample.modelOutput == 0)
    }

    @Test func noiseIsAddedAtAnyTime() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(4)
        let noisy = try scheduler.addNoise([3.0, 3], to: [1.0, 1], timesteps: [0.25, 1])
        #expect(noisy == [2.5, 1])
        expectInvalid("timestep", "1.5", allowed: "from 0 to 1") { _ = try scheduler.level(atTimestep: 1.5) }
    }

    @Test func whatIsRefused() throws {
        expectInvalid("shift", "0.0", allowed: "1e-30") { _ = try Self.make(shift: 0) }
        expectInvalid("shift", "inf", allowed: "1e-30") { _ = try Self.make(shift: .infinity) }
        expectInvalid("number of steps", "1", allowed: "from 2") { _ = try Self.make().plan(.count(1)) }
        expectInvalid("number of sigmas", "1", allowed: "at least 2") { _ = try Self.make().plan(.sigmas([0])) }
        expectInvalid("sigmas[1]", "0.5", allowed: "0") { _ = try Self.make().plan(.sigmas([0.9, 0.5])) }
        expectInvalid("sigmas[1]", "0.5", allowed: "less") { _ = try Self.make().plan(.sigmas([0.5, 0.5, 0])) }
        expectInvalid("sigmas[0]", "1.5", allowed: "from 0 to 1") { _ = try Self.make().plan(.sigmas([1.5, 0])) }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try Self.make().plan(.timesteps([0, 0.5])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try Self.make().plan(.count(4, mu: 1)) }
    }
}
