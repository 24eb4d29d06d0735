// SPDX-License-Identifier: Apache-2.0

/// IPNDM: the pseudo linear multistep method without warm-up evaluations (Zhang and Chen 2022, arXiv:2204.13902; Liu, Ren, Lin and Zhao
/// 2022, arXiv:2202.09778, equations 9 and 12).
///
/// A sample is α data + β noise with α² + β² = 1, and the model predicts e = α noise − β data, the derivative by the angle. Each evaluation
/// keeps the noise ε = β x + α e. A step goes along the Adams-Bashforth combination ε̄ of the last four:
///
///     x' = α' (x − β ε̄)/α + β' ε̄        ε̄ = (55 ε₀ − 59 ε₁ + 37 ε₂ − 9 ε₃)/24
///
/// The orders rise from 1 to 4 with the outputs that a run remembers. A run of n steps has β = sin²(π/2 (1 − i/n)), or
/// `trainedBetas`. The model gets the angle over π/2, from 1 to 0.
///
/// The step from α = 0 gives x' = β' x, as in diffusers, and e isn't used. The class of that name in diffusers is the reference;
/// docs/DIFFERENCES.md lists where this one differs.
public typealias IPNDMScheduler = DefinedScheduler<IPNDMConfiguration>

/// The parameters of `IPNDMScheduler`, with diffusers' defaults.
public struct IPNDMConfiguration: SchedulerDefinition {
    public static let className = "IPNDMScheduler"
    public static let returnsReport = false
    public static let compatibleClassNames = ["IPNDMScheduler"]
    public static var attributes: StepAttributes { StepAttributes(history: "ets") }

    /// T: the number of steps of a run without `setTimesteps`, 1...1,000,000.
    public var numTrainTimesteps = 1000
    /// β of each step and of the level after the last one, in [0, 1]; whatever the number of steps that a run asks for.
    public var trainedBetas: [Double]?

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The number of steps of a run without set_timesteps."),
            .init("trained_betas", \.trainedBetas, "The noise rates of a run, one more than its steps; null: a sine's square."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        guard let trainedBetas else { return }
        let most = TimestepRequest.maximumSteps + 1
        try require(
            "trained_betas", "a list of \(trainedBetas.count)", "a list of 2 to \(most) numbers",
            (2...most).contains(trainedBetas.count))
        for (index, beta) in trainedBetas.enumerated() {
            try require("trained_betas[\(index)]", beta, in: 0...1)
        }
    }

    // MARK: The plan

    /// The levels of a run of T steps.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let sigmas = Self.sineBetas(count: numTrainTimesteps).dropLast().map(Self.ratio)
        let timesteps = sigmas.map(Self.timestep)
        return NoiseSchedule(sigmas: sigmas.reversed(), timesteps: timesteps.reversed(), process: .variancePreserving)
    }

    /// The level of any angle over π/2, t: ς = tan(π t/2), at most 4,096.
    ///
    /// - Throws: `invalidValue` for a number that isn't from 0 to 1.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try require("timestep", timestep, in: 0...1)
        let sigma = min(tangent(timestep * .pi / 2), Double(NoiseSchedule.greatestRatio))
        return NoiseLevel(sigma: timestep == 1 ? Double(NoiseSchedule.greatestRatio) : sigma, process: noise.process)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let count = try request.onlyCount()
        let sigmas = (trainedBetas?.map { Float($0) } ?? Self.sineBetas(count: count)).map(Self.ratio)
        let grid = TimestepGrid(
            timesteps: sigmas.dropLast().map { Double(Self.timestep($0)) }, sigmas: sigmas.map(Double.init), process: noise.process)
        return try plan(on: grid, options: options)
    }

    public func plan(on grid: TimestepGrid, options: NoRunOptions) throws(SchedulerError) -> SamplingPlan {
        try SamplingPlan(
            grid: grid, slotCount: 3, warmUp: 3,
            rows: grid.timesteps.indices.map { index in (0...min(index, 3)).map { Self.row(at: index, age: $0, of: grid) } })
    }

    /// The step turns the sample by an angle of sine α α' (ς' − ς) and cosine α α' (1 + ς ς'), where ς = β/α.
    private static func row(at index: Int, age: Int, of grid: TimestepGrid) -> PlanRow {
        let source = NoiseLevel(sigma: grid.sigmas[index], process: grid.process)
        let target = NoiseLevel(sigma: grid.sigmas[index + 1], process: grid.process)
        let isPure = source.sigma >= Double(NoiseSchedule.greatestRatio)
        let alpha = isPure ? 0 : source.signalRate, beta = isPure ? 1 : source.noiseRate
        let prediction = Combination(sample: alpha, modelOutput: -beta), noise = Combination(sample: beta, modelOutput: alpha)
        var nextSample = Combination(sample: target.noiseRate)
        if !isPure {
            let weights = PNDMSolver.weights[age], share = (target.sigma - source.sigma) * target.signalRate
            nextSample = Combination(
                sample: alpha * target.signalRate * (1 + source.sigma * target.sigma) + (weights[0] - 1) * share * beta,
                modelOutput: weights[0] * share * alpha)
            for back in 1..<weights.count { nextSample[.slot((index - back) % 3)] = weights[back] * share }
        }
        return PlanRow(prediction: prediction, nextSample: nextSample, stores: [.init(slot: index % 3, value: noise)])
    }

    /// The float32 number nearest to π; `Float.pi` is rounded down.
    private static let pi = Float(Double.pi)

    /// sin² of the angles π/2, …, 0, as float32 numbers.
    private static func sineBetas(count: Int) -> [Float] {
        BetaSchedule.linspace(1 as Float, 0, count: count + 1).map {
            let sine = Float(sine(Double($0 * pi / 2)))
            return sine * sine
        }
    }

    /// ς = β/α in float32, as diffusers computes β and α.
    private static func ratio(_ beta: Float) -> Float {
        let ratio = beta / (1 - beta * beta).squareRoot()
        return min(ratio, NoiseSchedule.greatestRatio)
    }

    private static func timestep(_ sigma: Float) -> Float {
        sigma == NoiseSchedule.greatestRatio ? 1 : Float(angle(y: Double(sigma), x: 1)) / pi * 2
    }
}
