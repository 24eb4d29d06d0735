// SPDX-License-Identifier: Apache-2.0

/// Samplers by their names, and the names of a scheduler.
extension SchedulerCatalog {
    /// Noise levels that the end of a name stands for.
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
        // AUTOMATIC1111's names.
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
    static func sampler(named name: String) throws(SchedulerError) -> (Sampler, SigmaSchedule?) {
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

    /// The name nearest to a normalized text, by the fewest insertions, deletions and changes of a letter; with a name of levels if
    /// that is nearer.
    private static func nearestName(to text: String) -> String {
        let letters = Array(text.utf8)
        var nearest = (distance: Int.max, name: "")
        for sampler in samplers + supportedClassNames.map({ Sampler(nil, [$0], $0) }) {
            for name in sampler.allNames {
                let own = normalized(name)
                for levels in [""] + levels.keys.sorted() {
                    let distance = editDistance(letters, Array((own + levels).utf8))
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

    /// The names that lead to a scheduler like this one, for its model: AUTOMATIC1111's first, then ComfyUI's and others.
    ///
    /// Empty if nobody has named such a scheduler, for example one of an unusual order.
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

    /// The names of a configuration's levels in AUTOMATIC1111 and ComfyUI; empty if other keys choose the levels, nil if the levels
    /// have no name.
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
