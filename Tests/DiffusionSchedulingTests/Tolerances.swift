/// Every tolerance of the tests, with where it comes from.
enum Tolerance {
    /// Relative, for noise levels ς against diffusers: half a unit in the last place of float32 for our correctly rounded root,
    /// and one unit, 2⁻²³ = 1.19e-7, for torch's, which isn't correctly rounded on every build.
    static let sigma = 1.2e-7

    /// Relative, for coefficients against 50-digit arithmetic from the same noise levels. A coefficient is a sum of at most
    /// three terms of some ten float64 operations each, 1.1e-16 apiece; the terms cancel by up to two digits or so.
    static let coefficient = 1e-12

    /// Relative to max(1, |x|), for whole loops in float64 against 50-digit arithmetic: up to 1,000 steps, each with the
    /// relative coefficient error 1e-13 or less and a rounding of 1.1e-16 in each of its terms.
    static let loop = 1e-9

    /// The unit roundoff of float32, u.
    static let float32Roundoff = 0x1p-24

    /// The bound of one float32 step: with t terms, each coefficient rounded (u), each product rounded (u) and up to t − 1
    /// sums rounded, the error is at most (t + 1) u Σ|coefficient · input| to first order. The factor 1.01 covers the rest.
    static func float32Step(terms: Int, magnitude: Double) -> Double {
        1.01 * Double(terms + 1) * float32Roundoff * magnitude + Double(Float.leastNonzeroMagnitude)
    }

    /// The share of loops in which our float32 has to be nearer to the exact result than diffusers' float32.
    static let nearerShare = 0.9
}
