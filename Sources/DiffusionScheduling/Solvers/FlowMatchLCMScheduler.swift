// SPDX-License-Identifier: Apache-2.0

/// Consistency sampling for flow matching, in which few-step distillations of Stable Diffusion 3.5 are sampled (Starodubcev et al. 2025,
/// arXiv:2503.16397; after Song et al. 2023, arXiv:2303.01469, algorithm 1).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e. A step from ς to τ predicts the clean sample
/// and adds fresh noise z:
///
///     p = x − ς e        x' = (1 − τ) p + τ z
///
/// The levels are those of ``FlowMatchEulerDiscreteScheduler``. Each step draws noise, also the last one, which leaves it unused.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias FlowMatchLCMScheduler = DefinedScheduler<FlowMatchLCMConfiguration>

/// The parameters of `FlowMatchLCMScheduler`, with diffusers' defaults.
public struct FlowMatchLCMConfiguration: ShiftedFlowDefinition {
    public static let className = "FlowMatchLCMScheduler"
    public static let resultType = ResultType.modelOutput
    public static let noiseType = NoiseType.atLeastFloat32
    public static let returnsReport = false
    public static let compatibleClassNames = ["FlowMatchLCMScheduler"]

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
    /// The sizes of predictions between steps; none are supported.
    public var scaleFactors: [Double]?
    /// The filter of that resizing, without effect.
    public var upscaleMode: String? = "bicubic"

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        shiftedFlowParameters + [
            .init("scale_factors", \.scaleFactors, "The sizes of the predictions between steps; none are supported."),
            .init("upscale_mode", \.upscaleMode, "The filter of that resizing, without effect."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateShiftedFlow()
        try require(
            "scale_factors", scaleFactors?.json.text ?? "", "null or empty: a step leaves the size of a sample as it is",
            scaleFactors?.isEmpty ?? true || upscaleMode?.isEmpty ?? true)
        try validateRenoising()
    }

    // MARK: The plan

    public func row(from source: Double, to target: Double) -> PlanRow { .renoising(from: source, to: target) }
}
