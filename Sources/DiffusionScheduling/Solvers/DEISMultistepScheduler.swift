// SPDX-License-Identifier: Apache-2.0

/// DEIS: the diffusion exponential integrator sampler, a fast deterministic multistep solver (Zhang and Chen 2022,
/// arXiv:2204.13902).
///
/// ```swift
/// var scheduler = try DEISMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Each step combines the outputs of up to three steps and calls the model once. Order 2 suits guided sampling, order 3
/// unconditional sampling; order 1 is DDIM. Thresholding is for models of pixels, not of latents. Models that were trained as
/// Stable Diffusion was want `stepsOffset` 1.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DEISMultistepScheduler = DefinedScheduler<DEISMultistepConfiguration>

/// The parameters of `DEISMultistepScheduler`, with diffusers' defaults.
public struct DEISMultistepConfiguration: MultistepDefinition, SigmaGridConfiguration, ThresholdingConfiguration,
    TimestepSpacingConfiguration, DynamicShiftingConfiguration
{
    public static let className = "DEISMultistepScheduler"
    public static var updateNames: [String] { solverUpdateNames("deis") }
    public static let compatibleClassNames = commonCompatibleClassNames

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
        noiseScheduleParameters + [
            .init("solver_order", \.solverOrder, "How many model outputs a step combines: 1, 2 or 3."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, "deis; the names of the DPM-Solvers' algorithms stand for it."),
            .init("solver_type", \.solverType, "logrho; the names of other solvers' types stand for it."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether runs of fewer than 15 steps end with lower orders."),
        ] + sigmaSpacingParameters + flowSigmaParameters + timestepSpacingParameters + dynamicShiftingParameters + [
            .init(
                "diffusion_scheduling_final_sigmas_type", overrideName: "final_sigmas_type", \.finalSigmasType,
                "The noise level after the last step; null is diffusers' way.")
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try require("solver_order", solverOrder, "1, 2 or 3", (1...3).contains(solverOrder))
    }

    // MARK: The plan

    public var solver: DEISSolver { DEISSolver(predictionType: predictionType) }
    public var highestSolverOrder: Int { solverOrder }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        // The least training level is another one on flow grids, and diffusers has no word on it.
        let endsAtLeastFlow = useFlowSigmas && finalSigmasType == .sigmaMin
        let grid = try denoisingGrid(
            request, noise: noise, usedCount: noise.count,
            final: endsAtLeastFlow ? nil : finalSigmasType,
            spacing: sigmaSpacing(flowShift: flowShift(request)))
        guard endsAtLeastFlow, let last = grid.sigmas.last else { return grid }
        return TimestepGrid(
            timesteps: grid.timesteps, sigmas: grid.sigmas.dropLast() + [min(last, 1 / Double(noise.count))], process: .flow
        )
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: lowerOrderFinal, firstOrderAtEnd: finalSigmasType == .zero)
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
