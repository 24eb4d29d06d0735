// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// A Mersenne twister and the normal left over from its last pair, in the C core's own form.
final class NormalGenerator: @unchecked Sendable {
    // Unchecked, because a noise source owns it alone or copies it before it draws.

    private let generator: UnsafeMutablePointer<dsk_normal_generator>

    init(seed: UInt32) {
        generator = .allocate(capacity: 1)
        dsk_normal_generator_seed(generator, seed)
    }

    /// - Precondition: the state is valid.
    init(_ state: MersenneTwisterState) {
        generator = .allocate(capacity: 1)
        // Seeding fills the memory without copying C's array, which is a tuple of 624 words in Swift.
        dsk_normal_generator_seed(generator, 0)
        withWords { words in
            for (index, word) in state.words.enumerated() { words[index] = word }
        }
        generator.pointee.words.next = UInt32(state.drawnWordCount)
        generator.pointee.has_spare = state.spareNormal == nil ? 0 : 1
        generator.pointee.spare = state.spareNormal ?? 0
    }

    private init(copying other: NormalGenerator) {
        generator = .allocate(capacity: 1)
        generator.initialize(from: other.generator, count: 1)
    }

    deinit { generator.deallocate() }

    func copy() -> NormalGenerator { NormalGenerator(copying: self) }

    var state: MersenneTwisterState {
        MersenneTwisterState(
            checkedWords: withWords { Array($0) }, drawnWordCount: Int(generator.pointee.words.next),
            spareNormal: generator.pointee.has_spare == 0 ? nil : generator.pointee.spare)
    }

    private func withWords<Result>(_ body: (UnsafeMutableBufferPointer<UInt32>) -> Result) -> Result {
        withUnsafeMutableBytes(of: &generator.pointee.words.words) { body($0.bindMemory(to: UInt32.self)) }
    }

    func fillAsTorch(_ values: inout MutableSpan<Float>, maximumThreads: Int) {
        let count = values.count
        values.withUnsafeMutableBufferPointer {
            mustSucceed(dsk_torch_normal_float32(generator, count, $0.baseAddress, UInt32(clamping: maximumThreads)))
        }
    }

    func fillAsTorch(_ values: inout MutableSpan<Double>, maximumThreads: Int) {
        let count = values.count
        values.withUnsafeMutableBufferPointer {
            mustSucceed(dsk_torch_normal_float64(generator, count, $0.baseAddress, UInt32(clamping: maximumThreads)))
        }
    }

    func fillAsNumPy(_ values: inout MutableSpan<Float>) {
        let count = values.count
        values.withUnsafeMutableBufferPointer { mustSucceed(dsk_numpy_normal_float32(generator, count, $0.baseAddress)) }
    }

    func fillAsNumPy(_ values: inout MutableSpan<Double>) {
        let count = values.count
        values.withUnsafeMutableBufferPointer { mustSucceed(dsk_numpy_normal_float64(generator, count, $0.baseAddress)) }
    }
}

extension Kernels {
    /// The most elements of one fill as torch on CUDA.
    static var maximumCUDANoiseCount: Int { 1 << 29 }

    /// Fills with the normals of torch on CUDA and returns the generator's offset after them.
    static func fillAsTorchCUDA(
        _ values: inout MutableSpan<Float>, seed: UInt64, offset: UInt64, maximumBlocks: Int, maximumThreads: Int
    ) -> UInt64 {
        var generator = dsk_torch_cuda_generator(seed: seed, offset: offset, max_blocks: UInt32(clamping: maximumBlocks))
        let count = values.count
        values.withUnsafeMutableBufferPointer {
            mustSucceed(dsk_torch_cuda_normal_float32(&generator, count, $0.baseAddress, UInt32(clamping: maximumThreads)))
        }
        return generator.offset
    }
}

/// The core refuses NULL or misaligned addresses and counts beyond the address space, which no span has, and generators that the
/// noise sources don't make.
private func mustSucceed(_ status: dsk_status) {
    precondition(status == DSK_OK, String(cString: dsk_status_message(status)))
}
