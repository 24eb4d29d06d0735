// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits

extension DigitMixture {
    /// The prediction of a perfectly trained model for noisy samples x = A x₀ + S ε.
    ///
    /// Every prediction is a sum of x and x₀ = E[x₀ | x], with ε = (x − A x₀) / S:
    ///
    ///     epsilon  ε      sample  x₀      v_prediction  A ε − S x₀      flow_prediction  (x − x₀) / ς
    public func predict(_ type: PredictionType, from noisy: Matrix<Float>, at level: NoiseLevel) -> Matrix<Float> {
        // A run that inverts a picture may start at a level without noise; the floor avoids a division by 0.
        let (signal, noise) = (level.signalRate, max(level.noiseRate, 0x1p-12))
        let (ofNoisy, ofClean) =
            switch type {
            case .epsilon: (1 / noise, -signal / noise)
            case .sample: (0, 1)
            case .vPrediction: (signal / noise, -signal * signal / noise - noise)
            case .flowPrediction: (1 / level.sigma, -1 / level.sigma)
            }
        var output = posteriorMean(of: noisy, signalRate: signal, noiseRate: noise)
        for i in output.elements.indices {
            output.elements[i] = Float(ofNoisy) * noisy.elements[i] + Float(ofClean) * output.elements[i]
        }
        return output
    }
}

extension NoiseLevel {
    /// The level of a sample after the plan's input scale, which turns a variance-exploding sample into the variance-preserving one
    /// that the model was trained with.
    public var ofModelInput: NoiseLevel {
        process == .varianceExploding ? NoiseLevel(sigma: sigma, process: .variancePreserving) : self
    }
}
