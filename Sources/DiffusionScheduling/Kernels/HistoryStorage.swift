/// The remembered outputs of one session: a ring of slots in one block, aligned for vectors.
final class HistoryStorage: @unchecked Sendable {
    // Unchecked, because a session owns it alone or copies it before it writes.

    private static let alignment = 64
    private let slotBytes: Int
    let slotCount: Int
    private let block: UnsafeMutableRawPointer

    init(slotCount: Int, elementCount: Int, elementType: ElementType) {
        let bytes = elementCount * elementType.size
        slotBytes = (bytes + Self.alignment - 1) / Self.alignment * Self.alignment
        self.slotCount = slotCount
        block = .allocate(byteCount: max(slotBytes * slotCount, 1), alignment: Self.alignment)
    }

    private init(copying other: HistoryStorage) {
        slotBytes = other.slotBytes
        slotCount = other.slotCount
        block = .allocate(byteCount: max(slotBytes * slotCount, 1), alignment: Self.alignment)
        block.copyMemory(from: other.block, byteCount: slotBytes * slotCount)
    }

    deinit { block.deallocate() }

    func copy() -> HistoryStorage { HistoryStorage(copying: self) }

    func slot(_ index: Int) -> UnsafeMutableRawPointer { block + index * slotBytes }
}
