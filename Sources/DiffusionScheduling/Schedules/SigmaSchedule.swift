// SPDX-License-Identifier: Apache-2.0

/// Noise levels by their names in samplers, for every scheduler that takes noise levels.
///
/// ```swift
/// try scheduler.setTimesteps(scheduler.request(20, .klOptimal))
/// ```
///
/// A schedule of n steps is n levels σ_0 … σ_{n−1} that descend strictly, without the one after the last step. P is the greatest
/// level of the training, Q the least, T the number of its timesteps, u = k/(n − 1) for k from 0 to n − 1, and σ(t) the
/// training's level at a timestep, interpolated in ln σ. A single step begins at P.
///
/// For flow matching, P is 1, Q is 1/T and σ(t) is (t + 1)/T: the levels before the shift, which schedulers apply to a request's
/// levels.
public enum SigmaSchedule: String, Sendable, CaseIterable {
    /// σ_k = (P^{1/7} + u (Q^{1/7} − P^{1/7}))⁷ (Karras et al. 2022, arXiv:2206.00364, equation 5).
    case karras
    /// σ_k = exp(ln P + u (ln Q − ln P)) (k-diffusion).
    case exponential
    /// σ_k = √(exp(19.9 t²/2 + 0.1 t) − 1) with t = 1 − 0.999 u: the continuous variance-preserving process (Song et al. 2020,
    /// arXiv:2011.13456, appendix C), whatever the training.
    case vp
    /// ln σ_k = F⁻¹((1 − u) F(ln P) + u F(ln Q)), F the distribution function of a Laplace distribution of mean 0 and scale ½ (Hang
    /// and Gu 2024, arXiv:2407.03297).
    ///
    /// ComfyUI clips the levels of the whole distribution to the ends instead, and repeats these.
    case laplace
    /// σ_k = tan((1 − u) arctan P + u arctan Q): optimal for normally distributed data (Sabour et al. 2024, arXiv:2404.14507,
    /// theorem 3.1).
    case klOptimal = "kl_optimal"
    /// σ_k = P (1 − k/(40 m)) for k < m = ⌊n/2⌋; from there on, the parabola in k that continues the line and its slope, and would be
    /// 0 at k = n (Mochi 1, as in ComfyUI).
    case linearQuadratic = "linear_quadratic"
    /// σ_k = P (½ + ½ g(k)) for k < m − 1, and ½ P h(k − m + 1) from there on, with m = ⌊3 (n + 2)/5⌋. g(k) falls from 1 to 0 like
    /// arctan(8 (m − k)/(n + 2)) on m places, and h(k) like −arctan(8 k/(n + 2)) on n + 2 − m places (RES4LYF).
    case bongTangent = "bong_tangent"
    /// σ_k = σ(T − 1 − ⌊k T/n⌋) (ComfyUI).
    case simple
    /// σ_k = σ((1 − u) (T − 1)) (ComfyUI).
    case normal
    /// σ_k = σ((1 − u)² (T − 1)): DEIS' best at few evaluations (Zhang and Chen 2022, arXiv:2204.13902).
    case quadratic
    /// σ_k = σ((1 − k/n) (T − 1)) (ComfyUI, after Stability AI's generative-models).
    case sgmUniform = "sgm_uniform"
    /// σ_k = σ(1 + (n − 1 − k) ⌊T/n⌋) (ComfyUI, which takes another step where n doesn't divide T).
    case ddimUniform = "ddim_uniform"
    /// σ_k = σ((T − 1) F⁻¹(1 − k/n)), F the distribution function of Beta(0.6, 0.6) (Lee et al. 2024, arXiv:2407.12173).
    ///
    /// ComfyUI rounds these timesteps, and loses those that become equal.
    case beta
    /// σ_k = σ((T − 1) F⁻¹(1 − k/n)), F the distribution function of Beta(0.5, 0.7) (RES4LYF).
    case beta57
    /// σ_k = s(10 k/n), whatever the training. The levels s(0) … s(10) are optimal for Stable Diffusion 1.5 (Sabour et al. 2024,
    /// arXiv:2404.14507, table 3); between them, s is interpolated linearly in ln σ.
    case alignYourStepsSD15 = "align_your_steps_sd15"
    /// ``alignYourStepsSD15`` with the levels that are optimal for Stable Diffusion XL (Sabour et al. 2024, arXiv:2404.14507).
    case alignYourStepsSDXL = "align_your_steps_sdxl"
    /// ``alignYourStepsSD15`` with the levels that are optimal for Stable Video Diffusion (Sabour et al. 2024, arXiv:2404.14507).
    case alignYourStepsSVD = "align_your_steps_svd"

