#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The remembered outputs of one session: a ring of slots in one block, aligned for vectors.
final class HistoryStorage: @unchecked Sendable {
    // Unchecked, because a session owns it alone or copies it before it writes.

    private static let alignment = 64
    private let slotBytes: Int
    let slotCount: Int
    private let block: UnsafeMutableRawPointer

    convenience init(slotCount: Int, elementCount: Int, elementType: ElementType) throws(SchedulerError) {
        let bytes = elementCount * elementType.size
        let slotBytes = (bytes / Self.alignment + (bytes % Self.alignment == 0 ? 0 : 1)).multipliedReportingOverflow(by: Self.alignment)
        guard !slotBytes.overflow else { throw .outOfMemory(byteCount: .max) }
        try self.init(slotCount: slotCount, slotBytes: slotBytes.partialValue)
    }

    /// Room for slots that are yet to be written.
    private init(slotCount: Int, slotBytes: Int) throws(SchedulerError) {
        self.slotBytes = slotBytes
        self.slotCount = slotCount
        let size = slotBytes.multipliedReportingOverflow(by: slotCount)
        // Swift's own allocation ends the process where there is no memory.
        var address: UnsafeMutableRawPointer?
        guard !size.overflow, posix_memalign(&address, Self.alignment, max(size.partialValue, 1)) == 0, let address else {
            throw .outOfMemory(byteCount: size.overflow ? .max : size.partialValue)
        }
        block = address
    }

    deinit { free(block) }

    func copy() throws(SchedulerError) -> HistoryStorage {
        let copy = try HistoryStorage(slotCount: slotCount, slotBytes: slotBytes)
        copy.block.copyMemory(from: block, byteCount: slotBytes * slotCount)
        return copy
    }

    func slot(_ index: Int) -> UnsafeMutableRawPointer { block + index * slotBytes }
}
