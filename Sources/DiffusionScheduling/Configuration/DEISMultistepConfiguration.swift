// SPDX-License-Identifier: Apache-2.0

/// The parameters of `DEISMultistepScheduler`, with diffusers' defaults.
public struct DEISMultistepConfiguration: ThresholdingConfiguration, SigmaGridConfiguration, DynamicShiftingConfiguration {
    public static let className = "DEISMultistepScheduler"
    public static let compatibleClassNames = multistepCompatibleClassNames

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// 1, 2 or 3: how many model outputs a step combines. 2 for guided sampling, 3 for unconditional; order 1 is DDIM.
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    public var algorithmType = DEISAlgorithmType.deis
    public var solverType = DEISSolverType.logrho
    /// Whether the last steps of a run of fewer than 15 use lower orders, which keeps short runs stable.
    public var lowerOrderFinal = true
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var useFlowSigmas = false
    public var flowShift = 1.0
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    public var useDynamicShifting = false
    public var timeShiftType = TimeShiftType.exponential
    /// The noise level after the last step. nil, diffusers' way: the least level of the training where the levels are the
    /// timesteps', and else the last level again, so that the last step does nothing. The original has no such key, so it is
    /// `diffusion_scheduling_final_sigmas_type` in files and `final_sigmas_type` in overrides: a `final_sigmas_type` that came
    /// along from another scheduler's file means nothing to DEIS.
    public var finalSigmasType: FinalSigmasType?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + thresholdingParameters + sigmaGridParameters + dynamicShiftingParameters + [
            .init("solver_order", \.solverOrder),
            .init("prediction_type", \.predictionType),
            .init("algorithm_type", \.algorithmType),
            .init("solver_type", \.solverType),
            .init("lower_order_final", \.lowerOrderFinal),
            .init("diffusion_scheduling_final_sigmas_type", overrideName: "final_sigmas_type", \.finalSigmasType),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try require("solver_order", solverOrder, "1, 2 or 3", (1...3).contains(solverOrder))
    }
}

/// The algorithm of DEIS; diffusers takes the names of DPM-Solver's for it.
public enum DEISAlgorithmType: String, ConfigurationKeyword {
    case deis
    public static let aliases: [String: Self] = ["dpmsolver": .deis, "dpmsolver++": .deis]
}

/// The interpolation of DEIS; diffusers takes the names of other solvers' for it.
public enum DEISSolverType: String, ConfigurationKeyword {
    /// Polynomials in ln ρ.
    case logrho
    public static let aliases: [String: Self] = ["midpoint": .logrho, "heun": .logrho, "bh1": .logrho, "bh2": .logrho]
}
