import CKernels
import Testing

/// The calls that are built on a step: dsk_add_noise and dsk_scale.
extension KernelTests {
    @Suite struct NeighbourTests {
        enum Destination: String, CaseIterable { case elsewhere, overSample, overNoise }

        /// 16 items make a block; 17 and 40 need several.
        @Test(arguments: ElementKind.allCases, Destination.allCases)
        func addNoise(kind: ElementKind, destination: Destination) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("addNoise \(kind) \(destination)")
                for itemCount in [0, 1, 3, 16, 17, 40] {
                    for perItem in [0, 1, 67, 200] {
                        let count = itemCount * perItem
                        let sample: [T] = random.values(count), noise: [T] = random.values(count)
                        let signalRates = (0..<itemCount).map { _ in random.coefficient(zeroPercent: 10) }
                        let noiseRates = (0..<itemCount).map { _ in random.coefficient(zeroPercent: 10) }
                        var expected: [T] = []
                        for item in 0..<itemCount {
                            let elements = item * perItem..<(item + 1) * perItem
                            expected += plainCombination(
                                [signalRates[item], noiseRates[item]], [Array(sample[elements]), Array(noise[elements])],
                                count: perItem)
                        }
                        try forEachISA { isa in
                            for threads: UInt32 in [0, 1, 3] {
                                let x = Tensor(sample, offset: random.offset()), z = Tensor(noise, offset: random.offset())
                                let own = Tensor<T>(count: count, offset: random.offset())
                                let out = [.elsewhere: own, .overSample: x, .overNoise: z][destination]!
                                let context = {
                                    "\(itemCount) items of \(perItem), rates \(signalRates) \(noiseRates), ISA \(isa.rawValue), "
                                        + "\(threads) threads"
                                }
                                let status = withLimits(parallelElements: 128, streamingBytes: 4096) {
                                    dsk_add_noise(
                                        T.kind.cType, x.pointer, z.pointer, signalRates, noiseRates, itemCount, perItem,
                                        out.pointer, threads)
                                }
                                try require(status, context())
                                try require(noProblem: out.problem(expecting: expected), context())
                                if out !== x { try require(noProblem: x.problem(expecting: sample), "the sample, \(context())") }
                                if out !== z { try require(noProblem: z.problem(expecting: noise), "the noise, \(context())") }
                            }
                        }
                    }
                }
            }
            try check(kind.type)
        }

        @Test(arguments: ElementKind.allCases, [false, true])
        func scale(kind: ElementKind, inPlace: Bool) throws {
            func check<T: Element>(_: T.Type) throws {
                var random = Random("scale \(kind) \(inPlace)")
                for count in [0, 1, 67, 200, 1000] {
                    for factor in [0, 1, -1, random.double()] {
                        let values: [T] = random.wildValues(count)
                        let expected = plainCombination([factor], [values], count: count)
                        try forEachISA { isa in
                            for threads: UInt32 in [0, 1, 3] {
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
                }
            }
            try check(kind.type)
        }

        @Test func scaleOfNothing() {
            #expect(dsk_scale(DSK_FLOAT32, nil, 2, 0, nil, 0) == DSK_OK)
        }
    }
}
