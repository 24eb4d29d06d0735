// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A distribution of digits whose diffusion can be reversed exactly: a normal distribution around each image.
///
/// The plain choice N(μᵢ, h² I) makes every sample grainy, and its covariance exceeds the data's by h² I. The smoothed bootstrap
/// instead shapes the noise like the data's own covariance C, around images drawn a little towards their mean m:
///
///     p(x) = Σᵢ πᵢ N(x; cᵢ, h² C)        cᵢ = m + √(1 − h²) (μᵢ − m)
///
/// Mean and covariance of p are the data's for equal weights πᵢ and every bandwidth h. In the basis U of C's eigenvectors
/// everything below is elementwise: C = U diag(k) Uᵀ.
///
/// Silverman, Density Estimation for Statistics and Data Analysis, 1986, section 6.4.1.
public struct DigitMixture: Sendable {
    /// ln πᵢ up to a constant, one per image; −∞ leaves an image out (for example, to keep only one digit).
    public var logWeights: [Float]

    private let mean: [Float]
    /// U and Uᵀ.
    private let basis, basisTransposed: Matrix<Float>
    /// Uᵀ(cᵢ − m): one per row, and one per column.
    private let centres, centresTransposed: Matrix<Float>
    /// The elementwise squares of `centres`, one per row.
    private let squaredCentres: Matrix<Float>
    /// h² k
    private let variances: [Double]

    /// - Parameters:
    ///   - images: `[image, pixel]`
    ///   - bandwidth: h, from 0 (the images themselves) to 1 (one normal distribution).
    public init(images: Matrix<Float>, bandwidth: Double) {
        let images = Matrix<Double>(images)
        let mean = images.columnMeans
        let (eigenvalues, eigenvectors) = images.columnCovariance.symmetricEigendecomposition
        let centres = Matrix<Float>(images.adding(mean, times: -1) * eigenvectors)
            .scalingColumns(by: Array(repeating: Float((1 - bandwidth * bandwidth).squareRoot()), count: images.columns))

        self.logWeights = Array(repeating: 0, count: images.rows)
        self.mean = mean.map { Float($0) }
        self.basis = Matrix<Float>(eigenvectors)
        self.basisTransposed = basis.transposed
        self.centres = centres
        self.centresTransposed = centres.transposed
        self.squaredCentres = Matrix(rows: centres.rows, columns: centres.columns, elements: centres.elements.map { $0 * $0 })
        self.variances = eigenvalues.map { bandwidth * bandwidth * max($0, 0) }
    }

    /// The mixture of one digit's images.
    public func restricted(to digit: Int, of digits: DigitImages) -> DigitMixture {
        var mixture = self
        mixture.logWeights = digits.labels.map { $0 == digit ? 0 : -.infinity }
        return mixture
    }

    /// The exact denoiser: E[x₀ | x] for x = A x₀ + S ε with x₀ from the mixture and ε standard normal.
    ///
    /// Formula, with V = A² h² k + S², x and cᵢ relative to the mean and in the basis U, and elementwise products:
    ///
    ///     wᵢ ∝ πᵢ exp( −½ Σ (x − A cᵢ)² / V )
    ///     E[x₀ | x] = Σᵢ wᵢ ( cᵢ + A h² k / V (x − A cᵢ) )
    ///
    /// - Parameters:
    ///   - noisy: x, `[sample, pixel]`
    ///   - signalRate: A
    ///   - noiseRate: S, more than 0
    public func posteriorMean(of noisy: Matrix<Float>, signalRate: Double, noiseRate: Double) -> Matrix<Float> {
        let noisyVariances = variances.map { signalRate * signalRate * $0 + noiseRate * noiseRate }
        let x = noisy.adding(mean, times: -Float(signalRate)) * basis

        // Σ x²/V is equal for all images and drops out of the weights; the rest is linear in x.
        var weights = x.scalingColumns(by: noisyVariances.map { Float(signalRate / $0) }) * centresTransposed
        let halfInverse = Matrix(
            rows: squaredCentres.columns, columns: 1,
            elements: noisyVariances.map { Float(signalRate * signalRate / (2 * $0)) })
        let halfNorms = (squaredCentres * halfInverse).elements
        let biases = zip(logWeights, halfNorms).map { $0 - $1 }
        weights.replaceRowsBySoftmax(adding: biases)

        let expectedCentres = weights * centres
        let gains = zip(variances, noisyVariances).map { Float(signalRate * $0 / $1) }
        var posterior = expectedCentres
        for row in 0..<x.rows {
            for k in 0..<x.columns {
                posterior[row, k] += gains[k] * (x[row, k] - Float(signalRate) * expectedCentres[row, k])
            }
        }
        return (posterior * basisTransposed).adding(mean)
    }

    /// Exact draws, as a perfect sampler would make them.
    ///
    /// The draws come from the mixture itself or, with a noise rate S, from A x₀ + S ε, whose normal distributions lie around A cᵢ
    /// with variances A² h² k + S².
    public func draw(
        _ count: Int, signalRate: Double = 1, noiseRate: Double = 0, using noise: inout NormalNoise
    ) -> Matrix<Float> {
        let deviations = variances.map { (signalRate * signalRate * $0 + noiseRate * noiseRate).squareRoot() }
        let likelihoods = logWeights.map { Double(exp($0)) }
        let total = likelihoods.reduce(0, +)
        var draws = Matrix<Float>(zeros: count, centres.columns)
        for row in 0..<count {
            var remaining = noise.uniform() * total
            let image =
                likelihoods.firstIndex {
                    remaining -= $0; return remaining <= 0
                } ?? likelihoods.count - 1
            for k in 0..<centres.columns {
                draws[row, k] = Float(signalRate) * centres[image, k] + Float(deviations[k] * noise.normal())
            }
        }
        return (draws * basisTransposed).adding(mean, times: Float(signalRate))
    }
}

extension Matrix<Float> {
    /// Replaces each row by exp(row + biases), scaled to sum 1.
    fileprivate mutating func replaceRowsBySoftmax(adding biases: [Float]) {
        precondition(biases.count == columns)
        for start in stride(from: 0, to: elements.count, by: columns) {
            var largest = -Float.infinity
            for j in 0..<columns {
                elements[start + j] += biases[j]
                largest = max(largest, elements[start + j])
            }
            // The largest summand is 1; summands below e⁻³⁰ together amount to less than half a unit in its last place.
            var sum: Float = 0
            for j in 0..<columns {
                let exponent = elements[start + j] - largest
                let weight = exponent < -30 ? 0 : exp(exponent)
                elements[start + j] = weight
                sum += weight
            }
            for j in 0..<columns { elements[start + j] /= sum }
        }
    }
}
