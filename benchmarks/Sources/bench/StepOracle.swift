// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// Steps a plan slowly and plainly, in `Double`, straight from the public table of coefficients, and compares.
///
/// Each step starts from the actual tensors: the sample before it, and the slots that earlier steps stored. The comparison covers
/// one step's arithmetic, in every tensor that it writes.
struct StepOracle<Element: BenchmarkElement, Output: BenchmarkElement> {
    private let plan: SamplingPlan
    private let batchSize: Int
    private let guidance: Guidance?
    private let beginIndex: Int
    private var stepIndex: Int
    /// The slots by number; nil before the first store.
    private var slots: [Tensor<Element>?]

    init(_ stepCase: StepCase, beginIndex: Int = 0) {
        plan = stepCase.plan
        batchSize = stepCase.batchSize
        guidance = stepCase.guidance
        self.beginIndex = beginIndex
        stepIndex = beginIndex
        slots = Array(repeating: nil, count: plan.slotCount)
    }

    /// The greatest error of a step's results, in units in the last place; advances to the next step. Infinite if only one of the
    /// two is a NaN.
    ///
    /// The unit belongs to the largest of the result and its terms: cancellation shrinks the result's own unit, but not the
    /// rounding of the terms.
    ///
    /// - Parameters:
    ///   - result: the sample after the step.
    ///   - slot: a slot's contents after the step; called for the slots that the step stores.
    ///   - unconditional: for guided steps, otherwise nil.
    mutating func error(
        of result: Tensor<Element>, slot: (Int) -> Tensor<Element>, sample: Tensor<Element>,
        modelOutput: UnsafeBufferPointer<Output>, unconditional: UnsafeBufferPointer<Output>?, noise: UnsafeBufferPointer<Element>?
    ) -> Double {
        let outputs = weighted(modelOutput, unconditional)
        let row = plan.row(at: stepIndex, age: stepIndex - beginIndex)
        func terms(_ combination: Combination) -> Terms<Element, Output> {
            Terms(
                combination, sample: UnsafeBufferPointer(sample.elements), modelOutputs: outputs, noise: noise,
                slots: slots.map { $0.map { UnsafeBufferPointer($0.elements) } })
        }
        let clamped = ClampedPrediction(terms(row.prediction), clamp: plan.clamp, count: sample.count, batchSize: batchSize)
        let greatest = Greatest()
        func compare(_ tensor: Tensor<Element>, _ combination: Combination) {
            let terms = terms(combination)
            nonisolated(unsafe) let elements = tensor.elements
            forRanges(of: sample.count) { range in
                var sums = TermSums(count: range.count)
                terms.add(range, to: &sums)
                clamped.add(range, times: combination.prediction, to: &sums)
                var worst = 0.0
                for (place, i) in range.enumerated() { worst = max(worst, Self.error(of: elements[i].widened, sums, at: place)) }
                greatest.take(worst)
            }
        }
        compare(result, row.nextSample)
        let stored = row.stores.map { (slot: $0.slot, value: $0.value, tensor: slot($0.slot)) }
        for store in stored { compare(store.tensor, store.value) }
        for store in stored { keep(store.tensor, inSlot: store.slot) }
        stepIndex += 1
        return greatest.value
    }

    /// The model outputs with their weights in the output that the step uses: with guidance factor · (g e_c + (1 − g) e_u).
    private func weighted(
        _ conditional: UnsafeBufferPointer<Output>, _ unconditional: UnsafeBufferPointer<Output>?
    ) -> [(weight: Double, tensor: UnsafeBufferPointer<Output>)] {
        guard let guidance, let unconditional else { return [(1, conditional)] }
        let g = guidance.scale
        var factor = 1.0
        if guidance.rescale != 0 {
            let guided = Self.variance(conditional.count) { g * conditional[$0].widened + (1 - g) * unconditional[$0].widened }
            let own = Self.variance(conditional.count) { conditional[$0].widened }
            factor = guidance.rescale * (guided > 0 ? (own / guided).squareRoot() : 1) + (1 - guidance.rescale)
        }
        return [(factor * g, conditional), (factor * (1 - g), unconditional)]
    }

    /// Values are taken relative to the first one, so equal values have variance 0.
    private static func variance(_ count: Int, _ value: (Int) -> Double) -> Double {
        let origin = value(0)
        var sum = 0.0, squares = 0.0
        for i in 0..<count {
            let deviation = value(i) - origin
            sum += deviation
            squares += deviation * deviation
        }
        let mean = sum / Double(count)
        return squares / Double(count) - mean * mean
    }

    /// Keeps a copy, because the kernels use the memory again.
    private mutating func keep(_ tensor: Tensor<Element>, inSlot slot: Int) {
        let copy = slots[slot] ?? Tensor<Element>(count: tensor.count)
        copy.copy(from: tensor)
        slots[slot] = copy
    }

    private static func error(of result: Double, _ sums: TermSums, at place: Int) -> Double {
        let exact = sums.values[place]
        if result.isNaN || exact.isNaN { return result.isNaN && exact.isNaN ? 0 : .infinity }
        if result.isInfinite { return Element(rounding: exact).widened == result ? 0 : .infinity }
        let difference = abs((result - exact) - sums.remainders[place])
        return difference / Element.unitInLastPlace(at: max(abs(result), sums.largestTerms[place]))
    }
}

