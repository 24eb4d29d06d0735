// SPDX-License-Identifier: Apache-2.0

/// The keys for the noise of the model's training at each timestep.
public protocol NoiseScheduleConfiguration: SchedulerConfiguration {
    /// T: the number of noise levels that the model was trained with, 1...1,000,000.
    var numTrainTimesteps: Int { get set }
    /// β at timestep 0, in [0, 1).
    var betaStart: Double { get set }
    /// β at timestep T − 1, in [0, 1).
    var betaEnd: Double { get set }
    /// The course of β between the two.
    var betaSchedule: BetaSchedule { get set }
    /// The T values of β themselves, each in [0, 1); overrides the three above.
    var trainedBetas: [Double]? { get set }
    /// The values that `betaSchedule` may have.
    static var betaSchedules: [BetaSchedule] { get }
}

extension NoiseScheduleConfiguration {
    public static var betaSchedules: [BetaSchedule] { [.linear, .scaledLinear, .squaredcosCapV2] }

    static var noiseScheduleParameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("beta_start", \.betaStart, "The variance of the noise that timestep 0 adds."),
            .init("beta_end", \.betaEnd, "The variance of the noise that the last timestep adds."),
            .init("beta_schedule", \.betaSchedule, among: betaSchedules, "How the variances run between the two."),
            .init("trained_betas", \.trainedBetas, "The variances themselves, which override the three before."),
        ]
    }

    func validateNoiseSchedule() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("beta_schedule", betaSchedule, among: Self.betaSchedules)
        if let trainedBetas {
            try require(
                "trained_betas", "a list of \(trainedBetas.count)",
                "a list of num_train_timesteps = \(numTrainTimesteps) numbers", trainedBetas.count == numTrainTimesteps)
            for (index, beta) in trainedBetas.enumerated() where !(beta >= 0 && Float(beta) < 1) {
                try require("trained_betas[\(index)]", beta, "at least 0 and less than 1", false)
            }
        } else {
            try require("beta_start", betaStart, "at least 0 and less than 1", betaStart >= 0 && Float(betaStart) < 1)
            try require("beta_end", betaEnd, "at least 0 and less than 1", betaEnd >= 0 && Float(betaEnd) < 1)
        }
    }
}

/// The key that removes the last of the signal from the noisiest timestep (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
public protocol ZeroTerminalSNRConfiguration: NoiseScheduleConfiguration {
    /// Whether the betas are rescaled so that the last timestep has no signal; for models that were trained so.
    var rescaleBetasZeroSNR: Bool { get set }
}

extension ZeroTerminalSNRConfiguration {
    static var zeroTerminalSNRParameters: [ConfigurationParameter<Self>] {
        [
            .init(
                "rescale_betas_zero_snr", \.rescaleBetasZeroSNR,
                "Whether the variances are rescaled so that the last timestep has no signal.")
        ]
    }
}

extension NoiseSchedule {
    /// Builds the tables of a configuration.
    ///
    /// - Parameters:
    ///   - configuration: the keys of a training's variances.
    ///   - floorsSignal: whether ς is computed from ᾱ = 2⁻²⁴ where it wouldn't be finite; for schedulers that step in ᾱ.
    /// - Throws: `invalidValue` if ᾱ becomes so small that ς isn't finite in float32.
    /// - Complexity: O(T).
    public init(
        _ configuration: some NoiseScheduleConfiguration, floorsSignal: Bool = false
    ) throws(SchedulerError) {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let betas =
            configuration.trainedBetas?.map { Float($0) }
            ?? configuration.betaSchedule.betas(
                from: configuration.betaStart, to: configuration.betaEnd, count: configuration.numTrainTimesteps)
        try self.init(
            betas: betas, key: configuration.trainedBetas == nil ? "beta_end" : "trained_betas",
            rescales: (configuration as? any ZeroTerminalSNRConfiguration)?.rescaleBetasZeroSNR ?? false,
            floorsSignal: floorsSignal)
    }
}
