/// The tensors of one step: addresses of `elementCount` elements each.
package struct StepTensors {
    /// Of all tensors but the model output.
    let elementType: ElementType
    let elementCount: Int
    let sample: UnsafeRawPointer
    let modelOutput: UnsafeRawPointer
    let modelOutputType: ElementType
    /// The parts of `elementCount` elements that the model output has; the first of each batch item's counts.
    let modelOutputParts: Int
    /// The model output without the condition, like the model output; for guided steps only.
    let unconditional: UnsafeRawPointer?
    let noise: UnsafeRawPointer?
    let nextSample: UnsafeMutableRawPointer
    let prediction: UnsafeMutableRawPointer?

    package init(
        elementType: ElementType, elementCount: Int, sample: UnsafeRawPointer, modelOutput: UnsafeRawPointer,
        modelOutputType: ElementType? = nil, modelOutputParts: Int = 1, unconditional: UnsafeRawPointer? = nil, noise: UnsafeRawPointer?,
        nextSample: UnsafeMutableRawPointer, prediction: UnsafeMutableRawPointer?
    ) {
        self.elementType = elementType
        self.elementCount = elementCount
        self.sample = sample
        self.modelOutput = modelOutput
        self.modelOutputType = modelOutputType ?? elementType
        self.modelOutputParts = modelOutputParts
        self.unconditional = unconditional
        self.noise = noise
        self.nextSample = nextSample
        self.prediction = prediction
    }

    /// Everything that can be wrong with a step's tensors.
    static func check(
        sampleCount: Int, modelOutputCount: Int, unconditionalCount: Int? = nil, noiseCount: Int?, batchSize: Int,
        modelLearnsVariance: Bool
    ) throws(SchedulerError) {
        guard modelOutputCount == sampleCount || (modelLearnsVariance && modelOutputCount == 2 * sampleCount) else {
            throw .wrongElementCount(
                argument: "modelOutput", count: modelOutputCount,
                expected: "\(sampleCount), as the sample\(modelLearnsVariance ? ", or twice as many" : "")")
        }
        if let unconditionalCount, unconditionalCount != modelOutputCount {
            throw .wrongElementCount(
                argument: "unconditional", count: unconditionalCount, expected: "\(modelOutputCount), as the conditional output")
        }
        if let noiseCount, noiseCount != sampleCount {
            throw .wrongElementCount(argument: "noise", count: noiseCount, expected: "\(sampleCount), as the sample")
        }
        guard batchSize >= 1, sampleCount % batchSize == 0 else {
            throw .wrongElementCount(
                argument: "sample", count: sampleCount, expected: "a multiple of the batch size \(batchSize)")
        }
    }

    /// Calls `body` with checked spans' addresses, for a step in place; not at all for an empty sample, which has none.
    static func inPlace<Element: TensorElement, Output: TensorElement>(
        modelOutput: Span<Output>, unconditional: Span<Output>? = nil, sample: inout MutableSpan<Element>, noise: Span<Element>?,
        _ body: (StepTensors) -> Void
    ) {
        let count = sample.count
        let parts = modelOutput.count > count ? 2 : 1
        sample.withUnsafeMutableBytes { sample in
            modelOutput.withUnsafeBytes { modelOutput in
                withAddress(of: unconditional) { unconditional in
                    withAddress(of: noise) { noise in
                        guard let sample = sample.baseAddress, let modelOutput = modelOutput.baseAddress else { return }
                        body(
                            StepTensors(
                                elementType: Element.elementType, elementCount: count, sample: UnsafeRawPointer(sample),
                                modelOutput: modelOutput, modelOutputType: Output.elementType, modelOutputParts: parts,
                                unconditional: unconditional, noise: noise, nextSample: sample, prediction: nil))
                    }
                }
            }
        }
    }

    @inline(__always)
    private static func withAddress<Element: TensorElement>(
        of span: Span<Element>?, _ body: (UnsafeRawPointer?) -> Void
    ) {
        if let span {
            span.withUnsafeBytes { body($0.baseAddress) }
        } else {
            body(nil)
        }
    }

    /// Calls `body` with checked arrays' addresses and those of new arrays, which are returned.
    static func returning<Element: TensorElement>(
        modelOutput: [Element], sample: [Element], noise: [Element]?, predictingOriginalSample: Bool,
        _ body: (StepTensors) -> Void
    ) -> SchedulerOutput<Element> {
        let count = sample.count, parts = modelOutput.count > count ? 2 : 1
        func newArray(_ fill: (UnsafeMutableRawPointer?) -> Void) -> [Element] {
            [Element](unsafeUninitializedCapacity: count) { buffer, initializedCount in
                fill(UnsafeMutableRawPointer(buffer.baseAddress))
                initializedCount = count
            }
        }
        var prediction: [Element]?
        let next = newArray { nextSample in
            func call(prediction: UnsafeMutableRawPointer?) {
                sample.withUnsafeBytes { sample in
                    modelOutput.withUnsafeBytes { modelOutput in
                        (noise ?? []).withUnsafeBytes { noiseBytes in
                            guard count > 0, let sample = sample.baseAddress, let modelOutput = modelOutput.baseAddress,
                                let nextSample
                            else { return }
                            body(
                                StepTensors(
                                    elementType: Element.elementType, elementCount: count, sample: sample,
                                    modelOutput: modelOutput, modelOutputType: Element.elementType, modelOutputParts: parts,
                                    noise: noise == nil ? nil : noiseBytes.baseAddress, nextSample: nextSample,
                                    prediction: prediction))
                        }
                    }
                }
            }
            if predictingOriginalSample {
                prediction = newArray { call(prediction: $0) }
            } else {
                call(prediction: nil)
            }
        }
        return SchedulerOutput(prevSample: next, predOriginalSample: prediction)
    }
}
