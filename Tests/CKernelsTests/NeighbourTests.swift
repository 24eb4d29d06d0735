// SPDX-License-Identifier: Apache-2.0

import CKernels
import TestDraws
import Testing

/// dsk_add_noise, dsk_scale and dsk_find_moments, the calls beside a step.
extension KernelTests {
    @Suite struct NeighbourTests {
        enum Destination: String, CaseIterable { case elsewhere, overSample, overNoise }

        /// 16 items make a block; 17 and 40 need several.
        @Test(arguments: ElementKind.allCases, Destination.allCases)
        func addNoise(kind: ElementKind, destination: Destination) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("addNoise \(kind) \(destination)")
                for (itemCount, perItem) in product([0, 1, 3, 16, 17, 40], [0, 1, 67, 200]) {
                    let count = itemCount * perItem
                    let sample: [T] = random.values(count), noise: [T] = random.values(count)
                    let signalRates = (0..<itemCount).map { _ in random.coefficient(zeroPercent: 10) }
                    let noiseRates = (0..<itemCount).map { _ in random.coefficient(zeroPercent: 10) }
                    let expected = (0..<itemCount).flatMap { item -> [T] in
                        let elements = item * perItem..<(item + 1) * perItem
                        return plainCombination(
                            [signalRates[item], noiseRates[item]], [Array(sample[elements]), Array(noise[elements])], count: perItem
                        )
                    }
                    try forEachISA(and: [UInt32(0), 1, 3]) { isa, threads in
                        let x = Tensor(sample, offset: random.offset()), z = Tensor(noise, offset: random.offset())
                        let own = Tensor<T>(count: count, offset: random.offset())
                        let out = [.elsewhere: own, .overSample: x, .overNoise: z][destination]!
                        let context = {
                            "\(itemCount) items of \(perItem), rates \(signalRates) \(noiseRates), ISA \(isa.rawValue), "
                                + "\(threads) threads"
                        }
                        let status = withLimits(parallelElements: 128, streamingBytes: 4096) {
                            dsk_add_noise(
                                T.kind.cType, x.pointer, z.pointer, signalRates, noiseRates, itemCount, perItem, out.pointer,
                                threads)
                        }
                        try require(status, context())
                        try require(noProblem: out.problem(expecting: expected), context())
                        if out !== x { try require(noProblem: x.problem(expecting: sample), "the sample, \(context())") }
                        if out !== z { try require(noProblem: z.problem(expecting: noise), "the noise, \(context())") }
                    }
                }
            }
            try check(kind.type)
        }

        @Test(arguments: ElementKind.allCases, [false, true])
        func scale(kind: ElementKind, inPlace: Bool) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("scale \(kind) \(inPlace)")
                for (count, factor) in product([0, 1, 67, 200, 1000], [0, 1, -1, random.double()]) {
                    let values: [T] = random.wildValues(count)
                    let expected = plainCombination([factor], [values], count: count)
                    try forEachISA(and: [UInt32(0), 1, 3]) { isa, threads in
                        let x = Tensor(values, offset: random.offset())
                        let out = inPlace ? x : Tensor<T>(count: count, offset: random.offset())
                        let status = withLimits(parallelElements: 128, streamingBytes: 4096) {
                            dsk_scale(T.kind.cType, x.pointer, factor, count, out.pointer, threads)
                        }
                        try require(status, "\(factor)")
                        try require(
                            noProblem: out.problem(expecting: expected),
                            "\(count) elements times \(factor), ISA \(isa.rawValue), \(threads) threads")
                    }
                }
            }
            try check(kind.type)
        }

        @Test func scaleOfNothing() {
            #expect(dsk_scale(DSK_FLOAT32, nil, 2, 0, nil, 0) == DSK_OK)
        }

        /// The moments of each tensor of `a` and the tensor of `b` at its place.
        private func findMoments<T: Element>(
            _ a: [Tensor<T>], _ b: [Tensor<T>], count: Int, threads: UInt32
        ) throws -> [dsk_moments] {
            func addresses(_ tensors: [Tensor<T>]) -> [UnsafeRawPointer?] { tensors.map { UnsafeRawPointer($0.pointer) } }
            var moments = [dsk_moments](repeating: dsk_moments(), count: a.count)
            let status = withLimits(parallelElements: 128, streamingBytes: 4096) {
                withExtendedLifetime((a, b)) {
                    dsk_find_moments(T.kind.cType, addresses(a), addresses(b), a.count, count, &moments, threads)
                }
            }
            try require(status, "\(a.count) items of \(count)")
            return moments
        }

        /// Means, variances and the covariance of several items against sums of deviations; no bit depends on the order of
        /// summation.
        @Test(arguments: ElementKind.allCases)
        func moments(kind: ElementKind) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("moments \(kind)")
                for (itemCount, count) in [(1, 0), (1, 1), (3, 2), (2, 9), (5, 1000), (1, 40_000), (7, 16_385)] {
                    let a = (0..<itemCount).map { _ in Tensor(random.values(count) as [T], offset: random.offset()) }
                    let b = (0..<itemCount).map { _ in Tensor(random.values(count) as [T], offset: random.offset()) }
                    var first: [dsk_moments] = []
                    try forEachISA(and: [UInt32(0), 1, 3]) { isa, threads in
                        let moments = try findMoments(a, b, count: count, threads: threads)
                        if first.isEmpty { first = moments }
                        #expect(
                            moments.withUnsafeBytes(Array.init) == first.withUnsafeBytes(Array.init),
                            "\(itemCount) items of \(count), ISA \(isa.rawValue), \(threads) threads")
                    }
                    for (item, moments) in first.enumerated() {
                        let x = (0..<count).map { Double(a[item].pointer[$0].widened) }
                        let y = (0..<count).map { Double(b[item].pointer[$0].widened) }
                        if count == 0 {
                            #expect(moments.mean_a.isNaN && moments.variance_b.isNaN && moments.covariance.isNaN)
                            continue
                        }
                        let n = Double(count), meanX = x.reduce(0, +) / n, meanY = y.reduce(0, +) / n
                        let covariance = zip(x, y).map { ($0 - meanX) * ($1 - meanY) }.reduce(0, +) / n
                        let varianceX = x.map { ($0 - meanX) * ($0 - meanX) }.reduce(0, +) / n
                        let varianceY = y.map { ($0 - meanY) * ($0 - meanY) }.reduce(0, +) / n
                        let scale = (varianceX * varianceY).squareRoot() + 1e-300
                        #expect(abs(moments.mean_a - meanX) <= 1e-12 * (varianceX.squareRoot() + abs(meanX)))
                        #expect(abs(moments.mean_b - meanY) <= 1e-12 * (varianceY.squareRoot() + abs(meanY)))
                        #expect(abs(moments.variance_a - varianceX) <= 1e-11 * varianceX)
                        #expect(abs(moments.variance_b - varianceY) <= 1e-11 * varianceY)
                        #expect(abs(moments.covariance - covariance) <= 1e-11 * scale)
                    }
                }
            }
            try check(kind.type)
        }

        @Test func momentStatuses() {
            let a: [Float] = [1, 2, 3, 4]
            var moments = dsk_moments(mean_a: -7, mean_b: 0, variance_a: 0, variance_b: 0, covariance: 0)
            a.withUnsafeBytes { bytes in
                let address = bytes.baseAddress
                func find(_ a: UnsafeRawPointer?, _ b: UnsafeRawPointer?, type: dsk_element_type = DSK_FLOAT32, count: Int = 2)
                    -> dsk_status
                {
                    dsk_find_moments(type, [a], [b], 1, count, &moments, 0)
                }
                #expect(find(address, address, type: dsk_element_type(rawValue: 77)) == DSK_UNKNOWN_TYPE)
                #expect(find(nil, address) == DSK_NULL_POINTER)
                #expect(find(address, nil) == DSK_NULL_POINTER)
                #expect(find(address! + 2, address) == DSK_MISALIGNED)
                #expect(find(address, address, count: .max) == DSK_TOO_LARGE)
                #expect(dsk_find_moments(DSK_FLOAT32, nil, [address], 1, 2, &moments, 0) == DSK_NULL_POINTER)
                #expect(dsk_find_moments(DSK_FLOAT32, [address], [address], 1, 2, nil, 0) == DSK_NULL_POINTER)
                #expect(moments.mean_a == -7)
                #expect(dsk_find_moments(DSK_FLOAT32, nil, nil, 0, 2, nil, 0) == DSK_OK)
                #expect(find(address, address) == DSK_OK && moments.mean_a == 1.5 && moments.covariance == 0.25)
            }
        }

        /// A guided row gives both outputs the value that the row gives with factor (g e_c + (1 - g) e_u).
        @Test func guidedRows() throws {
            var random = Random("guidedRows")
            for _ in 0..<TestDraws.count(50) {
                var row = random.row()
                row.prediction[2] = 0
                for k in row.outputs.indices { row.outputs[k][2] = 0 }
                let scale = random.coefficient(zeroPercent: 10), factor = random.coefficient(zeroPercent: 0)
                let plain = row.cValue
                var prepared = row.prepared, result = dsk_prepared_row()
                dsk_guide_row(&prepared, scale, factor, &result)
                let guided = result.row
                func expectGuided(_ plain: [Double], _ guided: [Double]) {
                    var expected = plain
                    expected[1] = factor * scale * plain[1]
                    expected[2] = factor * (1 - scale) * plain[1]
                    #expect(guided == expected)
                }
                let array = { (tuple: Any) in Mirror(reflecting: tuple).children.map { $0.value as! Double } }
                expectGuided(array(plain.prediction), array(guided.prediction))
                expectGuided(array(plain.outputs.0), array(guided.outputs.0))
                expectGuided(array(plain.outputs.1), array(guided.outputs.1))
                expectGuided(array(plain.outputs.2), array(guided.outputs.2))
                #expect(guided.clamp == plain.clamp && guided.clamp_range == plain.clamp_range)
                #expect(guided.threshold_ratio == plain.threshold_ratio && guided.threshold_maximum == plain.threshold_maximum)
                withUnsafeMutablePointer(to: &prepared) { dsk_guide_row($0, scale, factor, $0) }
                #expect(array(prepared.row.prediction) == array(guided.prediction))
                #expect(array(prepared.row.outputs.2) == array(guided.outputs.2))
            }
        }
    }
}
