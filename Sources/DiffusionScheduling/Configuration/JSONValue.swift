// SPDX-License-Identifier: Apache-2.0

/// A JSON value as diffusers writes it: strict JSON, and the bare `Infinity`, `-Infinity` and `NaN` of Python's writer.
///
/// Numbers keep their spelling, so that reading and writing a file leaves them unchanged.
public enum JSONValue: Sendable, Equatable {
    /// `null`.
    case null
    /// `true` or `false`.
    case bool(Bool)
    /// A number, as it is spelt.
    case number(literal: String)
    /// A string, without its quotation marks and escapes.
    case string(String)
    /// The elements of an array.
    case array([JSONValue])
    /// The members of an object; of two with one name, the last.
    case object([String: JSONValue])
}

extension JSONValue: ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByStringLiteral, ExpressibleByNilLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(integerLiteral value: Int) { self = .number(literal: String(value)) }
    public init(floatLiteral value: Double) { self.init(value) }
    public init(stringLiteral value: String) { self = .string(value) }
    public init(nilLiteral: ()) { self = .null }
    public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    public init(dictionaryLiteral elements: (String, JSONValue)...) {
        self = .object(Dictionary(elements) { _, last in last })
    }

    /// A number spelt as Python spells it.
    public init(_ value: Double) {
        if value.isNaN {
            self = .number(literal: "NaN")
        } else if value.isInfinite {
            self = .number(literal: value < 0 ? "-Infinity" : "Infinity")
        } else {
            self = .number(literal: value.description)
        }
    }

    /// A whole number.
    public init(_ value: Int) { self = .number(literal: String(value)) }

    /// A member of an object; nil where there is none.
    public subscript(key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members[key]
    }

    /// Numbers are equal if their values are, as in Python.
    public static func == (a: JSONValue, b: JSONValue) -> Bool {
        switch (a, b) {
        case (.null, .null): true
        case (.bool(let a), .bool(let b)): a == b
        case (.number(let first), .number(let second)): first == second || a.isSameNumber(as: b)
        case (.string(let a), .string(let b)): a == b
        case (.array(let a), .array(let b)): a == b
        case (.object(let a), .object(let b)): a == b
        default: false
        }
    }

    /// Whether both are numbers of the same value, or lists of such numbers, in any spelling.
    func isSameNumber(as other: JSONValue?) -> Bool {
        switch (self, other) {
        case (.number(let a), .number(let b)?):
            guard let x = Double(a), let y = Double(b) else { return false }
            return x == y
        case (.array(let a), .array(let b)?): return a.count == b.count && zip(a, b).allSatisfy { $0.isSameNumber(as: $1) }
        default: return false
        }
    }

    /// The value if this is an integer; 20.0 isn't one, as in Python.
    public var intValue: Int? {
        guard case .number(let literal) = self else { return nil }
        return Int(literal)
    }

    /// The value if this is a number. The strings "Infinity", "-Infinity" and "NaN" count, for writers that have no bare ones.
    public var doubleValue: Double? {
        switch self {
        case .number(let literal), .string(let literal):
            switch literal {
            case "Infinity": return .infinity
            case "-Infinity": return -.infinity
            case "NaN": return .nan
            default: if case .number = self { return Double(literal) } else { return nil }
            }
        default: return nil
        }
    }
}

// MARK: - Writing

extension JSONValue {
    /// The value as text: keys sorted, two spaces of indentation, as diffusers writes `scheduler_config.json`.
    public var text: String {
        var text = ""
        write(to: &text, indentation: 0)
        return text
    }

    private func write(to text: inout String, indentation: Int) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .number(let literal): text += literal
        case .string(let value): Self.write(value, to: &text)
        case .array(let values):
            Self.write(values, between: ("[", "]"), to: &text, indentation: indentation) { value, text in
                value.write(to: &text, indentation: indentation + 1)
            }
        case .object(let members):
            let sorted = members.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            Self.write(sorted, between: ("{", "}"), to: &text, indentation: indentation) { member, text in
                Self.write(member.key, to: &text)
                text += ": "
                member.value.write(to: &text, indentation: indentation + 1)
            }
        }
    }

    private static func write<Element>(
        _ elements: [Element], between brackets: (String, String), to text: inout String, indentation: Int,
        _ writeElement: (Element, inout String) -> Void
    ) {
        text += brackets.0
        for (index, element) in elements.enumerated() {
            text += (index == 0 ? "\n" : ",\n") + String(repeating: "  ", count: indentation + 1)
            writeElement(element, &text)
        }
        if !elements.isEmpty { text += "\n" + String(repeating: "  ", count: indentation) }
        text += brackets.1
    }

    private static func write(_ string: String, to text: inout String) {
        text += "\""
        for unit in string.utf16 {
            switch unit {
            case 0x22: text += "\\\""
            case 0x5C: text += "\\\\"
            case 0x08: text += "\\b"
            case 0x0C: text += "\\f"
            case 0x0A: text += "\\n"
            case 0x0D: text += "\\r"
            case 0x09: text += "\\t"
            case 0x20..<0x7F: text.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
            default:
                // Python's writer escapes everything outside ASCII.
                let digits = String(unit, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }
        }
        text += "\""
    }
}

// MARK: - Codable

extension JSONValue: Codable {
    /// Reads a value from a decoder. The strings "Infinity", "-Infinity" and "NaN" become numbers.
    ///
    /// - Throws: the decoder's errors; `DecodingError` for a value that JSON doesn't have.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int.self) {
            self = .number(literal: String(value))
        } else if let value = try? container.decode(Double.self) {
            self.init(value)
        } else if let value = try? container.decode(String.self) {
            // Strict encoders have no other spelling for these numbers (see `encode`).
            self = ["Infinity", "-Infinity", "NaN"].contains(value) ? .number(literal: value) : .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// Writes the value to an encoder. Infinities and NaN become strings, because strict encoders have no numbers for them.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .number(let literal):
            if let value = Int(literal) {
                try container.encode(value)
            } else if let value = Double(literal), value.isFinite {
                try container.encode(value)
            } else {
                try container.encode(literal)  // Infinity and NaN have no spelling in strict encoders
            }
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}
