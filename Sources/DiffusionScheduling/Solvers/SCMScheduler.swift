// SPDX-License-Identifier: Apache-2.0

/// SCM: multistep sampling of continuous-time consistency models in the TrigFlow form, the scheduler of SANA-Sprint (Lu and Song 2024,
/// arXiv:2410.11081, section 3 and algorithm 3; Chen et al. 2025, arXiv:2503.09641; Song et al. 2023, arXiv:2303.01469, algorithm 1).
///
/// Timesteps are angles. A sample at the angle s is cos(s) data + sin(s) σ_d noise. A step from s to t predicts the clean sample p and adds
/// new noise z, also at the end of a run, where sin(t) is 0:
///
///     p = cos(s) x − sin(s) e        x' = cos(t) p + σ_d sin(t) z
///
/// A run of two steps has the angle `intermediateTimesteps` between them; in other runs angles are evenly spaced. diffusers' list of
/// timesteps ends with the angle that the last step leads to, and so does a request of timesteps. A plan has it in ``TimestepGrid/end``.
///
/// The levels of a plan are those of samples in units of σ_d, in which pipelines start and end.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias SCMScheduler = DefinedScheduler<SCMConfiguration>

/// The parameters of `SCMScheduler`, with diffusers' defaults.
public struct SCMConfiguration: SchedulerDefinition {
    public static let className = "SCMScheduler"
    public static let compatibleClassNames = ["SCMScheduler"]
    public static let resultType = ResultType.atLeastFloat32
    public static let noiseType = NoiseType.float32
    public static let timestepType: TimestepElementType? = .float32
    public static let listsEnd = true
    public static let addsNoiseAtTrainingLevels = true

    /// The quantity that the model predicts.
    public enum Prediction: String, ConfigurationKeyword {
        /// The velocity cos(s) σ_d noise − sin(s) data.
        case trigflow
    }

    /// The greatest number of steps of a run.
    public var numTrainTimesteps = 1000
    /// The quantity that the model predicts.
    public var predictionType = Prediction.trigflow
    /// σ_d: the standard deviation of the data.
    public var sigmaData = 0.5

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps, "The greatest number of steps of a run."),
            .init("prediction_type", \.predictionType, "What the model predicts."),
            .init("sigma_data", \.sigmaData, "The standard deviation of the data."),
        ]
    }

    public func validate() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("sigma_data", sigmaData, in: 0...1e100)
    }

    // MARK: The plan

    /// The options of a run of SCM. A request of timesteps reads neither.
    public struct Options: RunOptions {
        /// The angle that a run begins at; nil: the request's.
        public var maxTimesteps: Double? = 1.5708
        /// The angle between the steps of a run of two; nil: half of the greatest.
        public var intermediateTimesteps: Double? = 1.3

        public init() {}

        /// These options.
        public init(maxTimesteps: Double? = 1.5708, intermediateTimesteps: Double?) {
            (self.maxTimesteps, self.intermediateTimesteps) = (maxTimesteps, intermediateTimesteps)
        }

        public static var parameters: [ConfigurationParameter<Self>] {
            [
                .init("max_timesteps", \.maxTimesteps, "The angle that a run begins at; null where timesteps are given."),
                .init(
                    "intermediate_timesteps", \.intermediateTimesteps,
                    "The angle between the steps of a run of two; null: half of the greatest."),
            ]
        }

        public func validate() throws(SchedulerError) {
            for (key, angle) in [("max_timesteps", maxTimesteps), ("intermediate_timesteps", intermediateTimesteps)] {
                if let angle { try require(key, angle, "from 0 to pi", (0...Double.pi).contains(angle)) }
            }
        }
    }

    /// Evenly spaced angles, in place of a training's table.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let count = Double(numTrainTimesteps)
        return NoiseSchedule(
            sigmas: (0..<numTrainTimesteps).map { noiseToSignal((Double($0) + 0.5) / count * .pi / 2) },
            timesteps: (0..<numTrainTimesteps).map(Double.init), process: .variancePreserving)
    }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let angles = try angles(request, options: options)
        let rows = zip(angles, angles.dropFirst()).map { source, target in
            let prediction = Combination(sample: cosine(source), modelOutput: -sine(source))
            return [
                PlanRow(
                    prediction: prediction,
                    nextSample: cosine(target) * prediction + sigmaData * sine(target) * Combination(.noise), drawCount: 1)
            ]
        }
        return try SamplingPlan(
            grid: TimestepGrid(
                timesteps: angles.dropLast(), sigmas: angles.map(noiseToSignal), process: .variancePreserving, end: angles.last),
            rows: rows)
    }

    /// The level of an angle s: A = cos(s), S = σ_d sin(s).
    ///
    /// - Throws: `invalidValue` for an angle that isn't from 0 to π.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try require("timestep", timestep, "an angle from 0 to pi", (0...Double.pi).contains(timestep))
        return NoiseLevel(signalRate: cosine(timestep), noiseRate: sigmaData * sine(timestep), process: .variancePreserving)
    }

    /// |tan| of an angle; finite at diffusers' first angle, which is a little above π/2.
    private func noiseToSignal(_ angle: Double) -> Double { abs(sine(angle) / cosine(angle)) }

    /// The angles that the steps lead between, as float32 numbers.
    private func angles(_ request: TimestepRequest, options: Options) throws(SchedulerError) -> [Double] {
        try request.requireNoMu()
        switch request {
        case .count(let count, _):
            try requireStepCount(count, upTo: numTrainTimesteps)
            guard let greatest = options.maxTimesteps else {
                throw .invalidValue(key: "max_timesteps", value: "null", allowed: "a number unless timesteps are given")
            }
            if count == 2, let intermediate = options.intermediateTimesteps {
                return [greatest, intermediate, 0].map(\.roundedToFloat32)
            }
            return BetaSchedule.linspace(Float(greatest), 0, count: count + 1).map(Double.init)
        case .timesteps(let angles, _):
            try requireListWithEnd(angles, within: 0...Double.pi, "from 0 to pi")
            return angles.map(\.roundedToFloat32)
        case .sigmas, .timestepsAndSigmas:
            throw .invalidValue(key: "sigmas", value: "given", allowed: "left out: this scheduler steps between timesteps")
        }
    }
}
