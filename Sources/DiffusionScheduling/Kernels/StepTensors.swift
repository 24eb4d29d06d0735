// SPDX-License-Identifier: Apache-2.0

/// The tensors of one step: their addresses, and the numbers of elements that the caller gave.
@usableFromInline
package struct StepTensors {
    /// The element type of all tensors but the model outputs.
    @usableFromInline let elementType: ElementType
    @usableFromInline let elementCount: Int
    @usableFromInline let sample: UnsafeRawPointer
    @usableFromInline let modelOutput: UnsafeRawPointer
    @usableFromInline let modelOutputType: ElementType
    /// The sample's number of elements, or twice as many if each batch item's prediction is followed by its variance.
    @usableFromInline let modelOutputCount: Int
    /// The model output without the condition, for guided steps, in which `modelOutput` is the one under the condition.
    @usableFromInline let unconditional: UnsafeRawPointer?
    @usableFromInline let unconditionalCount: Int
    @usableFromInline let noise: UnsafeRawPointer?
    @usableFromInline let noiseCount: Int
    @usableFromInline let nextSample: UnsafeMutableRawPointer
    /// The destination of the row's report; nil if it isn't wanted.
    @usableFromInline let report: UnsafeMutableRawPointer?
    /// The destination of the model's input at the next evaluation; nil if it isn't wanted.
    @usableFromInline let modelInput: UnsafeMutableRawPointer?

    /// Missing counts become the sample's and the model output's.
    @inlinable
    @inline(__always)
    package init(
        elementType: ElementType, elementCount: Int, sample: UnsafeRawPointer, modelOutput: UnsafeRawPointer,
        modelOutputType: ElementType? = nil, modelOutputCount: Int? = nil, unconditional: UnsafeRawPointer? = nil,
        unconditionalCount: Int? = nil, noise: UnsafeRawPointer?, noiseCount: Int? = nil, nextSample: UnsafeMutableRawPointer,
        report: UnsafeMutableRawPointer?, modelInput: UnsafeMutableRawPointer? = nil
    ) {
        self.elementType = elementType
        self.elementCount = elementCount
        self.sample = sample
        self.modelOutput = modelOutput
        self.modelOutputType = modelOutputType ?? elementType
        self.modelOutputCount = modelOutputCount ?? elementCount
        self.unconditional = unconditional
        self.unconditionalCount = unconditionalCount ?? self.modelOutputCount
        self.noise = noise
        self.noiseCount = noiseCount ?? elementCount
        self.nextSample = nextSample
        self.report = report
        self.modelInput = modelInput
    }

    /// 2 if the model output also holds a variance, else 1.
    var modelOutputParts: Int { modelOutputCount > elementCount ? 2 : 1 }

    /// The variance of a single batch item; nil if the model output holds none.
    @inline(__always)
    var variance: UnsafeRawPointer? { modelOutputParts > 1 ? modelOutput + elementCount * modelOutputType.size : nil }

    /// Whether an input has the address.
    func inputs(contain address: UnsafeRawPointer) -> Bool {
        address == sample || address == modelOutput || address == unconditional || address == noise
    }

    /// Checks the counts.
    @inline(__always)
    func validate(batchSize: Int, modelLearnsVariance: Bool) throws(SchedulerError) {
        guard modelOutputCount == elementCount || (modelLearnsVariance && modelOutputCount == 2 * elementCount) else {
            throw .wrongElementCount(
                argument: "modelOutput", count: modelOutputCount,
                expected: "\(elementCount), like the sample\(modelLearnsVariance ? ", or twice as many" : "")")
        }
        if unconditional != nil, unconditionalCount != modelOutputCount {
            throw .wrongElementCount(
                argument: "unconditional", count: unconditionalCount, expected: "\(modelOutputCount), like conditional")
        }
        if noise != nil, noiseCount != elementCount {
            throw .wrongElementCount(argument: "noise", count: noiseCount, expected: "\(elementCount), like the sample")
        }
        guard batchSize == 1 || (batchSize > 1 && elementCount % batchSize == 0) else {
            throw .wrongElementCount(
                argument: "sample", count: elementCount, expected: "a multiple of the batch size \(batchSize)")
        }
    }

    /// Refuses a model output without a variance that a row needs.
    @inline(__always)
    func requireVariance(_ isNeeded: Bool) throws(SchedulerError) {
        guard isNeeded, modelOutputParts == 1 else { return }
        throw .wrongElementCount(
            argument: "modelOutput", count: modelOutputCount,
            expected: "\(2 * elementCount), twice those of the sample: the prediction and its variance")
    }

    /// One of `count` equal parts, which follow one another.
    func part(_ index: Int, of count: Int) -> StepTensors {
        let elements = elementCount / count, offset = index * elements * elementType.size
        let outputs = modelOutputCount / count, outputOffset = index * outputs * modelOutputType.size
        return StepTensors(
            elementType: elementType, elementCount: elements, sample: sample + offset, modelOutput: modelOutput + outputOffset,
            modelOutputType: modelOutputType, modelOutputCount: outputs, unconditional: unconditional.map { $0 + outputOffset },
            noise: noise.map { $0 + offset }, nextSample: nextSample + offset, report: report.map { $0 + offset },
            modelInput: modelInput.map { $0 + offset })
    }
}

