// SPDX-License-Identifier: Apache-2.0

/// DDIM: denoising diffusion implicit models (Song, Meng and Ermon 2020, arXiv:2010.02502, equations 12 and 16).
///
/// A step leads from the signal variance ᾱ_t to ᾱ_u, with the predicted clean sample p, the predicted noise ε and noise z:
///
///     x' = √ᾱ_u p + √(1 − ᾱ_u − σ²) ε + σ z        σ² = η² (1 − ᾱ_u)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_u)
///
/// η = 0, the default, is deterministic; η = 1 is the ancestral sampling of Ho et al. 2020 (arXiv:2006.11239).
///
/// ```swift
/// var scheduler = try DDIMScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(50)
/// for timestep in scheduler.timesteps {
///     let output = try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: sample, eta: 0)
///     sample = output.nextSample
/// }
/// ```
///
/// A step depends on nothing but its arguments: steps may be taken at any training timestep, in any order, from any thread that
/// has a copy. Clipping and thresholding are for models of pixels, not of latents. For models that were trained with a zero
/// terminal signal-to-noise ratio: `rescaleBetasZeroSNR`, `vPrediction`, the spacing `trailing`, and rescaled guidance (Lin et al.
/// 2023, arXiv:2305.08891).
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DDIMScheduler = DefinedScheduler<DDIMConfiguration>

/// DDIM backwards in time: from a picture to the noise from which `DDIMScheduler` makes it (Song, Meng and Ermon 2020,
/// arXiv:2010.02502, section 4.3; for editing real pictures, Mokady et al. 2022, arXiv:2211.09794).
///
/// A step leads from the signal variance ᾱ_t up to the noisier ᾱ_u, with the predicted clean sample p and the predicted noise ε:
///
///     x' = √ᾱ_u p + √(1 − ᾱ_u) ε
///
/// The step to a timestep starts ⌊T/n⌋ timesteps below it, at the sample's level in the plan's `sigmas`. The model gets the
/// timestep that the step leads to, as in diffusers' pipelines: the round trip is a little better for it, the noise a little worse.
public typealias DDIMInverseScheduler = DefinedScheduler<DDIMInverseConfiguration>

/// The parameters of `DDIMScheduler`, with diffusers' defaults.
public struct DDIMConfiguration: DDIMFamilyConfiguration, ThresholdingConfiguration, SteppingWithoutNoise {
    public static let className = "DDIMScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var clipSample = true
    public var setAlphaToOne = true
    public var finalAlphaCumprod: Double?
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var thresholding = false
    public var dynamicThresholdingRatio = 0.995
    public var clipSampleRange = 1.0
    public var sampleMaxValue = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var rescaleBetasZeroSNR = false
    /// The rule for the level that a step leads to. `schedule` is right for the spacing `linspace`, and for `trailing` where the
    /// number of steps doesn't divide T. diffusers has no such key, so it is `diffusion_scheduling_previous_timestep` in files and
    /// `previous_timestep` in overrides; nil means `stride`.
    public var previousTimestep: PreviousTimestepRule?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        ddimParameters(thresholding: Array(thresholdingParameters[..<2]), sampleMaxValue: Array(thresholdingParameters[2...])) + [
            .init(
                "diffusion_scheduling_previous_timestep", overrideName: "previous_timestep", \.previousTimestep,
                "Which level a step leads to: stride, diffusers' way, or schedule.")
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateDDIM()
        try validateThresholding()
    }

    // MARK: The plan

    /// The options of a DDIM step.
    public struct Options: RunOptions {
        /// η in [0, 1], the share of ancestral noise; above 0 steps need noise.
        public var eta = 0.0
        /// Whether the noise is computed anew from the clipped clean sample.
        public var useClippedModelOutput = false

        public init() {}

