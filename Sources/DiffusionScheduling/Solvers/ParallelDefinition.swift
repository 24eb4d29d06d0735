// SPDX-License-Identifier: Apache-2.0

/// DDIM for parallel sampling: `DDIMScheduler`, with steps for many timesteps of a run at once (ParaDiGMS, Shih et al. 2023,
/// arXiv:2305.16317).
///
/// With the signal variances ᾱ_t and ᾱ_u of a step's ends, the predicted clean sample p, the predicted noise ε and noise z, a step
/// is
///
///     x' = √ᾱ_u p + √(1 − ᾱ_u − σ²) ε + σ z        see ``DDIMScheduler``
///
/// Picard iterations guess all samples of a run, ask the model at all of them, and correct each by the steps before it. Their noise is drawn
/// once, before the first guess, so that their steps must leave it out: see ``ParallelDefinition/Options/withoutNoise``.
///
/// The class of that name in diffusers is the reference. Its `batch_step_no_noise` takes such steps.
public typealias DDIMParallelScheduler = DefinedScheduler<ParallelDefinition<DDIMConfiguration>>

/// DDPM for parallel sampling: `DDPMScheduler`, with steps for many timesteps of a run at once (ParaDiGMS, Shih et al. 2023,
/// arXiv:2305.16317).
///
/// With the signal variances ᾱ_t and ᾱ_u of a step's ends, β = 1 − ᾱ_t/ᾱ_u, the predicted clean sample p and noise z, a step is
///
///     x' = √ᾱ_u β/(1 − ᾱ_t) p + √(ᾱ_t/ᾱ_u) (1 − ᾱ_u)/(1 − ᾱ_t) x + σ z        see ``DDPMScheduler``
///
/// Steps may leave their noise out, as those of ``DDIMParallelScheduler``.
///
/// The class of that name in diffusers is the reference. Its `batch_step_no_noise` takes such steps.
public typealias DDPMParallelScheduler = DefinedScheduler<ParallelDefinition<DDPMConfiguration>>

/// A scheduler whose steps can leave their noise out.
public protocol SteppingWithoutNoise: TrainingTimestepDefinition, VelocityDefinition {
    /// The row of the step between two timesteps, without its noise.
    ///
    /// - Parameters:
    ///   - timestep: the timestep that the step starts at.
    ///   - target: the timestep that the step leads to; nil: the clean sample.
    ///   - options: the options of the run.
    ///   - noise: the noise levels of the training.
    /// - Throws: `unknownTimestep` for a timestep that the training doesn't have; `invalidValue` for a target that the step can't
    ///   lead to, and for η > 0.
    func rowWithoutNoise(
        from timestep: Double, to target: Double?, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow
}

/// The parallel form of a scheduler: its parameters, options and steps, and those steps without noise.
@dynamicMemberLookup
public struct ParallelDefinition<Base: SteppingWithoutNoise>: VelocityDefinition {
    public static var className: String { Base.className.dropLast("Scheduler".count) + "ParallelScheduler" }
    public static var compatibleClassNames: [String] { Base.compatibleClassNames }
    public static var isStateless: Bool { true }
    public static var batchStep: BatchStep? { BatchStep(name: "batch_step_no_noise", option: "without_noise") }

    /// The parameters of the sequential scheduler.
    public var base = Base()

    public var origin: ConfigurationOrigin {
        get { base.origin }
        set { base.origin = newValue }
    }

    public init() {}

    /// A parameter of the scheduler that takes one step after the other.
    public subscript<Value>(dynamicMember path: WritableKeyPath<Base, Value>) -> Value {
        get { base[keyPath: path] }
        set { base[keyPath: path] = newValue }
    }

    public static var parameters: [ConfigurationParameter<Self>] { Base.parameters.map { .init($0, of: \.base) } }

    public func validate() throws(SchedulerError) { try base.validate() }

    // MARK: The plan

    /// The options of the sequential scheduler, and one more.
    public struct Options: RunOptions {
        /// The options of the scheduler that takes one step after the other.
        public var base = Base.Options()
        /// Whether a step leads ⌊T/n⌋ timesteps down, below timestep 0 to the clean sample, and leaves its noise out.
        public var withoutNoise = false

        public init() {}

        public static var parameters: [ConfigurationParameter<Self>] {
            Base.Options.parameters.map { .init($0, of: \.base) } + [
                .init(
                    "without_noise", \.withoutNoise,
                    "Whether a step spans num_train_timesteps // num_inference_steps timesteps and leaves its noise out.")
            ]
        }

        public func validate() throws(SchedulerError) { try base.validate() }
    }

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try base.makeNoiseSchedule() }

    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try base.trainingLevel(atTimestep: timestep, noise: noise)
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let plan = try base.plan(request, options: options.base, noise: noise)
        guard options.withoutNoise else { return plan }
        var rows: [[PlanRow]] = []
        for timestep in plan.timesteps { rows.append([try row(at: timestep, of: plan, options: options, noise: noise)]) }
        return try SamplingPlan(
            grid: base.grid(plan.timesteps, final: 0, noise: noise), clamp: plan.clamp,
            modelLearnsVariance: plan.modelLearnsVariance, rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        guard options.withoutNoise else {
            return try base.row(at: timestep, of: plan, options: options.base, noise: noise)
        }
        let target = timestep - Double(noise.count / plan.stepCount)
        return try base.rowWithoutNoise(
            from: timestep, to: target < 0 ? nil : target, options: options.base, noise: noise)
    }
}
