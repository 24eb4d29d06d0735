// SPDX-License-Identifier: Apache-2.0

/// The key of the prediction type.
public protocol PredictionTypeConfiguration: SchedulerConfiguration {
    /// The quantity that the model predicts.
    var predictionType: PredictionType { get set }
    /// The values that `predictionType` may have.
    static var predictionTypes: [PredictionType] { get }
}

extension PredictionTypeConfiguration {
    public static var predictionTypes: [PredictionType] { PredictionType.allCases }

    static var predictionTypeParameter: ConfigurationParameter<Self> {
        .init("prediction_type", \.predictionType, among: predictionTypes, "What the model predicts.")
    }

    func validatePredictionType() throws(SchedulerError) {
        try require("prediction_type", predictionType, among: Self.predictionTypes)
    }
}

/// The keys of dynamic thresholding, which keeps the predicted clean sample in the range of the data (Saharia et al. 2022,
/// arXiv:2205.11487, section 2.3).
///
/// For models of pixels; latents have no such range.
public protocol ThresholdingConfiguration: SchedulerConfiguration {
    /// Whether the predicted clean sample is thresholded.
    var thresholding: Bool { get set }
    /// The quantile of |x₀| that becomes the threshold, in [0, 1].
    var dynamicThresholdingRatio: Double { get set }
    /// The threshold is at most this; > 0. With the default 1 thresholding clips to [−1, 1].
    var sampleMaxValue: Double { get set }
}

extension ThresholdingConfiguration {
    static var thresholdingParameters: [ConfigurationParameter<Self>] {
        [
            .init("thresholding", \.thresholding, "Whether the predicted clean sample is thresholded; for models of pixels."),
            .init(
                "dynamic_thresholding_ratio", \.dynamicThresholdingRatio,
                "The quantile of the predicted clean sample's magnitudes that becomes the threshold."),
            .init("sample_max_value", \.sampleMaxValue, "The greatest threshold."),
        ]
    }

    func validateThresholding() throws(SchedulerError) {
        try require("dynamic_thresholding_ratio", dynamicThresholdingRatio, in: 0...1)
        try require("sample_max_value", sampleMaxValue, "greater than 0", sampleMaxValue > 0)
    }
}

/// The keys that clip the predicted clean sample.
public protocol ClippingConfiguration: SchedulerConfiguration {
    /// Whether the predicted clean sample is clipped to ±`clipSampleRange`; for models of pixels, not of latents.
    var clipSample: Bool { get set }
    /// The limit of `clipSample`, > 0.
    var clipSampleRange: Double { get set }
}

extension ClippingConfiguration {
    static var clipSampleParameter: ConfigurationParameter<Self> {
        .init("clip_sample", \.clipSample, "Whether the predicted clean sample is clipped; for models of pixels.")
    }

    static var clipSampleRangeParameter: ConfigurationParameter<Self> {
        .init("clip_sample_range", \.clipSampleRange, "The limit of clip_sample.")
    }

    func validateClipping() throws(SchedulerError) {
        try require("clip_sample_range", clipSampleRange, "greater than 0", clipSampleRange > 0)
    }
}
