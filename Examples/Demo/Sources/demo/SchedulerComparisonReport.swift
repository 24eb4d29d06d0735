// SPDX-License-Identifier: Apache-2.0

import Digits
import Drawing
import Foundation

/// The findings as text and pictures.
extension SchedulerComparison {
    func report(_ findings: Findings) -> Report {
        Report(
            text: text(findings),
            pictures: [
                .init(name: "schedulers.png", canvas: plot(findings).draw()),
                .init(name: "scheduler_samples.png", canvas: sheet(findings).draw()),
            ])
    }

    // MARK: Text

    private func text(_ findings: Findings) -> String {
        let width = findings.entries.map(\.scheduler.name.count).max() ?? 0
        let levelsWidth = findings.entries.map(\.scheduler.levels.count).max() ?? 0
        var lines = [
            "\(findings.entries.count) schedulers, one model, seed \(seed)",
            "Difference to the converged solution: RMSE over \(Convergence.comparedCount) samples, and the median sample's.",
            "Fréchet distance to the data, and the time it took: of \(Convergence.sampleCount) samples.",
            "",
            "scheduler".padded(to: width) + "  " + "levels".padded(to: levelsWidth) + "  order  " + Measurement.head(),
        ]
        for evaluations in Self.tableEvaluations {
            for entry in findings.entries {
                guard let found = entry.measurement(evaluations) else { continue }
                lines.append(
                    entry.scheduler.name.padded(to: width) + "  " + entry.scheduler.levels.padded(to: levelsWidth)
                        + String(format: "  %5d  ", found.order) + found.row())
            }
            lines.append("")
        }
        lines += [
            String(format: "A perfect sampler's Fréchet distance: %.3f.", findings.exactFrechetDistance),
            "EulerAncestralDiscrete and DDPM take the same steps, in other coordinates. LCM is for distilled models, and this one isn't.",
            "",
            "How far other starts and ends move the converged solution: RMSE, median",
        ]
        lines += solutionLines(findings)
        return lines.joined(separator: "\n")
    }

    /// The difference of each solution from the usual one.
    private func solutionLines(_ findings: Findings) -> [String] {
        guard let usual = findings.solutions[.usual] else { return [] }
        let entries = Dictionary(grouping: findings.entries.filter { $0.ends != nil && $0.ends != .usual }, by: \.ends)
        return entries.compactMap { ends, entries in
            guard let ends, let solution = findings.solutions[ends] else { return nil }
            let error = ErrorSummary(solution.rootMeanSquareDistances(to: usual))
            let names = entries.map(\.scheduler.shortName).joined(separator: ", ")
            return "\(names) (\(ends.remark))".padded(to: 56)
                + String(format: "  %6.4f  %6.4f", error.rootMeanSquare, error.median)
        }.sorted()
    }

    // MARK: Pictures

    private func sheet(_ findings: Findings) -> SampleSheet {
        func row(_ label: String, _ samples: Matrix<Float>, _ error: ErrorSummary? = nil) -> SampleSheet.Row {
            .init(label, samples, count: columns, error: error)
        }
        func rows(stochastic: Bool) -> [SampleSheet.Row] {
            findings.entries.filter { ($0.ends == nil) == stochastic }.compactMap { entry in
                entry.measurement(Self.sheetEvaluations)
                    .map { row(entry.scheduler.shortName, $0.run.samples, $0.error) }
            }
        }
        return SampleSheet(
            title: "\(findings.entries.count) schedulers, \(Self.sheetEvaluations) model evaluations each",
            notes: [
                "Along each column every row starts from the same noise.",
                "RMSE: difference to the solution that the row converges to, over \(Convergence.comparedCount) samples. The last rows add noise.",
            ],
            remarkTitle: "RMSE",
            groups: [
                findings.solutions[.usual].map { [row("converged", $0)] } ?? [], rows(stochastic: false), rows(stochastic: true),
            ],
            side: DigitImages.side)
    }

    private func plot(_ findings: Findings) -> LinePlot {
        LinePlot(
            title: "How fast the schedulers converge", xLabel: "model evaluations",
            yLabel: "difference to the converged solution: RMSE",
            lines: findings.entries.filter { $0.ends != nil }.enumerated().map { index, entry in
                LinePlot.Line(
                    series: index, label: entry.scheduler.shortName,
                    points: entry.measurements.compactMap { measurement in
                        measurement.error.map { (Double(measurement.run.evaluations), $0.rootMeanSquare) }
                    })
            },
            arrows: [])
    }
}

extension SchedulerComparison.Findings.Entry {
    func measurement(_ evaluations: Int) -> Measurement? { measurements.first { $0.run.evaluations == evaluations } }
}
