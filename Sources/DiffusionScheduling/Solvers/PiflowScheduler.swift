// SPDX-License-Identifier: Apache-2.0

/// The scheduler of π-Flow (Chen et al. 2025, arXiv:2510.14974), by which distilled Kandinsky 6 models sample in a few steps.
///
/// A sample at the level ς is (1 − ς) data + ς noise, and ς(r) = κr/(1 + (κ − 1)r) is the shifted raw time r. In one evaluation the
/// model predicts K velocities e₀ … e_{K−1}: clean samples x − ς e_k for K times between the step's end (k = 0) and its beginning.
/// Their linear interpolation p(r) is a policy, which the step follows from ς to τ by m steps of Euler's method, evenly spaced in r:
///
///     x ← q x + (1 − q) p(r)      q = 1 + (ς(r') − ς(r))/max(ς(r), eps)      m = round(`numPolicySubsteps` (r_ς − r_τ)), at least 1
///
/// All of this is linear in x and e_k, so a step is one sum, and its weights depend on levels alone: with Q the product of all q and
/// W_k the share of e_k's clean sample in the result,
///
///     x' = x − ς (1 − Q) e        e = Σ w_k e_k,  w_k = W_k/(1 − Q),  Σ w_k = 1
///
/// The w_k are ``SamplingPlan/outputWeights``. Steps take e as the model output.
///
/// The raw times of n steps are 1 − i/(n − 1 + `finalStepSizeScale`), in float32 as diffusers'; the last step ends at r = `eps`.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias PiflowScheduler = DefinedScheduler<PiflowConfiguration>

/// The parameters of `PiflowScheduler`, with diffusers' defaults.
public struct PiflowConfiguration: FlowMatchDefinition {
    public static let className = "PiflowScheduler"
    public static let compatibleClassNames = ["PiflowScheduler"]
    public static let resultType = ResultType.sample
    public static let returnsReport = false

    public var numTrainTimesteps = 1000
    public var shift = 5.0
    /// K: the number of velocities that the model predicts, 2...100.
    public var nGrid = 10
    /// The raw time at which the last step ends, and the least divisor of the policy.
    public var eps = 1e-6
    /// The length of the last step in raw time, as a share of the others'; above 0, at most 1.
    public var finalStepSizeScale = 0.5
    /// The number of Euler's steps in one unit of raw time, 1...1,000,000.
    public var numPolicySubsteps = 128

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            numTrainTimestepsParameter,
            .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone."),
            .init("n_grid", \.nGrid, "The number of velocities that the model predicts."),
            .init("eps", \.eps, "The raw time at which the last step ends, and the least divisor of the policy."),
            .init("final_step_size_scale", \.finalStepSizeScale, "The length of the last step, as a share of the others'."),
            .init("num_policy_substeps", \.numPolicySubsteps, "The number of Euler's steps in one unit of raw time."),
        ]
    }

    public var useDynamicShifting: Bool { false }

    public func validate() throws(SchedulerError) {
        try validateFlowMatch()
        try require("n_grid", nGrid, in: 2...SamplingPlan.maximumOutputs)
        try require("eps", eps, in: 1e-30...1)
        try require(
            "final_step_size_scale", finalStepSizeScale, "greater than 0 and at most 1",
            finalStepSizeScale > 0 && finalStepSizeScale <= 1)
        try require("num_policy_substeps", numPolicySubsteps, in: 1...1_000_000)
    }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount()
        let segment = Float(1 / (Double(count) - (1 - finalStepSizeScale)))
        let raw = (0..<count).map { 1 - Float($0) * segment }
        let sigmas = FlowShift.levels(raw, shiftedBy: shift)
        let grid = TimestepGrid(
            timesteps: sigmas.map { Double($0 * Float(numTrainTimesteps)) }, sigmas: sigmas.map(Double.init) + [0], process: .flow)
        return try plan(on: grid, raw: raw.map(Double.init) + [eps.roundedToFloat32])
    }

    /// The steps end at the next level; a step to 0 at r = `eps`.
    ///
    /// - Throws: `invalidValue` for a grid that isn't valid, or whose levels ascend; `unrepresentablePlan`.
    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        // Descending levels are crossed once, so that all steps together have few more Euler steps than `numPolicySubsteps`.
        try grid.validate(descends: true)
        var raw = grid.sigmas.map { FlowShift.level($0, unshiftedBy: shift) }
        if grid.sigmas.last == 0 { raw[raw.count - 1] = eps.roundedToFloat32 }
        return try plan(on: grid, raw: raw)
    }

    /// - Parameter raw: the raw times of the levels.
    private func plan(on grid: TimestepGrid, raw: [Double]) throws(SchedulerError) -> SamplingPlan {
        let steps = grid.timesteps.indices.map { step(from: grid.sigmas[$0], raw[$0], to: raw[$0 + 1]) }
        return try SamplingPlan(grid: grid, outputWeights: steps.map(\.weights), rows: steps.map { [$0.row] })
    }

    /// The row of a step, and the weights of the model's velocities.
    private func step(from sigma: Double, _ begin: Double, to end: Double) -> (row: PlanRow, weights: [Double]) {
        let length = begin - end
        // diffusers' numbers are float32 here.
        let substeps = max(1, (Float(begin) - Float(end)) * Float(numPolicySubsteps)).rounded(.toNearestOrEven)
        let count = Int(substeps)
        func time(_ substep: Int) -> Double { max(begin - Double(substep) * (length / Double(count)), 0) }
        // The policy's own times follow from the level, whose last bit the raw time needn't have.
        let first = FlowShift.level(sigma, unshiftedBy: shift), last = max(first - length, 0), span = max(first - last, eps)
        func level(_ substep: Int) -> Double { substep == 0 ? sigma : FlowShift.level(time(substep), shiftedBy: shift) }

        var weights = Array(repeating: 0.0, count: nGrid), kept = 1.0
        for substep in (0..<count).reversed() {
            let source = level(substep), share = (source - level(substep + 1)) / max(source, eps)
            let place = min(max((FlowShift.level(source, unshiftedBy: shift) - last) / span, 0), 1) * Double(nGrid - 1)
            let below = min(Int(place), nGrid - 2), fraction = place - Double(below)
            weights[below] += kept * share * (1 - fraction)
            weights[below + 1] += kept * share * fraction
            kept *= 1 - share
        }
        let total = weights.reduce(0, +)
        let row = PlanRow(
            prediction: Combination(sample: 1, modelOutput: -sigma), nextSample: Combination(sample: 1, modelOutput: -sigma * total)
        )
        // A step that doesn't move has no weights; any will do.
        return (row, total == 0 ? weights.indices.map { $0 == 0 ? 1 : 0 } : weights.map { $0 / total })
    }
}
