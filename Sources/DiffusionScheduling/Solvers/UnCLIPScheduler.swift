// SPDX-License-Identifier: Apache-2.0

/// UnCLIP: DDPM on evenly spaced timesteps, as the karlo models sample (Ho, Jain and Abbeel 2020, arXiv:2006.11239, equation 7; Ramesh et
/// al. 2022, arXiv:2204.06125).
///
/// A step from the signal variance ᾱ_t to ᾱ_u, with the predicted clean sample p, noise z, β = 1 − ᾱ_t/ᾱ_u and α = 1 − β:
///
///     x' = √ᾱ_u β/(1 − ᾱ_t) p + √α (1 − ᾱ_u)/(1 − ᾱ_t) x + σ z        σ² = max((1 − ᾱ_u)/(1 − ᾱ_t) β, 10⁻²⁰)
///
/// If the model has learned its range, the variance lies between that σ² and β (`NoiseFactor`). Between neighbouring timesteps, β
/// comes from the training's table. Every step draws noise, except the step from timestep 0. A step leads to the next timestep of
/// the run, as in karlo's pipelines; the option `prevTimestep` names another. Steps depend on nothing but their arguments and the
/// run's timesteps, so they may be taken in any order.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias UnCLIPScheduler = DefinedScheduler<UnCLIPConfiguration>

/// The parameters of `UnCLIPScheduler`, with diffusers' defaults.
public struct UnCLIPConfiguration: TrainingTimestepDefinition, ClippingConfiguration {
    public static let className = "UnCLIPScheduler"
    public static let compatibleClassNames = ["UnCLIPScheduler"]
    public static let isStateless = true
    public static let betaSchedules = [BetaSchedule.squaredcosCapV2]
    public static let predictionTypes = [PredictionType.epsilon, .sample]

    /// The variance σ² of the noise that a step adds.
    public enum Variance: String, ConfigurationKeyword {
        /// The posterior's, at least 10⁻²⁰.
        case fixedSmallLog = "fixed_small_log"
        /// The model predicts, for each element, a place between the logarithms of the posterior's variance, −1, and β, 1.
        case learnedRange = "learned_range"
    }

    public var numTrainTimesteps = 1000
    /// The variance of the noise that a step adds.
    public var varianceType = Variance.fixedSmallLog
    public var clipSample = true
    public var clipSampleRange = 1.0
    public var predictionType = PredictionType.epsilon
    public var betaSchedule = BetaSchedule.squaredcosCapV2
    public var trainedBetas: [Double]?
    /// Unused: the schedule has no ends.
    public var betaStart = 0.0
    /// Unused: the schedule has no ends.
    public var betaEnd = 0.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("variance_type", \.varianceType, "The variance of the noise that a step adds."),
            clipSampleParameter, clipSampleRangeParameter, predictionTypeParameter,
            .init("beta_schedule", \.betaSchedule, among: betaSchedules, "How the variances of the training run."),
            .init(
                "diffusion_scheduling_trained_betas", overrideName: "trained_betas", \.trainedBetas,
                "The variances of the training themselves, which override the schedule."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateClipping()
    }

    // MARK: The plan

    /// The options of a step of UnCLIP.
    public struct Options: RunOptions {
        /// The timestep that the step leads to, at most its own; below 0: the clean sample. nil: the next one of the run.
        public var prevTimestep: Int?

        public init() {}
        /// The options of a step to a timestep.
        public init(prevTimestep: Int?) { self.prevTimestep = prevTimestep }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init(
                    "prev_timestep", \.prevTimestep,
                    "The timestep that the step leads to, below 0 the clean sample; null: the next one of the run.",
                    timestepOffset: -1)
            ]
        }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try timesteps(request)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let next = index + 1 < timesteps.count ? timesteps[index + 1] : -1
            rows.append([try row(from: timestep, to: options.prevTimestep.map(Double.init) ?? next, noise: noise)])
        }
        let grid = grid(timesteps, final: 0, noise: noise), isLearned = varianceType == .learnedRange
        return try SamplingPlan(grid: grid, clamp: clipping, modelLearnsVariance: isLearned, rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        let next = options.prevTimestep.map(Double.init) ?? plan.timesteps.first { $0 < timestep } ?? -1
        return try row(from: timestep, to: next, noise: noise)
    }

    private func row(from timestep: Double, to next: Double, noise: NoiseSchedule) throws(SchedulerError) -> PlanRow {
        let source = try noise.alphaCumprod(atTimestep: timestep)
        try require("prev_timestep", timestepText(next), "at most the timestep, \(timestepText(timestep))", next <= timestep)
        let target = next < 0 ? 1 : try noise.alphaCumprod(atTimestep: next)
        let prediction = predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(source)))
        var mean = Combination(.sample), variance = 0.0, greatest = 0.0
        // Equal levels may both be without signal, and the source without noise. Don't divide there.
        if source < 1, target != source || source > 0 {
            let isNeighbour = next == timestep - 1, tabled = isNeighbour ? trainedBeta(Int(timestep)) : 0
            let beta = isNeighbour ? Double(tabled) : (target - source) / target
            let alpha = isNeighbour ? Double(1 - tabled) : source / target
            let kept = (1 - target) / (1 - source)
            mean = Combination(sample: alpha.squareRoot() * kept, prediction: target.squareRoot() * beta / (1 - source))
            (variance, greatest) = (kept * beta, beta)
        }
        var nextSample = clipping == .none ? mean.replacing(.prediction, by: prediction) : mean, factor = NoiseFactor.none
        if timestep > 0, varianceType == .fixedSmallLog { nextSample.noise = max(variance, 1e-20).squareRoot() }
        // A variance of 0 leaves no range: every place but 1 has the variance 0.
        if timestep > 0, varianceType == .learnedRange, variance > 0 {
            (nextSample.noise, factor) = (1, .between(variance, greatest))
        }
        return PlanRow(prediction: prediction, nextSample: nextSample, drawCount: timestep > 0 ? 1 : 0, noiseFactor: factor)
    }

    /// β of a training timestep.
    private func trainedBeta(_ timestep: Int) -> Float {
        trainedBetas.map { Float($0[timestep]) } ?? BetaSchedule.squaredCosineBeta(timestep, count: numTrainTimesteps)
    }

    /// The timesteps of a run, evenly spaced from T − 1 to 0, both included.
    private func timesteps(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        let count = try request.onlyCount()
        try requireStepCount(count, upTo: numTrainTimesteps)
        try require(
            "number of steps", count, "at least 2: the first and the last training timestep", count > 1 || numTrainTimesteps == 1)
        let stride = Double(numTrainTimesteps - 1) / Double(max(count - 1, 1))
        return (0..<count).reversed().map { roundedHalfToEven(Double($0) * stride) }
    }
}
