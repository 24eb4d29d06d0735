// SPDX-License-Identifier: Apache-2.0

/// The spacing of the steps' noise levels.
///
/// Each spacing gives n levels between a first P and a last Q as a function of u_k = k/(n − 1), k = 0 … n − 1.
enum SigmaSpacing: Equatable {
    /// The levels of the timesteps that `TimestepSpacing` chose.
    case timesteps
    /// (P^{1/ρ} + u (Q^{1/ρ} − P^{1/ρ}))^ρ with ρ = 7 (Karras et al. 2022, arXiv:2206.00364, equation 5).
    case karras
    /// exp(ln P + u (ln Q − ln P)).
    case exponential
    /// exp(ln P + u (ln Q − ln P)) between the ends of the training: evenly spaced in λ (Lu et al. 2022, arXiv:2211.01095).
    case lu
    /// Q + F⁻¹(1 − u) (P − Q), F the distribution function of Beta(0.6, 0.6) (Lee et al. 2024, arXiv:2407.12173).
    case beta
    /// κz/(1 + (κ − 1)z), z evenly spaced from 1 − 1/T to 0 without the 0 (Esser et al. 2024, arXiv:2403.03206, equation 23).
    case flow(shift: Double)
    /// Karras levels ς as the flow levels of the same ratio of noise to signal, ς/(1 + ς).
    case karrasFlow
    /// Flow levels from 1 to 1/T without the last, shifted, and stretched to a terminal level.
    ///
    /// A level of 1 is taken as 1 − 10⁻⁶, as there is no signal to divide by at 1.
    case shiftedFlow(FlowShift, terminal: Double?)

    /// n levels from `first` to `last`. Flow levels ignore both ends; `timesteps` has no levels.
    func sigmas(count n: Int, from first: Double, to last: Double, trainingCount: Int) -> [Double] {
        switch self {
        case .timesteps:
            return []
        case .karras:
            return linspace(0, 1, count: n).map { Self.karras($0, from: first, to: last, rho: 7) }
        case .exponential, .lu:
            return linspace(logarithm(first), logarithm(last), count: n).map { DiffusionScheduling.exponential($0) }
        case .beta:
            return linspace(0, 1, count: n).map { last + IncompleteBeta.inverse(1 - $0, 0.6, 0.6) * (first - last) }
        case .flow(let shift):
            let levels = linspace(1, 1 / Double(trainingCount), count: n + 1)[1...].reversed().map { 1 - $0 }
            return FlowShift.constant(shift).levels(levels, terminal: nil)
        case .karrasFlow:
            return SigmaSpacing.karras.sigmas(count: n, from: first, to: last, trainingCount: trainingCount).map { $0 / ($0 + 1) }
        case .shiftedFlow:
            return flowLevels(linspace(1, 1 / Double(trainingCount), count: n + 1).dropLast())
        }
    }

    /// (P^{1/ρ} + u (Q^{1/ρ} − P^{1/ρ}))^ρ.
    static func karras(_ u: Double, from first: Double, to last: Double, rho: Double) -> Double {
        let start = power(first, 1 / rho), stop = power(last, 1 / rho)
        return power(start + u * (stop - start), rho)
    }

    /// The flow levels of a run, from the levels of a request.
    func flowLevels(_ levels: [Double]) -> [Double] {
        guard case .shiftedFlow(let shift, let terminal) = self else { return levels }
        var levels = shift.levels(levels, terminal: terminal)
        if abs(levels[0] - 1) < 1e-6 { levels[0] -= 1e-6 }
        // A great shift brings others as near to 1. They never rise above the first.
        return levels.map { min($0, levels[0]) }
    }
}

/// The noise level after the last step, for schedulers with a choice.
public enum FinalSigmasType: String, CaseIterable, Sendable {
    /// 0: the last step removes all noise.
    case zero
    /// The least noise level of the training.
    case sigmaMin = "sigma_min"
}
