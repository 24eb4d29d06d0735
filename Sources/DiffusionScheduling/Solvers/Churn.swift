// SPDX-License-Identifier: Apache-2.0

/// The options of a run with churn, the noise that steps add before they remove more (Karras et al. 2022, arXiv:2206.00364,
/// algorithm 2).
///
/// A step from ς first raises the noise of the sample to ς̂ = (1 + γ) ς:
///
///     x̂ = x + s_noise √(ς̂² − ς²) z        γ = min(s_churn/n, √2 − 1) where s_tmin ≤ ς ≤ s_tmax, else 0
public protocol ChurnOptions: RunOptions {
    /// The noise that is added in all, spread over the steps; 0: none.
    var sChurn: Double { get set }
    /// The least level at which noise is added.
    var sTmin: Double { get set }
    /// The greatest level at which noise is added.
    var sTmax: Double { get set }
    /// The standard deviation of the added noise.
    var sNoise: Double { get set }
}

extension ChurnOptions {
    static var churnParameters: [ConfigurationParameter<Self>] {
        [
            .init("s_churn", \.sChurn, "How much noise is added in all, spread over the steps."),
            .init("s_tmin", \.sTmin, "The least noise level at which noise is added."),
            .init("s_tmax", \.sTmax, "The greatest noise level at which noise is added."),
            .init("s_noise", \.sNoise, "The standard deviation of the added noise."),
        ]
    }

    func validateChurn() throws(SchedulerError) {
        try require("s_churn", sChurn, "at least 0", sChurn >= 0)
        try require("s_tmin", sTmin, "a number", !sTmin.isNaN)
        try require("s_tmax", sTmax, "a number", !sTmax.isNaN)
        try require("s_noise", sNoise, "finite and at least 0", sNoise >= 0 && sNoise.isFinite)
    }

    /// γ of a step from ς. Levels compare as float32 numbers.
    func churn(at sigma: Double, stepCount: Int) -> Double {
        guard Float(sTmin) <= Float(sigma), Float(sigma) <= Float(sTmax) else { return 0 }
        return min(sChurn / Double(stepCount), 2.0.squareRoot() - 1)
    }

    /// x̂ of a step from ς with that γ, as a combination of x and z.
    func raised(from sigma: Double, by gamma: Double) -> Combination {
        Combination(sample: 1, noise: sNoise * sigma * (gamma * (gamma + 2)).squareRoot())
    }
}