/// The terms of a combination of tensors, without the prediction.
private struct Terms<Element: BenchmarkElement, Output: BenchmarkElement>: @unchecked Sendable {
    // Unchecked, because the tensors don't change while threads read them.
    private let terms: [(coefficient: Double, tensor: UnsafeBufferPointer<Element>)]
    private let outputTerms: [(coefficient: Double, tensor: UnsafeBufferPointer<Output>)]

    init(
        _ combination: Combination, sample: UnsafeBufferPointer<Element>,
        modelOutputs: [(weight: Double, tensor: UnsafeBufferPointer<Output>)], noise: UnsafeBufferPointer<Element>?,
        slots: [UnsafeBufferPointer<Element>?]
    ) {
        var all = [(combination.sample, sample)]
        if let noise { all.append((combination.noise, noise)) }
        for (slot, tensor) in slots.enumerated() { if let tensor { all.append((combination[.slot(slot)], tensor)) } }
        // Tensors with the coefficient 0 aren't read.
        terms = all.filter { $0.0 != 0 }
        outputTerms = modelOutputs.map { (combination.modelOutput * $0.weight, $0.tensor) }.filter { $0.0 != 0 }
    }

    func add(_ range: Range<Int>, to sums: inout TermSums) {
        for (coefficient, tensor) in terms {
            sums.add(coefficient, exactly: Element.self == Double.self) { tensor[range.lowerBound + $0].widened }
        }
        for (coefficient, tensor) in outputTerms {
            sums.add(coefficient, exactly: Element.self == Double.self) { tensor[range.lowerBound + $0].widened }
        }
    }
}

/// The prediction of a step whose plan clamps it; absent without a clamp.
private struct ClampedPrediction<Element: BenchmarkElement, Output: BenchmarkElement>: Sendable {
    private let terms: Terms<Element, Output>
    private let clamp: PredictionClamp
    /// The dynamic threshold of every batch item.
    private let thresholds: [Double]
    private let itemCount: Int

    init(_ terms: Terms<Element, Output>, clamp: PredictionClamp, count: Int, batchSize: Int) {
        self.terms = terms
        self.clamp = clamp
        let itemCount = count / batchSize
        self.itemCount = itemCount
        guard case .dynamicThreshold(let ratio, let maximum) = clamp else {
            thresholds = []
            return
        }
        thresholds = (0..<batchSize).map { item in
            var sums = TermSums(count: itemCount)
            terms.add(item * itemCount..<(item + 1) * itemCount, to: &sums)
            return min(max(Self.quantile(sums.values.map { abs($0) }, ratio: ratio), 1), maximum)
        }
    }

    /// The quantile by sorting; NaN if a magnitude is.
    private static func quantile(_ magnitudes: [Double], ratio: Double) -> Double {
        if magnitudes.contains(where: \.isNaN) { return .nan }
        let sorted = magnitudes.sorted()
        // The ratio's type is part of the definition: float32, as in torch, unless elements are float64.
        let rank = (Element.elementType == .float64 ? ratio : Double(Float(ratio))) * Double(sorted.count - 1)
        let lower = sorted[Int(rank)], upper = sorted[min(Int(rank) + 1, sorted.count - 1)]
        return lower + (rank - rank.rounded(.down)) * (upper - lower)
    }

    func add(_ range: Range<Int>, times coefficient: Double, to sums: inout TermSums) {
        if clamp == .none || coefficient == 0 { return }
        var prediction = TermSums(count: range.count)
        terms.add(range, to: &prediction)
        sums.add(coefficient, exactly: Element.self == Double.self) { place in
            clamped(prediction.values[place], item: (range.lowerBound + place) / itemCount)
        }
    }

    private func clamped(_ p: Double, item: Int) -> Double {
        switch clamp {
        case .none: return p
        case .range(let limit): return p.isNaN ? p : min(max(p, -limit), limit)
        case .dynamicThreshold:
            let s = thresholds[item]
            return p.isNaN || s.isNaN ? .nan : min(max(p, -s), s) / s
        }
    }
}

/// Sums of products, for a number of elements.
private struct TermSums {
    private(set) var values: [Double]
    /// The rounding errors of `values`, only for float64 elements, whose own errors are as large (Ogita, Rump and Oishi 2005,
    /// doi:10.1137/030601818, algorithm Dot2).
    private(set) var remainders: [Double]
    private(set) var largestTerms: [Double]

    init(count: Int) {
        values = Array(repeating: 0, count: count)
        remainders = values
        largestTerms = values
    }

    /// Adds coefficient · factor(place) at every place.
    @inline(__always) mutating func add(_ coefficient: Double, exactly: Bool, _ factor: (Int) -> Double) {
        let (high, low) = Self.halves(coefficient)
        for place in values.indices {
            let number = factor(place), value = values[place]
            let product = coefficient * number, sum = value + product
            if exactly {
                let (numberHigh, numberLow) = Self.halves(number)
                let productRemainder = ((high * numberHigh - product) + high * numberLow + low * numberHigh) + low * numberLow
                let shadow = sum - value
                remainders[place] += productRemainder + ((value - (sum - shadow)) + (product - shadow))
            }
            values[place] = sum
            largestTerms[place] = max(largestTerms[place], abs(product))
        }
    }

    /// Veltkamp's split into numbers of 26 bits, whose products are exact (Dekker 1971, doi:10.1007/BF01397083).
    private static func halves(_ number: Double) -> (high: Double, low: Double) {
        let scaled = 134_217_729 * number
        let high = scaled - (scaled - number)
        return (high, number - high)
    }
}
