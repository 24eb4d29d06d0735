/// The noise levels a model was trained with: for each timestep j the signal variance ᾱ_j and the ratio ς_j of noise to signal.
///
/// ᾱ_j = Π_{i≤j} (1 − β_i), and a training sample at timestep j is √ᾱ_j data + √(1−ᾱ_j) noise, ς_j = √((1−ᾱ_j)/ᾱ_j).
///
/// The tables hold the float32 values of diffusers, widened: trained models were paired with those. ᾱ is bit for bit the same;
/// ς is the correctly rounded root, where torch's own is off by one unit in the last place on some builds.
public struct NoiseSchedule: Sendable, Equatable {
    /// The longest schedule that is accepted; the usual one has 1,000 timesteps.
    public static let maximumTimesteps = 1_000_000

    /// ᾱ_0 … ᾱ_{T−1}, not increasing.
    public let alphasCumprod: [Double]
    /// ς_0 … ς_{T−1}, not decreasing; all finite.
    public let sigmas: [Double]
    /// ln ς_j as float32 numbers, as diffusers interpolates in; −∞ where ς_j is 0.
    let logSigmas: [Double]

    /// The number of timesteps, T.
    public var count: Int { sigmas.count }

    /// Builds the tables of a configuration.
    ///
    /// - Throws: `invalidValue` if ᾱ becomes so small that ς isn't finite in float32.
    /// - Complexity: O(T).
    public init(_ configuration: some NoiseScheduleConfiguration) throws(SchedulerError) {
        let betas =
            configuration.trainedBetas?.map { Float($0) }
            ?? configuration.betaSchedule.betas(
                from: configuration.betaStart, to: configuration.betaEnd, count: configuration.numTrainTimesteps)
        try self.init(betas: betas, betasKey: configuration.trainedBetas == nil ? "beta_end" : "trained_betas")
    }

    init(betas: [Float], betasKey: String) throws(SchedulerError) {
        // torch accumulates the product in float64 and rounds each entry.
        var product = 1.0
        let alphasCumprod = betas.map { beta in
            product *= Double(1 - beta)
            return Float(product)
        }
        let sigmas = alphasCumprod.map { ((1 - $0) / $0).squareRoot() }
        if let timestep = sigmas.firstIndex(where: { !$0.isFinite }) {
            throw .invalidValue(
                key: betasKey, value: "so large that no signal is left at timestep \(timestep)",
                allowed: "such that the product of 1 - beta over all timesteps stays above 1e-38")
        }
        self.alphasCumprod = alphasCumprod.map(Double.init)
        self.sigmas = sigmas.map(Double.init)
        self.logSigmas = self.sigmas.map { logarithm($0).roundedToFloat32 }
    }

    /// ς at a timestep, interpolated linearly between whole ones and constant beyond both ends.
    public func sigma(atTimestep timestep: Double) -> Double {
        let position = min(max(timestep, 0), Double(count - 1))
        let lower = Int(position)
        let weight = position - Double(lower)
        return weight == 0 ? sigmas[lower] : sigmas[lower] + weight * (sigmas[lower + 1] - sigmas[lower])
    }

    /// The timestep at which the noise level is ς, interpolated in ln ς and clipped to [0, T − 1].
    public func timestep(atSigma sigma: Double) -> Double {
        guard count > 1 else { return 0 }
        let logSigma = logarithm(max(sigma, 1e-10))
        let lower = min(lastIndex(notAbove: logSigma), count - 2)
        let low = logSigmas[lower], high = logSigmas[lower + 1]
        // Equal neighbours, from a β of 0, leave nothing to interpolate.
        let weight = low == high || low == -.infinity ? (logSigma > low ? 1 : 0) : min(max((low - logSigma) / (low - high), 0), 1)
        return (1 - weight) * Double(lower) + weight * Double(lower + 1)
    }

    /// The last index whose ln ς is not above the given one; 0 if there is none.
    private func lastIndex(notAbove logSigma: Double) -> Int {
        var lower = 0, upper = count
        while upper - lower > 1 {
            let middle = (lower + upper) / 2
            if logSigmas[middle] <= logSigma { lower = middle } else { upper = middle }
        }
        return lower
    }
}
