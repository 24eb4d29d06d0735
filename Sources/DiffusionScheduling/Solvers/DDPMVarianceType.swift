// SPDX-License-Identifier: Apache-2.0

/// The variance of the noise that a DDPM step adds.
public enum DDPMVarianceType: String, ConfigurationKeyword {
    /// (1 − ᾱ_u)/(1 − ᾱ_t) β, at least 10⁻²⁰: right for data that is a point.
    case fixedSmall = "fixed_small"
    /// The variance of ``fixedSmall``, which diffusers computes by its logarithm.
    case fixedSmallLog = "fixed_small_log"
    /// β: right for data that is normal.
    case fixedLarge = "fixed_large"
    /// β, likewise.
    case fixedLargeLog = "fixed_large_log"
    /// The model predicts the variance of each element besides its output.
    case learned
    /// The model predicts, for each element, a place between the logarithms of the small variance, −1, and the large one, 1.
    case learnedRange = "learned_range"

    var isLearned: Bool { self == .learned || self == .learnedRange }

    /// σ, as the coefficient of the noise and the factor of its elements.
    func noise(beta: Double, kept: Double) -> (deviation: Double, factor: NoiseFactor) {
        let small = max(kept * beta, 1e-20)
        return switch self {
        case .fixedSmall, .fixedSmallLog: (small.squareRoot(), .none)
        case .fixedLarge, .fixedLargeLog: (beta.squareRoot(), .none)
        case .learned: (1, .root)
        // Equal levels leave no range.
        case .learnedRange: beta > 0 ? (1, .between(small, beta)) : (0, .none)
        }
    }
}

extension NoiseFactor {
    /// σ = exp(½ ((1 + v)/2 ln greatest + (1 − v)/2 ln least)), with v from −1 to 1: between the roots of two variances, both greater
    /// than 0 (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 15).
    static func between(_ least: Double, _ greatest: Double) -> NoiseFactor {
        .exponential(offset: (logarithm(least) + logarithm(greatest)) / 4, slope: logarithm(greatest / least) / 4)
    }
}
