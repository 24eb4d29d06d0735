// SPDX-License-Identifier: Apache-2.0

/// The schedulers of this library by diffusers' names.
public enum SchedulerCatalog {
    private static let types: [any PlannedScheduler.Type] = [
        CMStochasticIterativeScheduler.self,
        CogVideoXDDIMScheduler.self,
        CogVideoXDPMScheduler.self,
        CosineDPMSolverMultistepScheduler.self,
        DDIMScheduler.self,
        DDIMInverseScheduler.self,
        DDIMParallelScheduler.self,
        DDPMScheduler.self,
        DDPMParallelScheduler.self,
        DDPMWuerstchenScheduler.self,
        DEISMultistepScheduler.self,
        DPMSolverMultistepScheduler.self,
        DPMSolverMultistepInverseScheduler.self,
        DPMSolverSDEScheduler.self,
        DPMSolverSinglestepScheduler.self,
        EDMDPMSolverMultistepScheduler.self,
        EDMEulerScheduler.self,
        EulerAncestralDiscreteScheduler.self,
        EulerDiscreteScheduler.self,
        FlowMapEulerDiscreteScheduler.self,
        FlowMatchEulerDiscreteScheduler.self,
        FlowMatchHeunDiscreteScheduler.self,
        FlowMatchLCMScheduler.self,
        HeliosDMDScheduler.self,
        HeliosScheduler.self,
        HeunDiscreteScheduler.self,
        IPNDMScheduler.self,
        KDPM2AncestralDiscreteScheduler.self,
        KDPM2DiscreteScheduler.self,
        KarrasVeScheduler.self,
        LCMScheduler.self,
        LMSDiscreteScheduler.self,
        LTXEulerAncestralRFScheduler.self,
        MiniMaxH3Scheduler.self,
        PNDMScheduler.self,
        PiflowScheduler.self,
        SASolverScheduler.self,
        SCMScheduler.self,
        ScoreSdeVeScheduler.self,
        TCDScheduler.self,
        UnCLIPScheduler.self,
        UniPCMultistepScheduler.self,
    ]

    /// diffusers' classes that no scheduler here can implement, with the reasons.
    static let refusals: [String: String] = {
        let tokens = "it steps tokens, drawn from categories, and plans combine tensors of real numbers"
        return [
            "AmusedScheduler": tokens,
            "BlockRefinementScheduler": tokens,
            "ConsistencyDecoderScheduler":
                "its two steps belong to ConsistencyDecoderVAE, which makes it without a file; models of that kind have "
                + "CMStochasticIterativeScheduler",
            "DiscreteDDIMScheduler": tokens,
            "EntropyBoundScheduler": tokens,
            "RFD4ProteinaScheduler": "its steps multiply by a mask, and rows multiply tensors by numbers",
            "RePaintScheduler": "its steps blend two samples by a mask, and rows multiply tensors by numbers",
            "ScoreSdeVpScheduler": "it has no step that pipelines could call; DDPMScheduler samples the same process",
            "VQDiffusionScheduler": tokens,
        ]
    }()

    /// The names that `_class_name` may have, sorted.
    public static var supportedClassNames: [String] { types.map { className(of: $0) }.sorted() }

    /// A scheduler's class, parameters, options and behaviour: see ``SchedulerDefinition/schedulerDescription``.
    ///
    /// - Throws: `unsupportedScheduler` for a name that no scheduler has.
    public static func description(ofClass name: String) throws(SchedulerError) -> JSONValue {
        try type(ofClass: name).schedulerDescription
    }

    static func type(ofClass name: String) throws(SchedulerError) -> any PlannedScheduler.Type {
        guard let type = types.first(where: { className(of: $0) == name }) else {
            throw .unsupportedScheduler(name: name.quoted, supported: supportedClassNames, reason: refusals[name])
        }
        return type
    }

    /// Makes the scheduler that a file describes.
    ///
    /// - Parameters:
    ///   - path: a `scheduler_config.json`, or a folder that contains one.
    ///   - subfolder: a folder inside `path` that contains the file, "scheduler" in model repositories.
    ///   - overrides: values that replace the file's, by diffusers' keys.
    /// - Throws: `inaccessibleFile`, `malformedJSON`, `unsupportedScheduler`, and the configuration's errors.
    public static func makeScheduler(
        contentsOf path: String, subfolder: String? = nil, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: ConfigurationFile.read(path: path, subfolder: subfolder), overrides: overrides)
    }

    /// Makes a scheduler from the bytes of a `scheduler_config.json`.
    ///
    /// - Throws: `malformedJSON`, `unsupportedScheduler`, `invalidValue`, `conflictingKeys`.
    public static func makeScheduler(
        json bytes: [UInt8], overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: bytes, className: nil, overrides: overrides)
    }

    /// Makes a scheduler of the given class, or of the class that the bytes name, with the bytes' values.
    ///
    /// diffusers lists the keys without a given value in `_use_default_values`; they count as absent.
    package static func makeScheduler(
        json bytes: [UInt8], className wanted: String?, overrides: [String: JSONValue]
    ) throws(SchedulerError) -> any PlannedScheduler {
        var values = try JSONReader.read(bytes).members()
        if let wanted { values["_class_name"] = .string(wanted) }
        if case .array(let keys)? = values.removeValue(forKey: "_use_default_values") {
            for case .string(let key) in keys { values[key] = nil }
        }
        guard case .string(var name)? = values["_class_name"] else {
            throw .invalidValue(
                key: "_class_name", value: values["_class_name"]?.text.quoted ?? "missing",
                allowed: "the name of a scheduler: \(supportedClassNames.joined(separator: ", "))")
        }
        // Older diffusers had Flax twins of some classes, with the parameters of the class that now reads their files.
        if name.hasPrefix("Flax") { name.removeFirst(4) }
        return try makeScheduler(type(ofClass: name), values: values, overrides: overrides)
    }

    /// Makes a scheduler from the text of a `scheduler_config.json`.
    ///
    /// - Throws: `malformedJSON`, `unsupportedScheduler`, `invalidValue`, `conflictingKeys`.
    public static func makeScheduler(
        json text: String, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try makeScheduler(json: Array(text.utf8), overrides: overrides)
    }

    /// Makes a scheduler from a file, of another class if one is given.
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

    /// The members of a call's arguments as a JSON object.
    package static func arguments(json bytes: [UInt8]) throws(SchedulerError) -> [String: JSONValue] {
        try JSONReader.read(bytes).members(of: "arguments")
    }

    private static func className<S: PlannedScheduler>(of type: S.Type) -> String { S.Configuration.className }

    static func makeScheduler<S: PlannedScheduler>(
        _ type: S.Type, values: [String: JSONValue], overrides: [String: JSONValue]
    ) throws(SchedulerError) -> any PlannedScheduler {
        try S(S.Configuration(values: values, overrides: overrides))
    }
}
