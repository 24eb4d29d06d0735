// SPDX-License-Identifier: Apache-2.0

/// DDIM: denoising diffusion implicit models (Song, Meng and Ermon 2020, arXiv:2010.02502).
///
/// ```swift
/// var scheduler = try DDIMScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(50)
/// for timestep in scheduler.timesteps {
///     let output = try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: sample, eta: 0)
///     sample = output.prevSample
/// }
/// ```
///
/// A step depends on nothing but its arguments: steps may be taken at any training timestep, in any order, from any thread that
/// has a copy. Clipping and thresholding are for models of pixels, not of latents. For models that were trained with a zero
/// terminal signal-to-noise ratio: `rescaleBetasZeroSNR`, `vPrediction`, the spacing `trailing`, and rescaled guidance (Lin et al.
/// 2023, arXiv:2305.08891).
///
/// The class of that name in diffusers is the reference; see the README for where this one differs.
public struct DDIMScheduler: PlannedScheduler {
    public let configuration: DDIMConfiguration
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?

    public init(_ configuration: DDIMConfiguration = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try NoiseSchedule(configuration, floorsSignal: true)
    }

    // MARK: Planning

    /// Compiles a plan with η = 0. A request for custom noise levels is refused: DDIM steps between training timesteps.
    public func plan(_ request: TimestepRequest) throws(SchedulerError) -> SamplingPlan {
        try plan(request, eta: 0)
    }

    /// Compiles a plan, for sessions: steps in the run's order.
    ///
    /// - Parameters:
    ///   - eta: η in [0, 1], the share of ancestral noise.
    ///   - useClippedModelOutput: whether the noise is computed anew from the clipped clean sample.
    public func plan(
        _ request: TimestepRequest, eta: Double, useClippedModelOutput: Bool = false
    ) throws(SchedulerError) -> SamplingPlan {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let timesteps = try configuration.denoisingTimesteps(request)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let previous =
                configuration.previousTimestep == .schedule
                ? (index + 1 < timesteps.count ? timesteps[index + 1] : nil) : strideBelow(timestep, stepCount: timesteps.count)
            rows.append([
                try row(from: timestep, to: previous, eta: eta, useClippedModelOutput: useClippedModelOutput)
            ])
        }
        let last = configuration.setAlphaToOne ? 0 : noiseSchedule.sigmas[0]
        let grid = TimestepGrid(
            timesteps: timesteps, sigmas: timesteps.map(noiseSchedule.sigma(atTimestep:)) + [last], process: .variancePreserving)
        return try SamplingPlan(grid: grid, clamp: clamp, rows: rows)
    }

    /// The scalars of a step between any two training timesteps, on demand.
    ///
    /// - Parameters:
    ///   - timestep: where the step starts, in 0…T − 1.
    ///   - previous: where it leads; nil: to the level before timestep 0, which `setAlphaToOne` chooses.
    /// - Throws: `unknownTimestep`, and `invalidValue` for η outside [0, 1].
    /// - Complexity: O(1).
    public func row(
        from timestep: Double, to previous: Double?, eta: Double = 0, useClippedModelOutput: Bool = false
    ) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try require("eta", eta, "from 0 (deterministic) to 1 (ancestral)", (0...1).contains(eta))
        let source = try noiseSchedule.alphaCumprod(atTimestep: timestep)
        let target =
            try previous.map { (timestep) throws(SchedulerError) in
                try noiseSchedule.alphaCumprod(atTimestep: timestep)
            } ?? configuration.finalAlphaCumprod(noiseSchedule)
        let solver = DDIMSolver(
            predictionType: configuration.predictionType, clamps: clamp != .none, eta: eta,
            usesClippedModelOutput: useClippedModelOutput)
        return solver.row(from: source, to: target)
    }

    public var clamp: PredictionClamp {
        configuration.thresholding
            ? configuration.clamp : configuration.clipSample ? .range(configuration.clipSampleRange) : .none
    }

    private func strideBelow(_ timestep: Double, stepCount: Int) -> Double? {
        let previous = timestep - Double(noiseSchedule.count / stepCount)
        return previous >= 0 ? previous : nil
    }

    /// Where the step from a timestep leads in the planned run.
    private func previousTimestep(of timestep: Double) throws(SchedulerError) -> Double? {
        guard let plan else { throw .timestepsNotSet }
        guard configuration.previousTimestep == .schedule else { return strideBelow(timestep, stepCount: plan.stepCount) }
        let next = try plan.index(ofTimestep: timestep) + 1
        return next < plan.stepCount ? plan.timesteps[next] : nil
    }

    /// The scalars of the step that the planned run takes from a timestep.
    package func plannedRow(
        from timestep: Double, eta: Double, useClippedModelOutput: Bool
    ) throws(SchedulerError) -> PlanRow {
        try row(
            from: timestep, to: previousTimestep(of: timestep), eta: eta, useClippedModelOutput: useClippedModelOutput)
    }

    // MARK: Stepping

    /// Takes the step from a timestep in place.
    ///
    /// - Parameters:
    ///   - eta: η in [0, 1]; above 0 the step needs noise.
    ///   - useClippedModelOutput: whether the noise is computed anew from the clipped clean sample.
    ///   - noise: standard normal numbers, one for each element of the sample.
    ///   - batchSize: the number of batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `timestepsNotSet`, `unknownTimestep`, `invalidValue`, `wrongElementCount`, `missingNoise`.
    public func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, eta: Double,
        useClippedModelOutput: Bool = false, noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        let row = try plannedRow(from: timestep, eta: eta, useClippedModelOutput: useClippedModelOutput)
        try row.step(clamp: clamp, modelOutput: modelOutput, sample: &sample, noise: noise, batchSize: batchSize)
    }

    /// Takes the step from a timestep with η = 0, in place.
    public func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        try step(
            modelOutput: modelOutput, timestep: timestep, sample: &sample, eta: 0, noise: noise, batchSize: batchSize)
    }

    /// Takes the step from a timestep, and returns the next sample and the predicted clean one.
    public func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], eta: Double = 0, useClippedModelOutput: Bool = false,
        noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        let row = try plannedRow(from: timestep, eta: eta, useClippedModelOutput: useClippedModelOutput)
        return try row.step(clamp: clamp, modelOutput: modelOutput, sample: sample, noise: noise, batchSize: batchSize)
    }

    // MARK: Beside the steps

    /// The velocity v = √ᾱ noise − √(1 − ᾱ) sample that a model of `vPrediction` is trained on, for each batch item's timestep.
    public func getVelocity<Element: TensorElement>(
        sample: [Element], noise: [Element], timesteps: [Double]
    ) throws(SchedulerError) -> [Element] {
        var velocity = sample
        var span = velocity.mutableSpan
        try combine(
            noise.span, with: &span, timesteps: timesteps, sampleRate: { -$0.noiseRate }, noiseRate: { $0.signalRate })
        return velocity
    }

    public func trainingLevel(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return NoiseLevel(alphaCumprod: try noiseSchedule.alphaCumprod(atTimestep: timestep))
    }

    /// The level of a training timestep, whether it is in the plan or not.
    public func level(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        try trainingLevel(atTimestep: timestep)
    }
}

