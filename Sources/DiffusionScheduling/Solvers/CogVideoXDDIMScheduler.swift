// SPDX-License-Identifier: Apache-2.0

/// DDIM as CogVideoX has it (Song, Meng and Ermon 2020, arXiv:2010.02502, equation 12 without noise; Yang et al. 2024, arXiv:2408.06072).
///
/// A step leads ⌊T/n⌋ timesteps below, from the signal variance ᾱ_t to ᾱ_u, with the predicted clean sample p:
///
///     x' = q x + (√ᾱ_u − q √ᾱ_t) p        q = √((1 − ᾱ_u)/(1 − ᾱ_t))
///
/// The training's signal-to-noise ratio is divided by κ, `snrShiftScale`: see ``ShiftedSNRConfiguration``. Steps depend on nothing but their
/// arguments. Nothing is clipped.
///
/// The class of that name in diffusers is the reference; docs/DIFFERENCES.md lists where this one differs.
public typealias CogVideoXDDIMScheduler = DefinedScheduler<CogVideoXDDIMConfiguration>

/// The parameters of `CogVideoXDDIMScheduler`, with diffusers' defaults.
public struct CogVideoXDDIMConfiguration: ShiftedSNRConfiguration {
    public static let className = "CogVideoXDDIMScheduler"
    public static let compatibleClassNames = commonCompatibleClassNames
    public static let isStateless = true

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
        for timestep in timesteps { rows.append([try row(from: timestep, stepCount: timesteps.count, noise: noise)]) }
        return try SamplingPlan(grid: grid(timesteps, final: finalSigma(noise), noise: noise), rows: rows)
    }

    public func row(
        at timestep: Double, of plan: SamplingPlan, options: NoRunOptions, noise: NoiseSchedule
    ) throws(SchedulerError) -> PlanRow {
        try row(from: timestep, stepCount: plan.stepCount, noise: noise)
    }

    private func row(from timestep: Double, stepCount: Int, noise: NoiseSchedule) throws(SchedulerError) -> PlanRow {
        let source = try noise.alphaCumprod(atTimestep: timestep)
        let target = try alphaCumprod(below: timestep, stepCount: stepCount, noise: noise)
        return PlanRow(prediction: cleanSample(at: source), nextSample: predictionType.transfer(from: source, to: target))
    }
}
