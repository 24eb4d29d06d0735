// SPDX-License-Identifier: Apache-2.0

import CKernels
import CTestSupport
import Foundation
import TestDraws
import Testing

/// Items whose tensors have different element types, and the conversions themselves.
extension KernelTests {
    @Suite struct MixedTypeTests {
        /// A tensor of any type whose values tests read as float64.
        struct AnyTensor {
            let kind: ElementKind
            let pointer: UnsafeMutableRawPointer
            let values: () -> [Double]
            /// Rounds the values to the type once; the result writes them at every call.
            let writer: ([Double]) -> () -> Void
            let reset: () -> Void
            /// Rounds the expected values to the type once; the result compares at every call.
            let checker: (_ expected: [Double], _ prefix: Int) -> () -> String?

            init(_ kind: ElementKind, count: Int, offset: Int) {
                func make<T: Element>(_: T.Type) -> AnyTensor { AnyTensor(Tensor<T>(count: count, offset: offset)) }
                self = make(kind.type)
            }

            private init<T: Element>(_ tensor: Tensor<T>) {
                kind = T.kind
                pointer = UnsafeMutableRawPointer(tensor.pointer)
                values = { tensor.values.map(\.widened) }
                writer = { values in
                    let rounded = values.map { T($0) }
                    return { tensor.set(rounded) }
                }
                reset = { tensor.reset() }
                checker = { expected, prefix in
                    let rounded = expected.map { T($0) }
                    return { tensor.problem(expecting: rounded, prefix: prefix) }
                }
            }
        }

        static func item(
            _ row: UnsafePointer<dsk_prepared_row>, inputs: [AnyTensor?], outputs: [AnyTensor?], count: Int, threshold: Double
        ) -> dsk_item {
            var item = dsk_item()
            item.row = row
            item.n_elements = count
            item.threshold = threshold
            withUnsafeMutableBytes(of: &item.inputs) { $0.copyBytes(from: inputs.map { $0?.pointer }.withUnsafeBytes(Array.init)) }
            withUnsafeMutableBytes(of: &item.outputs) {
                $0.copyBytes(from: outputs.map { $0?.pointer }.withUnsafeBytes(Array.init))
            }
            let types = { (tensors: [AnyTensor?]) in tensors.map { $0?.kind.cType ?? DSK_FLOAT32 }.withUnsafeBytes(Array.init) }
            withUnsafeMutableBytes(of: &item.input_types) { $0.copyBytes(from: types(inputs)) }
            withUnsafeMutableBytes(of: &item.output_types) { $0.copyBytes(from: types(outputs)) }
            return item
        }

        private static let sizes = [1, 31, 64, 65, 200, 301]

