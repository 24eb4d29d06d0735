// SPDX-License-Identifier: Apache-2.0

/// Denoising diffusion implicit models (Song, Meng and Ermon 2020, arXiv:2010.02502, equations 12 and 16).
///
/// A step from the signal variance ᾱ_t to ᾱ_u, with the predicted clean sample p and noise ε:
///
///     x' = √ᾱ_u p + √(1 − ᾱ_u − σ²) ε + σ z      σ² = η² (1 − ᾱ_u)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_u)
///
/// η = 0 is deterministic, and backwards in time with ᾱ_u < ᾱ_t it inverts; η = 1 is ancestral sampling (Ho et al. 2020).
struct DDIMSolver {
    var predictionType: PredictionType
    /// Whether p is clamped before it is used.
    var clamps: Bool
    /// η in [0, 1].
    var eta = 0.0
    /// Whether ε is computed anew from the clamped p (Glide's `use_clipped_model_output`).
    var usesClippedModelOutput = false

    func row(from source: Double, to target: Double) -> PlanRow {
        let level = NoiseLevel(alphaCumprod: source)
        let prediction = predictionType.cleanSample(at: NoiseLevel(alphaCumprod: predictionType.floored(source)))
        let noise =
            clamps && usesClippedModelOutput ? level.noiseOfClampedPrediction : predictionType.noise(at: level)

        // The share of the target's noise that is drawn anew: σ²/(1 − ᾱ_u).
        let ratio = target > 0 ? source / target : 1
        let renewed = eta == 0 || source == 1 ? 0 : min(eta * eta * (1 - ratio) / (1 - source), 1)
        let kept = ((1 - target) * (1 - renewed)).squareRoot()
        let drawn = ((1 - target) * renewed).squareRoot()
        let signal = target.squareRoot()

        let clean = clamps ? Combination(prediction: 1) : prediction
        return PlanRow(
            prediction: prediction,
            nextSample: Combination(
                sample: signal * clean.sample + kept * noise.sample,
                modelOutput: signal * clean.modelOutput + kept * noise.modelOutput, noise: drawn,
                prediction: signal * clean.prediction + kept * noise.prediction),
            drawCount: eta > 0 ? 1 : 0)
    }
}

extension PredictionType {
    /// DDIM's deterministic step between two signal variances, √ᾱ_u p + √(1 − ᾱ_u) ε, as a combination of x and e.
    ///
    /// √ᾱ_u √(1 − ᾱ_t) − √ᾱ_t √(1 − ᾱ_u) would cancel in short steps. It is (ᾱ_u − ᾱ_t)/(√ᾱ_u √(1 − ᾱ_t) + √ᾱ_t √(1 − ᾱ_u)).
    func transfer(from exact: Double, to target: Double) -> Combination {
        // Levels are equal where a β is 0.
        if exact == target { return Combination(.sample) }
        // Epsilon prediction divides by √ᾱ, and sample prediction by √(1 − ᾱ). Both have the floor 2⁻²⁴.
        let source = self == .sample ? min(exact, 1 - 0x1p-24) : floored(exact)
        let kept = (source * (1 - target)).squareRoot() + ((1 - source) * target).squareRoot()
        switch self {
        case .epsilon:
            return Combination(
                sample: (target / source).squareRoot(), modelOutput: (source - target) / (source.squareRoot() * kept))
        case .vPrediction:
            return Combination(
                sample: (source * target).squareRoot() + ((1 - source) * (1 - target)).squareRoot(),
                modelOutput: (source - target) / kept)
        case .sample, .flowPrediction:
            return Combination(
                sample: ((1 - target) / (1 - source)).squareRoot(),
                modelOutput: (target - source) / ((1 - source).squareRoot() * kept))
        }
    }
}

extension NoiseLevel {
    /// The noise ε = (x − A p)/S of a clamped prediction p.
    var noiseOfClampedPrediction: Combination {
        Combination(sample: 1 / noiseRateToDivideBy, prediction: -signalRate / noiseRateToDivideBy)
    }
}
