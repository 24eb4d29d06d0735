// SPDX-License-Identifier: Apache-2.0

/// A seeded source of standard normal numbers: mean 0, variance 1, independent of one another. Their density is
/// φ(x) = e^{−x²/2}/√(2π).
///
/// ```swift
/// var noise: any NormalSource = TorchCPUNoise(seed: 42)
/// var sample = noise.normals(4 * 64 * 64)
/// for _ in 0..<plan.stepCount {
///     try session.step(modelOutput: model(sample), sample: &sample, noise: noise.normals(sample.count))
/// }
/// ```
///
/// The sources of this library match torch's and NumPy's generators for the same seeds and calls, so that pictures can be compared
/// across engines. As in torch and NumPy, the numbers depend on the calls: in general, two fills of 8 differ from one fill of 16.
///
/// | source | agrees with | how well |
/// |---|---|---|
/// | ``TorchCPUNoise`` | `torch.randn` on a CPU | every bit |
/// | ``TorchCUDANoise`` | `torch.randn` on CUDA | the integers exactly, the normals to 2⁻²⁰ of their radius |
/// | ``NumPyNoise`` | `numpy.random.RandomState.standard_normal` | every bit |
///
/// A source is a value: a copy is independent and gives the same numbers. Encoding it (all are `Codable`) saves its place in the
/// sequence. Different threads may use different sources at once.
public protocol NormalSource: Sendable {
    /// Overwrites `values` with the next numbers of the ``NormalSource``.
    mutating func fill(_ values: inout MutableSpan<Float>)
}

extension NormalSource {
    /// Overwrites `values` with the next numbers of the ``NormalSource``.
    public mutating func fill(_ values: inout [Float]) {
        var span = values.mutableSpan
        fill(&span)
    }

    /// The next `count` numbers of the ``NormalSource``.
    ///
    /// - Precondition: `count` ≥ 0.
    public mutating func normals(_ count: Int) -> [Float] {
        var values = [Float](repeating: 0, count: count)
        fill(&values)
        return values
    }
}
