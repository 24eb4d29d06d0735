// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

// Results in the caller's buffers: reports the size, and writes only results that fit.

/// Writes a text and its terminating zero.
func deliver(
    _ text: String, to buffer: UnsafeMutablePointer<CChar>?, _ capacity: Int, _ length: UnsafeMutablePointer<Int>?
) throws {
    let units = Array(text.utf8)
    guard try hasRoom(for: units.count, behind: 1, in: buffer, capacity, length, "length"), let buffer else { return }
    for (index, unit) in units.enumerated() { buffer[index] = CChar(bitPattern: unit) }
    buffer[units.count] = 0
}

/// Writes numbers.
func deliver(
    _ numbers: some Collection<Double>, to buffer: UnsafeMutablePointer<Double>?, _ capacity: Int,
    _ count: UnsafeMutablePointer<Int>?
) throws {
    guard try hasRoom(for: numbers.count, in: buffer, capacity, count, "count"), let buffer else { return }
    for (index, number) in numbers.enumerated() { buffer[index] = number }
}

/// Reports the size. Throws if the buffer is too small; returns false if only the size was requested.
func hasRoom<Pointer>(
    for size: Int, behind extra: Int = 0, in buffer: Pointer?, _ capacity: Int, _ told: UnsafeMutablePointer<Int>?,
    _ name: StaticString
) throws -> Bool {
    guard capacity != 0 else {
        try require(told, name).pointee = size
        return false
    }
    _ = try require(buffer, "buffer")
    told?.pointee = size
    // C's capacities above Int.max arrive negative.
    if capacity > 0, capacity < size + extra { throw CallError.bufferTooSmall(capacity: capacity, needed: size + extra) }
    return true
}
