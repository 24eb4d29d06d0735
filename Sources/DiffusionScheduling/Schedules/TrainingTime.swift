// SPDX-License-Identifier: Apache-2.0

/// The timesteps of a training as a continuous function of ln ρ: linear between whole timesteps, as in diffusers, and beyond both
/// ends.
public struct TrainingTime: Sendable {
    /// ln ρ of timesteps, ascending.
    private let logarithms: [Double]
    private let timesteps: [Double]

    /// - Complexity: O(T).
    init(_ noise: NoiseSchedule) {
        var logarithms: [Double] = [], timesteps: [Double] = []
        // Timesteps without noise, and those that add none to the timestep before, have no ln ρ to tell them apart.
        for (timestep, sigma) in noise.sigmas.enumerated() where sigma > 0 {
            let logarithm = logarithm(sigma)
            guard logarithms.last.map({ logarithm > $0 }) ?? true else { continue }
            logarithms.append(logarithm)
            timesteps.append(Double(timestep))
        }
        self.logarithms = logarithms
        self.timesteps = timesteps
    }

    func time(atLogarithm logarithm: Double) -> Double {
        guard logarithms.count > 1 else { return logarithm }
        let upper = min(max(index(after: logarithm), 1), logarithms.count - 1), lower = upper - 1
        let slope = (timesteps[upper] - timesteps[lower]) / (logarithms[upper] - logarithms[lower])
        return timesteps[lower] + (logarithm - logarithms[lower]) * slope
    }

    /// The ln ρ of whole timesteps from a to b.
    func knots(between a: Double, and b: Double) -> ArraySlice<Double> {
        logarithms[index(after: a)..<max(index(after: b), index(after: a))]
    }

    /// The first index whose ln ρ is above the given one.
    private func index(after logarithm: Double) -> Int {
        var lower = 0, upper = logarithms.count
        while lower < upper {
            let middle = (lower + upper) / 2
            if logarithms[middle] > logarithm { upper = middle } else { lower = middle + 1 }
        }
        return lower
    }
}
