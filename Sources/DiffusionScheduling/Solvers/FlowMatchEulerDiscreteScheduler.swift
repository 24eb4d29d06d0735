// SPDX-License-Identifier: Apache-2.0

/// Euler's method for flow matching, the scheduler of Stable Diffusion 3, FLUX.1, Qwen-Image and many others (Lipman et al. 2022,
/// arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003; with the shifts of Esser et al. 2024, arXiv:2403.03206, section 5.3.2).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e = noise − data. A step from ς to τ is
///
///     x' = x + (τ − ς) e
///
/// and with `stochasticSampling`, with fresh noise z,
///
///     p = x − ς e        x' = (1 − τ) p + τ z
///
/// ```swift
/// var scheduler = try FlowMatchEulerDiscreteScheduler(contentsOf: "model/scheduler")
/// let mu = scheduler.configuration.mu(imageSequenceLength: 4096)
/// try scheduler.setTimesteps(.sigmas((0..<28).map { 1 - Double($0) / 28 }, mu: mu))
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// Timesteps are fractions. `addNoise` is diffusers' `scale_noise`.
public typealias FlowMatchEulerDiscreteScheduler = DefinedScheduler<FlowMatchEulerDiscreteConfiguration>

/// The parameters of `FlowMatchEulerDiscreteScheduler`, with diffusers' defaults.
public struct FlowMatchEulerDiscreteConfiguration: ShiftedFlowDefinition {
    public static let className = "FlowMatchEulerDiscreteScheduler"
    public static let resultType = ResultType.modelOutput
    public static let noiseType = NoiseType.float32
    public static let returnsReport = false
    public static let compatibleClassNames = ["FlowMatchEulerDiscreteScheduler"]

    public var numTrainTimesteps = 1000
    public var shift = 1.0
    public var useDynamicShifting = false
    public var baseShift: Double? = 0.5
    public var maxShift: Double? = 1.15
    public var baseImageSeqLen = 256
    public var maxImageSeqLen = 4096
    public var invertSigmas = false
    public var shiftTerminal: Double?
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var timeShiftType = FlowTimeShiftType.exponential
    /// Whether each step replaces the noise in the sample by fresh noise.
    public var stochasticSampling = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        shiftedFlowParameters + [
            .init(
                "stochastic_sampling", \.stochasticSampling, "Whether each step replaces the noise in the sample by fresh noise.")
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateShiftedFlow()
        if stochasticSampling { try validateRenoising() }
    }

    // MARK: The plan

    public func row(from source: Double, to target: Double) -> PlanRow {
        if stochasticSampling { return .renoising(from: source, to: target) }
        let end = invertSigmas ? 1.0 : 0
        return PlanRow(
            prediction: Combination(sample: 1, modelOutput: end - source),
            nextSample: Combination(sample: 1, modelOutput: target - source))
    }
}
