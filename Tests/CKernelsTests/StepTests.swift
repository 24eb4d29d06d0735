// SPDX-License-Identifier: Apache-2.0

import CKernels
import Foundation
import TestDraws
import Testing

/// dsk_step has the plain oracle's bits for every row, instruction set, number of threads, size and alignment.
extension KernelTests {
    @Suite struct StepTests {
        /// Sizes below, at and above a tile of every instruction set, and around the limits that the tests below set.
        static let sizes = [0, 1, 2, 63, 64, 65, 255, 256, 257, 299, 300, 301, 1000]

        @Test(arguments: ElementKind.allCases)
        func randomRows(kind: ElementKind) throws {
            var random = Random("randomRows \(kind)")
            for _ in 0..<TestDraws.count(150) { try checkRandomRow(of: kind.type, &random) }
        }

        private func checkRandomRow<T: Element>(of _: T.Type, _ random: inout Random) throws {
            let row = random.row(zeroPercent: [10, 30, 70][random.below(3)])
            let threshold = abs(random.double())
            let wanted = random.wantedOutputs()
            let isWild = random.chance(25)
            let inputs: [[T]] = (0..<Row.inputCount).map {
                guard row.reads($0, wanted: wanted) else { return [] }
                return isWild ? random.wildValues(1000) : random.values(1000)
            }
            let usable = inputs.map { $0.isEmpty ? [T](repeating: 0, count: 1000) : $0 }
            let expected = plainStep(row, inputs: usable, threshold: threshold, count: 1000)

            let inputTensors = inputs.map { $0.isEmpty ? nil : Tensor($0, offset: random.offset()) }
            let outputTensors = wanted.map { $0 ? Tensor<T>(count: 1000, offset: random.offset()) : nil }
            let call = Call(row, inputs: inputTensors, outputs: outputTensors, count: 0, threshold: threshold)
            let streamingBytes = 300 * MemoryLayout<T>.stride * row.streamCount(wanted: wanted)

            try forEachISA { isa in
                let calls = Self.sizes.flatMap { size in
                    product([size], size >= 256 ? threadCounts : [UInt32(random.below(3))])
                }
                for (size, threads) in calls {
                    outputTensors.forEach { $0?.reset() }
                    call.setCount(size)
                    let context = {
                        "\(row) with outputs \(wanted), threshold \(threshold), \(size) elements, ISA "
                            + "\(isa.rawValue), \(threads) threads"
                    }
                    let status = withLimits(parallelElements: 256, streamingBytes: streamingBytes) {
                        call.step(threads: threads)
                    }
                    try require(status, context())
                    for (k, tensor) in outputTensors.enumerated() {
                        try require(
                            noProblem: tensor?.problem(expecting: expected[k], prefix: size), "output \(k) of \(context())")
                    }
                }
            }
            for (input, tensor) in inputTensors.enumerated() {
                try require(noProblem: tensor?.problem(expecting: inputs[input]), "input \(input) of \(row)")
            }
        }

