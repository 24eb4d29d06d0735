// SPDX-License-Identifier: Apache-2.0

/// UniPC: a unified predictor and corrector, the scheduler of Wan and Cosmos (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 to 4).
///
/// The output at a level corrects the step that led there, at no further call of the model. With the outputs m₀ of this step and
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
    public static let returnsReport = false
    public static let resultType = ResultType.sample
    public static let compatibleClassNames = commonCompatibleClassNames

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
    public var predictX0 = true
    public var solverType = UniPCSolverType.bh2
    public var lowerOrderFinal = true
    public var disableCorrector: [Int] = []
    public var solverP: UniPCForeignPredictor?
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var useFlowSigmas = false
    public var flowShift = 1.0
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    public var finalSigmasType = FinalSigmasType.zero
    public var rescaleBetasZeroSNR = false
    public var useDynamicShifting = false
    public var timeShiftType = FlowTimeShiftType.exponential
    public var sigmaMin: Double?
    public var sigmaMax: Double?
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
        try require("solver_order", solverOrder, "from 1 to \(Self.highestOrder)", (1...Self.highestOrder).contains(solverOrder))
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
        let levels = grid.levels
        try requireSignal(levels)
        let uncorrected = Set(disableCorrector), last = solverOrder - 1
        let rows = levels.indices.dropLast().map { index in
            (0...min(index, solverOrder)).map { age in
                row(at: index, age: age, of: levels, uncorrected: uncorrected, keeping: .correction(slot: last)) {
                    (index - $0) % last
                }
            }
        }
        return try SamplingPlan(grid: grid, clamp: outputClamp, slotCount: solverOrder, warmUp: solverOrder, rows: rows)
    }

    public static var attributes: StepAttributes {
        StepAttributes(tensors: ["last_sample"], history: "model_outputs", age: "lower_order_nums")
    }

    /// Order 6 has too few slots for x_c beside its outputs: there `last_sample` is U.
    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        row(
            at: index, age: min(age, solverOrder), of: plan.levels, uncorrected: Set(disableCorrector),
            keeping: solverOrder == Self.highestOrder ? .correction(slot: 0) : .correctedSample(slot: 0)
        ) { max($0, 1) }
    }

    /// diffusers thresholds only where the solver extrapolates the clean sample.
    private var outputClamp: PredictionClamp { predictX0 ? clamp : .none }

    /// The tensor that the next step is corrected with: U, or x_c, from which U follows with the outputs.
    private enum Kept {
        case correction(slot: Int)
        case correctedSample(slot: Int)
    }

    /// The row of a step in a run that has taken that many steps before it.
    ///
    /// - Parameter slot: that of mₖ, or for k = 0 the one that m₀ is stored in.
    private func row(
        at index: Int, age: Int, of levels: [NoiseLevel], uncorrected: Set<Int>, keeping kept: Kept, slot: (Int) -> Int
    ) -> PlanRow {
        // The conversions of the clean sample and of the noise are DPM-Solver's.
        let converter = DPMSolver(
            algorithmType: predictX0 ? .dpmsolverPlusPlus : .dpmsolver, solverType: .midpoint, predictionType: predictionType)
        let converted = converter.conversion(at: levels[index], clamped: outputClamp != .none)
        func output(_ back: Int) -> Combination { back == 0 ? converted : Combination(.slot(slot(back))) }
        func combination(_ sample: Combination, _ update: Update, outputs: (Int) -> Combination) -> Combination {
            var sum = update.sampleRate * sample
            for (back, weight) in update.weights.enumerated() { sum = sum + weight * outputs(back) }
            return sum
        }

        var corrected = Combination(.sample)
        if age > 0, !uncorrected.contains(index - 1),
            let correction = step(at: index - 1, age: age - 1, of: levels).correction
        {
            let known =
                switch kept {
                case .correction(let slot): Combination(.slot(slot))
                case .correctedSample(let slot): combination(Combination(.slot(slot)), correction.known) { output($0 + 1) }
                }
            corrected = known + correction.newest * converted
        }
        let step = step(at: index, age: age, of: levels)
        var stores: [PlanRow.Store] = []
        // A session of order 1 remembers no outputs.
        if case .correction = kept, solverOrder == 1 {} else { stores.append(.init(slot: slot(0), value: converted)) }
        if let correction = step.correction, index + 2 < levels.count, !uncorrected.contains(index) {
            switch kept {
            case .correction(let slot):
                stores.append(.init(slot: slot, value: combination(corrected, correction.known, outputs: output)))
            case .correctedSample(let slot): stores.append(.init(slot: slot, value: corrected))
            }
        }
        return PlanRow(
            prediction: converter.prediction(at: levels[index]),
            nextSample: combination(corrected, step.predictor, outputs: output), stores: stores)
    }

    /// x' = sampleRate x_c + Σ weights[k] mₖ.
    private struct Update {
        var sampleRate: Double
        var weights: [Double]
    }

    /// The predictor of a step, and its corrector: what is known before the next output, and the weight of that one.
    ///
    /// A step that leads nowhere has no corrector. One to the level without noise has none either: it gives the clean sample.
    private func step(
        at index: Int, age: Int, of levels: [NoiseLevel]
    ) -> (predictor: Update, correction: (known: Update, newest: Double)?) {
        let s = levels[index], t = levels[index + 1], isLast = index + 2 == levels.count
        if s.sigma == t.sigma || s.noiseToSignal == 0 { return (Update(sampleRate: 1, weights: []), nil) }
        if t.noiseToSignal == 0 {
            return (
                predictX0
                    ? Update(sampleRate: 0, weights: [1])
                    : Update(sampleRate: 1 / s.signalRate, weights: [-s.noiseRate / s.signalRate]), nil
            )
        }
        var order = min(solverOrder, age + 1)
        if lowerOrderFinal { order = min(order, levels.count - 1 - index) }
        // A level that occurred already carries no information: the order falls.
        var known = [s]
        while known.count < order {
            let older = levels[index - known.count]
            if older.noiseToSignal == 0 || (known + [t]).contains(where: { $0.sigma == older.sigma }) { break }
            known.append(older)
        }

        let integrator = ExponentialIntegrator(from: s, to: t, predictsCleanSample: predictX0)
        let rate = integrator.sampleRate, isB2 = solverType == .bh2
        let predictor =
            known.count == 2
            ? integrator.halfWeights(with: known[1], scalesWithExponential: isB2) : integrator.weights(through: known)
        if isLast { return (Update(sampleRate: rate, weights: predictor), nil) }
        var corrector =
            known.count == 1
            ? integrator.halfWeights(with: t, scalesWithExponential: isB2) : integrator.weights(through: known + [t])
        let newest = corrector.removeLast()
        return (Update(sampleRate: rate, weights: predictor), (Update(sampleRate: rate, weights: corrector), newest))
    }
}

/// B(h) of UniPC; diffusers takes the names of other solvers' types for `bh2`.
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
    public init?(json: JSONValue) { return nil }
    public var json: JSONValue { .null }
}
