// SPDX-License-Identifier: Apache-2.0

/// PNDM: pseudo numerical methods for diffusion models (Liu, Ren, Lin and Zhao 2022, arXiv:2202.09778, algorithm 2).
///
/// Classical methods for ordinary differential equations whose straight line is replaced by F, DDIM's step along a noise ε (equation 11):
///
///     F(x, ε, t → u) = √(ᾱ_u/ᾱ_t) x − (ᾱ_u − ᾱ_t)/(ᾱ_t √(1 − ᾱ_u) + √(ᾱ_t (1 − ᾱ_t) ᾱ_u)) ε
///
/// The linear multistep method (PLMS, equation 12) puts the Adams-Bashforth combination of the last four model outputs in the place of ε:
///
///     (55 e₀ − 59 e₁ + 37 e₂ − 9 e₃)/24
///
/// With `skipPRKSteps`, as for Stable Diffusion, the first step is Heun's: along e₀, then again from the same sample along the mean of
/// both outputs. The orders 2, 3 and 4 follow. A run of n steps has n + 1 evaluations.
///
/// Otherwise a run begins with three steps of the pseudo Runge-Kutta method (PRK, equation 13), of four evaluations each, weighted
/// 1/6, 1/3, 1/3, 1/6. A run has n + 9 evaluations, and n is at least 4. Every PLMS step spans ⌊T/n⌋ timesteps, whatever the spacing.
///
/// A run may begin at a later step. There it begins with order 1, or with a step of PRK, and the orders rise with the outputs that it
/// remembers. The class of that name in diffusers, the reference, counts its calls instead: wherever a run begins, it takes the first step
/// twice, although the list repeats no timestep there, and stays one step behind. It also plans more than T steps, which do nothing;
/// they are refused here.
public typealias PNDMScheduler = DefinedScheduler<PNDMConfiguration>

/// The parameters of `PNDMScheduler`, with diffusers' defaults.
public struct PNDMConfiguration: TimestepSpacingConfiguration, FinalAlphaConfiguration {
    public static let className = "PNDMScheduler"
    public static let returnsReport = false
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let predictionTypes: [PredictionType] = [.epsilon, .vPrediction]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// Whether a run begins without pseudo Runge-Kutta steps, as for Stable Diffusion.
    public var skipPRKSteps = false
    public var setAlphaToOne = false
    public var finalAlphaCumprod: Double?
    public var predictionType = PredictionType.epsilon
    public var timestepSpacing = TimestepSpacing.leading
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("skip_prk_steps", \.skipPRKSteps, "Whether a run begins without pseudo Runge-Kutta steps."),
            setAlphaToOneParameter, predictionTypeParameter, timestepSpacingParameter, stepsOffsetParameter,
            finalAlphaCumprodParameter,
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateStepsOffset(upTo: numTrainTimesteps - 1)
        try validateFinalAlphaCumprod()
    }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try requireTimestepRequest(request)
        guard case .count(let count, _) = request else {
            throw .invalidValue(key: "timesteps", value: "given", allowed: "left out: PNDM takes a number of steps")
        }
        let chosen = try denoisingTimesteps(count: count), stride = numTrainTimesteps / count
        let run = try skipPRKSteps ? PNDMSolver.multistepRun(chosen) : PNDMSolver.rungeKuttaRun(chosen, stride: stride)
        let solver = PNDMSolver(
            predictionType: predictionType, alphasCumprod: noise.alphasCumprod, finalAlphaCumprod: finalAlphaCumprod(noise),
            stride: stride, rungeKuttaCount: skipPRKSteps ? 0 : 12, timesteps: run.timesteps, steps: run.steps)
        let warmUp = skipPRKSteps ? 3 : 9
        return try SamplingPlan(
            grid: grid(run.timesteps.map(Double.init), final: finalSigma(noise), noise: noise),
            slotCount: skipPRKSteps ? 3 : 5, warmUp: warmUp, steps: run.steps,
            rows: run.timesteps.indices.map { index in (0...min(index, warmUp)).map { solver.row(at: index, age: $0) } })
    }

    public static var attributes: StepAttributes {
        StepAttributes(tensors: ["cur_sample", "cur_model_output"], history: "ets", age: "counter")
    }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        let step = plan.steps[index], isFirst = plan.isStart(index), ets = Self.attributes.tensors.count
        // Slot 2 is the sample of Heun's step in its two evaluations.
        func tensor(_ slot: Int) -> Int? { slot == 3 || (slot == 2 && skipPRKSteps && index < 2) ? 0 : slot == 4 ? 1 : nil }
        return plan.row(at: index, age: age).renumbering(
            reads: { tensor($0) ?? ets + ((isFirst ? step - 1 : step) - $0 + 3) % 3 }, stores: { tensor($0) ?? ets })
    }
}

