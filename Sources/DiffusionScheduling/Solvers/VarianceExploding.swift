// SPDX-License-Identifier: Apache-2.0

/// The common part of Euler, Heun and their kin: a scheduler on the variance-exploding process, sample = data + ς noise (Karras et
/// al. 2022, arXiv:2206.00364).
///
/// The model's input is x/√(1 + ς²), as in training. A conforming definition supplies the grid and the rows.
public protocol VarianceExplodingDefinition: SchedulerDefinition, NoiseScheduleConfiguration, TimestepSpacingConfiguration {
    /// The timesteps and noise levels of a run.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration.
    func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid
    /// Compiles a plan on the grid of a request.
    ///
    /// - Throws: `invalidValue` for levels that the scheduler can't step between; `unrepresentablePlan`.
    func plan(on grid: TimestepGrid, for request: TimestepRequest, options: Options) throws(SchedulerError) -> SamplingPlan
}

extension VarianceExplodingDefinition {
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule { try NoiseSchedule(self).varianceExploding }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, noise: noise), for: request, options: options)
    }

    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid, for: .sigmas(grid.sigmas), options: options)
    }

    func validateVarianceExploding() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validateStepsOffset()
    }

    /// The plan of rows that don't depend on the run's age.
    ///
    /// - Parameter modelSigmas: the model's level at each evaluation; nil: the grid's.
    func plan(
        on grid: TimestepGrid, modelSigmas: [Double]? = nil, clamp: PredictionClamp = .none, slotCount: Int = 0, steps: [Int] = [],
        rows: [PlanRow]
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(
            on: grid, modelSigmas: modelSigmas, clamp: clamp, slotCount: slotCount, warmUp: 0, steps: steps, rows: rows.map { [$0] }
        )
    }

    /// The plan of rows by age, for solvers that look back further than over a step.
    func plan(
        on grid: TimestepGrid, modelSigmas: [Double]? = nil, clamp: PredictionClamp = .none, slotCount: Int, warmUp: Int,
        steps: [Int] = [], rows: [[PlanRow]]
    ) throws(SchedulerError) -> SamplingPlan {
        // The starting deviation of `leading` runs includes data of unit variance, in float32, as in diffusers.
        let greatest = Float(grid.sigmas.max() ?? 0)
        let initial = timestepSpacing == .leading ? (greatest * greatest + 1).squareRoot() : greatest
        return try SamplingPlan(
            grid: grid, initNoiseSigma: Double(initial),
            inputScales: (modelSigmas ?? grid.sigmas.dropLast()).map { 1 / hypotenuse(1, $0) },
            clamp: clamp, slotCount: slotCount, warmUp: warmUp, steps: steps, rows: rows)
    }

    // MARK: Grids

    /// Refuses a request for timesteps, for schedulers that choose them themselves.
    func requireNoTimesteps(_ request: TimestepRequest) throws(SchedulerError) {
        if case .timesteps = request {
            throw .invalidValue(key: "timesteps", value: "given", allowed: "left out: this scheduler chooses them itself")
        }
    }

    /// A timestep rounded to diffusers' element type.
    private static func rounded(_ timestep: Double) -> Double { timestepType == .float64 ? timestep : timestep.roundedToFloat32 }

    /// The training timesteps and noise levels of a request, without the level after the last step.
    func levels(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> (timesteps: [Double], sigmas: [Double])
    {
        guard case .sigmas(let sigmas, _) = request else {
            let timesteps = try timesteps(request, noise: noise)
            return (timesteps, timesteps.map(noise.sigma(atTimestep:)))
        }
        try request.requireNoMu()
        try requireOrdered(
            "sigmas", sigmas, by: >, within: .leastNonzeroMagnitude...Double(Float.greatestFiniteMagnitude),
            "finite and greater than 0")
        return (sigmas.map { Self.rounded(noise.timestep(atSigma: $0)) }, sigmas)
    }

    /// The timesteps of a request, noisiest first: of the spacing, or the caller's own.
    func timesteps(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> [Double] {
        try request.requireNoMu()
        switch request {
        case .count(let count, _):
            try requireStepCount(count)
            return timestepSpacing.explodingTimesteps(count: count, trainingCount: noise.count, offset: stepsOffset)
                .map(Self.rounded)
        case .timesteps(let custom, _):
            try requireOrdered("timesteps", custom, by: >=, within: 0...Double(noise.count - 1), "from 0 to \(noise.count - 1)")
            return custom.map(Self.rounded)
        case .sigmas, .timestepsAndSigmas:
            throw .invalidValue(key: "sigmas", value: "given", allowed: "left out: this scheduler chooses them itself")
        }
    }
}

extension VarianceExplodingDefinition where Self: SigmaSpacingConfiguration {
    /// The timesteps and noise levels of a spacing, without the level after the last step.
    ///
    /// - Parameters:
    ///   - levels: the levels of the timesteps, whose ends are those of the spacing; nil: the training's, interpolated.
    ///   - keepsEnds: whether `sigmaMin` and `sigmaMax` are the ends where they are given.
    func spacedLevels(
        _ request: TimestepRequest, levels: [Double]? = nil, keepsEnds: Bool = true, noise: NoiseSchedule
    ) throws(SchedulerError) -> (timesteps: [Double], sigmas: [Double]) {
        if case .sigmas = request { return try self.levels(request, noise: noise) }
        let (sigmaMin, sigmaMax) = keepsEnds ? (sigmaMin, sigmaMax) : (nil, nil)
        let timesteps = try timesteps(request, noise: noise)
        let levels = levels ?? timesteps.map(noise.sigma(atTimestep:))
        guard let grid = chosenSpacings.first else { return (timesteps, levels) }
        if case .timesteps = request {
            throw .invalidValue(key: "timesteps", value: "given", allowed: "left out where \(grid) is true")
        }
        var least = sigmaMin ?? levels[levels.count - 1]
        if case .count(let count, _) = request, sigmaMin == nil,
            timestepSpacing.leavesOutTimestep(count: count, trainingCount: noise.count)
        {
            // The timestep below 0 isn't a step, but its level is where diffusers' spacing ends.
            least = noise.sigmas[0]
        }
        let greatest = sigmaMax ?? levels[0]
        if useExponentialSigmas { try requireLogarithm(least) }
        let spacing: SigmaSpacing = useKarrasSigmas ? .karras : useExponentialSigmas ? .exponential : .beta
        let sigmas = spacing.sigmas(count: timesteps.count, from: greatest, to: least, trainingCount: noise.count)
        return (sigmas.map { Self.rounded(noise.timestep(atSigma: $0)) }, sigmas)
    }

    /// Refuses a training whose least noise level is 0 where noise levels are spaced in their logarithm.
    func requireLogarithm(_ least: Double) throws(SchedulerError) {
        try require(
            trainedBetas == nil ? "beta_start" : "trained_betas[0]", "0",
            "greater than 0 where noise levels are spaced in their logarithm", least > 0)
    }
}

/// The probability flow dx/dς = d of the variance-exploding process, with the predicted clean sample p (Karras et al. 2022,
/// arXiv:2206.00364, equation 1 and algorithm 1):
///
///     d = (x − p)/ς        p = x − ς e        for the prediction type epsilon
///                          p = e              sample
///                          p = x/(ς² + 1) − e ς/√(ς² + 1)        v_prediction
struct VarianceExplodingSolver {
    var predictionType: PredictionType
    /// Whether p is clamped before it is used.
    var clamps = false

    /// p as a combination of x and e.
    ///
    /// - Parameter factor: the factor by which the noise of x has been raised above ς. Only epsilon takes it into account, as in
    ///   diffusers.
    func prediction(at sigma: Double, raisedBy factor: Double = 1) -> Combination {
        switch predictionType {
        case .epsilon: Combination(sample: 1, modelOutput: -sigma * factor)
        case .vPrediction: Combination(sample: 1 / (sigma * sigma + 1), modelOutput: -sigma / hypotenuse(1, sigma))
        case .sample, .flowPrediction: Combination(modelOutput: 1)
        }
    }

    /// d as a combination of x and e; of x and p where p is clamped. ς isn't 0.
    func derivative(at sigma: Double) -> Combination {
        switch predictionType {
        case _ where clamps: Combination(sample: 1 / sigma, prediction: -1 / sigma)
        case .epsilon: Combination(modelOutput: 1)
        case .vPrediction: Combination(sample: sigma / (sigma * sigma + 1), modelOutput: 1 / hypotenuse(1, sigma))
        case .sample, .flowPrediction: Combination(sample: 1 / sigma, modelOutput: -1 / sigma)
        }
    }

    /// The parts of an ancestral step from ς to τ: σ_down/τ = τ/ς, which the step goes down to, and σ_up, the noise that leads back
    /// (Song et al. 2020, arXiv:2011.13456, appendix F).
    ///
    /// A step up, as from the floor of a zero terminal signal-to-noise ratio, has no noise to renew.
    static func ancestralParts(from sigma: Double, to target: Double) -> (ratio: Double, noise: Double) {
        let ratio = sigma > 0 ? min(target / sigma, 1) : 1
        return (ratio, target * ((1 - ratio) * (1 + ratio)).squareRoot())
    }

    /// Euler's step x + (τ − ς) d from ς to τ, in the form (τ/ς) x + (1 − τ/ς) p where that cancels less.
    ///
    /// A level without noise has no derivative, so no step leaves it.
    func step(from sigma: Double, to target: Double, raisedBy factor: Double = 1) -> Combination {
        if sigma == 0 { return Combination(.sample) }
        let target = target / factor, ratio = target / sigma
        switch predictionType {
        case _ where clamps: return Combination(sample: ratio, prediction: 1 - ratio)
        case .epsilon: return Combination(sample: 1, modelOutput: (target - sigma) * factor)
        case .vPrediction:
            return Combination(
                sample: (1 + sigma * target) / (1 + sigma * sigma), modelOutput: (target - sigma) / hypotenuse(1, sigma))
        case .sample, .flowPrediction: return Combination(sample: ratio, modelOutput: 1 - ratio)
        }
    }
}
