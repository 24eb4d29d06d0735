// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver-2 with ancestral noise (k-diffusion's `sample_dpm_2_ancestral`): the midpoint method of ``KDPM2DiscreteScheduler`` down to a
/// level below the next one, from where new noise leads back up (Song et al. 2020, arXiv:2011.13456, appendix F).
///
/// From ς to τ, with the derivative d and standard normal noise z:
///
///     σ_up² = τ² (ς² − τ²)/ς²        σ_down = τ²/ς
///     x̃ = x + (τ − ς) d(x, ς)        x' = x + (σ_down − ς) d(x̃, τ) + σ_up z
///
/// The level in the middle, √(ς σ_down), is τ itself. So each step evaluates the model twice, at ς and at τ; the last one, to τ = 0, once.
/// ``SamplingPlan/timesteps`` lists evaluations, 2n − 1 for n steps, and a run may begin at the first one of a step. The first evaluation
/// keeps x for the second, which draws the noise.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias KDPM2AncestralDiscreteScheduler = DefinedScheduler<KDPM2AncestralDiscreteConfiguration>

/// The parameters of `KDPM2AncestralDiscreteScheduler`, with diffusers' defaults.
public struct KDPM2AncestralDiscreteConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration,
    SigmaSpacingConfiguration
{
    public static let className = "KDPM2AncestralDiscreteScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let predictionTypes: [PredictionType] = [.epsilon, .vPrediction]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.00085
    public var betaEnd = 0.012
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var predictionType = PredictionType.epsilon
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + sigmaSpacingParameters + [predictionTypeParameter] + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validateSigmaSpacing()
        try validatePredictionType()
    }

    // MARK: The plan

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try requireNoTimesteps(request)
        let (timesteps, sigmas) = try spacedLevels(request, noise: noise)
        // diffusers rounds the timesteps of Karras levels, but not those of second evaluations.
        return TimestepGrid(
            firstEvaluations: useKarrasSigmas ? timesteps.map(roundedHalfToEven) : timesteps,
            secondEvaluations: sigmas.dropFirst().map { noise.timestep(atFloat32Sigma: Float($0)).roundedToFloat32 },
            sigmas: sigmas,
            process: noise.process)
    }

    public func plan(
        on grid: TimestepGrid, for request: TimestepRequest, options: NoRunOptions
    ) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType), evaluations = grid.timesteps.indices
        let rows = evaluations.map { index in
            let prediction = solver.prediction(at: grid.sigmas[index])
            if index % 2 == 0 {
                return PlanRow(
                    prediction: prediction, nextSample: solver.step(from: grid.sigmas[index], to: grid.sigmas[index + 1]),
                    stores: index == evaluations.last ? [] : [.init(slot: 0, value: Combination(.sample))])
            }
            let sigma = grid.sigmas[index - 1], target = grid.sigmas[index]
            // The first evaluation already ended at τ = 0, where there is no derivative.
            if target == 0 { return PlanRow(prediction: prediction, nextSample: Combination(.sample), drawCount: 1) }
            let (ratio, noise) = VarianceExplodingSolver.ancestralParts(from: sigma, to: target)
            // σ_down − ς = (τ − ς)(τ + ς)/ς, which doesn't cancel; τ − ς in a step up.
            let length = (target - sigma) * (ratio < 1 ? 1 + ratio : 1)
            var next = Combination(.slot(0)) + length * solver.derivative(at: target)
            next.noise = noise
            return PlanRow(prediction: prediction, nextSample: next, drawCount: 1)
        }
        return try plan(
            on: grid, slotCount: evaluations.count > 1 ? 1 : 0, steps: evaluations.map { $0 / 2 }, rows: rows)
    }

    public static var attributes: StepAttributes { StepAttributes(tensors: ["sample"]) }
}