// The generic parts are inlinable and only take addresses: unspecialised calls from another package's module would cost more than a
// small step.
extension StepTensors {
    /// An address for tensors without elements, which is never read.
    @usableFromInline static var nowhere: UnsafeMutableRawPointer { UnsafeMutableRawPointer(bitPattern: 64)! }

    /// Calls the body with spans' addresses, for a step in place.
    @inlinable
    @inline(__always)
    static func inPlace<Element: TensorElement, Output: TensorElement>(
        modelOutput: Span<Output>, unconditional: Span<Output>? = nil, sample: inout MutableSpan<Element>, noise: Span<Element>?,
        modelInput: UnsafeMutableRawPointer? = nil, _ body: (StepTensors) throws(SchedulerError) -> Void
    ) throws(SchedulerError) {
        let count = sample.count
        try sample.withUnsafeMutableBytes { (sample) throws(SchedulerError) in
            let address = sample.baseAddress ?? nowhere
            try body(
                StepTensors(
                    elementType: Element.elementType, elementCount: count, sample: UnsafeRawPointer(address),
                    modelOutput: Self.address(of: modelOutput), modelOutputType: Output.elementType,
                    modelOutputCount: modelOutput.count, unconditional: optionalAddress(of: unconditional),
                    unconditionalCount: unconditional?.count, noise: optionalAddress(of: noise), noiseCount: noise?.count,
                    nextSample: address, report: nil, modelInput: modelInput))
        }
    }

    /// The address of the first element, valid as long as the span.
    @inlinable
    @inline(__always)
    static func address<Element: TensorElement>(of span: Span<Element>) -> UnsafeRawPointer {
        span.withUnsafeBytes { $0.baseAddress } ?? UnsafeRawPointer(nowhere)
    }

    @inlinable
    @inline(__always)
    static func optionalAddress<Element: TensorElement>(of span: Span<Element>?) -> UnsafeRawPointer? {
        if let span { address(of: span) } else { nil }
    }
}

extension StepTensors {
    /// Calls `step` with the addresses of the arrays and of new arrays, and returns the new ones.
    static func newOutput<Element: TensorElement>(
        modelOutput: [Element], sample: [Element], noise: [Element]?, predictingOriginalSample: Bool,
        _ step: (StepTensors) throws(SchedulerError) -> Void
    ) throws(SchedulerError) -> SchedulerOutput<Element> {
        var failure: SchedulerError?
        func newArray(_ fill: (UnsafeMutableRawPointer) -> Void) -> [Element] {
            [Element](unsafeUninitializedCapacity: sample.count) { buffer, initializedCount in
                fill(buffer.baseAddress.map { UnsafeMutableRawPointer($0) } ?? nowhere)
                initializedCount = failure == nil ? sample.count : 0
            }
        }
        func fill(_ next: UnsafeMutableRawPointer, _ prediction: UnsafeMutableRawPointer?) {
            withAddresses(modelOutput, sample, noise ?? []) { outputAddress, sampleAddress, noiseAddress in
                do throws(SchedulerError) {
                    try step(
                        StepTensors(
                            elementType: Element.elementType, elementCount: sample.count, sample: sampleAddress,
                            modelOutput: outputAddress, modelOutputCount: modelOutput.count,
                            noise: noise == nil ? nil : noiseAddress, noiseCount: noise?.count, nextSample: next,
                            report: prediction))
                } catch {
                    failure = error
                }
            }
        }
        var prediction: [Element]?
        let next = newArray { next in
            if predictingOriginalSample {
                prediction = newArray { fill(next, $0) }
            } else {
                fill(next, nil)
            }
        }
        if let failure { throw failure }
        return SchedulerOutput(nextSample: next, predOriginalSample: prediction)
    }

    /// Calls the body with the addresses of three arrays' elements.
    @inline(__always)
    private static func withAddresses<Element: TensorElement>(
        _ first: [Element], _ second: [Element], _ third: [Element],
        _ body: (UnsafeRawPointer, UnsafeRawPointer, UnsafeRawPointer) -> Void
    ) {
        func address(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawPointer { bytes.baseAddress ?? UnsafeRawPointer(nowhere) }
        first.withUnsafeBytes { first in
            second.withUnsafeBytes { second in
                third.withUnsafeBytes { body(address(first), address(second), address($0)) }
            }
        }
    }
}
