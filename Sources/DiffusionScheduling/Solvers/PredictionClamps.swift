// SPDX-License-Identifier: Apache-2.0

extension ThresholdingConfiguration {
    /// The clamp of dynamic thresholding.
    public var clamp: PredictionClamp {
        thresholding ? .dynamicThreshold(ratio: dynamicThresholdingRatio, maximum: sampleMaxValue) : .none
    }
}

extension ClippingConfiguration {
    /// The clamp to a fixed range.
    var clipping: PredictionClamp { clipSample ? .range(clipSampleRange) : .none }
}

extension ClippingConfiguration where Self: ThresholdingConfiguration {
    /// The plan's clamp. Thresholding takes the place of clipping.
    public var predictionClamp: PredictionClamp { thresholding ? clamp : clipping }
}
