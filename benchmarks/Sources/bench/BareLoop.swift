// SPDX-License-Identifier: Apache-2.0

import CBareLoop

/// The streams of a bare loop: the bytes that a step reads and writes. Cases and element types with equal streams share a loop.
struct BareStreams: Hashable {
    let inputCount: Int
    let outputCount: Int
    /// Whether outputs take the place of inputs: the first output replaces the first input, the second the last input (a stored
    /// slot replaces the oldest), and the third the input before it.
    let inPlace: Bool
    let bytes: Int
    let threads: Int
}

/// The kind of store for results.
enum Store: String, Codable, CaseIterable {
    case ordinary
    /// Stores that bypass the caches.
    case streaming
}

/// Memory for bare loops of any size and kind.
final class BareMemory {
    private let block: UnsafeMutableRawPointer
    private let bytes: Int
    private static let tensorCount = BARE_MOST_INPUTS + 1

    init(bytes: Int) {
        // A gap of a few lines keeps tensors whose size is a power of two out of the same cache sets.
        self.bytes = (bytes + 63) / 64 * 64 + 4 * 64
        block = .allocate(byteCount: self.bytes * Self.tensorCount, alignment: 64)
        block.initializeMemory(as: Float.self, repeating: 0.5, count: self.bytes / 4 * Self.tensorCount)
    }

    deinit { block.deallocate() }

    func tensor(_ index: Int) -> UnsafeMutablePointer<Float> {
        (block + index * bytes).assumingMemoryBound(to: Float.self)
    }
}

/// A loop with a step's streams and hardly any arithmetic.
final class BareLoop: Contestant {
    private let memory: BareMemory
    private var streams = bare_streams()
    private let threads: UInt32

    init(_ kind: BareStreams, store: Store, memory: BareMemory) {
        self.memory = memory
        threads = UInt32(kind.threads)
        streams.n_inputs = UInt32(kind.inputCount)
        streams.n_outputs = UInt32(kind.outputCount)
        streams.n_floats = kind.bytes / 4
        streams.streaming = store == .streaming
        let lastInput = kind.inputCount - 1
        withUnsafeMutableBytes(of: &streams.inputs) { bytes in
            let inputs = bytes.bindMemory(to: UnsafePointer<Float>?.self)
            for index in 0...lastInput { inputs[index] = UnsafePointer(memory.tensor(index)) }
        }
        streams.outputs.0 = kind.inPlace ? memory.tensor(0) : memory.tensor(kind.inputCount)
        if kind.outputCount > 1 { streams.outputs.1 = memory.tensor(lastInput) }
        if kind.outputCount > 2 { streams.outputs.2 = memory.tensor(lastInput - 1) }
    }

    func run(steps: Int) { for _ in 0..<steps { bare_run(&streams, threads) } }
}
