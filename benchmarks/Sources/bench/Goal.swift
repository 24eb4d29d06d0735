// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// A line of the table of goals, and the outcome of this run.
struct Goal: Codable {
    enum Outcome: String, Codable {
        case met, missed
        /// The line's rows weren't measured in this run.
        case notMeasured = "not measured"
        /// `make bench-compare` measures the line.
        case elsewhere = "make bench-compare"
    }

    let name: String
    let target: String
    var outcome: Outcome
    /// The value farthest from the target, and its row.
    var worst: Double?
    var place: String?
    var median: Double?
    /// The number of rows that reach the target, and the number of rows.
    var met = 0, count = 0

    static let table = Table(columns: [
        .init(title: "goal", width: 80, isText: true), .init(title: "target", width: 9), .init(title: "worst", width: 6),
        .init(title: "median", width: 6), .init(title: "rows met", width: 9), .init(title: "", width: 12, isText: true),
        .init(title: "the worst row", width: 40, isText: true),
    ])

    var line: String {
        Self.table.line([
            name, target, worst.map { decimal($0, 2) } ?? "", median.map { decimal($0, 2) } ?? "",
            count > 0 ? "\(met) of \(count)" : "", outcome.rawValue, place ?? "",
        ])
    }
}

extension Goal {
    private typealias Value = (value: Double, place: String)

    static func all(for results: BenchmarkResults) -> [Goal] {
        let byHand = StepComparison.byHand
        // The lines about bare loops cover plain steps: without thresholds or guidance, with one element type.
        let plain = results.steps.filter { $0.comparison?.name ?? byHand == byHand && !$0.scheduler.contains("thresholded") }
        let large = plain.filter { $0.elements >= 3_000_000 }
        let cached = plain.filter { (16_000...600_000).contains($0.elements) }
        let smallest = plain.filter { $0.elements == 64 && $0.form == .inPlace }
        func compared(_ name: String) -> [StepResult] { results.steps.filter { $0.comparison?.name == name } }
        func shares(_ rows: [StepResult]) -> [Value] { rows.map { ($0.shareOfComparison!, $0.name) } }
        /// Speeds relative to the loops by hand, for rows that have one.
        func speeds(_ rows: [StepResult]) -> [Value] {
            rows.compactMap { row in row.comparison.map { _ in (1 / row.shareOfComparison!, row.name) } }
        }
        let sessions = Dictionary(results.sessions.map { ($0.kind, $0) }, uniquingKeysWith: { first, _ in first })
        let thresholded = compared("plain").filter { $0.elements > 64 }
        func bandwidths(_ rows: [StepResult]) -> [Value] { rows.map { ($0.fractionOfBare, $0.name) } }
        /// Times on one thread divided by times on two.
        func speedUps(_ rows: [StepResult]) -> [Value] { pairs(rows, { $0.threads == 1 }, { $0.threads == 2 }) }
        let byHandTarget = 0.95
        let float32 = cached.filter { $0.elementType == .float32 }
        return [
            // The core's goals, in the order of the README's first table.
            atMost(40, "step in place of 64 elements in Swift: ns", smallest.map { ($0.step.lowerDecile * 1e9, $0.name) }),
            elsewhere("step of 64 elements through the C ABI: ns"),
            atLeast(byHandTarget, "step in cache, 16 K to 512 K, float32: share of the loop by hand's speed", speeds(float32)),
            atLeast(byHandTarget, "  three outputs", speeds(float32.filter { $0.writes == 3 })),
            atLeast(0.9, "  half types", speeds(cached.filter { $0.elementType.size == 2 })),
            elsewhere("thresholded step of 8 x 3 x 64 x 64 and 8 x 3 x 256 x 256 against diffusers"),
            atMost(3.5, "thresholded step, 16 K to 3.1 M: times the plain step", shares(thresholded)),
            medianAtLeast(0.99, "step above the caches: median share of the bare loop's bandwidth", bandwidths(large)),
            atLeast(
                2, "256 rows of 16 K at different timesteps: times the speed of single calls",
                sessions[.differentTimesteps].map { [(1 / $0.ofSingleCalls, $0.name)] } ?? []),
            // The others.
            atLeast(
                0.95, "step above the caches, in place: share of the bare loop's bandwidth",
                bandwidths(large.filter { $0.form == .inPlace })),
            atLeast(0.95, "  out of place", bandwidths(large.filter { $0.form == .outOfPlace })),
            atLeast(
                0.85, "step in cache, 16 K to 512 K, float64: share of the bare loop's bandwidth",
                bandwidths(cached.filter { $0.elementType == .float64 })),
            elsewhere("order 3 against diffusers, 16 K and 64 K"),
            elsewhere("order 3 against diffusers, above"),
            elsewhere("order 1 and DDIM against diffusers, 16 K and 64 K"),
            elsewhere("order 1 and DDIM against diffusers, above"),
            elsewhere("against the hand-fused torch.compile"),
            elsewhere("against the hand-fused torch.compile, geometric mean"),
            atMost(
                0.55, "half types: share of the time of float32, 3.1 M and more, two threads",
                pairs(large.filter { $0.threads == 2 }, { $0.elementType.size == 2 }, { $0.elementType == .float32 })),
            atLeast(1.6, "two threads against one, 64 K to 512 K: times the speed", speedUps(cached)),
            atLeast(1.6, "  64 K", speedUps(cached.filter { $0.elements < 100_000 })),
            atLeast(1.6, "  512 K", speedUps(cached.filter { $0.elements > 500_000 })),
            atMost(
                0, "allocations of a step in place",
                results.steps.filter { $0.form != .outOfPlace }.compactMap { row in
                    row.allocationsPerStep.map { ($0, row.name) }
                }),
            elsewhere("in a torch process, between products: 90th percentile, of the median"),
            elsewhere("setTimesteps against diffusers"),
            atMost(1, "guidance in the step: share of the time of separate passes", shares(compared("passes"))),
            atMost(
                1.1, "256 rows of 16 K at different timesteps: times the same at one",
                sessions[.differentTimesteps].map { [($0.ofOneTimestep, $0.name)] } ?? []),
        ]
    }

