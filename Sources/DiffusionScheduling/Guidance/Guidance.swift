// SPDX-License-Identifier: Apache-2.0

/// Guidance without a classifier (Ho and Salimans 2022, arXiv:2207.12598, equation 6): the model is asked twice, with the condition
/// and without it, and the difference of its outputs e_c and e_u is exaggerated,
///
///     e = e_u + g (e_c − e_u)
///
/// A step that is told both outputs computes e on its way, at the cost of reading one more tensor and without rounding it to an
/// element type in between.
public struct Guidance: Sendable, Hashable {
    /// g, what diffusers calls `guidance_scale`: 0 is the unconditional output, 1 the conditional one; pictures use 1.5 to 15.
    public var scale: Double
    /// φ in [0, 1], what diffusers calls `guidance_rescale`: the share to which each batch item of e is scaled back to the standard
    /// deviation of e_c, because large g make pictures overexposed (Lin et al. 2023, arXiv:2305.08891, section 3.4, which uses 0.7):
    ///
    ///     e ← φ e σ(e_c)/σ(e) + (1 − φ) e
    ///
    /// Other values than 0 cost one more pass over both outputs. An item of which e has no deviation is left as it is.
    public var rescale: Double

    public init(scale: Double, rescale: Double = 0) {
        self.scale = scale
        self.rescale = rescale
    }

    package func validate() throws(SchedulerError) {
        try require("guidance scale", scale, "finite", scale.isFinite)
        try require("guidance rescale", rescale, "from 0 to 1", (0...1).contains(rescale))
    }

    /// What e is multiplied by, given the moments of the two outputs: φ σ(e_c)/σ(e) + (1 − φ).
    func factor(conditionalVariance: Double, unconditionalVariance: Double, covariance: Double) -> Double {
        let other = 1 - scale
        let variance = scale * scale * conditionalVariance + other * other * unconditionalVariance + 2 * scale * other * covariance
        return guidanceFactor(guidedVariance: variance, conditionalVariance: conditionalVariance, guidanceRescale: rescale)
    }
}