        /// Two or three sums, each of any of the same two to six tensors; some are copies, and some read p.
        @Test(arguments: ElementKind.allCases)
        func sumsOfDifferentTensors(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("sumsOfDifferentTensors \(kind)")
                let count = 200
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let tensors = inputs.map { Tensor($0, offset: random.offset()) }
                for draw in 0..<TestDraws.count(300) {
                    let termCount = 2 + draw % 5, sumCount = 2 + draw % 2
                    var row = Row()
                    (row.prediction[0], row.prediction[1]) = (1.25, -0.5)
                    for (k, term) in product(0..<sumCount, 0..<termCount) where random.chance(60) {
                        row.outputs[k][[0, 1, 3, 4, 5, 6][term]] = random.coefficient(zeroPercent: 0)
                    }
                    if random.chance(25) {
                        row.outputs[random.below(sumCount)][Row.termCount - 1] = random.coefficient(zeroPercent: 0)
                    }
                    let wanted = (0..<Row.outputCount).map { $0 < sumCount }
                    let expected = plainStep(row, inputs: inputs, threshold: 1, count: count)
                    let outputs = wanted.map { $0 ? Tensor<T>(count: count, offset: random.offset()) : nil }
                    let call = Call(
                        row, inputs: tensors.enumerated().map { row.reads($0, wanted: wanted) ? $1 : nil }, outputs: outputs,
                        count: count, threshold: 1)
                    try forEachISA { isa in
                        outputs.forEach { $0?.reset() }
                        let context = { "\(row), ISA \(isa.rawValue)" }
                        try require(call.step(), context())
                        for (k, output) in outputs.enumerated() {
                            try require(noProblem: output?.problem(expecting: expected[k]), "output \(k) of \(context())")
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// All 2048 choices of the terms of one output, each with a clamp, a place for the output and terms of p that its number
        /// selects.
        @Test(arguments: ElementKind.allCases)
        func everySubsetOfTerms(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("everySubsetOfTerms \(kind)")
                let count = 67  // a tile of any type on any instruction set, and some
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let tensors = inputs.map { Tensor($0, offset: random.offset()) }
                for subset in stride(from: 0, to: 1 << Row.termCount, by: TestDraws.step) {
                    var row = random.row(zeroPercent: 25)
                    let k = subset % Row.outputCount
                    for term in 0..<Row.termCount {
                        let coefficient = subset >> term & 1 == 1 ? random.coefficient(zeroPercent: 0) : 0
                        row.outputs[k][term] = coefficient
                    }
                    let wanted = (0..<Row.outputCount).map { $0 == k }
                    let threshold = abs(random.double())
                    let expected = plainStep(row, inputs: inputs, threshold: threshold, count: count)
                    let output = Tensor<T>(count: count, offset: random.offset())
                    // The call gets only the tensors that are read.
                    let call = Call(
                        row, inputs: tensors.enumerated().map { row.reads($0, wanted: wanted) ? $1 : nil },
                        outputs: wanted.map { $0 ? output : nil }, count: count, threshold: threshold)
                    try forEachISA { isa in
                        output.reset()
                        let context = { "terms \(String(subset, radix: 2)) of \(row), ISA \(isa.rawValue)" }
                        try require(call.step(), context())
                        try require(noProblem: output.problem(expecting: expected[k]), context())
                    }
                }
            }
            try check(kind.type)
        }

        /// Rows of the forms that solvers use, which have loops of their own: one to six terms, and a second output that is a copy,
        /// or combines the same first two tensors, others, more, or a clamped p; in separate memory, and over the first and the
        /// last tensor.
        @Test(arguments: ElementKind.allCases)
        func usualRows(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("usualRows \(kind)")
                let sizes = [1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200]
                let seconds: [[Int: Double]?] = [
                    nil, [1: 1], [0: 1.5, 1: -0.3], [0: 1, 1: 1], [1: 0.7, 2: 0.2], [1: -1], [0: 1, 1: 2, 2: 3],
                ]
                for (termCount, second, isInPlace) in product(1...6, seconds + [nil, nil], [false, true])
                where (second?.keys.max() ?? 0) < termCount {
                    let usual = UsualRow(termCount: termCount, second: second, random: &random)
                    try usual.check(T.self, sizes: sizes, isInPlace: isInPlace, random: &random)
                }
            }
            try check(kind.type)
        }

        private struct UsualRow {
            var row = Row()
            /// The tensors of the first output. They aren't always the first ones, and sometimes leave gaps.
            let terms: [Int]
            var threshold = 1.0
            var hasSecond: Bool

            /// - Parameter second: the second output's coefficients of the first one's terms; nil: none, or p.
            init(termCount: Int, second: [Int: Double]?, random: inout Random) {
                terms = (0..<Row.inputCount).shuffled(using: &random).prefix(termCount).sorted()
                for term in terms { row.outputs[0][term] = random.coefficient(zeroPercent: 0) }
                for (j, coefficient) in second ?? [:] { row.outputs[1][terms[j]] = coefficient }
                hasSecond = second != nil
                if second == nil && random.chance(60) { addPrediction(&random) }
            }

            private mutating func addPrediction(_ random: inout Random) {
                for term in (0..<Row.predictionInputCount).shuffled(using: &random).prefix(2) {
                    row.prediction[term] = random.coefficient(zeroPercent: 0)
                }
                row.outputs[0][Row.predictionTerm] = random.coefficient(zeroPercent: 0)
                (row.clamp, row.clampRange) = (DSK_CLAMP_RANGE, abs(random.double()))
                if random.chance(50) { (row.clamp, threshold) = (DSK_CLAMP_THRESHOLD, abs(random.double())) }
                // The second output: none, p itself, or p and one tensor.
                let form = random.below(3)
                hasSecond = form > 0
                if form > 0 { row.outputs[1][Row.predictionTerm] = form == 1 ? 1 : random.coefficient(zeroPercent: 0) }
                if form > 1 { row.outputs[1][terms[0]] = random.coefficient(zeroPercent: 0) }
            }

            func check<T: Element>(_: T.Type, sizes: [Int], isInPlace: Bool, random: inout Random) throws {
                let count = sizes.max()!
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in
                    random.chance(20) ? random.wildValues(count) : random.values(count)
                }
                let expected = plainStep(row, inputs: inputs, threshold: threshold, count: count)
                let tensors = inputs.map { Tensor($0, offset: random.offset()) }
                let own = (0..<2).map { _ in Tensor<T>(count: count, offset: random.offset()) }
                let isApart = !isInPlace || terms.count == 1
                let outputs = [isInPlace ? tensors[terms[0]] : own[0], isApart ? own[1] : tensors[terms.last!]]
                let wanted: [Tensor<T>?] = hasSecond ? outputs : [outputs[0]]
                try forEachISA { isa in
                    for (streamingBytes, size) in product([Int.max, 0], sizes) {
                        for (tensor, values) in zip(tensors, inputs) {
                            tensor.reset()
                            tensor.set(Array(values.prefix(size)))
                        }
                        own.forEach { $0.reset() }
                        let call = Call(row, inputs: tensors, outputs: wanted, count: size, threshold: threshold)
                        let context = {
                            "\(row), \(isInPlace ? "in place" : "apart"), \(size) elements, ISA \(isa.rawValue), "
                                + "streaming from \(streamingBytes)"
                        }
                        let status = withLimits(parallelElements: .max, streamingBytes: streamingBytes) { call.step() }
                        try require(status, context())
                        for (k, tensor) in wanted.enumerated() {
                            try require(
                                noProblem: tensor?.problem(expecting: expected[k], prefix: size), "output \(k) of \(context())")
                        }
                    }
                }
            }
        }

        /// Every offset from a 64-byte boundary for the input and the output, streamed or not: the loop that peels a streamed
        /// output's head must not depend on luck.
        @Test(arguments: ElementKind.allCases)
        func misalignedStarts(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("misalignedStarts \(kind)")
                let count = 200
                var row = random.row(zeroPercent: 0)
                row.outputs[0] = [0.3, 0.7] + [Double](repeating: 0, count: Row.termCount - 2)
                row.outputs[1] = [1.1] + [Double](repeating: 0, count: Row.termCount - 1)
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let expected = plainStep(row, inputs: inputs, threshold: 1, count: count)
                try forEachISA(and: product([0, Int.max], 0...17)) { isa, setting in
                    let (streamingBytes, offset) = setting
                    let x = Tensor(inputs[0], offset: random.offset()), e = Tensor(inputs[1], offset: offset)
                    for secondOffset in [0, 1, offset, 16, 17] {
                        let outputs = [offset, secondOffset].map { Tensor<T>(count: count, offset: $0) } + [nil]
                        let call = Call(row, inputs: [x, e], outputs: outputs, count: count, threshold: 1)
                        let context = {
                            "outputs at \(offset) and \(secondOffset), ISA \(isa.rawValue), streaming from \(streamingBytes)"
                        }
                        let status = withLimits(parallelElements: .max, streamingBytes: streamingBytes) { call.step() }
                        try require(status, context())
                        for k in 0...1 {
                            let problem = outputs[k]!.problem(expecting: expected[k])
                            try require(noProblem: problem, "output \(k), \(context())")
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// Chunks are cut from the whole call: they begin and end inside items, and items may be empty or shorter than a chunk.
        @Test(arguments: ElementKind.allCases)
        func severalItems(kind: ElementKind) throws {
            var random = Random("severalItems \(kind)")
            for itemCount in [0, 1, 2, 3, 5, 8, 40] { try checkStep(of: kind.type, itemCount: itemCount, &random) }
        }

        private func checkStep<T: Element>(of _: T.Type, itemCount: Int, _ random: inout Random) throws {
            let call = Call<T>()
            var cases: [(row: Row, outputs: [Tensor<T>?], expected: [[T]])] = []
            for _ in 0..<itemCount {
                let count = itemCount == 40 ? random.below(30) : [0, 1, 7, 64, 100, 129, 333][random.below(7)]
                let row = random.row(), wanted = random.wantedOutputs(), threshold = abs(random.double())
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let outputs = wanted.map { $0 ? Tensor<T>(count: count, offset: random.offset()) : nil }
                call.add(
                    row, inputs: inputs.map { Tensor($0, offset: random.offset()) }, outputs: outputs, count: count,
                    threshold: threshold)
                cases.append((row, outputs, plainStep(row, inputs: inputs, threshold: threshold, count: count)))
            }
            try forEachISA(and: product(threadCounts, [0, Int.max])) { isa, setting in
                let (threads, streamingBytes) = setting
                cases.forEach { $0.outputs.forEach { $0?.reset() } }
                let context = { "\(itemCount) items, ISA \(isa.rawValue), \(threads) threads, \(streamingBytes)" }
                let status = withLimits(parallelElements: 100, streamingBytes: streamingBytes) {
                    call.step(threads: threads)
                }
                try require(status, context())
                for (i, item) in cases.enumerated() {
                    for (k, tensor) in item.outputs.enumerated() {
                        try require(
                            noProblem: tensor?.problem(expecting: item.expected[k]),
                            "item \(i), output \(k), \(item.row), \(context())")
                    }
                }
            }
        }

        /// The limits as they ship. The data are periodic, so the oracle computes only one period; no power of two is a multiple of
        /// the period, so a misplaced element shows.
        @Test(arguments: [false, true])
        func defaultLimits(streaming: Bool) throws {
            var random = Random("defaultLimits \(streaming)")
            let limits = dsk_get_limits()
            let row = random.row(zeroPercent: 0)
            let wanted = [true, true, true]
            let bytesPerElement = row.streamCount(wanted: wanted) * MemoryLayout<Double>.stride
            let limit = streaming ? (limits.streaming_bytes + bytesPerElement - 1) / bytesPerElement : limits.parallel_elements

            let period = 1021
            let inputs: [[Double]] = (0..<Row.inputCount).map { _ in random.values(period) }
            let expected = plainStep(row, inputs: inputs, threshold: 0.7, count: period)
            func repeated(_ values: [Double]) -> [Double] {
                [Double](unsafeUninitializedCapacity: limit + 1) { buffer, initializedCount in
                    for start in stride(from: 0, to: limit + 1, by: period) {
                        let length = min(period, limit + 1 - start)
                        memcpy(buffer.baseAddress! + start, values, length * MemoryLayout<Double>.stride)
                    }
                    initializedCount = limit + 1
                }
            }
            let tensors = inputs.map { Tensor(repeated($0), offset: random.offset()) }
            let outputs = wanted.map { _ in Tensor<Double>(count: limit + 1, offset: random.offset()) }
            let call = Call(row, inputs: tensors, outputs: outputs, count: 0, threshold: 0.7)
            let repeatedExpected = expected.map(repeated)
            for size in [limit - 1, limit, limit + 1] {
                for threads: UInt32 in [0, 1] {
                    outputs.forEach { $0.reset() }
                    call.setCount(size)
                    try require(call.step(threads: threads), "\(size) elements")
                    for k in 0..<Row.outputCount {
                        try require(
                            noProblem: outputs[k].problem(expecting: repeatedExpected[k], prefix: size),
                            "output \(k) of \(row), \(size) elements, \(threads) threads")
                    }
                }
            }
        }

        /// The bound that CKernels.h states, and its composition over p.
        @Test(arguments: ElementKind.allCases)
        func forwardError(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("forwardError \(kind)")
                for _ in 0..<TestDraws.count(150) {
                    var row = random.row(zeroPercent: 20)
                    let threshold = abs(random.double())
                    if random.chance(30) { row.outputs[0][Row.predictionTerm] = 0 }  // the header's statement as it stands
                    let count = 70
                    let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                    let outputs = (0..<Row.outputCount).map { _ in Tensor<T>(count: count) }
                    let call = Call(row, inputs: inputs.map { Tensor($0) }, outputs: outputs, count: count, threshold: threshold)
                    try require(call.step(), "\(row)")
                    let widened = inputs.map { $0.map(\.widened) }
                    for i in 0..<count {
                        let exact = exactStep(
                            row, inputs: widened, threshold: threshold, at: i, Arithmetic([kind]),
                            outputs: Array(repeating: kind, count: Row.outputCount))
                        for (k, exact) in exact.enumerated() {
                            let error = abs(outputs[k].pointer[i].widened - exact.exact)
                            let isWithin = error <= exact.bound
                            try require(
                                noProblem: isWithin ? nil : "error \(error) exceeds the bound \(exact.bound)",
                                "element \(i) of output \(k), \(row), threshold \(threshold)")
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// float32 elements are summed in float64 and use 29 bits of each coefficient; float64 elements use all bits; halves are
        /// summed in float32 and use 24 bits.
        @Test func precisionOfTheArithmetic() {
            func difference<T: Element>(_ coefficient: Double, _: T.Type) -> [T] {  // (coefficient - 1) x, long enough for tiles
                var row = Row()
                row.outputs[0] = [coefficient, -1] + [Double](repeating: 0, count: 9)
                let x = Tensor([T](repeating: 1, count: 70)), output = Tensor<T>(count: 70)
                #expect(Call(row, inputs: [x, x], outputs: [output], count: 70).step() == DSK_OK)
                return output.values
            }
            let cases: [(coefficient: Double, expected: Float)] = [
                (0x1.0000001p0, 0x1p-28),  // 29 bits
                (0x1.00000008p0, 0), (0x1.00000018p0, 0x1p-27),  // halfway: to even
                (0x1.00000008001p0, 0x1p-28), (0x1.00000007ffp0, 0), (0x1.0000000000001p0, 0), (0x1.fffffffp-1, -0x1p-29),
            ]
            forEachISA { isa in
                for (coefficient, expected) in cases {
                    let float = difference(coefficient, Float.self), double = difference(coefficient, Double.self)
                    #expect(float == [Float](repeating: expected, count: 70), "\(coefficient), ISA \(isa.rawValue)")
                    #expect(double == [Double](repeating: coefficient - 1, count: 70), "\(coefficient), ISA \(isa.rawValue)")
                }
                for (coefficient, expected) in [(0x1.000002p0, 0x1p-23), (0x1.000001p0, 0), (0x1.000003p0, 0x1p-22)] {
                    let half = difference(coefficient, Brain.self)
                    #expect(half == [Brain](repeating: Brain(expected), count: 70), "\(coefficient), ISA \(isa.rawValue)")
                }
            }
        }

        /// A call without wanted outputs does nothing.
        @Test func noOutputs() {
            let x = Tensor<Float>([1, 2, 3])
            #expect(Call(Row(), inputs: [x], outputs: [], count: 3).step() == DSK_OK)
            #expect(dsk_step(nil, 0, 0) == DSK_OK)
        }

        /// Two lines of school arithmetic: a check that doesn't depend on the oracle.
        @Test func knownAnswer() {
            var row = Row()
            row.prediction = [2, -1, 0, 0]  // p = 2x - e
            row.outputs[0] = [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1]  // x/2 + 3 s6 + p
            row.outputs[2] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]  // p
            row.clamp = DSK_CLAMP_RANGE
            row.clampRange = 4
            let x = Tensor<Float>([1, 2, 8]), e = Tensor<Float>([1, -3, 20]), s6 = Tensor<Float>([10, 20, 30])
            let next = Tensor<Float>(count: 3), p = Tensor<Float>(count: 3)
            let call = Call(
                row, inputs: [x, e, nil, nil, nil, nil, nil, nil, nil, s6], outputs: [next, nil, p], count: 3)
            #expect(call.step() == DSK_OK)
            #expect(p.values == [1, 4, -4])
            #expect(next.values == [31.5, 65, 90])
        }
    }
}
