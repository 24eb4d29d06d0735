// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Drawing

/// Columns: first numbers, aligned right, then text, aligned left.
struct Table {
    let numbers: [String]
    var texts: [String] = []
    var rows: [[String]] = []

    var text: String {
        let all = [numbers + texts] + rows
        let widths = all[0].indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        let lines = all.map { row in
            let cells = row.enumerated().map { column, text in
                let padding = String(repeating: " ", count: widths[column] - text.count)
                return column < numbers.count ? padding + text : column < row.count - 1 ? text + padding : text
            }
            return cells.joined(separator: "  ")
        }
        return lines.joined(separator: "\n")
    }
}

/// A combination of tensors as a formula.
func formula(_ combination: Combination) -> String {
    let terms = combination.terms.map { stream, coefficient -> (isNegative: Bool, text: String) in
        let name =
            switch stream {
            case .sample: "x"
            case .modelOutput: "e"
            case .noise: "z"
            case .prediction: "p"
            case .slot(let slot): "s\(slot)"
            }
        return (coefficient < 0, coefficient.magnitude == 1 ? name : "\(brief(coefficient.magnitude)) \(name)")
    }
    guard let first = terms.first else { return "0" }
    return terms.dropFirst().reduce((first.isNegative ? "-" : "") + first.text) { "\($0) \($1.isNegative ? "-" : "+") \($1.text)" }
}

extension PlannedScheduler {
    /// The sampler's name, or else the class's.
    var name: String { SchedulerCatalog.samplerNames(of: self).first ?? Configuration.className }
}
