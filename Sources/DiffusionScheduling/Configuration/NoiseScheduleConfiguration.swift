// SPDX-License-Identifier: Apache-2.0

/// The keys that say how much noise the model was trained with at each timestep.
public protocol NoiseScheduleConfiguration: SchedulerConfiguration {
    /// T: the number of noise levels that the model was trained with, 1...1,000,000.
    var numTrainTimesteps: Int { get set }
    /// β at timestep 0, in [0, 1).
    var betaStart: Double { get set }
    /// β at timestep T − 1, in [0, 1).
    var betaEnd: Double { get set }
    /// How β runs between the two.
    var betaSchedule: BetaSchedule { get set }
    /// The T values of β themselves, each in [0, 1); overrides the three above.
    var trainedBetas: [Double]? { get set }
    /// The values that `betaSchedule` may have.
    static var betaSchedules: [BetaSchedule] { get }
}

extension NoiseScheduleConfiguration {
    public static var betaSchedules: [BetaSchedule] { [.linear, .scaledLinear, .squaredcosCapV2] }

    static var noiseScheduleParameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("beta_start", \.betaStart, "The variance of the noise that timestep 0 adds."),
            .init("beta_end", \.betaEnd, "The variance of the noise that the last timestep adds."),
            .init("beta_schedule", \.betaSchedule, among: betaSchedules, "How the variances run between the two."),
            .init("trained_betas", \.trainedBetas, "The variances themselves, which override the three before."),
        ]
    }

    func validateNoiseSchedule() throws(SchedulerError) {
        try require(
            "num_train_timesteps", numTrainTimesteps, "from 1 to \(NoiseSchedule.maximumTimesteps)",
            (1...NoiseSchedule.maximumTimesteps).contains(numTrainTimesteps))
        try require("beta_schedule", betaSchedule, among: Self.betaSchedules)
        if let trainedBetas {
            try require(
                "trained_betas", "a list of \(trainedBetas.count)",
                "a list of num_train_timesteps = \(numTrainTimesteps) numbers", trainedBetas.count == numTrainTimesteps)
            for (index, beta) in trainedBetas.enumerated() where !(beta >= 0 && Float(beta) < 1) {
                try require("trained_betas[\(index)]", beta, "at least 0 and less than 1", false)
            }
        } else {
            try require("beta_start", betaStart, "at least 0 and less than 1", betaStart >= 0 && Float(betaStart) < 1)
            try require("beta_end", betaEnd, "at least 0 and less than 1", betaEnd >= 0 && Float(betaEnd) < 1)
        }
    }
}

/// The keys of dynamic thresholding, which keeps the predicted clean sample in the range of the data (Saharia et al. 2022,
/// arXiv:2205.11487, section 2.3).
///
/// For models of pixels; latents have no such range.
public protocol ThresholdingConfiguration: SchedulerConfiguration {
    /// Whether the predicted clean sample is thresholded.
    var thresholding: Bool { get set }
    /// The quantile of |x₀| that becomes the threshold, in [0, 1].
    var dynamicThresholdingRatio: Double { get set }
    /// The threshold is at most this; > 0. With the default 1 thresholding clips to [−1, 1].
    var sampleMaxValue: Double { get set }
}

extension ThresholdingConfiguration {
    static var thresholdingParameters: [ConfigurationParameter<Self>] {
        [
            .init("thresholding", \.thresholding, "Whether the predicted clean sample is thresholded; for models of pixels."),
            .init(
                "dynamic_thresholding_ratio", \.dynamicThresholdingRatio,
                "The quantile of the predicted clean sample's magnitudes that becomes the threshold."),
            .init("sample_max_value", \.sampleMaxValue, "The greatest threshold."),
        ]
    }

    func validateThresholding() throws(SchedulerError) {
        try require(
            "dynamic_thresholding_ratio", dynamicThresholdingRatio, "from 0 to 1",
            (0...1).contains(dynamicThresholdingRatio))
        try require("sample_max_value", sampleMaxValue, "greater than 0", sampleMaxValue > 0)
    }
}

