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
        /// The file's name.
        let name: String
        let canvas: Canvas
    }
}

extension String {
    func padded(to width: Int) -> String { self + String(repeating: " ", count: max(width - count, 0)) }
}
