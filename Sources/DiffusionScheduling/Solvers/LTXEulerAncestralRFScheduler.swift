// SPDX-License-Identifier: Apache-2.0

/// Ancestral steps of Euler's method for flow matching, in which ComfyUI samples LTX-Video (HaCohen et al. 2024, arXiv:2501.00103; after
/// Song et al. 2020, arXiv:2011.13456, for the straight line of Liu et al. 2022, arXiv:2209.03003).
///
/// A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e. A step from ς to τ goes further down, to δ,
/// and adds noise z until the level is τ, with ε = 1e-12:
///
///     δ  = τ (1 + η (τ/ς − 1))        f = (1 − τ)/(1 − δ + ε)
///     x' = f (x + (δ − ς) e) + s_noise √(τ² − δ² (1 − τ)²/((1 − δ)² + ε)) z
///
/// Where `eta` or `sNoise` isn't above 0, no noise is drawn and f is 1. A step to no noise ends at x − ς e.
///
/// The levels of a number of steps are those of ``FlowMatchEulerDiscreteScheduler`` with this configuration's keys, including keys
/// that aren't parameters here. Levels that a request names, as its timesteps or its sigmas, are used unchanged. The run ends at
/// the last level. diffusers has a timestep there, too; the step from it returns its sample.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias LTXEulerAncestralRFScheduler = DefinedScheduler<LTXEulerAncestralRFConfiguration>

/// The parameters of `LTXEulerAncestralRFScheduler`, with diffusers' defaults.
public struct LTXEulerAncestralRFConfiguration: SchedulerDefinition {
    public static let className = "LTXEulerAncestralRFScheduler"
    public static let sigmaList = SigmaList.levelsAndEnd
    public static let resultType = ResultType.sample
    public static let noiseType = NoiseType.float32
    public static let returnsReport = false
    public static let compatibleClassNames = ["FlowMatchEulerDiscreteScheduler", "LTXEulerAncestralRFScheduler"]
    public static let effectiveKeys = FlowMatchEulerDiscreteConfiguration.parameters.map(\.key) + ["sigma_min", "sigma_max"]

    /// The number of noise levels that the model was trained with.
    public var numTrainTimesteps = 1000
    /// η: the share of the ancestral noise; 0 takes Euler's steps.
    public var eta = 1.0
    /// The standard deviation of the noise.
    public var sNoise = 1.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("eta", \.eta, "The share of the ancestral noise; 0 adds none."),
            .init("s_noise", \.sNoise, "The standard deviation of the added noise."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("eta", eta, "from -1e30 to 1e30", abs(eta) <= 1e30)
        try require("s_noise", sNoise, "from -1e30 to 1e30", abs(sNoise) <= 1e30)
        try require("invert_sigmas", "true", "false: these steps lead to less noise", !spacing().invertSigmas)
    }

    // MARK: The plan

    /// The configuration of the scheduler that spaces the levels.
    private func spacing() throws(SchedulerError) -> FlowMatchEulerDiscreteConfiguration { try .init(from: self) }

    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try spacing().makeNoiseSchedule() }

    /// The level of a timestep t of the training: ς of the table, or ς = t/T between its timesteps.
    ///
    /// - Throws: `invalidValue` for a timestep that isn't from 0 to T.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try spacing().trainingLevel(atTimestep: timestep, noise: noise)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        switch request {
        case .count:
            let grid = try spacing().grid(request, noise: noise)
            try require("sigma_max", grid.sigmas[0], "at most 1", grid.process == .flow)
            return try plan(on: grid, options: options)
        case .timesteps(let levels, _): return try plan(on: levels, named: "timesteps")
        case .sigmas(let levels, _): return try plan(on: levels, named: "sigmas")
        case .timestepsAndSigmas:
            throw .invalidValue(key: "timesteps and sigmas", value: "both given", allowed: "one of them")
        }
    }

    private func plan(on levels: [Double], named name: String) throws(SchedulerError) -> SamplingPlan {
        try require("number of \(name)", levels.count, "at least 2: the last one is the level where the run ends", levels.count > 1)
        try requireOrdered(name, levels, by: >=, within: 0...1, "from 0 to 1")
        let sigmas = levels.map { Float($0) }, count = Float(numTrainTimesteps), exact = sigmas.map(Double.init)
        let last = exact[exact.count - 1]
        return try SamplingPlan(
            grid: TimestepGrid(timesteps: sigmas.map { Double($0 * count) }, sigmas: exact + [last], process: .flow),
            rows: rows(on: exact) + [[identity(at: last)]])
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try SamplingPlan(grid: grid, rows: rows(on: grid.sigmas))
    }

    private func rows(on levels: [Double]) -> [[PlanRow]] { zip(levels, levels.dropFirst()).map { [row(from: $0, to: $1)] } }

    private func identity(at level: Double) -> PlanRow {
        PlanRow(prediction: Combination(sample: 1, modelOutput: -level), nextSample: Combination(.sample))
    }

    private func row(from source: Double, to target: Double) -> PlanRow {
        let clean = Combination(sample: 1, modelOutput: -source)
        if target < 1e-8 { return PlanRow(prediction: clean, nextSample: clean) }
        // No step leads away from a level without noise.
        if source == 0 { return identity(at: source) }
        // τ − δ, which is exact where the levels are close.
        let descent = target * eta * ((source - target) / source), down = target - descent
        let step = Combination(sample: 1, modelOutput: down - source)
        guard eta > 0, sNoise > 0 else { return PlanRow(prediction: clean, nextSample: step) }
        let epsilon = 1e-12, kept = (1 - target) + descent
        // τ² (1 − δ)² − δ² (1 − τ)² as a product.
        let gained = descent * (target * kept + down * (1 - target)) + target * target * epsilon
        let renoise = (max(gained, 0) / (kept * kept + epsilon)).squareRoot()
        return PlanRow(
            prediction: clean, nextSample: (1 - target) / (kept + epsilon) * step + Combination(noise: sNoise * renoise),
            drawCount: 1)
    }
}