/// The keys that space noise levels anew between two ends.
public protocol SigmaSpacingConfiguration: SchedulerConfiguration {
    /// Noise levels after Karras et al. 2022.
    var useKarrasSigmas: Bool { get set }
    /// Noise levels evenly spaced in their logarithm.
    var useExponentialSigmas: Bool { get set }
    /// Noise levels at the quantiles of a beta distribution.
    var useBetaSigmas: Bool { get set }
    /// The least noise level of these grids; without a parameter of that name, the one that another scheduler's configuration
    /// brought along.
    var sigmaMin: Double? { get set }
    /// The greatest noise level of these grids; likewise.
    var sigmaMax: Double? { get set }
}

extension SigmaSpacingConfiguration {
    static var sigmaSpacingParameters: [ConfigurationParameter<Self>] {
        [
            .init("use_karras_sigmas", \.useKarrasSigmas, "Whether the noise levels follow Karras et al. 2022."),
            .init(
                "use_exponential_sigmas", \.useExponentialSigmas, "Whether the noise levels are evenly spaced in their logarithm."),
            .init("use_beta_sigmas", \.useBetaSigmas, "Whether the noise levels are quantiles of a beta distribution."),
        ]
    }

    public var sigmaMin: Double? {
        get { origin.otherKeys["sigma_min"]?.doubleValue }
        set { origin.otherKeys["sigma_min"] = newValue.map { JSONValue($0) } }
    }

    public var sigmaMax: Double? {
        get { origin.otherKeys["sigma_max"]?.doubleValue }
        set { origin.otherKeys["sigma_max"] = newValue.map { JSONValue($0) } }
    }

    /// The keys among these that are true.
    var chosenSpacings: [String] {
        [
            ("use_karras_sigmas", useKarrasSigmas), ("use_exponential_sigmas", useExponentialSigmas),
            ("use_beta_sigmas", useBetaSigmas),
        ].filter(\.1).map(\.0)
    }

    func validateSigmaSpacing() throws(SchedulerError) {
        if chosenSpacings.count > 1 {
            throw .conflictingKeys(chosenSpacings, reason: "the noise levels can follow one grid only")
        }
        for key in ["sigma_min", "sigma_max"] {
            guard let json = origin.otherKeys[key], json != .null else { continue }
            let value = json.doubleValue ?? .nan
            try require(key, json.text.quoted, "a number greater than 0", value > 0 && value.isFinite)
        }
        for (key, end) in [("sigma_min", sigmaMin), ("sigma_max", sigmaMax)] {
            if let end { try require(key, end, "a number greater than 0", end > 0 && end.isFinite) }
        }
        if let sigmaMin, let sigmaMax {
            try require("sigma_min", sigmaMin, "at most sigma_max = \(sigmaMax)", sigmaMin <= sigmaMax)
        }
    }
}

/// The keys that choose the noise levels of the steps in the multistep schedulers.
public protocol SigmaGridConfiguration: NoiseScheduleConfiguration, SigmaSpacingConfiguration {
    /// Noise levels of flow matching, where a sample is (1 − ς) data + ς noise.
    var useFlowSigmas: Bool { get set }
    /// κ: pushes flow sigmas towards more noise; > 0.
    var flowShift: Double { get set }
    var timestepSpacing: TimestepSpacing { get set }
    /// Added to the timesteps of the spacing `leading`; 1 for Stable Diffusion.
    var stepsOffset: Int { get set }
}

extension SigmaGridConfiguration {
    static var flowSigmaParameters: [ConfigurationParameter<Self>] {
        [
            .init("use_flow_sigmas", \.useFlowSigmas, "Whether the noise levels are those of flow matching."),
            .init("flow_shift", \.flowShift, "The shift of flow sigmas towards more noise."),
        ]
    }

    static var timestepSpacingParameters: [ConfigurationParameter<Self>] {
        [
            .init("timestep_spacing", \.timestepSpacing, "How the timesteps are spread over those of the training."),
            .init("steps_offset", \.stepsOffset, "What is added to the timesteps of the spacing leading."),
        ]
    }

