// SPDX-License-Identifier: Apache-2.0

import CKernels
import CTestSupport
import Foundation
import Testing

@testable import DiffusionScheduling

/// The noise sources against torch, NumPy, published vectors and plain oracles. The tests run one after the other, because some
/// choose the whole process's instruction set.
@Suite(.serialized) struct NoiseTests {
    static let file = Result { try NoiseGoldens.load() }
    static let instructionSets = [DSK_ISA_BASELINE, DSK_ISA_AVX2, DSK_ISA_AVX512]

    /// Runs `body` with every instruction set of this processor, then restores the best.
    func eachInstructionSet(_ body: (_ name: String) throws -> Void) rethrows {
        defer { dsk_limit_isa(DSK_ISA_AVX512) }
        // The first use finds the instruction set in force, and must come before a test limits it.
        var first = TorchCPUNoise(seed: 0)
        _ = first.normals(1)
        for set in Self.instructionSets where dsk_limit_isa(set) == set { try body("instruction set \(set.rawValue)") }
    }

    func expect(_ values: [Float], _ expected: NoiseGoldens.Result, _ context: @autoclosure () -> String) {
        for (index, value) in zip(expected.indices, expected.values.numbers(Float.self)) {
            #expect(values[index].bitPattern == value.bitPattern, "\(context()), element \(index): \(values[index]), not \(value)")
        }
        #expect(sha256(values) == expected.sha256, "\(context())")
    }

    func expect(_ state: MersenneTwisterState, _ expected: NoiseGoldens.State, _ context: @autoclosure () -> String) {
        #expect(state.drawnWordCount == expected.drawn, "\(context())")
        #expect(sha256(state.words) == expected.wordsSHA256, "\(context())")
        expectNear(
            [state.spareNormal].compactMap { $0 }, [expected.spare].compactMap { $0.flatMap(Double.init) },
            "\(context()), spare normal")
    }

