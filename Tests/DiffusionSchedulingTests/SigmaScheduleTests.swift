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

    /// Levels by source, name and number of steps.
    static func goldens() throws -> [String: [String: [String: [Double]]]] {
        try JSONDecoder().decode([String: [String: [String: [Double]]]].self, from: GoldenFile.data("sigma_schedules"))
    }

    /// Levels of k-diffusion 0.1.1.post1 and diffusers 0.42.1, as they print them.
    @Test func levelsAreThoseOfOtherLibraries() throws {
        let noise = try Self.stable().noiseSchedule, goldens = try Self.goldens()
        var worst: [String: Double] = [:]
        for source in ["k-diffusion", "diffusers"] {
            for (name, counts) in try #require(goldens[source]) {
                let schedule = try #require(SigmaSchedule(rawValue: name))
                for (count, expected) in counts {
                    for (ours, theirs) in zip(try schedule.sigmas(count: #require(Int(count)), of: noise), expected) {
                        // k-diffusion subtracts 1 from a float32 exponential, and the difference is the level's square.
                        let cancelled = schedule == .vp ? 0x1p-23 / theirs : 0
                        worst[name] = max(worst[name] ?? 0, abs(ours - theirs) / theirs)
                        #expect(abs(ours - theirs) <= 1e-6 * theirs + cancelled, "\(source), \(name), \(count): \(ours), \(theirs)")
                    }
                }
            }
        }
        print("noise levels by name, from other libraries', relative:", worst.sorted { $0.key < $1.key })
    }

    /// The published formulas, evaluated by `Tests/Goldens/generate_sigma_schedules.py`.
    @Test func levelsAreThoseOfThePublishedFormulas() throws {
        let goldens = try Self.goldens(),
            trainings = [
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
            // An engine asks for levels by name.
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
        // Levels of the continuous process and Stable Diffusion's aren't shares of noise.
        guard schedule != .vp, !schedule.rawValue.hasPrefix("align") else { return }
        try check(FlowMatchEulerDiscreteScheduler())
        // The run ends at the end of its list, with a step that changes nothing.
        let ltx = try LTXEulerAncestralRFScheduler()
        #expect(try ltx.plan(ltx.request(12, schedule)).sigmas.suffix(2) == [0, 0])
    }

    /// The classes whose configurations can name their levels.
    static var namingClasses: [String] {
        SchedulerCatalog.supportedClassNames.filter {
            (try? SchedulerCatalog.description(ofClass: $0).text.contains("diffusion_scheduling_sigma_schedule")) == true
        }
    }

    @Test func configurationsNameThem() throws {
        #expect(Self.namingClasses.count == 15, "\(Self.namingClasses)")
        for name in Self.namingClasses {
            let scheduler = try SchedulerCatalog.makeScheduler(
                json: #"{"_class_name": "\#(name)"}"#, overrides: ["sigma_schedule": "kl_optimal"])
            let plain = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "\#(name)"}"#)
            let plan = try scheduler.plan(.count(9))
            #expect(try plan.timesteps == plain.plan(plain.request(9, .klOptimal)).timesteps, "\(name)")
            #expect(try plan.sigmas != plain.plan(.count(9)).sigmas, "\(name)")
            let levels = try scheduler.sigmas(count: 9, of: .klOptimal, mu: nil)
            #expect(levels.allSatisfy { level in plan.sigmas.contains { abs($0 - level) <= 1e-6 * level } }, "\(name)")
            // A request overrides the configuration, whose file has the library's own key.
            #expect(try scheduler.plan(scheduler.request(9, .simple)).sigmas == plain.plan(plain.request(9, .simple)).sigmas)
            let text = scheduler.configuration.jsonText
            #expect(text.contains(#""diffusion_scheduling_sigma_schedule": "kl_optimal""#))
            #expect(try SchedulerCatalog.makeScheduler(json: text).plan(.count(9)).sigmas == plan.sigmas)
        }
    }

    /// k-diffusion's solvers take lists of levels and interpolate the timesteps; diffusers' classes don't.
    @Test func levelsOfOnesOwn() throws {
        let levels = [12, 5, 2.5, 0.75]
        func check<S: PlannedScheduler>(_ scheduler: S, evaluations: Int) throws {
            let plan = try scheduler.plan(.sigmas(levels)), noise = scheduler.noiseSchedule
            #expect(plan.sigmas.first == 12 && plan.sigmas.last == 0 && Set(plan.sigmas) == Set(levels + [0]))
            #expect(plan.timesteps.count == evaluations)
            #expect(abs(plan.timesteps[0] - noise.timestep(atSigma: 12)) < 1e-3)
            expectInvalid("sigmas[1]", "12.0", allowed: "less than the one before") { _ = try scheduler.plan(.sigmas([12, 12])) }
            expectInvalid("sigmas[1]", "0.0", allowed: "greater than 0") { _ = try scheduler.plan(.sigmas([12, 0])) }
            expectInvalid("mu", "1.0", allowed: "left out") { _ = try scheduler.plan(.sigmas([12], mu: 1)) }
        }
        try check(EulerAncestralDiscreteScheduler(), evaluations: 4)
        try check(HeunDiscreteScheduler(), evaluations: 7)
        try check(KDPM2DiscreteScheduler(), evaluations: 7)
        try check(KDPM2AncestralDiscreteScheduler(), evaluations: 7)
        try check(DPMSolverSDEScheduler(), evaluations: 7)
        try check(LMSDiscreteScheduler(), evaluations: 4)
    }

    /// Flow levels are shifted once, by the scheduler's own shift or a run's, and stay below 1 for solvers that divide by the
    /// signal.
    @Test(arguments: [SigmaSchedule.karras, .simple, .klOptimal, .linearQuadratic]) func flowLevelsAreShifted(
        schedule: SigmaSchedule
    ) throws {
        let plain = try schedule.flowSigmas(count: 10, numTrainTimesteps: 1000)
        let shifted = plain.map { 3 * $0 / (1 + 2 * $0) }
        func check(_ scheduler: any PlannedScheduler) throws {
            let sigmas = try scheduler.plan(.count(10)).sigmas
            for (ours, expected) in zip(sigmas, shifted) {
                #expect(abs(ours - min(expected, 1 - 1e-6)) < 2e-7, "\(type(of: scheduler))")
            }
        }
        for name in ["DEISMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"] {
            try check(
                SchedulerCatalog.makeScheduler(
                    json:
                        #"{"_class_name": "\#(name)", "use_flow_sigmas": true, "prediction_type": "flow_prediction", "flow_shift": 3}"#,
                    overrides: ["sigma_schedule": .string(schedule.rawValue)]))
        }
        var configuration = DEISMultistepConfiguration()
        (configuration.useFlowSigmas, configuration.predictionType) = (true, .flowPrediction)
        (configuration.useDynamicShifting, configuration.sigmaSchedule) = (true, schedule)
        let sigmas = try DEISMultistepScheduler(configuration).plan(.count(10, mu: logarithm(3))).sigmas
        for (ours, expected) in zip(sigmas, shifted) { #expect(abs(ours - min(expected, 1 - 1e-6)) < 2e-7) }
    }

    /// Two partial runs make the whole run if steps store nothing; reversed levels belong to an inverse.
    @Test func listsMayBeSplitAndReversed() throws {
        let scheduler = try Self.stable(), levels = try SigmaSchedule.karras.sigmas(count: 8, of: scheduler.noiseSchedule) + [0]
        func run(_ plan: SamplingPlan, _ sample: inout [Float]) throws {
            var session = SamplingSession(plan: plan)
            try session.run(&sample)
        }
        var whole = goldenStart, parts = goldenStart
        let plan = try scheduler.plan(.sigmas(levels))
        try run(plan, &whole)
        for places in [0..<3, 3..<8] {
            let grid = TimestepGrid(
                timesteps: Array(plan.timesteps[places]), sigmas: Array(levels[places.lowerBound...places.upperBound]),
                process: plan.grid.process)
            try run(scheduler.plan(on: grid), &parts)
        }
        #expect(parts == whole)
        let inverse = try DPMSolverMultistepInverseScheduler().plan(.sigmas(levels.dropLast().reversed()))
        #expect(inverse.sigmas.prefix(8) == levels.dropLast().reversed().map(\.roundedToFloat32)[...])
    }

    @Test func oneGridOnly() throws {
        for (key, name) in [("use_karras_sigmas", "EulerDiscreteScheduler"), ("use_beta_sigmas", "DEISMultistepScheduler")] {
            #expect(
                throws: SchedulerError.conflictingKeys(
                    [key, "sigma_schedule"], reason: "the noise levels can follow one grid only")
            ) {
                try SchedulerCatalog.makeScheduler(
                    json: #"{"_class_name": "\#(name)"}"#, overrides: [key: true, "sigma_schedule": "simple"])
            }
        }
        expectInvalid("sigma_schedule", #""best""#, allowed: "karras, exponential") {
            _ = try SchedulerCatalog.makeScheduler(
                json: #"{"_class_name": "DEISMultistepScheduler"}"#, overrides: ["sigma_schedule": "best"])
        }
    }

    @Test func whatHasNoLevelsIsRefused() throws {
        // EDM Euler's sigmas are positions between its own ends.
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
        #expect(try request(["sigma_schedule": "polyexponential"]) == makeDEIS().request(3, .exponential))
        expectInvalid("sigma_schedule", "given", allowed: "left out where timesteps or sigmas are given") {
            _ = try request(["sigma_schedule": "karras", "sigmas": [1]], count: 1)
        }
    }
}
