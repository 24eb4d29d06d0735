// SPDX-License-Identifier: Apache-2.0

/// A seeded source of standard normal numbers: mean 0, variance 1, independent of one another.
///
/// ```swift
/// var noise: any NormalSource = TorchCPUNoise(seed: 42)
/// var sample = noise.normals(4 * 64 * 64)
/// for _ in 0..<plan.stepCount {
///     try session.step(modelOutput: model(sample), sample: &sample, noise: noise.normals(sample.count))
/// }
/// ```
///
/// The sources of this library agree with the generators of torch and NumPy seed by seed and call by call, so that pictures can
/// be compared across engines. What they give depends on how the numbers are asked for, as it does there: two fills of 8 are not
/// one fill of 16.
///
/// | source | agrees with | how well |
/// |---|---|---|
/// | ``TorchCPUNoise`` | `torch.randn` on a CPU | every bit |
/// | ``TorchCUDANoise`` | `torch.randn` on CUDA | the integers exactly, the normals to 2⁻²⁰ of their radius |
/// | ``NumPyNoise`` | `numpy.random.RandomState.standard_normal` | every bit |
///
/// A source is a value: a copy goes its own way from there and gives the same numbers. Saving it (all are `Codable`) saves its
/// place in the sequence. Different sources may be filled from on different threads at once.
public protocol NormalSource: Sendable {
    /// Overwrites `values` with the next numbers.
    mutating func fill(_ values: inout MutableSpan<Float>)
}

extension NormalSource {
    /// Overwrites `values` with the next numbers.
    public mutating func fill(_ values: inout [Float]) {
        var span = values.mutableSpan
        fill(&span)
    }

    /// The next `count` numbers.
    ///
    /// - Precondition: `count` ≥ 0.
    public mutating func normals(_ count: Int) -> [Float] {
        var values = [Float](repeating: 0, count: count)
        fill(&values)
        return values
    }
}
