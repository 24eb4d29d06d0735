// SPDX-License-Identifier: Apache-2.0

import CKernels
import TestDraws
import Testing

/// An output over an input gets the bits that it would get in other memory.
extension KernelTests {
    @Suite struct InPlaceTests {
        /// The input that each output overwrites; nil: separate memory.
        typealias Placement = [Int?]

        /// Every output over every input, every two outputs over every two inputs, and some threes.
        static var placements: [Placement] {
            let inputs = 0..<Row.inputCount
            var placements: [Placement] = []
            for first in inputs {
                placements += [[first, nil, nil], [nil, first, nil], [nil, nil, first]]
                for second in inputs where second != first {
                    placements.append([first, second, nil])
                    if (first + second) % 3 == 0 { placements.append([nil, first, second]) }
                    placements.append([first, second, inputs.first { $0 != first && $0 != second }])
                }
            }
            return placements
        }

        @Test(arguments: ElementKind.allCases)
        func everyPlacement(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("everyPlacement \(kind)")
                let count = 330
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let tensors = inputs.map { Tensor($0, offset: random.offset()) }
                let own = (0..<Row.outputCount).map { _ in Tensor<T>(count: count, offset: random.offset()) }

                for placement in Self.placements {
                    let row = random.row(zeroPercent: 20)
                    let threshold = abs(random.double())
                    let expected = plainStep(row, inputs: inputs, threshold: threshold, count: count)
                    let outputs = placement.enumerated().map { k, input in input.map { tensors[$0] } ?? own[k] }
                    let call = Call(row, inputs: tensors, outputs: outputs, count: count, threshold: threshold)
                    // Streaming concerns only the outputs with memory of their own.
                    try forEachISA(and: [(1, Int.max), (1, 0), (3, Int.max), (7, 0)] as [(UInt32, Int)]) { isa, setting in
                        let (threads, streamingBytes) = setting
                        zip(tensors, inputs).forEach { $0.set($1) }
                        own.forEach { $0.reset() }
                        let context = {
                            "outputs over inputs \(placement), \(row), threshold \(threshold), ISA \(isa.rawValue), \(threads) "
                                + "threads, streaming from \(streamingBytes)"
                        }
                        let status = withLimits(parallelElements: 64, streamingBytes: streamingBytes) {
                            call.step(threads: threads)
                        }
                        try require(status, context())
                        for (k, tensor) in outputs.enumerated() {
                            try require(noProblem: tensor.problem(expecting: expected[k]), "output \(k), \(context())")
                        }
                        for (input, tensor) in tensors.enumerated() where !placement.contains(input) {
                            try require(noProblem: tensor.problem(expecting: inputs[input]), "input \(input), \(context())")
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// One tensor may be several inputs, and the output as well.
        @Test func oneTensorForAll() throws {
            var random = Random("oneTensorForAll")
            let row = random.row(zeroPercent: 0)
            let values: [Float] = random.values(150)
            let expected = plainStep(
                row, inputs: Array(repeating: values, count: Row.inputCount), threshold: 0.5, count: values.count)
            try forEachISA { isa in
                let tensor = Tensor(values, offset: 3)
                let call = Call(
                    row, inputs: Array(repeating: tensor, count: Row.inputCount), outputs: [nil, tensor, nil],
                    count: values.count, threshold: 0.5)
                try require(call.step(), "ISA \(isa.rawValue)")
                try require(noProblem: tensor.problem(expecting: expected[1]), "\(row), ISA \(isa.rawValue)")
            }
        }

        /// An output may overlap, even in part, a tensor whose coefficients are all zero.
        @Test func overAnUnreadInput() throws {
            var row = Row()
            row.outputs[0][0] = 2
            let x = Tensor<Float>([1, 2, 3, 4])
            let scratch = Tensor<Float>(count: 6)
            let call = Call<Float>()
            call.add(
                row, inputPointers: [UnsafeRawPointer(x.pointer), UnsafeRawPointer(scratch.pointer + 1)],
                outputPointers: [UnsafeMutableRawPointer(scratch.pointer)], count: 4)
            try require(call.step(), "\(row)")
            try require(noProblem: scratch.problem(expecting: [2, 4, 6, 8]), "\(row)")
        }
    }
}
