// SPDX-License-Identifier: Apache-2.0

/// The contents of diffusers' `scheduler_config.json` for one scheduler: decoded, validated, and written back without loss.
///
/// ```swift
/// var configuration = try DEISMultistepScheduler.Configuration(contentsOf: "model", subfolder: "scheduler")
/// configuration.solverOrder = 3
/// try configuration.save(toDirectory: "tuned")
/// ```
///
/// Keys that the scheduler has no parameter for are kept and written back, so a file can travel from scheduler to scheduler and
/// return unchanged.
public protocol SchedulerConfiguration: Sendable, Equatable, Codable {
    /// The configuration with diffusers' defaults.
    init()
    /// diffusers' name of the scheduler, the value of `_class_name`.
    static var className: String { get }
    /// The schedulers whose configurations this one can be made from, by diffusers' names.
    static var compatibleClassNames: [String] { get }
    /// The keys, in the order of diffusers' constructor.
    static var parameters: [ConfigurationParameter<Self>] { get }
    /// The keys of other schedulers that have an effect on this one.
    static var effectiveKeys: [String] { get }
    /// The origin of the configuration: the values that were given, and the keys without a parameter.
    var origin: ConfigurationOrigin { get set }
    /// Checks values and their combination.
    ///
    /// - Throws: `invalidValue` for a value that isn't allowed, `conflictingKeys` for keys that exclude one another.
    func validate() throws(SchedulerError)
}

/// A configuration's record of the file or the configuration that it was made from.
public struct ConfigurationOrigin: Sendable, Equatable {
    /// The parameters that were given a value, with the value as given; the others have their defaults. Equality of configurations
    /// ignores the difference.
    public internal(set) var givenValues: [String: JSONValue] = [:]
    /// The keys that the scheduler has no parameter for, with their values.
    public var otherKeys: [String: JSONValue] = [:]

    /// The origin of a configuration that was made from nothing.
    public init() {}

    public static func == (a: ConfigurationOrigin, b: ConfigurationOrigin) -> Bool { a.otherKeys == b.otherKeys }
}

extension SchedulerConfiguration {
    public static var effectiveKeys: [String] { [] }

    /// The keys of the file that have no effect on this scheduler, sorted.
    public var unusedKeys: [String] {
        let effective = Self.effectiveKeys
        return origin.otherKeys.keys.filter { !$0.hasPrefix("_") && !effective.contains($0) }.sorted()
    }

    /// The parameters that haven't been set, in their order: diffusers' `_use_default_values`.
    public var defaultedKeys: [String] {
        Self.parameters.filter { $0.overrideName == nil && origin.givenValues[$0.key] == nil }.map(\.key)
    }

    // MARK: Reading

    /// Reads a file, or `scheduler_config.json` in a folder or in a folder's subfolder, like diffusers' `from_pretrained`.
    ///
    /// - Throws: `inaccessibleFile`, `malformedJSON`, `invalidValue`, `conflictingKeys`.
    public init(
        contentsOf path: String, subfolder: String? = nil, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) {
        try self.init(json: ConfigurationFile.read(path: path, subfolder: subfolder), overrides: overrides)
    }

    /// Reads the bytes of a `scheduler_config.json`.
    ///
    /// - Throws: `malformedJSON`, `invalidValue`, `conflictingKeys`.
    public init(json bytes: [UInt8], overrides: [String: JSONValue] = [:]) throws(SchedulerError) {
        try self.init(values: JSONReader.read(bytes).members(), overrides: overrides)
    }

    /// Reads the text of a `scheduler_config.json`.
    ///
    /// - Throws: `malformedJSON`, `invalidValue`, `conflictingKeys`.
    public init(json text: String, overrides: [String: JSONValue] = [:]) throws(SchedulerError) {
        try self.init(json: Array(text.utf8), overrides: overrides)
    }

    /// Makes the configuration from another scheduler's, like diffusers' `from_config`.
    ///
    /// Keys that were given a value there and are parameters here apply here; other keys are kept for the way back. A key that
    /// merely has its default there gets this scheduler's default here.
    ///
    /// - Throws: `invalidValue` and `conflictingKeys` for values that this scheduler doesn't allow.
    public init(
        from other: some SchedulerConfiguration, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) {
        try self.init(values: other.valuesToConvert, overrides: overrides)
    }