        /// These options.
        public init(eta: Double, useClippedModelOutput: Bool = false) {
            self.eta = eta
            self.useClippedModelOutput = useClippedModelOutput
        }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init("eta", \.eta, "The share of ancestral noise, from 0 (deterministic) to 1."),
                .init(
                    "use_clipped_model_output", \.useClippedModelOutput,
                    "Whether the noise is computed anew from the clipped clean sample."),
            ]
        }

        public func validate() throws(SchedulerError) {
            try require("eta", eta, "from 0 (deterministic) to 1 (ancestral)", (0...1).contains(eta))
        }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try denoisingTimesteps(request)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let previous =
                previousTimestep == .schedule
                ? (index + 1 < timesteps.count ? timesteps[index + 1] : nil)
                : strideBelow(timestep, stepCount: timesteps.count, noise: noise)
            rows.append([try row(from: timestep, to: previous, options: options, noise: noise)])
        }
        let grid = grid(timesteps, final: finalSigma(noise), noise: noise)
        return try SamplingPlan(grid: grid, clamp: predictionClamp, rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        guard previousTimestep == .schedule else {
            let previous = strideBelow(timestep, stepCount: plan.stepCount, noise: noise)
            return try row(from: timestep, to: previous, options: options, noise: noise)
        }
        let next = try plan.index(ofTimestep: timestep) + 1
        return try row(
            from: timestep, to: next < plan.stepCount ? plan.timesteps[next] : nil, options: options, noise: noise)
    }

    fileprivate func row(
        from timestep: Double, to previous: Double?, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try options.validate()
        let source = try noise.alphaCumprod(atTimestep: timestep)
        let target =
            try previous.map { (timestep) throws(SchedulerError) in
                try noise.alphaCumprod(atTimestep: timestep)
            } ?? finalAlphaCumprod(noise)
        return row(from: source, to: target, options: options)
    }

    public func rowWithoutNoise(
        from timestep: Double, to target: Double?, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try require("eta", options.eta, "0 for steps without noise", options.eta == 0)
        let source = try noise.alphaCumprod(atTimestep: timestep)
        return row(from: source, to: try target.map(noise.alphaCumprod(atTimestep:)) ?? 1, options: options)
    }

    private func row(from source: Double, to target: Double, options: Options) -> PlanRow {
        let solver = DDIMSolver(
            predictionType: predictionType, clamps: predictionClamp != .none, eta: options.eta,
            usesClippedModelOutput: options.useClippedModelOutput)
        return solver.row(from: source, to: target)
    }

    /// The timestep that a step leads to by diffusers' rule: ⌊T/n⌋ below, whatever the spacing.
    private func strideBelow(_ timestep: Double, stepCount: Int, noise: NoiseSchedule) -> Double? {
        let previous = timestep - Double(noise.count / stepCount)
        return previous >= 0 ? previous : nil
    }
}

/// The parameters of `DDIMInverseScheduler`, with diffusers' defaults.
public struct DDIMInverseConfiguration: DDIMFamilyConfiguration {
    public static let className = "DDIMInverseScheduler"
    public static let compatibleClassNames = ["DDIMInverseScheduler"]
    public static let finalAlphaCumprodName = "initial_alpha_cumprod"

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var clipSample = true
    public var setAlphaToOne = true
    public var finalAlphaCumprod: Double?
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var clipSampleRange = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var rescaleBetasZeroSNR = false

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] { ddimParameters() }

    public func validate() throws(SchedulerError) {
        try validateDDIM()
        try require("timestep_spacing", timestepSpacing.rawValue, "leading or trailing", timestepSpacing != .linspace)
    }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try Array(denoisingTimesteps(request).reversed())
        var rows: [[PlanRow]] = []
        for timestep in timesteps { rows.append([try row(to: timestep, stepCount: timesteps.count, noise: noise)]) }
        let below = timesteps[0] - Double(noise.count / timesteps.count)
        let first = below < 0 && setAlphaToOne ? 0 : noise.sigma(atTimestep: below)
        let grid = TimestepGrid(
            timesteps: timesteps, sigmas: [first] + timesteps.map(noise.sigma(atTimestep:)), process: .variancePreserving)
        return try SamplingPlan(grid: grid, clamp: clipping, rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try row(to: timestep, stepCount: plan.stepCount, noise: noise)
    }

    fileprivate func row(to timestep: Double, stepCount: Int, noise: NoiseSchedule) throws(SchedulerError) -> PlanRow {
        let target = try noise.alphaCumprod(atTimestep: timestep)
        let below = timestep - Double(noise.count / stepCount)
        let source = below >= 0 ? try noise.alphaCumprod(atTimestep: below) : finalAlphaCumprod(noise)
        return DDIMSolver(predictionType: predictionType, clamps: clipping != .none).row(from: source, to: target)
    }
}

/// The keys that DDIM and its inverse share.
public protocol DDIMFamilyConfiguration:
    TimestepSpacingConfiguration, ClippingConfiguration, FinalAlphaConfiguration, ZeroTerminalSNRConfiguration
{}

extension DDIMFamilyConfiguration {
    public static var isStateless: Bool { true }

    /// The parameters; those of only one of the two schedulers are inserted in their places.
    static func ddimParameters(
        thresholding: [ConfigurationParameter<Self>] = [], sampleMaxValue: [ConfigurationParameter<Self>] = []
    ) -> [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [clipSampleParameter, setAlphaToOneParameter, stepsOffsetParameter, predictionTypeParameter]
            + thresholding + [clipSampleRangeParameter] + sampleMaxValue + [timestepSpacingParameter] + zeroTerminalSNRParameters
            + [finalAlphaCumprodParameter]
    }

