// SPDX-License-Identifier: Apache-2.0

extension ThresholdingConfiguration {
    /// What the plan does to predictions.
    var clamp: PredictionClamp {
        thresholding ? .dynamicThreshold(ratio: dynamicThresholdingRatio, maximum: sampleMaxValue) : .none
    }
}
