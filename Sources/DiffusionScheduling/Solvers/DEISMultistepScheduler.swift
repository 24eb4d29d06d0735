// SPDX-License-Identifier: Apache-2.0

/// DEIS: the diffusion exponential integrator sampler, a fast deterministic multistep solver (Zhang and Chen 2022,
/// arXiv:2204.13902, section 3 and appendix B).
///
/// A step from s to t integrates the polynomial through the last outputs εₖ in ρ = S/A, with Lagrange's polynomials Lₖ:
///
///     x' = (A_t/A_s) x + A_t Σₖ εₖ ∫ₛᵗ Lₖ dρ        see ``DEISSolver``
///
/// ```swift
/// var scheduler = try DEISMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Each step combines the outputs of up to four steps and calls the model once. Order 2 suits guided sampling, order 3
/// unconditional sampling; order 1 is DDIM. ``DEISMultistepConfiguration/method`` chooses among the paper's methods. Thresholding
/// is for models of pixels, not of latents. Models that were trained as Stable Diffusion was want `stepsOffset` 1.
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
    /// The number of model outputs that a step combines, 1 to 4: 2 for guided sampling, 3 for unconditional; order 1 is DDIM.
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    /// The algorithm, of which there is one.
    public var algorithmType = DEISAlgorithmType.deis
    /// The interpolation, of which there is one.
    public var solverType = DEISSolverType.logrho
    /// Whether the last steps of a run of fewer than 15 use lower orders, which keeps short runs stable.
    public var lowerOrderFinal = true
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var useFlowSigmas = false
    public var flowShift = 1.0
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    public var useDynamicShifting = false
    /// The form of `mu`.
    public var timeShiftType = TimeShiftType.exponential
    /// The noise level after the last step. nil, diffusers' way: the least level of the training where the levels are the
    /// timesteps', and else the last level again, so that the last step does nothing. diffusers has no such key, so it is
    /// `diffusion_scheduling_final_sigmas_type` in files and `final_sigmas_type` in overrides: a `final_sigmas_type` that came
    /// along from another scheduler's file means nothing to DEIS.
    public var finalSigmasType: FinalSigmasType?
    /// The paper's method; nil, diffusers' way: polynomials in ln ρ. diffusers has no such key, so it is
    /// `diffusion_scheduling_method` in files and `method` in overrides.
    public var method: DEISMethod?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("solver_order", \.solverOrder, "How many model outputs a step combines: 1, 2, 3 or 4."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, "deis; the names of the DPM-Solvers' algorithms stand for it."),
            .init("solver_type", \.solverType, "logrho; the names of other solvers' types stand for it."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether runs of fewer than 15 steps end with lower orders."),
        ] + sigmaSpacingParameters + flowSigmaParameters + timestepSpacingParameters + dynamicShiftingParameters + [
            .init(
                "diffusion_scheduling_final_sigmas_type", overrideName: "final_sigmas_type", \.finalSigmasType,
                "The noise level after the last step; null is diffusers' way."),
            .init(
                "diffusion_scheduling_method", overrideName: "method", \.method,
                "rho_ab and t_ab interpolate in ρ and t; rho_rk takes solver_order evaluations a step; null is diffusers' way."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try require("solver_order", solverOrder, "1, 2, 3 or 4", (1...4).contains(solverOrder))
    }

    // MARK: The plan

    public var solver: DEISSolver {
        get throws(SchedulerError) { try DEISSolver(predictionType: predictionType, method: solverMethod()) }
    }

    private func solverMethod() throws(SchedulerError) -> DEISSolver.Method {
        switch method {
        case nil: .adamsBashforth(.logRatio)
        case .rhoAB: .adamsBashforth(.ratio)
        case .tAB: try .adamsBashforth(useFlowSigmas ? .noiseShare : .time(TrainingTime(makeNoiseSchedule())))
        case .rhoRK: .rungeKutta(RungeKuttaTable(order: solverOrder))
        }
    }

    public var highestSolverOrder: Int { solverOrder }
    public var evaluationsPerStep: Int { method == .rhoRK ? solverOrder : 1 }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        let grid = try stepGrid(request, noise: noise)
        return method == .rhoRK ? withStages(grid, noise: noise) : grid
    }

    /// The grid with the levels of all evaluations of each step; the last step has one if no noise is left after it, or it leads nowhere.
    private func withStages(_ grid: TimestepGrid, noise: NoiseSchedule) -> TimestepGrid {
        let nodes = RungeKuttaTable(order: solverOrder).nodes, levels = grid.levels
        var timesteps: [Double] = [], sigmas: [Double] = []
        for (index, (s, t)) in zip(levels, levels.dropFirst()).enumerated() {
            let isLast = index == grid.timesteps.count - 1, isShort = isLast && (t.sigma == 0 || t.sigma == s.sigma)
            for node in isShort ? [0] : nodes {
                let ratio = s.noiseToSignal + node * (t.noiseToSignal - s.noiseToSignal)
                let sigma = node == 0 ? s.sigma : node == 1 ? t.sigma : useFlowSigmas ? ratio / (1 + ratio) : ratio
                sigmas.append(sigma)
                timesteps.append(
                    node == 0
                        ? grid.timesteps[index]
                        : node == 1 && !isLast ? grid.timesteps[index + 1] : customTimestep(atSigma: sigma, noise: noise))
            }
        }
        return TimestepGrid(timesteps: timesteps, exactSigmas: sigmas + grid.sigmas.suffix(1), process: grid.process)
    }

    private func stepGrid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        // The least training level differs on flow grids, and diffusers doesn't define it.
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

/// The algorithm of DEIS; diffusers accepts DPM-Solver's names for it.
public enum DEISAlgorithmType: String, ConfigurationKeyword {
    /// DEIS.
    case deis
    public static let aliases: [String: Self] = ["dpmsolver": .deis, "dpmsolver++": .deis]
}

/// The methods of Zhang and Chen 2022 (arXiv:2204.13902); `solver_order` is the order, or the number of evaluations a step.
public enum DEISMethod: String, ConfigurationKeyword {
    /// Polynomials in ρ through the outputs of steps before: ρAB-DEIS.
    case rhoAB = "rho_ab"
    /// Polynomials in the time t of the training: tAB-DEIS, the best one of the paper at few evaluations.
    case tAB = "t_ab"
    /// Runge and Kutta's methods in ρ, with the evaluations of each step listed in the plan's timesteps: ρRK-DEIS.
    case rhoRK = "rho_rk"
}

/// The interpolation of DEIS; diffusers accepts other solvers' names for it.
public enum DEISSolverType: String, ConfigurationKeyword {
    /// Polynomials in ln ρ.
    case logrho
    public static let aliases: [String: Self] = ["midpoint": .logrho, "heun": .logrho, "bh1": .logrho, "bh2": .logrho]
}
