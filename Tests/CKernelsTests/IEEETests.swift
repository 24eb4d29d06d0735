// SPDX-License-Identifier: Apache-2.0

import CKernels
import Foundation
import TestDraws
import Testing

/// NaN, infinities, signed zeros, denormals and huge values.
extension KernelTests {
    @Suite struct IEEETests {
        /// Every special value with every other, through sums, products and the three clamps.
        @Test(arguments: ElementKind.allCases)
        func oddValues(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("oddValues \(kind)")
                let odd = T.oddValues
                let x = odd.flatMap { Array(repeating: $0, count: odd.count) }
                let e = Array(repeating: odd, count: odd.count).flatMap(\.self)
                let largest = T.greatestFiniteMagnitude.widened, least = T.leastNormalMagnitude.widened
                let fullNaN = Double(bitPattern: 0x7fff_ffff_ffff_ffff)  // adding one to its bits would give a zero
                let coefficients = [0, 1, -1, 0.3, 2, largest, least, Double.infinity, fullNaN]
                let clamps = [DSK_CLAMP_NONE, DSK_CLAMP_RANGE, DSK_CLAMP_THRESHOLD]
                for (clamp, first, second) in product(clamps, coefficients, coefficients) {
                    var row = Row()
                    row.prediction = [first, second, 0, 0]
                    row.outputs[0][Row.predictionTerm] = coefficients[random.below(coefficients.count)]
                    row.outputs[1][0] = first
                    row.outputs[1][1] = second
                    row.outputs[2][1] = second
                    row.outputs[2][Row.predictionTerm] = first
                    row.clamp = clamp
                    row.clampRange = [1, least, largest, .infinity][random.below(4)]
                    let threshold = [1, least, largest, .infinity, fullNaN][random.below(5)]
                    let expected = plainStep(row, inputs: [x, e], threshold: threshold, count: x.count)
                    let inputs = [x, e].map { Tensor($0, offset: random.offset()) }
                    let outputs = (0..<3).map { _ in Tensor<T>(count: x.count, offset: random.offset()) }
                    let call = Call(row, inputs: inputs, outputs: outputs, count: x.count, threshold: threshold)
                    try forEachISA { isa in
                        outputs.forEach { $0.reset() }
                        let context = { "\(row), threshold \(threshold), ISA \(isa.rawValue)" }
                        try require(call.step(), context())
                        for k in 0..<3 {
                            try require(noProblem: outputs[k].problem(expecting: expected[k]), "output \(k), \(context())")
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// One float32 tensor, through one output that reads x alone or p = x alone; long enough for tiles and single elements.
        private func outcome(
            of values: [Float], coefficient: Double = 1, clamp: dsk_clamp = DSK_CLAMP_NONE, range: Double = 1,
            adding other: (coefficient: Double, value: Float)? = nil
        ) throws -> [[Float]] {
            let repeats = 80
            var row = Row()
            if clamp == DSK_CLAMP_NONE {
                row.outputs[0][0] = coefficient
            } else {
                row.prediction[0] = coefficient
                row.outputs[0][Row.predictionTerm] = 1
            }
            if let other { row.outputs[0][1] = other.coefficient }
            row.clamp = clamp
            row.clampRange = range
            let x = Tensor(Array(repeating: values, count: repeats).flatMap(\.self), offset: 1)
            let e = other.map { Tensor(Array(repeating: $0.value, count: x.count)) }
            let output = Tensor<Float>(count: x.count)
            let call = Call(row, inputs: [x, e], outputs: [output], count: x.count, threshold: range)
            var outcomes: [[Float]] = []
            try forEachISA { isa in
                output.reset()
                try require(call.step(), "ISA \(isa.rawValue)")
                let all = output.values
                outcomes += stride(from: 0, to: all.count, by: values.count).map { Array(all[$0..<$0 + values.count]) }
            }
            return outcomes
        }

        @Test func zeroCoefficientMeansAbsent() throws {
            for other in [Float.infinity, -.infinity, .nan] {
                for zero in [0.0, -0.0] {
                    for result in try outcome(of: [3, -0.0], adding: (zero, other)) {
                        #expect(result[0] == 3)
                        #expect(result[1] == 0 && result[1].sign == .minus)
                    }
                }
            }
        }

        /// An output that is one input times 1 copies its bits, even those of a NaN.
        @Test(arguments: [0, 3, 9])
        func loneCoefficientOneCopies(input: Int) throws {
            let bits: [UInt32] = Float.oddValues.map(\.bitPattern) + [0x7fc1_2345, 0xffc5_4321, 0x7f81_2345, 0xff80_0001]
            var row = Row()
            row.outputs[1][input] = 1
            let memory = Tensor<Float>(count: 5 * bits.count), output = Tensor<Float>(count: 5 * bits.count, offset: 5)
            let source = Array(repeating: bits, count: 5).flatMap { $0 }
            memcpy(memory.pointer, source, source.count * 4)  // a signalling NaN might not survive as a Float
            let inputs = (0..<Row.inputCount).map { $0 == input ? memory : nil }
            try forEachISA { isa in
                for (threads, streamingBytes) in [(1, Int.max), (1, 0), (3, 0)] {
                    output.reset()
                    let status = withLimits(parallelElements: 0, streamingBytes: streamingBytes) {
                        Call(row, inputs: inputs, outputs: [nil, output], count: source.count).step(threads: UInt32(threads))
                    }
                    try require(status, "ISA \(isa.rawValue)")
                    #expect(memcmp(output.pointer, source, source.count * 4) == 0, "ISA \(isa.rawValue), \(threads) threads")
                }
            }
        }

        @Test func noTermsGiveZero() throws {
            let output = Tensor<Double>(count: 70)
            try forEachISA { isa in
                output.reset()
                try require(Call(Row(), inputs: [], outputs: [nil, nil, output], count: 70).step(), "ISA \(isa.rawValue)")
                try require(noProblem: output.problem(expecting: [Double](repeating: 0, count: 70)), "ISA \(isa.rawValue)")
            }
        }

        /// Also beside sums that read the same tensors, and not minus zero.
        @Test func noTermsGiveZeroBesideOtherSums() throws {
            let input = Tensor([Double](repeating: 3, count: 70)), outputs = (0..<3).map { _ in Tensor<Double>(count: 70) }
            var row = Row()
            (row.outputs[0][0], row.outputs[0][1], row.outputs[1][0], row.outputs[1][3]) = (0.5, 2, 1.5, 0.25)
            try forEachISA { isa in
                outputs.forEach { $0.reset() }
                let call = Call(row, inputs: [input, input, nil, input], outputs: outputs, count: 70)
                try require(call.step(), "ISA \(isa.rawValue)")
                for (output, value) in zip(outputs, [7.5, 5.25, 0]) {
                    try require(noProblem: output.problem(expecting: [Double](repeating: value, count: 70)), "ISA \(isa.rawValue)")
                }
            }
        }

        /// A sum of minus zeros is minus zero in every loop.
        @Test(arguments: ElementKind.allCases)
        func minusZerosStay(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                let zeros = [T](repeating: -0.0, count: 70)
                let cases = (1...7).flatMap { count in product([count], Set([1, min(2, count), count]), 1...3) }
                for (count, lastCount, outputCount) in cases {
                    var row = Row()
                    for output in 0..<outputCount {
                        let readCount = output > 0 && output == outputCount - 1 ? lastCount : count
                        for input in 0..<readCount { row.outputs[output][input] = 2 }
                    }
                    let inputs = (0..<count).map { _ in Tensor(zeros) }
                    let outputs = (0..<outputCount).map { _ in Tensor<T>(count: zeros.count) }
                    try forEachISA { isa in
                        let context =
                            "\(count) inputs, \(lastCount) of the last output, \(outputCount) outputs, ISA \(isa.rawValue)"
                        try require(Call(row, inputs: inputs, outputs: outputs, count: zeros.count).step(), context)
                        for output in outputs { try require(noProblem: output.problem(expecting: zeros), context) }
                    }
                }
            }
            try check(kind.type)
        }

        /// An infinite p doesn't change an output that doesn't read p.
        @Test(arguments: ElementKind.allCases)
        func infinitePredictionStaysAway(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                let values = [T](repeating: -0.0, count: 70), infinities = [T](repeating: .infinity, count: 70)
                for outputCount in 1...2 {
                    var row = Row()
                    row.prediction = [1, 1, 0, 0]
                    for output in 0..<outputCount { row.outputs[output][0] = 2 }
                    row.outputs[2][Row.predictionTerm] = 1
                    let inputs = [Tensor(values), Tensor(infinities)], outputs = (0..<3).map { _ in Tensor<T>(count: 70) }
                    let given = (0..<3).map { $0 < outputCount || $0 == 2 ? outputs[$0] : nil }
                    try forEachISA { isa in
                        let context = "\(outputCount) outputs, ISA \(isa.rawValue)"
                        try require(Call(row, inputs: inputs, outputs: given, count: 70).step(), context)
                        for output in outputs[0..<outputCount] {
                            try require(noProblem: output.problem(expecting: values), context)
                        }
                        try require(noProblem: outputs[2].problem(expecting: infinities), context)
                    }
                }
            }
            try check(kind.type)
        }

        @Test func denormalsAreKept() throws {
            for result in try outcome(of: [.leastNormalMagnitude, .leastNonzeroMagnitude], coefficient: 0.5) {
                #expect(result == [.leastNormalMagnitude / 2, 0])
                #expect(result[0].isSubnormal)
            }
        }

        @Test func nanGoesThroughClamps() throws {
            for clamp in [DSK_CLAMP_RANGE, DSK_CLAMP_THRESHOLD] {
                for result in try outcome(of: [.nan, 1, -.nan], clamp: clamp, range: 2) {
                    #expect(result[0].isNaN && result[2].isNaN)
                    #expect(result[1] == (clamp == DSK_CLAMP_RANGE ? 1 : 0.5))
                }
            }
        }

        @Test func clampsCutInfinities() throws {
            for result in try outcome(of: [.infinity, -.infinity, 2, -2, 3, -0.0], clamp: DSK_CLAMP_RANGE, range: 2) {
                #expect(result == [2, -2, 2, -2, 2, 0])
                #expect(result[5].sign == .minus)
            }
            for result in try outcome(of: [.infinity, -.infinity, 2, -1, 3, -0.0], clamp: DSK_CLAMP_THRESHOLD, range: 2) {
                #expect(result == [1, -1, 1, -0.5, 1, 0])
                #expect(result[5].sign == .minus)
            }
        }

        /// The NaN that dsk_find_thresholds answers for an item with a NaN makes the whole item NaN, without an error.
        @Test func thresholdNaN() throws {
            for result in try outcome(of: [0, 1, -1, .infinity], clamp: DSK_CLAMP_THRESHOLD, range: .nan) {
                #expect(result.allSatisfy { $0.isNaN })
            }
        }

        /// Every coefficient except zero counts, even one that is too small for a float32.
        @Test func tinyCoefficients() throws {
            let largest = Float.greatestFiniteMagnitude
            for result in try outcome(of: [1, .infinity, -.infinity, largest], coefficient: 0x1p-200) {
                #expect(result == [0, .infinity, -.infinity, scalbn(largest, -200)])
            }
        }

        @Test func hugeCoefficients() throws {
            for result in try outcome(of: [1, -1, 0, 0x1p-120], coefficient: 0x1p200) {
                #expect(result == [.infinity, -.infinity, 0, 0x1p80])
            }
        }
    }
}
