// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Lists the names of classes, samplers and noise levels.")

    enum Kind: String, CaseIterable, ExpressibleByArgument { case classes, samplers, levels }

    @Argument(help: "Which names.")
    var kinds: [Kind] = Kind.allCases

    func run() throws {
        for (index, kind) in kinds.enumerated() {
            if kinds.count > 1 { print("\(index > 0 ? "\n" : "")\(kind.rawValue):") }
            switch kind {
            case .classes: for name in SchedulerCatalog.supportedClassNames { print(name) }
            case .samplers:
                for sampler in SchedulerCatalog.samplers { print(sampler.allNames.joined(separator: ", ")) }
            case .levels: for schedule in SigmaSchedule.allCases { print(schedule.rawValue) }
            }
        }
    }
}