    /// Expects equality up to the differences between C libraries' functions.
    func expectNear(_ values: [Double], _ expected: [Double], _ context: @autoclosure () -> String) {
        #expect(values.count == expected.count, "\(context())")
        for (index, (value, expected)) in zip(values, expected).enumerated() {
            #expect(
                abs(value - expected) <= NoiseTolerance.systemFunctions * expected.ulp,
                "\(context()), element \(index): \(value), not \(expected)")
        }
    }

    // MARK: torch on the CPU

    @Test func torchFillsAreTorchs() throws {
        let fills = try Self.file.get().torchFills
        #expect(fills.count == 55)
        eachInstructionSet { name in
            for fill in fills {
                for threads in [1, 0] {
                    var noise = TorchCPUNoise(seed: fill.seed)
                    var values = [Float](repeating: .nan, count: fill.count)
                    var span = values.mutableSpan
                    noise.fill(&span, maximumThreads: threads)
                    expect(values, fill.result, "seed \(fill.seed), \(fill.count) elements, \(threads) threads, \(name)")
                }
            }
        }
    }

    @Test func torchSequencesAreTorchs() throws {
        for sequence in try Self.file.get().torchSequences {
            var noise = TorchCPUNoise(seed: sequence.seed)
            for (index, call) in sequence.calls.enumerated() {
                let context = "seed \(sequence.seed), call \(index) of \(call.count)"
                if call.type == .float64 {
                    expectNear(noise.doubleNormals(call.count), call.values.numbers(Double.self), context)
                } else {
                    #expect(sha256(noise.normals(call.count)) == call.sha256, "\(context)")
                }
                expect(noise.state, call.state, context)
            }
        }
    }

    @Test func torchStatesGoOn() throws {
        for saved in try Self.file.get().torchStates {
            let state = try MersenneTwisterState(
                words: saved.words.numbers(UInt32.self), drawnWordCount: saved.drawn,
                spareNormal: saved.spare.flatMap(Double.init))
            var noise = TorchCPUNoise(state: state)
            #expect(noise.normals(saved.next.count) == saved.next.values.numbers(Float.self))
        }
    }

    /// Every count up to several blocks, and one that several threads share, against the plain oracle.
    @Test func torchFillsAreThePlainOnes() {
        eachInstructionSet { name in
            for count in Array(16...80) + [623, 624, 625, 8191, 8192, 8193, 40_007] {
                var noise = TorchCPUNoise(seed: UInt64(count))
                var twister = PlainTwister(seed: UInt32(count))
                let values = noise.normals(count)
                let difference = zip(values, plainTorchFill(count, &twister)).enumerated().first {
                    $1.0.bitPattern != $1.1.bitPattern
                }
                #expect(difference == nil, "\(count) elements, \(name)")
            }
        }
    }

    /// All 2²⁴ values of each of the two uniforms.
    @Test func torchTransformIsTorchsForEveryUniform() throws {
        let records = try Self.file.get().torchExhaustive
        #expect(records.count == 2)
        // Tempering is linear: the word for a draw is the exclusive or of the words for its halves.
        let low = (0..<4096).map { untempered(UInt32($0)) }, high = (0..<4096).map { untempered(UInt32($0) << 12) }
        for record in records {
            let (sum, weighted) = torchSums(record, words: low + high)
            #expect(sum == record.sum && weighted == record.weighted)
        }
    }

    /// The sums of the normals' bits, and of these bits times 1, 3, 5, ..., where one uniform runs through all values.
    private func torchSums(_ record: NoiseGoldens.Exhaustive, words halves: [UInt32]) -> (sum: UInt64, weighted: UInt64) {
        let generator = UnsafeMutablePointer<dsk_normal_generator>.allocate(capacity: 1)
        defer { generator.deallocate() }
        dsk_normal_generator_seed(generator, 0)
        // The number of blocks that one state has words for.
        let blocksPerState = 39, blockCount = 1 << 21
        let values = UnsafeMutablePointer<Float>.allocate(capacity: 16 * blocksPerState)
        defer { values.deallocate() }

        var sum: UInt64 = 0, weighted: UInt64 = 0, odd: UInt64 = 1
        withUnsafeMutableBytes(of: &generator.pointee.words.words) { bytes in
            let words = bytes.bindMemory(to: UInt32.self).baseAddress!
            halves.withUnsafeBufferPointer { halves in
                var block = 0
                while block < blockCount {
                    let count = 16 * min(blocksPerState, blockCount - block)
                    var index = 0
                    while index < count {
                        let running = UInt32(8 * (block + index / 16) + index % 8)
                        let draw = (index % 16 < 8 ? record.first : record.second) ?? running
                        words[index] = halves[Int(draw & 4095)] ^ halves[4096 + Int(draw >> 12)]
                        index += 1
                    }
                    generator.pointee.words.next = 0
                    dsk_torch_normal_float32(generator, count, values, 1)
                    index = 0
                    while index < count {
                        let bits = UInt64(values[index].bitPattern)
                        sum &+= bits
                        weighted &+= odd &* bits
                        odd &+= 2
                        index += 1
                    }
                    block += blocksPerState
                }
            }
        }
        return (sum, weighted)
    }

    /// Draws that random seeds rarely reach: a first uniform of 0 makes the radius 0, and the normals 0, not -0.
    @Test func aRadiusOfZeroGivesZero() throws {
        var words = [UInt32](repeating: 0, count: 624)
        for index in 8..<16 { words[index] = 0xffff_ffff / UInt32(index) }
        let state = try MersenneTwisterState(words: words, drawnWordCount: 0)
        eachInstructionSet { name in
            var noise = TorchCPUNoise(state: state)
            let values = noise.normals(16)
            #expect(values.allSatisfy { $0.bitPattern == 0 }, "\(name)")
        }
    }

    @Test func seedsAgreeInTheirLowBits() {
        var first = TorchCPUNoise(seed: 5), second = TorchCPUNoise(seed: 1 << 32 + 5)
        #expect(first == second)
        #expect(first.normals(20) == second.normals(20))
    }

    // MARK: NumPy

    @Test func numpyFillsAreNumPys() throws {
        let fills = try Self.file.get().numpyFills
        #expect(fills.count == 44)
        eachInstructionSet { name in
            for fill in fills {
                var noise = NumPyNoise(seed: UInt32(fill.seed))
                expect(noise.normals(fill.count), fill.result, "seed \(fill.seed), \(fill.count) elements, \(name)")
            }
        }
    }

    @Test func numpySequencesAreNumPys() throws {
        for sequence in try Self.file.get().numpySequences {
            var noise = NumPyNoise(seed: UInt32(sequence.seed))
            for (index, call) in sequence.calls.enumerated() {
                let context = "seed \(sequence.seed), call \(index) of \(call.count)"
                if call.type == .float64 {
                    expectNear(noise.doubleNormals(call.count), call.values.numbers(Double.self), context)
                } else {
                    #expect(sha256(noise.normals(call.count)) == call.sha256, "\(context)")
                }
                expect(noise.state, call.state, context)
            }
        }
    }

    @Test func numpyFillsJoin() {
        var whole = NumPyNoise(seed: 9), parts = NumPyNoise(seed: 9)
        #expect(whole.normals(100) == [1, 0, 33, 2, 64].flatMap { parts.normals($0) })
        #expect(whole == parts)
    }

    // MARK: torch on CUDA

    @Test func philoxIsThePublishedOne() throws {
        let answers = try Self.file.get().philoxKnownAnswers
        #expect(answers.count == 3)
        for answer in answers {
            var out = answer.counter
            out.withUnsafeMutableBufferPointer { dsk_philox4x32_10($0.baseAddress, answer.key, $0.baseAddress) }
            #expect(out == answer.output)
            #expect(plainPhilox(counter: answer.counter, key: answer.key) == answer.output)
        }
    }

    @Test func philoxIsTorchs() throws {
        for record in try Self.file.get().philoxWords {
            let key = [UInt32(truncatingIfNeeded: record.seed), UInt32(truncatingIfNeeded: record.seed >> 32)]
            for (index, word) in record.words.numbers(UInt32.self).enumerated() {
                let counter = record.block + UInt64(index / 4)
                var out = [UInt32](repeating: 0, count: 4)
                dsk_philox4x32_10([UInt32(truncatingIfNeeded: counter), UInt32(counter >> 32), 0, 0], key, &out)
                #expect(out[index % 4] == word, "seed \(record.seed), block \(record.block), word \(index)")
            }
        }
    }

    /// Part of a vector, of a block and of a round; several rounds; a counter that needs its second word.
    @Test(
        arguments: [
            (seed: 0, offset: 0, blocks: 864, count: 1), (1, 4, 864, 15), (2, 0, 864, 17), (3, 8, 864, 4097), (4, 0, 864, 16_384),
            (5, 0, 1, 256), (6, 0, 1, 257), (7, 0, 1, 1023), (8, 0, 1, 1024), (9, 0, 1, 1025), (10, 0, 3, 10_007),
            (1 << 40 + 7, 4 * (1 << 32 - 2), 1, 5000), (.max, 1 << 60, 2, 2000),
        ] as [(seed: UInt64, offset: UInt64, blocks: Int, count: Int)])
    func cudaNormalsAreTheFormulas(seed: UInt64, offset: UInt64, blocks: Int, count: Int) {
        let device = CUDADevice(multiprocessorCount: blocks, threadsPerMultiprocessor: 256)
        var reference: [Float]?
        eachInstructionSet { name in
            for threads in [1, 0] {
                var noise = TorchCUDANoise(seed: seed, offset: offset, device: device)
                var values = [Float](repeating: .nan, count: count)
                var span = values.mutableSpan
                noise.fill(&span, maximumThreads: threads)
                let perRound = 1024 * min((count + 255) / 256, blocks)
                #expect(noise.offset == offset + 4 * UInt64((count + perRound - 1) / perRound))
                if let reference {
                    #expect(values == reference, "\(threads) threads, \(name)")
                    continue
                }
                reference = values
                for (index, value) in values.enumerated() {
                    let exact = plainCUDANormal(index, of: count, seed: seed, offset: offset, maximumBlocks: blocks).normal
                    let error = abs(Double(value) - exact) / Double(Float(exact).ulp)
                    #expect(error <= NoiseTolerance.formula, "element \(index): \(value), not \(exact), \(name)")
                }
            }
        }
    }

    @Test func cudaNormalsAreThePublishedOnes() throws {
        let records = try Self.file.get().cudaPublished
        #expect(records.map(\.values.count).reduce(0, +) >= 230)
        for record in records {
            let blocks = record.maxBlocks ?? CUDADevice.a100.maximumBlocks
            var noise = TorchCUDANoise(
                seed: record.seed, device: CUDADevice(multiprocessorCount: blocks, threadsPerMultiprocessor: 256))
            for count in record.earlier { _ = noise.normals(count) }
            let offset = noise.offset
            let values = noise.normals(record.count)
            for (index, published) in zip(record.indices, record.values) {
                let (mean, std) = (record.mean ?? 0, record.std ?? 1)
                let value = Double(values[index]) * std + mean
                let radius = plainCUDANormal(
                    index, of: record.count, seed: record.seed, offset: offset, maximumBlocks: blocks
                ).radius
                var allowed = NoiseTolerance.device * radius * std
                if let digits = record.digits { allowed += 0.5 * pow(10, Double(-digits)) }
                #expect(abs(value - published) <= allowed, "\(record.source), element \(index): \(value), not \(published)")
            }
        }
    }

    @Test func smallTensorsAreTheSameOnEveryDevice() {
        for count in [1, 4 * 64 * 64, 108 * 8 * 256] {
            var first = TorchCUDANoise(seed: 3), second = TorchCUDANoise(seed: 3, device: .h100)
            #expect(first.normals(count) == second.normals(count))
            #expect(first.offset == second.offset)
        }
        var first = TorchCUDANoise(seed: 3), second = TorchCUDANoise(seed: 3, device: .h100)
        #expect(first.normals(108 * 8 * 256 + 1) != second.normals(108 * 8 * 256 + 1))
    }

    @Test func anEmptyFillChangesNothing() {
        var cuda = TorchCUDANoise(seed: 1), cpu = TorchCPUNoise(seed: 1), numpy = NumPyNoise(seed: 1)
        #expect(cuda.normals(0).isEmpty && cpu.normals(0).isEmpty && numpy.normals(0).isEmpty)
        #expect(cuda == TorchCUDANoise(seed: 1) && cpu == TorchCPUNoise(seed: 1) && numpy == NumPyNoise(seed: 1))
    }

    // MARK: State

    /// A source saved, restored or copied in the middle continues like the original, and independently of it.
    func expectItsPlaceIsKept<Source: NormalSource & Codable & Equatable>(_ source: Source) throws {
        for before in [0, 1, 3, 16, 700] {
            var original = source
            _ = original.normals(before)
            let data = try JSONEncoder().encode(original)
            #expect(data.count < 5200)
            var restored = try JSONDecoder().decode(Source.self, from: data)
            var copy = original
            #expect(restored == original && copy == original)
            let next = original.normals(37)
            #expect(copy != original)
            #expect(restored.normals(37) == next)
            #expect(copy.normals(37) == next)
            #expect(restored == original && copy == original)
        }
    }

    @Test func placesAreKept() throws {
        try expectItsPlaceIsKept(TorchCPUNoise(seed: 11))
        try expectItsPlaceIsKept(NumPyNoise(seed: 11))
        try expectItsPlaceIsKept(TorchCUDANoise(seed: 11, offset: 8, device: .rtx4090))
    }

    @Test func badStatesAreRefused() throws {
        let words = [UInt32](repeating: 1, count: 624)
        #expect(throws: SchedulerError.invalidValue(key: "words", value: "623 words", allowed: "624 words")) {
            try MersenneTwisterState(words: Array(words.dropLast()), drawnWordCount: 0)
        }
        for drawn in [-1, 625] {
            #expect(throws: SchedulerError.invalidValue(key: "drawnWordCount", value: "\(drawn)", allowed: "from 0 to 624")) {
                try MersenneTwisterState(words: words, drawnWordCount: drawn)
            }
        }
        #expect(throws: SchedulerError.invalidValue(key: "spareNormal", value: "nan", allowed: "from -16 to 16")) {
            try MersenneTwisterState(words: words, drawnWordCount: 0, spareNormal: .nan)
        }

        let digits = String(repeating: "0000000f", count: 624)
        func decodes(_ words: String, drawn: Int = 0) -> Bool {
            let json = Data(#"{"words": "\#(words)", "drawnWordCount": \#(drawn)}"#.utf8)
            return (try? JSONDecoder().decode(NumPyNoise.self, from: json)) != nil
        }
        #expect(decodes(digits))
        #expect(!decodes(digits, drawn: 625))
        #expect(!decodes(String(digits.dropLast())))
        #expect(!decodes(digits + "0"))
        #expect(!decodes("+" + digits.dropFirst()))
        #expect(!decodes("g" + digits.dropFirst()))
        #expect(!decodes(""))

        func decodesCUDA(_ offset: Int, _ multiprocessors: Int) -> Bool {
            let device = #"{"multiprocessorCount": \#(multiprocessors), "threadsPerMultiprocessor": 2048}"#
            let json = Data(#"{"seed": 1, "offset": \#(offset), "device": \#(device)}"#.utf8)
            return (try? JSONDecoder().decode(TorchCUDANoise.self, from: json)) != nil
        }
        #expect(decodesCUDA(4, 108))
        #expect(!decodesCUDA(3, 108))
        #expect(!decodesCUDA(4, 0))
    }

    // MARK: The C functions alone

    @Test func theTwisterIsThePublishedOne() {
        // ISO C++, [rand.predef]: the 10,000th number of std::mt19937, whose default seed is 5489.
        var generator = dsk_mt19937()
        dsk_mt19937_seed(&generator, 5489)
        var plain = PlainTwister(seed: 5489)
        var last: UInt32 = 0
        for _ in 0..<10_000 {
            last = dsk_mt19937_next(&generator)
            #expect(last == plain.next())
        }
        #expect(last == 4_123_659_995)
    }

    @Test func badArgumentsAreRefused() {
        var cuda = dsk_torch_cuda_generator(seed: 1, offset: 0, max_blocks: 8)
        var out: Float = .nan
        #expect(dsk_torch_cuda_normal_float32(nil, 1, &out, 0) == DSK_NULL_POINTER)
        #expect(dsk_torch_cuda_normal_float32(&cuda, 1, nil, 0) == DSK_NULL_POINTER)
        #expect(dsk_torch_cuda_normal_float32(&cuda, 0, nil, 0) == DSK_OK)
        #expect(dsk_torch_cuda_normal_float32(&cuda, 1 << 29 + 1, &out, 0) == DSK_TOO_LARGE)
        cuda.offset = 2
        #expect(dsk_torch_cuda_normal_float32(&cuda, 1, &out, 0) == DSK_OUT_OF_RANGE)
        cuda = dsk_torch_cuda_generator(seed: 1, offset: 0, max_blocks: 0)
        #expect(dsk_torch_cuda_normal_float32(&cuda, 1, &out, 0) == DSK_OUT_OF_RANGE)
        #expect(cuda.offset == 0 && out.isNaN)

        let generator = UnsafeMutablePointer<dsk_normal_generator>.allocate(capacity: 1)
        defer { generator.deallocate() }
        dsk_normal_generator_seed(generator, 1)
        #expect(dsk_torch_normal_float32(nil, 1, &out, 0) == DSK_NULL_POINTER)
        #expect(dsk_torch_normal_float32(generator, 1, nil, 0) == DSK_NULL_POINTER)
        #expect(dsk_torch_normal_float32(generator, Int.max, &out, 0) == DSK_TOO_LARGE)
        withUnsafeMutableBytes(of: &out) { bytes in
            let odd = UnsafeMutablePointer<Float>(bitPattern: UInt(bitPattern: bytes.baseAddress!) + 1)
            #expect(dsk_torch_normal_float32(generator, 1, odd, 0) == DSK_MISALIGNED)
            #expect(dsk_numpy_normal_float32(generator, 1, odd) == DSK_MISALIGNED)
        }
        #expect(out.isNaN && generator.pointee.words.next == 624)
    }
}
