/// An element type that schedulers can step: `Float` or `Double`.
///
/// The arithmetic is done in the element type; coefficients are rounded to it once.
public protocol TensorElement: BitwiseCopyable, Sendable, Equatable {
    /// How plans, sessions and kernels name the type.
    static var elementType: ElementType { get }
}

/// The names of the element types.
public enum ElementType: String, Sendable, Codable {
    case float32, float64

    /// Bytes of one element.
    public var size: Int {
        switch self {
        case .float32: 4
        case .float64: 8
        }
    }
}

extension Float: TensorElement {
    public static var elementType: ElementType { .float32 }
}

extension Double: TensorElement {
    public static var elementType: ElementType { .float64 }
}
