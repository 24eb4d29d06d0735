// SPDX-License-Identifier: Apache-2.0

/// Euler's method for flow maps, the scheduler of AnyFlow (Gu et al. 2026, arXiv:2605.13724; after Boffi et al. 2024, arXiv:2406.07507).
///
/// A sample at the level ς is (1 − ς) data + ς noise. The model gets two timesteps, t and r, and predicts the mean velocity e
/// between them, so that one step leads from any level to any other:
///
///     x' = x + (ς_r − ς_t) e
///
/// Levels of a number of steps are 1 − i/n, shifted (Esser et al. 2024, arXiv:2403.03206, equation 23), in float64. A timestep
/// within 1e-3 of one of the run's has that one's level, any other the level t/T. Steps depend on nothing but their arguments and
/// the run's levels, so they may be taken in any order: the option `rTimestep` names the timestep that a step leads to, by default
/// the run's next one.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias FlowMapEulerDiscreteScheduler = DefinedScheduler<FlowMapEulerDiscreteConfiguration>

/// The parameters of `FlowMapEulerDiscreteScheduler`, with diffusers' defaults.
public struct FlowMapEulerDiscreteConfiguration: SchedulerDefinition {
    public static let className = "FlowMapEulerDiscreteScheduler"
    public static let compatibleClassNames = ["FlowMapEulerDiscreteScheduler"]
    public static let resultType = ResultType.modelOutput
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float64
    public static let sigmaType = SigmaElementType.float64
    public static let isStateless = true

    /// T: the number of noise levels that the model was trained with.
    public var numTrainTimesteps = 1000
    /// κ: pushes the levels towards more noise; > 0.
    public var shift = 1.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("shift", \.shift, "Moves the levels towards noise; 1 leaves them alone."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("shift", shift, in: 1e-30...1e30)
    }

    // MARK: The plan

    /// The options of a step of a flow map.
    public struct Options: RunOptions {
        /// The timestep that the step leads to, 0 for the clean sample; nil: the next one of the run.
        public var rTimestep: Double?

        public init() {}
        /// The options of a step to a timestep.
        public init(rTimestep: Double?) { self.rTimestep = rTimestep }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init("r_timestep", \.rTimestep, "The timestep that the step leads to, from 0; null: the next one of the run.")
            ]
        }
    }

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = shifted((1...numTrainTimesteps).map { Double($0) / count })
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas.map { $0 * count }, process: .flow)
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let sigmas = try levels(request)
        let grid = TimestepGrid(timesteps: sigmas.map { $0 * count }, exactSigmas: sigmas + [0], process: .flow)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        var target: Double?
        if let r = options.rTimestep { target = try level(atTimestep: r, named: "r_timestep", on: grid) }
        return try SamplingPlan(
            grid: grid, rows: zip(grid.sigmas, grid.sigmas.dropFirst()).map { [row(from: $0, to: target ?? $1)] })
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        let grid = plan.grid, source = try level(atTimestep: timestep, named: "timestep", on: grid)
        if let r = options.rTimestep { return row(from: source, to: try level(atTimestep: r, named: "r_timestep", on: grid)) }
        guard let index = index(ofTimestep: timestep, on: grid) else {
            throw .unknownTimestep(timestep, expected: "one of the plan's, unless r_timestep says where the step leads")
        }
        return row(from: source, to: grid.sigmas[index + 1])
    }

    /// ς = t/T, even at timesteps t to which a run gives other levels.
    ///
    /// - Throws: `invalidValue` for a timestep that isn't from 0 to T.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        NoiseLevel(sigma: try level(atTimestep: timestep, named: "timestep", on: nil), process: .flow)
    }

    private var count: Double { Double(numTrainTimesteps) }

    private func row(from source: Double, to target: Double) -> PlanRow {
        PlanRow(
            prediction: Combination(sample: 1, modelOutput: -source),
            nextSample: Combination(sample: 1, modelOutput: target - source))
    }

    /// The nearest of the grid's timesteps, the first of equal ones; nil if none is within 1e-3 of the timestep. Distances are those of
    /// float32 numbers, as in diffusers.
    private func index(ofTimestep timestep: Double, on grid: TimestepGrid) -> Int? {
        let distances = grid.timesteps.map { abs(Float($0) - Float(timestep)) }
        guard let index = distances.indices.min(by: { distances[$0] < distances[$1] }) else { return nil }
        return Double(distances[index]) <= 1e-3 ? index : nil
    }

    private func level(atTimestep timestep: Double, named name: String, on grid: TimestepGrid?) throws(SchedulerError) -> Double {
        if let grid, let index = index(ofTimestep: timestep, on: grid) { return grid.sigmas[index] }
        try require(name, timestep, "from 0 to \(numTrainTimesteps)", (0...count).contains(timestep))
        return timestep / count
    }

    /// The levels that the steps begin at.
    private func levels(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        try request.requireNoMu()
        switch request {
        case .count(let steps, _):
            try requireStepCount(steps)
            return shifted(BetaSchedule.linspace(1, 0, count: steps + 1).dropLast())
        case .timesteps(let timesteps, _):
            try requireOrdered("timesteps", timesteps, by: >, within: 0...count, "from 0 to \(numTrainTimesteps)")
            return shifted(timesteps.map { $0 / count })
        case .sigmas(let sigmas, _):
            try requireOrdered("sigmas", sigmas, by: >, within: 0...1, "from 0 to 1")
            return shifted(sigmas)
        case .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps and sigmas", value: "both given", allowed: "one of them")
        }
    }

    private func shifted(_ levels: [Double]) -> [Double] { FlowShift.levels(levels, shiftedBy: shift) }
}
