// SPDX-License-Identifier: Apache-2.0

/// A shift of flow levels, which spends more of a run's steps near noise; large pictures need it.
///
/// The arithmetic is generic: diffusers computes in float32 where a request names levels, and in float64 where it names a count.
enum FlowShift: Equatable {
    /// ς ← κς/(1 + (κ − 1)ς) (Esser et al. 2024, arXiv:2403.03206, equation 23).
    case constant(Double)
    /// ς ← w/(w + 1/ς − 1), the same curve with κ = w.
    case weight(Double)

    /// The shift of a request.
    ///
    /// `mu` is ignored without dynamic shifting: diffusers' pipelines pass it in any case.
    ///
    /// - Throws: `invalidValue` of `mu` where it is needed and missing or out of range.
    init(constant: Double, isDynamic: Bool, type: FlowTimeShiftType, mu: Double?) throws(SchedulerError) {
        guard isDynamic else {
            self = .constant(constant)
            return
        }
        guard let mu else {
            throw .invalidValue(key: "mu", value: "missing", allowed: "given, as use_dynamic_shifting is true")
        }
        switch type {
        case .exponential:
            try require("mu", mu, "a number from -80 to 80", abs(mu) <= 80)
            self = .weight(exponential(mu))
        case .linear:
            try require("mu", mu, "a number from 1e-30 to 1e30 where time_shift_type is linear", (1e-30...1e30).contains(mu))
            self = .weight(mu)
        }
    }

    /// The shifted levels, with pure noise kept at 1: a tiny shift rounds the denominator to 0 there.
    static func levels<Real: BinaryFloatingPoint>(_ levels: [Real], shiftedBy shift: Double) -> [Real] {
        Self.constant(shift).levels(levels, terminal: nil).map { $0.isFinite ? min($0, 1) : 1 }
    }

    /// κς/(1 − ς + κς): a shifted level in float64, for any κ in range.
    static func level(_ level: Double, shiftedBy shift: Double) -> Double { shift * level / (1 - level + shift * level) }

    /// ς/(ς + κ(1 − ς)): the level that a shift by κ moves to ς.
    static func level(_ level: Double, unshiftedBy shift: Double) -> Double { level / (level + shift * (1 - level)) }

    /// The shifted levels; `terminal` then stretches them so that the last one equals it.
    func levels<Real: BinaryFloatingPoint>(_ levels: [Real], terminal: Double?) -> [Real] {
        let shifted = levels.map { sigma -> Real in
            switch self {
            case .constant(let shift): Real(shift) * sigma / (1 + Real(shift - 1) * sigma)
            case .weight(let weight): Real(weight) / (Real(weight) + (1 / sigma - 1))
            }
        }
        // A terminal of 0 stretches nothing. Levels that are all 1 have nothing to stretch: diffusers' would be 0/0.
        guard let terminal, terminal != 0, let last = shifted.last, last != 1 else { return shifted }
        let scale = (1 - last) / Real(1 - terminal)
        return shifted.map { 1 - (1 - $0) / scale }
    }
}

/// The function from `mu` to a shift.
public enum FlowTimeShiftType: String, CaseIterable, Sendable {
    /// w = e^mu.
    case exponential
    /// w = mu.
    case linear
}
