// SPDX-License-Identifier: Apache-2.0

/// Euler for models in the design of Karras et al. 2022 (arXiv:2206.00364, algorithm 2 without its second half), such as Cosmos 1.0.
///
/// Each step raises the noise of the sample from ς to ς̂ = (1 + γ) ς where there is churn, see ``ChurnOptions``, and follows the
/// derivative down to the next level τ:
///
///     p = c_skip x̂ + c_out e        d = (x̂ − p)/ς̂        x' = x̂ + (τ − ς̂) d
///
/// with the coefficients of ``EDMPreconditioning`` at ς̂.
///
/// ```swift
/// var scheduler = try EDMEulerScheduler(contentsOf: "model/scheduler")
/// try scheduler.setTimesteps(35)
/// var sample = noise.map { $0 * Float(scheduler.initNoiseSigma) }
/// for timestep in scheduler.timesteps {
///     let input = try scheduler.scaleModelInput(sample, timestep: timestep)
///     try scheduler.step(modelOutput: model(input, timestep), timestep: timestep, sample: &sample)
/// }
/// ```
///
/// The `.sigmas` of a request are values of u from 0 to 1, ascending, at which the spacing is evaluated, as in diffusers.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias EDMEulerScheduler = DefinedScheduler<EDMEulerConfiguration>

/// The parameters of `EDMEulerScheduler`, with diffusers' defaults.
public struct EDMEulerConfiguration: EDMDefinition {
    public static let className = "EDMEulerScheduler"
    public static let sigmaList = SigmaList.places
    public static let resultType = ResultType.modelOutput
    public static let spacesInFloat32 = false

    public var sigmaMin = 0.002
    public var sigmaMax = 80.0
    public var sigmaData = 0.5
    public var sigmaSchedule = EDMSigmaSchedule.karras
    public var numTrainTimesteps = 1000
    public var predictionType = PredictionType.epsilon
    public var rho = 7.0
    public var finalSigmasType = FinalSigmasType.zero

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        levelParameters + [predictionTypeParameter, rhoParameter, finalSigmasTypeParameter]
    }

    public func validate() throws(SchedulerError) { try validateEDM() }

    // MARK: The plan

    /// The options of a run of EDM's Euler.
    public struct Options: ChurnOptions {
        public var sChurn = 0.0
        public var sTmin = 0.0
        public var sTmax = Double.infinity
        public var sNoise = 1.0
        /// Whether steps are given p, the predicted clean sample, in the place of the model output: pipelines that guide p call a step
        /// twice, first for p alone. p is linear in e, so guiding e does the same in one step.
        public var takesPredOriginalSample = false

        public init() {}

        public static var parameters: [ConfigurationParameter<Self>] {
            churnParameters + [
                .init(
                    "takes_pred_original_sample", \.takesPredOriginalSample,
                    "Whether steps are given the predicted clean sample in the place of the model output.")
            ]
        }

        public func validate() throws(SchedulerError) { try validateChurn() }
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try request.requireNoMu()
        let levels: [Double]
        switch request {
        case .count(let count, _):
            try requireStepCount(count)
            levels = self.levels(count: count)
        case .sigmas(let ramp, _):
            try requireOrdered("sigmas", ramp, by: <=, within: 0...1, "from 0 to 1: a place on the way to sigma_min")
            levels = self.levels(ramp)
        case .timesteps, .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps", value: "given", allowed: "left out: they follow from the noise levels")
        }
        return try plan(on: grid(levels, final: finalSigmasType == .zero ? 0 : levels[levels.count - 1]), options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        let rows = grid.timesteps.indices.map { index in
            let sigma = grid.sigmas[index], target = grid.sigmas[index + 1]
            let gamma = options.churn(at: sigma, stepCount: grid.timesteps.count), raised = sigma * (1 + gamma)
            var prediction = preconditioning.prediction(at: raised), next = preconditioning.step(from: raised, to: target)
            if options.takesPredOriginalSample {
                prediction = Combination(.modelOutput)
                next =
                    sigma == 0
                    ? Combination(.sample) : Combination(sample: target / raised, modelOutput: 1 - target / raised)
            }
            let noisy = options.raised(from: sigma, by: gamma)
            return PlanRow(
                prediction: prediction.replacing(.sample, by: noisy), nextSample: next.replacing(.sample, by: noisy),
                drawCount: gamma > 0 ? 1 : 0)
        }
        return try SamplingPlan(
            grid: grid, initNoiseSigma: startingNoise,
            inputScales: grid.sigmas.dropLast().map(preconditioning.inputScale), rows: rows.map { [$0] })
    }
}
