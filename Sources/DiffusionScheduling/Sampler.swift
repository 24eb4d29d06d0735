// SPDX-License-Identifier: Apache-2.0

/// A sampler by the names that people pass around: those of AUTOMATIC1111's web UI, of ComfyUI, and of papers.
///
/// ```swift
/// let model = try SchedulerCatalog.makeScheduler(contentsOf: "sdxl/scheduler")
/// let scheduler = try SchedulerCatalog.makeScheduler(named: "DPM++ 2M Karras", for: model)
/// ```
///
/// A name may be followed by that of noise levels, and case, spaces and punctuation don't matter: "DPM++ 2M SDE Karras",
/// "euler_ancestral sgm_uniform" and "deis:tab3" are names. Without the name of levels, the levels are those of the model's configuration.
public struct Sampler: Sendable {
    /// Its label in AUTOMATIC1111's web UI; nil where that has none.
    public let label: String?
    /// Its other names, ComfyUI's first.
    public let names: [String]
    /// The class of the scheduler.
    public let className: String
    /// The class for models of flow matching; nil: ``className``, if that knows flow levels.
    public let flowClassName: String?
    /// The values of the configuration that make it this sampler.
    public let values: [String: JSONValue]
    /// The levels that AUTOMATIC1111's word Automatic stands for.
    let automatic: SigmaSchedule

    init(
        _ label: String?, _ names: [String], _ className: String, flow flowClassName: String? = nil,
        _ values: [String: JSONValue] = [:],
        automatic: SigmaSchedule = .normal
    ) {
        self.label = label
        self.names = names
        self.className = className
        self.flowClassName = flowClassName
        self.values = values
        self.automatic = automatic
    }

    /// All names.
    public var allNames: [String] { (label.map { [$0] } ?? []) + names }
}

extension SchedulerCatalog {
    /// The samplers that have names besides that of their class.
    public static let samplers: [Sampler] = [
        Sampler("Euler", ["euler"], "EulerDiscreteScheduler", flow: "FlowMatchEulerDiscreteScheduler"),
        Sampler("Euler a", ["euler_ancestral"], "EulerAncestralDiscreteScheduler"),
        Sampler("Heun", ["heun"], "HeunDiscreteScheduler", flow: "FlowMatchHeunDiscreteScheduler"),
        Sampler("LMS", ["lms"], "LMSDiscreteScheduler"),
        Sampler("DPM2", ["dpm_2"], "KDPM2DiscreteScheduler", automatic: .karras),
        Sampler("DPM2 a", ["dpm_2_ancestral"], "KDPM2AncestralDiscreteScheduler", automatic: .karras),
        Sampler("DPM++ 2M", ["dpmpp_2m"], "DPMSolverMultistepScheduler", dpmSolver("dpmsolver++"), automatic: .karras),
        Sampler("DPM++ SDE", ["dpmpp_sde", "dpmpp_sde_gpu"], "DPMSolverSDEScheduler", automatic: .karras),
        Sampler(
            "DPM++ 2M SDE", ["dpmpp_2m_sde", "dpmpp_2m_sde_gpu"], "DPMSolverMultistepScheduler", dpmSolver("sde-dpmsolver++"),
            automatic: .exponential),
        Sampler(
            "DPM++ 2M SDE Heun", ["dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"], "DPMSolverMultistepScheduler",
            dpmSolver("sde-dpmsolver++", type: "heun"), automatic: .exponential),
        Sampler(
            "DPM++ 3M SDE", ["dpmpp_3m_sde", "dpmpp_3m_sde_gpu"], "DPMSolverMultistepScheduler",
            dpmSolver("sde-dpmsolver++", order: 3), automatic: .exponential),
        Sampler("UniPC", ["uni_pc"], "UniPCMultistepScheduler", ["solver_order": 3, "solver_type": "bh1", "predict_x0": true]),
        Sampler(nil, ["uni_pc_bh2"], "UniPCMultistepScheduler", ["solver_order": 3, "solver_type": "bh2", "predict_x0": true]),
        Sampler("DDIM", ["ddim"], "DDIMScheduler"),
        Sampler("PLMS", [], "PNDMScheduler", ["skip_prk_steps": true]),
        Sampler(nil, ["ddpm"], "DDPMScheduler"),
        Sampler("LCM", ["lcm"], "LCMScheduler", flow: "FlowMatchLCMScheduler"),
        Sampler(nil, ["tcd"], "TCDScheduler"),
        Sampler(
            nil, ["sa_solver"], "SASolverScheduler",
            ["predictor_order": 3, "corrector_order": 4, "algorithm_type": "data_prediction"]),
        // ComfyUI's is the paper's tAB of degree 2.
        Sampler(nil, ["deis", "DEIS tAB2"], "DEISMultistepScheduler", deis("t_ab", order: 3)),
        Sampler(nil, ["DEIS tAB1"], "DEISMultistepScheduler", deis("t_ab", order: 2)),
        Sampler(nil, ["DEIS tAB3"], "DEISMultistepScheduler", deis("t_ab", order: 4)),
        Sampler(nil, ["DEIS rhoAB1"], "DEISMultistepScheduler", deis("rho_ab", order: 2)),
        Sampler(nil, ["DEIS rhoAB2"], "DEISMultistepScheduler", deis("rho_ab", order: 3)),
        Sampler(nil, ["DEIS rhoAB3"], "DEISMultistepScheduler", deis("rho_ab", order: 4)),
        Sampler(nil, ["DEIS rho2Heun"], "DEISMultistepScheduler", deis("rho_rk", order: 2)),
        Sampler(nil, ["DEIS rho3Kutta"], "DEISMultistepScheduler", deis("rho_rk", order: 3)),
        Sampler(nil, ["DEIS rho4RK"], "DEISMultistepScheduler", deis("rho_rk", order: 4)),
    ]

