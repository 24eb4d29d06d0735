// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver and DPM-Solver++: fast multistep solvers of the diffusion ODE, and of the diffusion SDE (Lu et al. 2022,
/// arXiv:2206.00927 and arXiv:2211.01095).
///
/// A step combines divided differences Dₖ of the last outputs, and noise z in the stochastic algorithms:
///
///     x' = a x + w₀ D₀ + w₁ D₁ + w₂ D₂ + c z        see ``DPMSolver`` for the weights
///
/// ```swift
/// var scheduler = try DPMSolverMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Order 2 of `dpmsolver++` or `sde-dpmsolver++` suits guided sampling, order 3 unconditional sampling; order 1 is DDIM.
/// The stochastic algorithms need noise at each step. Thresholding is for models of pixels, not of latents. Models that were
/// trained as Stable Diffusion was want `stepsOffset` 1, and with the cosine schedule `lambdaMinClipped` −5.1.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DPMSolverMultistepScheduler = DefinedScheduler<DPMSolverMultistepConfiguration>

/// DPM-Solver backwards in time: from a picture to the noise from which `DPMSolverMultistepScheduler` makes it (diffusers'
/// `DPMSolverMultistepInverseScheduler`; for editing real pictures, Mokady et al. 2022, arXiv:2211.09794).
///
/// A step is that of ``DPMSolver`` towards more noise, with h < 0:
///
///     x' = a x + w₀ D₀ + w₁ D₁ + w₂ D₂
///
/// ```swift
/// var inverse = try DPMSolverMultistepInverseScheduler(from: scheduler.configuration)
/// try inverse.setTimesteps(50)
/// for timestep in inverse.timesteps {
///     try inverse.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Inverting is deterministic: a configuration with a stochastic algorithm is inverted by the same algorithm without noise.
public typealias DPMSolverMultistepInverseScheduler = DefinedScheduler<DPMSolverMultistepInverseConfiguration>

/// The parameters of `DPMSolverMultistepScheduler`, with diffusers' defaults.
public struct DPMSolverMultistepConfiguration: DPMSolverConfiguration, DynamicShiftingConfiguration,
    LuLambdasConfiguration, ZeroTerminalSNRConfiguration
{
    public static let className = "DPMSolverMultistepScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let resultType = ResultType.converted
    public static let noiseType = NoiseType.float32

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    public var algorithmType = DPMSolver.AlgorithmType.dpmsolverPlusPlus
    public var solverType = DPMSolver.SolverType.midpoint
    public var lowerOrderFinal = true
    public var eulerAtFinal = false
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var useLuLambdas = false
    public var useFlowSigmas = false
    public var flowShift = 1.0
    /// The noise level after the last step.
    public var finalSigmasType = FinalSigmasType.zero
    public var lambdaMinClipped = -Double.infinity
    public var varianceType: String?
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    public var rescaleBetasZeroSNR = false
    public var useDynamicShifting = false
    /// The form of `mu`.
    public var timeShiftType = TimeShiftType.exponential

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        solverParameters + [
            .init("use_lu_lambdas", \.useLuLambdas, "Whether the noise levels are evenly spaced in lambda.")
        ] + flowSigmaParameters + [
            .init("final_sigmas_type", \.finalSigmasType, "The noise level after the last step.")
        ] + lambdaClippingParameters + timestepSpacingParameters + zeroTerminalSNRParameters + dynamicShiftingParameters
    }

    public func validate() throws(SchedulerError) { try validateDPMSolver() }

    // MARK: The plan

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try checkedNoiseSchedule() }

    public var solver: DPMSolver {
        DPMSolver(algorithmType: algorithmType, solverType: solverType, predictionType: predictionType)
    }
    /// The configuration's order; at most 2 for `sdeDPMSolver`, which has no third (diffusers fails at the first such step).
    public var highestSolverOrder: Int { algorithmType == .sdeDPMSolver ? min(solverOrder, 2) : solverOrder }
    public var modelLearnsVariance: Bool { learnsVariance }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try denoisingGrid(
            request, noise: noise, usedCount: usedCount(of: noise), final: finalSigmasType,
            spacing: sigmaSpacing(flowShift: flowShift(request)),
            // diffusers rounds only where the schedule isn't the cosine one, whose first timesteps would coincide.
            roundsTimesteps: betaSchedule != .squaredcosCapV2)
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: lowerOrderFinal,
            firstOrderAtEnd: eulerAtFinal || finalSigmasType == .zero)
    }
}

