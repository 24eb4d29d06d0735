// SPDX-License-Identifier: Apache-2.0

/// The numbers of `torch.randn` on a CPU, bit for bit.
///
/// `TorchCPUNoise(seed: s)` stands for `torch.Generator().manual_seed(s)`, and each fill for one
/// `torch.randn(count, generator: …)`, whatever the tensor's shape. As in torch, the method depends on the number of elements:
///
/// - Fewer than 16: Box and Muller's transform (1958, doi:10.1214/aoms/1177706645) in float64, one pair at a time: r cos 2πu and
///   r sin 2πu with r = √(−2 ln(1 − v)), rounded to float32. The second number of an unfinished pair is kept for the next
///   fill of fewer than 16.
/// - 16 and more: the same transform in float32 on blocks of 16 from 24-bit uniforms. If the count is not a multiple of 16, the
///   last 16 are computed again. These are the bits of torch's AVX2 code, which processors with AVX-512 also run; torch on other
///   processors has other last bits. Here they are the same on every processor.
///
/// Compared with torch 2.15: all 2²⁴ values of either uniform, mixed sequences of fills, and the state after each. For fewer than
/// 16 the bits depend on the system's float64 `log1p`, `sin` and `cos`, as they do in torch; where systems differ, at most one
/// float32 result in some 2²⁸ does, by one unit in the last place.
///
/// Seeds that agree in their low 32 bits give the same numbers, as in torch.
///
/// - Complexity: O(count); about 1 ms for a million numbers on one thread. One thread makes the draws; the transform is shared.
public struct TorchCPUNoise: NormalSource {
    private var generator: NormalGenerator

    /// The source that `torch.manual_seed(seed)` makes.
    public init(seed: UInt64) {
        generator = NormalGenerator(seed: UInt32(truncatingIfNeeded: seed))
    }

    /// Continues from a saved state.
    public init(state: MersenneTwisterState) {
        generator = NormalGenerator(state)
    }

    /// The source's place in its sequence.
    public var state: MersenneTwisterState { generator.state }

    public mutating func fill(_ values: inout MutableSpan<Float>) { fill(&values, maximumThreads: 0) }

    /// Overwrites `values` with the next numbers of ``TorchCPUNoise``.
    ///
    /// - Parameters:
    ///   - values: the memory to fill.
    ///   - maximumThreads: 0: as many as the OpenMP runtime would use; 1: stay on the caller's thread. The numbers don't depend on it.
    public mutating func fill(_ values: inout MutableSpan<Float>, maximumThreads: Int) {
        makeUnique()
        generator.fillAsTorch(&values, maximumThreads: maximumThreads)
    }

    /// Overwrites `values` with the next numbers of `torch.randn(count, dtype=torch.float64)`: the pairs of ``TorchCPUNoise`` in
    /// float64, with the system's `log`, `sin` and `cos`, as in torch.
    public mutating func fill(_ values: inout MutableSpan<Double>, maximumThreads: Int = 0) {
        makeUnique()
        generator.fillAsTorch(&values, maximumThreads: maximumThreads)
    }

    /// The next `count` numbers of `torch.randn(count, dtype=torch.float64)`: the pairs of ``TorchCPUNoise`` in float64.
    public mutating func doubleNormals(_ count: Int) -> [Double] {
        var values = [Double](repeating: 0, count: count)
        var span = values.mutableSpan
        fill(&span)
        return values
    }

    private mutating func makeUnique() {
        if !isKnownUniquelyReferenced(&generator) { generator = generator.copy() }
    }
}

extension TorchCPUNoise: Equatable {
    public static func == (left: TorchCPUNoise, right: TorchCPUNoise) -> Bool { left.state == right.state }
}

extension TorchCPUNoise: Codable {
    /// Reads the source's ``state`` from a decoder.
    ///
    /// - Throws: the decoder's errors; `DecodingError` and `invalidValue` for a value that isn't a ``MersenneTwisterState``.
    public init(from decoder: any Decoder) throws { try self.init(state: MersenneTwisterState(from: decoder)) }

    /// Writes the source's ``state`` to an encoder.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws { try state.encode(to: encoder) }
}
