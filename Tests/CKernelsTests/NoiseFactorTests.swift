// SPDX-License-Identifier: Apache-2.0

import CKernels
import Foundation
import TestDraws
import Testing

/// Rows whose noise has a factor for each element.
extension KernelTests {
    @Suite struct NoiseFactorTests {
        private typealias AnyTensor = MixedTypeTests.AnyTensor

        private static let noise = Int(DSK_NOISE.rawValue), variance = Int(DSK_VARIANCE.rawValue)

        /// The exact factor of an element, and a bound on the relative error of the computed factor.
        private static func factor(_ row: Row, _ variance: Double) -> (value: Double, error: Double) {
            guard row.noiseFactor == DSK_NOISE_FACTOR_EXPONENTIAL else { return (max(variance, 0).squareRoot(), 0x1p-53) }
            // The product and the sum are rounded; CKernels.h states the exponential's error, and Foundation's is as small.
            let product = row.noiseSlope * variance, argument = row.noiseOffset + product
            return (exp(argument), 0x1p-51 + 0x1p-53 + (abs(product) + abs(argument)) * 0x1p-53)
        }

        /// The noise times its factors: a step that does nothing else.
        private static func scaled(_ row: Row, _ inputs: [AnyTensor], _ kind: ElementKind, count: Int) throws -> AnyTensor {
            var alone = Row()
            alone.noiseFactor = row.noiseFactor
            alone.noiseOffset = row.noiseOffset
            alone.noiseSlope = row.noiseSlope
            alone.outputs[0][noise] = 1
            let output = AnyTensor(kind, count: count, offset: 0)
            try step(alone, inputs, [output, nil, nil], count: count, threads: 1)
            return output
        }

        private static func randomRow(_ random: inout Random) -> Row {
            var row = random.row(zeroPercent: 40)
            row.prediction[noise] = 0
            row.outputs[random.below(Row.outputCount)][noise] = 0.75
            if row.clamp == DSK_CLAMP_THRESHOLD { row.clamp = DSK_CLAMP_RANGE }
            row.noiseFactor = random.chance(50) ? DSK_NOISE_FACTOR_ROOT : DSK_NOISE_FACTOR_EXPONENTIAL
            row.noiseOffset = random.double()
            row.noiseSlope = random.double()
            return row
        }

        /// A step with a factor has the bits of a step without one on noise multiplied beforehand.
        @Test(arguments: [
            [ElementKind.float32], [.float64], [.float16], [.bfloat16], [.float16, .bfloat16], [.float32, .bfloat16],
            ElementKind.allCases,
        ])
        func noiseIsMultipliedFirst(kinds: [ElementKind]) throws {
            var random = Random("noiseIsMultipliedFirst \(kinds)")
            for _ in 0..<TestDraws.count(40) {
                let row = Self.randomRow(&random), count = [1, 63, 700, 2100][random.below(4)]
                let inputs = (0..<Row.inputCount).map { _ in
                    AnyTensor(kinds[random.below(kinds.count)], count: count, offset: random.offset())
                }
                let writers = inputs.map { $0.writer(random.values(count)) }
                writers.forEach { $0() }
                // The second output may lie over one of the tensors that make the noise.
                let below = [inputs[Self.noise], inputs[Self.variance], nil][random.below(3)]
                let outputs = (0..<Row.outputCount).map { k in
                    k == 1 && below != nil
                        ? below! : AnyTensor(kinds[random.below(kinds.count)], count: count, offset: random.offset())
                }
                let isWide = (inputs + outputs).contains { $0.kind == .float64 }
                // Every tensor is read, so both steps compute in one type.
                var whole = row
                for input in 0..<Row.inputCount where !row.reads(input, wanted: [true, true, true]) {
                    whole.outputs[0][input] = 0.5
                }
                let scaled = try Self.scaled(whole, inputs, isWide ? .float64 : .float32, count: count)
                let values = inputs.map { $0.values() }
                for (i, value) in scaled.values().enumerated() {
                    let (factor, error) = Self.factor(whole, values[Self.variance][i])
                    let exact = factor * values[Self.noise][i]
                    let bound = abs(exact) * (2 * error + scaled.kind.roundoff * (1 + 0x1p-20)) + scaled.kind.least
                    try require(
                        noProblem: abs(value - exact) <= bound ? nil : "\(value), not \(exact)", "element \(i) of \(whole)")
                }

                var plain = whole
                plain.noiseFactor = DSK_NOISE_FACTOR_NONE
                var plainInputs = inputs
                plainInputs[Self.noise] = scaled
                let expected = outputs.map { AnyTensor($0.kind, count: count, offset: 0) }
                try Self.step(plain, plainInputs, expected, count: count, threads: 1)
                let checkers = zip(expected, outputs).map { $1.checker($0.values(), count) }
                try forEachISA { isa in
                    for threads: UInt32 in [1, 3] {
                        outputs.forEach { $0.reset() }
                        writers.forEach { $0() }
                        try withLimits(parallelElements: 64, streamingBytes: random.chance(50) ? 0 : .max) {
                            try Self.step(whole, inputs, outputs, count: count, threads: threads)
                        }
                        for (k, problem) in checkers.enumerated() {
                            try require(
                                noProblem: problem(),
                                "output \(k) of \(whole), \(count) elements, \(inputs.map(\.kind)), \(outputs.map(\.kind)), ISA "
                                    + "\(isa.rawValue), \(threads) threads")
                        }
                    }
                }
            }
        }

