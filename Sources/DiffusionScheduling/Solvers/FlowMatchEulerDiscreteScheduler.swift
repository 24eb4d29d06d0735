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
/// Timesteps are fractions. `addNoise` is what diffusers calls `scale_noise`.
public typealias FlowMatchEulerDiscreteScheduler = DefinedScheduler<FlowMatchEulerDiscreteConfiguration>

/// The parameters of `FlowMatchEulerDiscreteScheduler`, with diffusers' defaults.
public struct FlowMatchEulerDiscreteConfiguration: FlowMatchDefinition, SigmaSpacingConfiguration {
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
    public var timeShiftType = FlowTimeShiftType.exponential
    public var stochasticSampling = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            numTrainTimestepsParameter,
            .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone, and dynamic shifting replaces it."),
            .init("use_dynamic_shifting", \.useDynamicShifting, "Whether each run brings its own shift, mu."),
            .init("base_shift", \.baseShift, "mu at base_image_seq_len, for pipelines."),
            .init("max_shift", \.maxShift, "mu at max_image_seq_len, for pipelines."),
            .init("base_image_seq_len", \.baseImageSeqLen, "The number of image tokens that base_shift belongs to."),
            .init("max_image_seq_len", \.maxImageSeqLen, "The number of image tokens that max_shift belongs to."),
            .init(
                "invert_sigmas", \.invertSigmas, "Whether levels ascend from 0 to 1, for models whose level is the share of data."),
            .init("shift_terminal", \.shiftTerminal, "Stretches the levels so that the last step begins here."),
            .init("use_karras_sigmas", \.useKarrasSigmas, "Whether the levels follow Karras et al. 2022."),
            .init("use_exponential_sigmas", \.useExponentialSigmas, "Whether the levels are evenly spaced in their logarithm."),
            .init("use_beta_sigmas", \.useBetaSigmas, "Whether the levels are the quantiles of a beta distribution."),
            .init("time_shift_type", \.timeShiftType, "How mu shifts: by its exponential, or linear."),
            .init(
                "stochastic_sampling", \.stochasticSampling, "Whether each step replaces the noise in the sample by fresh noise."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateFlowMatch()
        for (key, value) in [("base_shift", baseShift), ("max_shift", maxShift)] {
            if let value { try require(key, value, "finite", value.isFinite) }
        }
        try require("base_image_seq_len", baseImageSeqLen, "at least 1", baseImageSeqLen >= 1)
        try require("max_image_seq_len", maxImageSeqLen, "at least 1", maxImageSeqLen >= 1)
        try validateShiftTerminal(shiftTerminal)
        try validateSigmaSpacing()
        if invertSigmas, spacing != .timesteps, let sigmaMax {
            try require("sigma_max", sigmaMax, "at most 1 where invert_sigmas is true", sigmaMax <= 1)
        }
    }

    // MARK: The plan

    /// mu for a picture of so many tokens, on the line through the two that the model was trained for; nil without such a line.
    public func mu(imageSequenceLength: Int) -> Double? {
        guard let baseShift, let maxShift, baseImageSeqLen != maxImageSeqLen else { return nil }
        let slope = (maxShift - baseShift) / (Double(maxImageSeqLen) - Double(baseImageSeqLen))
        return Double(imageSequenceLength) * slope + (baseShift - slope * Double(baseImageSeqLen))
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, noise: noise), options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        let end = invertSigmas ? 1.0 : 0
        let rows = zip(grid.sigmas, grid.sigmas.dropFirst()).map { source, target in
            let keep = 1 - target
            return stochasticSampling
                ? PlanRow(
                    prediction: Combination(sample: 1, modelOutput: -source),
                    nextSample: Combination(sample: keep, modelOutput: -source * keep, noise: target), drawCount: 1)
                : PlanRow(
                    prediction: Combination(sample: 1, modelOutput: end - source),
                    nextSample: Combination(sample: 1, modelOutput: target - source))
        }
        return try SamplingPlan(
            grid: grid, initNoiseSigma: grid.process == .flow ? 1 : grid.sigmas[0], rows: rows.map { [$0] })
    }

    /// The levels of a request: shifted, stretched, spaced anew between their ends, rounded to float32, in this order.
    ///
    /// diffusers shifts the levels of a count twice: their ends, which are the training's, already are.
    func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        let count = Double(noise.count)
        let shift = try FlowShift(constant: shift, isDynamic: useDynamicShifting, type: timeShiftType, mu: request.mu)
        let levels: [Double]
        var timesteps: [Float]?
        switch request {
        case .count(let steps, _):
            try requireStepCount(steps)
            levels = shift.levels(evenLevels(count: steps, noise: noise), terminal: shiftTerminal)
        case .timesteps(let custom, _):
            try requireOrdered("timesteps", custom, by: >, within: 0...count, "from 0 to \(noise.count)")
            timesteps = custom.map { Float($0) }
            levels = shift.levels(custom.map { Float($0) / Float(count) }, terminal: shiftTerminal).map(Double.init)
        case .sigmas(let custom, _):
            levels = try self.levels(custom, shift)
        case .timestepsAndSigmas(let custom, let sigmas, _):
            try require("number of timesteps", custom.count, "the number of sigmas, \(sigmas.count)", custom.count == sigmas.count)
            for (index, timestep) in custom.enumerated() {
                try require("timesteps[\(index)]", timestep, "finite in float32", Float(timestep).isFinite)
            }
            timesteps = custom.map { Float($0) }
            levels = try self.levels(sigmas, shift)
        }
        var sigmas = try spaced(levels).map { Float($0) }
        if invertSigmas { sigmas = sigmas.map { 1 - $0 } }
        if timesteps == nil || invertSigmas { timesteps = sigmas.map { $0 * Float(count) } }
        // Above 1, where another scheduler's sigma_max came along, the same step is Euler's of the variance-exploding process.
        let explodes = spacing != .timesteps && (sigmaMax ?? 0) > 1
        // A float32 shift of 1 may be off by its rounding.
        if !explodes { sigmas = sigmas.map { min(max($0, 0), 1) } }
        return TimestepGrid(
            timesteps: timesteps!.map(Double.init), sigmas: sigmas.map(Double.init) + [invertSigmas ? 1 : 0],
            process: explodes ? .varianceExploding : .flow)
    }

    /// Levels as they were asked for, shifted; nothing but their number counts where the configuration has both ends.
    private func levels(_ custom: [Double], _ shift: FlowShift) throws(SchedulerError) -> [Double] {
        if spacing != .timesteps, sigmaMin != nil, sigmaMax != nil {
            try requireStepCount(custom.count)
        } else {
            try requireOrdered("sigmas", custom, by: >, within: 0...1, "from 0 to 1")
        }
        return shift.levels(custom.map { Float($0) }, terminal: shiftTerminal).map(Double.init)
    }

    private var spacing: SigmaSpacing {
        useKarrasSigmas ? .karras : useExponentialSigmas ? .exponential : useBetaSigmas ? .beta : .timesteps
    }

    private func spaced(_ levels: [Double]) throws(SchedulerError) -> [Double] {
        if spacing == .timesteps { return levels }
        let last = sigmaMin ?? levels[levels.count - 1]
        try require(
            "sigmas[\(levels.count - 1)]", last, "greater than 0 where use_exponential_sigmas is true",
            last > 0 || spacing != .exponential)
        return spacing.sigmas(count: levels.count, from: sigmaMax ?? levels[0], to: last, trainingCount: numTrainTimesteps)
    }
}
