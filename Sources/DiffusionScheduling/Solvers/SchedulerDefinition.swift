// SPDX-License-Identifier: Apache-2.0

/// A scheduler, described once: its parameters, its options for a run, and the plan that they make.
///
/// A definition holds the values of a `scheduler_config.json`; ``DefinedScheduler`` makes a scheduler of it. A new scheduler, in
/// every language, is one file and one line in ``SchedulerCatalog``:
///
/// ```swift
/// public struct ExampleConfiguration: SchedulerDefinition { … }
/// public typealias ExampleScheduler = DefinedScheduler<ExampleConfiguration>
/// ```
public protocol SchedulerDefinition: SchedulerConfiguration {
    /// The options of a run: diffusers' arguments of `step` and `set_timesteps` that rows depend on.
    associatedtype Options: RunOptions = NoRunOptions

    /// The noise levels of the training.
    ///
    /// - Throws: `invalidValue` for keys from which a level follows that isn't finite, or that leave none.
    func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule

    /// The levels of a run that is requested by its number of steps; nil: those of the configuration's other keys.
    var namedLevels: SigmaSchedule? { get }

    /// n noise levels by their name, in the convention of the scheduler's requests: σ_k of ``SigmaSchedule/sigmas(count:of:)``,
    /// shifted if the scheduler shifts levels.
    ///
    /// - Throws: as ``SigmaSchedule/sigmas(count:of:)``; `invalidValue` for a `mu` that isn't allowed.
    func sigmas(
        count: Int, of schedule: SigmaSchedule, mu: Double?, noise: NoiseSchedule
    ) throws(SchedulerError) -> [Double]

    /// Compiles a plan.
    ///
    /// - Throws: `invalidValue` where the request or an option is out of range or doesn't fit the configuration;
    ///   `unrepresentablePlan`.
    func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan

    /// The row of the step at a training timestep, in or out of the plan, in a run with the plan's number of steps.
    ///
    /// Only for schedulers whose steps depend on nothing but their arguments: those with ``SchedulerDefinition/isStateless``.
    ///
    /// - Throws: `unsupportedOperation` for others; `unknownTimestep` or `invalidValue` for a timestep that the training doesn't
    ///   have; `invalidValue` for an option out of range.
    func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow

    /// The row of the step at a training timestep for callers who keep ``SchedulerDefinition/attributes`` themselves: see
    /// ``StepAttributes/timestep``.
    ///
    /// - Parameters:
    ///   - timestep: where the step begins.
    ///   - before: the timestep of the step before; nil: the step is the first one, and reads no attributes.
    ///   - plan: the run's plan.
    ///   - options: those of the step.
    ///   - noise: the noise levels of the training.
    /// - Throws: `unsupportedOperation` for schedulers that keep their attributes; `unknownTimestep` for a timestep that the
    ///   training doesn't have.
    func row(
        at timestep: Double, after before: Double?, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow

    /// The attributes in which diffusers' object keeps tensors for later steps.
    static var attributes: StepAttributes { get }

    /// The row of an evaluation for callers who keep diffusers' attributes instead of the plan's slots.
    ///
    /// The slots stand for ``attributes``: the first ones for the tensors, the others for the history, newest first. A store to the first
    /// slot of the history becomes its newest element; the others move back by one.
    func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow

    /// Compiles a plan on the caller's timesteps and noise levels, unchanged.
    ///
    /// - Throws: `unsupportedOperation` for schedulers whose rows don't follow from noise levels alone; `invalidValue` for levels
    ///   that the scheduler can't step between; `unrepresentablePlan`.
    func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan

    /// diffusers' name of a step's second result.
    static var reportName: String { get }

    /// Whether diffusers' `step` returns the report beside the next sample; otherwise it is computed on request only.
    static var returnsReport: Bool { get }

    /// The element type of the next sample in diffusers' `step` if sample and model output have different ones.
    static var resultType: ResultType { get }

    /// The element type of the noise that diffusers' `step` draws.
    static var noiseType: NoiseType { get }

    /// diffusers' names for the updates of orders 1, 2 … in its step, if its documentation offers them.
    static var updateNames: [String] { get }

    /// The element type of diffusers' timesteps; nil: whole numbers on the variance-preserving process, float32 numbers on others.
    static var timestepType: TimestepElementType? { get }

    /// The element type of diffusers' noise levels.
    static var sigmaType: SigmaElementType { get }

    /// Whether diffusers' list of timesteps ends with one more, the timestep that the last step leads to; a request's list then
    /// does, too.
    static var listsEnd: Bool { get }

    /// Whether a requested number of steps counts noise levels, including the one after the last step: a run then has one step
    /// less, or fewer still if levels coincide.
    static var countsEnd: Bool { get }

    /// The convention for a request's noise levels: the one of diffusers' argument `sigmas`.
    static var sigmaList: SigmaList { get }

    /// The Brownian motion over the noise levels from which diffusers' steps take their noise; nil if noise is independent. Rows of a
    /// plan read independent noise of the same distribution.
    static var brownianMotion: BrownianMotion? { get }

    /// Whether steps depend on nothing but their arguments, so that they may be taken at any training timestep in any order.
    static var isStateless: Bool { get }

    /// diffusers' method that steps each batch item at a separate timestep; nil: none.
    static var batchStep: BatchStep? { get }

    /// Arguments of diffusers' `step` for values that other classes hold themselves; nil: none.
    static var stepArguments: StepArguments? { get }

    /// The methods by which diffusers' pipelines step, if they don't call `step` at a timestep of the run.
    static var calls: [StepCall] { get }

    /// The noise level of a training timestep: a sample there is x = A data + S noise.
    ///
    /// - Throws: `unknownTimestep` or `invalidValue` for a timestep that the training doesn't have.
    func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel

    /// Whether noise is added at the levels of training timesteps, in or out of the plan, rather than at the plan's.
    static var addsNoiseAtTrainingLevels: Bool { get }
}

/// The attributes in which diffusers' object keeps tensors for later steps.
public struct StepAttributes: Sendable, Equatable {
    /// The attributes that hold one tensor each.
    public var tensors: [String]
    /// The attribute with a list of tensors, the newest last.
    public var history: String?
    /// The attribute that counts the steps of a run, as far as they matter.
    public var age: String?
    /// The argument of diffusers' `step` for the timestep of the step before, if `step` also takes ``tensors`` as arguments: its
    /// callers keep them, and the step's report becomes the last one. nil: the object keeps them.
    public var timestep: String?

    /// The attributes of these names.
    public init(tensors: [String] = [], history: String? = nil, age: String? = nil, timestep: String? = nil) {
        self.tensors = tensors
        self.history = history
        self.age = age
        self.timestep = timestep
    }

    var json: JSONValue {
        [
            "tensors": .array(tensors.map { .string($0) }), "history": history.map { .string($0) } ?? .null,
            "age": age.map { .string($0) } ?? .null, "timestep": timestep.map { .string($0) } ?? .null,
        ]
    }
}

/// diffusers' method that steps each batch item at a separate timestep.
public struct BatchStep: Sendable, Equatable {
    /// diffusers' name of the method.
    public var name: String
    /// The option that selects the method's steps.
    public var option: String

    var json: JSONValue { ["name": .string(name), "option": .string(option)] }
}

/// A Brownian motion over noise levels: the noise between two of them is its increment, divided by the increment's deviation.
public struct BrownianMotion: Sendable, Equatable {
    /// The parameter that holds the motion's seed; nil: the seed of the generator that the first step is given.
    public var seedKey: String?
    /// The parameters that hold the least and the greatest level of the motion; empty: those of the run.
    public var rangeKeys: [String] = []
    /// Whether a step of two evaluations reads the increment to its middle first, and then that of the whole step. The rows of
    /// ``SchedulerDefinition/attributeRow(at:age:of:)`` read these two, which depend on one another.
    public var overlaps = false

    var json: JSONValue {
        [
            "seed": seedKey.map { .string($0) } ?? .null, "range": .array(rangeKeys.map { .string($0) }),
            "overlaps": .bool(overlaps),
        ]
    }
}

/// Arguments of diffusers' `step` for values that most classes hold or draw themselves.
public struct StepArguments: Sendable, Equatable {
    /// The argument for the noise of the step.
    public var noise: String
    /// The argument for the step's index in the run.
    public var stepIndex: String
    /// The arguments for the timesteps of the run, and for its noise levels.
    public var timesteps: [String], sigmas: [String]

