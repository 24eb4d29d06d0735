// SPDX-License-Identifier: Apache-2.0

import Digits
import Drawing
import Foundation

/// The findings as text and pictures.
extension Convergence {
    func report(_ findings: Findings) -> Report {
        Report(
            text: text(findings),
            pictures: [
                .init(name: "samples.png", canvas: sheet(findings).draw()),
                .init(name: "convergence.png", canvas: plot(findings).draw()),
            ])
    }

    private var goalName: String { solver.isInverse ? "normal noise" : "the data" }

    // MARK: Text

    private func text(_ findings: Findings) -> String {
        var lines = ["\(solver.name), seed \(seed)"]
        if !solver.isStochastic {
            lines.append(
                "Difference to the converged solution: RMSE over \(Self.comparedCount) samples, and the median sample's.")
        }
        lines += [
            "Fréchet distance to \(goalName), and the time it took: of \(Self.sampleCount) samples.",
            "",
            "order  " + Measurement.head(withErrors: !solver.isStochastic),
        ]
        lines += findings.measurements.filter { $0.frechetDistance != nil }.map {
            String(format: "%5d  ", $0.order) + $0.row(withErrors: !solver.isStochastic)
        }
        lines += ["", String(format: "A perfect sampler's Fréchet distance: %.3f.", findings.exactFrechetDistance)]
        if !solver.isInverse {
            lines.append(
                String(
                    format: "Nearest image, median RMS difference: %.3f for samples of %d steps, %.3f among the images.",
                    findings.nearestToSamples, findings.converged.evaluations, findings.nearestToData))
        }
        lines += findings.matches.map { sentence($0, findings) }
        return lines.joined(separator: "\n")
    }

    private func sentence(_ match: Match, _ findings: Findings) -> String {
        let found = match.measurement
        let reached = String(
            format: "What %d evaluations of order %d reach (RMSE %.4f) needs ", found.run.evaluations, found.order,
            match.error.rootMeanSquare)
        guard let firstOrder = match.firstOrder else {
            return reached + "more than \(findings.converged.evaluations) of order 1."
        }
        return reached + "\(firstOrder.run.evaluations) of order 1."
    }

    // MARK: Pictures

    /// Samples grouped by number of steps, with the orders one below the other.
    private func sheet(_ findings: Findings) -> SampleSheet {
        func row(_ label: String, _ samples: Matrix<Float>, _ error: ErrorSummary? = nil) -> SampleSheet.Row {
            .init(label, samples, count: columns, error: error)
        }
        var groups = solver.isInverse ? [[row("picture", findings.start)]] : []
        groups += sheetSteps.map { steps in
            findings.measurements.filter { $0.steps == steps }
                .map { row("order \($0.order), \($0.steps) steps", $0.run.samples, $0.error) }
        }
        let most = "\(findings.converged.evaluations) steps"
        groups.append([row(solver.isStochastic ? most : "converged: \(most)", findings.converged.samples)])
        groups.append(findings.ddim.map { row("DDIM, \($0.steps) steps", $0.run.samples, $0.error) })
        var notes = ["Along each column every row starts from the same " + (solver.isInverse ? "picture." : "noise.")]
        if !solver.isStochastic { notes[0] += " RMSE: difference to the converged row, over \(Self.comparedCount) samples." }
        if let interpolation = findings.interpolation {
            groups.append([row("DDIM, between noises", interpolation.samples)])
            notes.append(
                "Last row: \(interpolation.evaluations) steps from noise that turns, column by column, "
                    + "from the first column's into the last one's.")
        }
        return SampleSheet(
            title: "\(solver.name): how few steps are enough?", notes: notes,
            remarkTitle: solver.isStochastic ? "" : "RMSE", groups: groups.filter { !$0.isEmpty }, side: DigitImages.side)
    }

    /// The Fréchet distances of stochastic runs, or the distances of other runs to the converged solution.
    private func plot(_ findings: Findings) -> LinePlot {
        let byOrder = Dictionary(grouping: findings.measurements, by: \.order).sorted { $0.key < $1.key }
        return LinePlot(
            title: "\(solver.name): how fast it converges",
            xLabel: "model evaluations",
            yLabel: solver.isStochastic
                ? "Fréchet distance to \(goalName)" : "difference to the converged solution: RMSE, dashed: median sample",
            lines: byOrder.enumerated().flatMap { index, measured in
                let found = measured.value.sorted { $0.steps < $1.steps }
                func points(_ value: (Measurement) -> Double?) -> [(x: Double, y: Double)] {
                    found.compactMap { found in value(found).map { (Double(found.run.evaluations), $0) } }
                }
                return [
                    LinePlot.Line(
                        series: index, label: "order \(measured.key)",
                        points: points { $0.error?.rootMeanSquare ?? $0.frechetDistance }),
                    LinePlot.Line(series: index, isDashed: true, points: points { $0.error?.median }),
                ]
            },
            arrows: findings.matches.compactMap { match in
                match.firstOrder.map {
                    .init(
                        label: "\($0.run.evaluations)", y: match.error.rootMeanSquare,
                        fromX: Double(match.measurement.run.evaluations), toX: Double($0.run.evaluations))
                }
            })
    }
}