        /// Random rows with a random type for every tensor; some outputs lie over inputs of their size. Thresholds come from the
        /// item itself.
        @Test(arguments: [
            [ElementKind.float16, .bfloat16], [.float32, .float16, .bfloat16], ElementKind.allCases, [.float64, .float16],
        ])
        func randomItems(kinds: [ElementKind]) throws {
            var random = Random("randomItems \(kinds)")
            let workspaces = Workspaces()
            defer { #expect(workspaces.areIntact) }
            let count = Self.sizes.last!
            for _ in 0..<TestDraws.count(150) {
                let row = random.row(zeroPercent: [20, 50][random.below(2)])
                let wanted = random.wantedOutputs()
                let inputs = (0..<Row.inputCount).map { _ in
                    AnyTensor(kinds[random.below(kinds.count)], count: count, offset: random.offset())
                }
                let isWild = random.chance(20)
                let writers = inputs.map { $0.writer(isWild ? random.wildValues(count) : random.values(count)) }
                writers.forEach { $0() }
                let original = inputs.map { $0.values() }
                var free = Array(inputs.indices)
                let outputs = wanted.map { isWanted -> AnyTensor? in
                    guard isWanted else { return nil }
                    let kind = kinds[random.below(kinds.count)]
                    if random.chance(30), let place = free.firstIndex(where: { inputs[$0].kind == kind }) {
                        return inputs[free.remove(at: place)]
                    }
                    return AnyTensor(kind, count: count, offset: random.offset())
                }
                let read = inputs.indices.map { row.reads($0, wanted: wanted) }
                let arithmetic = Arithmetic(
                    zip(inputs, read).filter(\.1).map(\.0.kind) + outputs.compactMap { $0?.kind })
                let step = MixedStep(row, wanted: wanted, read: read, inputs: inputs, outputs: outputs, original: original)
                for size in Self.sizes {
                    let (threshold, checkers) = step.expectation(arithmetic, size: size)
                    let settings = [(UInt32(1), Int.max), (1, 0), (3, 0)].filter { threads, _ in size >= 200 || threads == 1 }
                    try forEachISA(and: settings) { isa, setting in
                        let (threads, streamingBytes) = setting
                        outputs.forEach { $0?.reset() }
                        writers.forEach { $0() }
                        let context = {
                            "\(row), inputs \(inputs.map(\.kind)), outputs \(outputs.map { $0?.kind }), \(size) elements, ISA "
                                + "\(isa.rawValue), \(threads) threads, streaming from \(streamingBytes)"
                        }
                        try withLimits(parallelElements: 64, streamingBytes: streamingBytes) {
                            try step.run(size, threads, expecting: threshold, workspaces, context)
                        }
                        for (k, problem) in checkers.enumerated() {
                            try require(noProblem: problem?(), "output \(k) of \(context())")
                        }
                    }
                }
            }
        }

        /// A row with a tensor of some type for every input and output.
        private struct MixedStep {
            let row: Row, wanted: [Bool], read: [Bool]
            let inputs: [AnyTensor], outputs: [AnyTensor?], original: [[Double]]
            private let findsThreshold: Bool

            init(_ row: Row, wanted: [Bool], read: [Bool], inputs: [AnyTensor], outputs: [AnyTensor?], original: [[Double]]) {
                (self.row, self.wanted, self.read) = (row, wanted, read)
                (self.inputs, self.outputs, self.original) = (inputs, outputs, original)
                findsThreshold = row.clamp == DSK_CLAMP_THRESHOLD && row.usesPrediction(wanted: wanted)
            }

            /// The threshold, and a check of each output.
            func expectation(_ arithmetic: Arithmetic, size: Int) -> (Double, [(() -> String?)?]) {
                let p = arithmetic.prediction(row, original, count: size)
                let threshold =
                    !findsThreshold
                    ? 1
                    : arithmetic == .wide
                        ? plainThreshold(p, ratio: 0.9, maxValue: 9)
                        : plainThreshold(p.map { Float($0) }, ratio: 0.9, maxValue: 9)
                let expected = arithmetic.step(row, inputs: original, threshold: threshold, count: size)
                let checkers = outputs.enumerated().map { k, output in
                    output.map { output in
                        // Beyond the size, memory in place holds the input.
                        let place = inputs.firstIndex { $0.pointer == output.pointer }
                        let rest = place.map { original[$0][size...] } ?? []
                        return output.checker(expected[k] + rest, place == nil ? size : original[0].count)
                    }
                }
                return (threshold, checkers)
            }

            func run(
                _ size: Int, _ threads: UInt32, expecting threshold: Double, _ workspaces: Workspaces, _ context: () -> String
            ) throws {
                var prepared = row.prepared
                try withUnsafePointer(to: &prepared) { prepared in
                    var item = MixedTypeTests.item(
                        prepared, inputs: zip(inputs, read).map { $1 ? $0 : nil }, outputs: outputs, count: size, threshold: 1)
                    if findsThreshold {
                        item.workspace = workspaces.room(for: size, item: 0)
                        try require(dsk_find_thresholds(&item, 1, threads), context())
                        let isSame = item.threshold == threshold || (item.threshold.isNaN && threshold.isNaN)
                        try require(noProblem: isSame ? nil : "threshold \(item.threshold), not \(threshold)", context())
                    }
                    try require(dsk_step(&item, 1, threads), context())
                }
            }
        }

        /// One tensor, converted by an output that is the input times 1.
        private func convert<From: Element, To: Element>(_ source: [From], to: To.Type, isa: dsk_isa) throws -> [To] {
            var row = Row()
            row.outputs[0][0] = 1
            let x = Tensor(source, offset: 1), output = Tensor<To>(count: source.count, offset: 1)
            let call = Call<From>()
            call.add(
                row, inputPointers: [UnsafeRawPointer(x.pointer)], outputPointers: [UnsafeMutableRawPointer(output.pointer)],
                count: source.count)
            call.change { $0.output_types.0 = To.kind.cType }
            try require(call.step(), "\(From.kind) to \(To.kind), ISA \(isa.rawValue)")
            return output.values
        }

        /// The value of a half by the definition of its fields; nil for infinities and NaNs.
        private func value(ofBits bits: Int, fractionBits: Int, bias: Int) -> Double? {
            let greatest = (1 << (15 - fractionBits)) - 1
            let exponent = (bits >> fractionBits) & greatest, fraction = bits & ((1 << fractionBits) - 1)
            if exponent == greatest { return nil }
            let magnitude =
                exponent == 0
                ? scalbn(Double(fraction), 1 - bias - fractionBits)
                : scalbn(Double(fraction + 1 << fractionBits), exponent - bias - fractionBits)
            return bits & 0x8000 == 0 ? magnitude : -magnitude
        }

        private func half<H: Element>(_ bits: Int, _: H.Type) -> H { unsafeBitCast(UInt16(bits), to: H.self) }

        /// All 65,536 numbers of a half type become what their fields say.
        private func checkWidening<H: Element>(_: H.Type, fractionBits: Int, bias: Int) throws {
            let all = (0...0xffff).map { half($0, H.self) }
            try forEachISA { isa in
                let doubles = try convert(all, to: Double.self, isa: isa), floats = try convert(all, to: Float.self, isa: isa)
                for bits in 0...0xffff {
                    let isInfinite = bits & 0x7fff == (0x7fff >> fractionBits) << fractionBits
                    let expected =
                        value(ofBits: bits, fractionBits: fractionBits, bias: bias)
                        ?? (isInfinite ? (bits & 0x8000 == 0 ? .infinity : -.infinity) : .nan)
                    for actual in [doubles[bits], Double(floats[bits])] {
                        let isSame = expected.isNaN ? actual.isNaN : actual.bitPattern == expected.bitPattern
                        try require(
                            noProblem: isSame ? nil : "\(String(bits, radix: 16)) became \(actual), not \(expected)",
                            "\(H.kind), ISA \(isa.rawValue)")
                    }
                }
            }
        }

        @Test func everyFloat16Widens() throws { try checkWidening(Float16.self, fractionBits: 10, bias: 15) }
        @Test func everyBFloat16Widens() throws { try checkWidening(Brain.self, fractionBits: 7, bias: 127) }

        /// Every number of a half type, every midpoint between two, and their neighbours in the source's type, of both signs; their
        /// construction tells what they round to. From the midpoint between the greatest number and the next power of two on,
        /// everything is infinite.
        private func checkRounding<From: Element, H: Element>(_: From.Type, _: H.Type, fractionBits: Int, bias: Int) throws {
            let infinity = (0x7fff >> fractionBits) << fractionBits
            var source: [From] = [], expected: [Int] = []
            func add(_ value: Double, _ bits: Int) {
                let from = From(value)
                precondition(from.widened == value)
                source += [from, -from]
                expected += [bits, bits | 0x8000]
            }
            for bits in 0..<infinity {
                let number = value(ofBits: bits, fractionBits: fractionBits, bias: bias)!
                let next = value(ofBits: bits + 1, fractionBits: fractionBits, bias: bias) ?? scalbn(1, bias + 1)
                let middle = (number + next) / 2
                add(number, bits)
                add(middle, bits % 2 == 0 ? bits : bits + 1)
                add(From(middle).nextDown.widened, bits)
                add(From(middle).nextUp.widened, bits + 1)
                if number != 0 { add(From(number).nextUp.widened, bits) }
                if number != 0 { add(From(number).nextDown.widened, bits) }
            }
            for huge in [From(scalbn(1, bias + 1)).widened, From.greatestFiniteMagnitude.widened, .infinity] { add(huge, infinity) }
            add(From.leastNonzeroMagnitude.widened, 0)
            add(From.leastNormalMagnitude.widened, From.kind == .float32 && H.kind == .bfloat16 ? 0x80 : 0)
            #expect(source.count > 60_000)
            try forEachISA { isa in
                for (i, actual) in try convert(source, to: H.self, isa: isa).enumerated() {
                    let bits = Int(unsafeBitCast(actual, to: UInt16.self))
                    try require(
                        noProblem: bits == expected[i]
                            ? nil
                            : "\(source[i]) became \(String(bits, radix: 16)), not \(String(expected[i], radix: 16))",
                        "\(From.kind) to \(H.kind), ISA \(isa.rawValue)")
                }
                let nans = try convert([From](repeating: .nan, count: 100) + [-.nan], to: H.self, isa: isa)
                #expect(nans.count { !$0.isNaN } == 0)
            }
        }

        @Test func doubleToFloat16() throws { try checkRounding(Double.self, Float16.self, fractionBits: 10, bias: 15) }
        @Test func floatToFloat16() throws { try checkRounding(Float.self, Float16.self, fractionBits: 10, bias: 15) }
        @Test func doubleToBFloat16() throws { try checkRounding(Double.self, Brain.self, fractionBits: 7, bias: 127) }
        @Test func floatToBFloat16() throws { try checkRounding(Float.self, Brain.self, fractionBits: 7, bias: 127) }

        /// A sum of halves is a float32 number before it is rounded: 1 times a half type tests every rounding to the other half
        /// type.
        @Test func everyHalfToTheOther() throws {
            let float16s = (0...0xffff).map { half($0, Float16.self) }, brains = (0...0xffff).map { half($0, Brain.self) }
            let expectedBrains = float16s.map { Brain($0.widened) }, expectedFloat16s = brains.map { Float16($0.widened) }
            try forEachISA { isa in
                let actualBrains = try convert(float16s, to: Brain.self, isa: isa)
                let actualFloat16s = try convert(brains, to: Float16.self, isa: isa)
                try require(
                    noProblem: firstDifference(actualBrains, expectedBrains, count: 65536), "to bfloat16, ISA \(isa.rawValue)")
                try require(
                    noProblem: firstDifference(actualFloat16s, expectedFloat16s, count: 65536), "to float16, ISA \(isa.rawValue)")
            }
        }

        /// A copy has the input's bits, even those of a NaN; in place it does nothing.
        @Test func copiesOfHalves() throws {
            let all = (0...0xffff).map { UInt16($0) }
            try forEachISA { isa in
                let float16s = all.map { unsafeBitCast($0, to: Float16.self) }, brains = all.map { Brain(bits: $0) }
                let float16Copies = try convert(float16s, to: Float16.self, isa: isa)
                let brainCopies = try convert(brains, to: Brain.self, isa: isa)
                #expect(float16Copies.map(\.bitPattern) == all)
                #expect(brainCopies.map(\.bits) == all)
            }
        }

        /// A copy keeps its bits next to a tensor of another type, for example a half-precision model output that a float32 step
        /// stores.
        private func checkCopy<H: Element>(of _: H.Type) throws {
            let halves = (0...0xffff).map { unsafeBitCast(UInt16($0), to: H.self) }
            try forEachISA { isa in
                var row = Row()
                row.outputs[0][0] = 0.5
                row.outputs[1][1] = 1
                let sample = Tensor([Float](repeating: 3, count: halves.count)), output = Tensor(halves, offset: 1)
                let next = Tensor<Float>(count: halves.count), remembered = Tensor<H>(count: halves.count, offset: 1)
                let call = Call<Float>()
                call.add(
                    row, inputPointers: [UnsafeRawPointer(sample.pointer), UnsafeRawPointer(output.pointer)],
                    outputPointers: [UnsafeMutableRawPointer(next.pointer), UnsafeMutableRawPointer(remembered.pointer)],
                    count: halves.count)
                call.change {
                    $0.input_types.1 = H.kind.cType
                    $0.output_types.1 = H.kind.cType
                }
                try require(call.step(), "\(H.kind), ISA \(isa.rawValue)")
                #expect(next.values.allSatisfy { $0 == 1.5 })
                #expect(remembered.values.map { unsafeBitCast($0, to: UInt16.self) } == Array(0...0xffff))
            }
        }
        @Test func float16CopiesBesideFloat32() throws { try checkCopy(of: Float16.self) }
        @Test func bfloat16CopiesBesideFloat32() throws { try checkCopy(of: Brain.self) }

        private func findMoments<T: Element>(_ tensors: [Tensor<T>], _ moments: inout dsk_moments) {
            withExtendedLifetime(tensors) {
                let addresses = tensors.map { UnsafeRawPointer($0.pointer) as UnsafeRawPointer? }
                let status = dsk_find_moments(
                    T.kind.cType, [addresses[0]], [addresses[1]], 1, tensors[0].count, &moments, 0)
                #expect(status == DSK_OK)
            }
        }

        /// The moments of halves equal the moments of the same numbers in float64.
        @Test(arguments: [ElementKind.float16, .bfloat16])
        func moments(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) {
                var random = Random("moments \(kind)")
                let a: [T] = random.values(20_000), b: [T] = random.values(20_000)
                var halves = dsk_moments(), doubles = dsk_moments()
                let tensors = [Tensor(a), Tensor(b)], wideTensors = [Tensor(a.map(\.widened)), Tensor(b.map(\.widened))]
                findMoments(tensors, &halves)
                findMoments(wideTensors, &doubles)
                #expect(halves.mean_a == doubles.mean_a && halves.variance_b == doubles.variance_b)
                #expect(halves.covariance == doubles.covariance)
            }
            check(kind.type)
        }
    }
}
