// SPDX-License-Identifier: Apache-2.0

/// The spread of a run's timesteps, with or without keys for it.
public protocol SpacedTimesteps: Sendable {
    /// The spread of the timesteps over those of the training.
    var timestepSpacing: TimestepSpacing { get }
    /// Added to the timesteps of the spacing `leading`; 1 for Stable Diffusion.
    var stepsOffset: Int { get }
}

/// The keys that spread the timesteps of a run.
public protocol TimestepSpacingConfiguration: SchedulerConfiguration, SpacedTimesteps {
    var timestepSpacing: TimestepSpacing { get set }
    var stepsOffset: Int { get set }
}

extension TimestepSpacingConfiguration {
    static var timestepSpacingParameter: ConfigurationParameter<Self> {
        .init("timestep_spacing", \.timestepSpacing, "How the timesteps are spread over those of the training.")
    }

    static var stepsOffsetParameter: ConfigurationParameter<Self> {
        .init("steps_offset", \.stepsOffset, "What is added to the timesteps of the spacing leading.")
    }

    static var timestepSpacingParameters: [ConfigurationParameter<Self>] { [timestepSpacingParameter, stepsOffsetParameter] }
}

extension SpacedTimesteps {
    func validateStepsOffset(upTo greatest: Int = NoiseSchedule.maximumTimesteps) throws(SchedulerError) {
        try require("steps_offset", stepsOffset, in: 0...greatest)
    }
}

/// The key that names the noise levels of a run.
public protocol SigmaScheduleConfiguration: SchedulerConfiguration {
    /// The noise levels of a run that is requested by its number of steps; nil, diffusers' way: other keys choose them. diffusers
    /// has no such key, so it is `diffusion_scheduling_sigma_schedule` in files and `sigma_schedule` in overrides.
    var sigmaSchedule: SigmaSchedule? { get set }
}

extension SigmaScheduleConfiguration {
    static var sigmaScheduleParameter: ConfigurationParameter<Self> {
        .init(
            "diffusion_scheduling_sigma_schedule", overrideName: "sigma_schedule", \.sigmaSchedule,
            "The noise levels by their name; null is diffusers' way.")
    }
}

/// The keys that space noise levels anew between two ends.
public protocol SigmaSpacingConfiguration: SigmaScheduleConfiguration {
    /// Noise levels after Karras et al. 2022.
    var useKarrasSigmas: Bool { get set }
    /// Noise levels evenly spaced in their logarithm.
    var useExponentialSigmas: Bool { get set }
    /// Noise levels at the quantiles of a beta distribution.
    var useBetaSigmas: Bool { get set }
    /// The least noise level of these grids; if the scheduler has no such parameter, the one from another scheduler's
    /// configuration.
    var sigmaMin: Double? { get set }
    /// The greatest noise level of these grids; if the scheduler has no such parameter, the one from another scheduler's
    /// configuration.
    var sigmaMax: Double? { get set }
}

extension SigmaSpacingConfiguration {
    public static var effectiveKeys: [String] { ["sigma_min", "sigma_max"] }

    static var sigmaSpacingParameters: [ConfigurationParameter<Self>] {
        [
            .init("use_karras_sigmas", \.useKarrasSigmas, "Whether the noise levels follow Karras et al. 2022."),
            .init(
                "use_exponential_sigmas", \.useExponentialSigmas, "Whether the noise levels are evenly spaced in their logarithm."),
            .init("use_beta_sigmas", \.useBetaSigmas, "Whether the noise levels are quantiles of a beta distribution."),
            sigmaScheduleParameter,
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
        if sigmaSchedule != nil, let spacing = chosenSpacings.first {
            throw .conflictingKeys([spacing, "sigma_schedule"], reason: "the noise levels can follow one grid only")
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
public protocol SigmaGridConfiguration: NoiseScheduleConfiguration, SigmaSpacingConfiguration, SpacedTimesteps {
    /// Noise levels of flow matching, where a sample is (1 − ς) data + ς noise.
    var useFlowSigmas: Bool { get set }
    /// κ: pushes flow sigmas towards more noise; > 0.
    var flowShift: Double { get set }
    /// Whether the flow levels of a request are shifted, too.
    static var shiftsRequestedLevels: Bool { get }
    /// κ of a request, which pushes a flow level ς to ς' = κ ς/(1 + (κ − 1) ς) (Esser et al. 2024, arXiv:2403.03206, equation 23).
    ///
    /// - Throws: `invalidValue` of `mu` where it may not be given or is out of range.
    func flowShift(_ request: TimestepRequest) throws(SchedulerError) -> Double
}

extension SigmaGridConfiguration {
    public static var shiftsRequestedLevels: Bool { false }
    public func flowShift(_ request: TimestepRequest) throws(SchedulerError) -> Double { flowShift }

    static var flowSigmaParameters: [ConfigurationParameter<Self>] {
        [
            .init("use_flow_sigmas", \.useFlowSigmas, "Whether the noise levels are those of flow matching."),
            .init("flow_shift", \.flowShift, "The shift of flow sigmas towards more noise."),
        ]
    }

    /// - Parameter convertsKarras: whether Karras levels become flow levels where `use_flow_sigmas` is true.
    func validateSigmaGrid(convertsKarras: Bool = false) throws(SchedulerError) {
        try validateSigmaSpacing()
        // Flow levels are below 1, and the training's go far above; a grid with a sigma_max below 1 fits.
        if useFlowSigmas, !(convertsKarras && useKarrasSigmas), let grid = chosenSpacings.first, !((sigmaMax ?? .infinity) < 1) {
            throw .conflictingKeys(
                [grid, "use_flow_sigmas"],
                reason: "flow sigmas are their own grid; another grid needs sigma_min and sigma_max below 1")
        }
        try require("flow_shift", flowShift, "finite and greater than 0", flowShift > 0 && flowShift.isFinite)
        try validateStepsOffset()
    }
}

/// Refuses a `shift_terminal` that flow levels can't be stretched to.
func validateShiftTerminal(_ terminal: Double?) throws(SchedulerError) {
    if let terminal { try require("shift_terminal", terminal, "from 0 to less than 1", terminal >= 0 && terminal < 1) }
}

/// The key of the grid that only the forward DPM-Solver has.
public protocol LuLambdasConfiguration: SigmaGridConfiguration {
    /// Noise levels evenly spaced in λ = ln A − ln S (Lu et al. 2022, arXiv:2211.01095).
    var useLuLambdas: Bool { get set }
}

/// The keys that let a run shift flow sigmas by the request's `mu`, for models whose shift depends on the size of the picture.
public protocol DynamicShiftingConfiguration: SchedulerConfiguration {
    /// Whether `mu` may be given.
    var useDynamicShifting: Bool { get set }
    /// The form of `mu`.
    var timeShiftType: TimeShiftType { get set }
}

/// The function from `mu` to a shift.
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
