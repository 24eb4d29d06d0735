// SPDX-License-Identifier: Apache-2.0

import Foundation

@testable import DiffusionScheduling

/// Runs a plan slowly and plainly: one element after the other, in `Double`, straight from the public table of coefficients.
struct PlainOracle {
    let plan: SamplingPlan
    private let beginIndex: Int
    private(set) var stepIndex: Int
    /// The slots by number; nil before the first store.
    private var slots: [[Double]?]
    /// Σ |coefficient · input| of the slots' contents.
    private var slotMagnitudes: [[Double]?]

    init(plan: SamplingPlan, beginIndex: Int = 0) {
        self.plan = plan
        self.beginIndex = beginIndex
        stepIndex = beginIndex
        slots = Array(repeating: nil, count: plan.slotCount)
        slotMagnitudes = slots
    }

    struct Result {
        var nextSample: [Double]
        var prediction: [Double]
        var report: [Double]
        /// Σ |coefficient · input| of each element of the next sample, for error bounds, and the number of terms.
        var magnitudes: [Double]
        var terms: Int
        /// Σ |coefficient · input| with a slot's own magnitudes in place of its value: its terms may have cancelled when it was
        /// stored.
        var magnitudesOfAll: [Double]
    }

    /// - Parameter e: the prediction alone; its variance is the test problem's.
    mutating func step(modelOutput e: [Double], sample x: [Double], noise z: [Double]? = nil, batchSize: Int = 1) -> Result {
        let row = plan.row(at: stepIndex, age: stepIndex - beginIndex)
        let zero = [Double](repeating: 0, count: x.count)
        let factor = row.noiseFactor.value(at: GoldenProblem.variance)
        let streams = (x: x, e: e, z: (z ?? zero).map { factor * $0 })
        let p = clamp(evaluate(row.prediction, streams, zero), batchSize: batchSize)
        let next = evaluate(row.nextSample, streams, p), magnitudes = self.magnitudes(of: row.nextSample, streams, p, slots)
        let magnitudesOfAll = self.magnitudes(of: row.nextSample, streams, p, slotMagnitudes)
        let report = row.report.map { evaluate($0, streams, p) } ?? p
        // All stores read the slots from before the step.
        let stored = row.stores.map { evaluate($0.value, streams, p) }
        let storedMagnitudes = row.stores.map { self.magnitudes(of: $0.value, streams, p, slotMagnitudes) }
        for (index, store) in row.stores.enumerated() {
            (slots[store.slot], slotMagnitudes[store.slot]) = (stored[index], storedMagnitudes[index])
        }
        stepIndex += 1
        return Result(
            nextSample: next, prediction: p, report: report, magnitudes: magnitudes,
            terms: 4 + row.nextSample.slotCoefficients.filter { $0 != 0 }.count, magnitudesOfAll: magnitudesOfAll)
    }

    private typealias Streams = (x: [Double], e: [Double], z: [Double])

    private func evaluate(_ c: Combination, _ streams: Streams, _ p: [Double]) -> [Double] {
        streams.x.indices.map { terms(c, streams, p, slots, at: $0).reduce(0, +) }
    }

    private func magnitudes(of c: Combination, _ streams: Streams, _ p: [Double], _ slots: [[Double]?]) -> [Double] {
        streams.x.indices.map { terms(c, streams, p, slots, at: $0).reduce(0) { $0 + abs($1) } }
    }

    private func terms(_ c: Combination, _ streams: Streams, _ p: [Double], _ slots: [[Double]?], at i: Int) -> [Double] {
        var terms = [c.sample * streams.x[i], c.modelOutput * streams.e[i], c.noise * streams.z[i], c.prediction * p[i]]
        for (coefficient, slot) in zip(c.slotCoefficients, slots) where coefficient != 0 {
            terms.append(coefficient * (slot?[i] ?? .nan))
        }
        return terms
    }

    private func clamp(_ prediction: [Double], batchSize: Int) -> [Double] {
        switch plan.clamp {
        case .none: return prediction
        case .range(let limit): return prediction.map { min(max($0, -limit), limit) }
        case .dynamicThreshold(let ratio, let maximum):
            let size = prediction.count / batchSize
            return (0..<batchSize).flatMap { item in
                let values = prediction[item * size..<(item + 1) * size]
                let sorted = values.map { abs($0) }.sorted()
                let rank = ratio * Double(size - 1)
                let lower = sorted[Int(rank)], upper = sorted[min(Int(rank) + 1, size - 1)]
                let s = min(max(lower + (rank - rank.rounded(.down)) * (upper - lower), 1), maximum)
                return values.map { min(max($0, -s), s) / s }
            }
        }
    }
}

extension NoiseFactor {
    /// The factor if the model predicts the variance.
    func value(at variance: Double) -> Double {
        switch self {
        case .none: 1
        case .root: variance.squareRoot()
        case .exponential(let offset, let slope): exp(offset + slope * variance)
        }
    }
}

extension SamplingPlan {
    /// The next sample's coefficients of a multistep solver's earlier outputs, newest first, without those that aren't read.
    func history(at index: Int, age: Int) -> [Double] {
        let next = row(at: index, age: age).nextSample
        var history = (0..<min(index, slotCount)).map { next[.slot((index - 1 - $0) % slotCount)] }
        while history.last == 0 { history.removeLast() }
        return history
    }
}

extension Combination {
    /// The coefficients of the slots, by number.
    var slotCoefficients: [Double] { slots.indices.map { slots[$0] } }
}
