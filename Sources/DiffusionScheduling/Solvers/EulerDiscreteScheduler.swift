// SPDX-License-Identifier: Apache-2.0

/// Euler: the first-order sampler of Karras et al. 2022 (arXiv:2206.00364, algorithm 2 without its second half), with one evaluation of
/// the model a step.
///
/// Each step raises the noise of the sample from ς to ς̂ = (1 + γ) ς, and follows the derivative d down to the next level τ:
///
///     x̂ = x + s_noise √(ς̂² − ς²) z        d = (x̂ − p)/ς̂        x' = x̂ + (τ − ς̂) d
///
/// γ is 0, and the run deterministic, unless ``EulerDiscreteConfiguration/Options/sChurn`` is given. Then the sampler is DDIM's in other
/// coordinates.
///
/// ```swift
/// var scheduler = try EulerDiscreteScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(30)
/// var sample = noise.map { $0 * Float(scheduler.initNoiseSigma) }
/// for timestep in scheduler.timesteps {
///     let input = try scheduler.scaleModelInput(sample, timestep: timestep)
///     try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias EulerDiscreteScheduler = DefinedScheduler<EulerDiscreteConfiguration>

/// The parameters of `EulerDiscreteScheduler`, with diffusers' defaults.
public struct EulerDiscreteConfiguration: VarianceExplodingDefinition, SigmaSpacingConfiguration, ZeroTerminalSNRConfiguration {
    public static let className = "EulerDiscreteScheduler"
    public static let sigmaList = SigmaList.levelsAndEnd
    public static let resultType = ResultType.modelOutput
    public static let compatibleClassNames = commonCompatibleClassNames

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    /// The quantity that the model predicts.
    public var predictionType = EulerPredictionType.epsilon
    /// The curve of noise levels between those of the training.
    public var interpolationType = SigmaInterpolationType.linear
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var sigmaMin: Double?
    public var sigmaMax: Double?
    public var timestepSpacing = TimestepSpacing.linspace
    /// The quantity that a model of `v_prediction` is told: the training timestep, or ln ς/4.
    public var timestepType = TimestepType.discrete
    public var stepsOffset = 0
    public var rescaleBetasZeroSNR = false
    /// The noise level after the last step.
    public var finalSigmasType = FinalSigmasType.zero

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("prediction_type", \.predictionType, "What the model predicts."),
            .init("interpolation_type", \.interpolationType, "How noise levels run between those of the training."),
        ] + sigmaSpacingParameters + [
            .init("sigma_min", \.sigmaMin, "The least level of Karras, exponential and beta spacings; None: the last timestep's."),
            .init(
                "sigma_max", \.sigmaMax, "The greatest level of Karras, exponential and beta spacings; None: the first timestep's."),
            timestepSpacingParameter,
            .init("timestep_type", \.timestepType, "What a model of v_prediction is told: the training timestep, or ln ς/4."),
            stepsOffsetParameter,
        ] + zeroTerminalSNRParameters + [
            .init("final_sigmas_type", \.finalSigmasType, "The noise level after the last step: zero, or the training's least.")
        ]
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validateSigmaSpacing()
    }

    // MARK: The plan

    /// The options of a run of Euler's.
    public struct Options: ChurnOptions {
        public var sChurn = 0.0
        public var sTmin = 0.0
        public var sTmax = Double.infinity
        public var sNoise = 1.0

        public init() {}

        public static var parameters: [ConfigurationParameter<Self>] { churnParameters }

        public func validate() throws(SchedulerError) { try validateChurn() }
    }

    public func plan(on grid: TimestepGrid, for request: TimestepRequest, options: Options) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType.meaning)
        // diffusers divides the churn among its levels, one of which is never reached on logarithmic grids.
        let stepCount = grid.timesteps.count + (endsEarly(request) ? 1 : 0)
        let rows = grid.timesteps.indices.map { index in
            let sigma = grid.sigmas[index], gamma = options.churn(at: sigma, stepCount: stepCount)
            let noisy = options.raised(from: sigma, by: gamma)
            return PlanRow(
                prediction: solver.prediction(at: sigma, raisedBy: 1 + gamma).replacing(.sample, by: noisy),
                nextSample: solver.step(from: sigma, to: grid.sigmas[index + 1], raisedBy: 1 + gamma).replacing(.sample, by: noisy),
                drawCount: gamma > 0 ? 1 : 0)
        }
        return try plan(on: grid, rows: rows)
    }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        var timesteps: [Double], sigmas: [Double]
        if case .sigmas(let custom, nil) = request {
            try require(
                "number of sigmas", custom.count, "at least 2: the last one is the level after the last step", custom.count > 1)
            try requireOrdered("sigmas", custom, by: >=, within: 0...Double(Float.greatestFiniteMagnitude), "finite and at least 0")
            sigmas = custom.map(\.roundedToFloat32)
            timesteps = sigmas.dropLast().map { noise.timestep(atFloat32Sigma: Float($0)).roundedToFloat32 }
        } else {
            if isContinuous, case .timesteps = request {
                throw .invalidValue(key: "timesteps", value: "given", allowed: "left out where timestep_type is continuous")
            }
            (timesteps, sigmas) = try spacedLevels(request, levels: logarithmicLevels(request, noise: noise), noise: noise)
            sigmas.append(finalSigmasType == .zero ? 0 : noise.sigmas[0])
            if endsEarly(request) { sigmas.removeLast() }
        }
        if isContinuous { timesteps = sigmas.dropLast().map { Double(0.25 * Float(logarithm(max($0.roundedToFloat32, 1e-10)))) } }
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas, process: noise.process)
    }

    /// Whether the model gets ¼ ln ς.
    private var isContinuous: Bool { timestepType == .continuous && predictionType == .vPrediction }

    /// Whether there is already one level more than steps, so that the run ends at the training's least level.
    private func endsEarly(_ request: TimestepRequest) -> Bool {
        if case .sigmas = request { return false }
        return interpolationType == .logLinear && chosenSpacings.isEmpty && !isContinuous
    }

    /// n + 1 levels evenly spaced in ln ς, from the training's greatest to its least, in float32 as torch computes them.
    private func logarithmicLevels(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> [Double]? {
        guard interpolationType == .logLinear else { return nil }
        try requireLogarithm(noise.sigmas[0])
        let count = try timesteps(request, noise: noise).count
        return BetaSchedule.linspace(Float(noise.logSigmas[noise.count - 1]), Float(noise.logSigmas[0]), count: count + 1).map {
            exponential(Double($0)).roundedToFloat32
        }
    }
}

/// The meaning of an Euler model's output.
public enum EulerPredictionType: String, ConfigurationKeyword {
    /// The noise.
    case epsilon
    /// The clean sample.
    case sample
    /// diffusers' old word for `sample`.
    case originalSample = "original_sample"
    /// The velocity A noise − S data.
    case vPrediction = "v_prediction"

    var meaning: PredictionType {
        switch self {
        case .epsilon: .epsilon
        case .sample, .originalSample: .sample
        case .vPrediction: .vPrediction
        }
    }
}

/// The interpolation of noise levels between those of the training.
public enum SigmaInterpolationType: String, ConfigurationKeyword {
    /// Linear interpolation at the steps' timesteps.
    case linear
    /// Even spacing in ln ς over the whole training, whatever the timesteps.
    case logLinear = "log_linear"
}

/// The timestep that a model gets.
public enum TimestepType: String, ConfigurationKeyword {
    /// The training timestep.
    case discrete
    /// ¼ ln ς, for models of `vPrediction` (Karras et al. 2022, table 1); other models get the training timestep nevertheless.
    case continuous
}
