// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says whether configurations are fine, or what is wrong with them.",
        discussion: """
            A configuration is fine if it loads and plans a run. The exit status is 1 if one isn't.

            EXAMPLES:
              diffusion-scheduling check models/*/scheduler
              diffusion-scheduling check - < scheduler_config.json
            """)

    @Argument(help: "Files, folders, - or names.")
    var schedulers: [SchedulerArgument]

    @OptionGroup var request: RequestOptions

    func run() throws {
        var isFine = true
        for argument in schedulers {
            do {
                let scheduler = try argument.scheduler(overrides: request.overrides)
                _ = try plan(scheduler)
                let unused = scheduler.configuration.unusedKeys
                let note = unused.isEmpty ? "" : "; it has no use for \(unused.joined(separator: ", "))"
                print("\(argument.text): \(className(scheduler)), fine\(note)")
            } catch let error as SchedulerError {
                isFine = false
                print("\(argument.text): \(error)")
            }
        }
        if !isFine { throw ExitCode.failure }
    }

    /// A plan; schedulers whose runs bring their own shift get one of a middle size.
    private func plan(_ scheduler: any PlannedScheduler) throws -> SamplingPlan {
        do {
            return try request.plan(scheduler)
        } catch SchedulerError.invalidValue("mu", _, _) where request.mu == nil {
            var request = request
            request.mu = 1
            return try request.plan(scheduler)
        }
    }

    private func className<S: PlannedScheduler>(_ scheduler: S) -> String { S.Configuration.className }
}