    var json: JSONValue {
        [
            "noise": .string(noise), "step_index": .string(stepIndex), "timesteps": .array(timesteps.map { .string($0) }),
            "sigmas": .array(sigmas.map { .string($0) }),
        ]
    }
}

/// The convention for a list of noise levels.
public enum SigmaList: Sendable {
    /// The levels that the steps begin at, noisiest first.
    case levels
    /// The levels that the steps begin at, and the one after the last step.
    case levelsAndEnd
    /// The levels that the steps begin at, noisiest last, for runs that invert.
    case ascendingLevels
    /// No levels, but places between two of them.
    case places
}

/// The element type of the next sample if sample and model output have different ones.
public enum ResultType: String, Sendable {
    /// The type that holds both.
    case promoted
    /// The model output's.
    case modelOutput = "model_output"
    /// The sample's.
    case sample
    /// The type of the quantity that the solver extrapolates: the model output's if it is the model output itself, else `promoted`.
    case converted
    /// The type that holds both and float32.
    case atLeastFloat32 = "at_least_float32"
}

/// The element type of the noise that diffusers draws.
public enum NoiseType: String, Sendable {
    /// The model output's.
    case modelOutput = "model_output"
    /// The sample's.
    case sample
    /// The type that holds both.
    case promoted
    /// The type that holds the model output's type and float32.
    case atLeastFloat32 = "at_least_float32"
    /// float32, whatever the others are.
    case float32
}

/// The element type of timesteps in diffusers.
public enum TimestepElementType: String, Sendable {
    /// Whole numbers of 64 bits.
    case int64
    /// float32 numbers.
    case float32
    /// float64 numbers.
    case float64
}

/// The element type of noise levels in diffusers.
public enum SigmaElementType: String, Sendable {
    /// float32 numbers.
    case float32
    /// float64 numbers.
    case float64
}

/// A scheduler that computes the velocity v = A noise − S sample, which models of `vPrediction` are trained on.
public protocol VelocityDefinition: SchedulerDefinition {}

extension SchedulerDefinition {
    public static var reportName: String { "pred_original_sample" }
    public static var returnsReport: Bool { true }
    public static var resultType: ResultType { .promoted }
    public static var noiseType: NoiseType { .modelOutput }
    public static var updateNames: [String] { [] }
    public static var timestepType: TimestepElementType? { nil }
    public static var sigmaType: SigmaElementType { .float32 }
    public static var listsEnd: Bool { false }
    public static var countsEnd: Bool { false }
    public static var sigmaList: SigmaList { .levels }
    public static var brownianMotion: BrownianMotion? { nil }
    public static var isStateless: Bool { false }
    public static var batchStep: BatchStep? { nil }
    public static var stepArguments: StepArguments? { nil }
    public static var calls: [StepCall] { [] }
    public static var addsNoiseAtTrainingLevels: Bool { isStateless }
    public static var attributes: StepAttributes { StepAttributes() }
    public var namedLevels: SigmaSchedule? { nil }

    /// The row of a plan whose slots, if any, are a ring of the quantities that the evaluations extrapolate.
    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        let ring = plan.slotCount
        return plan.row(at: index, age: age).renumbering(reads: { (index - 1 - $0 + ring) % ring }, stores: { _ in 0 })
    }

    /// The levels of the name over the training's: see ``SigmaSchedule/sigmas(count:of:)``.
    ///
    /// - Throws: as ``SigmaSchedule/sigmas(count:of:)``.
    public func sigmas(
        count: Int, of schedule: SigmaSchedule, mu: Double?, noise: NoiseSchedule
    ) throws(SchedulerError) -> [Double] {
        try schedule.sigmas(count: count, of: noise)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        throw .unsupportedOperation("plan on noise levels of the caller's", className: Self.className)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        throw .unsupportedOperation("step outside of a run", className: Self.className)
    }