    func validateDDIM() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateClipping()
        try validateStepsOffset(upTo: numTrainTimesteps - 1)
        try validateFinalAlphaCumprod()
    }
}

/// The rule for the level that a DDIM step leads to.
public enum PreviousTimestepRule: String, ConfigurationKeyword {
    /// diffusers' rule: ⌊T/n⌋ timesteps below, whatever the spacing.
    case stride
    /// The next timestep of the run; from the last one, the level before timestep 0.
    case schedule
}

extension DefinedScheduler where Definition == DDIMConfiguration {
    /// The clamp of predicted clean samples.
    public var clamp: PredictionClamp { configuration.predictionClamp }

    /// Compiles a plan, for sessions: steps in the run's order.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration, and for η outside [0, 1];
    ///   `unrepresentablePlan`.
    public func plan(
        _ request: TimestepRequest, eta: Double, useClippedModelOutput: Bool = false
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(request, options: .init(eta: eta, useClippedModelOutput: useClippedModelOutput))
    }

    /// The scalars of a step between any two training timesteps, on demand.
    ///
    /// - Parameters:
    ///   - timestep: the timestep that the step starts at, in 0…T − 1.
    ///   - previous: the timestep that it leads to; nil: the level before timestep 0, which `setAlphaToOne` chooses.
    ///   - eta: η in [0, 1].
    ///   - useClippedModelOutput: whether the noise is computed again from the clipped clean sample.
    /// - Throws: `unknownTimestep`, and `invalidValue` for η outside [0, 1].
    /// - Complexity: O(1).
    public func row(
        from timestep: Double, to previous: Double?, eta: Double = 0, useClippedModelOutput: Bool = false
    ) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.row(
            from: timestep, to: previous, options: .init(eta: eta, useClippedModelOutput: useClippedModelOutput),
            noise: noiseSchedule)
    }

    /// Takes the step from a timestep in place. ``DDIMScheduler`` has the formula.
    ///
    /// - Parameters:
    ///   - modelOutput: the model's output, with as many elements as the sample.
    ///   - timestep: the timestep that the model was told.
    ///   - sample: the sample.
    ///   - eta: η in [0, 1]; above 0 the step needs noise.
    ///   - useClippedModelOutput: whether the noise is computed anew from the clipped clean sample.
    ///   - noise: standard normal numbers, one for each element of the sample.
    ///   - batchSize: the number of batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `timestepsNotSet`; `unknownTimestep`; `invalidValue` for η outside [0, 1]; `wrongElementCount`, `missingNoise`,
    ///   `outOfMemory`. The sample hasn't changed then.
    public func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, eta: Double,
        useClippedModelOutput: Bool = false, noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try step(
            modelOutput: modelOutput, timestep: timestep, sample: &sample,
            options: .init(eta: eta, useClippedModelOutput: useClippedModelOutput), noise: noise, batchSize: batchSize)
    }

    /// Takes the step from a timestep, and returns the next sample and the predicted clean one. ``DDIMScheduler`` has the formula.
    ///
    /// - Throws: `timestepsNotSet`; `unknownTimestep`; `invalidValue` for η outside [0, 1]; `wrongElementCount`, `missingNoise`,
    ///   `outOfMemory`.
    public func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], eta: Double = 0, useClippedModelOutput: Bool = false,
        noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        try step(
            modelOutput: modelOutput, timestep: timestep, sample: sample,
            options: .init(eta: eta, useClippedModelOutput: useClippedModelOutput), noise: noise, batchSize: batchSize)
    }
}

extension DefinedScheduler where Definition == DDIMInverseConfiguration {
    /// The clamp of predicted clean samples.
    public var clamp: PredictionClamp { configuration.clipping }

    /// The scalars of the step that leads to a training timestep in a run of `stepCount` steps.
    ///
    /// - Precondition: `stepCount` ≥ 1.
    /// - Throws: `unknownTimestep` for a timestep that isn't a whole number from 0 to T − 1.
    public func row(to timestep: Double, stepCount: Int) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.row(to: timestep, stepCount: stepCount, noise: noiseSchedule)
    }

    /// Takes the step to a timestep, and returns the next sample and the predicted clean one. ``DDIMInverseScheduler`` has the
    /// formula.
    ///
    /// - Throws: `timestepsNotSet`, `unknownTimestep`, `wrongElementCount`, `outOfMemory`.
    public func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        try step(modelOutput: modelOutput, timestep: timestep, sample: sample, options: .init(), batchSize: batchSize)
    }
}