    private static func dpmSolver(_ algorithm: JSONValue, order: JSONValue = 2, type: JSONValue = "midpoint") -> [String: JSONValue]
    {
        var values = ["algorithm_type": algorithm, "solver_order": order, "solver_type": type, "final_sigmas_type": "zero"]
        // k-diffusion lowers the order for the last step only, which is of order 1 here in any case.
        if order == 3 { values["lower_order_final"] = false }
        return values
    }

    private static func deis(_ method: JSONValue, order: JSONValue) -> [String: JSONValue] {
        ["diffusion_scheduling_method": method, "solver_order": order, "diffusion_scheduling_final_sigmas_type": "zero"]
    }

    /// Why no scheduler can have the name of a sampler, and which is nearest.
    private static let refusedSamplers: [(names: [String], reason: String)] = [
        (
            [
                "DDIM CFG++", "ddim_cfg_pp", "euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp",
                "dpmpp_2m_cfg_pp",
                "res_multistep_cfg_pp", "res_multistep_ancestral_cfg_pp", "gradient_estimation_cfg_pp",
            ],
            "its steps read the model's output without guidance besides the guided one; without CFG++ there are "
                + "DDIM, euler, euler_ancestral and DPM++ 2M"
        ),
        (
            ["DPM++ 2S a", "dpmpp_2s_ancestral"],
            "nearest are DPM++ SDE, whose evaluation between two levels has noise too, and DPMSolverSinglestepScheduler, which adds none"
        ),
        (["DPM fast", "dpm_fast"], "nearest is DPMSolverSinglestepScheduler with solver_order 3 and algorithm_type dpmsolver"),
        (
            ["DPM adaptive", "dpm_adaptive"],
            "the length of its steps depends on the samples; nearest is DPMSolverSinglestepScheduler"
        ),
        (["Restart"], "it goes back to levels that it has passed; nearest is Heun, whose steps it takes"),
        (["heunpp2"], "its last steps ask the model three times; nearest is Heun"),
        (["exp_heun_2_x0"], "nearest is DPMSolverSinglestepScheduler with solver_type heun"),
        (["exp_heun_2_x0_sde", "seeds_2", "seeds_3"], "nearest is DPM++ SDE"),
        (
            ["ipndm", "ipndm_v"],
            "nearest is LMS, whose weights follow from the levels; IPNDMScheduler is for models of v prediction"
        ),
        (["res_multistep"], "nearest is DPM++ 2M"),
        (["res_multistep_ancestral"], "nearest is DPM++ 2M SDE"),
        (["gradient_estimation"], "nearest is LMS"),
        (["er_sde"], "nearest is DPM++ 3M SDE"),
        (["sa_solver_pece"], "it asks the model again after each correction; nearest is sa_solver"),
    ]

