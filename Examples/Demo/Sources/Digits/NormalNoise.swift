// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A seeded source of standard normal numbers.
///
/// SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195) makes uniform numbers; Box and Muller's method (1958,
/// doi:10.1214/aoms/1177706645) makes normal ones from them.
public struct NormalNoise {
    private var state: UInt64
    private var spare: Double?

    /// `stream` selects one of many independent sequences of a seed.
    public init(seed: UInt64, stream: UInt64 = 0) {
        // Seed and stream are scrambled apart, so seed 1 with stream 0 differs from seed 0 with stream 1.
        state = Self.scramble(seed) &+ Self.scramble(~stream)
    }

    /// `[row, column]`: row r depends only on the seed and r, so more rows leave the first ones unchanged.
    public static func matrix(rows: Int, columns: Int, seed: UInt64) -> Matrix<Float> {
        var elements: [Float] = []
        elements.reserveCapacity(rows * columns)
        for row in 0..<rows {
            var noise = NormalNoise(seed: seed, stream: UInt64(row))
            for _ in 0..<columns { elements.append(Float(noise.normal())) }
        }
        return Matrix(rows: rows, columns: columns, elements: elements)
    }

    /// Uniform in (0, 1].
    mutating func uniform() -> Double {
        state &+= 0x9e37_79b9_7f4a_7c15
        return Double((Self.scramble(state) >> 11) + 1) * 0x1p-53
    }

    mutating func normal() -> Double {
        if let normal = spare {
            spare = nil
            return normal
        }
        let radius = (-2 * log(uniform())).squareRoot()
        let angle = 2 * Double.pi * uniform()
        spare = radius * sin(angle)
        return radius * cos(angle)
    }

    /// SplitMix64's output function.
    private static func scramble(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