    /// - Parameter convertsKarras: whether Karras levels become flow levels where `use_flow_sigmas` is true.
    func validateSigmaGrid(convertsKarras: Bool = false) throws(SchedulerError) {
        try validateSigmaSpacing()
        // Flow matching knows levels below 1 only, and the training's go far above; with a sigma_max of its own a grid fits.
        if useFlowSigmas, !(convertsKarras && useKarrasSigmas), let grid = chosenSpacings.first, !((sigmaMax ?? .infinity) < 1) {
            throw .conflictingKeys(
                [grid, "use_flow_sigmas"],
                reason: "flow sigmas are their own grid; another grid needs sigma_min and sigma_max below 1")
        }
        try require("flow_shift", flowShift, "finite and greater than 0", flowShift > 0 && flowShift.isFinite)
        try require(
            "steps_offset", stepsOffset, "from 0 to \(NoiseSchedule.maximumTimesteps)",
            (0...NoiseSchedule.maximumTimesteps).contains(stepsOffset))
    }
}

/// Refuses a `shift_terminal` that flow levels can't be stretched to.
func validateShiftTerminal(_ terminal: Double?) throws(SchedulerError) {
    if let terminal { try require("shift_terminal", terminal, "from 0 to less than 1", terminal >= 0 && terminal < 1) }
}

/// The keys that let a run shift flow sigmas by its own `mu`, as models do that shift by the size of the picture.
public protocol DynamicShiftingConfiguration: SchedulerConfiguration {
    /// Whether `mu` may be given.
    var useDynamicShifting: Bool { get set }
    var timeShiftType: TimeShiftType { get set }
}

/// How `mu` becomes a shift.
public enum TimeShiftType: String, ConfigurationKeyword {
    /// κ = e^mu.
    case exponential
}

extension DynamicShiftingConfiguration {
    static var dynamicShiftingParameters: [ConfigurationParameter<Self>] {
        [
            .init("use_dynamic_shifting", \.useDynamicShifting, "Whether a run may shift flow sigmas by its own mu."),
            .init("time_shift_type", \.timeShiftType, "How mu becomes a shift."),
        ]
    }
}

/// The schedulers whose configurations the multistep schedulers and DDIM can be made from.
let multistepCompatibleClassNames = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler", "EDMEulerScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
]

/// The key of the grid that only the forward DPM-Solver has.
public protocol LuLambdasConfiguration: SigmaGridConfiguration {
    /// Noise levels evenly spaced in λ = ln A − ln S (Lu et al. 2022, arXiv:2211.01095).
    var useLuLambdas: Bool { get set }
}

/// The key that removes the last of the signal from the noisiest timestep (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
public protocol ZeroTerminalSNRConfiguration: NoiseScheduleConfiguration {
    /// Whether the betas are rescaled so that the last timestep has no signal; for models that were trained so.
    var rescaleBetasZeroSNR: Bool { get set }
}

extension ZeroTerminalSNRConfiguration {
    static var zeroTerminalSNRParameters: [ConfigurationParameter<Self>] {
        [
            .init(
                "rescale_betas_zero_snr", \.rescaleBetasZeroSNR,
                "Whether the variances are rescaled so that the last timestep has no signal.")
        ]
    }
}

extension NoiseSchedule {
    /// Builds the tables of a configuration.
    ///
    /// - Parameter floorsSignal: whether ς is that of ᾱ = 2⁻²⁴ wherever it wouldn't be finite; for schedulers that step in ᾱ.
    /// - Throws: `invalidValue` if ᾱ becomes so small that ς isn't finite in float32.
    /// - Complexity: O(T).
    public init(
        _ configuration: some NoiseScheduleConfiguration, floorsSignal: Bool = false
    ) throws(SchedulerError) {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let betas =
            configuration.trainedBetas?.map { Float($0) }
            ?? configuration.betaSchedule.betas(
                from: configuration.betaStart, to: configuration.betaEnd, count: configuration.numTrainTimesteps)
        try self.init(
            betas: betas, key: configuration.trainedBetas == nil ? "beta_end" : "trained_betas",
            rescales: (configuration as? any ZeroTerminalSNRConfiguration)?.rescaleBetasZeroSNR ?? false,
            floorsSignal: floorsSignal)
    }
}
