// SPDX-License-Identifier: Apache-2.0

/// Two keys of solvers in λ = ln A − ln S: the training timesteps that are used, and the contents of a model output.
public protocol LambdaClippingConfiguration: NoiseScheduleConfiguration {
    /// Training timesteps whose λ = ln A − ln S is below this are not used; −∞ uses all. For the cosine schedule, whose λ falls
    /// steeply at the end, −5.1 avoids its numerical trouble.
    var lambdaMinClipped: Double { get set }
    /// `learned` or `learned_range`: each batch item of the model output holds the prediction and then its variance, which isn't
    /// used. Other words and nil: it holds the prediction alone.
    var varianceType: String? { get set }
}

extension LambdaClippingConfiguration {
    static var lambdaClippingParameters: [ConfigurationParameter<Self>] {
        [
            .init("lambda_min_clipped", \.lambdaMinClipped, "Training timesteps with a lower lambda are left out."),
            .init(
                "variance_type", \.varianceType,
                "learned or learned_range: the model output holds a predicted variance as well, which is passed over."),
        ]
    }

    func validateLambdaClipping() throws(SchedulerError) {
        try require("lambda_min_clipped", lambdaMinClipped, "a number or -Infinity", lambdaMinClipped < .infinity)
    }

    /// Whether the model output holds a variance besides the prediction.
    var learnsVariance: Bool { varianceType == "learned" || varianceType == "learned_range" }

    /// The training timesteps that `lambda_min_clipped` leaves.
    func usedCount(of noise: NoiseSchedule) throws(SchedulerError) -> Int {
        let count = noise.usedCount(lambdaMin: lambdaMinClipped)
        try require("lambda_min_clipped", lambdaMinClipped, "less than the greatest lambda of the noise schedule", count > 0)
        return count
    }

    /// The tables; `lambda_min_clipped` must leave at least one timestep.
    func checkedNoiseSchedule() throws(SchedulerError) -> NoiseSchedule {
        let noise = try NoiseSchedule(self)
        _ = try usedCount(of: noise)
        return noise
    }
}