    public func row(
        at timestep: Double, after before: Double?, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        throw .unsupportedOperation("step with attributes of the caller's", className: Self.className)
    }

    /// The level between those of the training, by interpolation: see ``NoiseSchedule/sigma(atTimestep:)``.
    ///
    /// - Throws: nothing.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        NoiseLevel(sigma: noise.sigma(atTimestep: timestep), process: noise.process)
    }
}

extension SchedulerDefinition where Self: NoiseScheduleConfiguration {
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try NoiseSchedule(self) }
}

/// Options of a run: a struct of values with defaults, and their table.
public protocol RunOptions: Sendable, Equatable {
    /// The options of a run that is told none.
    init()
    /// The options by their names.
    static var parameters: [ConfigurationParameter<Self>] { get }
    /// Checks values and their combination.
    ///
    /// - Throws: `invalidValue` for a value that isn't allowed.
    func validate() throws(SchedulerError)
}

/// For schedulers without options.
public struct NoRunOptions: RunOptions {
    public init() {}
    public static var parameters: [ConfigurationParameter<Self>] { [] }
}

extension RunOptions {
    public func validate() throws(SchedulerError) {}

    /// Options by their names.
    ///
    /// - Throws: `invalidValue` for a name that isn't an option, a value of another kind, or one out of range.
    public init(values: [String: JSONValue]) throws(SchedulerError) {
        self.init()
        for (name, value) in values.sorted(by: { $0.key < $1.key }) {
            guard let parameter = Self.parameters.first(where: { $0.key == name }) else {
                let names = Self.parameters.map(\.key)
                throw .invalidValue(
                    key: name.quoted, value: "given",
                    allowed: names.isEmpty
                        ? "left out: this scheduler has no options" : "one of the options \(names.joined(separator: ", "))")
            }
            try parameter.read(name, value, &self)
        }
        try validate()
    }
}

/// The scheduler of a definition.
///
/// ```swift
/// var scheduler = try DEISMultistepScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(20)
/// for timestep in scheduler.timesteps {
///     try scheduler.step(modelOutput: model(sample, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
public struct DefinedScheduler<Definition: SchedulerDefinition>: PlannedScheduler {
    /// The definition's values.
    public typealias Configuration = Definition

    public static var schedulerDescription: JSONValue { Definition.schedulerDescription }
    public static var hasVelocity: Bool { Definition.self is any VelocityDefinition.Type }
    public static var sigmaList: SigmaList { Definition.sigmaList }
    public static var countsEnd: Bool { Definition.countsEnd }

    public let configuration: Definition
    public let noiseSchedule: NoiseSchedule
    public var session: SamplingSession?

    /// The scheduler of a configuration.
    ///
    /// - Throws: `invalidValue` and `conflictingKeys` for a configuration that isn't valid.
    public init(_ configuration: Definition = .init()) throws(SchedulerError) {
        try configuration.validate()
        self.configuration = configuration
        noiseSchedule = try configuration.makeNoiseSchedule()
    }

    public func plan(_ request: TimestepRequest) throws(SchedulerError) -> SamplingPlan { try plan(request, options: .init()) }

    /// Compiles a plan; the scheduler itself doesn't change.
    ///
    /// - Throws: `invalidValue` where the request or an option is out of range or doesn't fit the configuration;
    ///   `unrepresentablePlan`.
    public func plan(_ request: TimestepRequest, options: Definition.Options) throws(SchedulerError) -> SamplingPlan {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try options.validate()
        return try configuration.plan(named(request), options: options, noise: noiseSchedule)
    }

    /// The levels that the configuration names, if the request is a number of steps.
    func named(_ request: TimestepRequest) throws(SchedulerError) -> TimestepRequest {
        guard case .count(let count, let mu) = request, let schedule = configuration.namedLevels else { return request }
        return try self.request(count, schedule, mu: mu)
    }

    public func sigmas(count: Int, of schedule: SigmaSchedule, mu: Double?) throws(SchedulerError) -> [Double] {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.sigmas(count: count, of: schedule, mu: mu, noise: noiseSchedule)
    }

