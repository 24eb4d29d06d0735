// SPDX-License-Identifier: Apache-2.0

/// A scheduler that compiles its configuration into a plan and runs the plan in a session.
///
/// All schedulers of this library conform. Each supplies `plan(_:)`; the rest follows.
public protocol PlannedScheduler: Scheduler {
    /// The description from which other languages' classes are made.
    static var schedulerDescription: JSONValue { get }

    /// Whether it computes the velocity that models of `vPrediction` are trained on.
    static var hasVelocity: Bool { get }

    /// The convention for the noise levels of a ``TimestepRequest/sigmas(_:mu:)``.
    static var sigmaList: SigmaList { get }

    /// Whether a requested number of steps also counts the level after the last step: see ``SchedulerDefinition/countsEnd``.
    static var countsEnd: Bool { get }

    /// Makes the scheduler of a configuration.
    ///
    /// - Throws: `invalidValue` and `conflictingKeys` for a configuration that isn't valid.
    init(_ configuration: Configuration) throws(SchedulerError)

    /// The noise levels of the training.
    var noiseSchedule: NoiseSchedule { get }
    /// The run that `setTimesteps` planned; nil before.
    var session: SamplingSession? { get set }

    /// n noise levels σ_k by the formula of their ``SigmaSchedule``, in the convention of the scheduler's
    /// ``TimestepRequest/sigmas(_:mu:)``, noisiest first.
    ///
    /// - Throws: as ``SigmaSchedule/sigmas(count:of:)``.
    func sigmas(count: Int, of schedule: SigmaSchedule, mu: Double?) throws(SchedulerError) -> [Double]

    /// Compiles a plan; the scheduler itself doesn't change.
    ///
    /// - Throws: `invalidValue` where the request is out of range or doesn't fit the configuration; `unrepresentablePlan`.
    func plan(_ request: TimestepRequest) throws(SchedulerError) -> SamplingPlan

