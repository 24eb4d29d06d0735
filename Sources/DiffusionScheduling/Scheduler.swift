// SPDX-License-Identifier: Apache-2.0

/// What a pipeline needs of a scheduler, and nothing else.
///
/// A diffusion model turns noise into a sample in a few steps. The scheduler says at which noise levels the model is asked, and
/// combines its answers into the next sample:
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
/// Tensors are contiguous arrays of a `TensorElement`; their shape matters only in that the batch items come one after the
/// other. A scheduler is a value: requests that run at the same time each step a copy of their own.
public protocol Scheduler: Sendable {
    associatedtype Configuration: SchedulerConfiguration

    /// What the scheduler was made of.
    var configuration: Configuration { get }
    /// What the model is told at each step; before `setTimesteps` the timesteps of the training, noisiest first.
    var timesteps: [Double] { get }
    /// The standard deviation of the noise that a run starts with.
    var initNoiseSigma: Double { get }

    /// Plans a run of that many steps and goes to its start.
    mutating func setTimesteps(_ count: Int) throws(SchedulerError)

    /// Scales a sample, in place, to what the model expects as its input at the timestep.
    func scaleModelInput<Element: TensorElement>(
        _ sample: inout MutableSpan<Element>, timestep: Double
    ) throws(SchedulerError)

    /// Takes one step in place: `sample` is the sample at `timestep` before the call and the next sample after it.
    ///
    /// - Parameters:
    ///   - modelOutput: what the model said, as many elements as the sample.
    ///   - noise: standard normal numbers, one for each element of the sample; only stochastic steps need them.
    ///   - batchSize: the number of batch items that the sample consists of.
    mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>?,
        batchSize: Int
    ) throws(SchedulerError)

    /// Adds noise to clean samples, in place: batch item i to the noise level of `timesteps[i]`.
    func addNoise<Element: TensorElement>(
        _ noise: Span<Element>, to sample: inout MutableSpan<Element>, timesteps: [Double]
    ) throws(SchedulerError)
}

/// What a step gives.
public struct SchedulerOutput<Element: TensorElement>: Sendable, Equatable {
    /// The sample after the step: xₜ₋₁ in diffusers' words.
    public var prevSample: [Element]
    /// The clean sample x₀ as predicted at this step, after thresholding; nil if it wasn't asked for.
    public var predOriginalSample: [Element]?

    public init(prevSample: [Element], predOriginalSample: [Element]? = nil) {
        self.prevSample = prevSample
        self.predOriginalSample = predOriginalSample
    }
}

// The same on arrays.
extension Scheduler {
    /// The sample scaled to what the model expects as its input at the timestep.
    public func scaleModelInput<Element: TensorElement>(
        _ sample: [Element], timestep: Double
    ) throws(SchedulerError) -> [Element] {
        var sample = sample
        var span = sample.mutableSpan
        try scaleModelInput(&span, timestep: timestep)
        return sample
    }

    /// Takes one step in place.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: inout [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        var span = sample.mutableSpan
        try step(modelOutput: modelOutput.span, timestep: timestep, sample: &span, noise: noise?.span, batchSize: batchSize)
    }

    /// Takes one step and returns the next sample.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        var next = sample
        try step(modelOutput: modelOutput, timestep: timestep, sample: &next, noise: noise, batchSize: batchSize)
        return SchedulerOutput(prevSample: next)
    }

    /// Clean samples with noise added: batch item i to the noise level of `timesteps[i]`.
    public func addNoise<Element: TensorElement>(
        _ noise: [Element], to sample: [Element], timesteps: [Double]
    ) throws(SchedulerError) -> [Element] {
        var noisy = sample
        var span = noisy.mutableSpan
        try addNoise(noise.span, to: &span, timesteps: timesteps)
        return noisy
    }
}
