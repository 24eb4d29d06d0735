// SPDX-License-Identifier: Apache-2.0

/// The predicted clean sample of an EDM model (Karras et al. 2022, arXiv:2206.00364, equation 7 and table 1):
///
///     p = c_skip x + c_out e        c_skip = σ_d²/(ς² + σ_d²)        c_out = ς σ_d/√(ς² + σ_d²)
///
/// c_out has the other sign for the prediction type v_prediction.
public struct EDMPreconditioning: Sendable {
    var sigmaData: Double
    var predictionType: PredictionType

    /// ±1: the sign of c_out.
    private var sign: Double { predictionType == .vPrediction ? -1 : 1 }

    func inputScale(at sigma: Double) -> Double { 1 / hypotenuse(sigma, sigmaData) }

    func prediction(at sigma: Double) -> Combination {
        let share = sigmaData / hypotenuse(sigma, sigmaData)
        return Combination(sample: share * share, modelOutput: sign * sigma * share)
    }

    /// Euler's step (τ/ς) x + (1 − τ/ς) p, with p substituted:
    ///
    ///     (ςτ + σ_d²)/(ς² + σ_d²) x ± (ς − τ) σ_d/√(ς² + σ_d²) e
    ///
    /// A level without noise has no derivative, so no step leaves it.
    func step(from sigma: Double, to target: Double) -> Combination {
        if sigma == 0 { return Combination(.sample) }
        let length = hypotenuse(sigma, sigmaData), share = sigmaData / length
        return Combination(
            sample: sigma / length * (target / length) + share * share, modelOutput: sign * (sigma - target) * share)
    }
}
