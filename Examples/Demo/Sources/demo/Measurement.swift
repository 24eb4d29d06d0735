// SPDX-License-Identifier: Apache-2.0

import Digits
import Drawing
import Foundation

/// How good the samples of one run are, and how long it took.
struct Measurement {
    let order: Int
    let steps: Int
    let run: Sampler.Run
    /// To the converged solution, over the compared samples; nil for stochastic runs, which don't converge to one.
    let error: ErrorSummary?
    /// To the data, or of inverse runs to noise; nil where too few samples were drawn.
    let frechetDistance: Double?

    /// - Parameters:
    ///   - converged: the samples that the first ones of the run should be; nil for stochastic runs.
    ///   - goal: where all samples together should be; nil if there are too few of them.
    init(_ run: Sampler.Run, order: Int, steps: Int, converged: Matrix<Float>?, goal: Matrix<Float>?) {
        (self.order, self.steps, self.run) = (order, steps, run)
        error = converged.map { ErrorSummary(run.samples.prefix($0.rows).rootMeanSquareDistances(to: $0)) }
        frechetDistance = goal.map { run.samples.frechetDistance(to: $0) }
    }

    // MARK: As a row of a table

    /// The heads of the columns.
    static func head(withErrors: Bool = true) -> String {
        "evaluations  " + (withErrors ? "  RMSE  median  " : "") + "Fréchet  scheduler s  model s"
    }

    /// - Parameter withErrors: whether the table has columns for errors, which stay empty in rows that have none.
    func row(withErrors: Bool = true) -> String {
        let errors =
            error.map { String(format: "%6.4f  %6.4f  ", $0.rootMeanSquare, $0.median) } ?? String(repeating: " ", count: 16)
        return String(format: "%11d  ", run.evaluations) + (withErrors ? errors : "")
            + String(format: "%7.3f  %11.4f  %7.2f", frechetDistance ?? .nan, run.schedulerSeconds, run.modelSeconds)
    }
}

/// How far some samples are from where they should be.
struct ErrorSummary {
    /// Over all pixels of all samples. The few samples that end as another digit have the greatest part in it.
    let rootMeanSquare: Double
    /// The median of the samples' own root mean squares.
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
