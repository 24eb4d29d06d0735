// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// The objects of one kind behind C's handles.
///
/// A handle is a slot's index, its kind and its generation: bits 0–27, 28–31 and 32–63. Slots are made in blocks and never freed,
/// so that a handle can be checked without a lock. A slot's generation is odd while the slot is in
/// use; it advances when the slot is taken and when it is freed. Only these two operations take the lock.
final class HandleTable<Value>: @unchecked Sendable {
    // Unchecked, because slots are found through atomics, and their values are Sendable or used by one thread at a time.

    private struct Slot: ~Copyable {
        let generation = Atomic<UInt32>(0)
        var value: UnsafeMutablePointer<Value>?
    }

    private static var blockSize: Int { 1024 }
    private static var blockCount: Int { 4096 }

    let kind: String
    private let kindNumber: UInt64
    private let blocks: UnsafeMutablePointer<Atomic<UnsafeMutableRawPointer?>>
    private let free = Mutex<(slots: [UInt32], made: UInt32)>(([], 0))

    init(kind: String, number: UInt64) {
        self.kind = kind
        kindNumber = number
        blocks = .allocate(capacity: Self.blockCount)
        for index in 0..<Self.blockCount { (blocks + index).initialize(to: Atomic(nil)) }
    }

    /// The value behind a handle.
    @inline(__always)
    func value(of handle: UInt64) throws -> UnsafeMutablePointer<Value> {
        guard let slot = slot(of: handle),
            slot.pointee.generation.load(ordering: .acquiring) == UInt32(truncatingIfNeeded: handle >> 32),
            let value = slot.pointee.value
        else { throw CallError.invalidHandle(handle, kind: kind) }
        return value
    }

    /// Stores a value and returns its handle.
    func insert(_ value: Value) throws -> UInt64 {
        try free.withLock { free in
            guard let index = free.slots.popLast() ?? makeSlot(&free.made) else {
                throw CallError.tooManyHandles(kind: kind)
            }
            let slot = slot(at: Int(index))!
            let pointer = UnsafeMutablePointer<Value>.allocate(capacity: 1)
            pointer.initialize(to: value)
            slot.pointee.value = pointer
            let generation = slot.pointee.generation.wrappingAdd(1, ordering: .releasing).newValue
            return UInt64(generation) << 32 | kindNumber << 28 | UInt64(index)
        }
    }

    /// Destroys the value behind a handle.
    func remove(_ handle: UInt64) throws {
        let value = try value(of: handle)
        let generation = UInt32(truncatingIfNeeded: handle >> 32)
        // If two threads free the same handle, only the first succeeds.
        guard let slot = slot(of: handle),
            slot.pointee.generation.compareExchange(
                expected: generation, desired: generation &+ 1, ordering: .acquiringAndReleasing
            ).exchanged
        else { throw CallError.invalidHandle(handle, kind: kind) }
        slot.pointee.value = nil
        value.deinitialize(count: 1)
        value.deallocate()
        free.withLock { $0.slots.append(UInt32(handle & 0x0FFF_FFFF)) }
    }

    @inline(__always)
    private func slot(of handle: UInt64) -> UnsafeMutablePointer<Slot>? {
        // Free slots have even generations; so does the zero handle.
        guard handle >> 28 & 0xF == kindNumber, handle >> 32 & 1 == 1 else { return nil }
        return slot(at: Int(handle & 0x0FFF_FFFF))
    }

    @inline(__always)
    private func slot(at index: Int) -> UnsafeMutablePointer<Slot>? {
        guard index < Self.blockCount * Self.blockSize else { return nil }
        let block = (blocks + index / Self.blockSize).pointee.load(ordering: .acquiring)
        return block.map { $0.assumingMemoryBound(to: Slot.self) + index % Self.blockSize }
    }

    private func makeSlot(_ made: inout UInt32) -> UInt32? {
        guard made < Self.blockCount * Self.blockSize else { return nil }
        if Int(made) % Self.blockSize == 0 {
            let block = UnsafeMutablePointer<Slot>.allocate(capacity: Self.blockSize)
            for index in 0..<Self.blockSize { (block + index).initialize(to: Slot(value: nil)) }
            (blocks + Int(made) / Self.blockSize).pointee.store(UnsafeMutableRawPointer(block), ordering: .releasing)
        }
        made += 1
        return made - 1
    }
}
