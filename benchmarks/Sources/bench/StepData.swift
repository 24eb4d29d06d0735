// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// The input tensors of one case's steps, at one size.
final class StepData<Element: BenchmarkElement, Output: BenchmarkElement> {
    let start: Tensor<Element>
    /// Steps cycle through several model outputs, a power of two in number. They are parts of one tensor, a few lines from each
    /// other, so they take no more of the caches than one.
    let modelOutputs: [UnsafeBufferPointer<Output>]
    /// The unconditional outputs of guided steps; otherwise none.
    let unconditional: [UnsafeBufferPointer<Output>]
    private let outputs: Tensor<Output>
    private let unconditionalOutputs: Tensor<Output>?
    let noise: Tensor<Element>?

    let count: Int

    init(_ stepCase: StepCase, count: Int, misalignment: Int) {
        self.count = count
        start = Tensor(count: count, misalignment: misalignment)
        let outputCount = 4, offset = 64
        func tensor() -> Tensor<Output> { Tensor(count: count + (outputCount - 1) * offset, misalignment: misalignment) }
        func parts(_ tensor: Tensor<Output>) -> [UnsafeBufferPointer<Output>] {
            (0..<outputCount).map { UnsafeBufferPointer(rebasing: tensor.elements[$0 * offset..<$0 * offset + count]) }
        }
        outputs = tensor()
        modelOutputs = parts(outputs)
        unconditionalOutputs = stepCase.guidance == nil ? nil : tensor()
        unconditional = unconditionalOutputs.map(parts) ?? []
        noise = stepCase.isStochastic ? Tensor(count: count, misalignment: misalignment) : nil
    }

    func fill(with kind: DataKind) {
        kind.fill(start, seed: 1)
        kind.fill(outputs, seed: 2)
        if let noise { kind.fill(noise, seed: 3) }
        if let unconditionalOutputs { kind.fill(unconditionalOutputs, seed: 4) }
    }

    func modelOutput(step: Int) -> UnsafeBufferPointer<Output> {
        modelOutputs[step & (modelOutputs.count - 1)]
    }

    func unconditional(step: Int) -> UnsafeBufferPointer<Output>? {
        unconditional.isEmpty ? nil : unconditional[step & (unconditional.count - 1)]
    }

    /// The noise of every step.
    var noiseElements: UnsafeBufferPointer<Element>? { noise.map { UnsafeBufferPointer($0.elements) } }
}
