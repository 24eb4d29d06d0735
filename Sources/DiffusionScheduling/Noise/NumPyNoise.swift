// SPDX-License-Identifier: Apache-2.0

/// The numbers of `numpy.random.RandomState.standard_normal`, bit for bit.
///
/// `NumPyNoise(seed: s)` corresponds to `numpy.random.RandomState(s)`, and to `numpy.random.seed(s)` followed by
/// `numpy.random.randn`; each fill corresponds to one `standard_normal(count)`. (`numpy.random.default_rng` is another generator.)
///
/// The polar method (Marsaglia & Bray 1964, doi:10.1137/1006063) in float64: with x and y uniform in [−1, 1), drawn again until
/// 0 < s < 1 for s = x² + y², the pair is √(−2 ln s / s) · (y, x). The second number of an unfinished pair is kept for the next
/// fill, so that, unlike with torch, two fills of 8 are one fill of 16. A `Float` is the rounded `Double`, as in
/// `torch.from_numpy(…).float()`.
///
/// Compared with NumPy 2.4 on x86-64, the state after each fill included. The bits of a `Double` depend on the system's `log`, as
/// in NumPy; the bits of a `Float` do in about one case of 2²⁸.
///
/// - Complexity: O(count) on the caller's thread, about 15 ms for a million numbers. The number of draws per number varies, so the
///   work can't be shared.
public struct NumPyNoise: NormalSource {
    private var generator: NormalGenerator

    /// The source that `numpy.random.RandomState(seed)` is.
    public init(seed: UInt32) {
        generator = NormalGenerator(seed: seed)
    }

    /// Continues from a saved state, such as `RandomState.get_state()`.
    public init(state: MersenneTwisterState) {
        generator = NormalGenerator(state)
    }

    /// The source's place in its sequence.
    public var state: MersenneTwisterState { generator.state }

    public mutating func fill(_ values: inout MutableSpan<Float>) {
        makeUnique()
        generator.fillAsNumPy(&values)
    }

    /// Overwrites `values` with the next numbers of ``NumPyNoise``, not rounded to float32.
    public mutating func fill(_ values: inout MutableSpan<Double>) {
        makeUnique()
        generator.fillAsNumPy(&values)
    }

    /// The next `count` numbers of ``NumPyNoise``, not rounded to float32.
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

extension NumPyNoise: Equatable {
    public static func == (left: NumPyNoise, right: NumPyNoise) -> Bool { left.state == right.state }
}

extension NumPyNoise: Codable {
    /// Reads the source's ``state`` from a decoder.
    ///
    /// - Throws: the decoder's errors; `DecodingError` and `invalidValue` for a value that isn't a ``MersenneTwisterState``.
    public init(from decoder: any Decoder) throws { try self.init(state: MersenneTwisterState(from: decoder)) }

    /// Writes the source's ``state`` to an encoder.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws { try state.encode(to: encoder) }
}
