// SPDX-License-Identifier: Apache-2.0

/// SA-Solver: a stochastic Adams predictor and corrector for diffusion SDEs of any amount of noise (Xue et al. 2023,
/// arXiv:2309.05019, algorithm 1).
///
/// A step adds noise of the share θ = τ(t): none for 0, as much as the usual SDE for 1. With the outputs m₀ of this step and m₁, m₂
/// … of those before, and noise z,
///
///     x_c = U + b m₀                    the sample, corrected by m₀; x itself in the first step
///     x'  = a x_c + Σ wₖ mₖ + c z       the predictor
///     U'  = a x_c + Σ cₖ mₖ + c z       the next step's correction, but for the term of its own output
///
/// The weights are the integrals of the polynomial through the outputs: see `ExponentialIntegrator`. If it is the line through two
/// clean samples, their difference counts half instead of its exact share, an O(h³) change for runs of few steps (diffusers'
/// addition, after UniPC).
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias SASolverScheduler = DefinedScheduler<SASolverConfiguration>

/// The parameters of `SASolverScheduler`, with diffusers' defaults.
public struct SASolverConfiguration: SchedulerDefinition, PredictionTypeConfiguration, SigmaGridConfiguration,
    TimestepSpacingConfiguration, ThresholdingConfiguration, LambdaClippingConfiguration
{
    public static let className = "SASolverScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let returnsReport = false
    public static let resultType = ResultType.sample
    public static let addsNoiseAtTrainingLevels = true
    public static let attributes = StepAttributes(tensors: ["last_sample"], history: "model_outputs", age: "lower_order_nums")

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// The number of outputs that a step extrapolates from, 1 to 4.
    public var predictorOrder = 2
    /// The number of outputs that a step is corrected with, 1 to 4, the one at its end included.
    public var correctorOrder = 2
    public var predictionType = PredictionType.epsilon
    /// θ at the training timesteps 0, 1 …; the last one also beyond. nil: 1 from 200 to 800, and 0 elsewhere.
    public var tauFunc: [Double]?
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995, sampleMaxValue = 1.0
    /// The prediction that the solver extrapolates.
    public var algorithmType = SASolverAlgorithmType.dataPrediction
    /// Whether the orders fall to 1 towards the last step.
    public var lowerOrderFinal = true
    public var useKarrasSigmas = false, useExponentialSigmas = false, useBetaSigmas = false
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
        noiseScheduleParameters + [
            .init("predictor_order", \.predictorOrder, "How many model outputs a step extrapolates from, from 1 to 4."),
            .init("corrector_order", \.correctorOrder, "How many model outputs a step is corrected with, from 1 to 4."),
            predictionTypeParameter,
            .init("tau_func", \.tauFunc, "The share of noise at each training timestep; null: 1 from 200 to 800, else 0."),
        ] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, "Whether the solver extrapolates the clean sample or the noise."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether the orders fall to 1 towards the last step."),
        ] + sigmaSpacingParameters + flowSigmaParameters + lambdaClippingParameters + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try validateLambdaClipping()
        try require("predictor_order", predictorOrder, in: 1...4)
        try require("corrector_order", correctorOrder, in: 1...4)
        try require("tau_func", "empty", "null, or a list of numbers", tauFunc?.isEmpty != true)
        for (timestep, tau) in (tauFunc ?? []).enumerated() { try require("tau_func[\(timestep)]", tau, in: 0...1000) }
        try require(
            "algorithm_type", algorithmType.rawValue, "data_prediction where prediction_type is flow_prediction",
            algorithmType == .dataPrediction || predictionType != .flowPrediction)
    }

    // MARK: The plan

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try checkedNoiseSchedule() }

    /// The level of a whole training timestep t: A = √ᾱ_t, S = √(1 − ᾱ_t).
    ///
    /// - Throws: `unknownTimestep` for others.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        NoiseLevel(alphaCumprod: try noise.alphaCumprod(atTimestep: timestep))
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try request.requireNoMu()
        let used = try usedCount(of: noise), spacing = sigmaSpacing(flowShift: flowShift)
        let grid = try denoisingGrid(request, noise: noise, usedCount: used, final: nil, spacing: spacing)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try requireSignal(grid.levels)
        let solver = solver(on: grid), warmUp = max(predictorOrder, correctorOrder, 2) - 1
        return try SamplingPlan(
            grid: grid, clamp: clamp, slotCount: solver.ring + 1, warmUp: warmUp, modelLearnsVariance: learnsVariance,
            rows: solver.rows(warmUp: warmUp))
    }

    /// `last_sample` is U, which includes the noise of the last step.
    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        solver(on: plan.grid).row(at: index, age: age, keeping: .correction(slot: 0)) { max($0, 1) }
    }

    private func solver(on grid: TimestepGrid) -> PredictorCorrector {
        PredictorCorrector(
            predictsCleanSample: algorithmType == .dataPrediction, predictionType: predictionType, clamp: clamp,
            levels: grid.levels, ring: max(predictorOrder - 1, correctorOrder - 2, 0), isStochastic: true
        ) { step(at: $0, age: $1, of: grid) }
    }

    /// θ of a step.
    private func tau(at timestep: Double) -> Double {
        guard let tauFunc else { return (200...800).contains(timestep) ? 1 : 0 }
        return tauFunc[Int(min(max(timestep, 0), Double(tauFunc.count - 1)))]
    }

    private func step(at index: Int, age: Int, of grid: TimestepGrid) -> PredictorCorrector.Step {
        let levels = grid.levels, s = levels[index], t = levels[index + 1], isData = algorithmType == .dataPrediction
        if let step = PredictorCorrector.trivialStep(from: s, to: t, predictsCleanSample: isData) { return step }
        let left = lowerOrderFinal ? levels.count - 1 - index : 4, tau = tau(at: grid.timesteps[index])
        let integrator = ExponentialIntegrator(from: s, to: t, predictsCleanSample: isData, stochasticity: tau)
        func weights(through nodes: [NoiseLevel]) -> [Double] {
            isData && nodes.count == 2
                ? integrator.halfWeights(with: nodes[1], scalesWithExponential: false) : integrator.weights(through: nodes)
        }
        func known(_ count: Int) -> [NoiseLevel] { PredictorCorrector.known(count, at: index, of: levels) }
        let rate = integrator.sampleRate, predictor = weights(through: known(min(predictorOrder, left, age + 1)))
        var corrector = weights(through: known(min(correctorOrder, left + 1, age + 2) - 1) + [t])
        let newest = corrector.removeLast()
        return PredictorCorrector.Step(
            predictor: .init(sampleRate: rate, weights: predictor),
            correction: (.init(sampleRate: rate, weights: corrector), newest), noise: integrator.noiseRate)
    }
}
