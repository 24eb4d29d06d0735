// SPDX-License-Identifier: Apache-2.0

import CKernels
import Foundation
import TestDraws
import Testing

/// dsk_find_thresholds against sorting.
extension KernelTests {
    @Suite struct ThresholdTests {
        /// Every division of the work gives the expected thresholds, bit for bit.
        private func check<T: Element>(
            _ call: Call<T>, expecting expected: [Double], ratio: Double, maxValue: Double,
            threads: [UInt32] = [1, 2, 7], _ context: () -> String
        ) throws {
            try forEachISA { isa in
                for threads in threads {
                    for i in call.items.indices { call.change(i) { $0.threshold = -7 } }
                    func situation() -> String {
                        "\(context()), ratio \(ratio), max_value \(maxValue), ISA \(isa.rawValue), \(threads) threads"
                    }
                    let status = withLimits(parallelElements: 0) {
                        call.findThresholds(ratio: ratio, maxValue: maxValue, threads: threads)
                    }
                    try require(status, situation())
                    for (i, (actual, expected)) in zip(call.thresholds, expected).enumerated() {
                        let isSame = actual.bitPattern == expected.bitPattern || (actual.isNaN && expected.isNaN)
                        try require(
                            noProblem: isSame ? nil : "threshold \(i) is \(actual), expected \(expected)", situation())
                    }
                }
            }
        }

        /// A row that makes p from x alone, so a test knows p.
        private static var plainRow: Row {
            var row = Row()
            row.prediction[0] = 1
            return row
        }

        private func check<T: Element>(
            items: [[T]], ratios: [Double], maxValue: Double, threads: [UInt32] = [1, 2, 7], _ context: () -> String
        ) throws {
            let call = Call<T>()
            for values in items { call.add(Self.plainRow, inputs: [Tensor(values, offset: 3)], outputs: [], count: values.count) }
            let orders = items.map(plainOrder)  // slower than all the rest
            for ratio in ratios {
                let expected = orders.map { plainThreshold(T.self, sorted: $0, ratio: ratio, maxValue: maxValue) }
                try check(call, expecting: expected, ratio: ratio, maxValue: maxValue, threads: threads, context)
            }
        }

        private static let ratios = [0, 0.5, 0.87, 0.995, 1]

        /// Data that lead the quantile into every branch of the selection: spread values, equal keys, keys that differ in the last
        /// bits.
        private static func data<T: Element>(_ count: Int, _ random: inout Random) -> [(name: String, values: [T])] {
            let spread: [T] = random.values(count)
            let neighbour = T(1.5).nextUp
            return [
                ("random", spread),
                ("sorted", spread.sorted()),
                ("constant", Array(repeating: -1.75, count: count)),
                ("two values", spread.map { $0 < 0 ? -3 : 2 }),
                ("neighbours", spread.map { $0 < 0 ? -1.5 : neighbour }),
                ("denormals", spread.map { $0 * .leastNormalMagnitude / 16 }),
                ("small and huge", spread.map { $0 < 0 ? $0 * .leastNonzeroMagnitude : $0 * (.greatestFiniteMagnitude / 64) }),
                ("infinities", spread.enumerated().map { $0 % 3 == 1 ? ($1 < 0 ? -.infinity : .infinity) : $1 }),
            ]
        }

        @Test(arguments: ElementKind.allCases)
        func sizesDataAndRatios(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("sizesDataAndRatios \(kind)")
                for count in [0, 1, 2, 3, 10, 255, 511, 512, 513, 1000] {
                    let data: [(name: String, values: [T])] = Self.data(count, &random)
                    for ((name, values), ratio) in product(data, Self.ratios + [Double(random.below(1000)) / 999]) {
                        // Most of these ranges let the quantile through.
                        let maxValue = [0.3, 1, 1.25, 4, 1e30, .infinity][random.below(6)]
                        try self.check(items: [values], ratios: [ratio], maxValue: maxValue, threads: [2]) {
                            "\(count) \(name)"
                        }
                        try self.check(items: [values], ratios: [ratio], maxValue: .infinity, threads: [1]) {
                            "\(count) \(name)"
                        }
                    }
                }
            }
            try check(kind.type)
        }

