// SPDX-License-Identifier: Apache-2.0

/// One request's progress through a plan: the next evaluation, and the slots that earlier evaluations stored.
///
/// ```swift
/// var session = SamplingSession(plan: plan)
/// while let timestep = session.timestep {
///     let output = model(sample, timestep)
///     try session.step(modelOutput: output, sample: &sample)
/// }
/// ```
///
/// A session is a value: copies are independent, and share the slots until one of them steps. The first step fixes the element type
/// and count of the sample and of the slots.
/// Different sessions may step on different threads at once, also on the same plan; one session steps on one thread at a time,
/// as Swift's exclusivity demands anyway.
public struct SamplingSession: Sendable {
    /// The plan, which all sessions with the same steps share.
    public let plan: SamplingPlan
    /// The index of the next step, from 0; the plan's number of steps after the last one.
    public internal(set) var stepIndex: Int
    /// The most threads a step may use; 0: as many as the OpenMP runtime would, 1: stay on the caller's thread.
    public var maximumThreads = 0

    // The rest of the state, which is saved and restored in SessionState.swift.

    let beginIndex: Int
    var slots: SlotStorage?
    /// The workspace of steps of several items; not part of the state, but kept because making one takes longer than such a step.
    private var workspace: StepWorkspace?
    var elementType: ElementType?
    var elementCount = 0

    /// Starts at a step of the plan; a later step is for image-to-image, which starts from a noised image.
    ///
    /// - Precondition: 0 ≤ `beginIndex` ≤ the plan's number of steps, and a run may begin there: see ``SamplingPlan/isStart(_:)``.
    public init(plan: SamplingPlan, beginIndex: Int = 0) {
        precondition((0...plan.stepCount).contains(beginIndex), "the plan has no step \(beginIndex)")
        precondition(beginIndex == plan.stepCount || plan.isStart(beginIndex), "no run can begin at step \(beginIndex)")
        self.plan = plan
        self.beginIndex = beginIndex
        stepIndex = beginIndex
    }

    /// A new session with this one's `maximumThreads`.
    func restarted(on plan: SamplingPlan? = nil, at beginIndex: Int = 0) -> SamplingSession {
        var session = SamplingSession(plan: plan ?? self.plan, beginIndex: beginIndex)
        session.maximumThreads = maximumThreads
        return session
    }

    /// The timestep that the model gets at the next step; nil after the last one.
    public var timestep: Double? { stepIndex < plan.stepCount ? plan.timesteps[stepIndex] : nil }

    /// Whether a step has been taken.
    public var hasBegun: Bool { stepIndex > beginIndex }

    /// The number of evaluations that the run has taken.
    public var age: Int { stepIndex - beginIndex }

    /// The input scale of the next step, by which the sample becomes the model's input; 1 after the last one.
    public var inputScale: Double { stepIndex < plan.stepCount ? plan.inputScales[stepIndex] : 1 }

    /// The input scale of the evaluation after the next step; 1 after the last one.
    @inline(__always)
    private var nextInputScale: Double { stepIndex + 1 < plan.stepCount ? plan.inputScales[stepIndex + 1] : 1 }

    /// Whether the next step reads noise.
    public var needsNoise: Bool { stepIndex < plan.stepCount && plan.needsNoise(at: stepIndex, age: age) }

    /// Goes back to the first step and forgets the slots and the element type, for another request.
    public mutating func reset() {
        stepIndex = beginIndex
        slots = nil
        elementType = nil
        elementCount = 0
    }

    // MARK: Stepping

