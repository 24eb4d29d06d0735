import DiffusionScheduling

/// The tensors that the steps of one case are given, at one size.
final class StepData<Element: BenchmarkElement> {
    let start: Tensor<Element>
    /// Steps have model outputs of their own, one after the other and over again: parts of one tensor, a few lines from each other,
    /// so that they take no more of the caches than one. Their number is a power of two.
    let modelOutputs: [UnsafeBufferPointer<Element>]
    private let outputs: Tensor<Element>
    let noise: Tensor<Element>?

    let count: Int

    init(count: Int, isStochastic: Bool, misalignment: Int) {
        self.count = count
        start = Tensor(count: count, misalignment: misalignment)
        let outputCount = 4, offset = 64
        let outputs = Tensor<Element>(count: count + (outputCount - 1) * offset, misalignment: misalignment)
        self.outputs = outputs
        modelOutputs = (0..<outputCount).map { index in
            UnsafeBufferPointer(rebasing: outputs.elements[index * offset..<index * offset + count])
        }
        noise = isStochastic ? Tensor(count: count, misalignment: misalignment) : nil
    }

    func fill(with kind: DataKind) {
        kind.fill(start, seed: 1)
        kind.fill(outputs, seed: 2)
        if let noise { kind.fill(noise, seed: 3) }
    }

    func modelOutput(step: Int) -> UnsafeBufferPointer<Element> {
        modelOutputs[step & (modelOutputs.count - 1)]
    }

    /// The noise of every step.
    var noiseElements: UnsafeBufferPointer<Element>? { noise.map { UnsafeBufferPointer($0.elements) } }
}
