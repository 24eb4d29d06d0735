// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Noise levels by their names.
@Suite struct SigmaScheduleTests {
    static func stable() throws -> EulerDiscreteScheduler {
        var configuration = EulerDiscreteConfiguration()
        (configuration.betaStart, configuration.betaEnd, configuration.betaSchedule) = (0.00085, 0.012, .scaledLinear)
        return try EulerDiscreteScheduler(configuration)
    }

    /// `Tests/Goldens/generate_sigma_schedules.py` evaluated them.
    @Test func levelsAreThoseOfThePublishedFormulas() throws {
        let goldens = try JSONDecoder().decode(
            [String: [String: [String: [Double]]]].self, from: GoldenFile.data("sigma_schedules"))
        let trainings = [
            "scaled_linear": try Self.stable().noiseSchedule, "flow": try FlowMatchEulerDiscreteScheduler().noiseSchedule,
        ]
        var worst = 0.0
        for (name, noise) in trainings {
            let named = try #require(goldens[name])
            #expect(Set(named.keys) == Set(SigmaSchedule.allCases.map(\.rawValue)))
            for schedule in SigmaSchedule.allCases {
                for (count, expected) in try #require(named[schedule.rawValue]) {
                    let levels = try schedule.sigmas(count: #require(Int(count)), of: noise)
                    #expect(levels.count == expected.count, "\(schedule), \(count)")
                    for (ours, theirs) in zip(levels, expected) {
                        worst = max(worst, abs(ours - theirs) / theirs)
                        #expect(abs(ours - theirs) <= 1e-9 * theirs, "\(name), \(schedule), \(count): \(ours), \(theirs)")
                    }
                }
            }
        }
        print("noise levels by name: at most \(worst) from NumPy's and SciPy's, relative")
    }

    @Test(arguments: SigmaSchedule.allCases) func levelsDescendFromTheGreatest(schedule: SigmaSchedule) throws {
        for noise in [try Self.stable().noiseSchedule, try FlowMatchEulerDiscreteScheduler().noiseSchedule] {
            let isFlow = noise.process == .flow, greatest = isFlow ? 1 : noise.sigmas[noise.count - 1]
            for count in Array(1...50) + [99, 250, 333, 500, 999, 1000] {
                guard schedule != .ddimUniform || count < 1000 else { continue }
                let levels = try schedule.sigmas(count: count, of: noise)
                #expect(levels.count == count)
                #expect(zip(levels, levels.dropFirst()).allSatisfy { $0 > $1 } && levels[count - 1] > 0, "\(count)")
                let hasEndsOfItsOwn = schedule == .vp || schedule.rawValue.hasPrefix("align") || schedule == .ddimUniform
                #expect(hasEndsOfItsOwn || abs(levels[0] - greatest) <= 1e-12 * greatest, "\(count): \(levels[0])")
            }
        }
    }

    @Test(arguments: SigmaSchedule.allCases) func schedulersTakeThem(schedule: SigmaSchedule) throws {
        func check<S: PlannedScheduler>(_ scheduler: S) throws {
            let levels = try schedule.sigmas(count: 12, of: scheduler.noiseSchedule)
            let request = try scheduler.request(12, schedule), plan = try scheduler.plan(request)
            #expect(plan.timesteps.count == 12)
            for (ours, asked) in zip(plan.sigmas, levels) { #expect(abs(ours - asked) <= 1e-6 * asked, "\(S.self)") }
            // As an engine asks for them, by name.
            var members: [String: JSONValue] = ["sigma_schedule": .string(schedule.rawValue)]
            #expect(try TimestepRequest(count: 12, takingFrom: &members, for: scheduler) == request && members.isEmpty)
        }
        try check(Self.stable())
        try check(makeDEIS())
        try check(DPMSolverMultistepScheduler())
        try check(UniPCMultistepScheduler())
        let inverse = try DPMSolverMultistepInverseScheduler()
        let upwards = try inverse.plan(inverse.request(12, schedule)).sigmas.prefix(12)
        for (ours, asked) in zip(upwards.reversed(), try schedule.sigmas(count: 12, of: inverse.noiseSchedule)) {
            #expect(abs(ours - asked) <= 1e-6 * asked)
        }
        // Its levels of the continuous process, and those of Stable Diffusion, are no shares of noise.
        guard schedule != .vp, !schedule.rawValue.hasPrefix("align") else { return }
        try check(FlowMatchEulerDiscreteScheduler())
        // The run ends where its list does, with a step that leads nowhere.
        let ltx = try LTXEulerAncestralRFScheduler()
        #expect(try ltx.plan(ltx.request(12, schedule)).sigmas.suffix(2) == [0, 0])
    }

    @Test func whatHasNoLevelsIsRefused() throws {
        // Its sigmas are places between its own ends.
        #expect(throws: SchedulerError.unsupportedOperation("noise levels by name", className: "EDMEulerScheduler")) {
            try EDMEulerScheduler().request(5, .karras)
        }
        let noise = try Self.stable().noiseSchedule
        expectInvalid("number of steps", "0", allowed: "from 1 to") { _ = try SigmaSchedule.karras.sigmas(count: 0, of: noise) }
        expectInvalid("number of steps", "1001", allowed: "at most that of training timesteps, 1000") {
            _ = try SigmaSchedule.simple.sigmas(count: 1001, of: noise)
        }
        expectInvalid("number of steps", "1000", allowed: "less than that of training timesteps, 1000") {
            _ = try SigmaSchedule.ddimUniform.sigmas(count: 1000, of: noise)
        }
        let silent = try makeDEIS { ($0.numTrainTimesteps, $0.trainedBetas) = (2, [0, 0.5]) }.noiseSchedule
        expectInvalid("least noise level of the training", "0.0", allowed: "greater than 0") {
            _ = try SigmaSchedule.exponential.sigmas(count: 3, of: silent)
        }
        func request(_ members: [String: JSONValue], count: Int = 3) throws -> TimestepRequest {
            var members = members
            return try TimestepRequest(count: count, takingFrom: &members, for: makeDEIS())
        }
        expectInvalid("sigma_schedule", #""best""#, allowed: "karras, exponential, vp, laplace, kl_optimal") {
            _ = try request(["sigma_schedule": "best"])
        }
        expectInvalid("sigma_schedule", "given", allowed: "left out where timesteps or sigmas are given") {
            _ = try request(["sigma_schedule": "karras", "sigmas": [1]], count: 1)
        }
    }
}
