// SPDX-License-Identifier: Apache-2.0

/// The common part of schedulers for models in the design of Karras et al. 2022 ("EDM", arXiv:2206.00364).
///
/// A sample is data + ς noise, and the levels run from `sigmaMax` to `sigmaMin`. The model's input is x/√(ς² + σ_d²), of unit
/// variance, and its timestep is ¼ ln ς rather than a timestep of the training.
public protocol EDMDefinition: PredictionTypeConfiguration, SchedulerDefinition {
    /// The least noise level, > 0.
    var sigmaMin: Double { get set }
    /// The greatest noise level, at least `sigmaMin`.
    var sigmaMax: Double { get set }
    /// σ_d: the standard deviation of the data, at least 0.
    var sigmaData: Double { get set }
    /// The spacing of the levels between the ends.
    var sigmaSchedule: EDMSigmaSchedule { get set }
    /// T: the number of levels before a run is planned.
    var numTrainTimesteps: Int { get set }
    /// ρ of Karras levels, > 0: the greater, the more levels are near `sigmaMin`.
    var rho: Double { get set }
    /// The noise level after the last step.
    var finalSigmasType: FinalSigmasType { get set }

    /// Whether diffusers spaces the levels in float32 rather than in float64.
    static var spacesInFloat32: Bool { get }
    /// The model's timestep at a level, a float32 number: t = ¼ ln ς, c_noise of Karras et al. 2022, table 1, unless a scheduler
    /// has another.
    static func timestep(atSigma sigma: Double) -> Double
    /// The level of a timestep of the model, the inverse of ``timestep(atSigma:)``: ς = e^{4t}, unless a scheduler has another.
    static func sigma(atTimestep timestep: Double) -> Double
}

/// The spacings of EDM models' levels, as functions of u from 0 to 1.
public enum EDMSigmaSchedule: String, ConfigurationKeyword {
    /// ς = (P^{1/ρ} + u (Q^{1/ρ} − P^{1/ρ}))^ρ (Karras et al. 2022, arXiv:2206.00364, equation 5).
    case karras
    /// ς = exp(ln P + u (ln Q − ln P)) (k-diffusion).
    case exponential
}

extension EDMDefinition {
    public static var predictionTypes: [PredictionType] { [.epsilon, .vPrediction] }
    public static var compatibleClassNames: [String] { [className] }
    public static var spacesInFloat32: Bool { true }

    /// t = ¼ ln ς: c_noise of Karras et al. 2022, table 1.
    public static func timestep(atSigma sigma: Double) -> Double { Double(0.25 * Float(logarithm(sigma))) }
    public static func sigma(atTimestep timestep: Double) -> Double { exponential(4 * timestep) }

    static var levelParameters: [ConfigurationParameter<Self>] {
        [
            .init("sigma_min", \.sigmaMin, "The least noise level."),
            .init("sigma_max", \.sigmaMax, "The greatest noise level."),
            .init("sigma_data", \.sigmaData, "The standard deviation of the data."),
            .init("sigma_schedule", \.sigmaSchedule, "How the noise levels run between the two ends."),
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels before a run is planned."),
        ]
    }
    static var rhoParameter: ConfigurationParameter<Self> {
        .init("rho", \.rho, "The exponent of Karras levels: the greater, the more of them are near sigma_min.")
    }
    static var finalSigmasTypeParameter: ConfigurationParameter<Self> {
        .init("final_sigmas_type", \.finalSigmasType, "The noise level after the last step: zero, or the least one again.")
    }

    func validateEDM() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("sigma_min", sigmaMin, "greater than 0 in float32", Float(sigmaMin) > 0)
        try require(
            "sigma_max", sigmaMax, "at least sigma_min = \(sigmaMin) and finite in float32",
            sigmaMax >= sigmaMin && Float(sigmaMax) < .infinity)
        try require("sigma_data", sigmaData, in: 0...1e100)
        try require("rho", rho, "greater than 0 and finite", rho > 0 && rho < .infinity)
        // The powers may overflow for small ρ, and their difference may round sigma_min to 0.
        try require(
            "rho", rho, "such that a spacing from sigma_max = \(sigmaMax) ends above 0 where sigma_min = \(sigmaMin)",
            levels([0, 1]).allSatisfy { $0 > 0 && $0 < .infinity })
        try validatePredictionType()
    }

    // MARK: Levels

    /// The levels of a ramp from 0 to 1, greatest first, as float32 numbers. Exponential levels are evenly spaced, whatever the
    /// ramp.
    func levels(_ ramp: [Double]) -> [Double] {
        switch sigmaSchedule {
        case .karras:
            guard Self.spacesInFloat32 else {
                return ramp.map { SigmaSpacing.karras($0, from: sigmaMax, to: sigmaMin, rho: rho).roundedToFloat32 }
            }
            let start = power(sigmaMax, 1 / rho), difference = power(sigmaMin, 1 / rho) - start
            return ramp.map { u in
                let root = Float(u) * Float(difference) + Float(start)
                return power(Double(root), rho.roundedToFloat32).roundedToFloat32
            }
        case .exponential:
            // A single level is the least one.
            return BetaSchedule.linspace(Float(logarithm(sigmaMin)), Float(logarithm(sigmaMax)), count: ramp.count).reversed().map {
                exponential(Double($0)).roundedToFloat32
            }
        }
    }

    /// The levels of a run of n steps, without the one after the last.
    func levels(count n: Int) -> [Double] {
        levels(Self.spacesInFloat32 ? BetaSchedule.linspace(Float(0), 1, count: n).map(Double.init) : linspace(0, 1, count: n))
    }

    /// The levels of a run with the one after the last step.
    func grid(_ levels: [Double], final: Double) -> TimestepGrid {
        TimestepGrid(timesteps: levels.map(Self.timestep), sigmas: levels + [final], process: .varianceExploding)
    }

    /// `numTrainTimesteps` levels, ascending.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = Array(levels(count: numTrainTimesteps).reversed())
        return NoiseSchedule(
            sigmas: sigmas.map { Float($0) }, timesteps: sigmas.map { Float(Self.timestep(atSigma: $0)) },
            process: .varianceExploding)
    }

    /// The level ς of a timestep t: the table's, else the inverse of ``timestep(atSigma:)``; S = ς, A = 1.
    ///
    /// - Throws: nothing.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        let sigma = noise.tabulatedSigma(atTimestep: timestep) ?? Self.sigma(atTimestep: timestep)
        return NoiseLevel(sigma: sigma, process: .varianceExploding)
    }

    /// The starting sample's deviation; as in diffusers, it includes data of unit variance.
    var startingNoise: Double { hypotenuse(1, sigmaMax) }

    var preconditioning: EDMPreconditioning { EDMPreconditioning(sigmaData: sigmaData, predictionType: predictionType) }
}
