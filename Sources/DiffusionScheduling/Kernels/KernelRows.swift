// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// A row in the form that the kernels run, without references.
struct KernelRow: BitwiseCopyable {
    /// The coefficients of an output.
    typealias Terms = (Double, Double, Double, Double, Double, Double, Double, Double, Double, Double, Double, Double)

    /// The prepared row. Its outputs are the next sample, the stores, and the report if at most one slot is stored. It is the first
    /// member, so its address is also the struct's.
    let row: dsk_prepared_row
    /// The report's coefficients. Rows that store two slots have no output left for them.
    let report: Terms
    /// The slots that stand for the kernel's inputs from `DSK_SLOT_1` on, in the order of summation.
    private(set) var slots: InlineArray<6, UInt8> = .init(repeating: 0)
    private(set) var slotCount = 0
    private(set) var stores: InlineArray<2, UInt8> = .init(repeating: 0)
    let storeCount: Int
    /// The number of the store that keeps the model output unchanged; −1 if none does.
    let keptOutput: Int
    let needsNoise: Bool
    let needsVariance: Bool
    /// The slots whose contents this row or a later one reads: bit k for slot k.
    let live: UInt8

    /// Whether the row's clamp takes a threshold for each batch item.
    @inline(__always)
    var findsThresholds: Bool { row.row.clamp == DSK_CLAMP_THRESHOLD }

    /// - Parameters:
    ///   - clamp: one of a valid plan.
    ///   - slotOrder: the slots that may be read, the most recently stored one first.
    ///   - storesApart: whether the addresses of the stores follow those of the slots.
    init(
        _ plan: PlanRow, clamp: PredictionClamp, slotOrder: SlotOrder, live: UInt8 = 0, storesApart: Bool = false
    ) throws(SchedulerError) {
        let readSet = plan.readSet
        for place in 0..<slotOrder.count {
            let slot = slotOrder[place]
            guard readSet >> UInt8(slot) & 1 != 0 else { continue }
            slots[slotCount] = UInt8(slot)
            slotCount += 1
        }
        storeCount = plan.stores.count
        var row = dsk_row(prediction: plan.prediction, clamp: clamp)
        row.set(plan.noiseFactor)
        row.set(0, to: plan.nextSample, slots: slots, count: slotCount)
        for (place, store) in plan.stores.enumerated() {
            stores[place] = UInt8(storesApart ? Combination.maximumSlotCount + place : store.slot)
            row.set(1 + place, to: store.value, slots: slots, count: slotCount)
        }
        // An unclamped p is reported by its own combination, so the loop computes no p that only the report uses.
        let told = plan.report ?? (clamp == .none ? plan.prediction : Combination(prediction: 1))
        var reporting = dsk_row()
        reporting.set(0, to: told, slots: slots, count: slotCount)
        report = reporting.outputs.0
        if storeCount < 2 { row.outputs.2 = report }
        self.row = try dsk_prepared_row(row)
        keptOutput = plan.stores.firstIndex { $0.value == Combination(modelOutput: 1) } ?? -1
        needsNoise = plan.needsNoise
        needsVariance = plan.needsVariance
        self.live = live
    }
}

/// Slots in the order in which they were stored, the most recently stored one first.
struct SlotOrder {
    private var slots: InlineArray<6, UInt8> = .init(repeating: 0)
    private(set) var count = 0

    subscript(place: Int) -> Int { Int(slots[place]) }

    mutating func store(_ slot: Int) {
        var place = 0
        while place < count, slots[place] != UInt8(slot) { place += 1 }
        if place == count { count += 1 }
        while place > 0 {
            slots[place] = slots[place - 1]
            place -= 1
        }
        slots[0] = UInt8(slot)
    }
}

/// A plan's rows in the form that the kernels read, in one block of memory that never changes.
///
/// Taking a step then costs an index, no reference counting and no allocation.
final class KernelRows: @unchecked Sendable {
    // Unchecked, because the memory is written by the initialiser alone.

    private let rows: UnsafeMutablePointer<KernelRow>
    private let choices: Int

