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
/// Where the model predicts a variance, ``noiseFactor`` multiplies the elements of z first.
///
/// Without a clamp p is folded into the other combinations, whose coefficient of p is then 0.
public struct PlanRow: Sendable, Equatable {
    /// The most slots that a row may store.
    public static let maximumStoreCount = 2

    /// A slot and its contents after the row. A row may read the slot that it stores.
    public struct Store: Sendable, Equatable {
        /// The slot's number, from 0.
        public var slot: Int
        /// Its contents after the row.
        public var value: Combination

        /// A store of a combination.
        public init(slot: Int, value: Combination) {
            self.slot = slot
            self.value = value
        }
    }

    /// The predicted clean sample x₀, before the clamp.
    public var prediction: Combination
    /// The sample after the row.
    public var nextSample: Combination
    /// The slots that the row stores, in ascending order; the initialiser sorts them.
    public var stores: [Store]
    /// The report that a step gives on request besides the next sample; nil: the predicted clean sample p.
    public var report: Combination?
    /// The number of noise tensors that a generator draws for the row, read or not, so that seeds stay in step with diffusers. The
    /// row reads the last one.
    public var drawCount: Int
    /// The factor of each element of the noise.
    public var noiseFactor: NoiseFactor

    /// A row; without a `drawCount`, it draws once if it reads noise.
    public init(
        prediction: Combination, nextSample: Combination, stores: [Store] = [], report: Combination? = nil, drawCount: Int? = nil,
        noiseFactor: NoiseFactor = .none
    ) {
        self.noiseFactor = noiseFactor
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

    /// Whether the row reads the variance that the model predicts.
    public var needsVariance: Bool { noiseFactor != .none && needsNoise }

    /// The slots that are read, and those that are stored: bit k for slot k.
    package var readSet: UInt8 {
        stores.reduce(nextSample.slotSet | (report?.slotSet ?? 0)) { $0 | $1.value.slotSet }
    }
    var storeSet: UInt8 { stores.reduce(0) { $0 | 1 << UInt8($1.slot) } }

    /// The row with the slots that it reads and stores renumbered.
    func renumbering(reads: (Int) -> Int, stores: (Int) -> Int) -> PlanRow {
        func moved(_ combination: Combination) -> Combination {
            var result = combination
            result.slots = .init(repeating: 0)
            for slot in combination.slots.indices where combination.slots[slot] != 0 {
                result.slots[reads(slot)] = combination.slots[slot]
            }
            return result
        }
        return PlanRow(
            prediction: prediction, nextSample: moved(nextSample),
            stores: self.stores.map { Store(slot: stores($0.slot), value: moved($0.value)) }, report: report.map(moved),
            drawCount: drawCount, noiseFactor: noiseFactor)
    }

    /// Whether the row reads a slot.
    package func readsSlot(_ slot: Int) -> Bool { readSet >> UInt8(slot) & 1 != 0 }
}

// MARK: - Checks

extension PlanRow {
    /// Checks a row.
    ///
    /// - Parameter evaluation: the row's place in its plan; nil for a row without a plan.
    /// - Throws: `invalidValue`; `unrepresentablePlan` for coefficients of a plan that aren't finite.
    func validate(at evaluation: Int?, slotCount: Int) throws(SchedulerError) {
        func name() -> String { evaluation.map { "evaluation \($0)" } ?? "the row" }
        guard
            prediction.isFinite, nextSample.isFinite, report?.isFinite ?? true, stores.allSatisfy(\.value.isFinite),
            noiseFactor.isFinite
        else {
            if let evaluation { throw .unrepresentablePlan(step: evaluation) }
            throw .invalidValue(key: "a coefficient of the row", value: "infinite or not a number", allowed: "finite")
        }
        // p is computed first, from the sample, the model output and noise.
        try require(
            "prediction of \(name())", "a combination of slots or of itself", "one of sample, model output and noise",
            prediction.prediction == 0 && prediction.slotSet == 0)
        try require(
            "number of stores of \(name())", stores.count, "at most \(Self.maximumStoreCount)",
            stores.count <= Self.maximumStoreCount)
        for store in stores {
            try require(
                "slot that \(name()) stores", store.slot, "one of the plan's \(slotCount) slots, counted from 0",
                (0..<slotCount).contains(store.slot))
        }
        try require(
            "slots that \(name()) stores", "the same", "different", stores.count < 2 || stores[0].slot != stores[1].slot)
        // The order of summation depends on the order of the stores, which the coded form doesn't record.
        try require(
            "slots that \(name()) stores", "in descending order", "in ascending order",
            stores.count < 2 || stores[0].slot < stores[1].slot)
        let beyond = readSet >> UInt8(slotCount)
        try require(
            "slot that \(name()) reads", slotCount + beyond.trailingZeroBitCount,
            "one of the plan's \(slotCount) slots, counted from 0", beyond == 0)
        try require(
            "prediction of \(name())", "a combination of noise", "one of sample and model output where noise has a factor",
            noiseFactor == .none || prediction.noise == 0)
        try require("number of noise draws of \(name())", drawCount, in: 0...2)
        try require(
            "number of noise draws of \(name())", drawCount, "at least 1 where noise is read", drawCount > 0 || !needsNoise)
    }
}

/// The clamp of the predicted clean sample.
public enum PredictionClamp: Sendable, Equatable {
    /// Nothing.
    case none
    /// Clamps to [−limit, limit].
    case range(Double)
    /// Clamps to [−s, s], then divides by s, with s = min(max(quantile of |p|, 1), maximum) of each batch item (Saharia et al.
    /// 2022, arXiv:2205.11487, section 2.3).
    case dynamicThreshold(ratio: Double, maximum: Double)

    /// Whether the clamp takes a threshold for each batch item.
    var findsThresholds: Bool {
        if case .dynamicThreshold = self { true } else { false }
    }

    func validate() throws(SchedulerError) {
        switch self {
        case .none: break
        case .range(let limit):
            try require("limit of the clamp", limit, "greater than 0", limit > 0)
        case .dynamicThreshold(let ratio, let maximum):
            try require("ratio of the dynamic threshold", ratio, in: 0...1)
            try require("maximum of the dynamic threshold", maximum, "greater than 0", maximum > 0)
        }
    }
}