    /// A line that only `make bench-compare` measures, and whose target is told there.
    private static func elsewhere(_ name: String) -> Goal { Goal(name: name, target: "", outcome: .elsewhere) }

    private static func atLeast(_ target: Double, _ name: String, _ values: [Value]) -> Goal {
        make(name, ">= \(target.formatted())", values, worst: values.min { $0.value < $1.value }) { $0 >= target }
    }

    private static func atMost(_ target: Double, _ name: String, _ values: [Value]) -> Goal {
        make(name, "<= \(target.formatted())", values, worst: values.max { $0.value < $1.value }) { $0 <= target }
    }

    /// A target of the rows' median, which single rows may miss.
    private static func medianAtLeast(_ target: Double, _ name: String, _ values: [Value]) -> Goal {
        var goal = atLeast(target, name, values)
        if let median = goal.median { goal.outcome = median >= target ? .met : .missed }
        return goal
    }

    private static func make(
        _ name: String, _ target: String, _ values: [Value], worst: Value?, isMet: (Double) -> Bool
    ) -> Goal {
        guard let worst else { return Goal(name: name, target: target, outcome: .notMeasured) }
        return Goal(
            name: name, target: target, outcome: isMet(worst.value) ? .met : .missed, worst: worst.value, place: worst.place,
            median: values.map(\.value).sorted()[values.count / 2], met: values.count { isMet($0.value) }, count: values.count)
    }

    /// Times of the first kind divided by times of the second, for rows that agree in everything else.
    private static func pairs(
        _ results: [StepResult], _ first: (StepResult) -> Bool, _ second: (StepResult) -> Bool
    ) -> [Value] {
        results.filter(first).flatMap { a in
            results.filter(second).filter { b in
                let differsInThreads = a.threads != b.threads
                return a.scheduler == b.scheduler && a.order == b.order && a.elements == b.elements && a.form == b.form
                    && (!differsInThreads || a.types == b.types)
            }.map { b in (a.step.lowerDecile / b.step.lowerDecile, a.name) }
        }
    }
}

extension StepResult {
    /// The row's name, as matched by the filter.
    var name: String { "\(scheduler) \(order)/\(types.name)/\(elements)/\(threads)/\(form.rawValue)" }
}
