// SPDX-License-Identifier: Apache-2.0

/// The timesteps of a run and the noise levels between which its steps lead.
///
/// Step i goes from the level `sigmas[i]` to `sigmas[i + 1]`, so there is one level more than there are timesteps.
public struct TimestepGrid: Sendable, Equatable {
    /// What the model is told at each step.
    public let timesteps: [Double]
    /// ς: the ratio of noise to signal, or for flow matching the share of noise; float32 values, widened.
    public let sigmas: [Double]
    /// How a sample is made of data and noise at these levels.
    public let process: NoiseProcess

    /// Noise levels are rounded to float32, as diffusers' are.
    public init(timesteps: [Double], sigmas: [Double], process: NoiseProcess) {
        self.init(timesteps: timesteps, exactSigmas: sigmas.map(\.roundedToFloat32), process: process)
    }

    /// Noise levels are taken as they are.
    public init(timesteps: [Double], exactSigmas: [Double], process: NoiseProcess) {
        self.timesteps = timesteps
        sigmas = exactSigmas
        self.process = process
    }

    func validate() throws(SchedulerError) {
        try require("number of timesteps", timesteps.count, "at most \(Limits.steps)", timesteps.count <= Limits.steps)
        try require(
            "number of sigmas", sigmas.count, "\(timesteps.count + 1), one more than timesteps",
            sigmas.count == timesteps.count + 1)
        for (index, sigma) in sigmas.enumerated() {
            try require(
                "sigmas[\(index)]", sigma, process == .flow ? "from 0 to 1" : "finite and at least 0",
                sigma >= 0 && (process == .flow ? sigma <= 1 : sigma < .infinity))
        }
        for (index, timestep) in timesteps.enumerated() {
            try require("timesteps[\(index)]", timestep, "finite", timestep.isFinite)
        }
    }

    /// The noise levels with their rates.
    public var levels: [NoiseLevel] { sigmas.map { NoiseLevel(sigma: $0, process: process) } }
}

/// What a run is asked for: a number of steps, or its timesteps or noise levels themselves.
public enum TimestepRequest: Sendable, Equatable {
    /// n steps; `mu` shifts flow sigmas by e^mu where the configuration allows it.
    case count(Int, mu: Double? = nil)
    /// These timesteps, noisiest first.
    case timesteps([Double])
    /// These noise levels, greatest first, without the one after the last step.
    case sigmas([Double])

    /// More steps than this are refused: a plan for them would be a mistake and fill the memory.
    public static let maximumSteps = Limits.steps
}
