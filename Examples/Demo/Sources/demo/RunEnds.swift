// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// The beginning and end of deterministic runs. Runs from the same noise with the same ends converge to the same samples.
///
/// All of them follow one differential equation, the probability flow (Song et al. 2020, arXiv:2011.13456, section 4.3). The
/// processes differ only in the scale of a sample: at the ratio ρ of noise to signal, a variance-exploding sample is √(1 + ρ²)
/// times the variance-preserving one, and a flow-matching sample is 1/(1 + ρ) times the variance-exploding one.
struct RunEnds: Hashable {
    /// Whether runs begin at ρ = ∞, like those of flow matching, rather than at the training's noisiest level.
    let beginsWithoutSignal: Bool
    /// The standard deviation of the first model input. Euler and Heun scale noise by ς like diffusers, not by √(1 + ς²), which
    /// would make it 1.
    let scale: Float
    /// The noise level after the last step.
    let lastSigma: Double

    /// The ends of most schedulers' runs.
    static let usual = RunEnds(beginsWithoutSignal: false, scale: 1, lastSigma: 0)

    /// A plan between these ends, with small steps of order 3. Its runs start from noise of the deviation `scale`.
    ///
    /// - Parameter path: the model's `scheduler_config.json`.
    func plan(contentsOf path: String, steps: Int) throws -> SamplingPlan {
        let ends: [String: JSONValue] =
            beginsWithoutSignal
            ? ["use_karras_sigmas": false, "use_flow_sigmas": true, "prediction_type": "flow_prediction"]
            : ["final_sigmas_type": lastSigma == 0 ? "zero" : "sigma_min"]
        return try UniPCMultistepScheduler(contentsOf: path, overrides: ends).plan(.count(steps))
    }

    /// The prediction type of the plan's model.
    var predictionType: PredictionType { beginsWithoutSignal ? .flowPrediction : .epsilon }

    /// The difference of these ends from the usual ones.
    var remark: String {
        if beginsWithoutSignal { return "start: pure noise" }
        if lastSigma > 0 { return "end: the training's least noise level" }
        return String(format: "start: %.1f %% less noise", 100 * (1 - scale))
    }
}

extension RunEnds {
    init(of plan: SamplingPlan) {
        beginsWithoutSignal = plan.levels[0].signalRate == 0
        scale = Float(plan.initNoiseSigma * plan.inputScales[0])
        lastSigma = plan.sigmas[plan.stepCount]
    }
}
