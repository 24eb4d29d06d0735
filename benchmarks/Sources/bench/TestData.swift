// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The contents of tensors. A kernel may handle one kind well and another wrongly or slowly.
enum DataKind: String, CaseIterable, Codable {
    /// Approximately normal numbers.
    case random
    case constant
    /// Numbers rising from −3 to 3.
    case sorted
    /// Random numbers, with a few NaNs in the last eighth.
    case withNaN

    func fill<Element: BenchmarkElement>(_ tensor: Tensor<Element>, seed: UInt64) {
        let count = tensor.count
        nonisolated(unsafe) let elements = tensor.elements
        forRanges(of: count) { range in
            for i in range { elements[i] = Element(rounding: self.value(at: i, of: count, seed: seed)) }
        }
    }

    private func value(at index: Int, of count: Int, seed: UInt64) -> Double {
        switch self {
        case .random: return Self.normal(index, seed: seed)
        case .constant: return 0.625 + Double(seed) / 16
        case .sorted: return -3 + 6 * (Double(index) + 0.5) / Double(count)
        case .withNaN:
            let isNaN = index >= count - count / 8 && (UInt64(index) &+ seed) % 97 == 0
            return isNaN ? .nan : Self.normal(index, seed: seed)
        }
    }

    /// The sum of four uniform numbers, scaled to variance 1. Each element's bits come from its index, so threads can share the
    /// work.
    private static func normal(_ index: Int, seed: UInt64) -> Double {
        // SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
        var bits = (UInt64(index) &+ seed << 40) &* 0x9E37_79B9_7F4A_7C15
        bits = (bits ^ bits >> 30) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
        bits ^= bits >> 31
        var sum = 0.0
        for shift in stride(from: 0, through: 48, by: 16) { sum += Double(bits >> UInt64(shift) & 0xFFFF) + 0.5 }
        return (sum / 65536 - 2) * 3.0.squareRoot()
    }
}

/// Calls `body` for ranges that together cover 0..<count, on all processors.
func forRanges(of count: Int, _ body: @Sendable (Range<Int>) -> Void) {
    let rangeLength = 1 << 16
    DispatchQueue.concurrentPerform(iterations: (count + rangeLength - 1) / rangeLength) { index in
        body(index * rangeLength..<min((index + 1) * rangeLength, count))
    }
}
