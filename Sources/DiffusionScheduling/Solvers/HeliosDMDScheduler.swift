// SPDX-License-Identifier: Apache-2.0

/// Consistency sampling for flow matching in the stages of a pyramid, in which Helios' distilled models are sampled (Yin et al. 2024,
/// arXiv:2405.14867, section 4.4; stages of Jin et al. 2024, arXiv:2410.05954).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e. A step from ς to τ predicts the clean
/// sample and adds noise z, which is the stage's first sample in every step:
///
///     p = x − ς e        x' = (1 − τ) p + τ z
///
/// The stages, their levels and timesteps are those of ``HeliosScheduler``: a run has the first n of n + 1 levels, or 2 n of 2 n + 1 in an
/// amplified first chunk. Steps depend on nothing but their arguments and the run's levels, so they may be taken in any order. ς and τ are
/// the levels of the run's timesteps that are nearest to the step's own, without their fractions. The last step reads no noise.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias HeliosDMDScheduler = DefinedScheduler<HeliosDMDConfiguration>

/// The parameters of `HeliosDMDScheduler`, with diffusers' defaults.
public struct HeliosDMDConfiguration: SchedulerDefinition {
    public typealias Options = HeliosConfiguration.Options

    public static let className = "HeliosDMDScheduler"
    public static let compatibleClassNames = ["HeliosDMDScheduler"]
    public static let resultType = ResultType.sample
    public static let noiseType = NoiseType.sample
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float64
    public static let sigmaType = SigmaElementType.float64
    public static let isStateless = true
    public static let stepArguments: StepArguments? = StepArguments(
        noise: "dmd_noisy_tensor", stepIndex: "cur_sampling_step", timesteps: ["dmd_timesteps", "all_timesteps"],
        sigmas: ["dmd_sigmas"]
    )

    /// The stages, and the shift of their levels.
    public var pyramid = HeliosConfiguration()

    public var origin = ConfigurationOrigin()

    public init() {
        pyramid.schedulerType = .dmd
        pyramid.solver.timeShiftType = .linear
    }

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.pyramid.solver.numTrainTimesteps, "The number of noise levels of the model's training."),
            .init("shift", \.pyramid.shift, "Moves the levels towards noise; 1 leaves them alone."),
            .init("stages", \.pyramid.stages, "The number of stages, each at a resolution of its own."),
            .init(
                "stage_range", \.pyramid.stageRange, "Where stages begin and the last one ends, as shares of the training's levels."
            ),
            .init("gamma", \.pyramid.gamma, "The bound of the correlation of the noise that is added between stages."),
            .init(
                "prediction_type", \.pyramid.solver.predictionType,
                "The model's prediction; without effect: a velocity is expected."),
            .init("use_flow_sigmas", \.pyramid.solver.useFlowSigmas, "Without effect: levels are shares of noise."),
            .init("use_dynamic_shifting", \.pyramid.solver.useDynamicShifting, "Whether each run brings its own shift, mu."),
            .init("time_shift_type", \.pyramid.solver.timeShiftType, "How mu shifts: by its exponential, or linear."),
        ]
    }

    public func validate() throws(SchedulerError) { try pyramid.validate() }

    // MARK: The plan

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try pyramid.makeNoiseSchedule() }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let grid = try pyramid.grid(request, options: options, noise: noise)
        return try plan(on: TimestepGrid(timesteps: grid.timesteps, exactSigmas: grid.sigmas, process: .flow), options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        try SamplingPlan(grid: grid, rows: grid.timesteps.indices.map { [Self.row(from: grid.timesteps[$0], at: $0, on: grid)] })
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try require("timestep", timestep, "finite", timestep.isFinite)
        let distances = plan.timesteps.map { abs($0 - timestep) }
        let index = distances.indices.min { distances[$0] < distances[$1] }!
        return Self.row(from: timestep, at: index, on: plan.grid)
    }

    /// - Parameter index: the place of the step in the run.
    private static func row(from timestep: Double, at index: Int, on grid: TimestepGrid) -> PlanRow {
        let source = level(atTimestep: timestep, near: index, on: grid)
        if index + 1 == grid.timesteps.count { return .renoising(from: source, to: 0, drawCount: 0) }
        return .renoising(from: source, to: level(atTimestep: grid.timesteps[index + 1], near: index + 1, on: grid))
    }

    /// The level of the timestep nearest to a whole one, by which diffusers looks it up; the first of equally near ones.
    private static func level(atTimestep timestep: Double, near index: Int, on grid: TimestepGrid) -> Double {
        func distance(_ place: Int) -> Double { abs(grid.timesteps[place] - timestep.rounded(.towardZero)) }
        var nearest = index
        while nearest > 0, distance(nearest - 1) <= distance(nearest) { nearest -= 1 }
        while nearest + 1 < grid.timesteps.count, distance(nearest + 1) < distance(nearest) { nearest += 1 }
        return grid.sigmas[nearest]
    }
}
