// SPDX-License-Identifier: Apache-2.0

/// The noise levels a model was trained with: for each timestep j the signal variance ᾱ_j and the ratio ς_j of noise to signal.
///
/// ᾱ_j = Π_{i≤j} (1 − β_i), and a training sample at timestep j is √ᾱ_j data + √(1−ᾱ_j) noise, ς_j = √((1−ᾱ_j)/ᾱ_j).
///
/// The tables hold diffusers' float32 values, widened, because models were trained with them. ᾱ has the same bits; ς is the
/// correctly rounded root, while torch's root is off by one unit in the last place on some builds.
public struct NoiseSchedule: Sendable, Equatable {
    /// The longest schedule that is accepted; the usual one has 1,000 timesteps.
    public static let maximumTimesteps = Limits.trainingTimesteps

    /// The mixture of data and noise in a training sample.
    public let process: NoiseProcess
    /// The timesteps of the training's levels, as the model gets them: ascending, or descending if they are shares of data.
    public let timesteps: [Double]
    /// ᾱ_0 … ᾱ_{T−1}, not increasing; empty for a training that isn't described by β.
    public let alphasCumprod: [Double]
    /// ς_0 … ς_{T−1}, not decreasing; all finite.
    public let sigmas: [Double]
    /// ln ς_j as float32 numbers, in which diffusers interpolates; −∞ where ς_j is 0.
    let logSigmas: [Double]

    /// ς at ᾱ = 2⁻²⁴, which stands for levels without signal: almost 4,096.
    static let greatestRatio = ((1 - 0x1p-24) / 0x1p-24 as Float).squareRoot()

    /// The number of timesteps, T.
    public var count: Int { sigmas.count }

    /// Builds the tables of β.
    ///
    /// Betas that are rescaled to a zero terminal signal-to-noise ratio get the floor ᾱ_{T−1} = 2⁻²⁴, so ς_{T−1} is 4,096. For
    /// schedulers that step in ᾱ, ᾱ_{T−1} is 0 and ς_{T−1} is the same.
    ///
    /// - Parameters:
    ///   - key: the configuration key that the error names.
    ///   - rescales: whether the betas are rescaled to a zero terminal signal-to-noise ratio.
    ///   - floorsSignal: whether ς is computed from ᾱ = 2⁻²⁴ where it wouldn't be finite; for schedulers that step in ᾱ.
    /// - Throws: `invalidValue` if ᾱ becomes so small that ς isn't finite in float32.
    /// - Complexity: O(T).
    init(betas: [Float], key: String, rescales: Bool, floorsSignal: Bool) throws(SchedulerError) {
        let betas = rescales ? Self.rescaledToZeroTerminalSNR(betas) : betas
        var alphasCumprod = Self.cumulativeProduct(betas)
        let sigmas = alphasCumprod.map { alpha in
            let sigma = ((1 - alpha) / alpha).squareRoot()
            let isFloored = (rescales && alpha == 0) || (floorsSignal && !sigma.isFinite)
            return isFloored ? Self.greatestRatio : sigma
        }
        if let timestep = sigmas.firstIndex(where: { !$0.isFinite }) {
            throw .invalidValue(
                key: key, value: "so large that no signal is left at timestep \(timestep)",
                allowed: "small enough that the product of 1 - beta over all timesteps stays above 1e-38")
        }
        process = .variancePreserving
        // The floor is in the table of ᾱ, too, for schedulers that don't step in ᾱ, as in diffusers.
        if rescales, !floorsSignal, alphasCumprod[alphasCumprod.count - 1] == 0 { alphasCumprod[alphasCumprod.count - 1] = 0x1p-24 }
        timesteps = (0..<alphasCumprod.count).map(Double.init)
        self.alphasCumprod = alphasCumprod.map(Double.init)
        self.sigmas = sigmas.map(Double.init)
        self.logSigmas = self.sigmas.map { logarithm($0).roundedToFloat32 }
    }

