// SPDX-License-Identifier: Apache-2.0

extension ThresholdingConfiguration {
    /// What thresholding does to predictions.
    var clamp: PredictionClamp {
        thresholding ? .dynamicThreshold(ratio: dynamicThresholdingRatio, maximum: sampleMaxValue) : .none
    }
}

extension ClippingConfiguration {
    /// What clipping does to predictions.
    var clipping: PredictionClamp { clipSample ? .range(clipSampleRange) : .none }
}

extension ClippingConfiguration where Self: ThresholdingConfiguration {
    /// What the plan does to predictions. Thresholding takes the place of clipping.
    public var predictionClamp: PredictionClamp { thresholding ? clamp : clipping }
}
