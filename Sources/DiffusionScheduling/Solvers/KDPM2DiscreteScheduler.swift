// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver-2 on the variance-exploding process: the midpoint method in ln ς (Lu et al. 2022, arXiv:2206.00927, algorithm 1;
/// k-diffusion's `sample_dpm_2`, without the churn of Karras et al. 2022, arXiv:2206.00364, algorithm 2).
///
/// A step from ς to τ first goes to the level m in the middle with the derivative d at ς, then from x all the way with the d at m:
///
///     m = √(ς τ)        x̃ = x + (m − ς) d(x, ς)        x' = x + (τ − ς) d(x̃, m)
///
/// So each step evaluates the model twice; the last one, to τ = 0, once. ``SamplingPlan/timesteps`` lists evaluations, 2n − 1 for n
/// steps, and a run may begin at the first one of a step. ``SamplingPlan/sigmas`` has τ in the place of the second evaluation, as
/// in diffusers; the model is evaluated at m there. The first evaluation keeps x for the second.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias KDPM2DiscreteScheduler = DefinedScheduler<KDPM2DiscreteConfiguration>

/// The parameters of `KDPM2DiscreteScheduler`, with diffusers' defaults.
public struct KDPM2DiscreteConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration, SigmaSpacingConfiguration {
    public static let className = "KDPM2DiscreteScheduler"
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
        let middles = zip(sigmas, sigmas.dropFirst()).map { sigma, target in
            noise.timestep(atFloat32Sigma: Float(middle(sigma.roundedToFloat32, target.roundedToFloat32))).roundedToFloat32
        }
        // diffusers rounds the timesteps of Karras levels, but not those between them.
        return TimestepGrid(
            firstEvaluations: useKarrasSigmas ? timesteps.map(roundedHalfToEven) : timesteps, secondEvaluations: middles,
            sigmas: sigmas, process: noise.process)
    }

    /// m, the level in the middle.
    private func middle(_ sigma: Double, _ target: Double) -> Double { (sigma * target).squareRoot() }

    public func plan(
        on grid: TimestepGrid, for request: TimestepRequest, options: NoRunOptions
    ) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType), evaluations = grid.timesteps.indices
        let modelSigmas = evaluations.map { index in
            index % 2 == 0 ? grid.sigmas[index] : middle(grid.sigmas[index - 1], grid.sigmas[index])
        }
        let rows = evaluations.map { index in
            let prediction = solver.prediction(at: modelSigmas[index])
            if index % 2 == 0 {
                let sigma = grid.sigmas[index], target = grid.sigmas[index + 1]
                if index == evaluations.last {
                    return PlanRow(prediction: prediction, nextSample: solver.step(from: sigma, to: target))
                }
                return PlanRow(
                    prediction: prediction, nextSample: solver.step(from: sigma, to: middle(sigma, target)),
                    stores: [.init(slot: 0, value: Combination(.sample))])
            }
            // The first evaluation already ended at τ = 0, where there is no derivative.
            if modelSigmas[index] == 0 { return PlanRow(prediction: prediction, nextSample: Combination(.sample)) }
            let step = (grid.sigmas[index] - grid.sigmas[index - 1]) * solver.derivative(at: modelSigmas[index])
            return PlanRow(prediction: prediction, nextSample: Combination(.slot(0)) + step)
        }
        return try plan(
            on: grid, modelSigmas: modelSigmas, slotCount: evaluations.count > 1 ? 1 : 0, steps: evaluations.map { $0 / 2 },
            rows: rows)
    }

    public static var attributes: StepAttributes { StepAttributes(tensors: ["sample"]) }
}