    /// n levels for a training: σ_k for k = 0 … n − 1, by the formula of the case.
    ///
    /// - Throws: `invalidValue` for a number of steps that no plan may have, or more than the training has levels to choose from; for a
    ///   training without noise at its first timestep.
    /// - Complexity: O(n).
    public func sigmas(count n: Int, of noise: NoiseSchedule) throws(SchedulerError) -> [Double] {
        try sigmas(count: n, table: noise.process == .flow ? .flow(count: noise.count) : .training(noise))
    }

    /// n levels for flow matching, before any shift, for a model with `numTrainTimesteps` training timesteps: σ_k for
    /// k = 0 … n − 1, by the formula of the case.
    ///
    /// - Throws: as ``sigmas(count:of:)``.
    public func flowSigmas(count n: Int, numTrainTimesteps: Int) throws(SchedulerError) -> [Double] {
        try sigmas(count: n, table: .flow(count: numTrainTimesteps))
    }

    private func sigmas(count n: Int, table: SigmaTable) throws(SchedulerError) -> [Double] {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        try requireStepCount(n)
        let greatest = table[table.count - 1], least = table[0]
        try require(
            "least noise level of the training", least, "greater than 0 and less than \(greatest)", 0 < least && least < greatest)
        switch self {
        case .simple: try require("number of steps", n, "at most that of training timesteps, \(table.count)", n <= table.count)
        case .ddimUniform:
            try require("number of steps", n, "less than that of training timesteps, \(table.count)", n < table.count)
        default: break
        }
        return (0..<n).map { sigma(at: $0, of: n, from: greatest, to: least, table: table) }
    }

    private func sigma(at k: Int, of n: Int, from greatest: Double, to least: Double, table: SigmaTable) -> Double {
        let u = n > 1 ? Double(k) / Double(n - 1) : 0, last = Double(table.count - 1)
        switch self {
        case .karras: return SigmaSpacing.karras(u, from: greatest, to: least, rho: 7)
        case .exponential: return exponentialInterpolation(greatest, least, u)
        case .vp:
            let t = 1 - u * (1 - 0.001)
            return exponentialMinusOne(19.9 * t * t / 2 + 0.1 * t).squareRoot()
        case .laplace: return DiffusionScheduling.exponential(laplaceQuantile(u, from: logarithm(greatest), to: logarithm(least)))
        case .klOptimal: return k == 0 ? greatest : tangent((1 - u) * arctangent(greatest) + u * arctangent(least))
        case .linearQuadratic: return greatest * linearQuadratic(k, of: n)
        case .bongTangent: return greatest * bongTangent(k, of: n)
        case .simple: return table[table.count - 1 - k * table.count / n]
        case .ddimUniform: return table[1 + (n - 1 - k) * (table.count / n)]
        case .normal: return table.sigma(at: last * (1 - u))
        case .quadratic: return table.sigma(at: last * (1 - u) * (1 - u))
        case .sgmUniform: return table.sigma(at: last * (1 - Double(k) / Double(n)))
        case .beta: return table.sigma(at: last * IncompleteBeta.inverse(1 - Double(k) / Double(n), 0.6, 0.6))
        case .beta57: return table.sigma(at: last * IncompleteBeta.inverse(1 - Double(k) / Double(n), 0.5, 0.7))
        case .alignYourStepsSD15: return interpolate(Self.sd15, k, of: n)
        case .alignYourStepsSDXL: return interpolate(Self.sdxl, k, of: n)
        case .alignYourStepsSVD: return interpolate(Self.svd, k, of: n)
        }
    }

