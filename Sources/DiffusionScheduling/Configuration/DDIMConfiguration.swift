// SPDX-License-Identifier: Apache-2.0

/// The keys that DDIM and its inverse share.
public protocol DDIMFamilyConfiguration: ZeroTerminalSNRConfiguration {
    /// `epsilon`, `sample` or `vPrediction`.
    var predictionType: PredictionType { get set }
    /// Whether the predicted clean sample is clipped to ±`clipSampleRange`; for models of pixels, not of latents.
    var clipSample: Bool { get set }
    /// The limit of `clipSample`, > 0.
    var clipSampleRange: Double { get set }
    /// Whether the level before timestep 0 is the clean sample, ᾱ = 1, rather than timestep 0 itself.
    var setAlphaToOne: Bool { get set }
    var timestepSpacing: TimestepSpacing { get set }
    /// Added to the timesteps of the spacing `leading`; 1 for Stable Diffusion.
    var stepsOffset: Int { get set }
}

extension DDIMFamilyConfiguration {
    static var ddimParameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + zeroTerminalSNRParameters + [
            .init("prediction_type", \.predictionType),
            .init("clip_sample", \.clipSample),
            .init("clip_sample_range", \.clipSampleRange),
            .init("set_alpha_to_one", \.setAlphaToOne),
            .init("timestep_spacing", \.timestepSpacing),
            .init("steps_offset", \.stepsOffset),
        ]
    }

    func validateDDIM() throws(SchedulerError) {
        try validateNoiseSchedule()
        try require(
            "prediction_type", predictionType.rawValue, "epsilon, sample or v_prediction", predictionType != .flowPrediction)
        try require("clip_sample_range", clipSampleRange, "greater than 0", clipSampleRange > 0)
        try require(
            "steps_offset", stepsOffset, "from 0 to \(numTrainTimesteps - 1)", (0..<numTrainTimesteps).contains(stepsOffset))
    }

    /// ᾱ of the level before timestep 0.
    func finalAlphaCumprod(_ noise: NoiseSchedule) -> Double { setAlphaToOne ? 1 : noise.alphasCumprod[0] }

    /// The timesteps of a run, noisiest first.
    func denoisingTimesteps(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        switch request {
        case .count(let count, nil):
            return try denoisingTimesteps(count: count)
        case .count(_, .some(let mu)):
            throw .invalidValue(key: "mu", value: "\(mu)", allowed: "left out: DDIM has no dynamic shifting")
        case .timesteps(let timesteps):
            let most = min(numTrainTimesteps, TimestepRequest.maximumSteps)
            try require("number of timesteps", timesteps.count, "from 1 to \(most)", (1...most).contains(timesteps.count))
            for (index, timestep) in timesteps.enumerated() {
                let isFree = index == 0 || timestep < timesteps[index - 1]
                try require(
                    "timesteps[\(index)]", timestep, "a whole number from 0 to \(numTrainTimesteps - 1), less than the one before",
                    isFree && Int(exactly: timestep).map { (0..<numTrainTimesteps).contains($0) } == true)
            }
            return timesteps
        case .sigmas:
            throw .invalidValue(key: "sigmas", value: "given", allowed: "left out: DDIM steps between training timesteps")
        }
    }

    private func denoisingTimesteps(count n: Int) throws(SchedulerError) -> [Double] {
        let trainingCount = numTrainTimesteps
        try require(
            "number of steps", n, "from 1 to num_train_timesteps = \(trainingCount)", (1...trainingCount).contains(n))
        try require("number of steps", n, "at most \(TimestepRequest.maximumSteps)", n <= TimestepRequest.maximumSteps)
        switch timestepSpacing {
        case .linspace:
            return linspace(0, Double(trainingCount - 1), count: n).reversed().map(roundedHalfToEven)
        case .leading:
            let stride = trainingCount / n
            let last = (n - 1) * stride
            try require(
                "steps_offset", stepsOffset,
                "at most \(trainingCount - 1 - last) for \(n) steps: without an offset their noisiest timestep is \(last) of "
                    + "\(trainingCount - 1); otherwise use fewer steps",
                last + stepsOffset < trainingCount)
            return (0..<n).reversed().map { Double($0 * stride + stepsOffset) }
        case .trailing:
            return TimestepSpacing.trailingTimesteps(count: n, trainingCount: trainingCount, usedCount: trainingCount)
        }
    }
}

/// Which level a DDIM step leads to.
public enum PreviousTimestepRule: String, ConfigurationKeyword {
    /// diffusers' rule: ⌊T/n⌋ timesteps below, whatever the spacing.
    case stride
    /// The next timestep of the run; from the last one, the level before timestep 0.
    case schedule
}

/// The parameters of `DDIMScheduler`, with diffusers' defaults.
public struct DDIMConfiguration: DDIMFamilyConfiguration, ThresholdingConfiguration {
    public static let className = "DDIMScheduler"
    public static let compatibleClassNames = multistepCompatibleClassNames

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var clipSample = true
    public var setAlphaToOne = true
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var clipSampleRange = 1.0
    public var sampleMaxValue = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var rescaleBetasZeroSNR = false
    /// Which level a step leads to. `schedule` is right for the spacing `linspace`, and for `trailing` where the number of steps
    /// doesn't divide T. The original has no such key, so it is `diffusion_scheduling_previous_timestep` in files and
    /// `previous_timestep` in overrides; nil means `stride`.
    public var previousTimestep: PreviousTimestepRule?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        ddimParameters + thresholdingParameters + [
            .init("diffusion_scheduling_previous_timestep", overrideName: "previous_timestep", \.previousTimestep)
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateDDIM()
        try validateThresholding()
    }
}

/// The parameters of `DDIMInverseScheduler`, with diffusers' defaults.
public struct DDIMInverseConfiguration: DDIMFamilyConfiguration {
    public static let className = "DDIMInverseScheduler"
    public static let compatibleClassNames = ["DDIMInverseScheduler"]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var clipSample = true
    public var setAlphaToOne = true
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var clipSampleRange = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var rescaleBetasZeroSNR = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] { ddimParameters }

    public func validate() throws(SchedulerError) {
        try validateDDIM()
        try require("timestep_spacing", timestepSpacing.rawValue, "leading or trailing", timestepSpacing != .linspace)
    }
}
