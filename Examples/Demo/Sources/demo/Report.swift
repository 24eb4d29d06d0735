import Digits
import Drawing
import Foundation

/// The findings as text and pictures.
struct Report {
    let findings: Experiment.Findings
    let seed: UInt64

    var text: String {
        var lines = [
            "\(findings.schedulerName), seed \(seed)",
            "Difference to the converged solution: RMSE over \(Experiment.comparedCount) samples, and the median sample's.",
            "Fréchet distance to the data, and the time it took: of \(Experiment.sampleCount) samples.",
            "",
            "order  evaluations    RMSE  median  Fréchet  scheduler s  model s",
        ]
        for found in findings.measurements {
            guard let distance = found.frechetDistance else { continue }
            lines.append(
                String(
                    format: "%5d  %11d  %6.4f  %6.4f  %7.3f  %11.4f  %7.2f", found.order, found.run.evaluations,
                    found.error, found.medianError, distance, found.run.schedulerSeconds, found.run.modelSeconds))
        }
        lines += [
            "",
            String(format: "Exact draws from the mixture have the Fréchet distance %.3f.", findings.exactFrechetDistance),
            String(
                format: "Nearest image, median RMS difference: %.3f for converged samples, %.3f among the images themselves.",
                findings.nearestToSamples, findings.nearestToData),
        ]
        lines += findings.matches.map(sentence)
        return lines.joined(separator: "\n")
    }

    private func sentence(_ match: Experiment.Match) -> String {
        let found = match.measurement
        let reached = String(
            format: "What %d evaluations of order %d reach (RMSE %.4f) needs ", found.run.evaluations, found.order, found.error)
        guard let firstOrder = match.firstOrder else {
            return reached + "more than \(Experiment.convergedSteps) of order 1."
        }
        return reached + "\(firstOrder.run.evaluations) of order 1."
    }

    /// Grouped by the number of steps, so that the orders stand one below the other.
    func sheet(columns: Int, steps sheetSteps: [Int]) -> SampleSheet {
        func row(_ label: String, _ remark: String, _ run: Solver.Run) -> SampleSheet.Row {
            .init(label: label, remark: remark, images: (0..<columns).map { Array(run.samples.row($0)) })
        }
        var groups = sheetSteps.map { steps in
            findings.measurements.filter { $0.steps == steps }.map { found in
                row("order \(found.order), \(found.steps) steps", String(format: "%.4f", found.error), found.run)
            }
        }
        groups.append([row("converged", "", findings.converged)])
        return SampleSheet(
            title: "\(findings.schedulerName), the same start noise along each column", remarkTitle: "RMSE",
            groups: groups, side: DigitImages.side)
    }

    var plot: LogLogPlot {
        let byOrder = Dictionary(grouping: findings.measurements, by: \.order).sorted { $0.key < $1.key }
        return LogLogPlot(
            title: "\(findings.schedulerName): how fast it converges",
            xLabel: "model evaluations",
            yLabel: "difference to the converged solution: RMSE, dashed: median sample",
            lines: byOrder.enumerated().flatMap { index, measured in
                let found = measured.value.sorted { $0.steps < $1.steps }
                let errors = found.map { (x: Double($0.run.evaluations), y: $0.error) }
                let medianErrors = found.map { (x: Double($0.run.evaluations), y: $0.medianError) }
                return [
                    LogLogPlot.Line(series: index, label: "order \(measured.key)", points: errors),
                    LogLogPlot.Line(series: index, isDashed: true, points: medianErrors),
                ]
            },
            arrows: findings.matches.compactMap { match in
                match.firstOrder.map {
                    .init(
                        label: "\($0.run.evaluations)", y: match.measurement.error,
                        fromX: Double(match.measurement.run.evaluations), toX: Double($0.run.evaluations))
                }
            })
    }
}