    public func plan(_ request: TimestepRequest, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan {
        try plan(request, options: Definition.Options(values: optionValues))
    }

    /// Compiles a plan on the caller's timesteps and noise levels, unchanged: nothing is shifted, spaced or rounded.
    ///
    /// - Throws: `invalidValue` for a grid or an option that isn't allowed; `unsupportedOperation` for schedulers whose rows don't
    ///   follow from noise levels alone; `unrepresentablePlan`.
    /// - Complexity: O(n).
    public func plan(on grid: TimestepGrid, options: Definition.Options = .init()) throws(SchedulerError) -> SamplingPlan {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try grid.validate()
        try options.validate()
        return try configuration.plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, optionValues: [String: JSONValue]) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid, options: Definition.Options(values: optionValues))
    }

    public func attributeRow(at index: Int, age: Int) throws(SchedulerError) -> PlanRow {
        guard let plan else { throw .timestepsNotSet }
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try require(
            "index", index, "less than the number of steps, \(plan.stepCount)", plan.timesteps.indices.contains(index))
        return configuration.attributeRow(at: index, age: min(age, index), of: plan)
    }

    /// Plans a run and goes to its start.
    ///
    /// - Throws: as ``plan(_:options:)``. The run before is kept then.
    public mutating func setTimesteps(_ request: TimestepRequest, options: Definition.Options) throws(SchedulerError) {
        let plan = try plan(request, options: options)
        session = session?.restarted(on: plan) ?? SamplingSession(plan: plan)
    }

    /// The row of the step at a training timestep, in or out of the plan; for schedulers whose steps depend on nothing but their arguments.
    ///
    /// - Throws: `unsupportedOperation` for others; `timestepsNotSet`, `unknownTimestep`, `invalidValue`.
    /// - Complexity: O(1).
    public func row(at timestep: Double, options: Definition.Options = .init()) throws(SchedulerError) -> PlanRow {
        guard Definition.isStateless else {
            throw .unsupportedOperation("step outside of a run", className: Definition.className)
        }
        guard session != nil else { throw .timestepsNotSet }
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try options.validate()
        // The session is read in place: copying a plan takes longer than making the row.
        return try configuration.row(at: timestep, of: session!.plan, options: options, noise: noiseSchedule)
    }

    /// The row of the step at a training timestep, with options by name.
    ///
    /// - Parameters:
    ///   - timestep: the timestep that the step starts at.
    ///   - optionValues: the options, and the timestep of the step before if callers keep the attributes.
    /// - Throws: `unsupportedOperation` for schedulers whose steps depend on the ones before; `timestepsNotSet`; `unknownTimestep`;
    ///   `invalidValue` for an option that isn't allowed.
    public func row(at timestep: Double, optionValues: [String: JSONValue]) throws(SchedulerError) -> PlanRow {
        guard let name = Definition.attributes.timestep else {
            return try row(at: timestep, options: optionValues.isEmpty ? .init() : Definition.Options(values: optionValues))
        }
        var optionValues = optionValues
        let json = optionValues.removeValue(forKey: name) ?? .null
        guard let before = Double?(json: json) else {
            throw .invalidValue(key: name, value: json.text.quoted, allowed: Double?.allowedValues)
        }
        return try row(at: timestep, after: before, options: Definition.Options(values: optionValues))
    }

    /// The row of the step at a training timestep, in or out of the plan, for callers who keep the attributes themselves: the slots stand
    /// for the tensors among them.
    ///
    /// - Parameters:
    ///   - timestep: the timestep that the step starts at.
    ///   - before: the timestep of the step before; nil: the step is the first one, and reads no attributes.
    ///   - options: the options of the step.
    /// - Throws: `unsupportedOperation` if the scheduler keeps its attributes; `timestepsNotSet`, `unknownTimestep`,
    ///   `invalidValue`.
    public func row(
        at timestep: Double, after before: Double?, options: Definition.Options = .init()
    ) throws(SchedulerError) -> PlanRow {
        guard session != nil else { throw .timestepsNotSet }
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try options.validate()
        return try configuration.row(at: timestep, after: before, of: session!.plan, options: options, noise: noiseSchedule)
    }

    public func trainingLevel(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.trainingLevel(atTimestep: timestep, noise: noiseSchedule)
    }

    public func level(atTimestep timestep: Double) throws(SchedulerError) -> NoiseLevel {
        if Definition.addsNoiseAtTrainingLevels { return try trainingLevel(atTimestep: timestep) }
        return try plannedLevel(atTimestep: timestep)
    }

    // MARK: Steps that depend on nothing but their arguments

    public mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        guard Definition.isStateless else {
            return try stepInOrder(
                modelOutput: modelOutput, timestep: timestep, sample: &sample, noise: noise, batchSize: batchSize)
        }
        try step(
            modelOutput: modelOutput, timestep: timestep, sample: &sample, options: .init(), noise: noise, batchSize: batchSize)
    }

    private func preparedRow(at timestep: Double, options: Definition.Options) throws(SchedulerError) -> PreparedRow {
        let row = try row(at: timestep, options: options)
        return try PreparedRow(row, clamp: session!.plan.clamp, modelLearnsVariance: session!.plan.modelLearnsVariance)
    }

    /// Takes the step at a training timestep in place, a ``PlanRow``, in or out of the plan and in any order; for schedulers whose
    /// steps depend on nothing but their arguments.
    ///
    /// - Parameters:
    ///   - modelOutput: the model's output, with as many elements as the sample.
    ///   - timestep: the timestep that the model got.
    ///   - sample: the sample.
    ///   - options: the options of this step.
    ///   - noise: standard normal numbers, one for each element of the sample; only stochastic steps need them.
    ///   - batchSize: the number of batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `unsupportedOperation` for other schedulers; `timestepsNotSet`, `unknownTimestep`, `invalidValue`, `wrongElementCount`,
    ///   `missingNoise`, `outOfMemory`. The sample hasn't changed then.
    public func step<Element: TensorElement>(
        modelOutput: Span<Element>, timestep: Double, sample: inout MutableSpan<Element>, options: Definition.Options,
        noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        let row = try preparedRow(at: timestep, options: options)
        try StepTensors.inPlace(modelOutput: modelOutput, sample: &sample, noise: noise) { (tensors) throws(SchedulerError) in
            try withUnsafePointer(to: row) { (row) throws(SchedulerError) in try row.step(tensors, batchSize: batchSize) }
        }
    }

    /// Takes the step at a training timestep, a ``PlanRow``, and returns the next sample and the step's report.
    ///
    /// - Throws: `unsupportedOperation` for schedulers whose steps depend on the ones before; `timestepsNotSet`, `unknownTimestep`,
    ///   `invalidValue`, `wrongElementCount`, `missingNoise`, `outOfMemory`.
    public func step<Element: TensorElement>(
        modelOutput: [Element], timestep: Double, sample: [Element], options: Definition.Options, noise: [Element]? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        let row = try preparedRow(at: timestep, options: options)
        return try StepTensors.newOutput(
            modelOutput: modelOutput, sample: sample, noise: noise, predictingOriginalSample: true
        ) { (tensors) throws(SchedulerError) in
            try withUnsafePointer(to: row) { (row) throws(SchedulerError) in try row.step(tensors, batchSize: batchSize) }
        }
    }
}

extension DefinedScheduler where Definition: VelocityDefinition {
    /// The velocity v = A noise − S sample, for each batch item's training timestep (Salimans and Ho 2022, arXiv:2202.00512,
    /// section 4).
    ///
    /// - Throws: `unknownTimestep`; `invalidValue` for a timestep out of range; `wrongElementCount`.
    public func getVelocity<Element: TensorElement>(
        sample: [Element], noise: [Element], timesteps: [Double]
    ) throws(SchedulerError) -> [Element] {
        var velocity = sample
        try noise.withSpan { (noise) throws(SchedulerError) in
            var span = velocity.mutableSpan
            try combine(
                noise, with: &span, timesteps: timesteps, sampleRate: { -$0.noiseRate }, noiseRate: { $0.signalRate })
        }
        return velocity
    }
}

/// The classes that can be made from each other's configurations: diffusers' `KarrasDiffusionSchedulers`.
let commonCompatibleClassNames = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler", "EDMEulerScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
]
