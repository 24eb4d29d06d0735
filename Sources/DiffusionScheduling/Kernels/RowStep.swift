// SPDX-License-Identifier: Apache-2.0

/// The caller's tensors as the slots of a row.
package struct RowSlots {
    /// Of the slots by their numbers, then those that the row's stores go to.
    private var addresses: InlineArray<8, UnsafeMutableRawPointer>
    /// The slots that have an address: bit k for slot k.
    private(set) var given: UInt8 = 0
    /// Whether the stores go to memory of their own rather than to their slots.
    private(set) var storesApart = false
    private(set) var order = SlotOrder()

    /// No slots.
    package init() { addresses = .init(repeating: StepTensors.nowhere) }

    /// Sets the address of a slot.
    package mutating func set(_ slot: Int, to address: UnsafeMutableRawPointer) {
        addresses[slot] = address
        given |= 1 << UInt8(slot)
    }

    /// Sets the address that the row's store of a place goes to. All stores have one, or none has.
    package mutating func setStore(_ place: Int, to address: UnsafeMutableRawPointer) {
        addresses[Combination.maximumSlotCount + place] = address
        storesApart = true
    }

    /// Sets the order of summation: the listed slots first, then the others by their numbers.
    ///
    /// - Throws: `invalidValue` for a number that isn't a slot's.
    package mutating func setOrder(_ slots: UnsafeBufferPointer<Int>) throws(SchedulerError) {
        let count = Combination.maximumSlotCount
        for slot in (0..<count).reversed() { order.store(slot) }
        for place in slots.indices.reversed() {
            let slot = slots[place]
            try require("reads[\(place)]", UInt(bitPattern: slot), "from 0 to \(count - 1)", (0..<count).contains(slot))
            order.store(slot)
        }
    }

    /// Calls the body with the addresses by the slots' numbers; those of slots that aren't given are never read.
    fileprivate func withAddresses(
        _ body: (UnsafePointer<UnsafeMutableRawPointer>?) throws(SchedulerError) -> Void
    ) throws(SchedulerError) {
        if given == 0, !storesApart { return try body(nil) }
        try withUnsafePointer(to: addresses) { (addresses) throws(SchedulerError) in
            try body(UnsafeRawPointer(addresses).assumingMemoryBound(to: UnsafeMutableRawPointer.self))
        }
    }
}

extension PlanRow {
    /// Executes the row on memory of the caller's: aligned, and overlapping only where an output is an input. Slots overlap no output,
    /// and what is stored overlaps nothing.
    ///
    /// - Throws: `invalidValue` for a row that no plan may have, or a slot that isn't given; `wrongElementCount`, `missingNoise`,
    ///   `outOfMemory`. Nothing has been written then.
    package func step(
        clamp: PredictionClamp, _ tensors: StepTensors, slots: RowSlots = RowSlots(), batchSize: Int,
        modelLearnsVariance: Bool = false, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        try validate(at: nil, slotCount: Combination.maximumSlotCount)
        let missing = (slots.storesApart ? readSet : readSet | storeSet) & ~slots.given
        try require("slot \(missing.trailingZeroBitCount)", "missing", "given, as the row uses it", missing == 0)
        try tensors.validate(batchSize: batchSize, modelLearnsVariance: modelLearnsVariance)
        if tensors.noise == nil, needsNoise { throw .missingNoise(step: nil) }
        let workspace = try Kernels.workspace(clamp: clamp, for: tensors, batchSize: batchSize)
        let row = KernelRow(self, clamp: clamp, slotOrder: slots.order, storesApart: slots.storesApart)
        try withUnsafePointer(to: row) { (row) throws(SchedulerError) in
            try slots.withAddresses { (addresses) throws(SchedulerError) in
                try Kernels.step(
                    row, tensors, slots: addresses, batchSize: batchSize, workspace: workspace, maximumThreads: maximumThreads)
            }
        }
    }
}
