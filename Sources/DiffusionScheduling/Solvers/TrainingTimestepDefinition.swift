// SPDX-License-Identifier: Apache-2.0

/// A scheduler that steps between whole training timesteps of the variance-preserving process: DDIM, DDPM, LCM and PNDM.
///
/// Steps are made of the signal variances ᾱ. Noise is added at the levels of training timesteps, in or out of a plan.
public protocol TrainingTimestepDefinition: SchedulerDefinition, NoiseScheduleConfiguration, PredictionTypeConfiguration {}

extension TrainingTimestepDefinition {
    public static var predictionTypes: [PredictionType] { [.epsilon, .sample, .vPrediction] }
    public static var addsNoiseAtTrainingLevels: Bool { true }

    /// The tables. Steps are made of ᾱ, so a level may be without signal: its ς is computed from ᾱ = 2⁻²⁴.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try NoiseSchedule(self, floorsSignal: true) }

    /// The level of a whole training timestep t: A = √ᾱ_t, S = √(1 − ᾱ_t).
    ///
    /// - Throws: `unknownTimestep` for others.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        NoiseLevel(alphaCumprod: try noise.alphaCumprod(atTimestep: timestep))
    }

    /// The levels of a run that ends at the level ς = `final`.
    func grid(_ timesteps: [Double], final: Double, noise: NoiseSchedule) -> TimestepGrid {
        TimestepGrid(
            timesteps: timesteps, sigmas: timesteps.map(noise.sigma(atTimestep:)) + [final], process: .variancePreserving)
    }

    /// Refuses noise levels and `mu`.
    func requireTimestepRequest(_ request: TimestepRequest) throws(SchedulerError) {
        try request.requireNoMu()
        switch request {
        case .count, .timesteps: break
        case .sigmas, .timestepsAndSigmas:
            throw .invalidValue(
                key: "sigmas", value: "given", allowed: "left out: this scheduler steps between training timesteps")
        }
    }

    /// Refuses timesteps that aren't whole training timesteps, noisiest first.
    func requireTrainingTimesteps(_ timesteps: [Double]) throws(SchedulerError) {
        let most = min(numTrainTimesteps, TimestepRequest.maximumSteps)
        try require("number of timesteps", timesteps.count, in: 1...most)
        for (index, timestep) in timesteps.enumerated() {
            let isLess = index == 0 || timestep < timesteps[index - 1]
            try require(
                "timesteps[\(index)]", timestep, "a whole number from 0 to \(numTrainTimesteps - 1), less than the one before",
                isLess && Int(exactly: timestep).map { (0..<numTrainTimesteps).contains($0) } == true)
        }
    }
}

extension PredictionType {
    /// The signal variance to predict with. Only epsilon prediction divides by √ᾱ. Floor ᾱ at 2⁻²⁴.
    func floored(_ alphaCumprod: Double) -> Double { self == .epsilon && alphaCumprod == 0 ? 0x1p-24 : alphaCumprod }
}

extension TrainingTimestepDefinition where Self: TimestepSpacingConfiguration {
    /// The timesteps of a run, noisiest first.
    func denoisingTimesteps(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        try requireTimestepRequest(request)
        if case .count(let count, _) = request { return try denoisingTimesteps(count: count) }
        guard case .timesteps(let timesteps, _) = request else { return [] }
        try requireTrainingTimesteps(timesteps)
        return timesteps
    }

    /// The timesteps of a run of n steps, noisiest first.
    func denoisingTimesteps(count n: Int) throws(SchedulerError) -> [Double] {
        let trainingCount = numTrainTimesteps
        try requireStepCount(n, upTo: trainingCount)
        switch timestepSpacing {
        case .linspace:
            return linspace(0, Double(trainingCount - 1), count: n).reversed().map(roundedHalfToEven)
        case .leading:
            let stride = trainingCount / n
            let last = (n - 1) * stride
            try require(
                "steps_offset", stepsOffset,
                "at most \(trainingCount - 1 - last) for \(n) steps, whose noisiest timestep without it is \(last) of "
                    + "\(trainingCount - 1); or take fewer steps",
                last + stepsOffset < trainingCount)
            return (0..<n).reversed().map { Double($0 * stride + stepsOffset) }
        case .trailing:
            return TimestepSpacing.trailingTimesteps(count: n, trainingCount: trainingCount, usedCount: trainingCount)
        }
    }
}

/// The key for the level below timestep 0.
public protocol FinalAlphaConfiguration: TrainingTimestepDefinition {
    /// Whether the level before timestep 0 is the clean sample, ᾱ = 1, rather than timestep 0 itself.
    var setAlphaToOne: Bool { get set }
    /// ᾱ of the level before timestep 0, where it is neither of these.
    var finalAlphaCumprod: Double? { get set }
    /// diffusers' name of the attribute that holds it.
    static var finalAlphaCumprodName: String { get }
}

extension FinalAlphaConfiguration {
    public static var finalAlphaCumprodName: String { "final_alpha_cumprod" }

    static var setAlphaToOneParameter: ConfigurationParameter<Self> {
        .init("set_alpha_to_one", \.setAlphaToOne, "Whether the level before timestep 0 is the clean sample.")
    }

    static var finalAlphaCumprodParameter: ConfigurationParameter<Self> {
        .init(
            "diffusion_scheduling_final_alpha_cumprod", overrideName: finalAlphaCumprodName, \.finalAlphaCumprod,
            "The signal variance before timestep 0, greater than 0; null: as set_alpha_to_one says.")
    }

    func validateFinalAlphaCumprod() throws(SchedulerError) {
        if let finalAlphaCumprod {
            try require(
                Self.finalAlphaCumprodName, finalAlphaCumprod, "greater than 0 and at most 1",
                finalAlphaCumprod > 0 && finalAlphaCumprod <= 1)
        }
    }

    /// ᾱ of the level before timestep 0.
    func finalAlphaCumprod(_ noise: NoiseSchedule) -> Double {
        finalAlphaCumprod ?? (setAlphaToOne ? 1 : noise.alphasCumprod[0])
    }

    /// ς of the level before timestep 0.
    func finalSigma(_ noise: NoiseSchedule) -> Double {
        if let finalAlphaCumprod { return NoiseLevel(alphaCumprod: finalAlphaCumprod).sigma }
        return setAlphaToOne ? 0 : noise.sigmas[0]
    }
}
