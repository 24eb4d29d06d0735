// SPDX-License-Identifier: Apache-2.0

/// The course of β over the timesteps; β is the variance of the noise that one training timestep adds.
public enum BetaSchedule: String, CaseIterable, Sendable {
    /// β_j = b + j/(T − 1) (c − b), with b = `beta_start` and c = `beta_end` (Ho et al. 2020, arXiv:2006.11239, section 4).
    case linear
    /// β_j = (√b + j/(T − 1) (√c − √b))², with b = `beta_start` and c = `beta_end`: the schedule of latent diffusion (Rombach et
    /// al. 2022, arXiv:2112.10752).
    case scaledLinear = "scaled_linear"
    /// β_j = min(1 − f((j + 1)/T)/f(j/T), 0.999) with f(t) = cos²(π/2 (t + 0.008)/1.008), for which ᾱ falls like f (Nichol and
    /// Dhariwal 2021, arXiv:2102.09672, equation 17). `beta_start` and `beta_end` are unused.
    case squaredcosCapV2 = "squaredcos_cap_v2"
    /// β_j = min(1 − f((j + 1)/T)/f(j/T), 0.999) with f(t) = e^{−12t}: Shap-E's schedule (Jun and Nichol 2023, arXiv:2305.02463).
    /// `beta_start` and `beta_end` are unused. Known to Heun and its kin only.
    case exponential = "exp"
    /// β_j = min(1 − f((j + 1)/T)/f(j/T), 0.999) with f(t) = √(r/(1 + r)) and the signal-to-noise ratio
    /// r = (1 − 2 |½ − t| + 10⁻⁶)^{∓½}, − up to t = ½ and + above (Hang et al. 2024, arXiv:2407.03297). `beta_start` and `beta_end`
    /// are unused. Known to DDPM only.
    case laplace
    /// β_j = b + (c − b)/(1 + e^{−v}), with b = `beta_start`, c = `beta_end`, and v evenly spaced from −6 to 6: GeoDiff's schedule
    /// (Xu et al. 2022, arXiv:2203.02923). Known to DDPM only.
    case sigmoid

    /// β_0 … β_{T−1} as float32 numbers, bit for bit those that torch computes.
    ///
    /// - Complexity: O(count).
    func betas(from start: Double, to end: Double, count: Int) -> [Float] {
        switch self {
        case .linear:
            Self.linspace(Float(start), Float(end), count: count)
        case .scaledLinear:
            Self.linspace(Float(start.squareRoot()), Float(end.squareRoot()), count: count).map { $0 * $0 }
        case .squaredcosCapV2:
            Self.betas(ofSignal: Self.squaredCosine, count: count)
        case .exponential:
            Self.betas(ofSignal: { DiffusionScheduling.exponential(-12 * $0) }, count: count)
        case .laplace:
            Self.betas(ofSignal: Self.laplace, count: count)
        case .sigmoid:
            Self.linspace(-6 as Float, 6, count: count).map { x in
                let sigmoid = 1 / (1 + Self.torchExponential(-x))
                return sigmoid * Float(end - start) + Float(start)
            }
        }
    }

    /// β_j = 1 − f((j + 1)/T)/f(j/T), at most 0.999.
    private static func betas(ofSignal f: (Double) -> Double, count: Int) -> [Float] {
        (0..<count).map { beta($0, ofSignal: f, count: count) }
    }

    private static func beta(_ j: Int, ofSignal f: (Double) -> Double, count: Int) -> Float {
        Float(min(1 - f(Double(j + 1) / Double(count)) / f(Double(j) / Double(count)), 0.999))
    }

    /// β_j of `squaredcosCapV2` alone.
    ///
    /// - Complexity: O(1).
    static func squaredCosineBeta(_ j: Int, count: Int) -> Float { beta(j, ofSignal: squaredCosine, count: count) }

    /// √ᾱ of the Laplace schedule at the time t in [0, 1], with λ = ln ᾱ/(1 − ᾱ). diffusers uses it as ᾱ.
    private static func laplace(_ t: Double) -> Double {
        let magnitude = logarithm(1 - 2 * abs(0.5 - t) + 1e-6)
        let ratio = DiffusionScheduling.exponential(t > 0.5 ? 0.5 * magnitude : -0.5 * magnitude)
        return (ratio / (1 + ratio)).squareRoot()
    }

    /// ᾱ of the cosine schedule at the time t in [0, 1].
    private static func squaredCosine(_ t: Double) -> Double {
        let c = cosine((t + 0.008) / 1.008 * Double.pi / 2)
        return c * c
    }

    /// eˣ as torch's sigmoid computes it, by SLEEF's `expf_u10` (Shibata and Petrogalli 2020, doi:10.1109/TPDS.2019.2960333): not
    /// always the nearest float32 number.
    private static func torchExponential(_ x: Float) -> Float {
        let exponent = (x * 1.442695).rounded(.toNearestOrEven)
        let s = x.addingProduct(exponent, -0.693145751953125).addingProduct(exponent, -1.428606765330187e-06)
        var u: Float = 0.000198527617812653846
        for coefficient: Float in [0.0013930436, 0.008333361, 0.041666485, 0.16666667, 0.5] {
            u = coefficient.addingProduct(u, s)
        }
        return Float(sign: .plus, exponent: Int(exponent), significand: 1 + s.addingProduct(s * s, u))
    }

    /// torch.linspace: the lower half counted from the start, the upper from the end, each with one fused rounding.
    static func linspace<Real: BinaryFloatingPoint>(_ start: Real, _ end: Real, count: Int) -> [Real] {
        guard count > 1 else { return [start] }
        let step = (end - start) / Real(count - 1)
        return (0..<count).map { j in
            j < count / 2
                ? start.addingProduct(step, Real(j))
                : end.addingProduct(-step, Real(count - 1 - j))
        }
    }
}
