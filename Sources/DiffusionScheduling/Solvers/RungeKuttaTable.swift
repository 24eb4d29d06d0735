// SPDX-License-Identifier: Apache-2.0

/// An explicit method of Runge and Kutta with as many evaluations as its order.
public struct RungeKuttaTable: Sendable {
    /// The weights of the outputs so far, before each evaluation but the first and at the step's end.
    private let rows: [[Double]]

    /// The methods of Euler, Heun, Kutta (order 3) and Runge and Kutta (order 4).
    ///
    /// - Precondition: `order` is 1, 2, 3 or 4.
    public init(order: Int) {
        let sixth = 1.0 / 6, third = 1.0 / 3
        let tables: [[[Double]]] = [
            [[1]],
            [[1], [0.5, 0.5]],
            [[0.5], [-1, 2], [sixth, 4 * sixth, sixth]],
            [[0.5], [0, 0.5], [0, 0, 1], [sixth, third, third, sixth]],
        ]
        rows = tables[order - 1]
    }

    /// The number of evaluations, which is the order.
    public var order: Int { rows.count }

    /// The share of the step after which each evaluation is made.
    var nodes: [Double] { [0] + rows.dropLast().map { $0.reduce(0, +) } }

    /// The weights of a stage less those of the stage before, from the first output on.
    func increments(ofStage stage: Int) -> [Double] {
        guard stage > 0 else { return rows[0] }
        return zip(rows[stage], rows[stage - 1] + [0]).map { $0 - $1 }
    }
}
