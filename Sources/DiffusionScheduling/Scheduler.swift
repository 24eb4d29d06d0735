// SPDX-License-Identifier: Apache-2.0

/// The part of a scheduler that a pipeline needs.
///
/// A diffusion model turns noise into a sample in a few steps. The scheduler chooses the noise levels at which the
/// model runs, and combines its outputs into the next sample:
///
/// ```swift
/// var scheduler: any Scheduler = try SchedulerCatalog.makeScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// var sample = noise.map { $0 * Float(scheduler.initNoiseSigma) }
/// for timestep in scheduler.timesteps {
///     let input = try scheduler.scaleModelInput(sample, timestep: timestep)
///     try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Tensors are contiguous arrays of a `TensorElement`; batch items lie one after the other, and no other part of the shape
/// matters. A scheduler is a value: each concurrent request steps its own copy.
public protocol Scheduler: Sendable {
    /// The type of the configuration.
    associatedtype Configuration: SchedulerConfiguration

    /// The scheduler's configuration.
    var configuration: Configuration { get }
    /// The timestep that the model gets at each step. Before `setTimesteps`: the training timesteps, noisiest first.
    var timesteps: [Double] { get }
    /// The standard deviation of the noise that a run starts with.
    var initNoiseSigma: Double { get }

    /// Plans a run of `count` steps and returns to its start.
    ///
    /// - Throws: `invalidValue` for a number of steps that the scheduler doesn't allow, `unrepresentablePlan`. The run before is
    ///   kept then.
    mutating func setTimesteps(_ count: Int) throws(SchedulerError)

    /// Scales a sample x, in place, to the model's input at the timestep: x' = c x with the input scale c, which is 1 in most
    /// schedulers.
    ///
    /// - Throws: `unknownTimestep` for a timestep that isn't in the plan, if the plan has an input scale other than 1.
    func scaleModelInput<Element: TensorElement>(
        _ sample: inout MutableSpan<Element>, timestep: Double
    ) throws(SchedulerError)

    /// Takes one step in place: `sample` is the sample at `timestep` before the call and the next sample after it. ``PlanRow`` has
    /// the formula.
    ///
    /// - Parameters:
    ///   - modelOutput: the model's output, with as many elements as the sample.
    ///   - timestep: the timestep that the model was told.
    ///   - sample: the sample.
    ///   - noise: standard normal numbers, one for each element of the sample; only stochastic steps need them.
    ///   - batchSize: the number of batch items in the sample.
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `invalidValue`, `wrongElementCount`, `wrongElementType`,
    ///   `missingNoise`, `outOfMemory`; nothing has changed then.
    mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>?,
        batchSize: Int
    ) throws(SchedulerError)

    /// Adds noise to clean samples, in place: x = A data + S noise, for batch item i with the rates A and S of `timesteps[i]`.
    ///
    /// - Throws: `unknownTimestep`; `invalidValue` for a timestep out of range; `wrongElementCount`. Nothing has changed then.
    func addNoise<Element: TensorElement>(
        _ noise: Span<Element>, to sample: inout MutableSpan<Element>, timesteps: [Double]
    ) throws(SchedulerError)
}

/// The result of a step.
public struct SchedulerOutput<Element: TensorElement>: Sendable, Equatable {
    /// The sample after the step: xₜ₋₁ in diffusers' notation.
    public var nextSample: [Element]
    /// The clean sample x₀ predicted at this step, after thresholding; nil if it wasn't requested.
    public var predOriginalSample: [Element]?

    /// The result of a step that ended with these samples.
    public init(nextSample: [Element], predOriginalSample: [Element]? = nil) {
        self.nextSample = nextSample
        self.predOriginalSample = predOriginalSample
    }
}

// The operations on arrays.
extension Scheduler {
    /// The model's input at the timestep: input = c x for the sample x, with the input scale c.
    ///
    /// - Throws: `unknownTimestep` for a timestep that isn't in the plan, if the plan has an input scale other than 1.
    public func scaleModelInput<Element: TensorElement>(
        _ sample: [Element], timestep: Double
    ) throws(SchedulerError) -> [Element] {
        var sample = sample
        var span = sample.mutableSpan
        try scaleModelInput(&span, timestep: timestep)
        return sample
    }

    /// Takes one step in place. ``PlanRow`` has the formula.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `invalidValue`, `wrongElementCount`, `wrongElementType`,
    ///   `missingNoise`, `outOfMemory`; nothing has changed then.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: inout [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try modelOutput.withSpan { (modelOutput) throws(SchedulerError) in
            try noise.withSpan { (noise) throws(SchedulerError) in
                var span = sample.mutableSpan
                try step(modelOutput: modelOutput, timestep: timestep, sample: &span, noise: noise, batchSize: batchSize)
            }
        }
    }

    /// Takes one step and returns the next sample. ``PlanRow`` has the formula.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `invalidValue`, `wrongElementCount`, `wrongElementType`,
    ///   `missingNoise`, `outOfMemory`; nothing has changed then.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        var next = sample
        try step(modelOutput: modelOutput, timestep: timestep, sample: &next, noise: noise, batchSize: batchSize)
        return SchedulerOutput(nextSample: next)
    }

    /// Clean samples with noise added: x = A data + S noise, for batch item i with the rates A and S of `timesteps[i]`.
    ///
    /// - Throws: `unknownTimestep`; `invalidValue` for a timestep out of range; `wrongElementCount`.
    public func addNoise<Element: TensorElement>(
        _ noise: [Element], to sample: [Element], timesteps: [Double]
    ) throws(SchedulerError) -> [Element] {
        var noisy = sample
        try noise.withSpan { (noise) throws(SchedulerError) in
            var span = noisy.mutableSpan
            try addNoise(noise, to: &span, timesteps: timesteps)
        }
        return noisy
    }
}
