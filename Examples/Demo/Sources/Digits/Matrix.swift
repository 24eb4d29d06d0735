// SPDX-License-Identifier: Apache-2.0

import COpenBLAS

/// A dense matrix, row by row.
public struct Matrix<Scalar: BinaryFloatingPoint & Sendable>: Sendable {
    public let rows: Int
    public let columns: Int
    public var elements: [Scalar]

    /// - Precondition: `elements.count == rows * columns`
    public init(rows: Int, columns: Int, elements: [Scalar]) {
        precondition(elements.count == rows * columns, "\(elements.count) elements for a \(rows)x\(columns) matrix")
        (self.rows, self.columns, self.elements) = (rows, columns, elements)
    }

    init(zeros rows: Int, _ columns: Int) {
        self.init(rows: rows, columns: columns, elements: Array(repeating: 0, count: rows * columns))
    }

    subscript(row: Int, column: Int) -> Scalar {
        get { elements[row * columns + column] }
        set { elements[row * columns + column] = newValue }
    }

    public func row(_ index: Int) -> ArraySlice<Scalar> {
        elements[index * columns..<(index + 1) * columns]
    }

    public func prefix(_ count: Int) -> Matrix {
        Matrix(rows: count, columns: columns, elements: Array(elements.prefix(count * columns)))
    }

    public func dropFirst(_ count: Int) -> Matrix {
        Matrix(rows: rows - count, columns: columns, elements: Array(elements.dropFirst(count * columns)))
    }

    var transposed: Matrix {
        var result = Matrix(zeros: columns, rows)
        for i in 0..<rows { for j in 0..<columns { result[j, i] = self[i, j] } }
        return result
    }

    var columnMeans: [Scalar] {
        var sums = [Scalar](repeating: 0, count: columns)
        for i in 0..<rows { for j in 0..<columns { sums[j] += self[i, j] } }
        return sums.map { $0 / Scalar(rows) }
    }

    @inlinable
    public func scaled(by factor: Scalar) -> Matrix {
        factor == 1 ? self : Matrix(rows: rows, columns: columns, elements: elements.map { factor * $0 })
    }

    /// Multiplies column j by `factors[j]`.
    func scalingColumns(by factors: [Scalar]) -> Matrix {
        var result = self
        for i in 0..<rows { for j in 0..<columns { result[i, j] *= factors[j] } }
        return result
    }

    /// Adds `row`, times `factor`, to every row.
    func adding(_ row: [Scalar], times factor: Scalar = 1) -> Matrix {
        var result = self
        for i in 0..<rows { for j in 0..<columns { result[i, j] += factor * row[j] } }
        return result
    }
}

extension Matrix<Float> {
    static func * (left: Matrix, right: Matrix) -> Matrix {
        precondition(left.columns == right.rows)
        var product = Matrix(zeros: left.rows, right.columns)
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans,
            Int32(left.rows), Int32(right.columns), Int32(left.columns),
            1, left.elements, Int32(left.columns), right.elements, Int32(right.columns),
            0, &product.elements, Int32(right.columns))
        return product
    }
}

extension Matrix<Double> {
    static func * (left: Matrix, right: Matrix) -> Matrix {
        precondition(left.columns == right.rows)
        var product = Matrix(zeros: left.rows, right.columns)
        cblas_dgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans,
            Int32(left.rows), Int32(right.columns), Int32(left.columns),
            1, left.elements, Int32(left.columns), right.elements, Int32(right.columns),
            0, &product.elements, Int32(right.columns))
        return product
    }

    init(_ matrix: Matrix<Float>) {
        self.init(rows: matrix.rows, columns: matrix.columns, elements: matrix.elements.map(Double.init))
    }

    /// The covariance of the columns: (X − X̄)ᵀ(X − X̄) / (n − 1).
    var columnCovariance: Matrix {
        let centred = adding(columnMeans, times: -1)
        var covariance = centred.transposed * centred
        for index in covariance.elements.indices { covariance.elements[index] /= Double(rows - 1) }
        return covariance
    }

    /// The eigenvalues of a symmetric matrix, ascending, and its eigenvectors as columns: self = V diag(λ) Vᵀ.
    var symmetricEigendecomposition: (values: [Double], vectors: Matrix) {
        precondition(rows == columns)
        var order = Int32(rows), info: Int32 = 0
        var workLength = 34 * order  // LAPACK needs at least 3 per row, and works best with 2 and its block size, 32.
        var vectorsAsRows = self  // LAPACK stores columns: its column j is our row j.
        var values = [Double](repeating: 0, count: rows)
        var work = [Double](repeating: 0, count: Int(workLength))
        var leadingDimension = order
        dsyev_("V", "U", &order, &vectorsAsRows.elements, &leadingDimension, &values, &work, &workLength, &info)
        precondition(info == 0, "dsyev: \(info)")
        return (values, vectorsAsRows.transposed)
    }

    /// The symmetric square root of a positive semidefinite matrix.
    var symmetricSquareRoot: Matrix {
        let (values, vectors) = symmetricEigendecomposition
        return vectors.scalingColumns(by: values.map { max($0, 0).squareRoot() }) * vectors.transposed
    }
}

extension Matrix<Float> {
    init(_ matrix: Matrix<Double>) {
        self.init(rows: matrix.rows, columns: matrix.columns, elements: matrix.elements.map { Float($0) })
    }
}
