// SPDX-License-Identifier: Apache-2.0

/// DPM-Solver++ (2M) with noise, as CogVideoX has it (Lu et al. 2022, arXiv:2211.01095, algorithm 2 and section 6; Yang et al. 2024,
/// arXiv:2408.06072).
///
/// A step leads ⌊T/n⌋ timesteps below, from the signal variance ᾱ_t to ᾱ_u. With the predicted clean samples p of this step and p₁
/// of the step before, noise z, λ = ½ ln ᾱ/(1 − ᾱ), h = λ_u − λ_t and w = h/(2 (λ_t − λ of the step before)):
///
///     x' = e^{−h} √((1 − ᾱ_u)/(1 − ᾱ_t)) x + √ᾱ_u (1 − e^{−2h}) (p + w (p − p₁)) + √(1 − ᾱ_u) √(1 − e^{−2h}) z
///
/// The first step, and the one below timestep 0, have w = 0. The others draw noise twice and use the second.
///
/// diffusers' callers keep p₁ themselves, with its timestep, and may take any step after any other: ``DefinedScheduler/row(at:after:options:)``
/// is the row of such a step.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias CogVideoXDPMScheduler = DefinedScheduler<CogVideoXDPMConfiguration>

/// The parameters of `CogVideoXDPMScheduler`, with diffusers' defaults.
public struct CogVideoXDPMConfiguration: ShiftedSNRConfiguration {
    public static let className = "CogVideoXDPMScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let noiseType = NoiseType.sample
    public static let attributes = StepAttributes(tensors: ["old_pred_original_sample"], timestep: "timestep_back")

    public var numTrainTimesteps = 1000
    public var betaStart = 0.00085
    public var betaEnd = 0.012
    public var betaSchedule = BetaSchedule.scaledLinear
    public var trainedBetas: [Double]?
    public var clipSample = true
    public var setAlphaToOne = true
    public var finalAlphaCumprod: Double?
    public var stepsOffset = 0
    public var predictionType = PredictionType.epsilon
    public var clipSampleRange = 1.0
    public var sampleMaxValue = 1.0
    public var timestepSpacing = TimestepSpacing.leading
    public var rescaleBetasZeroSNR = false
    public var snrShiftScale = 3.0

    public var origin = ConfigurationOrigin()

    public init() {}

    public static var parameters: [ConfigurationParameter<Self>] { shiftedSNRParameters }

    public func validate() throws(SchedulerError) { try validateShiftedSNR() }

    // MARK: The plan

    public func plan(
        _ request: TimestepRequest, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        let timesteps = try denoisingTimesteps(request)
        var rows: [[PlanRow]] = []
        for (index, timestep) in timesteps.enumerated() {
            let befores: [Double?] = index == 0 ? [nil] : [nil, timesteps[index - 1]]
            rows.append([])
            for before in befores {
                var row = try row(from: timestep, after: before, stepCount: timesteps.count, noise: noise)
                row.stores = [.init(slot: 0, value: row.prediction)]
                rows[index].append(row)
            }
        }
        return try SamplingPlan(
            grid: grid(timesteps, final: finalSigma(noise), noise: noise), slotCount: 1, warmUp: 1, rows: rows)
    }

    public func row(
        at timestep: Double, after before: Double?, of plan: SamplingPlan, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try row(from: timestep, after: before, stepCount: plan.stepCount, noise: noise)
    }

    private func row(
        from timestep: Double, after before: Double?, stepCount: Int, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        let source = try noise.alphaCumprod(atTimestep: timestep), clean = cleanSample(at: source)
        let target = try alphaCumprod(below: timestep, stepCount: stepCount, noise: noise)
        let isLast = timestep < Double(numTrainTimesteps / stepCount)
        let levelBefore =
            isLast ? nil : try before.map { (timestep) throws(SchedulerError) in try noise.alphaCumprod(atTimestep: timestep) }

        var nextSample = Combination(.sample)
        // No step leads away from a level without noise.
        if source != target, source < 1 {
            // 1 − e^{−2h}, without cancellation: the difference is exact where the levels are close.
            let gained = (target - source) / ((1 - source) * target), share = target.squareRoot() * gained
            let weight = levelBefore.map { Self.extrapolation(from: source, to: target, after: $0) } ?? 0
            nextSample = Combination(
                sample: (1 - target) / (1 - source) * (source / target).squareRoot(),
                noise: ((1 - target) * max(gained, 0)).squareRoot(), prediction: share * (1 + weight))
            nextSample[.slot(0)] = -share * weight
        }
        return PlanRow(
            prediction: clean, nextSample: nextSample.replacing(.prediction, by: clean), drawCount: levelBefore == nil ? 1 : 2)
    }

    /// w; 0 where a level is without signal or without noise, and where the levels of both steps are equal.
    private static func extrapolation(from source: Double, to target: Double, after before: Double) -> Double {
        /// λ_b − λ_a.
        func difference(_ a: Double, _ b: Double) -> Double { 0.5 * logarithmOfOnePlus((b - a) / ((1 - b) * a)) }
        let weight = difference(source, target) / (2 * difference(before, source))
        return weight.isFinite ? weight : 0
    }
}
