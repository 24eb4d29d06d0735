// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

// Steps without a session: rows on the caller's tensors.

extension Combination {
    @inline(__always)
    fileprivate init(_ combination: ds_combination) {
        self.init(
            sample: combination.sample, modelOutput: combination.model_output, noise: combination.noise,
            prediction: combination.prediction)
        withUnsafeBytes(of: combination.slots) { bytes in
            let coefficients = bytes.assumingMemoryBound(to: Double.self)
            for slot in coefficients.indices { slots[slot] = coefficients[slot] }
        }
    }
}

extension PlanRow.Store {
    /// - Throws: `invalidValue` for a slot's number that is out of range.
    fileprivate init(_ store: ds_store, place: Int) throws {
        let last = Combination.maximumSlotCount - 1
        try require(store.slot, in: 0..<last + 1, "stores[\(place)].slot", "from 0 to \(last)")
        self.init(slot: store.slot, value: Combination(store.value))
    }
}

extension PlanRow {
    /// - Throws: `invalidValue` if the number of stores or a slot's number is out of range. `PreparedRow` checks the rest.
    fileprivate init(_ row: UnsafePointer<ds_row>) throws {
        try requireAtMost(Self.maximumStoreCount, row.pointee.n_stores, "n_stores")
        var stores: [Store] = []
        if row.pointee.n_stores > 0 { stores.append(try Store(row.pointee.stores.0, place: 0)) }
        if row.pointee.n_stores > 1 { stores.append(try Store(row.pointee.stores.1, place: 1)) }
        self.init(
            prediction: Combination(row.pointee.prediction), nextSample: Combination(row.pointee.next_sample), stores: stores,
            report: Combination(row.pointee.report), noiseFactor: try NoiseFactor(row))
    }
}

extension NoiseFactor {
    /// - Throws: `invalidValue` for another number.
    fileprivate init(_ row: UnsafePointer<ds_row>) throws {
        switch row.pointee.noise_factor {
        case DS_NOISE_FACTOR_NONE: self = .none
        case DS_NOISE_FACTOR_ROOT: self = .root
        case DS_NOISE_FACTOR_EXPONENTIAL:
            self = .exponential(offset: row.pointee.noise_offset, slope: row.pointee.noise_slope)
        default:
            throw SchedulerError.invalidValue(
                key: "noise_factor", value: "\(row.pointee.noise_factor.rawValue)", allowed: "from 0 to 2")
        }
    }
}

@inline(__always)
private func requireAtMost(_ most: Int, _ count: Int, _ argument: StaticString) throws {
    try require(count, in: 0..<most + 1, "\(argument)", "at most \(most)")
}

extension UnsafePointer<ds_row> {
    /// Calls the body with the slots that are listed as read.
    fileprivate func withReads<Result>(_ body: (Slice<UnsafeBufferPointer<Int>>) throws -> Result) throws -> Result {
        try requireAtMost(Combination.maximumSlotCount, pointee.n_reads, "n_reads")
        return try withUnsafeBytes(of: pointee.reads) { try body($0.bindMemory(to: Int.self).prefix(pointee.n_reads)) }
    }
}

/// The contents of a ds_prepared_row.
///
/// It has more than a kilobyte, and a copy would take as long as a small step. So steps only read its members in place.
private struct PreparedContents: BitwiseCopyable {
    /// The first word of every prepared row.
    static let mark: UInt64 = 0x5F6E_8D3A_91C4_27B1

    let mark = Self.mark
    let row: PreparedRow
    let slotUse: SlotUse

    init(_ row: UnsafePointer<ds_row>, of plan: SamplingPlan) throws {
        let values = try PlanRow(row)
        self.row = try row.withReads {
            try PreparedRow(values, clamp: plan.clamp, order: $0, modelLearnsVariance: plan.modelLearnsVariance)
        }
        slotUse = SlotUse(values, isReversed: values.stores.count == 2 && row.pointee.stores.0.slot > row.pointee.stores.1.slot)
    }
}

/// The slots that a row reads and stores.
private struct SlotUse: BitwiseCopyable {
    /// Bit k for slot k.
    private let reads: UInt8
    private let storeCount: UInt8
    /// The slots that the row stores, in the ascending order of their numbers.
    private var stores: InlineArray<2, UInt8> = [0, 0]
    /// Whether the stores of the ds_row came in the opposite order.
    private let isReversed: Bool

    init(_ row: PlanRow, isReversed: Bool) {
        reads = row.readSet
        storeCount = UInt8(row.stores.count)
        for (place, store) in row.stores.enumerated() { stores[place] = UInt8(store.slot) }
        self.isReversed = isReversed
    }

    @inline(__always)
    private func readsSlot(_ slot: Int) -> Bool { reads >> UInt8(slot) & 1 != 0 }

    @inline(__always)
    private func storesSlot(_ slot: Int) -> Bool { (0..<Int(storeCount)).contains { Int(stores[$0]) == slot } }
}

/// The tensors of a call to ds_row_step, besides slots and stores.
private struct RowTensors {
    let sample, modelOutput, nextSample: Tensor
    let noise, report: Tensor?

    /// Checks that a slot's tensor is like the sample and overlaps no output.
    ///
    /// Steps of two passes read slots after the first pass has written, so an output may not be in place of a slot.
    @inline(__always)
    func requireSlot(_ tensor: Tensor) throws {
        try tensor.requireTypeAndShape(of: sample)
        try nextSample.requireNoOverlap(with: tensor, orInPlace: false)
        try report?.requireNoOverlap(with: tensor, orInPlace: false)
    }

