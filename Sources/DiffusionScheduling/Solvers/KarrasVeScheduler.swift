// SPDX-License-Identifier: Apache-2.0

/// The stochastic sampler of Karras et al. 2022 (arXiv:2206.00364, algorithm 2) for variance-exploding models, as diffusers has it.
///
/// A sample is data + ς noise. A step from ς to τ raises the noise of the sample to ς̂ = (1 + γ) ς, and follows the model from there by
/// Heun's method. The model output e is that derivative with the other sign, −(x − p)/ς:
///
///     x̂ = x + s_noise √(ς̂² − ς²) z        γ = min(s_churn/n, √2 − 1) where s_min ≤ ς ≤ s_max, else 0
///     x̃ = x̂ − (τ − ς̂) e(x̂, ς̂)            x' = x̂ − (τ − ς̂)/2 (e(x̂, ς̂) + e(x̃, τ))
///
/// The model is asked with x̂, so each step's second evaluation adds the noise of the next step to x'. The noise of the first step is part
/// of ``SamplingPlan/initNoiseSigma``; a generator draws a tensor for it all the same, as in diffusers. The last step, to 0, ends at x̃.
///
/// ``SamplingPlan/timesteps`` are the levels that the model is asked at, ς̂ and τ in turn, 2n − 1 for n steps. They go from `sigmaMax`² to
/// `sigmaMin`², evenly in ln ς: diffusers takes the squares for levels. A run may begin at a step's first evaluation, with data + ς̂ noise.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias KarrasVeScheduler = DefinedScheduler<KarrasVeConfiguration>

/// The parameters of `KarrasVeScheduler`, with diffusers' defaults.
public struct KarrasVeConfiguration: LevelTimestepDefinition {
    public static let className = "KarrasVeScheduler"
    public static let compatibleClassNames = ["KarrasVeScheduler"]
    public static let noiseType = NoiseType.float32
    public static let timestepType: TimestepElementType? = .float32
    public static let sigmaType = SigmaElementType.float64
    public static let attributes = StepAttributes(tensors: ["derivative", "sample_hat"])
    public static let calls = [("step", "sample_hat"), ("step_correct", "sample_prev")].enumerated().map { evaluation, call in
        StepCall(
            call.0, evaluation: evaluation, levels: .arguments(["sigma_hat", "sigma_prev"]), sample: call.1,
            results: ["prev_sample", "derivative", "pred_original_sample"], tupleResults: ["prev_sample", "derivative"])
    }

    /// The roots of the least and of the greatest noise level.
    public var sigmaMin = 0.02, sigmaMax = 100.0
    /// The standard deviation of the added noise, and the noise added in all, spread over the steps.
    public var sNoise = 1.007, sChurn = 80.0
    /// The noise levels between which noise is added.
    public var sMin = 0.05, sMax = 50.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("sigma_min", \.sigmaMin, "The root of the least noise level."),
            .init("sigma_max", \.sigmaMax, "The root of the greatest noise level; runs start with noise of this deviation."),
            .init("s_noise", \.sNoise, "The standard deviation of the added noise."),
            .init("s_churn", \.sChurn, "How much noise is added in all, spread over the steps."),
            .init("s_min", \.sMin, "The least noise level at which noise is added."),
            .init("s_max", \.sMax, "The greatest noise level at which noise is added."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateLevels()
        try require("s_noise", sNoise, in: 0...1e100)
        try require("s_churn", sChurn, "at least 0", sChurn >= 0)
        for (key, value) in [("s_min", sMin), ("s_max", sMax)] { try require(key, value, "a number", !value.isNaN) }
    }

    // MARK: The plan

    /// The levels of a run of 1,000 steps: the training has no table of its own.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = Array(levels(count: 1000).reversed())
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas, process: .varianceExploding)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount()
        let levels = levels(count: count), gammas = levels.map { churn.churn(at: $0, stepCount: count) }
        func all(_ raised: [Double]) -> [Double] { raised.prefix(1) + zip(levels, raised).dropFirst().flatMap { [$0, $1] } }
        // The model is told the levels of float32 arithmetic.
        let told = zip(levels, gammas).map { Double(Float($0) + Float($1) * Float($0)) }
        let grid = TimestepGrid(
            timesteps: all(told), exactSigmas: all(zip(levels, gammas).map { $0 + $1 * $0 }) + [0], process: .varianceExploding)
        return try plan(on: grid, initNoiseSigma: hypotenuse(sigmaMax, churn.raised(from: levels[0], by: gammas[0]).noise))
    }

    /// The levels are ς̂ and τ in turn, as of a plan of this scheduler's.
    ///
    /// - Throws: `invalidValue` for a grid that isn't valid, or whose step doesn't raise the level; `unrepresentablePlan`.
    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid, initNoiseSigma: sigmaMax)
    }

    private func plan(on grid: TimestepGrid, initNoiseSigma: Double) throws(SchedulerError) -> SamplingPlan {
        try grid.validate()
        let sigmas = grid.sigmas, evaluations = grid.timesteps.indices
        for index in evaluations where index % 2 == 1 && index != evaluations.last {
            try require(
                "sigmas[\(index + 1)]", sigmas[index + 1], "at least \(sigmas[index]), the one before, which the step raises",
                sigmas[index + 1] >= sigmas[index])
        }
        let rows = evaluations.map { index in
            let level = sigmas[index], next = sigmas[index + 1], isLast = index == evaluations.last
            let prediction = Combination(sample: 1, modelOutput: level)
            if index % 2 == 0 {
                let half = Combination(sample: 1, modelOutput: (level - next) / 2)
                return PlanRow(
                    prediction: prediction, nextSample: Combination(sample: 1, modelOutput: level - next),
                    stores: isLast ? [] : [.init(slot: 0, value: half)], drawCount: index == 0 ? 1 : 0)
            }
            let rise = isLast ? 0 : sNoise * ((next - level) * (next + level)).squareRoot()
            let correction = Combination(modelOutput: (sigmas[index - 1] - level) / 2, noise: rise)
            return PlanRow(prediction: prediction, nextSample: Combination(.slot(0)) + correction, drawCount: isLast ? 0 : 1)
        }
        return try SamplingPlan(
            grid: grid, initNoiseSigma: initNoiseSigma, slotCount: evaluations.count > 1 ? 1 : 0,
            steps: evaluations.map { $0 / 2 }, rows: rows.map { [$0] })
    }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        var row = plan.row(at: index, age: age)
        if index % 2 == 1 {
            row.nextSample[.slot(0)] = -row.nextSample.modelOutput
            row.nextSample[.slot(1)] = 1
        } else if !row.stores.isEmpty {
            row.stores = [.init(slot: 0, value: Combination(modelOutput: -1)), .init(slot: 1, value: Combination(.sample))]
        }
        return row
    }

    private var churn: EulerDiscreteConfiguration.Options {
        var options = EulerDiscreteConfiguration.Options()
        (options.sChurn, options.sTmin, options.sTmax, options.sNoise) = (sChurn, sMin, sMax, sNoise)
        return options
    }

    /// The levels that the steps begin at, greatest first, by the float32 arithmetic of diffusers'. A single one is the greatest.
    private func levels(count: Int) -> [Double] {
        let greatest = Float(sigmaMax * sigmaMax), ratio = (sigmaMin * sigmaMin / (sigmaMax * sigmaMax)).roundedToFloat32
        let last = Float(max(count - 1, 1))
        return (0..<count).map { Double(greatest * Float(power(ratio, Double(Float($0) / last)))) }
    }
}
