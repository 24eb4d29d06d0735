// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// An element's result depends neither on the number of other elements nor on the division of the work.
///
/// The 24 elements of the goldens' problem are repeated up to sizes around those at which the kernels change their method, and
/// every element must have the bits of its original.
@Suite(.serialized) struct LargeTensorTests {
    static let steps = 6

    /// The pattern repeated and cut off at a count.
    static func tiled<Element: BitwiseCopyable>(_ pattern: [Element], count: Int) -> [Element] {
        [Element](unsafeUninitializedCapacity: count) { buffer, initialized in
            var filled = min(pattern.count, count)
            _ = UnsafeMutableBufferPointer(rebasing: buffer[..<filled]).update(fromContentsOf: pattern[..<filled])
            while filled < count {
                let more = min(filled, count - filled)
                memcpy(buffer.baseAddress! + filled, buffer.baseAddress!, more * MemoryLayout<Element>.stride)
                filled += more
            }
            initialized = count
        }
    }

    /// Whether an array repeats the pattern bit for bit.
    static func repeats<Element: BitwiseCopyable>(_ array: [Element], _ pattern: [Element]) -> Bool {
        let period = pattern.count * MemoryLayout<Element>.stride
        return array.withUnsafeBytes { bytes in
            pattern.withUnsafeBytes { pattern in
                let first = min(period, bytes.count)
                return memcmp(bytes.baseAddress!, pattern.baseAddress!, first) == 0
                    && (bytes.count <= period
                        || memcmp(bytes.baseAddress!, bytes.baseAddress! + period, bytes.count - period) == 0)
            }
        }
    }

    @Test func theComparisonSeesEveryElement() {
        let pattern = goldenStart
        for place in [0, 23, 24, 4999] {
            var array = Self.tiled(pattern, count: 5000)
            #expect(Self.repeats(array, pattern))
            array[place] = array[place].nextUp
            #expect(!Self.repeats(array, pattern), "element \(place)")
        }
    }

