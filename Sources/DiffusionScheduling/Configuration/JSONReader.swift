// SPDX-License-Identifier: Apache-2.0

/// Reads untrusted JSON text: recursion is limited, and every error has its line and column.
///
/// The project has its own reader because Foundation's takes no bare `-Infinity` unless it also takes comments and other
/// relaxations, turns every number into a `Double`, and would be the only thing that ties the library to Foundation.
struct JSONReader {
    private let bytes: [UInt8]
    private var position = 0
    private var valueCount = 0

    static func read(_ bytes: [UInt8]) throws(SchedulerError) -> JSONValue {
        var reader = JSONReader(bytes: bytes)
        if bytes.count > Limits.configurationByteCount {
            throw reader.fault("more than \(Limits.configurationByteCount) bytes")
        }
        reader.skipByteOrderMark()
        let value = try reader.readValue(depth: 0)
        reader.skipSpace()
        if reader.position < bytes.count { throw reader.fault("text after the end of the value") }
        return value
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    private mutating func readValue(depth: Int) throws(SchedulerError) -> JSONValue {
        if depth > Limits.nesting { throw fault("nested deeper than \(Limits.nesting) levels") }
        skipSpace()
        valueCount += 1
        if valueCount > Limits.valueCount { throw fault("more than \(Limits.valueCount) values") }
        guard let byte = current else { throw fault("the text ends, but a value was expected") }
        switch byte {
        case UInt8(ascii: "{"): return try readObject(depth: depth)
        case UInt8(ascii: "["): return try readArray(depth: depth)
        case UInt8(ascii: "\""): return .string(try readString())
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try readNumber()
        default:
            for (word, value) in Self.words where take(word) { return value }
            throw fault("this is not a JSON value")
        }
    }

    private static let words: [(StaticString, JSONValue)] = [
        ("true", .bool(true)), ("false", .bool(false)), ("null", .null),
        ("Infinity", .number(literal: "Infinity")), ("NaN", .number(literal: "NaN")),
    ]

    private mutating func readObject(depth: Int) throws(SchedulerError) -> JSONValue {
        var members: [String: JSONValue] = [:]
        position += 1
        skipSpace()
        if take("}") { return .object(members) }
        while true {
            skipSpace()
            guard current == UInt8(ascii: "\"") else { throw fault("a key in quotation marks was expected") }
            let key = try readString()
            skipSpace()
            guard take(":") else { throw fault("a colon was expected after the key \"\(key.quoted)\"") }
            members[key] = try readValue(depth: depth + 1)  // the last of equal keys counts, as in Python
            skipSpace()
            if take("}") { return .object(members) }
            guard take(",") else { throw fault("a comma or } was expected") }
        }
    }

    private mutating func readArray(depth: Int) throws(SchedulerError) -> JSONValue {
        var values: [JSONValue] = []
        position += 1
        skipSpace()
        if take("]") { return .array(values) }
        while true {
            values.append(try readValue(depth: depth + 1))
            skipSpace()
            if take("]") { return .array(values) }
            guard take(",") else { throw fault("a comma or ] was expected") }
        }
    }

    private mutating func readNumber() throws(SchedulerError) -> JSONValue {
        let start = position
        if take("-"), take("Infinity") { return .number(literal: "-Infinity") }
        let integerStart = position
        guard skipDigits() else { throw fault("a digit was expected") }
        if position - integerStart > 1, bytes[integerStart] == UInt8(ascii: "0") {
            throw fault("a number of several digits may not begin with 0")
        }
        if take("."), !skipDigits() { throw fault("a digit was expected after the point") }
        if take("e") || take("E") {
            _ = take("+") || take("-")
            if !skipDigits() { throw fault("a digit was expected in the exponent") }
        }
        if position - start > Limits.numberLength { throw fault("a number of more than \(Limits.numberLength) characters") }
        return .number(literal: String(decoding: bytes[start..<position], as: UTF8.self))
    }

    private mutating func readString() throws(SchedulerError) -> String {
        var units: [UInt8] = []
        position += 1
        while let byte = current {
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: units, as: UTF8.self) else { throw fault("the string is not UTF-8") }
                return string
            case UInt8(ascii: "\\"): units += Array(String(try readEscape()).utf8)
            case 0..<0x20: throw fault("a control character in a string must be escaped")
            default: units.append(byte)
            }
        }
        throw fault("the text ends within a string")
    }

    private mutating func readEscape() throws(SchedulerError) -> Unicode.Scalar {
        guard let byte = current else { throw fault("the text ends within a string") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(byte)
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            let unit = try readHexadecimal()
            if let scalar = Unicode.Scalar(unit) { return scalar }
            guard UTF16.isLeadSurrogate(UInt16(unit)), take("\\u") else { throw fault("a surrogate without its other half") }
            let trail = try readHexadecimal()
            guard UTF16.isTrailSurrogate(UInt16(trail)),
                let scalar = Unicode.Scalar(0x10000 + ((unit - 0xD800) << 10) + (trail - 0xDC00))
            else { throw fault("a surrogate without its other half") }
            return scalar
        default: throw fault("a string has an unknown escape")
        }
    }

    private mutating func readHexadecimal() throws(SchedulerError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = current, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw fault("four hexadecimal digits were expected after \\u")
            }
            value = value << 4 | UInt32(digit)
            position += 1
        }
        return value
    }

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func take(_ word: StaticString) -> Bool {
        let count = word.utf8CodeUnitCount
        guard bytes.count - position >= count,
            bytes[position..<position + count].elementsEqual(UnsafeBufferPointer(start: word.utf8Start, count: count))
        else { return false }
        position += count
        return true
    }

    private mutating func skipDigits() -> Bool {
        let start = position
        while let byte = current, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
        return position > start
    }

    private mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private mutating func skipByteOrderMark() {
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { position = 3 }
    }

    private func fault(_ reason: String) -> SchedulerError {
        let before = bytes[..<position]
        let line = before.count { $0 == 0x0A } + 1
        let column = position - (before.lastIndex(of: 0x0A).map { $0 + 1 } ?? 0) + 1
        return .malformedJSON(line: line, column: column, reason: reason)
    }
}