    /// What a name may be followed by.
    private enum Levels {
        case named(SigmaSchedule)
        case automatic
        /// Levels that depend on the model, under these names.
        case oneOf([SigmaSchedule])
    }

    private static let levels: [String: Levels] = {
        var levels = Dictionary(uniqueKeysWithValues: SigmaSchedule.allCases.map { (normalized($0.rawValue), Levels.named($0)) })
        levels["automatic"] = .automatic
        levels["alignyoursteps"] = .oneOf([.alignYourStepsSD15, .alignYourStepsSDXL, .alignYourStepsSVD])
        for (name, schedule) in SigmaSchedule.aliases { levels[name] = .named(schedule) }
        // AUTOMATIC1111's.
        for (name, schedule) in [("ka", SigmaSchedule.karras), ("exp", .exponential), ("uniform", .normal), ("ddim", .ddimUniform)]
        {
            levels[name] = .named(schedule)
        }
        return levels
    }()

    private enum Entry {
        case sampler(Sampler)
        case refused(String)
    }

    private static let entries: [String: Entry] = {
        var entries: [String: Entry] = [:]
        for name in supportedClassNames { entries[normalized(name)] = .sampler(Sampler(nil, [name], name)) }
        for (names, reason) in refusedSamplers { for name in names { entries[normalized(name)] = .refused(reason) } }
        for sampler in samplers { for name in sampler.allNames { entries[normalized(name)] = .sampler(sampler) } }
        return entries
    }()

    private static let greatestLength = entries.keys.map(\.count).max() ?? 0

    /// A name in small letters and digits, with p for +.
    private static func normalized(_ name: String) -> String {
        String(name.lowercased().replacing("+", with: "p").filter { $0.isASCII && ($0.isLetter || $0.isNumber) })
    }

    /// The names that ``makeScheduler(named:for:overrides:)`` takes, besides those of classes.
    public static var samplerNames: [String] { samplers.flatMap(\.allNames) }

    /// The sampler of a name, and the levels that the name ends with.
    private static func sampler(named name: String) throws(SchedulerError) -> (Sampler, SigmaSchedule?) {
        var text = normalized(name)
        if name.lowercased().hasPrefix("k_") { text.removeFirst() }
        // "DPM++ 2M SDE" begins with a sampler's name, too: the longest one counts.
        for length in stride(from: min(text.count, greatestLength), through: 1, by: -1) {
            guard let entry = entries[String(text.prefix(length))] else { continue }
            let rest = String(text.dropFirst(length))
            if rest.isEmpty { return (try sampler(of: entry, name), nil) }
            switch levels[rest] {
            case nil: continue
            case .named(let schedule): return (try sampler(of: entry, name), schedule)
            case .automatic:
                let sampler = try sampler(of: entry, name)
                return (sampler, sampler.automatic)
            case .oneOf(let schedules):
                throw .invalidValue(
                    key: "sampler", value: name.quoted,
                    allowed: "with the levels of one model: \(schedules.map(\.rawValue).joined(separator: ", "))")
            }
        }
        throw .unsupportedScheduler(
            name: name.quoted, supported: samplerNames + supportedClassNames,
            reason: "there is no such name; nearest is \(nearestName(to: String(text.prefix(greatestLength))))")
    }

