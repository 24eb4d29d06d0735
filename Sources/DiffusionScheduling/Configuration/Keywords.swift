// SPDX-License-Identifier: Apache-2.0

// The words that keys may have.

extension BetaSchedule: ConfigurationKeyword {}
extension FinalSigmasType: ConfigurationKeyword {}
extension FlowTimeShiftType: ConfigurationKeyword {}
extension SigmaSchedule: ConfigurationKeyword {
    /// k-diffusion's polyexponential levels have the exponent 1 by default.
    public static let aliases: [String: Self] = ["polyexponential": .exponential]
}
extension TimestepSpacing: ConfigurationKeyword {}

/// The meaning of a model's output.
public enum PredictionType: String, ConfigurationKeyword {
    /// The noise in the sample.
    case epsilon
    /// The clean sample.
    case sample
    /// A·noise − S·clean sample (Salimans and Ho 2022, arXiv:2202.00512, section 4).
    case vPrediction = "v_prediction"
    /// The velocity noise − clean sample of flow matching.
    case flowPrediction = "flow_prediction"
}
