// SPDX-License-Identifier: Apache-2.0

/// The regularised incomplete beta function I_x(a, b), the distribution function of the beta distribution, and its inverse.
///
/// For parameters of ordinary size (a, b between about 0.1 and 80).
enum IncompleteBeta {
    /// I_x(a, b) for x in [0, 1], to about 1e-15 absolutely.
    ///
    /// DiDonato and Morris 1992, "Algorithm 708", equation 9: a continued fraction that converges fast for
    /// x < (a + 1)/(a + b + 2); beyond, I_x(a, b) = 1 − I_{1−x}(b, a).
    static func value(_ x: Double, _ a: Double, _ b: Double) -> Double {
        if x <= 0 { return 0 }
        if x >= 1 { return 1 }
        return x < (a + 1) / (a + b + 2) ? lowerValue(x, a, b) : 1 - lowerValue(1 - x, b, a)
    }

    /// The x with I_x(a, b) = p, for p in [0, 1]: relative accuracy near 0, absolute near 1.
    ///
    /// Newton's method inside a bracket that halves whenever Newton leaves it, so it always ends.
    static func inverse(_ p: Double, _ a: Double, _ b: Double) -> Double {
        if p <= 0 { return 0 }
        if p >= 1 { return 1 }
        let scale = gammaFunction(a + b) / (gammaFunction(a) * gammaFunction(b))
        var low = 0.0, high = 1.0
        // Near 0 the function is scale·xᵃ/a; elsewhere any start inside the bracket will do.
        var x = min(power(p * a / scale, 1 / a), 0.5)
        for _ in 0..<200 {
            let excess = value(x, a, b) - p
            if excess == 0 { return x }
            if excess > 0 { high = x } else { low = x }
            let slope = scale * power(x, a - 1) * power(1 - x, b - 1)
            var next = x - excess / slope
            if !(next > low && next < high) { next = low + (high - low) / 2 }
            if abs(next - x) <= 2 * x.ulp { return next }
            x = next
        }
        return x
    }

    private static func lowerValue(_ x: Double, _ a: Double, _ b: Double) -> Double {
        let scale = gammaFunction(a + b) / (gammaFunction(a) * gammaFunction(b))
        return scale * power(x, a) * power(1 - x, b) / a / continuedFraction(x, a, b)
    }

    /// 1 + d₁/(1 + d₂/(1 + …)) by Lentz's method (Press et al. 2007, Numerical Recipes, section 6.4).
    private static func continuedFraction(_ x: Double, _ a: Double, _ b: Double) -> Double {
        var numerator = 1.0, denominator = 0.0, fraction = 1.0
        for i in 1...1000 {
            let m = Double(i / 2)
            let d =
                i % 2 == 0
                ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
                : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
            denominator = 1 / (1 + d * denominator)
            numerator = 1 + d / numerator
            let factor = numerator * denominator
            fraction *= factor
            if abs(factor - 1) < 1e-16 { break }
        }
        return fraction
    }
}
