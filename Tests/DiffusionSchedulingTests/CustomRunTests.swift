// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Runs over the caller's timesteps and noise levels, and steps that draw their own noise.
@Suite struct CustomRunTests {
    @Test func ddimTakesTimestepsOfTheCallers() throws {
        var configuration = DDIMConfiguration()
        configuration.previousTimestep = .schedule
        let ddim = try DDIMScheduler(configuration), planned = try ddim.plan(.count(7))
        #expect(try ddim.plan(.timesteps(planned.timesteps)) == planned)
        #expect(try ddim.plan(.timesteps([999, 3, 0])).timesteps == [999, 3, 0])
        for (timesteps, key) in [
            ([], "number of timesteps"), ([3, 7], "timesteps[1]"), ([7, 7], "timesteps[1]"), ([7.5], "timesteps[0]"),
            ([1000], "timesteps[0]"),
            ([5, -1], "timesteps[1]"), ([.nan], "timesteps[0]"), ([.infinity], "timesteps[0]"),
        ] as [([Double], String)] {
            guard case .invalidValue(key, _, _)? = fault({ _ = try ddim.plan(.timesteps(timesteps)) }) else {
                Issue.record("\(timesteps) are taken, or \(key) isn't named")
                continue
            }
        }
        expectInvalid("sigmas", "given", allowed: "left out") { _ = try ddim.plan(.sigmas([1])) }
        expectInvalid("mu", "0.5", allowed: "left out") { _ = try ddim.plan(.count(4, mu: 0.5)) }
    }

    @Test func theInverseTakesTimestepsAndLevelsOfTheCallers() throws {
        let inverse = try DPMSolverMultistepInverseScheduler()
        let planned = try inverse.plan(.count(9))
        #expect(try inverse.plan(.timesteps(planned.timesteps)) == planned)
        let levels = [0.03, 0.4, 2, 11].map(\.roundedToFloat32)
        let plan = try inverse.plan(.sigmas(levels))
        #expect(plan.sigmas == levels + [levels[3]])
        #expect(plan.timesteps == plan.timesteps.sorted())
        expectInvalid("sigmas[1]", "0.1", allowed: "greater than the one before") { _ = try inverse.plan(.sigmas([0.2, 0.1])) }
        expectInvalid("sigmas[0]", "0.0", allowed: "greater than 0") { _ = try inverse.plan(.sigmas([0])) }
        expectInvalid("timesteps[1]", "3.0", allowed: "greater than the one before") { _ = try inverse.plan(.timesteps([4, 3])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try inverse.plan(.count(4, mu: 1)) }
    }

    @Test func muShiftsFlowSigmasForItsCall() throws {
        var scheduler = try DPMSolverMultistepScheduler(
            .init(json: #"{"use_flow_sigmas": true, "prediction_type": "flow_prediction", "use_dynamic_shifting": true}"#))
        try scheduler.setTimesteps(5, mu: 1.25)
        var shifted = scheduler.configuration
        shifted.flowShift = exponential(1.25)
        #expect(scheduler.plan == (try DPMSolverMultistepScheduler(shifted).plan(.count(5))))
        try scheduler.setTimesteps(5, mu: nil)
        #expect(scheduler.plan == (try scheduler.plan(.count(5))))
    }

    /// A step draws the noise that the caller would have drawn; a step that fails draws none.
    @Test func stepsDrawTheirNoise() throws {
        let json = #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#
        var drawing = try DPMSolverMultistepScheduler(.init(json: json)), given = drawing
        var source = TorchCPUNoise(seed: 9), other = TorchCPUNoise(seed: 9)
        var x: [Float] = [1, -1, 0.5], y = x
        #expect(fault { try drawing.step(modelOutput: x, timestep: 999, sample: &x, generator: &source) } == .timestepsNotSet)
        try drawing.setTimesteps(4)
        try given.setTimesteps(4)
        for timestep in drawing.timesteps {
            #expect(fault { try drawing.step(modelOutput: [1], timestep: timestep, sample: &x, generator: &source) } != nil)
            try drawing.step(modelOutput: x, timestep: timestep, sample: &x, generator: &source)
            try given.step(modelOutput: y, timestep: timestep, sample: &y, noise: other.normals(y.count))
            #expect(x == y && source == other)
        }

        var ddim = try DDIMScheduler()
        try ddim.setTimesteps(4)
        for eta in [0, 0.5] {
            let before = source
            let output = try ddim.step(modelOutput: x, timestep: 500, sample: x, eta: eta, generator: &source)
            let noise = eta > 0 ? other.normals(x.count) : nil
            #expect(try output == ddim.step(modelOutput: x, timestep: 500, sample: x, eta: eta, noise: noise))
            #expect(source == other && (source == before) == (eta == 0))
            #expect(throws: SchedulerError.self) {
                try ddim.step(modelOutput: [0], timestep: 500, sample: x, eta: eta, generator: &source)
            }
            #expect(source == other)
        }
    }
}
