// SPDX-License-Identifier: Apache-2.0

/// The prediction that SA-Solver extrapolates.
public enum SASolverAlgorithmType: String, ConfigurationKeyword {
    /// The predicted clean sample.
    case dataPrediction = "data_prediction"
    /// The predicted noise.
    case noisePrediction = "noise_prediction"
}
