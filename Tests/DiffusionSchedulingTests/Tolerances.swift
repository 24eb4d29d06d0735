// SPDX-License-Identifier: Apache-2.0

/// Every tolerance of the tests, with its derivation.
enum Tolerance {
    /// Relative, for noise levels ς against diffusers: half a unit in the last place of float32 for our correctly rounded root,
    /// and one unit, 2⁻²³ = 1.19e-7, for torch's, which isn't correctly rounded on every build.
    static let sigma = 1.2e-7

    /// Like `sigma`, for levels interpolated between such roots: the root's unit, and half a unit of rounding each for ours and
    /// theirs.
    static let interpolatedSigma = 2 * sigma

    /// Relative, for the ends of the `lu` grid, which diffusers takes from float32 logarithms: a unit in the last place of a
    /// logarithm between 4 and 8, since NumPy's float32 logarithm isn't correctly rounded either.
    static let luSigma = 0x1p-21

    /// Relative, for coefficients against 50-digit arithmetic from the same noise levels. A coefficient is a sum of at most three
    /// terms of some ten float64 operations, 1.1e-16 each; cancellation of the terms costs up to two digits or so.
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

    /// The share of loops in which our float32 must be nearer to the exact result than diffusers' float32.
    static let nearerShare = 0.9

    /// The share for Euler, EDM's Euler, Heun, their flow-matching twins, Karras' stochastic Heun, KDPM2, LMS and CogVideoX's DDIM.
    /// diffusers computes their float32 steps as short sums that don't cancel, with float64 scalars in the last two, so the stored
    /// sample's rounding is most of both errors. A simulation of Euler with exact sums, rounding only the stored sample, the model's
    /// input and its output, is nearer in 36 of 54 loops.
    static let nearerShareOfShortSums = 0.6

    /// Absolute, for I_x(a, b): a product of powers and Γ functions and a continued fraction of some thirty steps, each with a
    /// few roundings of 1.1e-16; the powers' exponents of up to 80 multiply the rounding of their logarithms.
    static let incompleteBeta = 2e-14

    /// For the inverse, the error of I over its slope. Low values of I are accurate relatively to p, with a slope of at least
    /// p·min(a, 1)/x; high ones are differences from 1, rounded to 1.1e-16 a few times, with a slope of (1 − p)·min(b, 1)/(1 − x).
    static func incompleteBetaInverse(_ x: Double, p: Double, a: Double, b: Double) -> Double {
        let below = incompleteBeta * x / Swift.min(a, 1)
        let above = p > 0.5 ? 4e-16 * (1 - x) / ((1 - p) * Swift.min(b, 1)) : 0
        return below + above + x.ulp
    }

    /// For a measured order of convergence: errors are c₁ hᵖ + c₂ hᵖ⁺¹ + …, and from 200 to 1,000 steps the second term
    /// bends the line by up to a tenth or so.
    static let measuredOrder = 0.2

    /// For a loop in float32 against float64. Each step adds at most its own bound, and one more u for the rounding of the model
    /// output. The probability flow of normal data contracts, so errors don't grow; their signs vary, so n of them add up like a
    /// random walk, to √n of one. The history carries each into two more steps: 3.
    static func float32Loop(steps: Int, magnitude: Double) -> Double {
        3 * Double(steps).squareRoot() * float32Step(terms: 5, magnitude: magnitude)
    }

    /// In units of y = x/A, for the exact solution with some 1,000 steps of order 3: errors of h³, with steps h in ln ς of up
    /// to a twentieth or so around the deviation of the data, where the solution bends.
    static let longRun = 1e-4

    /// One float64 step against the same sum in another order: twice (t + 1) u Σ|coefficient · input| with t ≤ 6 and u = 2⁻⁵³, and
    /// once more as much for the threshold's quantile and division.
    static func float64Step(magnitude: Double) -> Double { 28 * 0x1p-53 * magnitude + .leastNonzeroMagnitude }

    /// Relative to max(1, |x|), for a step in float64 against its documented parts: the same sums with the conversion folded in or
    /// not. Each of some ten roundings of 1.1e-16 applies to a term x·A_t/A_s or ε·A_t ρ_s; the largest is some 100 times the
    /// result in the first steps, which remove most noise.
    static let parts = 1e-13

    /// Relative to max(1, |x|), for the loops of diffusers' own tests in our float64 against diffusers' float32, whose coefficients
    /// cancel: order 2 is off by up to 4e-6 from n = 10 to 50, and order 3 by 1.5e-6 at n = 10.
    static let upstreamLoop = 4e-6
}
