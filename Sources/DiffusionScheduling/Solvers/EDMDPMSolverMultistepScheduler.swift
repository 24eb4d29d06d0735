// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver++ for models in the design of Karras et al. 2022 (arXiv:2206.00364), such as Playground v2.5 (Lu et al. 2022,
/// arXiv:2211.01095).
///
/// With ``DPMSolver``'s weights for A = 1, S = ς, λ = −ln ς, a step from ς to τ over h = ln ς − ln τ is
///
///     m₀ = c_skip x + c_out e        x' = a x + w₀ m₀ + Σ wₖ (differences of m₀, m₁, m₂) + c z
///
///     dpmsolver++        a = τ/ς            w₀ = 1 − τ/ς            c = 0
///     sde-dpmsolver++    a = (τ/ς)²         w₀ = 1 − (τ/ς)²         c = τ √(1 − (τ/ς)²)
///
/// with the coefficients of ``EDMPreconditioning``.
///
/// ```swift
/// var scheduler = try EDMDPMSolverMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// var sample = noise.map { $0 * Float(scheduler.initNoiseSigma) }
/// for timestep in scheduler.timesteps {
///     let input = try scheduler.scaleModelInput(sample, timestep: timestep)
///     try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias EDMDPMSolverMultistepScheduler = DefinedScheduler<EDMDPMSolverMultistepConfiguration>

/// The parameters of `EDMDPMSolverMultistepScheduler`, with diffusers' defaults.
public struct EDMDPMSolverMultistepConfiguration: EDMMultistepDefinition, ThresholdingConfiguration {
    public static let className = "EDMDPMSolverMultistepScheduler"
    static let algorithmTypes = [DPMSolver.AlgorithmType.dpmsolverPlusPlus, .sdeDPMSolverPlusPlus]

    public var sigmaMin = 0.002
    public var sigmaMax = 80.0
    public var sigmaData = 0.5
    public var sigmaSchedule = EDMSigmaSchedule.karras
    public var numTrainTimesteps = 1000
    public var predictionType = PredictionType.epsilon
    public var rho = 7.0
    public var solverOrder = 2
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    /// `dpmsolver++` or `sde-dpmsolver++`.
    public var algorithmType = DPMSolver.AlgorithmType.dpmsolverPlusPlus
    public var solverType = DPMSolver.SolverType.midpoint
    public var lowerOrderFinal = true
    public var eulerAtFinal = false
    public var finalSigmasType = FinalSigmasType.zero

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        levelParameters + [predictionTypeParameter, rhoParameter, solverOrderParameter("1, 2 or 3")] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, among: algorithmTypes, "The integral that the solver approximates.")
        ] + solverTypeParameters
    }

    public func validate() throws(SchedulerError) {
        try validateEDM()
        try validateThresholding()
        try require("solver_order", solverOrder, "1, 2 or 3", (1...3).contains(solverOrder))
        try require("algorithm_type", algorithmType, among: Self.algorithmTypes)
    }

    public var integral: DPMSolver.AlgorithmType { algorithmType }
}
