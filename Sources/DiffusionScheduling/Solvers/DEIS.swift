// SPDX-License-Identifier: Apache-2.0

/// The diffusion exponential integrator sampler (Zhang and Chen 2022, arXiv:2204.13902, section 3 and appendix B).
///
/// In y = x/A the probability flow ODE is dy/dρ = ε with ρ = S/A. The methods of Adams and Bashforth integrate the polynomials Lₖ(u) of
/// Lagrange through the last outputs εₖ, in a variable u that is a function of ρ:
///
///     x' = (A_t/A_s) x + A_t Σₖ εₖ ∫ₛᵗ Lₖ(u(ρ)) dρ
///
/// The methods of Runge and Kutta evaluate the model at several ρ from s to t instead. Between two evaluations, at a and b,
///
///     x_b = (A_b/A_a) x_a + A_b (ρ_t − ρ_s) Σₖ (r_bₖ − r_aₖ) εₖ
///
/// with the rows r of the method's table and the outputs εₖ since s, so nothing but outputs is remembered.
public struct DEISSolver: MultistepSolver {
    /// The quantity that the model predicts.
    public var predictionType: PredictionType
    /// The outputs that a step combines.
    public var method: Method

    /// The choices of outputs.
    public enum Method: Sendable {
        /// Outputs of the steps before, interpolated in a variable.
        case adamsBashforth(InterpolationVariable)
        /// Outputs of several evaluations in the step.
        case rungeKutta(RungeKuttaTable)
    }

    /// A solver of a method; by default that of diffusers.
    public init(predictionType: PredictionType, method: Method = .adamsBashforth(.logRatio)) {
        self.predictionType = predictionType
        self.method = method
    }

    public func prediction(at level: NoiseLevel) -> Combination { predictionType.cleanSample(at: level) }

    /// ε = (x − A p)/S.
    public func conversion(at level: NoiseLevel, clamped: Bool) -> Combination {
        switch (predictionType, level.process == .flow) {
        case (.flowPrediction, false):
            // diffusers divides by ς instead of S here.
            let divisor = level.sigma > 0 ? level.sigma : level.noiseRateToDivideBy
            return clamped
                ? Combination(sample: 1 / divisor, prediction: -level.signalRate / divisor)
                : Combination(
                    sample: level.lostSignalRate / divisor, modelOutput: level.signalRate * level.sigma / divisor)
        case (.vPrediction, true) where !clamped:
            // Not A e + S x, as A² + S² isn't 1 here.
            let divisor = level.noiseRateToDivideBy
            return Combination(
                sample: level.lostSignalRate * (1 + level.signalRate) / divisor,
                modelOutput: level.signalRate * level.noiseRate / divisor)
        default:
            return clamped ? level.noiseOfClampedPrediction : predictionType.noise(at: level)
        }
    }

    public func update(order: Int, at index: Int, of levels: [NoiseLevel], remembered: Int) -> MultistepUpdate {
        switch method {
        case .adamsBashforth: multistepUpdate(order: order, at: index, of: levels, remembered: remembered)
        case .rungeKutta(let table): stage(of: table, at: index, of: levels)
        }
    }

    public func update(from s: NoiseLevel, to t: NoiseLevel, previous: [NoiseLevel]) -> MultistepUpdate {
        let scale = t.signalRate, sample = t.signalRate / s.signalRate
        guard case .adamsBashforth(let variable) = method, !previous.isEmpty else {
            return MultistepUpdate(sample: sample, outputs: [scale * (t.noiseToSignal - s.noiseToSignal)])
        }
        let nodes = [s] + previous
        let offsets = nodes.map { variable.difference($0, s) }
        let divisors = nodes.indices.map { k in
            nodes.indices.reduce(1.0) { $1 == k ? $0 : $0 * variable.difference(nodes[k], nodes[$1]) }
        }
        var integrals = Array(repeating: 0.0, count: nodes.count)
        variable.forEachQuadratureNode(from: s, to: t) { offset, weight in
            for k in nodes.indices {
                var product = weight
                for m in nodes.indices where m != k { product *= offset - offsets[m] }
                integrals[k] += product
            }
        }
        return MultistepUpdate(sample: sample, outputs: zip(integrals, divisors).map { scale * ($0 / $1) })
    }

    /// The way from an evaluation of a step to the next evaluation, or to the step's end.
    private func stage(of table: RungeKuttaTable, at index: Int, of levels: [NoiseLevel]) -> MultistepUpdate {
        let stage = index % table.order, first = index - stage
        // The last step is one of order 1 where the grid has no further evaluations for it.
        guard first + table.order < levels.count else {
            let isStill = levels[index].sigma == levels[index + 1].sigma || levels[index].noiseToSignal == 0
            return isStill ? .identity : update(from: levels[index], to: levels[index + 1], previous: [])
        }
        let s = levels[first], t = levels[first + table.order]
        if s.sigma == t.sigma || s.noiseToSignal == 0 { return .identity }
        let scale = levels[index + 1].signalRate, length = t.noiseToSignal - s.noiseToSignal
        return MultistepUpdate(
            sample: scale / levels[index].signalRate,
            outputs: table.increments(ofStage: stage).reversed().map { scale * length * $0 })
    }
}
