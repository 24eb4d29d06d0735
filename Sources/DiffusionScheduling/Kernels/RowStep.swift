// SPDX-License-Identifier: Apache-2.0

/// A row outside a plan, prepared for any number of steps on the caller's tensors.
///
/// It holds no references, so C callers may keep it in their memory, and any number of threads may step with it at once.
package struct PreparedRow: BitwiseCopyable, Sendable {
    /// The row; it stores to the addresses after those of the slots.
    fileprivate let row: KernelRow
    package let modelLearnsVariance: Bool

    /// - Parameters:
    ///   - clamp: one of a valid plan.
    ///   - order: the slots in the order of summation, those listed first; others follow by their numbers.
    ///   - modelLearnsVariance: whether the model output may also hold a variance.
    /// - Throws: `invalidValue` for a row that no plan may have, or a slot's number that is out of range.
    package init(
        _ row: PlanRow, clamp: PredictionClamp, order: some Collection<Int> = [], modelLearnsVariance: Bool
    ) throws(SchedulerError) {
        self.row = try KernelRow(
            row, clamp: clamp, order: order, modelLearnsVariance: modelLearnsVariance, storesApart: true)
        self.modelLearnsVariance = modelLearnsVariance
    }
}

extension UnsafePointer<PreparedRow> {
    // A row has more than a kilobyte. Steps take its address, because a copy would take as long as a small step.

    /// Takes the step in the caller's memory, which is aligned and overlaps only where an output is an input. Slots overlap no
    /// output, and stores overlap nothing.
    ///
    /// - Parameter slots: addresses for all slots that the row reads, and for its stores.
    /// - Throws: `wrongElementCount`, `missingNoise`, `outOfMemory`. Nothing has been written then.
    @inline(__always)
    package func step(
        _ tensors: StepTensors, slots: RowSlots = RowSlots(), batchSize: Int, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        let row = pointer(to: \.row)!
        try tensors.validate(batchSize: batchSize, modelLearnsVariance: pointee.modelLearnsVariance)
        if tensors.noise == nil, row.pointee.needsNoise { throw .missingNoise(step: nil) }
        try tensors.requireVariance(row.pointee.needsVariance)
        let workspace = try Kernels.workspace(for: row, tensors, batchSize: batchSize)
        try slots.withAddresses { (addresses) throws(SchedulerError) in
            try Kernels.step(
                row, tensors, slots: addresses, batchSize: batchSize, workspace: workspace, maximumThreads: maximumThreads)
        }
    }
}

extension KernelRow {
    /// A row outside a plan.
    ///
    /// - Parameter order: the slots in the order of summation, those listed first; others follow by their numbers.
    /// - Throws: `invalidValue` for a row that no plan may have, or a slot's number that is out of range.
    init(
        _ row: PlanRow, clamp: PredictionClamp, order: some Collection<Int>, modelLearnsVariance: Bool, storesApart: Bool = false
    ) throws(SchedulerError) {
        try row.validate(at: nil, slotCount: Combination.maximumSlotCount)
        let slots = 0..<Combination.maximumSlotCount
        var slotOrder = SlotOrder()
        for slot in slots.reversed() { slotOrder.store(slot) }
        for (place, slot) in order.enumerated().reversed() {
            try require("reads[\(place)]", UInt(bitPattern: slot), "from 0 to \(slots.count - 1)", slots.contains(slot))
            slotOrder.store(slot)
        }
        try require(
            "noise factor of the row", "given", "left out for a model that predicts no variance",
            modelLearnsVariance || row.noiseFactor == .none)
        try self.init(row, clamp: clamp, slotOrder: slotOrder, storesApart: storesApart)
    }
}

/// The caller's tensors as the slots of a row.
package struct RowSlots {
    /// The addresses of the slots, by their numbers, then of the row's stores, in their order.
    private var addresses: InlineArray<8, UnsafeMutableRawPointer>
    private var isEmpty = true

    /// No slots.
    @inline(__always)
    package init() { addresses = .init(repeating: StepTensors.nowhere) }

    /// Sets the address of a slot.
    @inline(__always)
    package mutating func set(_ slot: Int, to address: UnsafeMutableRawPointer) {
        addresses[slot] = address
        isEmpty = false
    }

    /// Sets the address of one of the row's stores.
    @inline(__always)
    package mutating func setStore(_ place: Int, to address: UnsafeMutableRawPointer) {
        set(Combination.maximumSlotCount + place, to: address)
    }

    /// Calls the body with the addresses; those that aren't set are never read.
    @inline(__always)
    fileprivate func withAddresses(
        _ body: (UnsafePointer<UnsafeMutableRawPointer>?) throws(SchedulerError) -> Void
    ) throws(SchedulerError) {
        if isEmpty { return try body(nil) }
        try withUnsafePointer(to: addresses) { (addresses) throws(SchedulerError) in
            try body(UnsafeRawPointer(addresses).assumingMemoryBound(to: UnsafeMutableRawPointer.self))
        }
    }
}
