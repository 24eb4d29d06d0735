// SPDX-License-Identifier: Apache-2.0

import TestDraws
import Testing

@testable import DiffusionScheduling

/// Cases in which diffusers' DEIS, or a port of it, gives NaN, raises an error, or silently does something else than asked.
@Suite struct QuirkTests {
    static let problem = GaussianProblem()
    static let betaSchedules: [(name: String, apply: @Sendable (inout DEISMultistepConfiguration) -> Void)] = [
        ("linear", { _ in }),
        (
            "Stable Diffusion's",
            {
                $0.betaSchedule = .scaledLinear
                ($0.betaStart, $0.betaEnd) = (0.00085, 0.012)
            }
        ),
        ("cosine", { $0.betaSchedule = .squaredcosCapV2 }),
    ]

    static func scheduler(
        _ grid: GridChoice, order: Int, betas: Int = 0, lowerOrderFinal: Bool = true
    ) throws -> DEISMultistepScheduler {
        try makeDEIS {
            betaSchedules[betas].apply(&$0)
            grid.apply(to: &$0)
            $0.solverOrder = order
            $0.lowerOrderFinal = lowerOrderFinal
        }
    }

    /// The number of outputs that a step's next sample depends on: its order.
    static func order(of plan: SamplingPlan, at index: Int) -> Int {
        let history = plan.history(at: index, age: plan.warmUp)
        return history.isEmpty && plan.row(at: index, age: plan.warmUp).nextSample.modelOutput == 0 ? 0 : 1 + history.count
    }

    // MARK: No NaN, no surplus step, no step left out

    /// The original gives NaN for repeated timesteps or noise levels (n ≥ T, h = 0), and for a repeated first timestep a wrong
    /// start or an index out of range.
    @Test(arguments: GridChoice.allCases, 0..<3) func everyRunIsFiniteAndComplete(_ grid: GridChoice, betas: Int) throws {
        for count in [1, 2, 3, 5, 10, 14, 15, 16, 31, 33, 61, 103, 122, 999, 1000, 1001] {
            // A long run's history depends on the highest order alone.
            for order in count < 100 ? [1, 2, 3] : [3] {
                for lowerOrderFinal in count < 15 ? [false, true] : [true] {
                    let scheduler = try Self.scheduler(grid, order: order, betas: betas, lowerOrderFinal: lowerOrderFinal)
                    let plan = try scheduler.plan(.count(count))
                    let name: Comment = "\(Self.betaSchedules[betas].name) betas, n = \(count), order \(order)"
                    #expect(plan.timesteps.count == count && plan.sigmas.count == count + 1, name)
                    #expect(plan.timesteps.allSatisfy { 0 <= $0 && $0 <= 999 }, name)
                    #expect(zip(plan.timesteps, plan.timesteps.dropFirst()).allSatisfy { $0 >= $1 }, name)
                    #expect(zip(plan.sigmas, plan.sigmas.dropFirst()).allSatisfy { $0 >= $1 && $1 > 0 }, name)
                    let sample = try Self.problem.run(plan)
                    #expect(sample.allSatisfy { $0.isFinite && abs($0) < 1e3 }, "\(name): \(sample)")
                }
            }
        }
    }

