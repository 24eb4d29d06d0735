// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Foundation

@main
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures the steps and plans of all schedulers against bare loops, after checking them against a plain oracle.",
        discussion: """
            Rows are named scheduler order/type/elements/threads/form, plans plan/scheduler/levels; for example
            "DEIS 3/float32/65536/2/in place", "DEIS 3/bfloat16 in float32/65536/2/in place", "plan/DEIS 3/karras" and
            "sessions/256/16384/2/single calls".
            """)

    @Option(help: "Measure the rows whose names match this regular expression.")
    var filter = ""

    @Option(help: "File for the results as JSON.")
    var json = "out/bench.json"

    @Flag(help: "Run a few rounds, without a filter only the smaller sizes: a smoke test, not for figures.")
    var quick = false

    @Option(help: "Bytes from a multiple of 64 to the start of each tensor; Swift's arrays have 16 or 48.")
    var misalignment = 0

    func validate() throws {
        _ = try pattern
        guard misalignment >= 0, misalignment % 8 == 0 else {
            throw ValidationError("--misalignment is \(misalignment), but must be a multiple of 8 and at least 0")
        }
    }

    private var pattern: Regex<AnyRegexOutput> {
        get throws { try Regex(filter).ignoresCase() }
    }

    func run() throws {
        let pattern = try pattern
        func wants(_ name: String) -> Bool { name.contains(pattern) }
        var results = BenchmarkResults(isQuick: quick, machine: .current())
        results.machine.lines.forEach { print($0) }
        let effort = quick ? MeasurementEffort.quick : .thorough

        print("\n" + StepResult.table.header)
        for stepCase in try StepCase.all() {
            for elements in stepCase.sizes where !quick || !filter.isEmpty || elements <= 600_000 {
                let group = StepGroup(
                    stepCase, elements: elements, threadCounts: Array(Set([1, results.machine.threads])).sorted(), wants: wants)
                if group.isEmpty { continue }
                let isLarge = elements > StepGroup.mostCachedElements
                let rows = try group.run(effort: isLarge && !quick ? .thoroughOnLargeTensors : effort, misalignment: misalignment)
                printSteps(rows)
                results.steps += rows
            }
        }
        print(StepResult.legend)

        let sessions = try SessionsGroup(threads: results.machine.threads, wants: wants).run(effort: effort)
        if !sessions.isEmpty {
            print("\n" + SessionsResult.table.header)
            sessions.forEach { print($0.line) }
            results.sessions = sessions
        }

        let plans = try PlanGroup(wants: wants).run(effort: effort)
        if !plans.isEmpty {
            print("\n" + PlanResult.table.header)
            plans.forEach { print($0.line) }
            results.plans = plans
        }

        results.goals = Goal.all(for: results)
        print("\n" + Goal.table.header + (quick ? "   (OF A RUN TOO SHORT FOR FIGURES)" : ""))
        results.goals.forEach { print($0.line) }
        try results.write(to: json)
        print("\nwritten: \(json)")
    }

    /// The rows of a group, each type and number of threads followed by the time of a copy.
    private func printSteps(_ rows: [StepResult]) {
        for (index, row) in rows.enumerated() {
            print(row.line)
            let isLast = !rows[(index + 1)...].contains { $0.types == row.types && $0.threads == row.threads }
            if isLast { print(row.copyLine) }
        }
        print()
        fflush(nil)
    }
}