    /// - Parameters:
    ///   - choices: the most rows of an evaluation, one for each age.
    ///   - row: the row of an evaluation at an age.
    /// - Throws: the errors of `row`.
    init(
        count: Int, choices: Int, row: (_ index: Int, _ age: Int) throws(SchedulerError) -> KernelRow
    ) throws(SchedulerError) {
        self.choices = choices
        rows = .allocate(capacity: max(count * choices, 1))
        for index in 0..<count {
            for age in 0..<choices {
                // A run can't be older than the plan; these rows are never taken.
                let place = index * choices + age
                if age > index {
                    (rows + place).initialize(to: rows[place - 1])
                } else {
                    (rows + place).initialize(to: try row(index, age))
                }
            }
        }
    }

    deinit { rows.deallocate() }

    @inline(__always)
    func row(at index: Int, age: Int) -> UnsafePointer<KernelRow> {
        UnsafePointer(rows + (index * choices + min(age, choices - 1)))
    }
}

extension KernelRow {
    /// A row with the next model input, `inputScale` · next sample, as an output: the whole row, with the input as its last output;
    /// if that output is taken or the report is wanted as well, a row with only the report and the input.
    func withModelInput(_ inputScale: Double, beside report: Bool) throws(SchedulerError) -> dsk_prepared_row {
        var row = row.row
        withUnsafeMutableBytes(of: &row.outputs) { bytes in
            let terms = bytes.bindMemory(to: Double.self).baseAddress!, count = Int(DSK_TERM_COUNT.rawValue)
            let place = report ? 1 : 2
            for term in 0..<count { terms[place * count + term] = inputScale * terms[term] }
            if report { for term in 0..<count { terms[2 * count + term] = 0 } }
        }
        if report { row.outputs.0 = self.report }
        return try dsk_prepared_row(row)
    }
}

extension dsk_prepared_row {
    init(_ row: dsk_row) throws(SchedulerError) {
        self.init()
        try withUnsafePointer(to: row) { (row) throws(SchedulerError) in try Kernels.check(dsk_prepare_row(row, &self)) }
    }
}

extension dsk_row {
    /// A row without outputs.
    fileprivate init(prediction: Combination, clamp: PredictionClamp) {
        self.init()
        switch clamp {
        case .none: self.clamp = DSK_CLAMP_NONE
        case .range(let limit):
            self.clamp = DSK_CLAMP_RANGE
            clamp_range = limit
        case .dynamicThreshold(let ratio, let maximum):
            self.clamp = DSK_CLAMP_THRESHOLD
            threshold_ratio = ratio
            threshold_maximum = maximum
        }
        self.prediction.0 = prediction.sample
        self.prediction.1 = prediction.modelOutput
        self.prediction.3 = prediction.noise
    }

    fileprivate mutating func set(_ factor: NoiseFactor) {
        switch factor {
        case .none: noise_factor = DSK_NOISE_FACTOR_NONE
        case .root: noise_factor = DSK_NOISE_FACTOR_ROOT
        case .exponential(let offset, let slope):
            noise_factor = DSK_NOISE_FACTOR_EXPONENTIAL
            noise_offset = offset
            noise_slope = slope
        }
    }

    /// - Parameter slots: the slots that stand for the inputs from `DSK_SLOT_1` on.
    fileprivate mutating func set(_ output: Int, to combination: Combination, slots: InlineArray<6, UInt8>, count: Int) {
        withUnsafeMutableBytes(of: &outputs) { bytes in
            let terms = bytes.bindMemory(to: Double.self).baseAddress! + output * Int(DSK_TERM_COUNT.rawValue)
            terms[Int(DSK_SAMPLE.rawValue)] = combination.sample
            terms[Int(DSK_MODEL_OUTPUT.rawValue)] = combination.modelOutput
            terms[Int(DSK_NOISE.rawValue)] = combination.noise
            terms[Int(DSK_PREDICTION.rawValue)] = combination.prediction
            for place in 0..<count {
                terms[Int(DSK_SLOT_1.rawValue) + place] = combination.slots[Int(slots[place])]
            }
        }
    }
}
