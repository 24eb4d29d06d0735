// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver and DPM-Solver++ in blocks of steps: each block starts anew, with nothing from the one before (Lu et al. 2022,
/// arXiv:2206.00927, algorithms 1 and 2, and arXiv:2211.01095, algorithm 1; the grid of the blocks is diffusers').
///
/// The steps of a block have the orders 1, 2 … `solverOrder`, and each of them leads from the start of the block:
///
///     x' = a B + w₀ m_b + w₁ D₁ + w₂ D₂ + c z        see `DPMSolver`, whose h is that of the whole way
///
/// with the sample B at the start and divided differences D₁, D₂ of the block's outputs. A stochastic step adds the noise of the whole
/// way. The last block of a run may be shorter.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DPMSolverSinglestepScheduler = DefinedScheduler<DPMSolverSinglestepConfiguration>

/// The parameters of `DPMSolverSinglestepScheduler`, with diffusers' defaults.
public struct DPMSolverSinglestepConfiguration: SchedulerDefinition, PredictionTypeConfiguration, SigmaGridConfiguration,
    ThresholdingConfiguration, DynamicShiftingConfiguration, LambdaClippingConfiguration
{
    public static let className = "DPMSolverSinglestepScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let returnsReport = false
    public static let attributes = StepAttributes(tensors: ["sample"], history: "model_outputs")

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// 1, 2 or 3: the number of steps in a block.
    public var solverOrder = 2
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var sampleMaxValue = 1.0
    /// The integral.
    public var algorithmType = DPMSolver.AlgorithmType.dpmsolverPlusPlus
    /// The weights of the slope in order 2.
    public var solverType = DPMSolver.SolverType.midpoint
    /// Whether the last step is of order 1 where it would complete a block. A last step to no noise always is.
    public var lowerOrderFinal = false
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var useFlowSigmas = false
    public var flowShift = 1.0
    /// The noise level after the last step.
    public var finalSigmasType = FinalSigmasType.zero
    public var lambdaMinClipped = -Double.infinity
    public var varianceType: String?
    public var useDynamicShifting = false
    /// The form of `mu`.
    public var timeShiftType = TimeShiftType.exponential

    public var timestepSpacing: TimestepSpacing { .linspace }
    public var stepsOffset: Int { 0 }
    public var origin = ConfigurationOrigin()

    public init() {}

    private static let algorithmTypes = DPMSolver.AlgorithmType.allCases.filter { $0 != .sdeDPMSolver }

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("solver_order", \.solverOrder, "How many steps make a block: 1, 2 or 3."),
            predictionTypeParameter,
        ] + thresholdingParameters + [
            .init("algorithm_type", \.algorithmType, among: algorithmTypes, "The integral that the solver approximates."),
            .init("solver_type", \.solverType, "How the steps of orders 2 and 3 approximate it."),
            .init("lower_order_final", \.lowerOrderFinal, "Whether the last step is of order 1 where it would complete a block."),
        ] + sigmaSpacingParameters + flowSigmaParameters + [
            .init("final_sigmas_type", \.finalSigmasType, "The noise level after the last step.")
        ] + lambdaClippingParameters + dynamicShiftingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateThresholding()
        try validateSigmaGrid()
        try validateLambdaClipping()
        try require("solver_order", solverOrder, "1, 2 or 3", (1...3).contains(solverOrder))
        try require("algorithm_type", algorithmType, among: Self.algorithmTypes)
    }

    // MARK: The plan

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try checkedNoiseSchedule() }

    private var solver: DPMSolver {
        DPMSolver(algorithmType: algorithmType, solverType: solverType, predictionType: predictionType)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(
            on: denoisingGrid(
                request, noise: noise, usedCount: usedCount(of: noise), final: finalSigmasType,
                spacing: sigmaSpacing(flowShift: flowShift(request))),
            options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        let levels = grid.levels, count = grid.timesteps.count, ring = solverOrder - 1
        try requireSignal(levels)
        let rows = grid.timesteps.indices.map { index in
            (0...min(index, ring)).map { age in
                // No later step reads the output at the end of a block.
                let isRead = index + 1 < count && order(atStep: index + 1, of: count) > 1
                return row(at: index, age: age, of: levels, stores: isRead) { 1 + (index - $0) % ring }
            }
        }
        return try SamplingPlan(
            grid: grid, clamp: clamp, slotCount: ring > 0 ? 1 + ring : 0, warmUp: ring, modelLearnsVariance: learnsVariance,
            rows: rows)
    }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        row(at: index, age: min(age, solverOrder - 1), of: plan.levels, stores: true) { max($0, 1) }
    }

    /// The place of a step in its block, counted from 1.
    private func order(atStep index: Int, of count: Int) -> Int {
        let order = index % solverOrder + 1
        let isLowered = finalSigmasType == .zero || (lowerOrderFinal && order == solverOrder)
        return index == count - 1 && isLowered ? 1 : order
    }

    /// The row of a step in a run that has taken `age` steps before it. B is in slot 0.
    ///
    /// - Parameter slot: the slot of mₖ; for k = 0, the slot that m₀ is stored in.
    private func row(at index: Int, age: Int, of levels: [NoiseLevel], stores: Bool, slot: (Int) -> Int) -> PlanRow {
        let order = min(order(atStep: index, of: levels.count - 1), age + 1)
        let converted = solver.conversion(at: levels[index], clamped: clamp != .none)
        let block = order == 1 ? nil : solver.update(through: (0..<order).map { levels[index - $0] }, to: levels[index + 1])
        let update = block ?? solver.update(order: 1, at: index, of: levels, remembered: 0)
        var next = update.sample * Combination(block == nil ? .sample : .slot(0))
        next.noise = update.noise
        for (back, weight) in update.outputs.enumerated() {
            next = next + weight * (back == 0 ? converted : Combination(.slot(slot(back))))
        }
        var kept: [PlanRow.Store] = stores ? [.init(slot: slot(0), value: converted)] : []
        if stores, order == 1 { kept.append(.init(slot: 0, value: Combination(.sample))) }
        return PlanRow(
            prediction: solver.prediction(at: levels[index]), nextSample: next, stores: kept,
            drawCount: solver.isStochastic ? 1 : nil)
    }
}