    /// The name, with that of levels where these are nearer, from which the fewest insertions, deletions and changes of a letter lead to a
    /// normalized text.
    private static func nearestName(to text: String) -> String {
        let letters = Array(text.utf8)
        var nearest = (distance: Int.max, name: "")
        for sampler in samplers + supportedClassNames.map({ Sampler(nil, [$0], $0) }) {
            for name in sampler.allNames {
                for levels in [""] + levels.keys.sorted() {
                    let distance = editDistance(letters, Array((normalized(name) + levels).utf8))
                    if distance < nearest.distance { nearest = (distance, levels.isEmpty ? name : "\(name) \(levels)") }
                }
            }
        }
        return nearest.name
    }

    private static func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var distances = Array(0...b.count)
        for (row, letter) in a.enumerated() {
            var diagonal = row
            distances[0] = row + 1
            for (column, other) in b.enumerated() {
                let replaced = diagonal + (letter == other ? 0 : 1)
                diagonal = distances[column + 1]
                distances[column + 1] = min(replaced, distances[column] + 1, diagonal + 1)
            }
        }
        return distances[b.count]
    }

    private static func sampler(of entry: Entry, _ name: String) throws(SchedulerError) -> Sampler {
        switch entry {
        case .sampler(let sampler): return sampler
        case .refused(let reason): throw .unsupportedScheduler(name: name.quoted, supported: [], reason: reason)
        }
    }

    /// Makes the scheduler of a sampler's name.
    ///
    /// - Parameters:
    ///   - name: of a sampler or a class, with the name of noise levels after it or without: see ``Sampler``.
    ///   - model: a scheduler of the model's, whose configuration says what it was trained with; nil: diffusers' defaults. A model of flow
    ///     matching gets its shift and flow levels.
    ///   - overrides: values that replace those of the name, by diffusers' keys.
    /// - Throws: `unsupportedScheduler` for a name without a scheduler, or one that doesn't know the model's training; `invalidValue` where
    ///   the scheduler has no choice of levels; the configuration's errors.
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

    private static let spacingKeys: [(key: String, schedule: SigmaSchedule?)] = [
        ("use_karras_sigmas", .karras), ("use_exponential_sigmas", .exponential), ("use_beta_sigmas", nil), ("use_lu_lambdas", nil),
    ]
    private static let scheduleKey = "diffusion_scheduling_sigma_schedule"

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

    /// The names that lead to a scheduler like this one, for its model: AUTOMATIC1111's first, then ComfyUI's and others.
    ///
    /// Empty where there is none, as for a solver of an order that nobody has named.
    public static func samplerNames(of scheduler: any PlannedScheduler) -> [String] {
        let className = Swift.type(of: scheduler.configuration).className
        guard let values = try? scheduler.configuration.json.members(), let levels = levelNames(values) else { return [] }
        // A key that diffusers doesn't know isn't written where it is null.
        func holds(_ value: (key: String, value: JSONValue)) -> Bool {
            values[value.key].map { $0 == value.value } ?? (value.value == .null)
        }
        let found = samplers.filter {
            $0.flowClassName == className || $0.className == className && $0.values.allSatisfy(holds)
        }
        return found.flatMap { sampler in
            let label = sampler.label.flatMap { label in levels.label.map { $0.isEmpty ? label : "\(label) \($0)" } }
            return (label.map { [$0] } ?? []) + sampler.names.map { levels.name.isEmpty ? $0 : "\($0) \(levels.name)" }
        }
    }

    /// The names of a configuration's levels, AUTOMATIC1111's and ComfyUI's: empty texts for those that other keys choose; nil where the
    /// levels have no name.
    private static func levelNames(_ values: [String: JSONValue]) -> (label: String?, name: String)? {
        let labels: [SigmaSchedule: String] = [
            .karras: "Karras", .exponential: "Exponential", .sgmUniform: "SGM Uniform", .klOptimal: "KL Optimal", .simple: "Simple",
            .normal: "Normal", .ddimUniform: "DDIM", .beta: "Beta",
        ]
        var schedule: SigmaSchedule?
        if let named = values[scheduleKey] { schedule = SigmaSchedule(json: named) }
        for (key, own) in spacingKeys where values[key] == true {
            guard let own else { return nil }
            schedule = own
        }
        guard let schedule else { return ("", "") }
        return (labels[schedule], schedule.rawValue)
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
        values["_class_name"] = nil
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
