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
/// The first step decides the element type and count of the sample, which are those of the remembered outputs as well.
/// Different sessions may step on different threads at once, also on the same plan; one session steps on one thread at a time,
/// as Swift's exclusivity demands anyway.
public struct SamplingSession: Sendable {
    public let plan: SamplingPlan
    /// The step that comes next, counted from 0; the plan's number of steps after the last one.
    public internal(set) var stepIndex: Int
    /// The most threads a step may use; 0: as many as the OpenMP runtime would, 1: stay on the caller's thread.
    public var maximumThreads = 0

    // The rest of the state, which is saved and restored in SessionState.swift.

    let beginIndex: Int
    var remembered = 0
    /// The slot of the ring that holds the newest remembered output.
    var newest = 0
    var history: HistoryStorage?
    var elementType: ElementType?
    var elementCount = 0

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
    ///     Its element type may be another one than the sample's, and another one at each step: it is converted on the way.
    ///   - noise: standard normal numbers, as many as the sample has elements; for stochastic steps only.
    ///   - batchSize: the batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `stepPastEnd`, `wrongElementCount`, `wrongElementType`, `missingNoise`, `outOfMemory`; nothing has changed then.
    /// - Complexity: O(elements), one pass over memory.
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        modelOutput: Span<Output>, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try check(
            Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count, noiseCount: noise?.count,
            batchSize: batchSize)
        try makeRoom(for: Element.elementType, count: sample.count)
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
            Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count, noiseCount: noise?.count,
            batchSize: batchSize)
        try makeRoom(for: Element.elementType, count: sample.count)
        let output = StepTensors.returning(
            modelOutput: modelOutput, sample: sample, noise: noise, predictingOriginalSample: predictingOriginalSample
        ) { execute($0, batchSize: batchSize) }
        moveOn()
        return output
    }

    /// Takes the next step on memory of the caller's: aligned, and overlapping only where an output is an input.
    package mutating func step(_ tensors: StepTensors, batchSize: Int) throws(SchedulerError) {
        try check(
            tensors.elementType, sampleCount: tensors.elementCount,
            modelOutputCount: tensors.elementCount * tensors.modelOutputParts,
            noiseCount: tensors.noise == nil ? nil : tensors.elementCount, batchSize: batchSize)
        try makeRoom(for: tensors.elementType, count: tensors.elementCount)
        execute(tensors, batchSize: batchSize)
        moveOn()
    }

    // The parts of a step are inlined, because calling them would copy the session.

    /// Everything that can be wrong with a step, before anything is changed.
    @inline(__always)
    private func check(
        _ type: ElementType, sampleCount: Int, modelOutputCount: Int, noiseCount: Int?, batchSize: Int
    ) throws(SchedulerError) {
        guard stepIndex < plan.stepCount else { throw .stepPastEnd(stepCount: plan.stepCount) }
        if let elementType {
            guard type == elementType else {
                throw .wrongElementType(argument: "sample", type: type.rawValue, expected: elementType.rawValue)
            }
            guard sampleCount == elementCount else {
                throw .wrongElementCount(argument: "sample", count: sampleCount, expected: "\(elementCount), as at the first step")
            }
        }
        try StepTensors.check(
            sampleCount: sampleCount, modelOutputCount: modelOutputCount, noiseCount: noiseCount, batchSize: batchSize,
            modelLearnsVariance: plan.modelLearnsVariance)
        if noiseCount == nil, plan.kernelRows.needsNoise(at: stepIndex, remembered: remembered) {
            throw .missingNoise(step: stepIndex)
        }
    }

    /// The first step decides the type and number of elements; a session whose history is shared with a copy takes its own.
    private mutating func makeRoom(for type: ElementType, count: Int) throws(SchedulerError) {
        if elementType == nil {
            if plan.historyLength > 0 {
                history = try HistoryStorage(slotCount: plan.historyLength, elementCount: count, elementType: type)
            }
            elementType = type
            elementCount = count
        } else if history != nil, !isKnownUniquelyReferenced(&history) {
            history = try history?.copy()
        }
    }

    @inline(__always)
    private func execute(_ tensors: StepTensors, batchSize: Int) {
        Kernels.step(
            plan.kernelRows.row(at: stepIndex, remembered: remembered), clamp: plan.clamp, tensors,
            history: history.map { HistoryRing(storage: $0, newest: newest) }, batchSize: batchSize,
            maximumThreads: maximumThreads)
    }

    private mutating func moveOn() {
        if plan.historyLength > 0 {
            newest = newest + 1 == plan.historyLength ? 0 : newest + 1
            remembered = min(remembered + 1, plan.historyLength)
        }
        stepIndex += 1
    }
}
