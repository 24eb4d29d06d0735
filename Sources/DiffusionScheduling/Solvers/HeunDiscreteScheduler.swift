// SPDX-License-Identifier: Apache-2.0

/// Heun: the second-order sampler of Karras et al. 2022 (arXiv:2206.00364, algorithm 2 without churn).
///
/// A step from ς to τ with h = τ − ς goes there with the derivative d at ς, and corrects itself with the one at τ:
///
///     x̃ = x + h d(x, ς)        x' = x + h/2 (d(x, ς) + d(x̃, τ))
///
/// So each step evaluates the model twice; the last one, to τ = 0, once. ``SamplingPlan/timesteps`` lists evaluations, 2n − 1 for n steps,
/// and a run may begin at the first one of a step. The first evaluation keeps x + h/2 d for the second.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias HeunDiscreteScheduler = DefinedScheduler<HeunDiscreteConfiguration>

/// The parameters of `HeunDiscreteScheduler`, with diffusers' defaults.
public struct HeunDiscreteConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration, SigmaSpacingConfiguration,
    ClippingConfiguration
{
    public static let className = "HeunDiscreteScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let betaSchedules = [BetaSchedule.linear, .scaledLinear, .squaredcosCapV2, .exponential]
    public static let predictionTypes: [PredictionType] = [.epsilon, .sample, .vPrediction]

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
    public var clipSample = false
    public var clipSampleRange = 1.0
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [predictionTypeParameter] + sigmaSpacingParameters
            + [clipSampleParameter, clipSampleRangeParameter] + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validateSigmaSpacing()
        try validatePredictionType()
        try validateClipping()
    }

    // MARK: The plan

    /// The levels of the steps, with all inner ones twice: each has two evaluations.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration.
    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        let (timesteps, sigmas) = try spacedLevels(request, noise: noise)
        return TimestepGrid(
            firstEvaluations: timesteps, secondEvaluations: timesteps.dropFirst(), sigmas: sigmas, process: noise.process)
    }

    public func plan(
        on grid: TimestepGrid, for request: TimestepRequest, options: NoRunOptions
    ) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType, clamps: clipSample)
        let evaluations = grid.timesteps.indices
        let rows = evaluations.map { index in
            let prediction = solver.prediction(at: grid.sigmas[index])
            if index % 2 == 0 {
                let sigma = grid.sigmas[index], target = grid.sigmas[index + 1]
                let half = solver.step(from: sigma, to: (sigma + target) / 2)
                return PlanRow(
                    prediction: prediction, nextSample: solver.step(from: sigma, to: target),
                    stores: index == evaluations.last ? [] : [.init(slot: 0, value: half)])
            }
            let sigma = grid.sigmas[index - 1], target = grid.sigmas[index]
            // At a level without noise there is no derivative to correct with, as after the last step.
            if target == 0 { return PlanRow(prediction: prediction, nextSample: Combination(.sample)) }
            let correction = (target - sigma) / 2 * solver.derivative(at: target)
            return PlanRow(prediction: prediction, nextSample: Combination(.slot(0)) + correction)
        }
        return try plan(
            on: grid, clamp: clipping, slotCount: grid.timesteps.count > 1 ? 1 : 0,
            steps: evaluations.map { $0 / 2 }, rows: rows)
    }

    public static var attributes: StepAttributes { StepAttributes(tensors: ["prev_derivative", "sample"]) }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        var row = plan.row(at: index, age: age)
        let derivative = 0, start = 1
        if index % 2 == 0, !row.stores.isEmpty {
            let solver = VarianceExplodingSolver(predictionType: predictionType, clamps: clipSample), sigma = plan.sigmas[index]
            row.stores = [
                .init(slot: derivative, value: sigma == 0 ? Combination() : solver.derivative(at: sigma)),
                .init(slot: start, value: Combination(.sample)),
            ]
        } else if index % 2 == 1 {
            let half = (plan.sigmas[index] - plan.sigmas[index - 1]) / 2
            row.nextSample = row.nextSample.replacing(
                .slot(0), by: Combination(.slot(start)) + half * Combination(.slot(derivative)))
        }
        return row
    }
}
