// SPDX-License-Identifier: Apache-2.0

/// The spread of the timesteps t_k of n steps over the T training timesteps (Lin et al. 2023, arXiv:2305.08891, table 2), noisiest
/// first, for k from 0 to n − 1.
public enum TimestepSpacing: String, CaseIterable, Sendable {
    /// t_k = (1 − k/(n − 1)) (T − 1), rounded. Multistep solvers take the first n of n + 1 such timesteps: (1 − k/n) (T − 1).
    /// Variance-exploding schedulers don't round.
    case linspace
    /// t_k = (n − 1 − k) ⌊T/n⌋ + `steps_offset`; the noisiest timesteps may be left out. Multistep solvers take
    /// (n − k) ⌊T/(n + 1)⌋ + `steps_offset`.
    case leading
    /// t_k = T − k T/n − 1, rounded.
    case trailing

    /// The timesteps of the multistep schedulers, noisiest first.
    ///
    /// - Parameters:
    ///   - count: n, the requested steps, at least 1.
    ///   - trainingCount: T, for the stride of `trailing`.
    ///   - usedCount: L ≤ T, the training timesteps that may be used, from 0 on.
    ///   - offset: added where the spacing is `leading`.
    /// - Returns: n timesteps; for `trailing` fewer if L < T.
    func denoisingTimesteps(count n: Int, trainingCount: Int, usedCount: Int, offset: Int) -> [Double] {
        switch self {
        case .linspace:
            return DiffusionScheduling.linspace(0, Double(usedCount - 1), count: n + 1)[1...].reversed().map(roundedHalfToEven)
        case .leading:
            let stride = usedCount / (n + 1)
            return (1...n).reversed().map { Double($0 * stride + offset) }
        case .trailing:
            return Self.trailingTimesteps(count: n, trainingCount: trainingCount, usedCount: usedCount)
        }
    }

    /// The timesteps of the variance-exploding schedulers, noisiest first. `linspace` gives fractional ones, from the last training
    /// timestep to the first.
    func explodingTimesteps(count n: Int, trainingCount: Int, offset: Int) -> [Double] {
        switch self {
        case .linspace:
            return DiffusionScheduling.linspace(0, Double(trainingCount - 1), count: n).reversed()
        case .leading:
            let stride = trainingCount / n
            return (0..<n).reversed().map { Double($0 * stride + offset) }
        case .trailing:
            return Self.trailingTimesteps(count: n, trainingCount: trainingCount, usedCount: trainingCount)
        }
    }

    /// The timesteps of the inverse scheduler, cleanest first; see `denoisingTimesteps`. The noisiest is where the run ends.
    func invertingTimesteps(count n: Int, trainingCount: Int, usedCount: Int, offset: Int) -> [Double] {
        switch self {
        case .linspace:
            return DiffusionScheduling.linspace(0, Double(usedCount - 1), count: n + 1)[..<n].map(roundedHalfToEven)
        case .leading:
            let stride = usedCount / (n + 1)
            return (0..<n).map { Double($0 * stride + offset) }
        case .trailing:
            return Self.trailingTimesteps(count: n, trainingCount: trainingCount, usedCount: usedCount).reversed()
        }
    }

    /// Timesteps L, L − T/n, …, each rounded and less 1.
    ///
    /// NumPy's `arange` counts them in floating point; for some n it gives one more than n, below 0, which is left out. With more
    /// than T steps the last ones fall on timestep 0.
    static func trailingTimesteps(count n: Int, trainingCount: Int, usedCount: Int) -> [Double] {
        let last = Double(usedCount)
        let stride = Double(trainingCount) / Double(n)
        let difference = (last - stride) - last
        let count = min(n, trailingCount(n, trainingCount: trainingCount, usedCount: usedCount))
        return (0..<count).map { max(roundedHalfToEven(last + Double($0) * difference) - 1, 0) }
    }

    /// The number of timesteps that NumPy's `arange` gives: n or one more, and fewer if L < T.
    private static func trailingCount(_ n: Int, trainingCount: Int, usedCount: Int) -> Int {
        Int((Double(usedCount) / (Double(trainingCount) / Double(n))).rounded(.up))
    }

    /// Whether `trailing` leaves out a timestep below 0.
    func leavesOutTimestep(count n: Int, trainingCount: Int) -> Bool {
        self == .trailing && Self.trailingCount(n, trainingCount: trainingCount, usedCount: trainingCount) > n
    }
}