    /// Compiles a plan with options by their names.
    ///
    /// - Throws: `invalidValue` where the request or an option is out of range or doesn't fit the configuration, and for a name
    ///   that isn't an option; `unrepresentablePlan`.
    func plan(_ request: TimestepRequest, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan

    /// Compiles a plan on the caller's timesteps and noise levels, with options by their names.
    ///
    /// - Throws: `invalidValue` for a grid or an option that isn't allowed; `unsupportedOperation` for schedulers whose rows don't
    ///   follow from noise levels alone; `unrepresentablePlan`.
    func plan(on grid: TimestepGrid, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan

    /// The row of an evaluation of the plan, for callers who keep diffusers' attributes: see ``SchedulerDefinition``.
    ///
    /// - Throws: `timestepsNotSet`; `invalidValue` for an index that isn't an evaluation's; `unsupportedOperation` for schedulers
    ///   without such rows.
    func attributeRow(at index: Int, age: Int) throws(SchedulerError) -> PlanRow

    /// The row of the step at a training timestep, in or out of the plan, with options by their names.
    ///
    /// - Throws: `unsupportedOperation` for schedulers whose steps depend on the ones before; `timestepsNotSet`; `unknownTimestep`;
    ///   `invalidValue` for an option that isn't allowed.
    func row(at timestep: Double, optionValues: [String: JSONValue]) throws(SchedulerError) -> PlanRow

    /// The noise level of a training timestep, for adding noise before there is a plan: a sample there is x = A data + S noise.
    ///
    /// - Throws: `unknownTimestep` or `invalidValue` for a timestep that the training doesn't have. Schedulers that interpolate in
    ///   a table give its nearest end instead.
    func trainingLevel(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel

    /// The level at which noise is added, x = A data + S noise: of the plan if there is one.
    ///
    /// - Throws: `unknownTimestep` for a timestep that the plan doesn't have; as ``trainingLevel(atTimestep:)`` before there is a
    ///   plan, and for schedulers that add noise at the levels of the training.
    func level(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel
}

extension PlannedScheduler {
    public static var hasVelocity: Bool { false }
    public static var sigmaList: SigmaList { .levels }
    public static var countsEnd: Bool { false }

    public static var schedulerDescription: JSONValue { ["class_name": .string(Configuration.className)] }

    public func sigmas(count: Int, of schedule: SigmaSchedule, mu: Double?) throws(SchedulerError) -> [Double] {
        try schedule.sigmas(count: count, of: noiseSchedule)
    }

    public func plan(_ request: TimestepRequest, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan {
        _ = try NoRunOptions(values: optionValues)
        return try plan(request)
    }

    /// n noise levels by their name, in the scheduler's convention; if that includes the end, the last step leads to no noise.
    ///
    /// ```swift
    /// try scheduler.setTimesteps(scheduler.request(20, .klOptimal))
    /// ```
    ///
    /// - Throws: as ``SigmaSchedule/sigmas(count:of:)``; `unsupportedOperation` for schedulers that choose their levels themselves.
    public func request(_ count: Int, _ schedule: SigmaSchedule, mu: Double? = nil) throws(SchedulerError) -> TimestepRequest {
        let levels = try sigmas(count: count, of: schedule, mu: mu)
        switch Self.sigmaList {
        case .levels: return .sigmas(levels, mu: mu)
        case .levelsAndEnd: return .sigmas(levels + [0], mu: mu)
        case .ascendingLevels: return .sigmas(levels.reversed(), mu: mu)
        case .places: throw .unsupportedOperation("noise levels by name", className: Configuration.className)
        }
    }

    public func row(at timestep: Double, optionValues: [String: JSONValue]) throws(SchedulerError) -> PlanRow {
        throw .unsupportedOperation("step outside of a run", className: Configuration.className)
    }

    public func plan(on grid: TimestepGrid, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan {
        throw .unsupportedOperation("plan on noise levels of the caller's", className: Configuration.className)
    }

    public func attributeRow(at index: Int, age: Int) throws(SchedulerError) -> PlanRow {
        throw .unsupportedOperation("row over attributes", className: Configuration.className)
    }

    /// Reads the configuration from a file or a folder, like diffusers' `from_pretrained`.
    ///
    /// - Throws: `inaccessibleFile`, `malformedJSON`, `invalidValue`, `conflictingKeys`.
    public init(
        contentsOf path: String, subfolder: String? = nil, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) {
        try self.init(Configuration(contentsOf: path, subfolder: subfolder, overrides: overrides))
    }

    /// Makes the scheduler from another one's configuration, like diffusers' `from_config`.
    ///
    /// - Throws: `invalidValue` and `conflictingKeys` for values that this scheduler doesn't allow.
    public init(
        from other: some SchedulerConfiguration, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) {
        try self.init(Configuration(from: other, overrides: overrides))
    }

    // MARK: The plan

    /// The plan that `setTimesteps` made; nil before.
    public var plan: SamplingPlan? { session?.plan }

    /// The number of training timesteps, T: diffusers' `len(scheduler)`.
    public var count: Int { noiseSchedule.count }

    public var timesteps: [Double] {
        session?.plan.timesteps ?? noiseSchedule.timesteps.reversed()
    }

    /// The noise levels of the plan's steps, one more than there are steps; before `setTimesteps` those of the training.
    public var sigmas: [Double] { session?.plan.sigmas ?? noiseSchedule.sigmas.reversed() }

    public var initNoiseSigma: Double { session?.plan.initNoiseSigma ?? 1 }

    public mutating func setTimesteps(_ count: Int) throws(SchedulerError) {
        try setTimesteps(.count(count))
    }

    /// Plans a run of `count` steps and goes to its start; `mu` shifts flow sigmas where the configuration allows it.
    ///
    /// - Throws: as ``plan(_:)``. The run before is kept then.
    public mutating func setTimesteps(_ count: Int, mu: Double?) throws(SchedulerError) {
        try setTimesteps(.count(count, mu: mu))
    }

    /// Plans a run and goes to its start.
    ///
    /// - Throws: as ``plan(_:)``. The run before is kept then.
    public mutating func setTimesteps(_ request: TimestepRequest) throws(SchedulerError) {
        let plan = try plan(request)
        session = session?.restarted(on: plan) ?? SamplingSession(plan: plan)
    }

    // MARK: The session

    /// The step that comes next; nil before `setTimesteps`.
    public var stepIndex: Int? { session?.stepIndex }

    /// Makes the run start at a later step, for image-to-image: add noise at `timesteps[index]`, then step from there.
    ///
    /// - Throws: `timestepsNotSet`; `invalidValue` for an index that no run may begin at. Nothing has changed then.
    public mutating func setBeginIndex(_ index: Int) throws(SchedulerError) {
        guard let plan else { throw .timestepsNotSet }
        try require("begin index", index, "from 0 to \(plan.stepCount - 1)", (0..<max(plan.stepCount, 1)).contains(index))
        try plan.requireStart(index, "begin index")
        session = session?.restarted(at: index)
    }

    /// Takes the run to the step of a timestep.
    ///
    /// A run that hasn't begun may begin at any timestep of the plan. After that the steps come in their order.
    ///
    /// - Returns: the previous session if it was replaced, to be restored if the step fails.
    private mutating func select(timestep: Double) throws(SchedulerError) -> SamplingSession? {
        guard let session else { throw .timestepsNotSet }
        guard let expected = session.timestep else { throw .stepPastEnd(stepCount: session.plan.stepCount) }
        if expected == timestep { return nil }
        guard !session.hasBegun else {
            throw .unknownTimestep(timestep, expected: "\(timestepText(expected)), the timestep of step \(session.stepIndex)")
        }
        self.session = session.restarted(at: try session.plan.index(ofTimestep: timestep))
        return session
    }

    public mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        try stepInOrder(modelOutput: modelOutput, timestep: timestep, sample: &sample, noise: noise, batchSize: batchSize)
    }

    /// Takes the run's next step.
    mutating func stepInOrder<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>?, batchSize: Int
    ) throws(SchedulerError) {
        let replaced = try select(timestep: timestep)
        do throws(SchedulerError) {
            try session?.step(modelOutput: modelOutput, sample: &sample, noise: noise, batchSize: batchSize)
        } catch {
            if let replaced { session = replaced }
            throw error
        }
    }

    /// Takes one step, a ``PlanRow``, and returns the next sample, and the step's report on request.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `wrongElementCount`, `wrongElementType`, `missingNoise`,
    ///   `outOfMemory`; nothing has changed then.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], noise: [Element]? = nil, batchSize: Int = 1,
        predictingOriginalSample: Bool = false
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        let replaced = try select(timestep: timestep)
        do throws(SchedulerError) {
            guard
                let output = try session?.step(
                    modelOutput: modelOutput, sample: sample, noise: noise, batchSize: batchSize,
                    predictingOriginalSample: predictingOriginalSample)
            else { throw SchedulerError.timestepsNotSet }
            return output
        } catch {
            if let replaced { session = replaced }
            throw error
        }
    }

    /// Takes one step in place, a ``PlanRow``, with a guided model output, which is computed on the way: see ``Guidance``.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `wrongElementCount`, `wrongElementType`, `missingNoise`,
    ///   `outOfMemory`; `invalidValue` for a guidance out of range. Nothing has changed then.
    public mutating func step<Element: TensorElement>(
        conditional: [Element], unconditional: [Element], guidance: Guidance, timestep: Double, sample: inout [Element],
        noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        let replaced = try select(timestep: timestep)
        do throws(SchedulerError) {
            try session?.step(
                conditional: conditional, unconditional: unconditional, guidance: guidance, sample: &sample, noise: noise,
                batchSize: batchSize)
        } catch {
            if let replaced { session = replaced }
            throw error
        }
    }

    // MARK: Beside the steps

    /// Scales the sample x in place to the model's input at a timestep of the plan: x' = c x with ``inputScale(atTimestep:)``. Most
    /// schedulers' models take the sample unchanged.
    ///
    /// - Throws: `unknownTimestep` for a timestep that isn't in the plan, if the plan has an input scale other than 1.
    public func scaleModelInput<Element: TensorElement>(
        _ sample: inout MutableSpan<Element>, timestep: Double
    ) throws(SchedulerError) {
        let scale = try inputScale(atTimestep: timestep)
        if scale == 1 { return }
        let count = sample.count
        try sample.withUnsafeMutableBytes { (sample) throws(SchedulerError) in
            guard let address = sample.baseAddress else { return }
            try Kernels.scale(address, by: scale, elementCount: count, elementType: Element.elementType)
        }
    }

    /// The factor c that makes a sample x the model's input at a timestep of the plan: input = c x. It is 1 before `setTimesteps`.
    ///
    /// - Throws: `unknownTimestep` for a timestep that isn't in the plan, if the plan has an input scale other than 1.
    public func inputScale(atTimestep timestep: Double) throws(SchedulerError) -> Double {
        guard let session, session.plan.scalesInputs else { return 1 }
        if session.timestep == timestep { return session.inputScale }
        return session.plan.inputScales[try session.plan.index(ofTimestep: timestep)]
    }

    /// Adds noise: x = A data + S noise, in place, with the rates A and S of each batch item's timestep.
    ///
    /// The timesteps are the plan's; one that occurs twice means the next step if that step has it. Before `setTimesteps` they are
    /// the training's.
    ///
    /// - Throws: `unknownTimestep`; `invalidValue` for a timestep out of range; `wrongElementCount`. Nothing has changed then.
    public func addNoise<Element: TensorElement>(
        _ noise: Span<Element>, to sample: inout MutableSpan<Element>, timesteps: [Double]
    ) throws(SchedulerError) {
        try combine(noise, with: &sample, timesteps: timesteps, sampleRate: \.signalRate, noiseRate: \.noiseRate)
    }

    /// sample ← sampleRate · sample + noiseRate · noise, with the rates of each batch item's timestep.
    func combine<Element: TensorElement>(
        _ noise: Span<Element>, with sample: inout MutableSpan<Element>, timesteps: [Double],
        sampleRate: (NoiseLevel) -> Double, noiseRate: (NoiseLevel) -> Double
    ) throws(SchedulerError) {
        guard noise.count == sample.count else {
            throw .wrongElementCount(argument: "noise", count: noise.count, expected: "\(sample.count), like the sample")
        }
        guard !timesteps.isEmpty, sample.count % timesteps.count == 0 else {
            throw .wrongElementCount(
                argument: "sample", count: sample.count, expected: "a multiple of the number of timesteps, \(timesteps.count)")
        }
        var levels: [NoiseLevel] = []
        for timestep in timesteps { levels.append(try level(atTimestep: timestep)) }
        let elementsPerItem = sample.count / timesteps.count
        try sample.withUnsafeMutableBytes { (sample) throws(SchedulerError) in
            try noise.withUnsafeBytes { (noise) throws(SchedulerError) in
                guard let sample = sample.baseAddress, let noise = noise.baseAddress else { return }
                try Kernels.addNoise(
                    noise, to: sample, signalRates: levels.map(sampleRate), noiseRates: levels.map(noiseRate),
                    elementsPerItem: elementsPerItem, elementType: Element.elementType)
            }
        }
    }

    public func level(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel { try plannedLevel(atTimestep: timestep) }

    /// The noise level of a timestep of the plan; before there is one, of the training.
    func plannedLevel(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        guard let session else {
            let timesteps = noiseSchedule.timesteps
            guard let first = timesteps.first, let last = timesteps.last, timestep >= first, timestep <= last else {
                throw .unknownTimestep(
                    timestep,
                    expected:
                        "a training timestep from \(timestepText(timesteps.first ?? 0)) to \(timestepText(timesteps.last ?? 0))")
            }
            return try trainingLevel(atTimestep: timestep)
        }
        if session.timestep == timestep { return session.plan.levels[session.stepIndex] }
        return session.plan.levels[try session.plan.index(ofTimestep: timestep)]
    }

    public func trainingLevel(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return NoiseLevel(sigma: noiseSchedule.sigma(atTimestep: timestep), process: noiseSchedule.process)
    }
}
