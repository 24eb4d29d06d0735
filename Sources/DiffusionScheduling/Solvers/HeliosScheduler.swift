// SPDX-License-Identifier: Apache-2.0

/// UniPC or Euler's method for flow matching in the stages of a pyramid, the scheduler of Helios (Jin et al. 2024, arXiv:2410.05954; steps
/// of Zhao et al. 2023, arXiv:2302.04867, and Liu et al. 2022, arXiv:2209.03003).
///
/// A sample at the level ς is (1 − ς) data + ς noise. Stage i of the training begins at the level sᵢ and ends at tᵢ. A picture is enlarged
/// and noised again between stages, with a correlation bounded by γ, so that a run of a stage begins at
///
///     s'ᵢ = 1 − a/(√(1 + 1/γ) (1 − a) + a)        a = 1 − sᵢ, for i > 0
///
/// Its share of the timesteps is proportional to its length s'ᵢ − tᵢ. The n levels of a stage are evenly spaced from 0.999 to
/// 0.999/T, and its n timesteps over its share. A single stage has the levels 1 − i (1 − 1/T)/n, or the request's, and the
/// timesteps T ς.
///
/// `unipc` takes the steps of `UniPCMultistepScheduler`, and a share of noise of 1e-8 stands for the end. `euler` takes x' = x + (τ − ς) e.
/// `dmd` does, too, and leaves out the last of n + 1 levels, or of 2 n + 1 in an amplified first chunk; distilled models have
/// ``HeliosDMDScheduler``.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias HeliosScheduler = DefinedScheduler<HeliosConfiguration>

/// The parameters of `HeliosScheduler`, with diffusers' defaults.
public struct HeliosConfiguration: SchedulerDefinition {
    public static let className = "HeliosScheduler"
    public static let compatibleClassNames = ["HeliosScheduler"]
    public static let resultType = ResultType.sample
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float64
    public static let sigmaType = SigmaElementType.float64
    public static var attributes: StepAttributes { UniPCMultistepConfiguration.attributes }

    /// κ: pushes the training's levels towards more noise; > 0.
    public var shift = 1.0
    /// The number of stages of the pyramid.
    public var stages = 3
    /// The shares of the training at which stages begin, and the last one ends: one more than there are stages.
    public var stageRange = [0, 1.0 / 3, 2.0 / 3, 1]
    /// γ: the bound of the correlation of the noise that is added between stages.
    public var gamma = 1.0 / 3
    /// The solver of a run.
    public var schedulerType = HeliosSchedulerType.unipc
    /// The solver of `unipc`, with the training's length and the shift of a run.
    public var solver: UniPCMultistepConfiguration

    public var origin = ConfigurationOrigin()

    public init() {
        solver = UniPCMultistepConfiguration()
        solver.predictionType = .flowPrediction
        solver.useFlowSigmas = true
    }

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.solver.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone."),
            .init("stages", \.stages, "The number of stages, each at a resolution of its own."),
            .init("stage_range", \.stageRange, "Where stages begin and the last one ends, as shares of the training's levels."),
            .init("gamma", \.gamma, "The bound of the correlation of the noise that is added between stages."),
            .init("thresholding", \.solver.thresholding, "Whether the predicted clean sample is thresholded; not supported."),
            .init("prediction_type", \.solver.predictionType, "What the model predicts."),
            .init("solver_order", \.solver.solverOrder, "How many model outputs a step of unipc combines."),
            .init("predict_x0", \.solver.predictX0, "Whether unipc extrapolates the clean sample rather than the noise."),
            .init("solver_type", \.solver.solverType, "The B(h) of unipc, which matters for order 2 and the first correction."),
            .init("lower_order_final", \.solver.lowerOrderFinal, "Whether the orders of unipc fall to 1 towards the last step."),
            .init("disable_corrector", \.solver.disableCorrector, "The steps, counted from 0, whose results aren't corrected."),
            .init("solver_p", \.solver.solverP, "Another scheduler in the predictor's place; not supported."),
            .init("use_flow_sigmas", \.solver.useFlowSigmas, "Whether unipc takes levels for shares of noise, not for ratios."),
            .init("scheduler_type", \.schedulerType, "The steps' solver."),
            .init("use_dynamic_shifting", \.solver.useDynamicShifting, "Whether each run brings its own shift, mu."),
            .init("time_shift_type", \.solver.timeShiftType, "How mu shifts: by its exponential, or linear."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", solver.numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("shift", shift, in: 1e-30...1e30)
        try require("shift", shift, "1 where use_dynamic_shifting is true", shift == 1 || !solver.useDynamicShifting)
        try require("stages", stages, "at least 1", stages >= 1)
        try require(
            "number of values of stage_range", stageRange.count, "\(stages + 1), one more than the stages, or more",
            stageRange.count > stages)
        for (start, end) in zip(stageRange, stageRange.dropFirst()) {
            try require("stage_range", end, "ascending from 0 to 1", 0 <= start && start < end && end <= 1)
        }
        try require("gamma", gamma, in: 1e-30...1e30)
        guard schedulerType == .unipc else { return }
        try solver.validate()
        try require("thresholding", "true", "false", !solver.thresholding)
    }

    // MARK: The plan

    /// The options of a Helios run.
    public struct Options: RunOptions {
        /// The stage, from 0; nil: the first one.
        public var stageIndex: Int?
        /// Whether a run of `dmd` has twice as many steps.
        public var isAmplifyFirstChunk = false

        public init() {}
        /// The options of a run of a stage.
        public init(stageIndex: Int?, isAmplifyFirstChunk: Bool = false) {
            self.stageIndex = stageIndex
            self.isAmplifyFirstChunk = isAmplifyFirstChunk
        }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init("stage_index", \.stageIndex, "The stage, from 0; null: the first one."),
                .init("is_amplify_first_chunk", \.isAmplifyFirstChunk, "Whether dmd takes twice as many steps."),
            ]
        }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, options: options, noise: noise), options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        guard schedulerType == .unipc else {
            return try SamplingPlan(grid: grid, rows: grid.timesteps.indices.map { [eulerRow(at: $0, of: grid.sigmas)] })
        }
        let order = solver.solverOrder
        return try SamplingPlan(
            grid: grid, slotCount: order, warmUp: order, rows: solver.solver(on: bounded(grid.levels)).rows(warmUp: order))
    }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        schedulerType == .unipc
            ? solver.attributeRow(at: index, age: age, on: bounded(plan.levels)) : eulerRow(at: index, of: plan.sigmas)
    }

    private func eulerRow(at index: Int, of sigmas: [Double]) -> PlanRow {
        PlanRow(
            prediction: Combination(sample: 1, modelOutput: -sigmas[index]),
            nextSample: Combination(sample: 1, modelOutput: sigmas[index + 1] - sigmas[index]))
    }

    /// Levels with a finite λ: a share of noise of at least 1e-8, and of less than 1.
    private func bounded(_ levels: [NoiseLevel]) -> [NoiseLevel] {
        levels.map { level in
            if level.process != .flow { return level }
            if level.sigma < 1e-8 { return NoiseLevel(signalRate: level.signalRate, noiseRate: 1e-8, process: .flow) }
            return NoiseLevel(sigma: min(level.sigma, 1.0.nextDown), process: .flow)
        }
    }
}