    /// The levels of a table of ᾱ, for schedulers that step in ᾱ. ς is computed from ᾱ = 2⁻²⁴ where it wouldn't be finite in
    /// float32.
    init(alphasCumprod: [Double]) {
        process = .variancePreserving
        timesteps = alphasCumprod.indices.map(Double.init)
        self.alphasCumprod = alphasCumprod
        sigmas = alphasCumprod.map { alpha in
            let sigma = ((1 - alpha) / alpha).squareRoot().roundedToFloat32
            return sigma.isFinite ? sigma : Double(Self.greatestRatio)
        }
        logSigmas = sigmas.map { logarithm($0).roundedToFloat32 }
    }

    /// The levels of a training that β doesn't describe, without a table of ᾱ: float32 values, widened, ascending.
    init(sigmas: [Float], timesteps: [Float], process: NoiseProcess) {
        self.process = process
        self.timesteps = timesteps.map(Double.init)
        alphasCumprod = []
        self.sigmas = sigmas.map(Double.init)
        logSigmas = []
    }

    /// Levels without a table of ᾱ: ascending, each with the model's timestep.
    init(sigmas: [Double], timesteps: [Double], process: NoiseProcess) {
        self.process = process
        self.timesteps = timesteps
        alphasCumprod = []
        self.sigmas = sigmas
        logSigmas = []
    }

    /// The levels on the variance-exploding process, for the schedulers of Karras et al.
    var varianceExploding: NoiseSchedule { NoiseSchedule(self, process: .varianceExploding) }

    private init(_ other: NoiseSchedule, process: NoiseProcess) {
        self.process = process
        timesteps = other.timesteps
        alphasCumprod = other.alphasCumprod
        sigmas = other.sigmas
        logSigmas = other.logSigmas
    }

    /// ᾱ: torch accumulates the product in float64 and rounds each entry.
    static func cumulativeProduct<Real: BinaryFloatingPoint>(_ betas: [Real]) -> [Real] {
        var product = 1.0
        return betas.map { beta in
            product *= Double(1 - beta)
            return Real(product)
        }
    }

    /// Betas for which √ᾱ falls to 0 at the last timestep and keeps its first value (Lin et al. 2023, arXiv:2305.08891,
    /// algorithm 1), in float32 as diffusers computes them.
    private static func rescaledToZeroTerminalSNR(_ betas: [Float]) -> [Float] {
        guard let alphasCumprod = stretchedToZeroTerminalSNR(cumulativeProduct(betas)) else { return betas }
        return alphasCumprod.indices.map { j in
            // Squares of small roots may vanish before the last one does.
            1 - (j == 0 ? alphasCumprod[0] : alphasCumprod[j] == 0 ? 0 : alphasCumprod[j] / alphasCumprod[j - 1])
        }
    }

    /// ᾱ with √ᾱ shifted and stretched so that it falls to 0 and keeps its first value; nil for a schedule without slope, such as
    /// one of a single timestep.
    static func stretchedToZeroTerminalSNR<Real: BinaryFloatingPoint>(_ alphasCumprod: [Real]) -> [Real]? {
        let roots = alphasCumprod.map { $0.squareRoot() }
        let first = roots[0], last = roots[roots.count - 1]
        guard first > last else { return nil }
        let scale = first / (first - last)
        return roots.map { root in
            let rescaled = (root - last) * scale
            return rescaled * rescaled
        }
    }

    /// The number of timesteps from 0 on whose λ = ln √ᾱ − ln √(1−ᾱ) is at least the given one.
    func usedCount(lambdaMin: Double) -> Int {
        if lambdaMin == -.infinity { return count }
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return alphasCumprod.indices.last { j in
            // diffusers' λ is a difference of float32 logarithms of float32 roots, of ᾱ with the floor of 2⁻²⁴.
            let alpha = Float(alphasCumprod[j] == 0 ? 0x1p-24 : alphasCumprod[j])
            let signal = logarithm(Double(alpha.squareRoot())).roundedToFloat32
            let noise = logarithm(Double((1 - alpha).squareRoot())).roundedToFloat32
            return Float(signal) - Float(noise) >= Float(lambdaMin)
        }.map { $0 + 1 } ?? 0
    }

