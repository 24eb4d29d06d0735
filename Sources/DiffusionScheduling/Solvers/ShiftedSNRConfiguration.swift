// SPDX-License-Identifier: Apache-2.0

/// The keys of CogVideoX' schedulers, whose training has a signal-to-noise ratio divided by κ (as in Esser et al. 2024, arXiv:2403.03206,
/// section 5.3.2):
///
///     ᾱ ← ᾱ/(κ + (1 − κ) ᾱ)
///
/// A zero terminal signal-to-noise ratio then shifts and stretches √ᾱ itself, not the betas.
public protocol ShiftedSNRConfiguration:
    TimestepSpacingConfiguration, ClippingConfiguration, FinalAlphaConfiguration, ZeroTerminalSNRConfiguration, VelocityDefinition
{
    /// κ, greater than 0. 1 changes nothing.
    var snrShiftScale: Double { get set }
    /// Unused, and so are the keys of clipping.
    var sampleMaxValue: Double { get set }
}

extension ShiftedSNRConfiguration {
    static var shiftedSNRParameters: [ConfigurationParameter<Self>] {
        noiseScheduleParameters + [
            .init("clip_sample", \.clipSample, "Unused: nothing is clipped."), setAlphaToOneParameter, stepsOffsetParameter,
            predictionTypeParameter, .init("clip_sample_range", \.clipSampleRange, "Unused: nothing is clipped."),
            .init("sample_max_value", \.sampleMaxValue, "Unused: nothing is thresholded."), timestepSpacingParameter,
        ] + zeroTerminalSNRParameters + [
            .init("snr_shift_scale", \.snrShiftScale, "What the training's signal-to-noise ratio is divided by."),
            finalAlphaCumprodParameter,
        ]
    }

    func validateShiftedSNR() throws(SchedulerError) {
        try validateNoiseSchedule()
        try validatePredictionType()
        try validateStepsOffset(upTo: numTrainTimesteps - 1)
        try validateFinalAlphaCumprod()
        try require("snr_shift_scale", snrShiftScale, in: 1e-30...1e30)
    }

    // MARK: Levels

    /// The shifted tables. Those of `scaledLinear` are float64 numbers, as diffusers' are, and the others float32 ones.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        if let trainedBetas { return NoiseSchedule(alphasCumprod: shifted(trainedBetas.map { Float($0) }).map(Double.init)) }
        if betaSchedule == .scaledLinear {
            let roots = BetaSchedule.linspace(betaStart.squareRoot(), betaEnd.squareRoot(), count: numTrainTimesteps)
            return NoiseSchedule(alphasCumprod: shifted(roots.map { $0 * $0 }))
        }
        let betas = betaSchedule.betas(from: betaStart, to: betaEnd, count: numTrainTimesteps)
        return NoiseSchedule(alphasCumprod: shifted(betas).map(Double.init))
    }

    private func shifted<Real: BinaryFloatingPoint>(_ betas: [Real]) -> [Real] {
        let scale = Real(snrShiftScale), rest = Real(1 - snrShiftScale)
        let shifted = NoiseSchedule.cumulativeProduct(betas).map { alpha -> Real in
            // A level without noise stays at 1: a great κ rounds the denominator to 0 there.
            let shifted = alpha / (scale + rest * alpha)
            return shifted <= 1 ? shifted : 1
        }
        guard rescaleBetasZeroSNR else { return shifted }
        return NoiseSchedule.stretchedToZeroTerminalSNR(shifted) ?? shifted
    }

    /// ᾱ at the target of a step in a run of `stepCount` steps: ⌊T/n⌋ timesteps below, whatever the spacing.
    func alphaCumprod(below timestep: Double, stepCount: Int, noise: NoiseSchedule) throws(SchedulerError) -> Double {
        let next = timestep - Double(numTrainTimesteps / stepCount)
        return next >= 0 ? try noise.alphaCumprod(atTimestep: next) : finalAlphaCumprod(noise)
    }

    /// p as a combination of x and e.
    func cleanSample(at alphaCumprod: Double) -> Combination {
        predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(alphaCumprod)))
    }
}
