// SPDX-License-Identifier: Apache-2.0

/// DDPM: denoising diffusion probabilistic models (Ho, Jain and Abbeel 2020, arXiv:2006.11239, algorithm 2).
///
/// A step from the signal variance ᾱ_t to ᾱ_u draws from the posterior of equation 7, with the predicted clean sample p, noise z and
/// β = 1 − ᾱ_t/ᾱ_u:
///
///     x' = √ᾱ_u β/(1 − ᾱ_t) p + √(ᾱ_t/ᾱ_u) (1 − ᾱ_u)/(1 − ᾱ_t) x + σ z
///
///     small    σ² = (1 − ᾱ_u)/(1 − ᾱ_t) β        large           σ² = β
///     learned  σ² = v, which the model predicts   learned range   σ between the small and the large one, by v: `NoiseFactor`
///
/// A step leads to the next timestep of the run, and from the last timestep to the clean sample. Every step draws noise, except the step
/// from timestep 0. Steps depend on nothing but their arguments and the run's timesteps, so they may be taken in any order. A step from a
/// timestep that isn't in the plan leads to the plan's next timestep below it.
///
/// The class of that name in diffusers is the reference. It refuses timesteps that aren't in the plan. Its `fixed_large_log` takes the root
/// of a negative logarithm, NaN; here it is `fixed_large`, as in Glide, where it comes from. Where two levels are equal, a step changes
/// nothing but the noise.
public typealias DDPMScheduler = DefinedScheduler<DDPMConfiguration>

/// The parameters of `DDPMScheduler`, with diffusers' defaults.
public struct DDPMConfiguration:
    TrainingTimestepDefinition, TimestepSpacingConfiguration, ClippingConfiguration, ThresholdingConfiguration,
    ZeroTerminalSNRConfiguration, SteppingWithoutNoise
{
    public static let className = "DDPMScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let isStateless = true
    public static let betaSchedules = BetaSchedule.allCases

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// The variance σ² of the noise that a step adds.
    public var varianceType = DDPMVarianceType.fixedSmall
    public var clipSample = true
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var clipSampleRange = 1.0
    public var sampleMaxValue = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var stepsOffset = 0
    public var rescaleBetasZeroSNR = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("variance_type", \.varianceType, "The variance of the noise that a step adds."),
            clipSampleParameter, predictionTypeParameter,
        ] + thresholdingParameters[..<2] + [clipSampleRangeParameter] + thresholdingParameters[2...] + [
            timestepSpacingParameter, stepsOffsetParameter,
        ] + zeroTerminalSNRParameters
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateClipping()
        try validateThresholding()
        try validateStepsOffset(upTo: numTrainTimesteps - 1)
    }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try denoisingTimesteps(request)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let next = index + 1 < timesteps.count ? timesteps[index + 1] : nil
            rows.append([try row(from: timestep, to: next, noise: noise)])
        }
        return try SamplingPlan(
            grid: grid(timesteps, final: 0, noise: noise), clamp: predictionClamp, modelLearnsVariance: varianceType.isLearned,
            rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try row(from: timestep, to: plan.timesteps.first { $0 < timestep }, noise: noise)
    }

    public func rowWithoutNoise(
        from timestep: Double, to target: Double?, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        let row = try row(from: timestep, to: target, noise: noise)
        var mean = row.nextSample
        mean.noise = 0
        return PlanRow(prediction: row.prediction, nextSample: mean)
    }

    fileprivate func row(from timestep: Double, to next: Double?, noise: NoiseSchedule) throws(SchedulerError) -> PlanRow {
        let source = try noise.alphaCumprod(atTimestep: timestep)
        var target = 1.0
        if let next {
            target = try noise.alphaCumprod(atTimestep: next)
            try require("next timestep", timestepText(next), "less than \(timestepText(timestep))", next < timestep)
        }
        // Equal levels may both be without noise, or without signal. Don't divide there.
        let beta = target == source ? 0 : (target - source) / target
        let ratio = target == source ? 1 : source / target
        let kept = target == source ? 1 : (1 - target) / (1 - source)

        let prediction = predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(source)))
        let mean = Combination(
            sample: ratio.squareRoot() * kept, prediction: target == source ? 0 : target.squareRoot() * beta / (1 - source))
        var nextSample = predictionClamp == .none ? mean.replacing(.prediction, by: prediction) : mean
        guard timestep > 0 else { return PlanRow(prediction: prediction, nextSample: nextSample, drawCount: 0) }
        let (deviation, factor) = varianceType.noise(beta: beta, kept: kept)
        nextSample.noise = deviation
        return PlanRow(prediction: prediction, nextSample: nextSample, drawCount: 1, noiseFactor: factor)
    }
}

extension DefinedScheduler where Definition == DDPMConfiguration {
    /// The clamp of predicted clean samples.
    public var clamp: PredictionClamp { configuration.predictionClamp }

    /// The scalars of a step between any two training timesteps, on demand.
    ///
    /// - Parameters:
    ///   - timestep: the timestep that the step starts at, in 0…T − 1.
    ///   - next: the timestep that it leads to, less than `timestep`; nil: the clean sample.
    /// - Throws: `unknownTimestep`, `invalidValue`.
    /// - Complexity: O(1).
    public func row(from timestep: Double, to next: Double?) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.row(from: timestep, to: next, noise: noiseSchedule)
    }
}