    /// ᾱ at a whole training timestep.
    func alphaCumprod(atTimestep timestep: Double) throws(SchedulerError) -> Double {
        guard let index = Int(exactly: timestep), alphasCumprod.indices.contains(index) else {
            throw .unknownTimestep(timestep, expected: "a whole training timestep from 0 to \(count - 1)")
        }
        return alphasCumprod[index]
    }

    /// ς at a timestep t, interpolated linearly between whole ones and constant beyond both ends:
    ///
    ///     ς(t) = ς_j + (t − j) (ς_{j+1} − ς_j)        j = ⌊t⌋
    public func sigma(atTimestep timestep: Double) -> Double {
        let position = min(max(timestep, 0), Double(count - 1))
        let lower = Int(position)
        let weight = position - Double(lower)
        return weight == 0 ? sigmas[lower] : sigmas[lower] + weight * (sigmas[lower + 1] - sigmas[lower])
    }

    /// The table's ς at a timestep; nil between its timesteps.
    func tabulatedSigma(atTimestep timestep: Double) -> Double? {
        var index = 0, end = count - 1
        while index < end {
            let middle = (index + end) / 2
            if timesteps[middle] < timestep { index = middle + 1 } else { end = middle }
        }
        return timesteps[index] == timestep ? sigmas[index] : nil
    }

    /// The timestep at which the noise level is ς, interpolated in ln ς and clipped to [0, T − 1]:
    ///
    ///     t = j + ln(ς/ς_j)/ln(ς_{j+1}/ς_j)        ς_j ≤ ς ≤ ς_{j+1}
    public func timestep(atSigma sigma: Double) -> Double {
        guard count > 1 else { return 0 }
        let logSigma = logarithm(max(sigma, 1e-10))
        let lower = min(lastIndex(notAbove: logSigma), count - 2)
        let low = logSigmas[lower], high = logSigmas[lower + 1]
        // Equal neighbours, from a β of 0, leave nothing to interpolate.
        let weight = low == high || low == -.infinity ? (logSigma > low ? 1 : 0) : min(max((low - logSigma) / (low - high), 0), 1)
        return (1 - weight) * Double(lower) + weight * Double(lower + 1)
    }

    /// The timestep at a float32 level, with the roundings of diffusers' float32 arithmetic.
    func timestep(atFloat32Sigma sigma: Float) -> Double {
        guard count > 1 else { return 0 }
        let logSigma = Float(logarithm(max(Double(sigma), 1e-10)))
        let lower = min(lastIndex(notAbove: Double(logSigma)), count - 2)
        let low = Float(logSigmas[lower]), high = Float(logSigmas[lower + 1])
        let weight = low == high || low == -.infinity ? (logSigma > low ? 1 : 0) : min(max((low - logSigma) / (low - high), 0), 1)
        return Double(1 - weight) * Double(lower) + Double(weight) * Double(lower + 1)
    }

    /// The last index whose ln ς is not above the given one; 0 if there is none.
    ///
    /// The table ascends, except that the last entry of a zero terminal signal-to-noise ratio has a floor, which lies below its
    /// predecessors. A level that came from the table as exp(ln ς) counts as equal to its entry.
    private func lastIndex(notAbove logSigma: Double) -> Int {
        let bound = logSigma + 4 * logSigma.ulp
        if logSigmas[count - 1] <= bound { return count - 1 }
        var lower = 0, upper = count - 1
        while upper - lower > 1 {
            let middle = (lower + upper) / 2
            if logSigmas[middle] <= bound { lower = middle } else { upper = middle }
        }
        return lower
    }
}
