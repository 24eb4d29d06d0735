/// One request on its way through a plan: which step comes next, and the outputs remembered from the steps before.
///
/// ```swift
/// var session = SamplingSession(plan: plan)
/// while let timestep = session.timestep {
///     let output = model(sample, timestep)
///     try session.step(modelOutput: output, sample: &sample)
/// }
/// ```
///
/// A session is a value: a copy goes its own way from there, and shares the remembered outputs until one of the two steps.
/// The first step decides the element type and count. Different sessions may step on different threads at once, also on the
/// same plan; one session steps on one thread at a time, as Swift's exclusivity demands anyway.
public struct SamplingSession: Sendable {
    public let plan: SamplingPlan
    /// The step that comes next, counted from 0; the plan's number of steps after the last one.
    public private(set) var stepIndex: Int
    /// The most threads a step may use; 0: as many as the OpenMP runtime would, 1: stay on the caller's thread.
    public var maximumThreads = 0

    private let beginIndex: Int
    private var remembered = 0
    /// The slot of the ring that holds the newest remembered output.
    private var newest = 0
    private var history: HistoryStorage?
    private var elementType: ElementType?
    private var elementCount = 0

    /// Starts at a step of the plan; later ones are for image-to-image, whose start is a noised image.
    ///
    /// - Precondition: 0 ≤ `beginIndex` ≤ the plan's number of steps.
    public init(plan: SamplingPlan, beginIndex: Int = 0) {
        precondition((0...plan.stepCount).contains(beginIndex), "the plan has no step \(beginIndex)")
        self.plan = plan
        self.beginIndex = beginIndex
        stepIndex = beginIndex
    }

    /// A session of its own with this one's limits.
    func restarted(on plan: SamplingPlan? = nil, at beginIndex: Int = 0) -> SamplingSession {
        var session = SamplingSession(plan: plan ?? self.plan, beginIndex: beginIndex)
        session.maximumThreads = maximumThreads
        return session
    }

    /// What the model is told at the next step; nil after the last one.
    public var timestep: Double? { stepIndex < plan.stepCount ? plan.timesteps[stepIndex] : nil }

    /// Whether a step has been taken.
    public var hasBegun: Bool { stepIndex > beginIndex }

    /// How many outputs of earlier steps the next one can use.
    public var rememberedCount: Int { min(remembered, plan.historyLength) }

    /// Goes back to the first step and forgets the history and the element type, for another request.
    public mutating func reset() {
        stepIndex = beginIndex
        remembered = 0
        newest = 0
        history = nil
        elementType = nil
        elementCount = 0
    }

    // MARK: Stepping

    /// Takes the next step in place: `sample` is the sample before the call and the next sample after it.
    ///
    /// Allocates nothing from the second step on (the first one makes room for the history).
    ///
    /// - Parameters:
    ///   - modelOutput: what the model said, as many elements as the sample; twice as many if it also predicts the variance.
    ///   - noise: standard normal numbers, as many as the sample has elements; for stochastic steps only.
    ///   - batchSize: the batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `stepPastEnd`, `wrongElementCount`, `wrongElementType`, `missingNoise`; nothing has changed then.
    /// - Complexity: O(elements), one pass over memory.
    public mutating func step<Element: TensorElement>(
        modelOutput: Span<Element>, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try check(
            Element.self, sampleCount: sample.count, modelOutputCount: modelOutput.count, noiseCount: noise?.count,
            batchSize: batchSize)
        bind(Element.self, count: sample.count)
        StepTensors.inPlace(modelOutput: modelOutput, sample: &sample, noise: noise) { execute($0, batchSize: batchSize) }
        moveOn()
    }

    /// Takes the next step in place, on arrays.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], sample: inout [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        var span = sample.mutableSpan
        try step(modelOutput: modelOutput.span, sample: &span, noise: noise?.span, batchSize: batchSize)
    }

    /// Takes the next step and returns the next sample, and the predicted clean sample on request.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], sample: [Element], noise: [Element]? = nil, batchSize: Int = 1,
        predictingOriginalSample: Bool = false
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        try check(
            Element.self, sampleCount: sample.count, modelOutputCount: modelOutput.count, noiseCount: noise?.count,
            batchSize: batchSize)
        bind(Element.self, count: sample.count)
        let output = StepTensors.returning(
            modelOutput: modelOutput, sample: sample, noise: noise, predictingOriginalSample: predictingOriginalSample
        ) { execute($0, batchSize: batchSize) }
        moveOn()
        return output
    }

    /// Everything that can be wrong with a step, before anything is changed.
    private func check<Element: TensorElement>(
        _ type: Element.Type, sampleCount: Int, modelOutputCount: Int, noiseCount: Int?, batchSize: Int
    ) throws(SchedulerError) {
        guard stepIndex < plan.stepCount else { throw .stepPastEnd(stepCount: plan.stepCount) }
        if let elementType {
            guard Element.elementType == elementType else {
                throw .wrongElementType(
                    argument: "sample", type: Element.elementType.rawValue, expected: elementType.rawValue)
            }
            guard sampleCount == elementCount else {
                throw .wrongElementCount(argument: "sample", count: sampleCount, expected: "\(elementCount), as at the first step")
            }
        }
        try StepTensors.check(
            sampleCount: sampleCount, modelOutputCount: modelOutputCount, noiseCount: noiseCount, batchSize: batchSize,
            modelLearnsVariance: plan.modelLearnsVariance)
        if noiseCount == nil, plan.needsNoise(at: stepIndex, remembered: remembered) { throw .missingNoise(step: stepIndex) }
    }

    /// The first step decides the type and number of elements.
    private mutating func bind<Element: TensorElement>(_ type: Element.Type, count: Int) {
        if elementType != nil { return }
        elementType = Element.elementType
        elementCount = count
        if plan.historyLength > 0 {
            history = HistoryStorage(slotCount: plan.historyLength, elementCount: count, elementType: Element.elementType)
        }
    }

    private mutating func execute(_ tensors: StepTensors, batchSize: Int) {
        if history != nil, !isKnownUniquelyReferenced(&history) { history = history?.copy() }
        Kernels.step(
            plan.kernelRows.row(at: stepIndex, remembered: remembered), clamp: plan.clamp, tensors,
            history: history.map { HistoryRing(storage: $0, newest: newest) }, batchSize: batchSize,
            maximumThreads: maximumThreads)
    }

    private mutating func moveOn() {
        if plan.historyLength > 0 {
            newest = (newest + 1) % plan.historyLength
            remembered = min(remembered + 1, plan.historyLength)
        }
        stepIndex += 1
    }
}
