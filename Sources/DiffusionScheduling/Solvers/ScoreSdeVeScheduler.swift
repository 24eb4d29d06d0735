// SPDX-License-Identifier: Apache-2.0

/// Predictor and corrector for score models of the variance-exploding process (Song et al. 2021, arXiv:2011.13456, algorithm 2 with
/// the predictor of equation 9 and the corrector of algorithm 4).
///
/// A sample is data + ς noise, and the model predicts the score e = −(x − p)/ς². A step from ς to τ corrects the sample `correctSteps`
/// times at ς, by Langevin dynamics with the signal-to-noise ratio r = `snr`, and then leads it to τ, with noise z:
///
///     corrector    x' = x + η e + √(2η) z               η = 2 (r ‖z‖/‖e‖)²
///     predictor    x' = x + g² e + g z                  g² = ς² − τ²
///
/// A row's numbers are known before its tensors, so rows take ‖z‖/‖e‖ = ς: for n elements, E‖z‖² = n and E‖e‖² = n/ς² where the model is
/// exact. Then η = 2 r² ς². diffusers measures both norms, and so does its drop-in here; another η is that of another level, ‖z‖/‖e‖.
///
/// The levels are e^(ln `sigmaMin` + (ln `sigmaMax` − ln `sigmaMin`) k/(n − 1)) for k = n − 1 … 0, and 0 at last.
/// ``SamplingPlan/timesteps`` are the levels that the model is told, the same for all evaluations of a step; they end at the share
/// `samplingEps` of the range instead of at 0. A run's result is the last evaluation's report, the mean x + g² e.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias ScoreSdeVeScheduler = DefinedScheduler<ScoreSdeVeConfiguration>

/// The parameters of `ScoreSdeVeScheduler`, with diffusers' defaults.
public struct ScoreSdeVeConfiguration: LevelTimestepDefinition {
    public static let className = "ScoreSdeVeScheduler"
    public static let compatibleClassNames = ["ScoreSdeVeScheduler"]
    public static let reportName = "prev_sample_mean"
    public static let resultType = ResultType.atLeastFloat32
    public static let noiseType = NoiseType.sample
    public static let timestepType: TimestepElementType? = .float32
    public static let calls = [
        StepCall("step_correct", levels: .norms, noiseType: .float32, results: ["prev_sample"]),
        StepCall("step_pred", levels: .table("discrete_sigmas"), noiseType: .sample, results: ["prev_sample", reportName]),
    ]

    /// The number of noise levels of the training; runs have as many levels as steps.
    public var numTrainTimesteps = 2000
    /// r: the ratio of a correction's step along the score to its noise.
    public var snr = 0.15
    /// The least noise level.
    public var sigmaMin = 0.01
    /// The greatest noise level, and the deviation of the noise that a run starts with.
    public var sigmaMax = 1348.0
    /// The share of the range of levels, counted from the least, at which the model is last evaluated.
    public var samplingEps = 1e-5
    /// The number of corrections in a step, 0...1,000.
    public var correctSteps = 1

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels of the training."),
            .init("snr", \.snr, "The ratio of a correction's step along the score to its noise."),
            .init("sigma_min", \.sigmaMin, "The least noise level."),
            .init("sigma_max", \.sigmaMax, "The greatest noise level; runs start with noise of this deviation."),
            .init("sampling_eps", \.samplingEps, "The share of the range of levels at which the model is last evaluated."),
            .init("correct_steps", \.correctSteps, "The number of corrections in a step."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("snr", snr, in: 0...1e50)
        try validateLevels()
        try require("sampling_eps", samplingEps, in: 0...1)
        try require("correct_steps", correctSteps, in: 0...1000)
    }

    // MARK: The plan

    /// The levels of a run with as many steps as the training has levels.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = levels(count: numTrainTimesteps)
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas, process: .varianceExploding)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount(), evaluations = correctSteps + 1
        try require("number of steps", count, "at most \(Limits.steps / evaluations)", count <= Limits.steps / evaluations)
        let levels = levels(count: count), ratio = Float(sigmaMax / sigmaMin)
        // Shares of the range, and the levels there, by diffusers' float32 arithmetic. Its rounding may take a level twice or skip one.
        let shares = BetaSchedule.linspace(1, Float(samplingEps), count: count)
        let told = shares.map { Double(Float(sigmaMin) * Float(power(Double(ratio), Double($0)))) }
        let places = shares.map { Int($0 * Float(count - 1)) }
        let grid = TimestepGrid(
            timesteps: told.flatMap { Array(repeating: $0, count: evaluations) },
            sigmas: places.flatMap { Array(repeating: levels[$0], count: evaluations) } + [0], process: .varianceExploding)
        let rows = places.flatMap { place in
            Array(repeating: correction(at: levels[place]), count: correctSteps)
                + [prediction(from: levels[place], to: place > 0 ? levels[place - 1] : 0)]
        }
        return try plan(grid, rows, steps: rows.indices.map { $0 / evaluations })
    }

    /// An evaluation corrects the sample if its level is also the next one, and else leads the sample there.
    ///
    /// - Throws: `invalidValue` for a grid that isn't valid, or that ascends; `unrepresentablePlan`.
    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try grid.validate(descends: true)
        let rows = zip(grid.sigmas, grid.sigmas.dropFirst()).map { level, next in
            level == next ? correction(at: level) : prediction(from: level, to: next)
        }
        return try plan(grid, rows, steps: [])
    }

    private func plan(_ grid: TimestepGrid, _ rows: [PlanRow], steps: [Int]) throws(SchedulerError) -> SamplingPlan {
        try SamplingPlan(
            grid: grid, initNoiseSigma: sigmaMax, slotCount: 0, steps: steps, reportName: Self.reportName, rows: rows.map { [$0] })
    }

    private func correction(at level: Double) -> PlanRow {
        let deviation = 2 * snr * level
        return row(at: level, score: deviation * deviation / 2, noise: deviation)
    }

    private func prediction(from level: Double, to next: Double) -> PlanRow {
        let variance = (level - next) * (level + next)
        return row(at: level, score: variance, noise: variance.squareRoot())
    }

    private func row(at level: Double, score: Double, noise: Double) -> PlanRow {
        let mean = Combination(sample: 1, modelOutput: score)
        return PlanRow(
            prediction: Combination(sample: 1, modelOutput: level * level), nextSample: mean + Combination(noise: noise),
            report: mean, drawCount: 1)
    }

    /// The levels as float32 numbers, least first; a single one is the least.
    private func levels(count: Int) -> [Double] {
        linspace(logarithm(sigmaMin), logarithm(sigmaMax), count: count).map { exponential($0).roundedToFloat32 }
    }
}
