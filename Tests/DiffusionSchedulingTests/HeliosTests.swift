// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Helios beyond the goldens: the grids of stages, distilled runs, pure noise, refusals.
@Suite struct HeliosTests {
    static func make(_ change: (inout HeliosConfiguration) -> Void = { _ in }) throws -> HeliosScheduler {
        var configuration = HeliosConfiguration()
        change(&configuration)
        return try HeliosScheduler(configuration)
    }

    static func isNear(_ values: [Double], _ expected: [Double]) -> Bool {
        values.count == expected.count && zip(values, expected).allSatisfy { abs($0 - $1) <= 1e-12 * max(1, $1) }
    }

    /// All stages have the same levels, but timesteps of their own.
    @Test func stagesDivideTheTimesteps() throws {
        let scheduler = try Self.make(), plans = try (0..<3).map { try scheduler.plan(.count(5), options: .init(stageIndex: $0)) }
        #expect(plans.allSatisfy { $0.sigmas == plans[0].sigmas })
        #expect(plans[0].sigmas.count == 6 && plans[0].sigmas[0] == 0.999 && plans[0].sigmas[5] == 0)
        #expect(Self.isNear(plans.map { $0.timesteps[0] }, [999, 743.256, 385.614]))
        #expect(plans.allSatisfy { zip($0.timesteps, $0.timesteps.dropFirst()).allSatisfy { $0 > $1 } })
        #expect(try scheduler.plan(.count(5)) == plans[0], "the first stage, where none is named")
    }

    @Test func muShiftsAStage() throws {
        let scheduler = try Self.make { $0.solver.useDynamicShifting = true }
        let plan = try scheduler.plan(.count(5, mu: 1.2), options: .init(stageIndex: 1))
        #expect(Self.isNear(Array(plan.timesteps.prefix(2)), [743.1483127669018, 710.5790359006091]))
        expectInvalid("mu", "missing", allowed: "given") { _ = try scheduler.plan(.count(5)) }
    }

    /// Distilled runs leave out the last of n + 1 levels, or of 2n + 1 in an amplified first chunk.
    @Test func distilledRunsHaveTheirCount() throws {
        let scheduler = try Self.make { $0.schedulerType = .dmd }, plain = try Self.make { $0.schedulerType = .euler }
        for (isAmplified, count) in [(false, 4), (true, 8)] {
            let options = HeliosConfiguration.Options(stageIndex: 1, isAmplifyFirstChunk: isAmplified)
            let plan = try scheduler.plan(.count(4), options: options)
            let levels = try plain.plan(.count(count + 1), options: options)
            #expect(plan.timesteps == Array(levels.timesteps.dropLast()) && plan.sigmas == levels.sigmas.prefix(count) + [0])
        }
    }

    /// The distilled model's own class has the runs of `dmd`, and puts the noise of a stage back in each step but the last.
    @Test func distilledStepsPutNoiseBack() throws {
        let scheduler = try HeliosDMDScheduler(HeliosDMDConfiguration()), levels = try Self.make { $0.schedulerType = .dmd }
        let options = HeliosConfiguration.Options(stageIndex: 2)
        let plan = try scheduler.plan(.count(3), options: options)
        #expect(try plan.grid == levels.plan(.count(3), options: options).grid)
        for index in 0..<2 {
            let row = plan.row(at: index, age: index), target = plan.sigmas[index + 1]
            #expect(row.nextSample.noise == target && row.nextSample.sample == 1 - target && row.drawCount == 1)
            #expect(row.nextSample.modelOutput == -plan.sigmas[index] * (1 - target))
        }
        #expect(plan.row(at: 2, age: 2) == PlanRow.renoising(from: plan.sigmas[2], to: 0, drawCount: 0))
    }

    /// Timesteps are cut to whole numbers before a level is looked up; in steps shorter than 2 this finds another step's level.
    @Test func levelsAreThoseOfWholeTimesteps() throws {
        var configuration = HeliosDMDConfiguration()
        configuration.pyramid.solver.numTrainTimesteps = 100
        let plan = try HeliosDMDScheduler(configuration).plan(.count(40))
        let index = try #require(
            (0..<39).first {
                plan.timesteps[$0].truncatingRemainder(dividingBy: 1) > 0.5 * (plan.timesteps[$0] - plan.timesteps[$0 + 1])
            })
        #expect(plan.row(at: index, age: index).prediction.modelOutput == -plan.sigmas[index + 1])
    }

    /// A single stage takes its caller's levels without the shift by κ.
    @Test func oneStageTakesLevels() throws {
        let scheduler = try Self.make { ($0.stages, $0.shift) = (1, 3) }
        let plan = try scheduler.plan(.sigmas([0.75, 0.5]))
        #expect(plan.sigmas == [0.75, 0.5, 0] && plan.timesteps == [750, 500])
        #expect(try scheduler.plan(.count(4), options: .init(stageIndex: 2)).sigmas[0] == 1)
    }

    /// Rows stay finite at pure noise, where λ is infinite.
    @Test(arguments: UniPCSolverType.allCases, [1, 2, 6]) func pureNoiseHasFiniteRows(type: UniPCSolverType, order: Int) throws {
        let scheduler = try Self.make { ($0.stages, $0.solver.solverType, $0.solver.solverOrder) = (1, type, order) }
        let plan = try scheduler.plan(.count(8))
        #expect(plan.sigmas[0] == 1)
        let rows = (0..<plan.stepCount).flatMap { index in (0...min(index, plan.warmUp)).map { plan.row(at: index, age: $0) } }
        #expect(rows.allSatisfy { $0.nextSample.sample.isFinite && $0.nextSample.modelOutput.isFinite })
    }

    @Test func whatIsRefused() throws {
        let scheduler = try Self.make()
        expectInvalid("stage_index", "3", allowed: "from 0 to 2") {
            _ = try scheduler.plan(.count(4), options: .init(stageIndex: 3))
        }
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try scheduler.plan(.sigmas([0.5])) }
        expectInvalid("shift", "3.0", allowed: "1 where") {
            _ = try Self.make { ($0.shift, $0.solver.useDynamicShifting) = (3, true) }
        }
        expectInvalid("number of values of stage_range", "4", allowed: "5") { _ = try Self.make { $0.stages = 4 } }
        expectInvalid("stage_range", "0.5", allowed: "ascending") { _ = try Self.make { $0.stageRange = [0, 0.5, 0.5, 1] } }
        expectInvalid("number of sigmas", "1", allowed: "at least 2") {
            _ = try Self.make { ($0.stages, $0.schedulerType) = (1, .dmd) }.plan(.sigmas([0.5]))
        }
        expectInvalid("gamma", "0.0", allowed: "1e-30") { _ = try Self.make { $0.gamma = 0 } }
        expectInvalid("predict_x0", "false", allowed: "true") { _ = try Self.make { $0.solver.predictX0 = false } }
        expectInvalid("thresholding", "true", allowed: "false") { _ = try Self.make { $0.solver.thresholding = true } }
        // Euler's method needs neither setting.
        _ = try Self.make { ($0.schedulerType, $0.solver.predictX0, $0.solver.thresholding) = (.euler, false, true) }
    }
}
