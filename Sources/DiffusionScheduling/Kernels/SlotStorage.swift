// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Memory for tensors, aligned for vectors. Allocating throws if there is no memory, instead of ending the process.
enum TensorMemory {
    static let alignment = 64

    /// Allocates memory for the elements, to be freed with `free`.
    static func allocate(elementCount: Int, elementSize: Int) throws(SchedulerError) -> UnsafeMutableRawPointer {
        let bytes = elementCount.multipliedReportingOverflow(by: elementSize)
        // Swift's own allocation ends the process where there is no memory.
        var address: UnsafeMutableRawPointer?
        guard !bytes.overflow, posix_memalign(&address, alignment, max(bytes.partialValue, 1)) == 0, let address else {
            throw .outOfMemory(byteCount: bytes.overflow ? .max : bytes.partialValue)
        }
        return address
    }

    static func free(_ address: UnsafeMutableRawPointer) {
        #if canImport(Glibc)
            Glibc.free(address)
        #elseif canImport(Musl)
            Musl.free(address)
        #elseif canImport(Darwin)
            Darwin.free(address)
        #endif
    }
}

/// The slots of one session, allocated one by one so that a slot can be exchanged for a caller's memory.
final class SlotStorage: @unchecked Sendable {
    // Unchecked, because a session owns it alone or copies it before it writes.

    let slotCount: Int
    private let slotBytes: Int
    private let slots: UnsafeMutablePointer<UnsafeMutableRawPointer>

    /// Room for slots that are yet to be written.
    init(slotCount: Int, slotBytes: Int) throws(SchedulerError) {
        let slots = UnsafeMutablePointer<UnsafeMutableRawPointer>.allocate(capacity: max(slotCount, 1))
        for index in 0..<slotCount {
            do throws(SchedulerError) {
                (slots + index).initialize(to: try TensorMemory.allocate(elementCount: slotBytes, elementSize: 1))
            } catch {
                for made in 0..<index { TensorMemory.free(slots[made]) }
                slots.deallocate()
                throw error
            }
        }
        self.slotCount = slotCount
        self.slotBytes = slotBytes
        self.slots = slots
    }

    convenience init(slotCount: Int, elementCount: Int, elementType: ElementType) throws(SchedulerError) {
        let bytes = elementCount.multipliedReportingOverflow(by: elementType.size)
        guard !bytes.overflow else { throw .outOfMemory(byteCount: .max) }
        try self.init(slotCount: slotCount, slotBytes: bytes.partialValue)
    }

    deinit {
        for index in 0..<slotCount { TensorMemory.free(slots[index]) }
        slots.deallocate()
    }

    /// - Parameter live: the slots whose contents count: bit k for slot k.
    func copy(live: UInt8) throws(SchedulerError) -> SlotStorage {
        let copy = try SlotStorage(slotCount: slotCount, slotBytes: slotBytes)
        for index in 0..<slotCount where live >> UInt8(index) & 1 != 0 {
            copy.slots[index].copyMemory(from: slots[index], byteCount: slotBytes)
        }
        return copy
    }

    /// The slots' addresses, valid as long as the storage.
    ///
    /// A step reads them without counting references; the session keeps the storage meanwhile.
    @inline(__always)
    var addresses: UnsafePointer<UnsafeMutableRawPointer> { UnsafePointer(slots) }

    /// Exchanges a slot's memory for other memory of the same size.
    func exchange(_ index: Int, for memory: inout UnsafeMutableRawPointer) { swap(&slots[index], &memory) }
}
