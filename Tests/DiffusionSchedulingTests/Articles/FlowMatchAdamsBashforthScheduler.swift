// SPDX-License-Identifier: Apache-2.0

@testable import DiffusionScheduling

/// The method of Adams and Bashforth of order 2 for flow matching, with steps of any length (Hairer, Nørsett and Wanner 1993, Solving
/// Ordinary Differential Equations I, section III.5).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e = dx/dς. A step from ς to τ, after one from
/// ς₁ to ς with the velocity e₁, is
///
///     x' = x + h ((1 + w/2) e − w/2 e₁)        h = τ − ς        w = h/(ς − ς₁)
///
/// The first step of a run has no e₁: x' = x + h e.
public typealias FlowMatchAdamsBashforthScheduler = DefinedScheduler<FlowMatchAdamsBashforthConfiguration>

/// The parameters of `FlowMatchAdamsBashforthScheduler`.
public struct FlowMatchAdamsBashforthConfiguration: FlowMatchDefinition {
    public static let className = "FlowMatchAdamsBashforthScheduler"
    public static let compatibleClassNames = ["FlowMatchEulerDiscreteScheduler"]

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
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount()
        let levels = linspace(1, 1 / Double(numTrainTimesteps), count: count)
        let sigmas = FlowShift.levels(levels, shiftedBy: shift)
        let timesteps = sigmas.map { $0 * Double(numTrainTimesteps) }
        return try plan(on: TimestepGrid(timesteps: timesteps, sigmas: sigmas + [0], process: .flow), options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        let rows = grid.timesteps.indices.map { index in
            (0...min(index, 1)).map { row(at: index, age: $0, of: grid) }
        }
        return try SamplingPlan(grid: grid, slotCount: 1, warmUp: 1, rows: rows)
    }

    private func row(at index: Int, age: Int, of grid: TimestepGrid) -> PlanRow {
        let sigma = grid.sigmas[index], h = grid.sigmas[index + 1] - sigma
        let velocity = Combination(.modelOutput)
        var mean = velocity
        // Between equal levels there was no step to extrapolate from.
        if age > 0, grid.sigmas[index - 1] != sigma {
            let w = h / (sigma - grid.sigmas[index - 1])
            mean = (1 + w / 2) * velocity + (-w / 2) * Combination(.slot(0))
        }
        return PlanRow(
            prediction: Combination(sample: 1, modelOutput: -sigma), nextSample: Combination(.sample) + h * mean,
            stores: [.init(slot: 0, value: velocity)])
    }

    public static var attributes: StepAttributes { StepAttributes(history: "velocities") }
}
