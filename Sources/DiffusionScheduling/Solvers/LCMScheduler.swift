// SPDX-License-Identifier: Apache-2.0

/// LCM: multistep sampling of latent consistency models (Luo et al. 2023, arXiv:2310.04378, algorithm 3; Song et al. 2023,
/// arXiv:2303.01469, algorithm 1).
///
/// A step from timestep t computes the consistency function f, which is x at t = 0, and adds noise z up to the level of the next timestep
/// u. With the predicted clean sample p and k = `timestepScaling` · t:
///
///     f  = c_skip x + c_out p        c_skip = ¼/(k² + ¼)        c_out = k/√(k² + ¼)
///     x' = √ᾱ_u f + √(1 − ᾱ_u) z     after the last step: x' = f
///
/// A run takes some of the `originalInferenceSteps` timesteps that the model was distilled at. The option `strength` leaves out the noisiest
/// ones, for image-to-image. The last step of a run adds no noise, so steps are taken in the run's order.
///
/// The class of that name in diffusers is the reference. With custom timesteps and a `strength` below 1 it adds noise after the last
/// step too; here the last step always gives f. A negative `timestepScaling` is refused.
public typealias LCMScheduler = DefinedScheduler<LCMConfiguration>

/// The parameters of `LCMScheduler`, with diffusers' defaults.
public struct LCMConfiguration:
    TimestepSpacingConfiguration, ClippingConfiguration, ThresholdingConfiguration, FinalAlphaConfiguration,
    ZeroTerminalSNRConfiguration, VelocityDefinition
{
    public static let className = "LCMScheduler"
    public static let compatibleClassNames = ["LCMScheduler"]
    public static let reportName = "denoised"

    public var numTrainTimesteps = 1000
    public var betaStart = 0.00085
    public var betaEnd = 0.012
    public var betaSchedule = BetaSchedule.scaledLinear
    public var trainedBetas: [Double]?
    /// The number of timesteps that the model was distilled at; a run takes some of them.
    public var originalInferenceSteps = 50
    public var clipSample = false
    public var clipSampleRange = 1.0
    /// Unused: no step leads below timestep 0.
    public var setAlphaToOne = true
    /// Unused: no step leads below timestep 0.
    public var finalAlphaCumprod: Double?
    /// Unused: the model was distilled at other timesteps.
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    /// Unused: the model was distilled at other timesteps.
    public var timestepSpacing = TimestepSpacing.leading
    /// The factor of timesteps in c_skip and c_out, at least 0: the greater it is, the less of x is in f.
    public var timestepScaling = 10.0
    public var rescaleBetasZeroSNR = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("original_inference_steps", \.originalInferenceSteps, "The number of timesteps that the model was distilled at."),
            clipSampleParameter, clipSampleRangeParameter,
            .init("set_alpha_to_one", \.setAlphaToOne, "Unused: no step leads below timestep 0."),
            .init("steps_offset", \.stepsOffset, "Unused: the timesteps are those of the distillation."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("timestep_spacing", \.timestepSpacing, "Unused: the timesteps are those of the distillation."),
            .init("timestep_scaling", \.timestepScaling, "The factor of timesteps in the boundary condition."),
        ] + zeroTerminalSNRParameters
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateClipping()
        try validateThresholding()
        try require("original_inference_steps", originalInferenceSteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("timestep_scaling", timestepScaling, in: 0...1e100)
    }

    // MARK: The plan

    /// The options of an LCM run.
    public struct Options: RunOptions {
        /// The number of timesteps that the model was distilled at; nil: the configuration's.
        public var originalInferenceSteps: Int?
        /// The share of the timesteps that is used, from the clean end, in (0, 1].
        public var strength = 1.0

        public init() {}

        /// These options.
        public init(originalInferenceSteps: Int? = nil, strength: Double = 1) {
            self.originalInferenceSteps = originalInferenceSteps
            self.strength = strength
        }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init(
                    "original_inference_steps", \.originalInferenceSteps,
                    "The number of timesteps that the model was distilled at; null: the configuration's."),
                .init("strength", \.strength, "The share of the timesteps that is used, from the clean end."),
            ]
        }

        public func validate() throws(SchedulerError) {
            try require("strength", strength, "greater than 0 and at most 1", strength > 0 && strength <= 1)
        }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try timesteps(request, options: options)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let next = index + 1 < timesteps.count ? timesteps[index + 1] : nil
            rows.append([try row(from: timestep, to: next, noise: noise)])
        }
        return try SamplingPlan(
            grid: grid(timesteps, final: 0, noise: noise), clamp: predictionClamp, reportName: Self.reportName, rows: rows)
    }

    private func row(from timestep: Double, to next: Double?, noise: NoiseSchedule) throws(SchedulerError) -> PlanRow {
        let source = try noise.alphaCumprod(atTimestep: timestep)
        let prediction = predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(source)))

        let k = timestep * timestepScaling, length = hypotenuse(k, 0.5)
        let boundary = Combination(sample: 0.5 / length * (0.5 / length), prediction: k / length)
        let denoised = predictionClamp == .none ? boundary.replacing(.prediction, by: prediction) : boundary

        guard let next else { return PlanRow(prediction: prediction, nextSample: denoised, report: denoised) }
        let target = try trainingLevel(atTimestep: next, noise: noise)
        return PlanRow(
            prediction: prediction,
            nextSample: target.signalRate * denoised + target.noiseRate * Combination(.noise), report: denoised, drawCount: 1)
    }

    private func timesteps(_ request: TimestepRequest, options: Options) throws(SchedulerError) -> [Double] {
        try requireTimestepRequest(request)
        let original = options.originalInferenceSteps ?? originalInferenceSteps
        try require(
            "original_inference_steps", original, "from 1 to num_train_timesteps = \(numTrainTimesteps)",
            (1...numTrainTimesteps).contains(original))
        guard case .count(let count, _) = request else {
            guard case .timesteps(let timesteps, _) = request else { return [] }
            try requireTrainingTimesteps(timesteps)
            let used = Int(Double(timesteps.count) * options.strength)
            try require("strength", options.strength, "at least 1/\(timesteps.count), so that a timestep is left", used > 0)
            return timesteps.suffix(used)
        }
        // Every ⌊T/o⌋th timestep from the clean end; the run takes `count` of them from the noisy end, evenly spread.
        let skip = numTrainTimesteps / original, used = Int(Double(original) * options.strength)
        try require(
            "number of steps", count, "from 1 to original_inference_steps * strength, rounded down: \(used)",
            (1...max(used, 1)).contains(count) && used > 0)
        try require("number of steps", count, "at most \(TimestepRequest.maximumSteps)", count <= TimestepRequest.maximumSteps)
        let stride = Double(used) / Double(count)
        return (0..<count).map { Double((used - Int(Double($0) * stride)) * skip - 1) }
    }
}

extension DefinedScheduler where Definition == LCMConfiguration {
    /// The clamp of predicted clean samples.
    public var clamp: PredictionClamp { configuration.predictionClamp }

    /// Compiles a plan; the scheduler itself doesn't change.
    ///
    /// - Throws: `invalidValue` for a request, a number of original steps or a strength that isn't allowed; `unrepresentablePlan`.
    public func plan(
        _ request: TimestepRequest, originalInferenceSteps: Int? = nil, strength: Double
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(request, options: .init(originalInferenceSteps: originalInferenceSteps, strength: strength))
    }
}
