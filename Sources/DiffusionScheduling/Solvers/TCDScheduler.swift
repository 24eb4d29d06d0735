// SPDX-License-Identifier: Apache-2.0

/// TCD: strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, arXiv:2402.19159, algorithm 4).
///
/// A step from timestep t to the next one u predicts the sample at s = ⌊(1 − η) u⌋, a timestep below u, and adds noise z up to u. With the
/// predicted clean sample p and noise ε:
///
///     x_s = √ᾱ_s p + √(1 − ᾱ_s) ε        x' = √(ᾱ_u/ᾱ_s) x_s + √(1 − ᾱ_u/ᾱ_s) z
///
/// η = 0 adds no noise, and η = 1 samples like LCM. The last step leads to timestep 0 and adds no noise. A run takes some of the timesteps
/// that the model was distilled at, or of all timesteps where the option `originalInferenceSteps` is given. The option `strength` leaves
/// out the noisiest ones, for image-to-image.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias TCDScheduler = DefinedScheduler<TCDConfiguration>

/// The parameters of `TCDScheduler`, with diffusers' defaults. It has all of LCM's, and reads some.
public struct TCDConfiguration: TrainingTimestepDefinition, ZeroTerminalSNRConfiguration, VelocityDefinition {
    public static let className = "TCDScheduler"
    public static let compatibleClassNames = ["TCDScheduler"]
    public static let reportName = "pred_noised_sample"

    public var numTrainTimesteps = 1000
    public var betaStart = 0.00085
    public var betaEnd = 0.012
    public var betaSchedule = BetaSchedule.scaledLinear
    public var trainedBetas: [Double]?
    /// The number of timesteps that the model was distilled at; a run takes some of them.
    public var originalInferenceSteps = 50
    /// Unused: nothing is clipped.
    public var clipSample = false, clipSampleRange = 1.0
    /// Unused: no step leads below timestep 0.
    public var setAlphaToOne = true
    /// Unused: the timesteps are those of the distillation.
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    /// Unused: nothing is thresholded.
    public var thresholding = false, dynamicThresholdingRatio = 0.995, sampleMaxValue = 1.0
    /// Unused: the timesteps are those of the distillation.
    public var timestepSpacing = TimestepSpacing.leading
    /// Unused: the model has no boundary condition.
    public var timestepScaling = 10.0
    public var rescaleBetasZeroSNR = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("original_inference_steps", \.originalInferenceSteps, "The number of timesteps that the model was distilled at."),
            .init("clip_sample", \.clipSample, "Unused: nothing is clipped."),
            .init("clip_sample_range", \.clipSampleRange, "Unused: nothing is clipped."),
            .init("set_alpha_to_one", \.setAlphaToOne, "Unused: no step leads below timestep 0."),
            .init("steps_offset", \.stepsOffset, "Unused: the timesteps are those of the distillation."),
            predictionTypeParameter,
            .init("thresholding", \.thresholding, "Unused: nothing is thresholded."),
            .init("dynamic_thresholding_ratio", \.dynamicThresholdingRatio, "Unused: nothing is thresholded."),
            .init("sample_max_value", \.sampleMaxValue, "Unused: nothing is thresholded."),
            .init("timestep_spacing", \.timestepSpacing, "Unused: the timesteps are those of the distillation."),
            .init("timestep_scaling", \.timestepScaling, "Unused: the model has no boundary condition."),
        ] + zeroTerminalSNRParameters
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try require("original_inference_steps", originalInferenceSteps, in: 1...NoiseSchedule.maximumTimesteps)
    }

    // MARK: The plan

    /// The options of a run of TCD.
    public struct Options: RunOptions {
        /// At least the number of steps; if given, a run takes any timesteps rather than those of the distillation.
        public var originalInferenceSteps: Int?
        /// The share of the timesteps that is used, from the clean end, in (0, 1].
        public var strength = 1.0
        /// η in [0, 1], the share of the way to timestep 0 that a step goes beyond its target; noise takes it back.
        public var eta = 0.3

        public init() {}
        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init(
                    "original_inference_steps", \.originalInferenceSteps,
                    "Given, a run takes any timesteps rather than those of the distillation."),
                .init("strength", \.strength, "The share of the timesteps that is used, from the clean end."),
                .init("eta", \.eta, "The stochasticity, from 0 (deterministic) to 1: the paper's gamma."),
            ]
        }

        public func validate() throws(SchedulerError) {
            try require("strength", strength, "greater than 0 and at most 1", strength > 0 && strength <= 1)
            try require("eta", eta, "from 0 (deterministic) to 1", (0...1).contains(eta))
        }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let (timesteps, count) = try timesteps(request, options: options)
        var rows: [[PlanRow]] = []
        for (index, (timestep, next)) in zip(timesteps, timesteps.dropFirst() + [0]).enumerated() {
            let source = try noise.alphaCumprod(atTimestep: timestep)
            // s is a product of float32 numbers in diffusers.
            let landing = (Float(1 - options.eta) * Float(next)).rounded(.down)
            let target = try noise.alphaCumprod(atTimestep: next), inner = try noise.alphaCumprod(atTimestep: Double(landing))
            let noised = predictionType.transfer(from: source, to: inner)
            let clean = predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(source)))
            var row = PlanRow(prediction: clean, nextSample: noised, report: noised)
            if options.eta > 0, target != inner {
                row.nextSample = (target / inner).squareRoot() * noised
                row.nextSample.noise = ((inner - target) / inner).squareRoot()
            }
            // diffusers compares with the number of timesteps before `strength` leaves some out.
            row.drawCount = options.eta > 0 && index != count - 1 ? 1 : 0
            rows.append([row])
        }
        return try SamplingPlan(
            grid: grid(timesteps, final: noise.sigmas[0], noise: noise), reportName: Self.reportName, rows: rows)
    }

    /// The timesteps of a run, and their number before `strength` has left out some of the caller's.
    private func timesteps(
        _ request: TimestepRequest, options: Options
    ) throws(SchedulerError) -> (used: [Double], count: Int) {
        try requireTimestepRequest(request)
        let trained = numTrainTimesteps, original = options.originalInferenceSteps ?? originalInferenceSteps
        try require(
            "original_inference_steps", original, "from 1 to num_train_timesteps = \(trained)",
            original >= 1 && (original <= trained || options.originalInferenceSteps != nil))
        if case .timesteps(let timesteps, _) = request {
            try requireTrainingTimesteps(timesteps)
            let used = Int(Double(timesteps.count) * options.strength)
            try require("strength", options.strength, "at least 1/\(timesteps.count), so that a timestep is left", used > 0)
            return (timesteps.suffix(used), timesteps.count)
        }
        guard case .count(let count, _) = request else { return ([], 0) }
        // Every timestep, or every ⌊T/o⌋th, from the clean end; the run takes `count` of them from the noisy end, evenly spread.
        let isFree = options.originalInferenceSteps != nil, skip = isFree ? 1 : trained / original
        let used = Int(Double(isFree ? trained : original) * options.strength), most = min(used, original)
        try require(
            "number of steps", count, "from 1 to \(most), the number of timesteps that original_inference_steps and strength leave",
            count >= 1 && count <= most)
        try requireStepCount(count)
        let stride = Double(used) / Double(count)
        return ((0..<count).map { Double((used - Int(Double($0) * stride)) * skip - 1) }, count)
    }
}
