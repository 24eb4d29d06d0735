// SPDX-License-Identifier: Apache-2.0

/// Heun's method for flow matching (Karras et al. 2022, arXiv:2206.00364, algorithm 2; Esser et al. 2024, arXiv:2403.03206).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e. With the churn γ and noise z of the standard
/// deviation `sNoise`, a step from ς to τ evaluates the model at x, at the level ς, and at x̃:
///
///     x̂ = x + ς √(γ² + 2γ) z        h = τ − (1 + γ) ς        d = e(x, ς)/(1 + γ)
///     x̃ = x̂ + h d                    x' = x̂ + h/2 (d + e(x̃, τ))
///
/// The last step, to τ = 0, ends at x̃. ``SamplingPlan/timesteps`` lists evaluations, 2n − 1 for n steps, and a run may begin at the first
/// one of a step. The first evaluation keeps x̂ + h/2 d for the second. Both draw noise where γ > 0, and the second leaves it unused.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias FlowMatchHeunDiscreteScheduler = DefinedScheduler<FlowMatchHeunDiscreteConfiguration>

/// The parameters of `FlowMatchHeunDiscreteScheduler`, with diffusers' defaults.
public struct FlowMatchHeunDiscreteConfiguration: FlowMatchDefinition {
    /// The churn.
    public typealias Options = EulerDiscreteConfiguration.Options

    public static let className = "FlowMatchHeunDiscreteScheduler"
    public static let resultType = ResultType.modelOutput
    public static let returnsReport = false
    public static let compatibleClassNames = ["FlowMatchHeunDiscreteScheduler"]

    public var numTrainTimesteps = 1000
    public var shift = 1.0
    public var useDynamicShifting: Bool { false }

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [numTrainTimestepsParameter, .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone.")]
    }

    public func validate() throws(SchedulerError) { try validateFlowMatch() }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount()
        // Levels are shifted twice, as in diffusers: their ends already are. A float32 shift of 1 may be off by its rounding.
        let sigmas = FlowShift.constant(shift).levels(evenLevels(count: count, noise: noise), terminal: nil).map {
            min(max(Float($0), 0), 1)
        }
        let timesteps = sigmas.map { Double($0 * Float(noise.count)) }
        let grid = TimestepGrid(
            firstEvaluations: timesteps, secondEvaluations: timesteps.dropFirst(), sigmas: sigmas.map(Double.init), process: .flow)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        let evaluations = grid.timesteps.indices
        let rows = evaluations.map { index in
            let first = index - index % 2, sigma = grid.sigmas[first], target = grid.sigmas[first + 1]
            let gamma = options.churn(at: sigma, stepCount: evaluations.count), draws = gamma > 0 ? 1 : 0
            let prediction = Combination(sample: 1, modelOutput: -grid.sigmas[index])
            if index % 2 == 1 {
                let nextSample = Combination(.slot(0)) + Combination(modelOutput: (target - (1 + gamma) * sigma) / 2)
                return PlanRow(prediction: prediction, nextSample: nextSample, drawCount: draws)
            }
            let raised = options.raised(from: sigma, by: gamma)
            let step = Combination(modelOutput: target / (1 + gamma) - sigma)
            return PlanRow(
                prediction: prediction.replacing(.sample, by: raised), nextSample: raised + step,
                stores: index == evaluations.last ? [] : [.init(slot: 0, value: raised + 0.5 * step)], drawCount: draws)
        }
        return try SamplingPlan(
            grid: grid, slotCount: evaluations.count > 1 ? 1 : 0, steps: evaluations.map { $0 / 2 }, rows: rows.map { [$0] })
    }

    public static var attributes: StepAttributes { StepAttributes(tensors: ["prev_derivative", "sample"]) }

    public func attributeRow(at index: Int, age: Int, of plan: SamplingPlan) -> PlanRow {
        var row = plan.row(at: index, age: age)
        let derivative = 0, start = 1
        if index % 2 == 0, let half = row.stores.first?.value {
            // h/2 d over h/2.
            let share = plan.row(at: index + 1, age: 0).nextSample.modelOutput
            row.stores = [
                .init(slot: derivative, value: Combination(modelOutput: share == 0 ? 1 : half.modelOutput / share)),
                .init(slot: start, value: Combination(sample: 1, noise: half.noise)),
            ]
        } else if index % 2 == 1 {
            row.nextSample[.slot(0)] = 0
            row.nextSample[.slot(derivative)] = row.nextSample.modelOutput
            row.nextSample[.slot(start)] = 1
        }
        return row
    }
}
