// SPDX-License-Identifier: Apache-2.0

/// A scheduler of flow matching, whose training has the levels j/T for j from 1 to T.
public protocol FlowMatchDefinition: SchedulerDefinition {
    /// T: the number of noise levels that the model was trained with, 1...1,000,000.
    var numTrainTimesteps: Int { get set }
    /// κ: pushes the levels towards more noise; > 0.
    var shift: Double { get set }
    /// Whether each run brings its own shift, so that κ isn't used.
    var useDynamicShifting: Bool { get }
}

extension FlowMatchDefinition {
    static var numTrainTimestepsParameter: ConfigurationParameter<Self> {
        .init("num_train_timesteps", \.numTrainTimesteps, "The number of noise levels that the model was trained with.")
    }

    func validateFlowMatch() throws(SchedulerError) {
        try require("num_train_timesteps", numTrainTimesteps, in: 1...NoiseSchedule.maximumTimesteps)
        try require("shift", shift, in: 1e-30...1e30)
    }

    /// j/T for j from 1 to T, shifted unless each run brings its own shift.
    ///
    /// - Throws: nothing.
    public func makeNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let count = Float(numTrainTimesteps)
        var sigmas = (1...numTrainTimesteps).map { Float($0) / count }
        if !useDynamicShifting {
            // Pure noise stays at 1: float32 rounds the denominator of a tiny shift to 0.
            sigmas = FlowShift.constant(shift).levels(sigmas, terminal: nil).map { $0.isFinite ? $0 : 1 }
        }
        return NoiseSchedule(sigmas: sigmas, timesteps: sigmas.map { $0 * count }, process: .flow)
    }

    /// n levels between the ends of the training's, which may have been shifted already.
    func evenLevels(count n: Int, noise: NoiseSchedule) -> [Double] {
        let count = Double(noise.count)
        return linspace(noise.sigmas[noise.count - 1] * count, noise.sigmas[0] * count, count: n).map { $0 / count }
    }

    /// The level of the table, or ς = t/T between its timesteps t.
    ///
    /// - Throws: `invalidValue` for a timestep that isn't from 0 to T.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        try require("timestep", timestep, "from 0 to \(noise.count)", (0...Double(noise.count)).contains(timestep))
        return NoiseLevel(sigma: noise.tabulatedSigma(atTimestep: timestep) ?? timestep / Double(noise.count), process: .flow)
    }
}

extension PlanRow {
    /// The row that replaces the noise in a sample of flow matching: x' = (1 − τ)(x − ς e) + τ z.
    ///
    /// - Parameter drawCount: 0 where τ is 0, and the step draws no noise.
    static func renoising(from source: Double, to target: Double, drawCount: Int = 1) -> PlanRow {
        let keep = 1 - target
        return PlanRow(
            prediction: Combination(sample: 1, modelOutput: -source),
            nextSample: Combination(sample: keep, modelOutput: -source * keep, noise: target), drawCount: drawCount)
    }
}
