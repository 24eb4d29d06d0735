// SPDX-License-Identifier: Apache-2.0

/// A type that a configuration key can have.
public protocol ConfigurationValue: Sendable, Equatable {
    /// Python's name of the type, as descriptions have it: "bool", "int", "float", "str", "float | None".
    static var typeName: String { get }
    /// The words that the key may have; nil if its values aren't words.
    static var keywords: [String]? { get }
    /// The allowed values, for error messages: "true or false".
    static var allowedValues: String { get }
    /// The value of a JSON value; nil where the type doesn't allow it.
    init?(json: JSONValue)
    /// The value as JSON.
    var json: JSONValue { get }
}

extension ConfigurationValue {
    public static var keywords: [String]? { nil }
}

/// One key of a scheduler's configuration: its spelling in JSON, the property with its value, and its effect.
///
/// A scheduler lists its parameters once; reading, writing, conversion and the list of unused keys follow from the list.
public struct ConfigurationParameter<Configuration>: Sendable {
    /// diffusers' name in `scheduler_config.json`.
    public let key: String
    /// A second name that overrides may use.
    public let overrideName: String?
    /// A sentence on the key's effect.
    public let summary: String
    /// Python's name of the value's type.
    public let typeName: String
    /// The words that the value may be; nil where it isn't one of words.
    public let keywords: [String]?
    /// The number that diffusers adds to a step's timestep if the option is left out; nil if it has another default.
    public let timestepOffset: Int?
    /// Sets the value. Errors name it as it was given: by the key or by the override's name.
    let read: @Sendable (_ name: String, JSONValue, inout Configuration) throws(SchedulerError) -> Void
    let write: @Sendable (Configuration) -> JSONValue

    /// A parameter whose value is that of a property.
    ///
    /// - Parameters:
    ///   - key: diffusers' name in `scheduler_config.json`.
    ///   - overrideName: a second name that overrides may use.
    ///   - path: the property.
    ///   - summary: a sentence on the key's effect.
    ///   - timestepOffset: the number that diffusers adds to a step's timestep where the option is left out.
    public init<Value: ConfigurationValue>(
        _ key: String, overrideName: String? = nil, _ path: WritableKeyPath<Configuration, Value> & Sendable,
        _ summary: String = "", timestepOffset: Int? = nil
    ) {
        self.key = key
        self.overrideName = overrideName
        self.summary = summary
        self.timestepOffset = timestepOffset
        typeName = Value.typeName
        keywords = Value.keywords
        read = { (name, json, configuration) throws(SchedulerError) in
            guard let value = Value(json: json) else {
                throw .invalidValue(key: name, value: json.text.quoted, allowed: Value.allowedValues)
            }
            configuration[keyPath: path] = value
        }
        write = { $0[keyPath: path].json }
    }

    /// A parameter of a part of a configuration, as a parameter of the whole.
    init<Part>(_ parameter: ConfigurationParameter<Part>, of path: WritableKeyPath<Configuration, Part> & Sendable) {
        key = parameter.key
        overrideName = parameter.overrideName
        summary = parameter.summary
        typeName = parameter.typeName
        keywords = parameter.keywords
        timestepOffset = parameter.timestepOffset
        read = { (name, json, configuration) throws(SchedulerError) in
            try parameter.read(name, json, &configuration[keyPath: path])
        }
        write = { parameter.write($0[keyPath: path]) }
    }
}

/// Refuses a word that a scheduler doesn't know, as reading its configuration does.
func require<Word: ConfigurationKeyword>(_ key: String, _ word: Word, among words: [Word]) throws(SchedulerError) {
    try require(key, word.rawValue.quoted, words.map(\.rawValue).joined(separator: ", "), words.contains(word))
}

extension ConfigurationParameter {
    /// A key that allows only some of the words of its type.
    init<Word: ConfigurationKeyword>(
        _ key: String, _ path: WritableKeyPath<Configuration, Word> & Sendable, among words: [Word], _ summary: String = ""
    ) {
        self.key = key
        overrideName = nil
        self.summary = summary
        timestepOffset = nil
        typeName = Word.typeName
        keywords = words.map(\.rawValue)
        read = { (name, json, configuration) throws(SchedulerError) in
            guard let word = Word(json: json), words.contains(word) else {
                throw .invalidValue(
                    key: name, value: json.text.quoted, allowed: words.map(\.rawValue).joined(separator: ", "))
            }
            configuration[keyPath: path] = word
        }
        write = { $0[keyPath: path].json }
    }
}

extension Bool: ConfigurationValue {
    public static var typeName: String { "bool" }
    public static var allowedValues: String { "true or false" }
    public init?(json: JSONValue) {
        guard case .bool(let value) = json else { return nil }
        self = value
    }
    public var json: JSONValue { .bool(self) }
}

extension Int: ConfigurationValue {
    public static var typeName: String { "int" }
    public static var allowedValues: String { "an integer" }
    public init?(json: JSONValue) {
        guard let value = json.intValue else { return nil }
        self = value
    }
    public var json: JSONValue { .number(literal: String(self)) }
}

extension Double: ConfigurationValue {
    public static var typeName: String { "float" }
    public static var allowedValues: String { "a number" }
    public init?(json: JSONValue) {
        guard let value = json.doubleValue else { return nil }
        self = value
    }
    public var json: JSONValue { JSONValue(self) }
}

extension Array: ConfigurationValue where Element: ConfigurationValue {
    public static var typeName: String { "list[\(Element.typeName)]" }
    public static var allowedValues: String { "a list; each element \(Element.allowedValues)" }
    public init?(json: JSONValue) {
        guard case .array(let values) = json else { return nil }
        self = []
        for value in values {
            guard let element = Element(json: value) else { return nil }
            append(element)
        }
    }
    public var json: JSONValue { .array(map(\.json)) }
}

extension Optional: ConfigurationValue where Wrapped: ConfigurationValue {
    public static var typeName: String { "\(Wrapped.typeName) | None" }
    public static var keywords: [String]? { Wrapped.keywords }
    public static var allowedValues: String { "\(Wrapped.allowedValues), or null" }
    public init?(json: JSONValue) {
        if case .null = json {
            self = nil
        } else {
            guard let value = Wrapped(json: json) else { return nil }
            self = value
        }
    }
    public var json: JSONValue { self?.json ?? .null }
}

/// A key whose values are words. Conforming enumerations list their cases' raw values as allowed.
public protocol ConfigurationKeyword: ConfigurationValue, CaseIterable, RawRepresentable where RawValue == String {
    /// Words that diffusers replaces by another one.
    static var aliases: [String: Self] { get }
}

extension ConfigurationKeyword {
    public static var aliases: [String: Self] { [:] }
    public static var typeName: String { "str" }
    public static var keywords: [String]? { allCases.map(\.rawValue) + aliases.keys.sorted() }
    public static var allowedValues: String {
        (allCases.map(\.rawValue) + aliases.keys.sorted()).joined(separator: ", ")
    }
    /// The value of its word, or of a word that diffusers takes for it.
    public init?(json: JSONValue) {
        guard case .string(let word) = json, let value = Self(rawValue: word) ?? Self.aliases[word] else { return nil }
        self = value
    }
    /// The value's word.
    public var json: JSONValue { .string(rawValue) }
}

extension String: ConfigurationValue {
    public static var typeName: String { "str" }
    public static var allowedValues: String { "a string" }
    public init?(json: JSONValue) {
        guard case .string(let value) = json else { return nil }
        self = value
    }
    public var json: JSONValue { .string(self) }
}