    /// Checks that a tensor that the row stores to shares no memory with the other tensors.
    @inline(__always)
    func requireStore(_ tensor: Tensor) throws {
        try tensor.requireNoOverlap(with: sample, orInPlace: false)
        try tensor.requireNoOverlap(with: modelOutput, orInPlace: false)
        if let noise { try tensor.requireNoOverlap(with: noise, orInPlace: false) }
    }
}

extension SlotUse {
    /// The slots that the row uses and the tensors that it stores to, each checked, also against all other tensors of the call.
    ///
    /// - Parameters:
    ///   - apart: nil if the row stores to its slots.
    ///   - call: the other tensors; called only if the row uses a slot.
    @inline(__always)
    fileprivate func slots(
        _ given: UnsafePointer<ds_tensor>?, count: Int, stores apart: UnsafePointer<ds_tensor>?,
        beside call: () throws -> RowTensors
    ) throws -> RowSlots {
        try requireAtMost(Combination.maximumSlotCount, count, "n_slots")
        let given = count > 0 ? try require(given, "slots") : given
        guard reads != 0 || storeCount > 0 else { return RowSlots() }
        let call = try call()
        var slots = RowSlots(), tensors = InlineArray<8, Tensor?>(repeating: nil)
        for slot in 0..<Combination.maximumSlotCount where readsSlot(slot) || (apart == nil && storesSlot(slot)) {
            guard slot < count, let given else {
                throw SchedulerError.invalidValue(key: "slot \(slot)", value: "missing", allowed: "given, as the row uses it")
            }
            let tensor = try Tensor(given + slot, .slot(slot), like: call.sample)
            try call.requireSlot(tensor)
            slots.set(slot, to: tensor.address)
            tensors[slot] = tensor
        }
        for place in 0..<Int(storeCount) {
            let slot = Int(stores[place])
            var target = tensors[slot]
            if let apart {
                let index = isReversed ? 1 - place : place
                let tensor = try Tensor(apart + index, .store(index), like: call.sample)
                try call.requireSlot(tensor)
                tensors[Combination.maximumSlotCount + place] = tensor
                target = tensor
            }
            guard let target else { continue }
            try call.requireStore(target)
            for other in tensors.indices where apart == nil ? other != slot : other != Combination.maximumSlotCount + place {
                if let other = tensors[other] { try target.requireNoOverlap(with: other, orInPlace: false) }
            }
            slots.setStore(place, to: target.address)
        }
        return slots
    }
}

@c(ds_scheduler_prepare_row) @implementation
public func ds_scheduler_prepare_row(
    _ scheduler: ds_scheduler, _ row: UnsafePointer<ds_row>!, _ prepared: UnsafeMutablePointer<ds_prepared_row>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, row = try require(row, "row"), out = try require(prepared, "prepared")
        let contents = try PreparedContents(row, of: plan)
        assert(MemoryLayout<PreparedContents>.size <= MemoryLayout<ds_prepared_row>.size)
        UnsafeMutableRawPointer(out).storeBytes(of: contents, as: PreparedContents.self)
    }
}

@c(ds_scheduler_device_row) @implementation
public func ds_scheduler_device_row(
    _ scheduler: ds_scheduler, _ row: UnsafePointer<ds_row>!, _ record: UnsafeMutableRawPointer!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, row = try require(row, "row"), out = try require(record, "record")
        let values = try PlanRow(row)
        let contents = try row.withReads {
            try DeviceRow(values, clamp: plan.clamp, order: $0, modelLearnsVariance: plan.modelLearnsVariance)
        }
        out.storeBytes(of: contents, as: DeviceRow.self)
    }
}

@c(ds_row_step) @implementation
public func ds_row_step(
    _ row: UnsafePointer<ds_prepared_row>!, _ model_output: UnsafePointer<ds_tensor>!, _ sample: UnsafePointer<ds_tensor>!,
    _ noise: UnsafePointer<ds_tensor>!, _ slots: UnsafePointer<ds_tensor>!, _ n_slots: Int, _ stores: UnsafePointer<ds_tensor>!,
    _ prev_sample: UnsafePointer<ds_tensor>!, _ pred_original_sample: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let prepared = UnsafeRawPointer(try require(row, "row")).assumingMemoryBound(to: PreparedContents.self)
        guard prepared.pointee.mark == PreparedContents.mark else {
            throw SchedulerError.invalidValue(key: "row", value: "other memory", allowed: "a row of ds_scheduler_prepare_row")
        }
        let sample = try Tensor(sample, .sample), preparedRow = prepared.pointer(to: \.row)!
        let tensors = try StepTensors(
            sample: sample, modelOutput: model_output, noise: noise, nextSample: prev_sample, report: pred_original_sample,
            modelLearnsVariance: preparedRow.pointee.modelLearnsVariance)
        let rowSlots = try prepared.pointee.slotUse.slots(slots, count: n_slots, stores: stores) {
            try RowTensors(
                sample: sample, modelOutput: Tensor(model_output, .modelOutput, like: sample),
                nextSample: Tensor(prev_sample, .nextSample, like: sample), noise: Tensor.optional(noise, .noise, like: sample),
                report: Tensor.optional(pred_original_sample, .report, like: sample))
        }
        try preparedRow.step(tensors, slots: rowSlots, batchSize: sample.batchSize, maximumThreads: Int(max_threads))
    }
}
