// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Flow maps' Euler beyond the goldens: steps between any two timesteps, float64 levels, refusals.
@Suite struct FlowMapEulerTests {
    static func make(shift: Double = 1, steps: Int? = nil) throws -> FlowMapEulerDiscreteScheduler {
        var configuration = FlowMapEulerDiscreteConfiguration()
        configuration.shift = shift
        var scheduler = try FlowMapEulerDiscreteScheduler(configuration)
        if let steps { try scheduler.setTimesteps(steps) }
        return scheduler
    }

    @Test func levelsAreFloat64() throws {
        let plan = try Self.make(shift: 5).plan(.count(3))
        let expected: [Double] = [1, 10.0 / 11, 5.0 / 7, 0]
        #expect(zip(plan.sigmas, expected).allSatisfy { abs($0 - $1) <= 1e-15 } && plan.sigmas.count == 4)
        #expect(plan.timesteps == plan.sigmas.dropLast().map { $0 * 1000 })
    }

    @Test func requestedLevelsAreShifted() throws {
        let scheduler = try Self.make(shift: 3)
        let plan = try scheduler.plan(.sigmas([1, 0.5]))
        #expect(plan.sigmas == [1, 0.75, 0] && plan.timesteps == [1000, 750])
        #expect(try scheduler.plan(.timesteps([1000, 500])) == plan)
    }

    /// A step leads to the run's next level, or to the level of a given timestep.
    @Test func aStepLeadsAnywhere() throws {
        let scheduler = try Self.make(shift: 3, steps: 2)
        func change(_ t: Double, _ r: Double?) throws -> Double {
            let row = try scheduler.row(at: t, options: .init(rTimestep: r))
            #expect(row.nextSample.sample == 1 && row.drawCount == 0)
            return row.nextSample.modelOutput
        }
        #expect(try change(1000, nil) == -0.25 && change(750, nil) == -0.75)
        #expect(try change(1000, 0) == -1 && change(1000, 750.0005) == -0.25 && change(750, 1000) == 0.25)
        #expect(try change(500, 250) == -0.25 && change(500, 500) == 0)
        let row = try scheduler.plan(.count(2), options: .init(rTimestep: 0)).row(at: 0, age: 0)
        #expect(row.nextSample.modelOutput == -1 && row.nextSample == row.prediction)
    }

    @Test func noiseIsAddedAtAnyTimestep() throws {
        let scheduler = try Self.make(shift: 3, steps: 2)
        #expect(try scheduler.addNoise([3.0, 3], to: [1.0, 1], timesteps: [250, 0]) == [1.5, 1])
    }

    @Test func aTinyShiftKeepsPureNoise() throws {
        #expect(try Self.make(shift: 1e-30).plan(.count(4)).sigmas.first == 1)
        #expect(try Self.make(shift: 1e30).plan(.count(4)).sigmas.allSatisfy { (0...1).contains($0) })
    }

    @Test func whatIsRefused() throws {
        let scheduler = try Self.make(steps: 4)
        #expect(throws: SchedulerError.self) { try scheduler.row(at: 517) }
        expectInvalid("timestep", "1001.0", allowed: "from 0 to 1000") {
            _ = try scheduler.row(at: 1001, options: .init(rTimestep: 0))
        }
        expectInvalid("r_timestep", "-1.0", allowed: "from 0 to 1000") {
            _ = try scheduler.row(at: 1000, options: .init(rTimestep: -1))
        }
        expectInvalid("r_timestep", "nan", allowed: "from 0 to 1000") {
            _ = try scheduler.plan(.count(2), options: .init(rTimestep: .nan))
        }
        expectInvalid("shift", "0.0", allowed: "1e-30") { _ = try Self.make(shift: 0) }
        expectInvalid("sigmas[1]", "0.5", allowed: "less") { _ = try scheduler.plan(.sigmas([0.5, 0.5])) }
        expectInvalid("sigmas[0]", "1.5", allowed: "from 0 to 1") { _ = try scheduler.plan(.sigmas([1.5])) }
        expectInvalid("timesteps and sigmas", "both given", allowed: "one") {
            _ = try scheduler.plan(.timestepsAndSigmas([1000], [1]))
        }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try scheduler.plan(.count(4, mu: 1)) }
    }
}
