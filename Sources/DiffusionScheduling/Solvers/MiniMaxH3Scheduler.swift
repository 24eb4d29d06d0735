// SPDX-License-Identifier: Apache-2.0

/// Euler's method for flow matching on times from 0, noise, to 1, data, the scheduler of MiniMax-H3 (Liu et al. 2022, arXiv:2209.03003).
///
/// A sample at the level ς is (1 − ς) data + ς noise, its time is t = 1 − ς, and the model predicts the velocity e towards the data. A step
/// from ς to τ predicts the clean sample p and goes a part of the way there:
///
///     p = x + (1 − t) e        x' = x + (ς − τ)/ς (p − x)
///
/// Times are float32 numbers, so 1 − t may differ from ς in its last bits.
///
/// Levels are evenly spaced from 1 to 0, both included, and shifted (Esser et al. 2024, arXiv:2403.03206, equation 23). A request
/// of n has n levels and therefore n − 1 steps, or fewer where float32 merges levels. Levels that a request names are used
/// unchanged; the last one is 0. Noise is added at any time from 0 to 1, in or out of the plan.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias MiniMaxH3Scheduler = DefinedScheduler<MiniMaxH3Configuration>

/// The parameters of `MiniMaxH3Scheduler`, with diffusers' defaults.
public struct MiniMaxH3Configuration: SchedulerDefinition {
    public static let className = "MiniMaxH3Scheduler"
    public static let compatibleClassNames = ["MiniMaxH3Scheduler"]
    public static let sigmaList = SigmaList.levelsAndEnd
    public static let countsEnd = true
    public static let resultType = ResultType.sample
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float32
    public static let addsNoiseAtTrainingLevels = true

    /// κ: pushes the levels towards more noise; > 0.
    public var shift = 12.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [.init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone.")]
    }

    public func validate() throws(SchedulerError) {
        try require("shift", shift, in: 1e-30...1e30)
    }

    // MARK: The plan

    /// The shifted thousandths, in place of a training's table.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = FlowShift.levels((1...1000).map { Float($0) / 1000 }, shiftedBy: shift)
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas.map { 1 - $0 }, process: .flow)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let levels = try levels(request)
        let grid = TimestepGrid(
            timesteps: levels.dropLast().map { Double(1 - $0) }, sigmas: levels.map(Double.init), process: .flow)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        let rows = grid.timesteps.indices.map { index in
            let source = grid.sigmas[index], target = grid.sigmas[index + 1], remaining = 1 - grid.timesteps[index]
            // No step leads away from a level without noise.
            let share = source > 0 ? (source - target) / source : 0
            return [
                PlanRow(
                    prediction: Combination(sample: 1, modelOutput: remaining),
                    nextSample: Combination(sample: 1, modelOutput: share * remaining))
            ]
        }
        return try SamplingPlan(grid: grid, rows: rows)
    }

    /// The level of a time t: ς = 1 − t.
    ///
    /// - Throws: `invalidValue` for a time that isn't from 0 to 1.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try require("timestep", timestep, "a time from 0 to 1", (0...1).contains(timestep))
        return NoiseLevel(sigma: 1 - timestep, process: .flow)
    }

    /// The levels that the steps lead between, as float32 numbers.
    private func levels(_ request: TimestepRequest) throws(SchedulerError) -> [Float] {
        try request.requireNoMu()
        switch request {
        case .count(let count, _):
            try require(
                "number of steps", count,
                "from 2 to \(TimestepRequest.maximumSteps): the level without noise, where the run ends, counts as one",
                (2...TimestepRequest.maximumSteps).contains(count))
            let levels = FlowShift.levels(BetaSchedule.linspace(Float(1), 0, count: count), shiftedBy: shift)
            return levels.prefix(1) + zip(levels, levels.dropFirst()).compactMap { $0 == $1 ? nil : $1 }
        case .sigmas(let levels, _):
            try require(
                "number of sigmas", levels.count, "at least 2: the last one is the level where the run ends", levels.count > 1)
            let rounded = levels.map(\.roundedToFloat32)
            try requireOrdered("sigmas", rounded, by: >, within: 0...1, "from 0 to 1")
            try require("sigmas[\(levels.count - 1)]", levels[levels.count - 1], "0", rounded.last == 0)
            return rounded.map { Float($0) }
        case .timesteps, .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps", value: "given", allowed: "left out: they follow from the sigmas")
        }
    }
}
