// SPDX-License-Identifier: Apache-2.0

/// The stochastic DPM-Solver++ of Stable Audio (Evans et al. 2024, arXiv:2407.14358), for models in the design of Karras et al. 2022
/// (arXiv:2206.00364) that were trained on a cosine schedule.
///
/// The model gets the level ς as (2/π) arctan ς, the angle of noise and signal as a share of a right angle. With r = τ/ς and new
/// noise z, a step from ς to τ is
///
///     m₀ = c_skip x + c_out e        x' = r² x + (1 − r²) (m₀ + slope) + τ √(1 − r²) z
///
/// with the coefficients of ``EDMPreconditioning`` and the slope of ``DPMSolver``'s `sde-dpmsolver++`.
///
/// Each step draws noise, also the last one, which adds none. diffusers draws it from a Brownian tree over the levels (torchsde),
/// whose increments over the steps are independent normal numbers: the distribution is the same, but a seed gives other numbers.
///
/// ```swift
/// var scheduler = try CosineDPMSolverMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(100)
/// var sample = noise.map { $0 * Float(scheduler.initNoiseSigma) }
/// var generator = TorchCPUNoise(seed: 0)
/// for timestep in scheduler.timesteps {
///     let input = try scheduler.scaleModelInput(sample, timestep: timestep)
///     try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &sample, generator: &generator)
/// }
/// ```
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias CosineDPMSolverMultistepScheduler = DefinedScheduler<CosineDPMSolverMultistepConfiguration>

/// The parameters of `CosineDPMSolverMultistepScheduler`, with diffusers' defaults.
public struct CosineDPMSolverMultistepConfiguration: EDMMultistepDefinition {
    public static let className = "CosineDPMSolverMultistepScheduler"
    public static let brownianMotion: BrownianMotion? = BrownianMotion(rangeKeys: ["sigma_min", "sigma_max"])
    public static var updateNames: [String] { Array(solverUpdateNames("dpm_solver").prefix(2)) }

    public var sigmaMin = 0.3
    public var sigmaMax = 500.0
    public var sigmaData = 1.0
    public var sigmaSchedule = EDMSigmaSchedule.exponential
    public var numTrainTimesteps = 1000
    public var solverOrder = 2
    public var predictionType = PredictionType.vPrediction
    public var rho = 7.0
    public var solverType = DPMSolver.SolverType.midpoint
    public var lowerOrderFinal = true
    public var eulerAtFinal = false
    public var finalSigmasType = FinalSigmasType.zero

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        levelParameters + [solverOrderParameter("1 or 2"), predictionTypeParameter, rhoParameter] + solverTypeParameters
    }

    public func validate() throws(SchedulerError) {
        try validateEDM()
        try require("solver_order", solverOrder, "1 or 2", (1...2).contains(solverOrder))
    }

    public var integral: DPMSolver.AlgorithmType { .sdeDPMSolverPlusPlus }
    public var clamp: PredictionClamp { .none }

    /// The model's timestep at a level, a float32 number: t = (2/π) arctan ς.
    public static func timestep(atSigma sigma: Double) -> Double { Double(Float(arctangent(sigma)) / Float(Double.pi) * 2) }
    /// The level of a timestep of the model: ς = tan(π t/2).
    public static func sigma(atTimestep timestep: Double) -> Double { tangent(timestep * (Double.pi / 2)) }
}
