// SPDX-License-Identifier: Apache-2.0

/// The DPM-Solver family (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095, algorithm 2 and section 5; orders and weights
/// as diffusers has them).
///
/// In λ = ln(A/S) the probability flow ODE has an exact linear part. A step from s to t with h = λ_t − λ_s is
///
///     x' = a x + w₀ D₀ + w₁ D₁ + w₂ D₂ + c z
///
/// with the divided differences of the converted outputs m₀, m₁, m₂ over r₀ = (λ_s − λ_p)/h, r₁ = (λ_p − λ_q)/h:
///
///     D₀ = m₀      D₁ = (m₀ − m₁)/r₀      for order 2
///     D₁ = d₀ + r₀/(r₀ + r₁) (d₀ − d₁)    D₂ = (d₀ − d₁)/(r₀ + r₁)      for order 3, d₀ = (m₀ − m₁)/r₀, d₁ = (m₁ − m₂)/r₁
///
/// and weights in φ₁(x) = (eˣ − 1)/x, φ₂(x) = (φ₁(x) − 1)/x, φ₃(x) = (φ₂(x) − ½)/x:
///
///                       a            w₀               w₁               w₂                   c
///     dpmsolver++       S_t/S_s      A h φ₁(−h)       A h φ₂(−h)       A h φ₃(−h)           0
///     dpmsolver         A_t/A_s      −S h φ₁(h)       −S h φ₂(h)       −S h φ₃(h)           0
///     sde-dpmsolver++   S_t/S_s e⁻ʰ  2A h φ₁(−2h)     2A h φ₂(−2h)     −A (φ₂(−2h) + ½)     S √(1 − e⁻²ʰ)
///     sde-dpmsolver     A_t/A_s      −2S h φ₁(h)      −2S h φ₂(h)      —                    S √(e²ʰ − 1)
///
/// where A and S without an index are those at t. `midpoint` has w₁ = w₀/2 in order 2. The inverse is the same with h < 0.
public struct DPMSolver: MultistepSolver {
    /// The integral.
    public var algorithmType: AlgorithmType
    /// The weights of the slope in order 2.
    public var solverType: SolverType
    /// The quantity that the model predicts.
    public var predictionType: PredictionType

    /// A solver of an integral.
    public init(algorithmType: AlgorithmType, solverType: SolverType, predictionType: PredictionType) {
        self.algorithmType = algorithmType
        self.solverType = solverType
        self.predictionType = predictionType
    }

    public var isStochastic: Bool { algorithmType.isStochastic }

    public func prediction(at level: NoiseLevel) -> Combination {
        if algorithmType.predictsCleanSample || level.process != .flow || predictionType != .vPrediction {
            return predictionType.cleanSample(at: level)
        }
        // (x − S ε)/A, which for flow levels is not A x − S e, as A² + S² isn't 1 there.
        let noise = predictionType.noise(at: level)
        return Combination(
            sample: (1 - level.noiseRate * noise.sample) / level.signalRate,
            modelOutput: -level.noiseRate * noise.modelOutput / level.signalRate)
    }

    /// m = p, the clean sample, for the algorithms with ++; m = (x − A p)/S, the noise, for the others.
    public func conversion(at level: NoiseLevel, clamped: Bool) -> Combination {
        if algorithmType.predictsCleanSample {
            return clamped ? Combination(prediction: 1) : prediction(at: level)
        }
        return clamped ? level.noiseOfClampedPrediction : predictionType.noise(at: level)
    }