/// The rows of PNDM.
///
/// Step s stores its first model output in slot s mod 3. Slot 2 holds the sample that Heun's step starts from. Slot 3 holds the sample that
/// a PRK step starts from, and slot 4 the weighted sum of its outputs.
struct PNDMSolver {
    var predictionType: PredictionType
    var alphasCumprod: [Double]
    /// ᾱ below timestep 0.
    var finalAlphaCumprod: Double
    /// ⌊T/n⌋
    var stride: Int
    /// The number of evaluations of PRK, 4 a step.
    var rungeKuttaCount: Int
    var timesteps: [Int]
    /// The step that each evaluation belongs to.
    var steps: [Int]

    /// Adams-Bashforth weights by the number of remembered outputs, the newest output first.
    static let weights: [[Double]] = [
        [1], [3.0 / 2, -1.0 / 2], [23.0 / 12, -16.0 / 12, 5.0 / 12], [55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24],
    ]

    func row(at index: Int, age: Int) -> PlanRow {
        let t = timesteps[index], step = steps[index], e = Combination(.modelOutput)
        let isFirstOfStep = index == 0 || steps[index - 1] != step
        if index < rungeKuttaCount { return rungeKuttaRow(at: index) }
        // Heun's second evaluation, at the timestep that the first one led to.
        guard isFirstOfStep else {
            let mean = 0.5 * e + 0.5 * Combination(.slot(step % 3))
            return row(at: t, nextSample: transfer(from: t + stride, to: t, .slot(2), along: mean))
        }
        let remembered = min(step - steps[index - age], 3)
        var output = Self.weights[remembered][0] * e
        for (back, weight) in Self.weights[remembered].enumerated().dropFirst() { output[.slot((step - back) % 3)] = weight }
        let isTakenTwice = index + 1 < steps.count && steps[index + 1] == step
        return row(
            at: t, nextSample: transfer(from: t, to: t - stride, .sample, along: output),
            stores: [.init(slot: step % 3, value: e)] + (isTakenTwice ? [.init(slot: 2, value: Combination(.sample))] : []))
    }

    private func rungeKuttaRow(at index: Int) -> PlanRow {
        let t = timesteps[index], half = t - stride / 2, start = timesteps[index / 4 * 4]
        let e = Combination(.modelOutput), first = PlanRow.Store(slot: steps[index] % 3, value: e)
        switch index % 4 {
        case 0:
            return row(
                at: t, nextSample: transfer(from: start, to: half, .sample, along: e),
                stores: [first, .init(slot: 3, value: Combination(.sample))])
        case 1:
            let sum = (1.0 / 6) * Combination(.slot(first.slot)) + (1.0 / 3) * e
            return row(
                at: t, nextSample: transfer(from: start, to: t, .slot(3), along: e), stores: [.init(slot: 4, value: sum)])
        case 2:
            let sum = Combination(.slot(4)) + (1.0 / 3) * e
            return row(
                at: t, nextSample: transfer(from: start, to: half, .slot(3), along: e), stores: [.init(slot: 4, value: sum)])
        default:
            let sum = Combination(.slot(4)) + (1.0 / 6) * e
            return row(at: t, nextSample: transfer(from: start, to: t, .slot(3), along: sum))
        }
    }

    private func row(at t: Int, nextSample: Combination, stores: [PlanRow.Store] = []) -> PlanRow {
        let level = NoiseLevel(alphaCumprod: predictionType.floored(alphasCumprod[t]))
        return PlanRow(prediction: predictionType.cleanSample(at: level), nextSample: nextSample, stores: stores)
    }

    /// F of a stream along a model output: of epsilon directly, of v through ε = √ᾱ v + √(1 − ᾱ) x.
    private func transfer(from t: Int, to u: Int, _ stream: Stream, along output: Combination) -> Combination {
        let step = predictionType.transfer(from: alphasCumprod[t], to: u < 0 ? finalAlphaCumprod : alphasCumprod[u])
        return step.sample * Combination(stream) + step.modelOutput * output
    }

    // MARK: Timesteps

    /// The timesteps of a run without PRK, the second one twice, and the step of each.
    static func multistepRun(_ chosen: [Double]) -> (timesteps: [Int], steps: [Int]) {
        var timesteps = chosen.map { Int($0) }
        if timesteps.count > 1 { timesteps.insert(timesteps[1], at: 1) }
        return (timesteps, timesteps.indices.map { max($0 - 1, 0) })
    }

    /// The timesteps of a run whose first three steps are of PRK, with two evaluations in the middle of a step and one at its end.
    static func rungeKuttaRun(_ chosen: [Double], stride: Int) throws(SchedulerError) -> (timesteps: [Int], steps: [Int]) {
        try require(
            "number of steps", chosen.count, "at least 4, unless skip_prk_steps is true", chosen.count >= 4)
        let chosen = chosen.map { Int($0) }
        var timesteps: [Int] = []
        for (start, end) in zip(chosen[..<3], chosen[1...]) {
            let middle = end + stride / 2
            timesteps += [start, middle, middle, end]
        }
        timesteps += chosen[3...]
        return (timesteps, timesteps.indices.map { $0 < 12 ? $0 / 4 : $0 - 9 })
    }
}
