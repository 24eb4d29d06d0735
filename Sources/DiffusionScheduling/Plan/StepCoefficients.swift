// SPDX-License-Identifier: Apache-2.0

/// The scalars of one step.
///
/// With the sample x, the model output e, noise z, the remembered outputs m₁, m₂ … (m₁ the newest) and the predicted clean
/// sample p, which is clamped if the plan says so,
///
///     p            = clamp( prediction · (x, e) )
///     next sample  = nextSample · (x, e, z, p, m)
///     remembered   = history · (x, e, p)
///
/// Without a clamp p is folded into the other combinations, whose coefficient of p is then 0.
public struct StepCoefficients: Sendable, Equatable {
    /// The predicted clean sample x₀, before the clamp.
    public var prediction: LinearCombination
    /// The sample after the step.
    public var nextSample: LinearCombination
    /// What becomes m₁ for the next step; nil where nothing is remembered.
    public var history: LinearCombination?

    public init(prediction: LinearCombination, nextSample: LinearCombination, history: LinearCombination? = nil) {
        self.prediction = prediction
        self.nextSample = nextSample
        self.history = history
    }
}

/// The coefficients of a sum of tensors. A coefficient of 0 means that the tensor isn't read.
public struct LinearCombination: Sendable, Equatable {
    /// Of the sample x.
    public var sample: Double
    /// Of the model output e.
    public var modelOutput: Double
    /// Of the noise z.
    public var noise: Double
    /// Of the clamped prediction p.
    public var prediction: Double
    /// Of the remembered outputs, the newest first.
    public var history: [Double]

    public init(
        sample: Double = 0, modelOutput: Double = 0, noise: Double = 0, prediction: Double = 0, history: [Double] = []
    ) {
        self.sample = sample
        self.modelOutput = modelOutput
        self.noise = noise
        self.prediction = prediction
        self.history = history
    }

    var isFinite: Bool {
        sample.isFinite && modelOutput.isFinite && noise.isFinite && prediction.isFinite && history.allSatisfy(\.isFinite)
    }
}

/// What is done to the predicted clean sample.
public enum PredictionClamp: Sendable, Equatable {
    case none
    /// To [−limit, limit].
    case range(Double)
    /// To [−s, s], then divided by s, with s = min(max(quantile of |p|, 1), maximum) of each batch item
    /// (Saharia et al. 2022, arXiv:2205.11487, section 2.3).
    case dynamicThreshold(ratio: Double, maximum: Double)

    func validate() throws(SchedulerError) {
        switch self {
        case .none: break
        case .range(let limit):
            try require("limit of the clamp", limit, "greater than 0", limit > 0)
        case .dynamicThreshold(let ratio, let maximum):
            try require("ratio of the dynamic threshold", ratio, "from 0 to 1", (0...1).contains(ratio))
            try require("maximum of the dynamic threshold", maximum, "greater than 0", maximum > 0)
        }
    }
}