    public func update(from s: NoiseLevel, to t: NoiseLevel, previous: [NoiseLevel]) -> MultistepUpdate {
        if t.noiseToSignal == 0 { return denoise(from: s) }
        let h = NoiseLevel.lambdaDifference(from: s, to: t)
        let weights = weights(from: s, to: t, step: h)
        let r = zip([s] + previous, previous).map { NoiseLevel.lambdaDifference(from: $1, to: $0) / h }
        let outputs: [Double]
        switch r.count {
        case 0:
            outputs = [weights.w0]
        case 1:
            let slope = (solverType == .midpoint ? weights.w0 / 2 : weights.w1) / r[0]
            outputs = [weights.w0 + slope, -slope]
        default:
            let w0 = weights.w0, w1 = weights.w1, w2 = weights.w2
            let sum = r[0] + r[1]
            let near = ((1 + r[0] / sum) * w1 + w2 / sum) / r[0]  // of m₀ − m₁
            let far = -(r[0] / sum * w1 + w2 / sum) / r[1]  // of m₁ − m₂
            outputs = [w0 + near, far - near, -far]
        }
        return MultistepUpdate(sample: weights.a, outputs: outputs, noise: weights.c)
    }

    /// The update of a step of order 2 or 3 in a block, from the sample at the block's start b to t (arXiv:2206.00927, algorithms 1 and 2):
    ///
    ///     order 2    D₁ = d₀                            D₂ = 0
    ///     order 3    D₁ = (r₀ d₁ − r₁ d₀)/(r₀ − r₁)     D₂ = 2 (d₀ − d₁)/(r₀ − r₁)
    ///
    /// where D₀ is the output at b, rₖ = (λₖ − λ_b)/h and dₖ = (mₖ − D₀)/rₖ. `midpoint` has D₁ = d₀ and D₂ = 0 in order 3 too.
    ///
    /// - Parameter levels: the levels of the outputs, newest first, from s to b.
    /// - Returns: nil if the block adds nothing to its newest output: it hasn't left b, leads back there, or ends without noise.
    func update(through levels: [NoiseLevel], to t: NoiseLevel) -> MultistepUpdate? {
        let s = levels[0], b = levels[levels.count - 1]
        if s.sigma == b.sigma || t.sigma == b.sigma || [s, b, t].contains(where: { $0.noiseToSignal == 0 }) { return nil }
        let h = NoiseLevel.lambdaDifference(from: b, to: t)
        func distance(_ from: NoiseLevel, _ to: NoiseLevel) -> Double { NoiseLevel.lambdaDifference(from: from, to: to) / h }
        let weights = weights(from: b, to: t, step: h), w0 = weights.w0, w1 = weights.w1, r0 = distance(b, s)
        let outputs: [Double]
        if levels.count == 2 {
            let slope = (solverType == .midpoint ? w0 / 2 : w1) / r0
            outputs = [slope, w0 - slope]
        } else if solverType == .heun, ![s.sigma, b.sigma, 0].contains(levels[1].sigma) {
            let r1 = distance(b, levels[1]), gap = distance(levels[1], s), curvature = 2 * weights.w2
            let newest = (curvature - r1 * w1) / (gap * r0), middle = (r0 * w1 - curvature) / (gap * r1)
            outputs = [newest, middle, w0 - newest - middle]
        } else {
            // heun has one difference, too, if m₁ is at the level of another output.
            outputs = [w1 / r0, 0, w0 - w1 / r0]
        }
        return MultistepUpdate(sample: weights.a, outputs: outputs, noise: weights.c)
    }

    /// The step to the level without noise: to the predicted clean sample, whatever the algorithm.
    private func denoise(from s: NoiseLevel) -> MultistepUpdate {
        algorithmType.predictsCleanSample
            ? MultistepUpdate(sample: 0, outputs: [1])
            : MultistepUpdate(sample: 1 / s.signalRate, outputs: [-s.noiseRate / s.signalRate])
    }

