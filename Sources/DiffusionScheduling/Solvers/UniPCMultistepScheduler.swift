// SPDX-License-Identifier: Apache-2.0

/// UniPC: a unified predictor and corrector, the scheduler of Wan and Cosmos (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 to 4).
///
/// The output at a level corrects the step that led there, without another call of the model. With the outputs m₀ of this step and
/// m₁, m₂ … of those before, a step from ς to τ is
///
///     m₀  = p, the predicted clean sample, or the predicted noise
///     x_c = U + b m₀              UniC: the sample, corrected by m₀; x itself in the first step
///     x'  = a x_c + Σ wₖ mₖ       UniP
///     U'  = a x_c + Σ cₖ mₖ       the next step's correction, but for the term of its own output
///
/// with the weights of exponential integrators: see `ExponentialIntegrator`.
///
/// ```swift
/// var scheduler = try UniPCMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Order 2 suits guided sampling, order 3 unconditional sampling. Thresholding is for models of pixels, not of latents.
public typealias UniPCMultistepScheduler = DefinedScheduler<UniPCMultistepConfiguration>

/// The parameters of `UniPCMultistepScheduler`, with diffusers' defaults.
public struct UniPCMultistepConfiguration: SchedulerDefinition, PredictionTypeConfiguration, SigmaGridConfiguration,
    TimestepSpacingConfiguration, ThresholdingConfiguration, ZeroTerminalSNRConfiguration
{
    public static let className = "UniPCMultistepScheduler"
    public static let shiftsRequestedLevels = true
    public static let returnsReport = false
    public static let resultType = ResultType.sample
    public static let compatibleClassNames = commonCompatibleClassNames

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// The number of model outputs that a step combines.
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    /// Whether the solver extrapolates the predicted clean sample rather than the predicted noise.
    public var predictX0 = true
    /// B(h).
    public var solverType = UniPCSolverType.bh2
    /// Whether the orders fall to 1 towards the last step.
    public var lowerOrderFinal = true
    /// The steps that aren't corrected, from 0.
    public var disableCorrector: [Int] = []
    /// A scheduler in the place of the predictor; none is supported.
    public var solverP: UniPCForeignPredictor?
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var useFlowSigmas = false
    public var flowShift = 1.0
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    /// The noise level after the last step.
    public var finalSigmasType = FinalSigmasType.zero
    public var rescaleBetasZeroSNR = false
    /// Whether a run may bring its own shift, mu.
    public var useDynamicShifting = false
    /// The form of mu.
    public var timeShiftType = FlowTimeShiftType.exponential
    public var sigmaMin: Double?
    public var sigmaMax: Double?
    /// The level that the last step begins at, to which the others are stretched; nil: no stretching.
    public var shiftTerminal: Double?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("solver_order", \.solverOrder, "How many model outputs a step combines, from 1 to \(highestOrder)."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("predict_x0", \.predictX0, "Whether the solver extrapolates the clean sample rather than the noise."),
            .init("solver_type", \.solverType, "The B(h) of the paper, which matters for order 2 and the first correction."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether the orders fall to 1 towards the last step."),
            .init("disable_corrector", \.disableCorrector, "The steps, counted from 0, whose results aren't corrected."),
            .init("solver_p", \.solverP, "Another scheduler in the predictor's place; not supported."),
        ] + sigmaSpacingParameters + flowSigmaParameters + timestepSpacingParameters + [
            .init("final_sigmas_type", \.finalSigmasType, "The noise level after the last step.")
        ] + zeroTerminalSNRParameters + [
            .init("use_dynamic_shifting", \.useDynamicShifting, "Whether each run brings its own shift, mu."),
            .init("time_shift_type", \.timeShiftType, "How mu shifts: by its exponential, or linear."),
            .init("sigma_min", \.sigmaMin, "The least level of Karras, exponential and beta grids, instead of the training's."),
            .init("sigma_max", \.sigmaMax, "The greatest level of these grids, instead of the training's."),
            .init("shift_terminal", \.shiftTerminal, "Stretches flow levels so that the last step begins here."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid(convertsKarras: true)
        try require("solver_order", solverOrder, in: 1...Self.highestOrder)
        try validateShiftTerminal(shiftTerminal)
        if shiftTerminal != nil, !useFlowSigmas {
            throw .invalidValue(key: "shift_terminal", value: "given", allowed: "null, as use_flow_sigmas is false")
        }
        if predictionType == .flowPrediction, !predictX0 {
            throw .invalidValue(key: "predict_x0", value: "false", allowed: "true where prediction_type is flow_prediction")
        }
    }

    /// The slots of a plan: one for U, the others for outputs.
    private static let highestOrder = Combination.maximumSlotCount

    // MARK: The grid

    /// The timesteps and noise levels of a run.
    ///
    /// Levels that a request names are shifted as the levels of a count are. `mu` is ignored without dynamic shifting.
    func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        let shift = try FlowShift(constant: flowShift, isDynamic: useDynamicShifting, type: timeShiftType, mu: request.mu)
        if case .sigmas = request, let key = chosenSpacings.first {
            throw .invalidValue(
                key: "sigmas", value: "given", allowed: "left out where \(key) is true, which spaces the levels itself")
        }
        var spacing = sigmaSpacing(flowShift: flowShift)
        switch spacing {
        case .karras where useFlowSigmas: spacing = .karrasFlow
        case .flow: spacing = .shiftedFlow(shift, terminal: shiftTerminal)
        default: break
        }
        return try denoisingGrid(
            request, noise: noise, usedCount: noise.count, final: finalSigmasType == .zero ? .zero : nil, spacing: spacing)
    }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, noise: noise), options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try requireSignal(grid.levels)
        return try SamplingPlan(
            grid: grid, clamp: outputClamp, slotCount: solverOrder, warmUp: solverOrder,
            rows: solver(on: grid.levels).rows(warmUp: solverOrder))
    }

    public static var attributes: StepAttributes {
        StepAttributes(tensors: ["last_sample"], history: "model_outputs", age: "lower_order_nums")
    }

    /// Order 6 has too few slots for x_c beside its outputs: there `last_sample` is U.
    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        attributeRow(at: index, age: age, on: plan.levels)
    }

    func attributeRow(at index: Int, age: Int, on levels: [NoiseLevel]) -> PlanRow {
        solver(on: levels).row(
            at: index, age: min(age, solverOrder),
            keeping: solverOrder == Self.highestOrder ? .correction(slot: 0) : .correctedSample(slot: 0)
        ) { max($0, 1) }
    }

    /// diffusers thresholds only where the solver extrapolates the clean sample.
    private var outputClamp: PredictionClamp { predictX0 ? clamp : .none }

    func solver(on levels: [NoiseLevel]) -> PredictorCorrector {
        let uncorrected = Set(disableCorrector)
        return PredictorCorrector(
            predictsCleanSample: predictX0, predictionType: predictionType, clamp: outputClamp, levels: levels,
            ring: solverOrder - 1
        ) { index, age in
            var step = step(at: index, age: age, of: levels)
            if uncorrected.contains(index) { step.correction = nil }
            return step
        }
    }

    /// The step at an index in a run that has taken `age` steps before it.
    private func step(at index: Int, age: Int, of levels: [NoiseLevel]) -> PredictorCorrector.Step {
        let s = levels[index], t = levels[index + 1], isLast = index + 2 == levels.count
        if let step = PredictorCorrector.trivialStep(from: s, to: t, predictsCleanSample: predictX0) { return step }
        var order = min(solverOrder, age + 1)
        if lowerOrderFinal { order = min(order, levels.count - 1 - index) }
        let known = PredictorCorrector.known(order, at: index, of: levels)

        let integrator = ExponentialIntegrator(from: s, to: t, predictsCleanSample: predictX0)
        let rate = integrator.sampleRate, isB2 = solverType == .bh2
        let predictor =
            known.count == 2
            ? integrator.halfWeights(with: known[1], scalesWithExponential: isB2) : integrator.weights(through: known)
        var step = PredictorCorrector.Step(predictor: .init(sampleRate: rate, weights: predictor))
        if isLast { return step }
        var corrector =
            known.count == 1
            ? integrator.halfWeights(with: t, scalesWithExponential: isB2) : integrator.weights(through: known + [t])
        let newest = corrector.removeLast()
        step.correction = (.init(sampleRate: rate, weights: corrector), newest)
        return step
    }
}

/// B(h) of UniPC; diffusers accepts other solvers' type names for `bh2`.
public enum UniPCSolverType: String, ConfigurationKeyword {
    /// B(h) = h.
    case bh1
    /// B(h) = e^h − 1.
    case bh2
    public static let aliases: [String: Self] = ["midpoint": .bh2, "heun": .bh2, "logrho": .bh2]
}

/// A scheduler in the place of UniPC's predictor. There are no such values: a plan has one solver.
public enum UniPCForeignPredictor: ConfigurationValue {
    public static var typeName: String { "SchedulerMixin" }
    public static var allowedValues: String { "left out, as another scheduler can't stand in for the predictor here" }
    /// No value of JSON is one.
    public init?(json: JSONValue) { return nil }
    /// `null`.
    public var json: JSONValue { .null }
}
