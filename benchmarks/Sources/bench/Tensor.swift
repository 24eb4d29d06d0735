// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Elements at the start of a cache line, like an engine's tensors, or `misalignment` bytes after it.
final class Tensor<Element: BenchmarkElement> {
    private let block: UnsafeMutableRawPointer
    let count: Int
    let elements: UnsafeMutableBufferPointer<Element>

    /// Elements without defined values.
    init(count: Int, misalignment: Int = 0) {
        self.count = count
        block = .allocate(byteCount: count * MemoryLayout<Element>.stride + misalignment, alignment: 64)
        let address = (block + misalignment).bindMemory(to: Element.self, capacity: count)
        elements = UnsafeMutableBufferPointer(start: address, count: count)
        // One write makes the system provide the memory before it is measured.
        memset(block, 0, count * MemoryLayout<Element>.stride + misalignment)
    }

    convenience init(_ values: some Collection<Element>, misalignment: Int = 0) {
        self.init(count: values.count, misalignment: misalignment)
        _ = elements.update(fromContentsOf: values)
    }

    deinit { block.deallocate() }

    var address: UnsafeMutableRawPointer { UnsafeMutableRawPointer(elements.baseAddress!) }

    func copy(from other: Tensor) { memcpy(address, other.address, count * MemoryLayout<Element>.stride) }
}
