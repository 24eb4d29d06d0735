// SPDX-License-Identifier: Apache-2.0

import Digits
import Drawing
import Foundation

/// The quality of a run's samples, and the run's time.
struct Measurement {
    let order: Int
    let steps: Int
    let run: Sampler.Run
    /// The distance to the converged solution, over the compared samples; nil for stochastic runs, which don't converge to one.
    let error: ErrorSummary?
    /// The distance to the data, or to noise for inverse runs; nil if too few samples were drawn.
    let frechetDistance: Double?

    /// - Parameters:
    ///   - converged: the exact results for the run's first samples; nil for stochastic runs.
    ///     - goal: the distribution that all samples should have; nil if there are too few of them.
    init(_ run: Sampler.Run, order: Int, steps: Int, converged: Matrix<Float>?, goal: Matrix<Float>?) {
        (self.order, self.steps, self.run) = (order, steps, run)
        error = converged.map { ErrorSummary(run.samples.prefix($0.rows).rootMeanSquareDistances(to: $0)) }
        frechetDistance = goal.map { run.samples.frechetDistance(to: $0) }
    }

    // MARK: Rows of tables

    /// The heads of the columns.
    static func head(withErrors: Bool = true) -> String {
        "evaluations  " + (withErrors ? "  RMSE  median  " : "") + "Fréchet  scheduler s  model s"
    }

    /// - Parameter withErrors: whether the table has columns for errors; rows without errors leave them empty.
    func row(withErrors: Bool = true) -> String {
        let errors =
            error.map { String(format: "%6.4f  %6.4f  ", $0.rootMeanSquare, $0.median) } ?? String(repeating: " ", count: 16)
        return String(format: "%11d  ", run.evaluations) + (withErrors ? errors : "")
            + String(format: "%7.3f  %11.4f  %7.2f", frechetDistance ?? .nan, run.schedulerSeconds, run.modelSeconds)
    }
}

/// The distance of samples from their exact results.
struct ErrorSummary {
    /// Over all pixels of all samples, dominated by the few samples that end as another digit.
    let rootMeanSquare: Double
    /// The median of the root mean squares of single samples.
    let median: Double

    init(_ errors: [Double]) {
        rootMeanSquare = (errors.reduce(0) { $0 + $1 * $1 } / Double(errors.count)).squareRoot()
        median = errors.median
    }
}

extension SampleSheet.Row {
    /// The first samples of a run, with their error as the remark.
    init(_ label: String, _ samples: Matrix<Float>, count: Int, error: ErrorSummary? = nil) {
        self.init(
            label: label, remark: error.map { String(format: "%.4f", $0.rootMeanSquare) } ?? "",
            images: (0..<count).map { Array(samples.row($0)) })
    }
}

extension [Double] {
    var median: Double { sorted()[count / 2] }
}
