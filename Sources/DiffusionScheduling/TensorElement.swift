// SPDX-License-Identifier: Apache-2.0

/// An element type that schedulers can step: `Float`, `Double`, `Float16` or ``BFloat16``.
///
/// The arithmetic is done in a wider type: half elements are summed in `Float`, the others in `Double`. Each result is rounded
/// once to the element type.
public protocol TensorElement: BitwiseCopyable, Sendable, Equatable {
    /// The type's name in plans, sessions and kernels.
    static var elementType: ElementType { get }
}

/// The names of the element types.
public enum ElementType: String, Sendable, Codable, CaseIterable {
    /// IEEE 754's binary32: 8 bits of exponent, 23 of fraction.
    case float32
    /// IEEE 754's binary64: 11 bits of exponent, 52 of fraction.
    case float64
    /// IEEE 754's binary16: 5 bits of exponent, 10 of fraction.
    case float16
    /// The upper half of a `Float`: 8 bits of exponent, 7 of fraction.
    case bfloat16

    /// Bytes of one element.
    public var size: Int {
        switch self {
        case .float32: 4
        case .float64: 8
        case .float16, .bfloat16: 2
        }
    }
}

extension Float: TensorElement {
    public static var elementType: ElementType { .float32 }
}

extension Double: TensorElement {
    public static var elementType: ElementType { .float64 }
}

// Swift has no Float16 for Macs with Intel processors.
#if !(os(macOS) && arch(x86_64))
    extension Float16: TensorElement {
        public static var elementType: ElementType { .float16 }
    }
#endif

/// A number in bfloat16, the upper half of a `Float`: its range, with 8 significant bits.
///
/// For storage and exchange: it converts and has no arithmetic.
public struct BFloat16: TensorElement, CustomStringConvertible {
    public static var elementType: ElementType { .bfloat16 }

    /// The upper 16 bits of the `Float` of the same value.
    public var bitPattern: UInt16

    /// The number of a bit pattern.
    public init(bitPattern: UInt16) { self.bitPattern = bitPattern }

    /// Rounds to the nearest number, ties to even; too large numbers become infinite. A NaN stays a NaN and becomes quiet.
    public init(_ value: Float) {
        let bits = value.bitPattern
        if value.isNaN {
            bitPattern = UInt16(bits >> 16) | 0x40
        } else {
            // The addend is half a unit of the upper half, less one bit if that is even. It carries exactly if the upper half must
            // grow.
            bitPattern = UInt16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)
        }
    }

    /// Equality of the numbers: a NaN equals nothing, and zero equals -0.
    public static func == (a: BFloat16, b: BFloat16) -> Bool { Float(a) == Float(b) }

    public var description: String { Float(self).description }
}

extension Float {
    /// The value of a bfloat16 number, exactly.
    public init(_ value: BFloat16) { self.init(bitPattern: UInt32(value.bitPattern) << 16) }
}
