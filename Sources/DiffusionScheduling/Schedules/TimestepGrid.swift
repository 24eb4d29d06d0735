/// The timesteps of a run and the noise levels between which its steps lead.
///
/// Step i goes from the level `sigmas[i]` to `sigmas[i + 1]`, so there is one level more than there are timesteps.
public struct TimestepGrid: Sendable, Codable, Equatable {
    /// What the model is told at each step.
    public let timesteps: [Double]
    /// ς: the ratio of noise to signal, or for flow matching the share of noise; float32 values, widened.
    public let sigmas: [Double]
    /// Whether a sample is (1 − ς) data + ς noise (flow matching) rather than (data + ς noise)/√(1 + ς²).
    public let isFlow: Bool

    public init(timesteps: [Double], sigmas: [Double], isFlow: Bool) {
        precondition(sigmas.count == timesteps.count + 1, "a grid has one noise level more than timesteps")
        self.timesteps = timesteps
        self.sigmas = sigmas.map(\.roundedToFloat32)
        self.isFlow = isFlow
    }

    /// The noise levels with their rates.
    public var levels: [NoiseLevel] { sigmas.map { NoiseLevel(sigma: $0, isFlow: isFlow) } }
}

/// One noise level: a sample there is `signalRate` · data + `noiseRate` · noise.
public struct NoiseLevel: Sendable, Codable, Equatable {
    /// ς as the grid has it.
    public let sigma: Double
    /// A: for the variance-preserving process 1/√(1 + ς²), for flow matching 1 − ς.
    public let signalRate: Double
    /// S: for the variance-preserving process ς/√(1 + ς²), for flow matching ς.
    public let noiseRate: Double
    /// ρ = S/A.
    public let noiseToSignal: Double

    public init(sigma: Double, isFlow: Bool) {
        self.sigma = sigma
        if isFlow {
            signalRate = 1 - sigma
            noiseRate = sigma
            noiseToSignal = sigma / (1 - sigma)
        } else {
            signalRate = 1 / hypotenuse(1, sigma)
            noiseRate = sigma / hypotenuse(1, sigma)
            noiseToSignal = sigma
        }
    }

    /// λ = ln A − ln S, half the logarithm of the signal-to-noise ratio; +∞ without noise.
    public var lambda: Double { -logarithm(noiseToSignal) }
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
    public static let maximumSteps = 100_000
}
