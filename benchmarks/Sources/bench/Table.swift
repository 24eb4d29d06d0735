// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Rows of fixed-width columns, for a terminal or a README.
struct Table {
    struct Column {
        let title: String
        let width: Int
        var isText = false
    }

    let columns: [Column]

    var header: String {
        let titles = line(columns.map(\.title))
        return titles + "\n" + String(repeating: "-", count: titles.count)
    }

    /// A line with text aligned left and numbers aligned right.
    func line(_ cells: [String]) -> String {
        let padded = zip(cells, columns).map { cell, column in
            let padding = String(repeating: " ", count: max(column.width - cell.count, 0))
            return column.isText ? cell + padding : padding + cell
        }
        let joined = padded.joined(separator: "  ")
        return String(joined.reversed().drop { $0 == " " }.reversed())
    }
}

extension StepResult {
    static let table = Table(columns: [
        .init(title: "step", width: 23, isText: true), .init(title: "form", width: 12, isText: true),
        .init(title: "type", width: 19, isText: true), .init(title: "elements", width: 10), .init(title: "threads", width: 7),
        .init(title: "time", width: 8), .init(title: "spread", width: 6), .init(title: "GB/s, error", width: 18),
        .init(title: "of bare", width: 7), .init(title: "allocations", width: 11), .init(title: "beside", width: 16),
    ])

    static let legend = """
        time: median of a step; spread: interquartile range; error: the greatest against float64, in units in the last place;
        of bare: share of the bandwidth of a bare loop with the same streams, measured alternately (lower deciles)
        beside: the step's time as a share of that of the step without thresholds (plain), of the step that copies what it remembers
        (copying), of guidance in separate passes and a plain step (passes), of a loop written for that row (by hand), of the step
        whose model output is float32 as well
        ~ rounds were repeated because threads shared a core or times jumped; ! that didn't help
        """

    var line: String {
        Self.table.line([
            "\(scheduler) \(order)", form.rawValue, types.name, "\(elements)", "\(threads)", timeText(step.median),
            percentText(step.spread),
            "\(decimal(gigabytesPerSecond, 1)), \(decimal(maximumErrorInULP, 2)) ulp", decimal(fractionOfBare, 2) + mark,
            allocationsPerStep.map { decimal($0, $0 == 0 ? 0 : 2) } ?? "unknown",
            comparison.map { "\(decimal(shareOfComparison!, 2)) x \($0.name)" } ?? "",
        ])
    }

    /// The machine's own speed: the same bytes copied from one tensor to another.
    var copyLine: String {
        Self.table.line([
            "copy", copyStore.rawValue, elementType.rawValue, "\(elements)", "\(threads)", timeText(copy.median),
            percentText(copy.spread), decimal(copyGigabytesPerSecond, 1) + ", 0.00 ulp", "", "", "",
        ])
    }

    private var mark: String { isDisturbed ? "!" : repeatedRounds > 0 ? "~" : "" }
}

extension PlanResult {
    static let table = Table(columns: [
        .init(title: "setTimesteps(50)", width: 19, isText: true), .init(title: "noise levels", width: 12, isText: true),
        .init(title: "time", width: 8), .init(title: "spread", width: 6), .init(title: "allocations", width: 11),
    ])

    var line: String {
        Self.table.line([
            scheduler, sigmas, timeText(time.median), percentText(time.spread),
            allocations.map { decimal($0, 0) } ?? "unknown",
        ])
    }
}

extension SessionsResult {
    static let table = Table(columns: [
        .init(title: "rows of many sessions", width: 42, isText: true), .init(title: "threads", width: 7),
        .init(title: "time", width: 8), .init(title: "spread", width: 6), .init(title: "GB/s", width: 6),
        .init(title: "of one timestep", width: 15), .init(title: "of single calls", width: 15),
        .init(title: "allocations", width: 11),
    ])

    var line: String {
        Self.table.line([
            "\(rows) x \(elementsPerRow), \(kind.rawValue)", "\(threads)", timeText(time.median), percentText(time.spread),
            decimal(Double(bytes) / time.median * 1e-9, 1),
            decimal(ofOneTimestep, 2) + (isDisturbed ? "!" : repeatedRounds > 0 ? "~" : ""), decimal(ofSingleCalls, 2),
            allocations.map { decimal($0, 0) } ?? "unknown",
        ])
    }
}

func timeText(_ seconds: Double) -> String {
    switch seconds {
    case ..<1e-6: "\(decimal(seconds * 1e9, 0)) ns"
    case ..<1e-3: "\(decimal(seconds * 1e6, 1)) us"
    case ..<1: "\(decimal(seconds * 1e3, 2)) ms"
    default: "\(decimal(seconds, 2)) s"
    }
}

func percentText(_ share: Double) -> String { "\(decimal(100 * share, 0))%" }

func decimal(_ value: Double, _ places: Int) -> String { String(format: "%.\(places)f", value) }