        /// Sizes around one chunk of elements, and several chunks.
        @Test(arguments: ElementKind.allCases)
        func largeItems(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("largeItems \(kind)")
                let period: [T] = random.values(9973)
                for count in [2047, 16383, 16384, 16385, 200_000] {
                    // Sorting takes most of this test's time, so a long item repeats a period, each time a little larger.
                    var values = (0..<count).map { period[$0 % 9973] }
                    for i in stride(from: 0, to: count, by: 7) { values[i] = values[i] * T(1 + Double(i) * 0x1p-20) }
                    let ratio = [0.87, 0.995, 0.5, Double(random.below(1000)) / 999][random.below(4)]
                    try self.check(items: [values], ratios: [ratio], maxValue: 1e30) { "\(count) elements" }
                }
            }
            try check(kind.type)
        }

        /// Sampled elements that differ from all others: the fences are wrong again and again.
        @Test(arguments: ElementKind.allCases, [600, 20_000])
        func misleadingSamples(kind: ElementKind, count: Int) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("misleadingSamples \(kind) \(count)")
                let sampleCount = min(max(count / 64, 128), 8192), part = count / sampleCount
                // The positions that threshold.c samples. If it comes to sample others, these data remain valid ones.
                let positions = (0..<sampleCount).map { i in
                    var mixed = UInt64(i + 1) &* 0x9E37_79B9_7F4A_7C15
                    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
                    return i * part + Int((mixed >> 32) * UInt64(part) >> 32)
                }
                for sampled: T in [0, 1, .greatestFiniteMagnitude, .infinity] {
                    var values: [T] = random.values(count)
                    for position in positions { values[position] = sampled }
                    try self.check(items: [values], ratios: Self.ratios, maxValue: 1e30, threads: [2]) { "sample of \(sampled)" }
                }
            }
            try check(kind.type)
        }

        /// More candidates than fit the buffer, so the kept ones become the next sample: most elements between the fences are
        /// equal, or the first ones found are all on one side.
        @Test(arguments: ElementKind.allCases, [600, 20_000])
        func crowdedSamples(kind: ElementKind, count: Int) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("crowdedSamples \(kind) \(count)")
                let values: [T] = random.values(count)
                for share in [2, 3, 64] {
                    let equal = values.indices.map { $0 % share == 0 ? values[$0] : T(1.25) }
                    // Half of them differ in the last bits only, and come first.
                    var near = T(1.25)
                    let sided = values.indices.map { index in
                        if index % (share * 40) == 0 { near = near.nextUp }
                        return index < count / 2 ? near : values[index]
                    }
                    try self.check(items: [equal, sided], ratios: Self.ratios, maxValue: 1e30, threads: [1, 2]) {
                        "one of \(share)"
                    }
                }
            }
            try check(kind.type)
        }

        /// The combination and the thresholds of a whole batch, both with more and with fewer items than threads.
        @Test(arguments: ElementKind.allCases, [1, 2, 3, 12])
        func combinationsOfItems(kind: ElementKind, itemCount: Int) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("combinationsOfItems \(kind) \(itemCount)")
                for ratio in [0.5, 0.995] {
                    let call = Call<T>()
                    var expected: [Double] = []
                    for _ in 0..<itemCount {
                        let row = random.row()
                        let count = [0, 1, 64, 65, 129, 500][random.below(6)]
                        let inputs: [[T]] = row.prediction.map { $0 == 0 ? [] : random.values(count) }
                        call.add(
                            row, inputs: inputs.map { $0.isEmpty ? nil : Tensor($0, offset: random.offset()) }, outputs: [],
                            count: count)
                        let p = plainPrediction(row, inputs, count: count)
                        expected.append(plainThreshold(p, ratio: ratio, maxValue: 9))
                    }
                    try self.check(call, expecting: expected, ratio: ratio, maxValue: 9, threads: threadCounts) {
                        "\(itemCount) items"
                    }
                }
            }
            try check(kind.type)
        }

        @Test(arguments: ElementKind.allCases)
        func oneNaNSpoilsItsItemOnly(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("oneNaN \(kind)")
                for count in [1, 64, 300, 66_000] {
                    for maxValue in count == 66_000 ? [1, 8] : [0.5, 1, 8] {
                        // Drawing takes longer than all the rest, so a long item repeats a period.
                        var items: [[T]] = (0..<3).map { _ in
                            let period: [T] = random.values(min(count, 9973))
                            return (0..<count).map { period[$0 % period.count] }
                        }
                        items[1][random.below(count)] = random.chance(50) ? .nan : -.nan
                        try self.check(items: items, ratios: [0.9], maxValue: maxValue) { "a NaN among \(count) elements" }
                        let call = Call<T>()
                        for values in items { call.add(Self.plainRow, inputs: [Tensor(values)], outputs: [], count: count) }
                        #expect(call.findThresholds(ratio: 0.9, maxValue: maxValue, threads: 0) == DSK_OK)
                        #expect(call.thresholds.map(\.isNaN) == [false, true, false])
                    }
                }
            }
            try check(kind.type)
        }

        /// p is NaN although every input is a number.
        @Test func nanFromInfinities() {
            var row = Row()
            row.prediction = [1, -1, 0, 0]
            let x = Tensor<Float>([1, .infinity, 2]), e = Tensor<Float>([1, .infinity, 5])
            let call = Call(row, inputs: [x, e], outputs: [], count: 3)
            #expect(call.findThresholds(ratio: 0.5, maxValue: 3) == DSK_OK)
            #expect(call.thresholds[0].isNaN)
        }

        /// Thresholds counted by hand: a check that doesn't depend on the oracle.
        @Test func knownAnswers() {
            func threshold(_ values: [Double], _ ratio: Double, _ maxValue: Double = 1e9) -> Double {
                let call = Call(Self.plainRow, inputs: [Tensor(values)], outputs: [], count: values.count)
                #expect(call.findThresholds(ratio: ratio, maxValue: maxValue) == DSK_OK)
                return call.thresholds[0]
            }
            let values: [Double] = [5, -4, 3, -2, 7]
            #expect(threshold(values, 0) == 2)
            #expect(threshold(values, 0.5) == 4)
            #expect(threshold(values, 0.375) == 3.5)
            #expect(threshold(values, 1) == 7)
            #expect(threshold(values, 1, 6) == 6)
            #expect(threshold(values, 1, 0.25) == 0.25)
            #expect(threshold([0.5, -0.25], 1) == 1)  // never below 1
            #expect(threshold([0.5, -0.25], 1, 0.25) == 0.25)  // but max_value has the last word
            #expect(threshold([], 0.5) == 1)
            #expect(threshold([], 0.5, 0.25) == 0.25)
            #expect(threshold([2, .infinity], 0) == 2)
            #expect(threshold([2, .infinity], 0.25, 50) == 50)
            #expect(threshold([.infinity, .infinity], 0.25, 50).isNaN)  // infinity minus infinity
        }

        /// 0.995 is a different number in float32, and gives another quantile between unequal neighbours.
        @Test func ratioIsRoundedForFloat32() {
            func threshold<T: Element>(_: T.Type) -> Double {
                let values = (0...1000).map { T($0 <= 995 ? 2 : 1_000_000) }
                let call = Call(Self.plainRow, inputs: [Tensor(values)], outputs: [], count: values.count)
                #expect(call.findThresholds(ratio: 0.995, maxValue: 1e9) == DSK_OK)
                return call.thresholds[0]
            }
            let fraction = Double(Float(0.995)) * 1000 - 995
            #expect(threshold(Float.self) == Double(Float(2 + fraction * 999_998)))
            #expect(threshold(Float.self) > 6)
            #expect(threshold(Double.self) == 2)
        }

        /// Outputs and their clamp don't affect the prediction, and only an item's threshold changes.
        @Test func onlyTheThresholdIsWritten() throws {
            var random = Random("onlyTheThresholdIsWritten")
            var row = Self.plainRow
            row.outputs[0][Row.predictionTerm] = 1
            row.outputs[0][9] = 1  // a missing tensor
            row.clamp = DSK_CLAMP_THRESHOLD
            let x: [Float] = random.values(100)
            let tensor = Tensor(x), output = Tensor<Float>(count: 100)
            let call = Call(row, inputs: [tensor], outputs: [output], count: 100, threshold: -1)
            let before = call.items[0]
            try require(call.findThresholds(ratio: 0.9, maxValue: 99), "")
            let after = call.items[0]
            #expect(after.row == before.row && after.n_elements == before.n_elements)
            #expect(after.inputs.0 == before.inputs.0 && after.outputs.0 == before.outputs.0)
            #expect(after.threshold == plainThreshold(x, ratio: 0.9, maxValue: 99))
            try require(noProblem: tensor.problem(expecting: x), "the input")
            try require(noProblem: output.problem(expecting: []), "the output")
        }

        /// The two calls together: thresholds found, then used.
        @Test(arguments: ElementKind.allCases)
        func thresholdedStep(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("thresholdedStep \(kind)")
                var row = random.row(zeroPercent: 0)
                row.clamp = DSK_CLAMP_THRESHOLD
                let count = 300
                let inputs: [[T]] = (0..<Row.inputCount).map { _ in random.values(count) }
                let output = Tensor<T>(count: count)
                let call = Call(row, inputs: inputs.map { Tensor($0) }, outputs: [output], count: count)
                try require(call.findThresholds(ratio: 0.8, maxValue: 1e9), "\(row)")
                try require(call.step(), "\(row)")
                let threshold = plainThreshold(plainPrediction(row, inputs, count: count), ratio: 0.8, maxValue: 1e9)
                let expected = plainStep(row, inputs: inputs, threshold: threshold, count: count)
                try require(noProblem: output.problem(expecting: expected[0]), "\(row)")
            }
            try check(kind.type)
        }
    }
}
