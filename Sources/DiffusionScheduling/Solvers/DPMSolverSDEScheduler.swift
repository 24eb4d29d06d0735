// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver++ of order 2 for the stochastic equation, on the variance-exploding process: the midpoint method in ln ς with ancestral noise
/// at both of its stages (k-diffusion's `sample_dpmpp_sde`, after Lu et al. 2022, arXiv:2211.01095, algorithm 1).
///
/// A step from ς to τ first goes to the level m in the middle with the clean sample p predicted at ς, then from x all the way with
/// the p predicted at m. W(ς, τ) is the increment of a Brownian motion over the levels, divided by its deviation. With r = τ/ς,
///
///     m = √(ς τ)        x̃  = r x + (1 − r) p(x, ς) + s_noise m √(1 − r) W(ς, m)
///                       x' = r² x + (1 − r²) p(x̃, m) + s_noise τ √(1 − r²) W(ς, τ)
///
/// Both increments begin at ς, so they share the noise z of the way to m; new noise z' belongs to the way from there:
///
///     W(ς, m) = z        W(ς, τ) = (z + ∜r z')/√(1 + √r)
///
/// The last step, to τ = 0, is x' = p without noise. ``SamplingPlan/timesteps`` lists evaluations, 2n − 1 for n steps, and a run
/// may begin at the first one of a step. ``SamplingPlan/sigmas`` has τ in the place of the second evaluation, as in diffusers; the
/// model is evaluated at m there. The first evaluation keeps r² x with the first share of the noise for the second.
///
/// diffusers draws the increments from a seeded tree (torchsde): the distribution is the same, but a seed gives other numbers.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DPMSolverSDEScheduler = DefinedScheduler<DPMSolverSDEConfiguration>

/// The parameters of `DPMSolverSDEScheduler`, with diffusers' defaults.
public struct DPMSolverSDEConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration, SigmaSpacingConfiguration {
    public static let className = "DPMSolverSDEScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let predictionTypes: [PredictionType] = [.epsilon, .vPrediction]
    public static let timestepType: TimestepElementType? = .float64
    public static let brownianMotion: BrownianMotion? = BrownianMotion(seedKey: "noise_sampler_seed", overlaps: true)

    public var numTrainTimesteps = 1000
    public var betaStart = 0.00085
    public var betaEnd = 0.012
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var predictionType = PredictionType.epsilon
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    /// The seed of diffusers' Brownian motion. Callers supply the noise here.
    public var noiseSamplerSeed: NoiseSamplerSeed?
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [predictionTypeParameter] + sigmaSpacingParameters + [
            .init("noise_sampler_seed", \.noiseSamplerSeed, "The seed of the Brownian motion that diffusers draws noise from.")
        ] + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validateSigmaSpacing()
        try validatePredictionType()
        for seed in noiseSamplerSeed?.numbers ?? [] { try require("noise_sampler_seed", seed, "at least 0", seed >= 0) }
    }

    // MARK: The plan

    /// The options of a run.
    public struct Options: RunOptions {
        /// The standard deviation of the noise.
        public var sNoise = 1.0

        public init() {}

        public static var parameters: [ConfigurationParameter<Self>] {
            [.init("s_noise", \.sNoise, "The standard deviation of the noise.")]
        }

        public func validate() throws(SchedulerError) {
            try require("s_noise", sNoise, "finite and at least 0", sNoise >= 0 && sNoise.isFinite)
        }
    }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try requireNoTimesteps(request)
        // diffusers ignores the ends of other schedulers' Karras levels here.
        let (timesteps, sigmas) = try spacedLevels(request, keepsEnds: !useKarrasSigmas, noise: noise)
        return TimestepGrid(
            firstEvaluations: timesteps,
            secondEvaluations: zip(sigmas, sigmas.dropFirst()).map { noise.timestep(atSigma: ($0 * $1).squareRoot()) },
            sigmas: sigmas, process: noise.process)
    }

    public func plan(on grid: TimestepGrid, for request: TimestepRequest, options: Options) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType), evaluations = grid.timesteps.indices
        let modelSigmas = evaluations.map { index in
            index % 2 == 0 ? grid.sigmas[index] : (grid.sigmas[index - 1] * grid.sigmas[index]).squareRoot()
        }
        let rows = evaluations.map { index in
            let prediction = solver.prediction(at: modelSigmas[index]), start = index - index % 2,
                isLast = index == evaluations.last
            let sigma = grid.sigmas[start], target = grid.sigmas[start + 1]
            let (ratio, deviation) = VarianceExplodingSolver.ancestralParts(from: sigma, to: target)
            // z's part of the noise in x'.
            let noise = options.sNoise * deviation / (1 + ratio.squareRoot()).squareRoot()
            if index == start {
                let middle = isLast ? target : modelSigmas[index + 1]
                let part = VarianceExplodingSolver.ancestralParts(from: sigma, to: middle)
                var next = solver.step(from: sigma, to: middle * part.ratio)
                next.noise = options.sNoise * part.noise
                let kept = Combination(sample: sigma > 0 ? target / sigma * ratio : 1, noise: noise)
                return PlanRow(
                    prediction: prediction, nextSample: next,
                    stores: isLast || target == 0 ? [] : [.init(slot: 0, value: kept)], drawCount: target == 0 ? 0 : 1)
            }
            // The first evaluation already ended at τ = 0, or there is no level to leave.
            if target == 0 || sigma == 0 { return PlanRow(prediction: prediction, nextSample: Combination(.sample)) }
            // 1 − r², which doesn't cancel; 1 − r in a step up.
            let share = (sigma - target) / sigma * (ratio < 1 ? 1 + ratio : 1)
            var next = Combination(.slot(0)) + share * prediction
            next.noise = noise * ratio.squareRoot().squareRoot()
            return PlanRow(prediction: prediction, nextSample: next, drawCount: 1)
        }
        return try plan(
            on: grid, modelSigmas: modelSigmas, slotCount: evaluations.count > 1 ? 1 : 0, steps: evaluations.map { $0 / 2 },
            rows: rows)
    }

    public static var attributes: StepAttributes { StepAttributes(tensors: ["sample"]) }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        var row = plan.row(at: index, age: age)
        if index % 2 == 0 {
            row.stores = row.stores.map { .init(slot: $0.slot, value: Combination(.sample)) }
        } else if let kept = plan.row(at: index - 1, age: age).stores.first?.value {
            row.nextSample = row.nextSample.replacing(.slot(0), by: kept.sample * Combination(.slot(0)))
            // The variances of the two shares add up to that of the whole increment.
            row.nextSample.noise = hypotenuse(kept.noise, row.nextSample.noise)
        }
        return row
    }
}