    /// The parameters that were given a value, with the values they have now, and the keys kept from elsewhere.
    var valuesToConvert: [String: JSONValue] {
        let defaults = Self()
        var values = origin.otherKeys
        for parameter in Self.parameters {
            let value = parameter.write(self)
            if origin.givenValues[parameter.key] != nil || value != parameter.write(defaults) {
                values[parameter.key] = value
            }
        }
        return values
    }

    init(values: [String: JSONValue], overrides: [String: JSONValue]) throws(SchedulerError) {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        self.init()
        let overrideNames = Set(Self.parameters.compactMap(\.overrideName))
        var values = values.merging(overrides.filter { !overrideNames.contains($0.key) }) { _, override in override }
        for parameter in Self.parameters {
            var name = parameter.key
            var given = values.removeValue(forKey: parameter.key)
            // The short name counts among the overrides only; in files it is another scheduler's key.
            if let overrideName = parameter.overrideName, let override = overrides[overrideName] {
                (name, given) = (overrideName, override)
            }
            guard let given else { continue }
            try parameter.read(name, given, &self)
            origin.givenValues[parameter.key] = given
        }
        values["_class_name"] = nil
        origin.otherKeys = values
        try validate()
    }

    // MARK: Writing

    /// All parameters and kept keys, with `_class_name`.
    public var json: JSONValue {
        var values = origin.otherKeys
        for parameter in Self.parameters {
            // A key that diffusers doesn't know is written only if it has a value.
            let value = parameter.write(self)
            if parameter.overrideName != nil, value == .null { continue }
            let given = origin.givenValues[parameter.key]
            values[parameter.key] = value.isSameNumber(as: given) ? given : value
        }
        values["_class_name"] = .string(Self.className)
        return .object(values)
    }

    /// The text of `scheduler_config.json` as diffusers writes it.
    public var jsonText: String { json.text + "\n" }

    /// Writes `scheduler_config.json` into a folder, which is made if there is none.
    ///
    /// - Throws: `inaccessibleFile` if the folder can't be made or the file can't be written. An older file is unchanged then.
    public func save(toDirectory directory: String) throws(SchedulerError) {
        try ConfigurationFile.write(jsonText, directory: directory)
    }

    // MARK: Codable

    /// Reads a configuration from a decoder: an object with diffusers' keys.
    ///
    /// - Throws: the decoder's errors; `malformedJSON` for a value that isn't an object; `invalidValue`, `conflictingKeys`.
    public init(from decoder: any Decoder) throws {
        try self.init(values: JSONValue(from: decoder).members(), overrides: [:])
        // Encoders spell numbers in their own way; that spelling isn't kept.
        for parameter in Self.parameters where origin.givenValues[parameter.key] != nil {
            origin.givenValues[parameter.key] = parameter.write(self)
        }
    }

    /// Writes ``json`` to an encoder.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws { try json.encode(to: encoder) }
}

extension JSONValue {
    /// - Parameter text: the name of the value in the message.
    func members(of text: String = "a configuration") throws(SchedulerError) -> [String: JSONValue] {
        guard case .object(let members) = self else {
            throw .malformedJSON(line: 1, column: 1, reason: "\(text) must be an object in braces")
        }
        return members
    }
}

/// A check that reads like a sentence: the key, its value, the allowed values, and the condition.
@inline(__always)
func require(
    _ key: @autoclosure () -> String, _ value: @autoclosure () -> some CustomStringConvertible,
    _ allowed: @autoclosure () -> String, _ holds: Bool
) throws(SchedulerError) {
    // The texts are made for errors only: making them would take longer than anything else in planning.
    if !holds { throw .invalidValue(key: key(), value: "\(value())", allowed: allowed()) }
}

/// A check that a value lies in a range, ends included.
@inline(__always)
func require<Value: Comparable & CustomStringConvertible>(
    _ key: @autoclosure () -> String, _ value: Value, in range: ClosedRange<Value>
) throws(SchedulerError) {
    func text(_ end: Value) -> String {
        let text = end.description.replacing("e+", with: "e")
        return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
    }
    try require(key(), value, "from \(text(range.lowerBound)) to \(text(range.upperBound))", range.contains(value))
}