    /// Takes the next step in place: `sample` is the sample before the call and the next sample after it. ``PlanRow`` has the
    /// formula.
    ///
    /// Allocates nothing from the second step on (the first one makes room for the slots, and for thresholds).
    ///
    /// - Parameters:
    ///   - modelOutput: the model's output, with as many elements as the sample; twice as many if it also predicts the variance.
    ///     Its element type may differ from the sample's, and from step to step: it is converted on the way. Several outputs are
    ///     summed before, with the weights ``SamplingPlan/outputWeights``.
    ///   - sample: the sample; the first step decides the number of elements for all of them.
    ///   - noise: standard normal numbers, as many as the sample has elements; for stochastic steps only.
    ///   - batchSize: the batch items that the sample consists of; they matter for thresholding.
    /// - Throws: `stepPastEnd`, `wrongElementCount`, `wrongElementType`, `missingNoise`, `outOfMemory`; nothing has changed then.
    /// - Complexity: O(elements), one pass over memory.
    @inlinable
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        modelOutput: Span<Output>, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try StepTensors.inPlace(modelOutput: modelOutput, sample: &sample, noise: noise) { (tensors) throws(SchedulerError) in
            try step(tensors, batchSize: batchSize)
        }
    }

    /// Takes the next step in place, a ``PlanRow``, and writes the model's input at the evaluation after it: input scale · next
    /// sample.
    ///
    /// The scaling costs no pass over memory, unless the step stores two slots, as UniPC's do. The input is scaled before it is rounded,
    /// so it may differ in the last bit from a scaled sample.
    ///
    /// - Parameters:
    ///   - modelOutput: as for `step(modelOutput:sample:noise:batchSize:)`.
    ///   - sample: the sample.
    ///   - nextModelInput: as many elements as the sample, in separate memory.
    ///   - noise: standard normal numbers, for stochastic steps only.
    ///   - batchSize: the number of batch items.
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`.
    @inlinable
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        modelOutput: Span<Output>, sample: inout MutableSpan<Element>, nextModelInput: inout MutableSpan<Element>,
        noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        guard nextModelInput.count == sample.count else {
            throw .wrongElementCount(
                argument: "nextModelInput", count: nextModelInput.count, expected: "\(sample.count), as the sample")
        }
        try nextModelInput.withUnsafeMutableBytes { (input) throws(SchedulerError) in
            try StepTensors.inPlace(
                modelOutput: modelOutput, sample: &sample, noise: noise, modelInput: input.baseAddress
            ) { (tensors) throws(SchedulerError) in
                try step(tensors, batchSize: batchSize)
            }
        }
    }

    /// Takes the next step in place, a ``PlanRow``, on arrays.
    ///
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)` on spans; nothing has changed then.
    @inlinable
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], sample: inout [Element], noise: [Element]? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try modelOutput.withSpan { (modelOutput) throws(SchedulerError) in
            try noise.withSpan { (noise) throws(SchedulerError) in
                var span = sample.mutableSpan
                try step(modelOutput: modelOutput, sample: &span, noise: noise, batchSize: batchSize)
            }
        }
    }

    /// Takes the next step, a ``PlanRow``, and returns the next sample, and the step's report on request.
    ///
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`; nothing has changed then.
    public mutating func step<Element: TensorElement>(
        modelOutput: [Element], sample: [Element], noise: [Element]? = nil, batchSize: Int = 1,
        predictingOriginalSample: Bool = false
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        try StepTensors.newOutput(
            modelOutput: modelOutput, sample: sample, noise: noise, predictingOriginalSample: predictingOriginalSample
        ) { (tensors) throws(SchedulerError) in
            try step(tensors, batchSize: batchSize)
        }
    }

    /// Takes the next step in place, a ``PlanRow``, with a guided model output, which is computed on the way: see ``Guidance``.
    ///
    /// - Parameters:
    ///   - conditional: e_c, the model's output under the condition; counts and types as for `modelOutput` above.
    ///   - unconditional: e_u, the model's output without it, like `conditional`.
    ///   - guidance: the scale, and the rescaling.
    ///   - sample: the sample.
    ///   - noise: standard normal numbers, for stochastic steps only.
    ///   - batchSize: the number of batch items; they matter for rescaling and thresholding.
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`, and `invalidValue` for a guidance out of range; nothing has
    ///   changed then.
    /// - Complexity: O(elements), one pass over memory; two where the guidance is rescaled.
    @inlinable
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        conditional: Span<Output>, unconditional: Span<Output>, guidance: Guidance, sample: inout MutableSpan<Element>,
        noise: Span<Element>? = nil, batchSize: Int = 1
    ) throws(SchedulerError) {
        try StepTensors.inPlace(modelOutput: conditional, unconditional: unconditional, sample: &sample, noise: noise) {
            (tensors) throws(SchedulerError) in
            try step(tensors, guidance: guidance, batchSize: batchSize)
        }
    }

    /// Takes the next step in place, a ``PlanRow``, with a guided model output, on arrays: see ``Guidance``.
    ///
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`, and `invalidValue` for a guidance out of range; nothing has
    ///   changed then.
    @inlinable
    public mutating func step<Element: TensorElement>(
        conditional: [Element], unconditional: [Element], guidance: Guidance, sample: inout [Element], noise: [Element]? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        try conditional.withSpan { (conditional) throws(SchedulerError) in
            try unconditional.withSpan { (unconditional) throws(SchedulerError) in
                try noise.withSpan { (noise) throws(SchedulerError) in
                    var span = sample.mutableSpan
                    try step(
                        conditional: conditional, unconditional: unconditional, guidance: guidance, sample: &span, noise: noise,
                        batchSize: batchSize)
                }
            }
        }
    }

    /// Takes the next step in place, a ``PlanRow``, and keeps the model output's memory if the step stores the model output
    /// unchanged: DEIS and DPM-Solver with predicted noise and without a clamp write one tensor less. Other steps copy.
    ///
    /// - Parameters:
    ///   - modelOutput: after the call, memory of the same size for the next output, with unspecified contents: the same
    ///     memory, or the slot's former memory. If the call throws, it is unchanged.
    ///   - sample: the sample.
    ///   - noise: standard normal numbers, for stochastic steps only.
    ///   - batchSize: the number of batch items.
    /// - Throws: as `step(modelOutput:sample:noise:batchSize:)`.
    @inlinable
    public mutating func step<Element: TensorElement, Output: TensorElement>(
        consuming modelOutput: inout TensorBuffer<Output>, sample: inout MutableSpan<Element>, noise: Span<Element>? = nil,
        batchSize: Int = 1
    ) throws(SchedulerError) {
        var address = modelOutput.address
        try modelOutput.withSpan { (output) throws(SchedulerError) in
            try StepTensors.inPlace(modelOutput: output, sample: &sample, noise: noise) { (tensors) throws(SchedulerError) in
                try step(tensors, consuming: &address, batchSize: batchSize)
            }
        }
        modelOutput.address = address
    }

    /// Takes the next step in the caller's memory, which is aligned and overlaps only where an output is an input.
    ///
    /// - Parameter consuming: the model output's memory, which the session may exchange for a slot's.
    @usableFromInline
    package mutating func step(
        _ tensors: StepTensors, guidance: Guidance? = nil, consuming: UnsafeMutablePointer<UnsafeMutableRawPointer>? = nil,
        batchSize: Int
    ) throws(SchedulerError) {
        try check(tensors, guidance: guidance, batchSize: batchSize)
        try makeRoom(for: tensors, guidance: guidance, batchSize: batchSize)
        let row = plan.kernelRows.row(at: stepIndex, age: age)
        let keepsModelOutput =
            consuming != nil && row.pointee.keptOutput >= 0 && tensors.modelOutputType == tensors.elementType
            && tensors.modelOutputParts == 1
        try Kernels.step(
            row, tensors, slots: slots?.addresses, keepsModelOutput: keepsModelOutput,
            nextInputScale: tensors.modelInput == nil ? 1 : nextInputScale, guidance: guidance, batchSize: batchSize,
            workspace: needsWorkspace(for: tensors, guidance: guidance, batchSize: batchSize) ? workspace : nil,
            maximumThreads: maximumThreads)
        if keepsModelOutput, let slots, let consuming {
            slots.exchange(Int(row.pointee.stores[row.pointee.keptOutput]), for: &consuming.pointee)
        }
        moveOn()
    }

    // The parts of a step are inlined, because calling them would copy the session.

    /// Checks everything about a step before anything changes.
    @inline(__always)
    func check(_ tensors: StepTensors, guidance: Guidance?, batchSize: Int) throws(SchedulerError) {
        guard stepIndex < plan.stepCount else { throw .stepPastEnd(stepCount: plan.stepCount) }
        if let elementType {
            guard tensors.elementType == elementType else {
                throw .wrongElementType(
                    argument: "sample", type: tensors.elementType.rawValue, expected: elementType.rawValue)
            }
            guard tensors.elementCount == elementCount else {
                throw .wrongElementCount(
                    argument: "sample", count: tensors.elementCount, expected: "\(elementCount), as at the first step")
            }
        }
        try tensors.validate(batchSize: batchSize, modelLearnsVariance: plan.modelLearnsVariance)
        try guidance?.validate()
        if tensors.noise == nil, plan.isStochastic, plan.needsNoise(at: stepIndex, age: age) {
            throw .missingNoise(step: stepIndex)
        }
        if plan.modelLearnsVariance {
            try tensors.requireVariance(plan.kernelRows.row(at: stepIndex, age: age).pointee.needsVariance)
        }
    }

    @inline(__always)
    private func needsWorkspace(for tensors: StepTensors, guidance: Guidance?, batchSize: Int) -> Bool {
        Kernels.needsWorkspace(
            findsThresholds: plan.findsThresholds, modelOutputParts: tensors.modelOutputParts, batchSize: batchSize,
            guidance: guidance)
    }

    /// Fixes the type and number of elements at the first step, and copies slots that the session shares with a copy of it.
    @inline(__always)
    mutating func makeRoom(for tensors: StepTensors, guidance: Guidance?, batchSize: Int) throws(SchedulerError) {
        if needsWorkspace(for: tensors, guidance: guidance, batchSize: batchSize) {
            try makeWorkspace(for: tensors, batchSize: batchSize)
        }
        if plan.slotCount > 0 {
            if slots == nil {
                slots = try SlotStorage(
                    slotCount: plan.slotCount, elementCount: tensors.elementCount, elementType: tensors.elementType)
            } else if !isKnownUniquelyReferenced(&slots) {
                slots = try slots?.copy(live: plan.kernelRows.row(at: stepIndex, age: age).pointee.live)
            }
        }
        elementType = tensors.elementType
        elementCount = tensors.elementCount
    }

    @inline(never)
    private mutating func makeWorkspace(for tensors: StepTensors, batchSize: Int) throws(SchedulerError) {
        let findsThresholds = plan.findsThresholds
        let elements = tensors.elementCount / batchSize
        if isKnownUniquelyReferenced(&workspace), let workspace,
            workspace.fits(itemCount: batchSize, elementsPerItem: elements, findsThresholds: findsThresholds)
        {
            return
        }
        workspace = try StepWorkspace(itemCount: batchSize, elementsPerItem: elements, findsThresholds: findsThresholds)
    }

    /// This session's part of a step of many, after `makeRoom`.
    func stepItem(guidance: Guidance?) -> StepItem {
        StepItem(
            row: plan.kernelRows.row(at: stepIndex, age: age), slots: slots?.addresses, guidance: guidance,
            thresholds: workspace?.thresholdWorkspace(of: 0))
    }

    @inline(__always)
    mutating func moveOn() { stepIndex += 1 }
}