        private static func step(_ row: Row, _ inputs: [AnyTensor], _ outputs: [AnyTensor?], count: Int, threads: UInt32) throws {
            var prepared = row.prepared
            try withUnsafePointer(to: &prepared) { address in
                var item = MixedTypeTests.item(address, inputs: inputs, outputs: outputs, count: count, threshold: 1)
                try require(dsk_step(&item, 1, threads), "\(row)")
            }
        }

        /// The factors of float64 variances. The exponential takes the variance itself.
        private static func factors(_ kind: dsk_noise_factor, of variances: [Double]) throws -> [Double] {
            var row = Row()
            row.outputs[0][noise] = 1
            row.noiseFactor = kind
            row.noiseSlope = 1
            let out = Tensor<Double>(count: variances.count)
            var inputs = [Tensor<Double>?](repeating: nil, count: Row.inputCount)
            inputs[noise] = Tensor([Double](repeating: 1, count: variances.count))
            inputs[variance] = Tensor(variances)
            try require(Call(row, inputs: inputs, outputs: [out], count: variances.count).step(), "\(row)")
            return out.values
        }

        /// Arguments of the exponential to the ends of its range, negative variances, and NaN.
        @Test func factorsAtTheEnds() throws {
            let arguments = [-.infinity, -1e300, -746, -745, -708, -1, -0.0, 0, 0.3, 1, 709, 710, 1e300, .infinity, .nan]
            for (x, value) in zip(arguments, try Self.factors(DSK_NOISE_FACTOR_EXPONENTIAL, of: arguments)) {
                #expect(x.isNaN ? value.isNaN : value == exp(x) || abs(value / exp(x) - 1) < 0x1p-51 || value - exp(x) == 0x1p-1074)
            }
            for (x, value) in zip(arguments, try Self.factors(DSK_NOISE_FACTOR_ROOT, of: arguments)) {
                #expect(x.isNaN ? value.isNaN : value == max(x, 0).squareRoot())
            }
        }

        /// The exponential over its range of normal numbers, half of the arguments between −1 and 1, against Foundation's, whose
        /// own error is at most 2⁻⁵³.
        @Test func theExponentialIsAccurate() throws {
            var random = Random("theExponentialIsAccurate"), greatest = 0.0
            let arguments = (0..<200_000).map { i -> Double in
                let share = Double(random.next() >> 11) * 0x1p-53
                return i % 2 == 0 ? 2 * share - 1 : 1417 * share - 708
            }
            for (x, value) in zip(arguments, try Self.factors(DSK_NOISE_FACTOR_EXPONENTIAL, of: arguments)) {
                greatest = max(greatest, abs(value / exp(x) - 1))
            }
            print("the kernels' exponential is at most \(greatest * 0x1p53) · 2⁻⁵³ from Foundation's")
            #expect(greatest < 0x1p-51)
        }

        /// Only an output that needs a factor reads the variance.
        @Test func theVarianceIsRequired() {
            var row = Row()
            row.outputs[0][Self.noise] = 1
            row.outputs[1][0] = 1
            row.noiseFactor = DSK_NOISE_FACTOR_ROOT
            let tensor = Tensor<Float>([1, 2, 3]), out = Tensor<Float>(count: 3)
            var inputs = [Tensor<Float>?](repeating: nil, count: Row.inputCount)
            inputs[0] = tensor
            inputs[Self.noise] = tensor
            #expect(Call(row, inputs: inputs, outputs: [out], count: 3).step() == DSK_MISSING_INPUT)
            #expect(Call(row, inputs: inputs, outputs: [nil, out], count: 3).step() == DSK_OK)
            inputs[Self.variance] = tensor
            #expect(Call(row, inputs: inputs, outputs: [out], count: 3).step() == DSK_OK)
        }
    }
}
