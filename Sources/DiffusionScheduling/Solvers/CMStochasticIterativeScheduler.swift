// SPDX-License-Identifier: Apache-2.0

/// Multistep sampling of consistency models (Song et al. 2023, arXiv:2303.01469, algorithm 1 and appendix C, with ε = `sigmaMin`).
///
/// A step from ς to τ computes the consistency function f, which is the sample itself at ε, and adds noise z up to the level τ:
///
///     f  = clamp( c_skip x + c_out e )        c_skip = σ_d²/((ς − ε)² + σ_d²)        c_out = σ_d (ς − ε)/√(ς² + σ_d²)
///     x' = f + s_noise √(τ² − ε²) z
///
/// The model's input is x/√(ς² + σ_d²), its timestep 250 ln ς. Levels follow Karras et al. 2022 (arXiv:2206.00364, equation 5) with
/// ρ = `rho`. A run takes some of the `numTrainTimesteps` levels, and a request of timesteps has their numbers. The last step leads
/// to ε and adds no noise. A generator draws noise for it all the same, unless it is the only one.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias CMStochasticIterativeScheduler = DefinedScheduler<CMStochasticIterativeConfiguration>

/// The parameters of `CMStochasticIterativeScheduler`, with diffusers' defaults.
public struct CMStochasticIterativeConfiguration: SchedulerDefinition {
    public static let className = "CMStochasticIterativeScheduler"
    public static let compatibleClassNames = ["CMStochasticIterativeScheduler"]
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float64

    /// The number of noise levels that the model was trained with.
    public var numTrainTimesteps = 40
    /// ε: the level at which the consistency function is the sample.
    public var sigmaMin = 0.002
    /// The greatest level.
    public var sigmaMax = 80.0
    /// σ_d: the standard deviation of the data.
    public var sigmaData = 0.5
    /// The factor of the noise that steps add.
    public var sNoise = 1.0
    /// ρ: the exponent of Karras' spacing of levels.
    public var rho = 7.0
    /// Whether f is clipped to [−1, 1].
    public var clipDenoised = true

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with."),
            .init("sigma_min", \.sigmaMin, "The least noise level, which runs end at."),
            .init("sigma_max", \.sigmaMax, "The greatest noise level."),
            .init("sigma_data", \.sigmaData, "The standard deviation of the data."),
            .init("s_noise", \.sNoise, "The factor of the noise that steps add."),
            .init("rho", \.rho, "The exponent of the levels' spacing."),
            .init("clip_denoised", \.clipDenoised, "Whether the predicted clean sample is clipped to -1 to 1."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("sigma_max", sigmaMax, "at least 0, and finite in float32", sigmaMax >= 0 && Float(sigmaMax).isFinite)
        try require("sigma_min", sigmaMin, "from 0 to sigma_max = \(sigmaMax)", sigmaMin >= 0 && sigmaMin <= sigmaMax)
        try require("sigma_data", sigmaData, in: 1e-100...1e100)
        try require("s_noise", sNoise, in: -1e100...1e100)
        let isDefined = sigmaMin > 0 || rho > 0
        try require(
            "rho", rho, isDefined ? "other than 0, and such that levels are finite" : "greater than 0 where sigma_min is 0",
            isDefined && rho != 0 && [0, 0.5, 1].allSatisfy { level(at: $0).isFinite })
    }

    // MARK: The plan

    /// The levels of the training, with the model's timestep at each.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = linspace(0, 1, count: numTrainTimesteps).reversed().map(level(at:))
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas.map(timestep(atLevel:)), process: .varianceExploding)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        // A model that was trained at one level was trained at the greatest.
        let levels = try levelNumbers(request).reversed().map { level(at: $0 / Double(max(numTrainTimesteps - 1, 1))) }
        let grid = TimestepGrid(
            timesteps: levels.map(timestep(atLevel:)), sigmas: levels + [sigmaMin], process: .varianceExploding)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        // Levels are float32 numbers, and so are their ends: the boundary condition holds, and the last step adds no noise.
        let least = sigmaMin.roundedToFloat32, greatest = sigmaMax.roundedToFloat32, isSingle = grid.timesteps.count == 1
        let rows = zip(grid.sigmas, grid.sigmas.dropFirst()).map { source, target in
            let distance = source - least, ratio = distance / sigmaData
            let denoised = Combination(
                sample: 1 / (ratio * ratio + 1), modelOutput: distance * (sigmaData / hypotenuse(source, sigmaData)))
            var next = clipDenoised ? Combination(.prediction) : denoised
            let level = min(max(target, least), greatest)
            if !isSingle { next.noise = sNoise * ((level - least) * (level + least)).squareRoot() }
            return [PlanRow(prediction: denoised, nextSample: next, drawCount: isSingle ? 0 : 1)]
        }
        return try SamplingPlan(
            grid: grid, initNoiseSigma: sigmaMax, inputScales: grid.sigmas.dropLast().map { 1 / hypotenuse($0, sigmaData) },
            clamp: clipDenoised ? .range(1) : .none, rows: rows)
    }

    /// The level of a timestep t of the model: ς = e^(t/250).
    ///
    /// - Throws: nothing.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        NoiseLevel(sigma: exponential(timestep / 250), process: .varianceExploding)
    }

    /// The level at the share u of the way from the greatest to the least.
    private func level(at u: Double) -> Double {
        SigmaSpacing.karras(u, from: sigmaMax, to: sigmaMin, rho: rho)
    }

    /// The model's timestep at a level. diffusers gives a level of 0 a finite logarithm.
    private func timestep(atLevel sigma: Double) -> Double { 1000 * 0.25 * logarithm(sigma + 1e-44) }

    /// The numbers of the training's levels that a run takes, counted from the greatest level on, and descending as in diffusers.
    private func levelNumbers(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        try request.requireNoMu()
        let count = numTrainTimesteps
        switch request {
        case .count(let steps, _):
            try requireStepCount(steps, upTo: count)
            return (0..<steps).reversed().map { Double($0 * (count / steps)) }
        case .timesteps(let numbers, _):
            try requireOrdered("timesteps", numbers, by: >, within: 0...Double(count - 1), "from 0 to \(count - 1)")
            for (index, number) in numbers.enumerated() {
                try require("timesteps[\(index)]", number, "a whole number", number == number.rounded())
            }
            return numbers
        case .sigmas, .timestepsAndSigmas:
            throw .invalidValue(key: "sigmas", value: "given", allowed: "left out: this scheduler chooses them itself")
        }
    }
}
