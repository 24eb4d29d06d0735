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
    /// What steps of several items need; not part of the state, but kept because making it takes longer than such a step.
    private var workspace: StepWorkspace?
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
    /// Allocates nothing from the second step on (the first one makes room for the history, and for thresholds).
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
        let request = StepRequest(
            elementType: Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count,
            noiseCount: noise?.count, batchSize: batchSize)
        try prepare(request)
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
        let request = StepRequest(
            elementType: Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count,
            noiseCount: noise?.count, batchSize: batchSize)
        try prepare(request)
        let output = StepTensors.returning(
            modelOutput: modelOutput, sample: sample, noise: noise, predictingOriginalSample: predictingOriginalSample
        ) { execute($0, batchSize: batchSize) }
        moveOn()
        return output
    }

    /// Takes the next step in place with a guided model output, which is computed on the way.
    ///
    /// - Parameters:
    ///   - conditional: e_c, what the model said under the condition; counts and types as for `modelOutput` above.
    ///   - unconditional: e_u, what it said without, like `conditional`.
    /// - Throws: also `invalidValue` for a guidance out of range; nothing has changed then.
    /// - Complexity: O(elements), one pass over memory; two where the guidance is rescaled.
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        conditional: Span<Output>, unconditional: Span<Output>, guidance: Guidance, sample: inout MutableSpan<Element>,
        noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        let request = StepRequest(
            elementType: Element.elementType, sampleCount: sample.count, modelOutputCount: conditional.count,
            unconditionalCount: unconditional.count, guidance: guidance, noiseCount: noise?.count, batchSize: batchSize)
        try prepare(request)
        StepTensors.inPlace(modelOutput: conditional, unconditional: unconditional, sample: &sample, noise: noise) {
            execute($0, guidance: guidance, batchSize: batchSize)
        }
        moveOn()
    }

    /// Takes the next step in place with a guided model output, on arrays.
    public mutating func step<Element: TensorElement>(
        conditional: [Element], unconditional: [Element], guidance: Guidance, sample: inout [Element], noise: [Element]? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        var span = sample.mutableSpan
        try step(
            conditional: conditional.span, unconditional: unconditional.span, guidance: guidance, sample: &span, noise: noise?.span,
            batchSize: batchSize)
    }

    /// Takes the next step in place and keeps the model output's memory if what the step remembers is the model output itself: for
    /// DEIS and DPM-Solver with predicted noise and without a clamp, one tensor less is written. Other steps copy, as always.
    ///
    /// - Parameter modelOutput: after the call, memory of the same size for the next output: its own, or what held the oldest
    ///   remembered output. What is in it then isn't specified. Where the call throws it is as it was.
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`.
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        consuming modelOutput: inout TensorBuffer<Output>, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        let request = StepRequest(
            elementType: Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count,
            noiseCount: noise?.count, batchSize: batchSize)
        try prepare(request)
        let keeps = Output.elementType == Element.elementType && history != nil && modelOutput.count == sample.count
            && plan.kernelRows.remembersModelOutput(at: stepIndex, remembered: remembered)
        modelOutput.withSpan { output in
            StepTensors.inPlace(modelOutput: output, sample: &sample, noise: noise) {
                execute($0, keepsModelOutput: keeps, batchSize: batchSize)
            }
        }
        if keeps, let history {
            history.exchange(HistoryRing(storage: history, newest: newest).next, for: &modelOutput.address)
        }
        moveOn()
    }

    /// Takes the next step on memory of the caller's: aligned, and overlapping only where an output is an input.
    package mutating func step(_ tensors: StepTensors, guidance: Guidance? = nil, batchSize: Int) throws(SchedulerError) {
        try prepare(StepRequest(tensors, guidance: guidance, batchSize: batchSize))
        execute(tensors, guidance: guidance, batchSize: batchSize)
        moveOn()
    }

    // The parts of a step are inlined, because calling them would copy the session.

    /// Checks everything that can be wrong with a step and makes room for it; after that the step can't fail.
    @inline(__always)
    private mutating func prepare(_ request: StepRequest) throws(SchedulerError) {
        try check(request)
        try makeRoom(request)
    }

    /// Everything that can be wrong with a step, before anything is changed.
    @inline(__always)
    func check(_ request: StepRequest) throws(SchedulerError) {
        guard stepIndex < plan.stepCount else { throw .stepPastEnd(stepCount: plan.stepCount) }
        if let elementType {
            guard request.elementType == elementType else {
                throw .wrongElementType(
                    argument: "sample", type: request.elementType.rawValue, expected: elementType.rawValue)
            }
            guard request.sampleCount == elementCount else {
                throw .wrongElementCount(
                    argument: "sample", count: request.sampleCount, expected: "\(elementCount), as at the first step")
            }
        }
        try StepTensors.check(
            sampleCount: request.sampleCount, modelOutputCount: request.modelOutputCount,
            unconditionalCount: request.unconditionalCount, noiseCount: request.noiseCount, batchSize: request.batchSize,
            modelLearnsVariance: plan.modelLearnsVariance)
        try request.guidance?.validate()
        if request.noiseCount == nil, plan.kernelRows.needsNoise(at: stepIndex, remembered: remembered) {
            throw .missingNoise(step: stepIndex)
        }
    }

    /// The first step decides the type and number of elements; a session whose history is shared with a copy takes its own.
    @inline(__always)
    mutating func makeRoom(_ request: StepRequest) throws(SchedulerError) {
        if Kernels.needsWorkspace(
            clamp: plan.clamp, modelOutputParts: request.modelOutputParts, batchSize: request.batchSize, guidance: request.guidance)
        {
            try makeWorkspace(request)
        }
        if elementType == nil {
            if plan.historyLength > 0 {
                history = try HistoryStorage(
                    slotCount: plan.historyLength, elementCount: request.sampleCount, elementType: request.elementType)
            }
            elementType = request.elementType
            elementCount = request.sampleCount
        } else if history != nil, !isKnownUniquelyReferenced(&history) {
            history = try history?.copy()
        }
    }

    @inline(never)
    private mutating func makeWorkspace(_ request: StepRequest) throws(SchedulerError) {
        var findsThresholds = false
        if case .dynamicThreshold = plan.clamp { findsThresholds = true }
        let elements = request.sampleCount / request.batchSize
        if isKnownUniquelyReferenced(&workspace), let workspace,
            workspace.fits(itemCount: request.batchSize, elementsPerItem: elements, findsThresholds: findsThresholds)
        {
            return
        }
        workspace = try StepWorkspace(itemCount: request.batchSize, elementsPerItem: elements, findsThresholds: findsThresholds)
    }

    @inline(__always)
    private func execute(
        _ tensors: StepTensors, keepsModelOutput: Bool = false, guidance: Guidance? = nil, batchSize: Int
    ) {
        let needsWorkspace = Kernels.needsWorkspace(
            clamp: plan.clamp, modelOutputParts: tensors.modelOutputParts, batchSize: batchSize, guidance: guidance)
        Kernels.step(
            plan.kernelRows.row(at: stepIndex, remembered: remembered), tensors,
            history: history.map { HistoryRing(storage: $0, newest: newest) }, keepsModelOutput: keepsModelOutput,
            guidance: guidance, batchSize: batchSize, workspace: needsWorkspace ? workspace : nil, maximumThreads: maximumThreads)
    }

    /// This session's part of a step of many; `prepare` has been called.
    func stepItem(guidance: Guidance?) -> StepItem {
        StepItem(
            row: plan.kernelRows.row(at: stepIndex, remembered: remembered),
            history: history.map { HistoryRing(storage: $0, newest: newest) }, guidance: guidance,
            thresholds: workspace?.thresholdWorkspace(of: 0))
    }

    @inline(__always)
    mutating func moveOn() {
        if plan.historyLength > 0 {
            newest = newest + 1 == plan.historyLength ? 0 : newest + 1
            remembered = min(remembered + 1, plan.historyLength)
        }
        stepIndex += 1
    }
}

/// What a step is asked for, as far as it can be wrong.
struct StepRequest {
    let elementType: ElementType
    let sampleCount: Int
    let modelOutputCount: Int
    var unconditionalCount: Int? = nil
    var guidance: Guidance? = nil
    let noiseCount: Int?
    let batchSize: Int

    /// How often the model output has as many elements as the sample.
    var modelOutputParts: Int { modelOutputCount > sampleCount ? 2 : 1 }
}

extension StepRequest {
    init(_ tensors: StepTensors, guidance: Guidance?, batchSize: Int) {
        let outputCount = tensors.elementCount * tensors.modelOutputParts
        self.init(
            elementType: tensors.elementType, sampleCount: tensors.elementCount, modelOutputCount: outputCount,
            unconditionalCount: tensors.unconditional == nil ? nil : outputCount, guidance: guidance,
            noiseCount: tensors.noise == nil ? nil : tensors.elementCount, batchSize: batchSize)
    }
}
