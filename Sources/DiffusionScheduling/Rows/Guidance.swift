// SPDX-License-Identifier: Apache-2.0

/// Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6). The model runs twice, with the condition and
/// without it. Guidance scales the difference of its outputs e_c and e_u:
///
///     e = e_u + g (e_c − e_u)
///
/// A step that gets both outputs computes e on the way: it reads one more tensor and doesn't round e to an element type.
public struct Guidance: Sendable, Hashable {
    /// g, diffusers' `guidance_scale`: 0 is the unconditional output, 1 the conditional one; pictures use 1.5 to 15.
    public var scale: Double
    /// φ in [0, 1], diffusers' `guidance_rescale`: the share by which each batch item of e is scaled back to e_c's standard
    /// deviation, because a large g overexposes pictures (Lin et al. 2023, arXiv:2305.08891, section 3.4, which uses 0.7):
    ///
    ///     e ← φ e σ(e_c)/σ(e) + (1 − φ) e
    ///
    /// Values other than 0 take one more pass over both outputs. An item with a constant e stays unchanged.
    public var rescale: Double

    /// Guidance by g, rescaled by φ.
    public init(scale: Double, rescale: Double = 0) {
        self.scale = scale
        self.rescale = rescale
    }

    package func validate() throws(SchedulerError) {
        try require("guidance scale", scale, "finite", scale.isFinite)
        try require("guidance rescale", rescale, in: 0...1)
    }

    /// The factor of e, from the moments of the two outputs.
    func factor(conditionalVariance: Double, unconditionalVariance: Double, covariance: Double) -> Double {
        let other = 1 - scale
        let variance = scale * scale * conditionalVariance + other * other * unconditionalVariance + 2 * scale * other * covariance
        return factor(guidedVariance: variance, conditionalVariance: conditionalVariance)
    }

    /// The factor of e, from its variance and the conditional output's: φ σ(e_c)/σ(e) + (1 − φ), and 1 if e is constant.
    package func factor(guidedVariance: Double, conditionalVariance: Double) -> Double {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return guidedVariance > 0 ? rescale * (conditionalVariance / guidedVariance).squareRoot() + (1 - rescale) : 1
    }
}