    private static let sd15 = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    private static let sdxl = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
    private static let svd = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]

    private func interpolate(_ levels: [Double], _ k: Int, of n: Int) -> Double {
        let position = Double(k * (levels.count - 1)) / Double(n), index = Int(position)
        return exponentialInterpolation(levels[index], levels[index + 1], position - Double(index))
    }

    /// The quantile of the Laplace distribution of mean 0 and scale ½ at the share u of the way from F(a) to F(b).
    private func laplaceQuantile(_ u: Double, from a: Double, to b: Double) -> Double {
        /// The probability beyond x, on its side of the mean.
        func tail(_ x: Double) -> Double { DiffusionScheduling.exponential(-2 * abs(x)) / 2 }
        let start = a > 0 ? 1 - tail(a) : tail(a), stop = b > 0 ? 1 - tail(b) : tail(b)
        if u == 0 || u == 1 { return u == 0 ? a : b }
        let p = start + u * (stop - start)
        return p > 0.5 ? -logarithm(2 * (1 - p)) / 2 : logarithm(2 * p) / 2
    }

    private func linearQuadratic(_ k: Int, of n: Int) -> Double {
        let linear = Double(n / 2), rest = Double(n) - linear, threshold = 0.025, i = Double(k)
        if k < n / 2 { return 1 - i * threshold / linear }
        guard n > 1 else { return 1 }
        // The parabola continues the line's slope and ends at 0.
        let excess = linear - threshold * Double(n), curvature = excess / (linear * rest * rest)
        let slope = threshold / linear - 2 * excess / (rest * rest)
        return 1 - (curvature * i * i + slope * i + curvature * linear * linear)
    }

    private func bongTangent(_ k: Int, of n: Int) -> Double {
        // The middle is at three fifths of the n + 2 places, rounded down.
        let count = n + 2, middle = count * 3 / 5, steepness = 0.2 / (Double(count) / 40)
        func fall(_ place: Int, of length: Int, pivot: Int) -> Double {
            func value(_ place: Int) -> Double { arctangent(-steepness * Double(place - pivot)) }
            return (value(place) - value(length - 1)) / (value(0) - value(length - 1))
        }
        if n == 1 { return 1 }
        return k < middle - 1
            ? 0.5 + 0.5 * fall(k, of: middle, pivot: middle)
            : 0.5 * fall(k - (middle - 1), of: count - middle, pivot: 0)
    }
}

/// The levels of a training's timesteps, and between them.
private enum SigmaTable {
    case training(NoiseSchedule)
    case flow(count: Int)

    var count: Int {
        switch self {
        case .training(let noise): noise.count
        case .flow(let count): count
        }
    }

    subscript(timestep: Int) -> Double {
        switch self {
        case .training(let noise): noise.sigmas[timestep]
        case .flow(let count): Double(timestep + 1) / Double(count)
        }
    }

    func sigma(at timestep: Double) -> Double {
        if case .flow(let count) = self { return (timestep + 1) / Double(count) }
        let lower = min(Int(timestep), count - 1)
        return lower == count - 1 ? self[lower] : exponentialInterpolation(self[lower], self[lower + 1], timestep - Double(lower))
    }
}

/// a^{1−u} b^u; exactly a or b at the ends.
private func exponentialInterpolation(_ a: Double, _ b: Double, _ u: Double) -> Double {
    if u == 0 || u == 1 { return u == 0 ? a : b }
    return exponential((1 - u) * logarithm(a) + u * logarithm(b))
}