/// The parameters of `DPMSolverMultistepInverseScheduler`, with diffusers' defaults.
public struct DPMSolverMultistepInverseConfiguration: DPMSolverConfiguration {
    public static let className = "DPMSolverMultistepInverseScheduler"
    public static let sigmaList = SigmaList.ascendingLevels
    public static let compatibleClassNames = ["DPMSolverMultistepInverseScheduler"]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    public var algorithmType = DPMSolver.AlgorithmType.dpmsolverPlusPlus
    public var solverType = DPMSolver.SolverType.midpoint
    public var lowerOrderFinal = true
    public var eulerAtFinal = false
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var useFlowSigmas = false
    public var flowShift = 1.0
    public var lambdaMinClipped = -Double.infinity
    public var varianceType: String?
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        solverParameters + flowSigmaParameters + lambdaClippingParameters + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) { try validateDPMSolver() }

    // MARK: The plan

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try checkedNoiseSchedule() }

    public var solver: DPMSolver {
        DPMSolver(algorithmType: algorithmType.deterministicTwin, solverType: solverType, predictionType: predictionType)
    }
    public var highestSolverOrder: Int { solverOrder }
    public var modelLearnsVariance: Bool { learnsVariance }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try request.requireNoMu()
        return try invertingGrid(request, noise: noise, usedCount: usedCount(of: noise))
    }

    public func highestOrder(atStep index: Int, of stepCount: Int) -> Int {
        DiffusionScheduling.highestOrder(
            atStep: index, of: stepCount, lowerOrderFinal: lowerOrderFinal, firstOrderAtEnd: eulerAtFinal)
    }
}

/// The keys that the DPM-Solver and its inverse share.
public protocol DPMSolverConfiguration: MultistepDefinition, SigmaGridConfiguration, ThresholdingConfiguration,
    TimestepSpacingConfiguration, LambdaClippingConfiguration
{
    /// The number of model outputs that a step combines, 1 to 3: 2 for guided sampling, 3 for unconditional; order 1 is DDIM.
    var solverOrder: Int { get set }
    var predictionType: PredictionType { get set }
    /// The integral that is approximated. `dpmsolver++` or `sde-dpmsolver++` of order 2 for guided sampling, as of latents.
    var algorithmType: DPMSolver.AlgorithmType { get set }
    /// The approximation of the integral in a step of order 2; `midpoint` is the better choice for most.
    var solverType: DPMSolver.SolverType { get set }
    /// Whether the last steps of a run of fewer than 15 use lower orders, which keeps short runs stable.
    var lowerOrderFinal: Bool { get set }
    /// Whether the last step is of order 1: steadier for many steps of a stochastic solver, at some cost in detail.
    var eulerAtFinal: Bool { get set }
}

extension DPMSolverConfiguration {
    static var solverParameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("solver_order", \.solverOrder, "How many model outputs a step combines: 1, 2 or 3."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, "The integral that the solver approximates."),
            .init("solver_type", \.solverType, "How a step of order 2 approximates it."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether runs of fewer than 15 steps end with lower orders."),
            .init("euler_at_final", \.eulerAtFinal, "Whether the last step is of order 1."),
        ] + sigmaSpacingParameters
    }

    func validateDPMSolver() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try require("solver_order", solverOrder, "1, 2 or 3", (1...3).contains(solverOrder))
        try validateLambdaClipping()
    }
}