    /// These runs' levels are so close that the result must be right, not merely finite.
    @Test(arguments: GridChoice.allCases) func longRunsAreRight(_ grid: GridChoice) throws {
        for betas in 0..<3 {
            for count in [999, 1000, 1001] {
                let plan = try Self.scheduler(grid, order: 3, betas: betas).plan(.count(count))
                let error = try Self.problem.error(of: plan)
                // A beta grid from the cosine's level of 20,291 still takes great steps in ln ς at its end.
                #expect(
                    error <= (grid == .beta && betas == 2 ? 0.25 : Tolerance.longRun),
                    "\(Self.betaSchedules[betas].name) betas, n = \(count): \(error)")
            }
        }
    }

    /// Quirk 3: n = T repeats the timestep 500; the second of the two steps changes nothing, and the divided differences across it
    /// are 0/0.
    @Test(arguments: [1, 2, 3]) func aTimestepThatComesTwiceIsNoNaN(order: Int) throws {
        let plan = try Self.scheduler(.linspace, order: order).plan(.count(1000))
        let first = try #require(plan.timesteps.firstIndex(of: 500))
        #expect(plan.timesteps[first + 1] == 500 && plan.sigmas[first] == plan.sigmas[first + 1])
        #expect(Self.order(of: plan, at: first) == 0, "a step from a level to itself")
        #expect(Self.order(of: plan, at: first + 1) == 1, "the level before carries no information")
        #expect(Self.order(of: plan, at: first + 4) == order)
        let float32 = try SamplingSession.finalSample(of: plan)
        #expect(float32.allFinite)
    }

    /// Quirk 3: more steps than the spacing `leading`, with its whole stride, can tell apart.
    @Test func stepsThatAllHaveOneTimestepChangeNothing() throws {
        var scheduler = try makeDEIS {
            $0.timestepSpacing = .leading
            $0.stepsOffset = 3
            $0.solverOrder = 3
        }
        try scheduler.setTimesteps(1000)
        #expect(scheduler.timesteps == Array(repeating: 3, count: 1000))
        var sample = goldenStart
        for timestep in scheduler.timesteps.dropLast() {
            try scheduler.step(modelOutput: goldenOutput(sample, timestep: timestep), timestep: timestep, sample: &sample)
        }
        #expect(bits(sample) == bits(goldenStart))
        try scheduler.step(modelOutput: goldenOutput(sample, timestep: 3), timestep: 3, sample: &sample)
        #expect(sample.allFinite && bits(sample) != bits(goldenStart))
        #expect(scheduler.stepIndex == 1000)
    }

    /// Quirks 4 and 5: diffusers searches for the first timestep, takes the second of two, skips the first noise level and fails at
    /// the last step.
    @Test(arguments: [
        (GridChoice.karras, 2, 20), (.exponential, 2, 20), (.beta, 2, 20), (.beta, 1, 32), (.beta, 1, 50), (.linspace, 0, 1000),
        (.trailing, 0, 1500),
    ])
    func repeatedTimestepsLeaveOutNoNoiseLevel(_ grid: GridChoice, betas: Int, count: Int) throws {
        var scheduler = try Self.scheduler(grid, order: 2, betas: betas)
        try scheduler.setTimesteps(count)
        #expect(Set(scheduler.timesteps).count < count, "this case is about timesteps that come twice")
        let plan = try #require(scheduler.plan)
        var sample = goldenStart
        for (index, timestep) in scheduler.timesteps.enumerated() {
            #expect(scheduler.stepIndex == index)
            try scheduler.step(
                modelOutput: goldenOutput(sample, timestep: timestep), timestep: timestep, sample: &sample,
                batchSize: GoldenProblem.batchSize)
        }
        #expect(scheduler.stepIndex == count)
        #expect(bits(sample) == bits(try SamplingSession.finalSample(of: plan)))
    }

    /// Quirk 14: the original starts an unknown timestep at the last step.
    @Test func anUnknownTimestepIsNotTheLast() throws {
        var scheduler = try makeDEIS()
        try scheduler.setTimesteps(5)
        var sample = goldenStart
        let error = fault { try scheduler.step(modelOutput: sample, timestep: 998, sample: &sample) }
        #expect(error == .unknownTimestep(998, expected: "one of the plan's 5 timesteps, from 999 to 200"))
        #expect(scheduler.stepIndex == 0 && bits(sample) == bits(goldenStart))
    }

    /// `steps_offset` may push timesteps beyond the training; other schedulers then index outside their tables.
    @Test func anOffsetBeyondTheTrainingStaysAtItsLastLevel() throws {
        let plan = try makeDEIS {
            $0.timestepSpacing = .leading
            $0.stepsOffset = 400
        }.plan(.count(9))
        #expect(plan.timesteps[0] == 1300)
        #expect(plan.sigmas[0] == plan.sigmas[1] && Self.order(of: plan, at: 0) == 0)
        #expect(try SamplingSession.finalSample(of: plan).allFinite)
    }

    // MARK: The last steps

    /// Quirk 2 and item 13: grids with their own levels repeat the last one, so the last step changes nothing.
    @Test(arguments: GridChoice.repeating, [1, 2, 3]) func theRepeatedLastLevelIsTheIdentity(_ grid: GridChoice, order: Int) throws
    {
        for (count, lowerOrderFinal) in [(1, true), (7, true), (7, false), (14, true), (15, true), (40, true), (40, false)] {
            let plan = try Self.scheduler(grid, order: order, lowerOrderFinal: lowerOrderFinal).plan(.count(count))
            #expect(plan.sigmas[count] == plan.sigmas[count - 1])
            var session = SamplingSession(plan: plan), sample = goldenStart
            try session.run(&sample, steps: count - 1)
            let before = bits(sample)
            try session.step(modelOutput: [Float](repeating: 1e30, count: sample.count), sample: &sample)
            #expect(bits(sample) == before, "n = \(count)")
        }
    }

    /// Quirk 7: a run ends with the noise of timestep 0, not with 0.
    @Test(arguments: GridChoice.plain) func plainGridsEndAtTheLeastLevelOfTheTraining(_ grid: GridChoice) throws {
        for betas in 0..<3 {
            let scheduler = try Self.scheduler(grid, order: 2, betas: betas)
            #expect(try scheduler.plan(.count(20)).sigmas.last == scheduler.noiseSchedule.sigmas[0])
        }
    }

    /// Item 17: Swift ports fall to order 1 on *both* last steps of fewer than 15.
    @Test func theStepBeforeTheLastKeepsOrderTwo() throws {
        for count in [2, 3, 4, 10, 14] {
            for order in [2, 3] {
                let plan = try Self.scheduler(.linspace, order: order).plan(.count(count))
                let orders = (0..<count).map { Self.order(of: plan, at: $0) }
                let expected = (0..<count).map { i in
                    i == count - 1 ? 1 : min(i + 1, i == count - 2 ? 2 : order)
                }
                #expect(orders == expected, "n = \(count), order \(order)")
            }
        }
    }

    @Test func runsOfFifteenStepsKeepTheirOrder() throws {
        for count in [15, 16, 100] {
            for order in [1, 2, 3] {
                let plan = try Self.scheduler(.linspace, order: order).plan(.count(count))
                #expect((0..<count).map { Self.order(of: plan, at: $0) } == (0..<count).map { min($0 + 1, order) })
            }
        }
        let plan = try Self.scheduler(.linspace, order: 3, lowerOrderFinal: false).plan(.count(10))
        #expect((0..<10).map { Self.order(of: plan, at: $0) } == (0..<10).map { min($0 + 1, 3) })
    }

    /// A run of any length that ends without noise ends with order 1.
    @Test func runsToNoNoiseEndWithOrderOne() throws {
        for count in [5, 15, 40] {
            let plan = try makeDEIS {
                $0.solverOrder = 3
                $0.finalSigmasType = .zero
                $0.lowerOrderFinal = false
            }.plan(.count(count))
            #expect(Self.order(of: plan, at: count - 1) == 1)
            #expect(Self.order(of: plan, at: count - 2) == 3)
        }
    }

    /// `sigma_min` is the least training level. Flow matching has its own: the table's ς₀ would add noise at the end of a long run,
    /// or lie beyond all flow levels with few training timesteps.
    @Test(arguments: [(1000, 500), (2, 5)]) func theLeastFlowLevelIsOneOfFlowMatching(trainingCount: Int, count: Int) throws {
        let plan = try makeDEIS {
            $0.numTrainTimesteps = trainingCount
            $0.betaSchedule = .squaredcosCapV2
            $0.useFlowSigmas = true
            $0.predictionType = .flowPrediction
            $0.finalSigmasType = .sigmaMin
        }.plan(.count(count))
        let (before, last) = (plan.sigmas[count - 1], plan.sigmas[count])
        #expect(last <= before, "after \(before) comes \(last)")
    }

    /// The coefficients of step 5 of 10 on the default grid, computed in float64 from diffusers' levels.
    @Test func coefficientsAreTheStatedOnes() throws {
        let expected: [[Double]] = [
            [1.5773961513445, -0.616782525737994],
            [1.5773961513445, -0.871677121470604, 0.25489459573261],
            [1.5773961513445, -1.05832767463464, 0.603498362846264, -0.161953213949616],
        ]
        let plan = try Self.scheduler(.linspace, order: 3, lowerOrderFinal: false).plan(
            on: TimestepGrid(
                timesteps: [699, 599, 500], sigmas: [11.9395199, 6.13521004, 3.44296741, 2.04108739], process: .variancePreserving))
        for (remembered, coefficients) in expected.enumerated() {
            let row = plan.row(at: 2, age: remembered).nextSample
            let ours = [row.sample, row.modelOutput] + plan.history(at: 2, age: remembered)
            #expect(ours.count == coefficients.count)
            for (a, b) in zip(ours, coefficients) { #expect(abs(a - b) <= 1e-13, "order \(remembered + 1): \(a), stated \(b)") }
        }
    }

    // MARK: Extreme noise levels

    /// Quirk 11: β₀ = 0 makes the least level 0, and the original's last step 0 · ∞.
    @Test(arguments: [0, 1e-9], [1, 2, 3]) func aFirstBetaOfNothingIsNoNaN(betaStart: Double, order: Int) throws {
        for type in [PredictionType.epsilon, .sample, .vPrediction] {
            for grid in GridChoice.plain + [.karras, .beta] {
                let plan = try makeDEIS {
                    $0.betaStart = betaStart
                    $0.solverOrder = order
                    $0.predictionType = type
                    grid.apply(to: &$0)
                }.plan(.count(20))
                #expect(plan.sigmas.last == 0)
                #expect(try SamplingSession.finalSample(of: plan).allFinite, "\(type), \(grid)")
                #expect(
                    try Self.problem.run(plan, type).deviation(from: Self.problem.sample(at: plan.levels[20])) < 1,
                    "\(type), \(grid)")
            }
        }
    }

    /// An exponential grid can't end at 0: it is refused instead of giving NaN.
    @Test func anExponentialGridToNothingIsRefused() throws {
        let scheduler = try makeDEIS {
            $0.betaStart = 0
            $0.useExponentialSigmas = true
        }
        #expect(fault { _ = try scheduler.plan(.count(5)) } != nil)
    }

    @Test(arguments: [1, 2, 3]) func levelsWithoutNoiseOnTheWayAreNoNaN(order: Int) throws {
        for type in [PredictionType.epsilon, .sample, .vPrediction] {
            let plan = try makeDEIS {
                $0.numTrainTimesteps = 8
                $0.trainedBetas = [0, 0, 0, 0.1, 0, 0.2, 0.3, 0]
                $0.solverOrder = order
                $0.predictionType = type
                $0.timestepSpacing = .trailing
            }.plan(.count(8))
            #expect(plan.timesteps == [7, 6, 5, 4, 3, 2, 1, 0])
            #expect(try SamplingSession.finalSample(of: plan).allFinite, "\(type)")
        }
    }

    /// Item 11: half-precision add_noise of the original gives zeros at the cosine's greatest levels, as ς² overflows.
    @Test func noiseOfTheGreatestLevelIsNotNothing() throws {
        var scheduler = try Self.scheduler(.linspace, order: 2, betas: 2)
        let data: [Float] = [1, -2, 0.5], noise: [Float] = [-0.25, 3, 1.5]
        for planned in [false, true] {
            if planned { try scheduler.setTimesteps(10) }
            let noisy = try scheduler.addNoise(noise, to: data, timesteps: [999])
            #expect(zip(noisy, noise).allSatisfy { abs($0 - $1) <= 1.1e-4 * 2 }, "\(noisy)")
        }
        // The levels are as extreme as float32 allows.
        let extreme = try makeDEIS { ($0.numTrainTimesteps, $0.trainedBetas) = (5, Array(repeating: 1 - 0x1p-24, count: 5)) }
        let noisy = try extreme.addNoise(noise, to: data, timesteps: [4])
        #expect(zip(noisy, noise).allSatisfy { abs($0 - $1) <= 1e-6 }, "\(noisy)")
    }

    /// Quirk 16: before `set_timesteps` the original pairs the noisiest timestep with the least noise.
    @Test func noiseBeforeSetTimestepsGoesTheRightWay() throws {
        let scheduler = try makeDEIS()
        let table = scheduler.noiseSchedule
        let data = [1.0, 1, 1], noise = [0.0, 0, 0]
        for timestep in [0.0, 1, 500, 999] {
            let signal = try scheduler.addNoise(noise, to: data, timesteps: [timestep])[0]
            #expect(abs(signal - table.alphasCumprod[Int(timestep)].squareRoot()) <= 1e-7 * signal, "t = \(timestep)")
        }
        let flow = try makeDEIS { $0.useFlowSigmas = true }
        #expect(try flow.addNoise([1, 1, 1], to: data.map { 3 * $0 }, timesteps: [250]) == [2.5, 2.5, 2.5])
        #expect(fault { _ = try scheduler.addNoise(noise, to: data, timesteps: [1000]) } != nil)
        #expect(fault { _ = try scheduler.addNoise(noise, to: data, timesteps: [-1]) } != nil)
        #expect(fault { _ = try scheduler.addNoise(noise, to: data, timesteps: [.nan]) } != nil)
    }

    /// Quirk 12: the default `sample_max_value` reduces dynamic thresholding to a plain clip, whatever the quantile.
    @Test func thresholdingWithTheDefaultMaximumClips() throws {
        var scheduler = try makeDEIS {
            $0.thresholding = true
            $0.predictionType = .sample
        }
        try scheduler.setTimesteps(4)
        let output: [Double] = [0.25, -0.5, 7, -3]
        let step = try scheduler.step(
            modelOutput: output, timestep: 999, sample: [0, 0, 0, 0], predictingOriginalSample: true)
        #expect(step.predOriginalSample == [0.25, -0.5, 1, -1])
    }

    /// A maximum below 1 overrides the least threshold of 1, and the prediction is divided by it.
    @Test func thresholdingWithALesserMaximumDividesByIt() throws {
        var scheduler = try makeDEIS {
            $0.thresholding = true
            $0.sampleMaxValue = 0.5
            $0.predictionType = .sample
        }
        try scheduler.setTimesteps(4)
        let step = try scheduler.step(
            modelOutput: [0.125, -0.25, 7, -3] as [Double], timestep: 999, sample: [0, 0, 0, 0], predictingOriginalSample: true)
        #expect(step.predOriginalSample == [0.25, -0.5, 1, -1])
    }

    @Test func thresholdsAreEachBatchItemsOwn() throws {
        var scheduler = try makeDEIS {
            $0.thresholding = true
            $0.dynamicThresholdingRatio = 0.5
            $0.sampleMaxValue = 100
            $0.predictionType = .sample
        }
        try scheduler.setTimesteps(4)
        let step = try scheduler.step(
            modelOutput: [1, 2, 8, 10, -20, 80] as [Double], timestep: 999, sample: Array(repeating: 0, count: 6), batchSize: 2,
            predictingOriginalSample: true)
        #expect(step.predOriginalSample == [0.5, 1, 1, 0.5, -1, 1])
    }

    // MARK: State between calls

    /// Quirk 16, item 21: `mu` stays in the original's configuration.
    @Test func muCountsForItsCallAlone() throws {
        var scheduler = try makeDEIS {
            $0.useFlowSigmas = true
            $0.useDynamicShifting = true
            $0.flowShift = 3
        }
        let before = scheduler.configuration
        try scheduler.setTimesteps(5)
        let without = scheduler.sigmas
        try scheduler.setTimesteps(5, mu: 1)
        #expect(scheduler.sigmas != without)
        // κz/(1 + (κ − 1)z) at z = 0.7992 for κ = e.
        let kappa = 2.718281828459045
        #expect(abs(scheduler.sigmas[1] - kappa * 0.7992 / (1 + (kappa - 1) * 0.7992)) <= Tolerance.sigma)
        try scheduler.setTimesteps(5)
        #expect(scheduler.sigmas == without)
        #expect(scheduler.configuration == before)
    }

    /// Quirk 15: outside flow sigmas the original divides a flow prediction's noise by ς, not by S.
    @Test func flowPredictionOutsideFlowMatchingIsTheReferences() throws {
        let scheduler = try makeDEIS { $0.predictionType = .flowPrediction }
        let level = NoiseLevel(sigma: 3.5, process: .variancePreserving)
        let conversion = try scheduler.solver.conversion(at: level, clamped: false)
        // m = (x − A (x − ς e))/ς
        #expect(abs(conversion.sample - (1 - level.signalRate) / 3.5) <= 1e-15)
        #expect(abs(conversion.modelOutput - level.signalRate) <= 1e-15)
        #expect(try SamplingSession.finalSample(of: scheduler.plan(.count(10))).allFinite)
    }

    /// Quirk 1: cancellation in float32 puts the original's coefficients of order 3 off by up to 0.09 here.
    @Test func coefficientsOfManySmallStepsDoNotCancel() throws {
        for grid in GridChoice.allCases {
            let plan = try Self.scheduler(grid, order: 3).plan(.count(999))
            for index in plan.timesteps.indices where Self.order(of: plan, at: index) == 3 {
                let row = plan.row(at: index, age: 2).nextSample
                let s = plan.levels[index], t = plan.levels[index + 1]
                // The integral of the constant 1: the coefficients of the outputs sum to A_t (ρ_t − ρ_s) exactly.
                let sum = row.modelOutput + row.slotCoefficients.reduce(0, +)
                let terms = abs(row.modelOutput) + row.slotCoefficients.map { abs($0) }.reduce(0, +)
                let exact = t.signalRate * (t.noiseToSignal - s.noiseToSignal)
                #expect(abs(sum - exact) <= Tolerance.coefficient * terms, "\(grid), step \(index): \(sum), exact \(exact)")
            }
        }
    }

    // MARK: Anything valid

    /// Randomly drawn configurations: each runs, stays finite, and follows its table of coefficients.
    @Test func randomConfigurationsRunAsTheirTablesSay() throws {
        var generator = SeededGenerator("configurations")
        for draw in 0..<TestDraws.count(150) {
            var configuration = DEISMultistepConfiguration()
            configuration.numTrainTimesteps = [1, 2, 10, 100, 1000].randomElement(using: &generator)!
            configuration.betaSchedule = DEISMultistepConfiguration.betaSchedules.randomElement(using: &generator)!
            configuration.betaStart = [0, 1e-5, 1e-4, 0.00085].randomElement(using: &generator)!
            configuration.betaEnd = [1e-3, 0.012, 0.02].randomElement(using: &generator)!
            configuration.solverOrder = Int.random(in: 1...3, using: &generator)
            configuration.lowerOrderFinal = Bool.random(using: &generator)
            configuration.stepsOffset = [0, 0, 1, 50].randomElement(using: &generator)!
            configuration.finalSigmasType = [nil, .zero, .sigmaMin].randomElement(using: &generator)!
            let grid = GridChoice.allCases.randomElement(using: &generator)!
            grid.apply(to: &configuration)
            // The table's least level isn't a flow-matching level; another test covers it.
            if grid == .flow, configuration.finalSigmasType == .sigmaMin { configuration.finalSigmasType = .zero }
            configuration.predictionType =
                (grid == .flow ? [.sample, .flowPrediction] : [.epsilon, .sample, .vPrediction]).randomElement(using: &generator)!
            configuration.flowShift = [1, 0.3, 7].randomElement(using: &generator)!
            configuration.thresholding = Bool.random(using: &generator)
            configuration.dynamicThresholdingRatio = Double.random(in: 0...1, using: &generator)
            configuration.sampleMaxValue = [0.5, 1, 2, 100].randomElement(using: &generator)!
            let count = Int.random(in: 1...25, using: &generator)
            let name: Comment = "draw \(draw), n = \(count): \(configuration.jsonText)"

            let scheduler = try DEISMultistepScheduler(configuration)
            if grid == .exponential, scheduler.noiseSchedule.sigmas[0] == 0 { continue }  // refused; another test covers it
            guard let plan = try? scheduler.plan(.count(count)) else {
                Issue.record("refused: \(name)")
                continue
            }
            var session = SamplingSession(plan: plan), oracle = PlainOracle(plan: plan)
            var x = GoldenProblem.initialSample, expected = x
            while let timestep = session.timestep {
                let output = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
                let step = oracle.step(modelOutput: output, sample: x, batchSize: 2)
                expected = step.nextSample
                try session.step(modelOutput: output, sample: &x, batchSize: 2)
                let bound = zip(x, zip(expected, step.magnitudes)).allSatisfy { ours, exact in
                    ours.isFinite && abs(ours - exact.0) <= Tolerance.float64Step(magnitude: exact.1)
                }
                #expect(bound, "\(name), step \(session.stepIndex - 1): \(x), by the table \(expected)")
            }
        }
    }
}
