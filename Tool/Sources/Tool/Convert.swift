// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling

struct Convert: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes a model's configuration for another scheduler, and says what is lost.",
        discussion: """
            The configuration goes to standard output, or into a folder as scheduler_config.json; what is lost is said on standard \
            error: the keys that had a meaning before and have none now.

            EXAMPLES:
              diffusion-scheduling convert sdxl/scheduler "DPM++ 2M Karras" > scheduler_config.json
              diffusion-scheduling convert - UniPCMultistepScheduler --set solver_order=3 --output tuned < scheduler_config.json
            """)

    @Argument(help: "The model's file or folder, or -.")
    var model: SchedulerArgument

    @Argument(help: ArgumentHelp("The class or the sampler to convert to.", valueName: "name"))
    var name: String

    @Option(help: ArgumentHelp("A value in the place of the configuration's, such as solver_order=3.", valueName: "key=value"))
    var set: [Assignment] = []

    @Option(help: ArgumentHelp("A folder for scheduler_config.json.", valueName: "folder"), completion: .directory)
    var output: String?

    func run() throws {
        let model = try model.scheduler()
        let scheduler = try SchedulerCatalog.makeScheduler(named: name, for: model, overrides: Assignment.values(set))
        let lost = try lostKeys(from: model, to: scheduler)
        if !lost.isEmpty {
            let text = "\(name) has no use for \(lost.joined(separator: ", ")). The configuration keeps what it can't use.\n"
            try StandardStream.error.write(Array(text.utf8))
        }
        if let output {
            try scheduler.configuration.save(toDirectory: output)
        } else {
            print(scheduler.configuration.jsonText, terminator: "")
        }
    }

    /// The keys with a meaning for the model's scheduler but not for the new one; keys with their default value are left out.
    private func lostKeys<S: PlannedScheduler>(from model: S, to scheduler: any PlannedScheduler) throws -> [String] {
        let values = model.configuration.json, defaults = S.Configuration().json
        return Set(scheduler.configuration.unusedKeys).subtracting(model.configuration.unusedKeys)
            .filter { values[$0] != defaults[$0] }.sorted()
    }
}
