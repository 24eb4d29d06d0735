// SPDX-License-Identifier: Apache-2.0

/// The linear multistep method of Adams and Bashforth on noise levels of any spacing (Hairer, Nørsett and Wanner 1993, section III.5;
/// k-diffusion's `sample_lms`).
///
/// A step from ς₀ to τ integrates the polynomial through the last k derivatives dⱼ, of the levels ςⱼ, newest first, in ς:
///
///     x' = x + Σⱼ wⱼ dⱼ        wⱼ = ∫ ∏_{l≠j} (ς − ς_l)/(ςⱼ − ς_l) dς from ς₀ to τ        k ≤ order
///
/// A run begins with order 1, wherever in the plan it begins, and the orders rise with the derivatives that it remembers. diffusers goes by
/// the number of the step instead.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias LMSDiscreteScheduler = DefinedScheduler<LMSDiscreteConfiguration>

/// The parameters of `LMSDiscreteScheduler`, with diffusers' defaults.
public struct LMSDiscreteConfiguration: VarianceExplodingDefinition, PredictionTypeConfiguration, SigmaSpacingConfiguration {
    public static let className = "LMSDiscreteScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let predictionTypes: [PredictionType] = [.epsilon, .sample, .vPrediction]

    public var numTrainTimesteps = 1000
    public var betaStart = 0.0001
    public var betaEnd = 0.02
    public var betaSchedule = BetaSchedule.linear
    public var trainedBetas: [Double]?
    public var useKarrasSigmas = false
    public var useExponentialSigmas = false
    public var useBetaSigmas = false
    public var sigmaSchedule: SigmaSchedule?
    public var predictionType = PredictionType.epsilon
    public var timestepSpacing = TimestepSpacing.linspace
    public var stepsOffset = 0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + sigmaSpacingParameters + [predictionTypeParameter] + timestepSpacingParameters
    }

    public func validate() throws(SchedulerError) {
        try validateVarianceExploding()
        try validateSigmaSpacing()
        try validatePredictionType()
    }

    // MARK: The plan

    /// The options of a run of LMS.
    public struct Options: RunOptions {
        /// The greatest number of derivatives that a step combines.
        public var order = 4

        public init() {}

        public static var parameters: [ConfigurationParameter<Self>] {
            [.init("order", \.order, "How many derivatives a step combines at most.")]
        }

        public func validate() throws(SchedulerError) {
            let greatest = Combination.maximumSlotCount + 1
            try require("order", order, in: 1...greatest)
        }
    }

    public func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid {
        try requireNoTimesteps(request)
        // diffusers ignores the ends of other schedulers' Karras levels here.
        let (timesteps, sigmas) = try spacedLevels(request, keepsEnds: !useKarrasSigmas, noise: noise)
        return TimestepGrid(timesteps: timesteps, sigmas: sigmas + [0], process: noise.process)
    }

    public func plan(on grid: TimestepGrid, for request: TimestepRequest, options: Options) throws(SchedulerError) -> SamplingPlan {
        let solver = VarianceExplodingSolver(predictionType: predictionType), ring = options.order - 1
        let rows = grid.timesteps.indices.map { index in
            let sigma = grid.sigmas[index], prediction = solver.prediction(at: sigma)
            return (0...min(index, ring)).map { age in
                // A level without noise has no derivative, and no step leads away from it.
                if sigma == 0 { return PlanRow(prediction: prediction, nextSample: Combination(.sample)) }
                let weights = Self.weights(at: index, of: grid.sigmas, count: age + 1)
                // The first order's step is Euler's, in a form that cancels less where the model predicts the sample.
                var next =
                    weights.count == 1
                    ? solver.step(from: sigma, to: grid.sigmas[index + 1])
                    : Combination(.sample) + weights[0] * solver.derivative(at: sigma)
                for (back, weight) in weights.enumerated().dropFirst() { next[.slot((index - back) % ring)] = weight }
                return PlanRow(
                    prediction: prediction, nextSample: next,
                    stores: ring > 0 ? [.init(slot: index % ring, value: solver.derivative(at: sigma))] : [])
            }
        }
        return try plan(on: grid, slotCount: ring, warmUp: ring, rows: rows)
    }

    /// w₀, w₁, … of the step at an index.
    ///
    /// Levels that repeat carry no information, and those without noise no derivative: there are fewer weights then. Where levels fall, all
    /// terms of an integral have one sign.
    static func weights(at index: Int, of sigmas: [Double], count: Int) -> [Double] {
        let step = sigmas[index + 1] - sigmas[index]
        var nodes = [sigmas[index]]
        while nodes.count < count, step != 0 {
            let older = sigmas[index - nodes.count]
            if older == 0 || nodes.contains(older) { break }
            nodes.append(older)
        }
        return nodes.indices.map { j in
            // The coefficients of the polynomial in u = ς − ς₀, from u⁰ on.
            let polynomial = lagrangePolynomial(j, count: nodes.count) {
                nodes[$0] - nodes[0]
            } difference: {
                nodes[j] - nodes[$0]
            }
            return polynomial.reversed().enumerated().reduce(0) { sum, term in
                sum * step + term.element / Double(polynomial.count - term.offset)
            } * step
        }
    }

    public static var attributes: StepAttributes { StepAttributes(history: "derivatives") }
}
