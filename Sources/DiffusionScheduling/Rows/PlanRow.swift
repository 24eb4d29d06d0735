// SPDX-License-Identifier: Apache-2.0

/// The scalars of one evaluation of the model.
///
/// With the sample x, the model output e, noise z, the slots s₀ … s₅ that earlier rows stored, and the predicted clean sample p,
/// which is clamped if the plan says so,
///
///     p            = clamp( prediction · (x, e, z) )
///     next sample  = nextSample · (x, e, z, s, p)
///     slot k       = stores[k] · (x, e, z, s, p)      for the slots that the row stores
///     report       = report · (x, e, z, s, p)         on request
///
/// Without a clamp p is folded into the other combinations, whose coefficient of p is then 0.
public struct PlanRow: Sendable, Equatable {
    /// How many slots a row may store.
    public static let maximumStoreCount = 2

    /// What a slot holds after the row. A row may read the slot that it stores.
    public struct Store: Sendable, Equatable {
        public var slot: Int
        public var value: Combination

        public init(slot: Int, value: Combination) {
            self.slot = slot
            self.value = value
        }
    }

    /// The predicted clean sample x₀, before the clamp.
    public var prediction: Combination
    /// The sample after the row.
    public var nextSample: Combination
    /// In ascending order of their slots, as the initialiser puts them.
    public var stores: [Store]
    /// What a step tells on request besides the next sample; nil: the predicted clean sample p.
    public var report: Combination?
    /// How many tensors of noise a generator draws for the row, whether they are read or not, so that seeds stay in step with
    /// diffusers. The last one is the one that is read.
    public var drawCount: Int

    public init(
        prediction: Combination, nextSample: Combination, stores: [Store] = [], report: Combination? = nil, drawCount: Int? = nil
    ) {
        self.prediction = prediction
        self.nextSample = nextSample
        self.stores = stores.count < 2 ? stores : stores.sorted { $0.slot < $1.slot }
        self.report = report
        self.drawCount = drawCount ?? 0
        if drawCount == nil, needsNoise { self.drawCount = 1 }
    }

    /// Whether the row reads noise.
    public var needsNoise: Bool {
        prediction.noise != 0 || nextSample.noise != 0 || stores.contains { $0.value.noise != 0 }
            || report.map { $0.noise != 0 } ?? false
    }

    /// The slots that are read, and those that are stored: bit k for slot k.
    var readSet: UInt8 {
        stores.reduce(nextSample.slotSet | (report?.slotSet ?? 0)) { $0 | $1.value.slotSet }
    }
    var storeSet: UInt8 { stores.reduce(0) { $0 | 1 << UInt8($1.slot) } }
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
