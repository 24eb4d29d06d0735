// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The scheduler of the article "Add a scheduler".
@Suite struct FlowMatchAdamsBashforthTests {
    /// Equal steps have the book's weights, 3/2 and −1/2.
    @Test func equalStepsHaveTheBooksWeights() throws {
        let grid = TimestepGrid(timesteps: [1000, 750, 500, 250], sigmas: [1, 0.75, 0.5, 0.25, 0], process: .flow)
        let plan = try FlowMatchAdamsBashforthScheduler().plan(on: grid)
        let first = plan.row(at: 0, age: 0).nextSample, third = plan.row(at: 2, age: 2).nextSample
        #expect(first == Combination(sample: 1, modelOutput: -0.25))
        #expect(third == Combination(sample: 1, modelOutput: -0.375, slots: [0.125]))
        let late = plan.row(at: 2, age: 0).nextSample
        #expect(late == first, "a run that begins here has no step before")
    }

    /// Data are normally distributed with the deviation s: the velocity is linear in x, and the exact end of a run is s times its start.
    @Test func errorsFallWithTheSquareOfTheStep() throws {
        let s = 0.5
        func error(_ count: Int) throws -> Double {
            var scheduler = try FlowMatchAdamsBashforthScheduler(), x = [1.0]
            try scheduler.setTimesteps(count)
            for (timestep, level) in zip(scheduler.timesteps, scheduler.sigmas) {
                let variance = (1 - level) * (1 - level) * s * s + level * level
                let velocity = [x[0] * (level - (1 - level) * s * s) / variance]
                try scheduler.step(modelOutput: velocity, timestep: timestep, sample: &x)
            }
            return abs(x[0] - s)
        }
        let ratio = try error(100) / error(200)
        #expect(abs(ratio - 4) < 0.4, "half the step has a quarter of the error; measured \(ratio)")
    }

    @Test func equalLevelsGiveNoNaN() throws {
        let grid = TimestepGrid(timesteps: [1000, 1000, 500], sigmas: [1, 1, 0.5, 0], process: .flow)
        let plan = try FlowMatchAdamsBashforthScheduler().plan(on: grid)
        #expect(plan.row(at: 2, age: 2).nextSample.slots[0] == 0.25)
        #expect(plan.row(at: 1, age: 1).nextSample == Combination(sample: 1, modelOutput: -0.5))
    }

    @Test func refusalsNameTheKey() throws {
        var configuration = FlowMatchAdamsBashforthConfiguration()
        configuration.shift = 0
        expectInvalid("shift", "0.0", allowed: "from 1e-30") { _ = try FlowMatchAdamsBashforthScheduler(configuration) }
        let scheduler = try FlowMatchAdamsBashforthScheduler()
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try scheduler.plan(.sigmas([1, 0.5])) }
    }

    @Test func configurationsOfEulersClassAreRead() throws {
        var euler = FlowMatchEulerDiscreteConfiguration()
        euler.shift = 3
        let scheduler = try FlowMatchAdamsBashforthScheduler(from: euler)
        #expect(scheduler.configuration.shift == 3)
        #expect(abs(try scheduler.plan(.count(2)).sigmas[1] - 0.003 / 1.002) < 1e-9)
    }
}
