// SPDX-License-Identifier: Apache-2.0

/// The schedulers of this library by diffusers' names.
public enum SchedulerCatalog {
    private static let types: [any PlannedScheduler.Type] = [
        DDIMScheduler.self,
        DDIMInverseScheduler.self,
        DEISMultistepScheduler.self,
        DPMSolverMultistepScheduler.self,
        DPMSolverMultistepInverseScheduler.self,
        EulerDiscreteScheduler.self,
        HeunDiscreteScheduler.self,
    ]

    /// The names that `_class_name` may have, sorted.
    public static var supportedClassNames: [String] { types.map { className(of: $0) }.sorted() }

    /// Makes the scheduler that a file describes.
    ///
    /// - Parameters:
    ///   - path: a `scheduler_config.json`, or a folder with one.
    ///   - subfolder: the folder in that folder that has it, "scheduler" in the repositories of models.
    ///   - overrides: values that replace the file's, by diffusers' keys.
    /// - Throws: `inaccessibleFile`, `malformedJSON`, `unsupportedScheduler`, and what the configuration throws.
    public static func makeScheduler(
        contentsOf path: String, subfolder: String? = nil, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: ConfigurationFile.read(path: path, subfolder: subfolder), overrides: overrides)
    }

    /// Makes the scheduler that the bytes of a `scheduler_config.json` describe.
    public static func makeScheduler(
        json bytes: [UInt8], overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: bytes, className: nil, overrides: overrides)
    }

    /// Makes the scheduler of the class, or of the one that the bytes name, from the values that the bytes have.
    ///
    /// What diffusers keeps in `_use_default_values` is a list of the keys that nobody gave a value; they count as not there.
    package static func makeScheduler(
        json bytes: [UInt8], className wanted: String?, overrides: [String: JSONValue]
    ) throws(SchedulerError) -> any PlannedScheduler {
        var values = try JSONReader.read(bytes).members()
        if let wanted { values["_class_name"] = .string(wanted) }
        if case .array(let keys)? = values.removeValue(forKey: "_use_default_values") {
            for case .string(let key) in keys { values[key] = nil }
        }
        guard case .string(let name)? = values["_class_name"] else {
            throw .invalidValue(
                key: "_class_name", value: values["_class_name"]?.text.quoted ?? "missing",
                allowed: "the name of a scheduler: \(supportedClassNames.joined(separator: ", "))")
        }
        for type in types where className(of: type) == name {
            return try makeScheduler(type, values: values, overrides: overrides)
        }
        throw .unsupportedScheduler(name: name.quoted, supported: supportedClassNames)
    }

    /// Makes the scheduler that the text of a `scheduler_config.json` describes.
    public static func makeScheduler(
        json text: String, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: Array(text.utf8), overrides: overrides)
    }

    /// Makes the scheduler that a file describes, of another class if one is wanted.
    package static func makeScheduler(
        contentsOf path: String, subfolder: String?, className: String?, overrides: [String: JSONValue]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(
            json: ConfigurationFile.read(path: path, subfolder: subfolder), className: className, overrides: overrides)
    }

    /// The members of a JSON object.
    package static func overrides(json bytes: [UInt8]) throws(SchedulerError) -> [String: JSONValue] {
        try JSONReader.read(bytes).members()
    }

    private static func className<S: PlannedScheduler>(of type: S.Type) -> String { S.Configuration.className }

    private static func makeScheduler<S: PlannedScheduler>(
        _ type: S.Type, values: [String: JSONValue], overrides: [String: JSONValue]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try S(S.Configuration(values: values, overrides: overrides))
    }
}
