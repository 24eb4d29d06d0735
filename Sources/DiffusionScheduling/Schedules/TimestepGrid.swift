// SPDX-License-Identifier: Apache-2.0

/// The timesteps of a run and the noise levels of its steps.
///
/// Step i goes from the level `sigmas[i]` to `sigmas[i + 1]`, so there is one level more than there are timesteps.
public struct TimestepGrid: Sendable, Equatable {
    /// The timestep that the model gets at each step.
    public let timesteps: [Double]
    /// ς: the ratio of noise to signal, or for flow matching the share of noise; float32 values, widened.
    public let sigmas: [Double]
    /// Whether a sample is (1 − ς) data + ς noise (flow matching) rather than (data + ς noise)/√(1 + ς²).
    public let isFlow: Bool

    /// Noise levels are rounded to float32, as diffusers' are.
    public init(timesteps: [Double], sigmas: [Double], isFlow: Bool) {
        self.init(timesteps: timesteps, exactSigmas: sigmas.map(\.roundedToFloat32), isFlow: isFlow)
    }

    /// Noise levels are taken as they are.
    public init(timesteps: [Double], exactSigmas: [Double], isFlow: Bool) {
        self.timesteps = timesteps
        sigmas = exactSigmas
        self.isFlow = isFlow
    }

    func validate() throws(SchedulerError) {
        try require("number of timesteps", timesteps.count, "at most \(Limits.steps)", timesteps.count <= Limits.steps)
        try require(
            "number of sigmas", sigmas.count, "\(timesteps.count + 1), one more than the timesteps",
            sigmas.count == timesteps.count + 1)
        for (index, sigma) in sigmas.enumerated() {
            try require(
                "sigmas[\(index)]", sigma, isFlow ? "from 0 to less than 1" : "finite and at least 0",
                sigma >= 0 && sigma < (isFlow ? 1 : .infinity))
        }
        for (index, timestep) in timesteps.enumerated() {
            try require("timesteps[\(index)]", timestep, "finite", timestep.isFinite)
        }
    }

    /// The noise levels with their rates.
    public var levels: [NoiseLevel] { sigmas.map { NoiseLevel(sigma: $0, isFlow: isFlow) } }
}

/// One noise level: a sample there is `signalRate` · data + `noiseRate` · noise.
public struct NoiseLevel: Sendable, Equatable {
    /// ς as the grid has it.
    public let sigma: Double
    /// A: for the variance-preserving process 1/√(1 + ς²), for flow matching 1 − ς.
    public let signalRate: Double
    /// S: for the variance-preserving process ς/√(1 + ς²), for flow matching ς.
    public let noiseRate: Double
    /// ρ = S/A.
    public let noiseToSignal: Double
    /// Whether A + S = 1 (flow matching), as opposed to A² + S² = 1 (variance-preserving).
    public let isFlow: Bool

    public init(sigma: Double, isFlow: Bool) {
        self.isFlow = isFlow
        self.sigma = sigma
        signalRate = isFlow ? 1 - sigma : 1 / hypotenuse(1, sigma)
        noiseRate = isFlow ? sigma : sigma / hypotenuse(1, sigma)
        noiseToSignal = isFlow ? sigma / (1 - sigma) : sigma
    }

    /// The level of a signal variance ᾱ on the variance-preserving process: A = √ᾱ, S = √(1 − ᾱ).
    public init(alphaCumprod: Double) {
        isFlow = false
        sigma = ((1 - alphaCumprod) / alphaCumprod).squareRoot()
        signalRate = alphaCumprod.squareRoot()
        noiseRate = (1 - alphaCumprod).squareRoot()
        noiseToSignal = sigma
    }

    /// λ_t − λ_s with λ = ln A − ln S, half the logarithm of the signal-to-noise ratio; accurate for levels close together.
    static func lambdaDifference(from s: NoiseLevel, to t: NoiseLevel) -> Double {
        logarithmOfRatio(s.noiseToSignal, t.noiseToSignal)
    }

    /// 1 − A, without cancellation where there is little noise: S²/(1 + A) on the variance-preserving process.
    var lostSignalRate: Double {
        isFlow ? sigma : noiseRate * noiseRate / (1 + signalRate)
    }

    /// S, or 2⁻¹² at a level without noise, which one can't divide by: the floor of 2⁻²⁴ for 1 − ᾱ.
    var noiseRateToDivideBy: Double { noiseRate > 0 ? noiseRate : 0x1p-12 }

    /// The noise ε = (x − A p)/S of a clamped prediction p.
    var noiseOfClampedPrediction: LinearCombination {
        LinearCombination(sample: 1 / noiseRateToDivideBy, prediction: -signalRate / noiseRateToDivideBy)
    }
}

/// ln(a/b), accurate where a and b are close (then a − b is exact, by Sterbenz' lemma) and where they are far apart.
func logarithmOfRatio(_ a: Double, _ b: Double) -> Double {
    let ratio = a / b
    return ratio > 0.5 && ratio < 2 ? logarithmOfOnePlus((a - b) / b) : logarithm(ratio)
}

/// A requested run: a number of steps, or its timesteps or noise levels themselves.
public enum TimestepRequest: Sendable, Equatable {
    /// n steps; `mu` shifts flow sigmas by e^mu where the configuration allows it.
    case count(Int, mu: Double? = nil)
    /// These timesteps, noisiest first.
    case timesteps([Double])
    /// These noise levels, greatest first, without the one after the last step.
    case sigmas([Double])

    /// The most steps of a plan; more would be a mistake and fill the memory.
    public static let maximumSteps = Limits.steps
}
