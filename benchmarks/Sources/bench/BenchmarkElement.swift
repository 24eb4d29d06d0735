// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import CKernels
import DiffusionScheduling

/// An element type of the benchmarks: conversion to and from `Double`, and its unit in the last place.
protocol BenchmarkElement: TensorElement {
    /// The nearest number of this type.
    init(rounding value: Double)
    var widened: Double { get }

    static var kernelType: dsk_element_type { get }
    /// The type for loops by hand; nil if there are none.
    static var handType: hand_type? { get }
    /// The bits after the leading one.
    static var fractionBits: Int { get }
    /// The exponent of the least normal number.
    static var leastExponent: Int { get }
}

extension BenchmarkElement {
    /// The distance between neighbouring numbers of this type at a magnitude.
    static func unitInLastPlace(at magnitude: Double) -> Double {
        let exponent = magnitude > 0 && magnitude.isFinite ? max(Int(magnitude.exponent), leastExponent) : leastExponent
        return Double(sign: .plus, exponent: exponent - fractionBits, significand: 1)
    }
}

extension BenchmarkElement where Self: BinaryFloatingPoint {
    init(rounding value: Double) { self.init(value) }
    var widened: Double { Double(self) }
    static var fractionBits: Int { significandBitCount }
    static var leastExponent: Int { Int(leastNormalMagnitude.exponent) }
}

extension Float: BenchmarkElement {
    static var kernelType: dsk_element_type { DSK_FLOAT32 }
    static var handType: hand_type? { HAND_FLOAT32 }
}

extension Double: BenchmarkElement {
    static var kernelType: dsk_element_type { DSK_FLOAT64 }
    static var handType: hand_type? { nil }
}

// Swift lacks Float16 on Macs with Intel processors.
#if !(os(macOS) && arch(x86_64))
    extension Float16: BenchmarkElement {
        static var kernelType: dsk_element_type { DSK_FLOAT16 }
        static var handType: hand_type? { HAND_FLOAT16 }
    }
#endif

extension BFloat16: BenchmarkElement {
    /// Rounded once: `Float` keeps the bits that it drops as an odd last bit, so no new tie arises.
    init(rounding value: Double) {
        var narrow = Float(value)
        if Double(narrow) != value, narrow.isFinite {
            // Rounding to odd (Boldo and Melquiond 2008, doi:10.1109/TC.2007.70819): truncated, and the last bit set.
            if abs(Double(narrow)) > abs(value) { narrow = Float(bitPattern: narrow.bitPattern - 1) }
            narrow = Float(bitPattern: narrow.bitPattern | 1)
        }
        self.init(narrow)
    }
    var widened: Double { Double(Float(self)) }
    static var kernelType: dsk_element_type { DSK_BFLOAT16 }
    static var handType: hand_type? { HAND_BFLOAT16 }
    static var fractionBits: Int { 7 }
    static var leastExponent: Int { -126 }
}
