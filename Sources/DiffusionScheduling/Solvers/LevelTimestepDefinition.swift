// SPDX-License-Identifier: Apache-2.0

/// A scheduler of the variance-exploding process whose model is told noise levels for timesteps: KarrasVe and ScoreSdeVe.
public protocol LevelTimestepDefinition: SchedulerDefinition {
    /// The configuration's `sigma_min`.
    var sigmaMin: Double { get }
    /// The configuration's `sigma_max`.
    var sigmaMax: Double { get }
}

extension LevelTimestepDefinition {
    /// The level that the model gets as its timestep t: ς = t, A = 1.
    ///
    /// - Throws: `invalidValue` for one that is negative or infinite.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try require("timestep", timestep, "a noise level, finite and at least 0", timestep >= 0 && timestep.isFinite)
        return NoiseLevel(sigma: timestep, process: .varianceExploding)
    }

    /// Refuses bounds in the wrong order, and those whose squares float32 doesn't hold.
    func validateLevels() throws(SchedulerError) {
        try require("sigma_max", sigmaMax, in: 1e-18...1e18)
        try require("sigma_min", sigmaMin, "from 1e-18 to sigma_max = \(sigmaMax)", sigmaMin >= 1e-18 && sigmaMin <= sigmaMax)
    }
}
