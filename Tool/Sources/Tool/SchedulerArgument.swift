// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// A scheduler on the command line: a file, a folder, standard input, or a name.
struct SchedulerArgument: ExpressibleByArgument, Sendable {
    let text: String

    init(argument: String) { text = argument }

    static var defaultCompletionKind: CompletionKind { .file() }

    /// Whether the argument is read rather than looked up. A sampler's name has no slash and isn't a file's name.
    var isFile: Bool {
        text == "-" || text.contains("/") || text.hasSuffix(".json") || FileManager.default.fileExists(atPath: text)
    }

    /// The last two parts of a path.
    var shortText: String { text.split(separator: "/").suffix(2).joined(separator: "/") }

    /// The scheduler.
    ///
    /// - Parameters:
    ///   - model: the scheduler of the model for which a name is looked up; nil: diffusers' defaults.
    ///   - overrides: values that replace the file's or the name's.
    func scheduler(
        for model: (any PlannedScheduler)? = nil, overrides: [String: JSONValue] = [:]
    ) throws -> any PlannedScheduler {
        guard isFile else { return try SchedulerCatalog.makeScheduler(named: text, for: model, overrides: overrides) }
        if text == "-" {
            return try SchedulerCatalog.makeScheduler(json: StandardStream.readInput(), overrides: overrides)
        }
        // A model's folder has its scheduler in a subfolder.
        let folder = URL(filePath: text), inner = folder.appending(path: "scheduler/scheduler_config.json")
        let isModel =
            !FileManager.default.fileExists(atPath: folder.appending(path: "scheduler_config.json").path)
            && FileManager.default.fileExists(atPath: inner.path)
        return try SchedulerCatalog.makeScheduler(contentsOf: isModel ? inner.path : text, overrides: overrides)
    }
}

/// The request and the options of a run.
struct RequestOptions: ParsableArguments {
    @Option(help: "The number of steps.")
    var steps = 20

    @Option(help: ArgumentHelp("Noise levels by their name; `list levels` lists them.", valueName: "name"))
    var levels: String?

    @Option(parsing: .upToNextOption, help: "The model's timesteps, in the place of a number of steps.")
    var timesteps: [Double] = []

    @Option(parsing: .upToNextOption, help: "Noise levels, in the place of a number of steps.")
    var sigmas: [Double] = []

    @Option(help: "The exponent of dynamic shifting.")
    var mu: Double?

    @Option(help: ArgumentHelp("An option of the run, such as eta=0.5.", valueName: "key=value"))
    var option: [Assignment] = []

    @Option(help: ArgumentHelp("A value in the place of the configuration's, such as solver_order=3.", valueName: "key=value"))
    var set: [Assignment] = []

    func validate() throws {
        if [levels != nil, !timesteps.isEmpty, !sigmas.isEmpty].filter({ $0 }).count > 1 {
            throw ValidationError("--levels, --timesteps and --sigmas exclude one another.")
        }
        if let levels, SigmaSchedule(rawValue: levels) == nil {
            let names = SigmaSchedule.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--levels is \(levels), but must be one of \(names).")
        }
    }

    var overrides: [String: JSONValue] { Assignment.values(set) }

    func plan(_ scheduler: any PlannedScheduler) throws -> SamplingPlan {
        try scheduler.plan(request(for: scheduler), optionValues: Assignment.values(option))
    }

    private func request(for scheduler: any PlannedScheduler) throws -> TimestepRequest {
        if let levels = levels.flatMap(SigmaSchedule.init) { return try scheduler.request(steps, levels, mu: mu) }
        if !timesteps.isEmpty { return .timesteps(timesteps, mu: mu) }
        return sigmas.isEmpty ? .count(steps, mu: mu) : .sigmas(sigmas, mu: mu)
    }
}

/// A key and its value: JSON, or else plain text.
struct Assignment: ExpressibleByArgument, Sendable {
    let key: String, value: JSONValue

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty else { return nil }
        key = String(parts[0])
        value = (try? JSONDecoder().decode(JSONValue.self, from: Data(parts[1].utf8))) ?? .string(String(parts[1]))
    }

    static func values(_ assignments: [Assignment]) -> [String: JSONValue] {
        Dictionary(assignments.map { ($0.key, $0.value) }) { $1 }
    }
}
