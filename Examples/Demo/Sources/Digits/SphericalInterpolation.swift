// SPDX-License-Identifier: Apache-2.0

import Foundation

extension Matrix<Float> {
    /// Evenly spaced rows on the great circle from one row to another, both ends included (slerp):
    ///
    ///     zₖ = sin((1 − α)θ)/sin θ a + sin(αθ)/sin θ b        α = k/(count − 1)        cos θ = a·b / (|a| |b|)
    ///
    /// The arc between two draws of normal noise keeps the length of normal noise; a straight line would be too short.
    ///
    /// Song, Meng and Ermon 2020, arXiv:2010.02502, section 5.3 and appendix D.5; Shoemake 1985, doi:10.1145/325165.325242.
    ///
    /// - Precondition: neither is a multiple of the other, and `count` ≥ 2.
    public static func sphericalInterpolation(from a: ArraySlice<Float>, to b: ArraySlice<Float>, count: Int) -> Matrix {
        func dot(_ x: ArraySlice<Float>, _ y: ArraySlice<Float>) -> Double { zip(x, y).reduce(0) { $0 + Double($1.0 * $1.1) } }
        let angle = acos(dot(a, b) / (dot(a, a) * dot(b, b)).squareRoot())
        let elements = (0..<count).flatMap { k in
            let position = Double(k) / Double(count - 1)
            let weights = [1 - position, position].map { Float(sin($0 * angle) / sin(angle)) }
            return zip(a, b).map { weights[0] * $0 + weights[1] * $1 }
        }
        return Matrix(rows: count, columns: a.count, elements: elements)
    }
}
