// SPDX-License-Identifier: Apache-2.0

extension Matrix<Float> {
    /// The root of the mean square of all elements.
    public var rootMeanSquare: Double {
        (elements.reduce(0) { $0 + Double($1 * $1) } / Double(elements.count)).squareRoot()
    }

    /// The root mean square of each row's difference from the same row of `other`.
    public func rootMeanSquareDistances(to other: Matrix) -> [Double] {
        precondition(rows == other.rows && columns == other.columns)
        return (0..<rows).map { i in
            let sum = zip(row(i), other.row(i)).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
            return (sum / Double(columns)).squareRoot()
        }
    }

    /// Each row's root mean square distance to the nearest row of `others`, skipping a row identical to it (so the data can be
    /// compared with itself).
    public func nearestDistances(to others: Matrix) -> [Double] {
        (0..<rows).map { i in
            let row = row(i)
            var nearest = Float.infinity
            for j in 0..<others.rows {
                var sum: Float = 0
                for (a, b) in zip(row, others.row(j)) { sum += (a - b) * (a - b) }
                if sum > 0 { nearest = min(nearest, sum) }
            }
            return Double((nearest / Float(columns)).squareRoot())
        }
    }
}

extension Matrix<Float> {
    /// The Fréchet distance between two normal distributions, with the means and covariances of these rows and of the other's:
    ///
    ///     |m₁ − m₂|² + tr( C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½ )
    ///
    /// Zero for equal means and covariances, but not for two finite draws from one distribution.
    ///
    /// Heusel et al. 2017, arXiv:1706.08500, equation 6: there on a network's activations, here on pixels.
    public func frechetDistance(to other: Matrix) -> Double {
        let (here, there) = (Matrix<Double>(self), Matrix<Double>(other))
        let meanTerm = zip(here.columnMeans, there.columnMeans).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
        let (covariance, otherCovariance) = (here.columnCovariance, there.columnCovariance)
        let root = covariance.symmetricSquareRoot
        let eigenvalues = (root * otherCovariance * root).symmetricEigendecomposition.values
        let crossTerm = eigenvalues.reduce(0) { $0 + max($1, 0).squareRoot() }
        return meanTerm + covariance.trace + otherCovariance.trace - 2 * crossTerm
    }
}

extension Matrix<Double> {
    fileprivate var trace: Double { (0..<rows).reduce(0) { $0 + self[$1, $1] } }
}
