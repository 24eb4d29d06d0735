// SPDX-License-Identifier: Apache-2.0

/// One step of the probability flow in λ = ln(A/S), whose linear part has an exact solution (Lu et al. 2022, arXiv:2206.00927,
/// proposition 3.1, and arXiv:2211.01095, proposition 4.1).
///
/// From s to t, with h = λ_t − λ_s and a model that predicts the clean sample or the noise,
///
///     x' = (S_t/S_s) x + A_t h ∫₀¹ e^{−h(1−v)} p(v) dv          y = −h
///     x' = (A_t/A_s) x − S_t h ∫₀¹ e^{h(1−v)} ε(v) dv           y = h
///
/// A stochastic step adds noise of the share θ and removes as much more, with q = 1 + θ² (Xue et al. 2023, arXiv:2309.05019):
///
///     x' = (S_t/S_s) e^{−θ² h} x + q A_t h ∫₀¹ e^{−q h(1−v)} p(v) dv + S_t √(1 − e^{−2θ² h}) z          y = −q h
///     x' = (A_t/A_s) x − q S_t h ∫₀¹ e^{h(1−v)} ε(v) dv + θ S_t √(e^{2h} − 1) z                        y = h
///
/// where v runs from 0 at s to 1 at t. A polynomial through known outputs takes the place of p or ε; its moments are
///
///     ∫₀¹ e^{y(1−v)} vᵏ dv = k! φ_{k+1}(y)
struct ExponentialIntegrator {
    private let source: NoiseLevel
    private let h: Double
    private let y: Double
    /// e^y − 1. Without noise it is computed from the levels: the exponential of a logarithm would lose digits over long ways.
    private let exponent: Double
    /// The factor of the integral: q A_t h or −q S_t h.
    private let factor: Double
    /// The factor of x.
    let sampleRate: Double
    /// The factor of z.
    let noiseRate: Double

    /// - Precondition: the levels differ, and there is noise in both.
    init(from s: NoiseLevel, to t: NoiseLevel, predictsCleanSample: Bool, stochasticity: Double = 0) {
        source = s
        h = NoiseLevel.lambdaDifference(from: s, to: t)
        // A step that leads to more noise removes none, so it has none to add.
        let square = h > 0 ? stochasticity * stochasticity : 0, q = 1 + square
        y = predictsCleanSample ? -q * h : h
        factor = predictsCleanSample ? q * t.signalRate * h : -q * t.noiseRate * h
        let remaining = t.noiseToSignal / s.noiseToSignal
        if predictsCleanSample {
            exponent = square == 0 ? remaining - 1 : exponentialMinusOne(y)
            sampleRate = t.noiseRate / s.noiseRate * exponential(-square * h)
            noiseRate = t.noiseRate * (-exponentialMinusOne(-2 * square * h)).squareRoot()
        } else {
            exponent = s.noiseToSignal / t.noiseToSignal - 1
            sampleRate = t.signalRate / s.signalRate
            noiseRate = square == 0 ? 0 : square.squareRoot() * t.noiseRate * exponentialMinusOne(2 * h).squareRoot()
        }
    }

    /// The weights of the outputs at the given levels, by the polynomial through all of them.
    ///
    /// - Precondition: the levels differ from one another.
    func weights(through levels: [NoiseLevel]) -> [Double] {
        let moments = levels.indices.map { Self.factorial($0) * phi($0 + 1) }
        return levels.indices.map { j in
            // The polynomial in v.
            let polynomial = lagrangePolynomial(j, count: levels.count) {
                position(of: levels[$0])
            } difference: {
                NoiseLevel.lambdaDifference(from: levels[$0], to: levels[j]) / h
            }
            return factor * zip(polynomial, moments).map(*).reduce(0, +)
        }
    }

    /// The weights of the output at s and of another one. Their difference over their distance in v has the weight φ₁(y)/2, or ½.
    func halfWeights(with other: NoiseLevel, scalesWithExponential: Bool) -> [Double] {
        let phi = phi(1)
        let share = factor * (scalesWithExponential ? phi : 1) / (2 * position(of: other))
        return [factor * phi - share, share]
    }

    /// v at a level.
    private func position(of level: NoiseLevel) -> Double { NoiseLevel.lambdaDifference(from: source, to: level) / h }

    private func phi(_ k: Int) -> Double { Self.phi(k, y, exponent: exponent) }

    /// φ₁(y) = (e^y − 1)/y, φ_{k+1}(y) = (φ_k(y) − 1/k!)/y; by the series Σ yᵐ/(m + k)! where these would cancel.
    static func phi(_ k: Int, _ y: Double, exponent: Double) -> Double {
        if abs(y) < 2 {
            var term = 1 / factorial(k), sum = term, m = 0.0
            // The sums are at least a seventh of their first term: further terms are too small to change them.
            while abs(term) > sum * 0x1p-56 {
                m += 1
                term *= y / (m + Double(k))
                sum += term
            }
            return sum
        }
        return (1..<k).reduce(exponent / y) { phi, j in (phi - 1 / factorial(j)) / y }
    }

    private static func factorial(_ k: Int) -> Double { (0..<k).reduce(1) { $0 * Double($1 + 1) } }
}
