// SPDX-License-Identifier: Apache-2.0

import Drawing

/// A question about schedulers, answered in numbers and pictures.
protocol Experiment {
    func run() throws -> Report
}

struct Report {
    let text: String
    var pictures: [Picture] = []

    struct Picture {
        /// Of the file.
        let name: String
        let canvas: Canvas
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

extension [Double] {
    var median: Double { sorted()[count / 2] }
}
