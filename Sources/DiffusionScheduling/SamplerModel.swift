// SPDX-License-Identifier: Apache-2.0

/// Samplers for models.
extension SchedulerCatalog {
    /// Makes a scheduler from a sampler's name.
    ///
    /// - Parameters:
    ///   - name: the name of a sampler or of a class, optionally followed by a name of noise levels: see ``Sampler``.
    ///   - model: a scheduler with the model's configuration, which tells how it was trained; nil: diffusers' defaults. A model of
    ///     flow matching gets its shift and flow levels.
    ///   - overrides: values that replace those of the name, by diffusers' keys.
    /// - Throws: `unsupportedScheduler` if no scheduler implements the sampler, or if its scheduler doesn't support the model's
    ///   training; `invalidValue` if the scheduler has no choice of levels; the configuration's errors.
    public static func makeScheduler(
        named name: String, for model: (any PlannedScheduler)? = nil, overrides: [String: JSONValue] = [:]
    ) throws(SchedulerError) -> any PlannedScheduler {
        let (sampler, schedule) = try sampler(named: name)
        let training = model.map(Training.init)
        let isFlow = training?.kind == .flow
        let type = try type(ofClass: isFlow ? sampler.flowClassName ?? sampler.className : sampler.className)
        let keys = Self.keys(of: type)
        var values = try training?.values(for: type, keys: keys, name) ?? [:]
        values.merge(sampler.values.filter { keys.contains($0.key) }) { $1 }
        if let schedule {
            let isFlowGrid = isFlow && keys.contains("use_flow_sigmas")
            values.merge(try Self.values(of: schedule, keys: keys, isFlowGrid: isFlowGrid, name)) { $1 }
        }
        return try makeScheduler(type, values: values, overrides: overrides)
    }

    private static func keys<S: PlannedScheduler>(of type: S.Type) -> Set<String> { Set(S.Configuration.parameters.map(\.key)) }

    /// The keys that space levels, and the names of those levels.
    static let spacingKeys: [(key: String, schedule: SigmaSchedule?)] = [
        ("use_karras_sigmas", .karras), ("use_exponential_sigmas", .exponential), ("use_beta_sigmas", nil), ("use_lu_lambdas", nil),
    ]
    static let scheduleKey = "diffusion_scheduling_sigma_schedule"

    /// The values that choose levels: by diffusers' key where it has one, so that diffusers understands the file, too.
    ///
    /// - Parameter isFlowGrid: whether `use_flow_sigmas` is true, which excludes diffusers' keys.
    private static func values(
        of schedule: SigmaSchedule, keys: Set<String>, isFlowGrid: Bool, _ name: String
    ) throws(SchedulerError) -> [String: JSONValue] {
        guard keys.contains(scheduleKey) else {
            throw .invalidValue(
                key: "sampler", value: name.quoted, allowed: "without \(schedule.rawValue): its scheduler chooses its levels itself"
            )
        }
        var values: [String: JSONValue] = [:]
        for (key, _) in spacingKeys where keys.contains(key) { values[key] = false }
        if !isFlowGrid, let own = spacingKeys.first(where: { $0.schedule == schedule && keys.contains($0.key) }) {
            values[own.key] = true
            values[scheduleKey] = .null
        } else {
            values[scheduleKey] = .string(schedule.rawValue)
        }
        return values
    }
}

/// The training of a model, as its scheduler's configuration describes it.
private struct Training {
    enum Kind { case betas, flow, other }

    let kind: Kind
    private let className: String
    /// The values that were given, and those of all parameters.
    private let given: [String: JSONValue], all: [String: JSONValue]

    init(_ model: any PlannedScheduler) {
        let configuration = model.configuration
        className = type(of: configuration).className
        given = configuration.valuesToConvert
        all = (try? configuration.json.members()) ?? [:]
        if model.noiseSchedule.process == .flow || all["use_flow_sigmas"] == true {
            kind = .flow
        } else {
            kind = configuration is any NoiseScheduleConfiguration ? .betas : .other
        }
    }

    /// The values for a scheduler of another class.
    func values<S: PlannedScheduler>(
        for type: S.Type, keys: Set<String>, _ name: String
    ) throws(SchedulerError) -> [String: JSONValue] {
        var values = given
        if S.Configuration.className == className { return values }
        func refuse(_ reason: String) -> SchedulerError {
            .unsupportedScheduler(name: name.quoted, supported: [], reason: "\(reason) \(S.Configuration.className) doesn't know")
        }
        switch kind {
        case .betas where S.Configuration.self is any NoiseScheduleConfiguration.Type: return values
        case .betas, .other: throw refuse("\(className) describes the model's training in terms that")
        case .flow:
            let shift = all["shift"] ?? all["flow_shift"]
            (values["shift"], values["flow_shift"]) = (nil, nil)
            if keys.contains("use_flow_sigmas") {
                values.merge(["use_flow_sigmas": true, "prediction_type": "flow_prediction", "flow_shift": shift ?? 1]) { $1 }
            } else if keys.contains("shift") {
                values["shift"] = shift
            } else {
                throw refuse("the model is one of flow matching, which")
            }
            if all["use_dynamic_shifting"] == true, !keys.contains("use_dynamic_shifting") {
                throw refuse("the model's levels shift with the size of its pictures (use_dynamic_shifting), which")
            }
            return values
        }
    }
}