    /// The weights of the divided differences D₀, D₁, D₂, with those of x and z.
    private func weights(
        from s: NoiseLevel, to t: NoiseLevel, step h: Double
    ) -> (a: Double, w0: Double, w1: Double, w2: Double, c: Double) {
        let signal = t.signalRate, noise = t.noiseRate
        // A stochastic step adds noise while it removes more; one that leads to more noise is the deterministic twin's.
        switch h < 0 ? algorithmType.deterministicTwin : algorithmType {
        case .dpmsolverPlusPlus:
            let phi = Phi(-h)
            return (noise / s.noiseRate, signal * h * phi.first, signal * h * phi.second, signal * h * phi.third, 0)
        case .dpmsolver:
            let phi = Phi(h)
            return (signal / s.signalRate, -noise * h * phi.first, -noise * h * phi.second, -noise * h * phi.third, 0)
        case .sdeDPMSolverPlusPlus:
            let phi = Phi(-2 * h)
            return (
                noise / s.noiseRate * exponential(-h), signal * 2 * h * phi.first, signal * 2 * h * phi.second,
                -signal * (phi.second + 0.5), noise * (-exponentialMinusOne(-2 * h)).squareRoot()
            )
        case .sdeDPMSolver:
            let phi = Phi(h)
            return (
                signal / s.signalRate, -2 * noise * h * phi.first, -2 * noise * h * phi.second, 0,
                noise * exponentialMinusOne(2 * h).squareRoot()
            )
        }
    }

    /// φ₁, φ₂, φ₃ at one place: by their series where the closed forms would cancel.
    private struct Phi {
        let first, second, third: Double

        init(_ x: Double) {
            if abs(x) < 1 {
                // φⱼ(x) = Σ xᵏ/(k + j)!; the first term left out is below 1/25!.
                var term = 1.0, first = 0.0, second = 0.0, third = 0.0
                for k in 0..<25 {
                    // term = xᵏ/k!
                    let n = Double(k)
                    first += term / (n + 1)
                    second += term / ((n + 1) * (n + 2))
                    third += term / ((n + 1) * (n + 2) * (n + 3))
                    term *= x / (n + 1)
                    // The sums are at least 0.1: further terms are too small to change them.
                    if abs(term) < 0x1p-62 { break }
                }
                (self.first, self.second, self.third) = (first, second, third)
            } else {
                first = exponentialMinusOne(x) / x
                second = (first - 1) / x
                third = (second - 0.5) / x
            }
        }
    }
}

extension DPMSolver {
    /// The four integrals of the DPM-Solver family.
    public enum AlgorithmType: String, ConfigurationKeyword {
        /// The integral of the predicted noise (Lu et al. 2022, arXiv:2206.00927).
        case dpmsolver
        /// The integral of the predicted clean sample (Lu et al. 2022, arXiv:2211.01095).
        case dpmsolverPlusPlus = "dpmsolver++"
        /// The integral of the predicted noise, along the stochastic differential equation.
        case sdeDPMSolver = "sde-dpmsolver"
        /// The integral of the predicted clean sample, along the stochastic differential equation.
        case sdeDPMSolverPlusPlus = "sde-dpmsolver++"

        public static let aliases: [String: Self] = ["deis": .dpmsolverPlusPlus]

        /// Whether the solver extrapolates the predicted clean sample rather than the predicted noise.
        public var predictsCleanSample: Bool { self == .dpmsolverPlusPlus || self == .sdeDPMSolverPlusPlus }
        /// Whether steps add noise.
        public var isStochastic: Bool { self == .sdeDPMSolver || self == .sdeDPMSolverPlusPlus }
        /// The algorithm with the same prediction and without noise.
        public var deterministicTwin: Self { predictsCleanSample ? .dpmsolverPlusPlus : .dpmsolver }
    }

    /// The weight of the model output's slope in a step of order 2.
    public enum SolverType: String, ConfigurationKeyword {
        /// w₁ = w₀/2 in the table of ``DPMSolver``.
        case midpoint
        /// w₁ as the table of ``DPMSolver`` has it.
        case heun
        public static let aliases: [String: Self] = ["logrho": .midpoint, "bh1": .midpoint, "bh2": .midpoint]
    }
}
