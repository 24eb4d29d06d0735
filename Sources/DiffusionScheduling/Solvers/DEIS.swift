// SPDX-License-Identifier: Apache-2.0

/// The diffusion exponential integrator sampler with polynomials in ln ρ, tAB-DEIS (Zhang and Chen 2022, arXiv:2204.13902,
/// section 4 and appendix B; the variable ρ is theirs, the logarithmic nodes are diffusers' `logrho`).
///
/// In y = x/A the probability flow ODE is dy/dρ = ε with ρ = S/A. A step from s to t integrates the Lagrange interpolant of the
/// last outputs ε in ln ρ exactly:
///
///     x' = (A_t/A_s) x + A_t Σₖ εₖ ∫ₛᵗ Lₖ(ln ρ) dρ
///
/// With δ = ln(ρ_t/ρ_s) the moments of ln(ρ/ρ_s) are
///
///     J₀ = ρ_t − ρ_s      J₁ = ρ_t (δ − 1) + ρ_s      J₂ = ρ_t (δ² − 2δ + 2) − 2ρ_s
public struct DEISSolver: MultistepSolver {
    public var predictionType: PredictionType

    public init(predictionType: PredictionType) { self.predictionType = predictionType }

    public func prediction(at level: NoiseLevel) -> Combination { predictionType.cleanSample(at: level) }

    /// ε = (x − A p)/S.
    public func conversion(at level: NoiseLevel, clamped: Bool) -> Combination {
        switch (predictionType, level.process == .flow) {
        case (.flowPrediction, false):
            // diffusers divides by ς instead of S here.
            let divisor = level.sigma > 0 ? level.sigma : level.noiseRateToDivideBy
            return clamped
                ? Combination(sample: 1 / divisor, prediction: -level.signalRate / divisor)
                : Combination(
                    sample: level.lostSignalRate / divisor, modelOutput: level.signalRate * level.sigma / divisor)
        case (.vPrediction, true) where !clamped:
            // Not A e + S x, as A² + S² isn't 1 here.
            let divisor = level.noiseRateToDivideBy
            return Combination(
                sample: level.lostSignalRate * (1 + level.signalRate) / divisor,
                modelOutput: level.signalRate * level.noiseRate / divisor)
        default:
            return clamped ? level.noiseOfClampedPrediction : predictionType.noise(at: level)
        }
    }

    public func update(from s: NoiseLevel, to t: NoiseLevel, previous: [NoiseLevel]) -> MultistepUpdate {
        let scale = t.signalRate
        let j = Moments(from: s.noiseToSignal, to: t.noiseToSignal)
        /// ln(ρₖ/ρ_s)
        func logarithm(_ k: Int) -> Double { logarithmOfRatio(previous[k - 1].noiseToSignal, s.noiseToSignal) }

        switch previous.count {
        case 0:
            return MultistepUpdate(sample: t.signalRate / s.signalRate, outputs: [scale * j.zeroth])
        case 1:
            let l1 = logarithm(1)
            return MultistepUpdate(
                sample: t.signalRate / s.signalRate, outputs: [scale * (j.zeroth - j.first / l1), scale * j.first / l1])
        default:
            let l1 = logarithm(1), l2 = logarithm(2)
            // ln(ρ₁/ρ₂) of the two older nodes themselves: the difference of their logarithms would cancel.
            let older = logarithmOfRatio(previous[0].noiseToSignal, previous[1].noiseToSignal)
            return MultistepUpdate(
                sample: t.signalRate / s.signalRate,
                outputs: [
                    scale * (j.zeroth - (l1 + l2) * j.first / (l1 * l2) + j.second / (l1 * l2)),
                    scale * (j.second - l2 * j.first) / (l1 * older),
                    -scale * (j.second - l1 * j.first) / (l2 * older),
                ])
        }
    }

    /// J₀, J₁, J₂ from ρ_s to ρ_t.
    ///
    /// For |δ| < ½ the closed forms would cancel; there J₀ = ρ_s (e^δ − 1), J₁ = ρ_s Σ_{k≥2} (k − 1) δᵏ/k! and
    /// J₂ = ρ_s Σ_{k≥3} (k − 1)(k − 2) δᵏ/k!.
    private struct Moments {
        let zeroth, first, second: Double

        init(from s: Double, to t: Double) {
            // The limit for ρ_t → 0, where all noise is removed.
            if t == 0 {
                (zeroth, first, second) = (-s, s, -2 * s)
                return
            }
            let delta = logarithmOfRatio(t, s)
            if abs(delta) < 0.5 {
                var term = delta, first = 0.0, second = 0.0
                // 0.5²⁰/20! is far below the rounding error of the sums' leading terms.
                for k in 2...20 {
                    term *= delta / Double(k)
                    first += Double(k - 1) * term
                    second += Double((k - 1) * (k - 2)) * term
                    // What follows is less than 400 of this, too little to change either sum.
                    if k > 2, abs(term) * 400 < abs(second) * 0x1p-56 { break }
                }
                (zeroth, self.first, self.second) = (s * exponentialMinusOne(delta), s * first, s * second)
            } else {
                zeroth = t - s
                first = t * (delta - 1) + s
                second = t * (delta * delta - 2 * delta + 2) - 2 * s
            }
        }
    }
}