    /// Runs small and large side by side; the returning step bypasses the caches for large tensors, the step in place doesn't.
    static func compare<Element: TensorElement & BinaryFloatingPoint>(
        _ type: Element.Type, count: Int, maximumThreads: Int, order: Int = 3, steps: Int = steps
    ) throws {
        let plan = try makeDEIS { ($0.solverOrder, $0.predictionType) = (order, .vPrediction) }.plan(.count(steps))
        var small = SamplingSession(plan: plan), inPlace = small, returning = small
        small.maximumThreads = 1
        inPlace.maximumThreads = maximumThreads
        returning.maximumThreads = maximumThreads
        var x = GoldenProblem.initialSample.map { Element($0) }
        var y = tiled(x, count: count)
        while let timestep = small.timestep {
            let e = x.map { Element(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: 1000)) }
            let outputs = tiled(e, count: count)
            let before = x
            try small.step(modelOutput: e, sample: &x)
            let p = try returning.step(modelOutput: outputs, sample: y, predictingOriginalSample: true)
            #expect(repeats(y, before), "the returning step leaves its sample")
            try inPlace.step(modelOutput: outputs, sample: &y)
            let name: Comment = "\(type) × \(count), \(maximumThreads) threads, step \(small.stepIndex - 1)"
            #expect(repeats(y, x), name)
            #expect(repeats(p.nextSample, x), name)
            if let prediction = p.predOriginalSample {
                #expect(repeats(prediction, Array(prediction.prefix(24))) && prediction.allFiniteAtEnds, name)
            }
        }
    }

    // The kernels' defaults rather than their current limits, which other tests in this process change meanwhile.
    static let parallel = 32_768
    static let streamingBytes = 32 << 20

    @Test(arguments: [1, 2, 3, 15, 16, 17, 63, 64, 65, 1000], [0, 1, 2]) func smallSizes(count: Int, maximumThreads: Int) throws {
        try Self.compare(Float.self, count: count, maximumThreads: maximumThreads)
        try Self.compare(Double.self, count: count, maximumThreads: maximumThreads)
    }

    @Test(arguments: [-1, 0, 1, 7, parallel + 5], [0, 1, 2]) func sizesAroundTheParallelLimit(offset: Int, maximumThreads: Int)
        throws
    {
        try Self.compare(Float.self, count: Self.parallel + offset, maximumThreads: maximumThreads)
        try Self.compare(Double.self, count: Self.parallel + offset, maximumThreads: maximumThreads)
    }

    /// A returning step with a prediction reads four tensors and writes three from the third step on.
    @Test(arguments: [0, 1, 2]) func sizesAroundTheStreamingLimit(maximumThreads: Int) throws {
        let limit = Self.streamingBytes / (7 * MemoryLayout<Float>.size)
        for count in [limit - 5, limit + 3] { try Self.compare(Float.self, count: count, maximumThreads: maximumThreads, steps: 4) }
    }

    @Test func addingNoiseToManyElements() throws {
        let scheduler = try makeDEIS()
        let noise = GoldenProblem.noise(step: 1).map { Float($0) }
        let small = try scheduler.addNoise(noise, to: goldenStart, timesteps: [400])
        for count in [Self.parallel - 1, Self.parallel + 1, 24 * Self.parallel] {
            let large = try scheduler.addNoise(
                Self.tiled(noise, count: count), to: Self.tiled(goldenStart, count: count), timesteps: [400])
            #expect(Self.repeats(large, small), "\(count) elements")
        }
    }

    /// A threshold's quantile depends on the whole item. Items that repeat the pattern a whole number of times have other ranks,
    /// but the same largest element.
    @Test(arguments: [0, 1, 2]) func thresholdsOfManyElements(maximumThreads: Int) throws {
        let plan = try makeDEIS {
            $0.thresholding = true
            ($0.dynamicThresholdingRatio, $0.sampleMaxValue) = (1, 50)
        }.plan(.count(4))
        for periods in [1, 3, Self.parallel / 24 + 1, 3 * Self.parallel / 24] {
            var small = SamplingSession(plan: plan), large = small
            large.maximumThreads = maximumThreads
            var x = goldenStart, y = Self.tiled(x, count: 24 * periods)
            while let timestep = small.timestep {
                let e = goldenOutput(x, timestep: timestep)
                try small.step(modelOutput: e, sample: &x)
                try large.step(modelOutput: Self.tiled(e, count: y.count), sample: &y)
                #expect(Self.repeats(y, x), "\(periods) periods, step \(small.stepIndex - 1)")
            }
        }
    }

    /// Many small items, each with a threshold of its own.
    @Test(arguments: [0, 2]) func manyItemsWithThresholds(maximumThreads: Int) throws {
        let plan = try makeDEIS {
            $0.thresholding = true
            ($0.dynamicThresholdingRatio, $0.sampleMaxValue) = (0.8, 50)
        }.plan(.count(4))
        var small = SamplingSession(plan: plan), large = small
        large.maximumThreads = maximumThreads
        let items = 2 * Self.parallel / 24 + 2
        var x = goldenStart, y = Self.tiled(x, count: 24 * items)
        while let timestep = small.timestep {
            let e = goldenOutput(x, timestep: timestep)
            try small.step(modelOutput: e, sample: &x, batchSize: 2)
            try large.step(modelOutput: Self.tiled(e, count: y.count), sample: &y, batchSize: 2 * items)
            #expect(Self.repeats(y, x), "step \(small.stepIndex - 1)")
        }
    }

    /// Each item has its own threshold: a NaN in one item doesn't change the others.
    @Test func aNaNStaysInItsItem() throws {
        let plan = try makeDEIS { ($0.thresholding, $0.sampleMaxValue) = (true, 3) }.plan(.count(4))
        var session = SamplingSession(plan: plan), clean = session
        var x = goldenStart, y = goldenStart
        x[5] = .nan
        try session.step(modelOutput: goldenStart, sample: &x, batchSize: 2)
        try clean.step(modelOutput: goldenStart, sample: &y, batchSize: 2)
        #expect(x[..<12].allSatisfy { $0.isNaN })
        #expect(bits(Array(x[12...])) == bits(Array(y[12...])))
    }
}

extension Array where Element: BinaryFloatingPoint {
    fileprivate var allFiniteAtEnds: Bool { (first?.isFinite ?? true) && (last?.isFinite ?? true) }
}
