// SPDX-License-Identifier: Apache-2.0

/// DDPM in continuous time, the scheduler of Würstchen and Stable Cascade (Pernias et al. 2023, arXiv:2306.00637; Ho, Jain and Abbeel 2020,
/// arXiv:2006.11239, algorithm 2), on the cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17).
///
/// Timesteps are times from 1, noise, to 0, data, with the signal variance ᾱ(t) = f(t)/f(0), from 10⁻⁴ to 1 − 10⁻⁴:
///
///     f(t) = cos²( π/2 (t* + s)/(1 + s) )        t* = 1 − (1 − t)^k for k = `scaler` > 1, else t^k
///
/// A step from t to u predicts noise and, unless u is 0, adds new noise z, which a generator draws in any case. With β = 1 − ᾱ(t)/ᾱ(u):
///
///     x' = (x − β/√(1 − ᾱ(t)) e)/√(1 − β) + √(β (1 − ᾱ(u))/(1 − ᾱ(t))) z
///
/// diffusers' list of timesteps ends with the time that the last step leads to, and so does a request of timesteps. A plan has it in
/// ``TimestepGrid/end``. Steps depend on nothing but their arguments and the run's times, so they may be taken in any order: a step leads to
/// the time that follows the run's nearest one.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias DDPMWuerstchenScheduler = DefinedScheduler<DDPMWuerstchenConfiguration>

/// The parameters of `DDPMWuerstchenScheduler`, with diffusers' defaults.
public struct DDPMWuerstchenConfiguration: SchedulerDefinition {
    public static let className = "DDPMWuerstchenScheduler"
    public static let compatibleClassNames = ["DDPMWuerstchenScheduler"]
    public static let resultType = ResultType.modelOutput
    public static let returnsReport = false
    public static let timestepType: TimestepElementType? = .float32
    public static let listsEnd = true
    public static let isStateless = true

    /// The exponent of the times, at least 0.
    public var scaler = 1.0
    /// The offset of the cosine, at least 0.
    public var s = 0.008

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("scaler", \.scaler, "The exponent of the times."),
            .init("s", \.s, "The offset of the cosine schedule."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("scaler", scaler, in: 0...1e100)
        try require("s", s, in: 0...1e6)
    }

    // MARK: The plan

    /// The times in thousandths, in place of a training's table.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let times = (1...1000).map { Double($0) / 1000 }
        return NoiseSchedule(
            sigmas: times.map { NoiseLevel(alphaCumprod: signalVariance(at: $0)).sigma }, timesteps: times,
            process: .variancePreserving)
    }

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let times = try times(request)
        return try SamplingPlan(
            grid: TimestepGrid(
                timesteps: times.dropLast(), sigmas: times.map { NoiseLevel(alphaCumprod: signalVariance(at: $0)).sigma },
                process: .variancePreserving, end: times.last),
            rows: zip(times, times.dropFirst()).map { [row(from: $0, to: $1)] })
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        let times = plan.timesteps + [plan.grid.end].compactMap { $0 }
        let nearest = times.indices.min { abs(times[$0] - timestep) < abs(times[$1] - timestep) } ?? 0
        guard (0...1).contains(timestep), nearest + 1 < times.count else {
            throw .unknownTimestep(timestep, expected: "a time from 0 to 1 that isn't nearest to the end of the run")
        }
        return row(from: timestep, to: times[nearest + 1])
    }

    /// The level of a time t: A = √ᾱ(t), S = √(1 − ᾱ(t)).
    ///
    /// - Throws: `unknownTimestep` for a time that isn't from 0 to 1.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        guard (0...1).contains(timestep) else { throw .unknownTimestep(timestep, expected: "a time from 0 to 1") }
        return NoiseLevel(alphaCumprod: signalVariance(at: timestep))
    }

    private func row(from time: Double, to next: Double) -> PlanRow {
        let source = signalVariance(at: time), target = signalVariance(at: next)
        let beta = (target - source) / target, ratio = target / source, noiseRate = (1 - source).squareRoot()
        var nextSample = Combination(sample: ratio.squareRoot(), modelOutput: -beta * ratio.squareRoot() / noiseRate)
        if next != 0 { nextSample.noise = (max(beta, 0) * (1 - target) / (1 - source)).squareRoot() }
        return PlanRow(
            prediction: PredictionType.epsilon.cleanSample(at: NoiseLevel(alphaCumprod: source)), nextSample: nextSample,
            drawCount: 1)
    }

    /// ᾱ at a time.
    private func signalVariance(at time: Double) -> Double {
        let offset = s.roundedToFloat32
        let scaled = scaler > 1 ? -exponentialMinusOne(scaler * logarithmOfOnePlus(-time)) : power(time, scaler)
        let root = cosine((scaled + offset) / (1 + offset) * .pi / 2) / cosine(offset / (1 + offset) * .pi / 2)
        return min(max(root * root, 1e-4), 1 - 1e-4)
    }

    /// The times that the steps lead between, as float32 numbers.
    private func times(_ request: TimestepRequest) throws(SchedulerError) -> [Double] {
        try request.requireNoMu()
        switch request {
        case .count(let count, _):
            try requireStepCount(count)
            return BetaSchedule.linspace(Float(1), 0, count: count + 1).map(Double.init)
        case .timesteps(let times, _):
            try requireListWithEnd(times, within: 0...1, "from 0 to 1")
            return times.map(\.roundedToFloat32)
        case .sigmas, .timestepsAndSigmas:
            throw .invalidValue(key: "sigmas", value: "given", allowed: "left out: this scheduler steps between times")
        }
    }
}
