// SPDX-License-Identifier: Apache-2.0

/// Ancestral Euler: each step goes further down than its level and returns with new noise (k-diffusion's `sample_euler_ancestral`; the
/// ancestral sampling of Song et al. 2020, arXiv:2011.13456, appendix F, for the variance-exploding process).
///
/// From ς to τ, with the derivative d and standard normal noise z:
///
///     σ_up² = τ² (ς² − τ²)/ς²        σ_down = τ²/ς        x' = x + (σ_down − ς) d + σ_up z
///
/// A generator draws noise at every step, also at the last one, which adds none.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias EulerAncestralDiscreteScheduler = DefinedScheduler<EulerAncestralDiscreteConfiguration>

/// The parameters of `EulerAncestralDiscreteScheduler`, with diffusers' defaults.
public struct EulerAncestralDiscreteConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration,
    ZeroTerminalSNRConfiguration, SigmaScheduleConfiguration
{
    public static let className = "EulerAncestralDiscreteScheduler"
    public static let resultType = ResultType.modelOutput
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let predictionTypes: [PredictionType] = [.epsilon, .vPrediction]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var predictionType = PredictionType.epsilon
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0
    public var rescaleBetasZeroSNR = false
    public var sigmaSchedule: SigmaSchedule?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [predictionTypeParameter] + timestepSpacingParameters + zeroTerminalSNRParameters
            + [sigmaScheduleParameter]
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validatePredictionType()
    }

    // MARK: The plan

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try requireNoTimesteps(request)
        let (timesteps, sigmas) = try levels(request, noise: noise)
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas + [0], process: noise.process)
    }

    public func plan(
        on grid: TimestepGrid, for request: TimestepRequest, options: NoRunOptions
    ) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType)
        let rows = grid.timesteps.indices.map { index in
            let sigma = grid.sigmas[index], target = grid.sigmas[index + 1]
            let (ratio, noise) = VarianceExplodingSolver.ancestralParts(from: sigma, to: target)
            var next = solver.step(from: sigma, to: target * ratio)
            next.noise = noise
            return PlanRow(prediction: solver.prediction(at: sigma), nextSample: next, drawCount: 1)
        }
        return try plan(on: grid, rows: rows)
    }
}
