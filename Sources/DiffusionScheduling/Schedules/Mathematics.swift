// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The C library's elementary functions in `Double`; the other files need no platform's module for them.
func exponential(_ x: Double) -> Double { exp(x) }
/// eˣ − 1, accurate for small x.
func exponentialMinusOne(_ x: Double) -> Double { expm1(x) }
func logarithm(_ x: Double) -> Double { log(x) }
/// ln(1 + x), accurate for small x.
func logarithmOfOnePlus(_ x: Double) -> Double { log1p(x) }
func power(_ base: Double, _ exponent: Double) -> Double { pow(base, exponent) }
func cosine(_ x: Double) -> Double { cos(x) }
func sine(_ x: Double) -> Double { sin(x) }
func tangent(_ x: Double) -> Double { tan(x) }
func angle(y: Double, x: Double) -> Double { atan2(y, x) }
func arctangent(_ x: Double) -> Double { atan(x) }
func gammaFunction(_ x: Double) -> Double { tgamma(x) }

/// The coefficients of the Lagrange polynomial ∏_{l≠j} (u − root(l))/difference(l) of `count` nodes, from u⁰ on.
///
/// - Parameter difference: the node j less the node l, which may be known more exactly than the roots.
func lagrangePolynomial(_ j: Int, count: Int, root: (Int) -> Double, difference: (Int) -> Double) -> [Double] {
    var polynomial = [1.0]
    for l in 0..<count where l != j {
        let root = root(l), difference = difference(l)
        polynomial = zip([0] + polynomial, polynomial + [0]).map { ($0 - root * $1) / difference }
    }
    return polynomial
}

/// √(x² + y²) without overflow.
func hypotenuse(_ x: Double, _ y: Double) -> Double { hypot(x, y) }

/// Evenly spaced numbers as NumPy computes them: start + k·step, the last one exactly `stop`.
///
/// The rounding of the products decides some timesteps, so the order of operations is NumPy's.
func linspace(_ start: Double, _ stop: Double, count: Int) -> [Double] {
    guard count > 1 else { return count == 1 ? [start] : [] }
    let step = (stop - start) / Double(count - 1)
    return (0..<count).map { $0 == count - 1 ? stop : Double($0) * step + start }
}

/// The nearest integer, halves to the even one.
func roundedHalfToEven(_ x: Double) -> Double { x.rounded(.toNearestOrEven) }

extension Double {
    /// The value rounded to float32 and back, as in diffusers' tables.
    var roundedToFloat32: Double { Double(Float(self)) }
}
