// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// A scheduler's state, which any number of threads may read while one replaces it. Readers take no lock and never wait.
///
/// A reader is counted while it takes a reference to the current state. A replaced state keeps its own reference until a
/// replacement, this or a later one, has seen a count of 0: every reader that took its address then has a reference.
final class PublishedState: @unchecked Sendable {
    // Unchecked, because of the memory that the reference counts below manage.

    private struct Node: ~Copyable {
        let state: PlannedState
        let references = Atomic<Int>(1)
    }

    private let current: Atomic<UnsafeMutableRawPointer>
    private let readers = Atomic<Int>(0)
    /// Replaced states that still have their own reference.
    private let replaced = Mutex<[UInt]>([])

    init(_ state: PlannedState) { current = Atomic(Self.makeNode(state)) }

    deinit {
        for address in replaced.withLock({ $0 }) { Self.release(UnsafeMutableRawPointer(bitPattern: address)!) }
        Self.release(current.load(ordering: .acquiring))
    }

    /// Calls `body` with the current state.
    @inline(__always)
    func read<Result>(_ body: (borrowing PlannedState) throws -> Result) rethrows -> Result {
        readers.wrappingAdd(1, ordering: .sequentiallyConsistent)
        let address = current.load(ordering: .sequentiallyConsistent)
        let node = address.assumingMemoryBound(to: Node.self)
        node.pointee.references.wrappingAdd(1, ordering: .sequentiallyConsistent)
        readers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        defer { Self.release(address) }
        return try body(node.pointee.state)
    }

    func replace(with state: PlannedState) {
        replaced.withLock { replaced in
            let old = current.exchange(Self.makeNode(state), ordering: .sequentiallyConsistent)
            replaced.append(UInt(bitPattern: old))
            guard readers.load(ordering: .sequentiallyConsistent) == 0 else { return }
            for address in replaced { Self.release(UnsafeMutableRawPointer(bitPattern: address)!) }
            replaced.removeAll()
        }
    }

    private static func makeNode(_ state: PlannedState) -> UnsafeMutableRawPointer {
        let node = UnsafeMutablePointer<Node>.allocate(capacity: 1)
        node.initialize(to: Node(state: state))
        return UnsafeMutableRawPointer(node)
    }

    @inline(__always)
    private static func release(_ address: UnsafeMutableRawPointer) {
        let node = address.assumingMemoryBound(to: Node.self)
        guard node.pointee.references.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
        node.deinitialize(count: 1)
        node.deallocate()
    }
}