/// DDIM backwards in time: from a picture to the noise that `DDIMScheduler` makes the picture of (Song, Meng and Ermon 2020,
/// arXiv:2010.02502, section 4.3; for editing real pictures, Mokady et al. 2022, arXiv:2211.09794).
///
/// The step to a timestep starts at the level ⌊T/n⌋ below it, where the plan's `sigmas` have the sample. diffusers' pipelines, and so
/// the timesteps here, tell the model where the step leads instead: the round trip is a little better for it, the noise less so.
public struct DDIMInverseScheduler: PlannedScheduler {
    public let configuration: DDIMInverseConfiguration
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?

    public init(_ configuration: DDIMInverseConfiguration = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try NoiseSchedule(configuration, floorsSignal: true)
    }

    public func plan(_ request: TimestepRequest) throws(SchedulerError) -> SamplingPlan {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let timesteps = try Array(configuration.denoisingTimesteps(request).reversed())
        var rows: [[PlanRow]] = []
        for timestep in timesteps { rows.append([try row(to: timestep, stepCount: timesteps.count)]) }
        let below = timesteps[0] - Double(noiseSchedule.count / timesteps.count)
        let first = below < 0 && configuration.setAlphaToOne ? 0 : noiseSchedule.sigma(atTimestep: below)
        let grid = TimestepGrid(
            timesteps: timesteps, sigmas: [first] + timesteps.map(noiseSchedule.sigma(atTimestep:)), process: .variancePreserving)
        return try SamplingPlan(grid: grid, clamp: clamp, rows: rows)
    }

    /// The scalars of the step that leads to a training timestep in a run of that many steps.
    public func row(to timestep: Double, stepCount: Int) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let target = try noiseSchedule.alphaCumprod(atTimestep: timestep)
        let below = timestep - Double(noiseSchedule.count / stepCount)
        let source = below >= 0 ? try noiseSchedule.alphaCumprod(atTimestep: below) : configuration.finalAlphaCumprod(noiseSchedule)
        return DDIMSolver(predictionType: configuration.predictionType, clamps: clamp != .none)
            .row(from: source, to: target)
    }

    public var clamp: PredictionClamp { configuration.clipSample ? .range(configuration.clipSampleRange) : .none }

    /// Takes the step to a timestep in place.
    public func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        guard let plan else { throw .timestepsNotSet }
        try row(to: timestep, stepCount: plan.stepCount)
            .step(clamp: clamp, modelOutput: modelOutput, sample: &sample, noise: nil, batchSize: batchSize)
    }

    /// Takes the step to a timestep, and returns the next sample and the predicted clean one.
    public func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        guard let plan else { throw .timestepsNotSet }
        return try row(to: timestep, stepCount: plan.stepCount)
            .step(clamp: clamp, modelOutput: modelOutput, sample: sample, noise: nil, batchSize: batchSize)
    }
}
