// SPDX-License-Identifier: Apache-2.0

/// The mixture of data and noise in a sample at the noise level ς: sample = A data + S noise.
public enum NoiseProcess: String, Sendable, CaseIterable {
    /// A = 1/√(1 + ς²), S = ς/√(1 + ς²), so that A² + S² = 1 (Ho et al. 2020, arXiv:2006.11239).
    case variancePreserving = "variance_preserving"
    /// A = 1, S = ς (Song et al. 2020, arXiv:2011.13456; Karras et al. 2022, arXiv:2206.00364).
    case varianceExploding = "variance_exploding"
    /// A = 1 − ς, S = ς: the straight line of flow matching (Lipman et al. 2022, arXiv:2210.02747).
    case flow
}

/// One noise level: a sample there is `signalRate` · data + `noiseRate` · noise.
public struct NoiseLevel: Sendable, Equatable {
    /// The meaning of ς.
    public let process: NoiseProcess
    /// ς as the grid has it: the ratio of noise to signal, or for flow matching the share of noise.
    public let sigma: Double
    /// A: the factor of the data.
    public let signalRate: Double
    /// S: the factor of the noise.
    public let noiseRate: Double
    /// ρ = S/A; infinite for a flow level of 1.
    public let noiseToSignal: Double

    /// The level ς of a process.
    public init(sigma: Double, process: NoiseProcess) {
        self.process = process
        self.sigma = sigma
        switch process {
        case .variancePreserving:
            signalRate = 1 / hypotenuse(1, sigma)
            noiseRate = sigma / hypotenuse(1, sigma)
            noiseToSignal = sigma
        case .varianceExploding:
            signalRate = 1
            noiseRate = sigma
            noiseToSignal = sigma
        case .flow:
            signalRate = 1 - sigma
            noiseRate = sigma
            noiseToSignal = sigma / (1 - sigma)
        }
    }

    /// The level of a signal variance ᾱ on the variance-preserving process: A = √ᾱ, S = √(1 − ᾱ).
    public init(alphaCumprod: Double) {
        process = .variancePreserving
        sigma = ((1 - alphaCumprod) / alphaCumprod).squareRoot()
        signalRate = alphaCumprod.squareRoot()
        noiseRate = (1 - alphaCumprod).squareRoot()
        noiseToSignal = sigma
    }

    /// The level of the rates A and S, whose ς is their ratio.
    init(signalRate: Double, noiseRate: Double, process: NoiseProcess) {
        self.process = process
        self.signalRate = signalRate
        self.noiseRate = noiseRate
        sigma = noiseRate / signalRate
        noiseToSignal = sigma
    }

    /// λ_t − λ_s with λ = ln A − ln S, half the logarithm of the signal-to-noise ratio; accurate for levels close together.
    static func lambdaDifference(from s: NoiseLevel, to t: NoiseLevel) -> Double {
        logarithmOfRatio(s.noiseToSignal, t.noiseToSignal)
    }

    /// 1 − A, without cancellation where there is little noise: S²/(1 + A) on the variance-preserving process.
    var lostSignalRate: Double {
        switch process {
        case .variancePreserving: noiseRate * noiseRate / (1 + signalRate)
        case .varianceExploding: 0
        case .flow: sigma
        }
    }

    /// S as a divisor: 2⁻¹² at a level without noise, from the floor 2⁻²⁴ of 1 − ᾱ.
    var noiseRateToDivideBy: Double { noiseRate > 0 ? noiseRate : 0x1p-12 }
}

/// ln(a/b), accurate where a and b are close (then a − b is exact, by Sterbenz' lemma) and where they are far apart.
func logarithmOfRatio(_ a: Double, _ b: Double) -> Double {
    let ratio = a / b
    return ratio > 0.5 && ratio < 2 ? logarithmOfOnePlus((a - b) / b) : logarithm(ratio)
}
