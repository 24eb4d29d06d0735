// SPDX-License-Identifier: Apache-2.0

@testable import DiffusionScheduling

/// Runs a plan the slow, plain way: one element after another, in `Double`, straight from the public table of coefficients.
struct PlainOracle {
    let plan: SamplingPlan
    private(set) var stepIndex: Int
    /// The remembered outputs, the newest first.
    private var history: [[Double]] = []

    init(plan: SamplingPlan, beginIndex: Int = 0) {
        self.plan = plan
        stepIndex = beginIndex
    }

    struct Result {
        var nextSample: [Double]
        var prediction: [Double]
        /// Σ |coefficient · input| of each element of the next sample, for error bounds, and the number of terms.
        var magnitudes: [Double]
        var terms: Int
    }

    mutating func step(modelOutput e: [Double], sample x: [Double], noise z: [Double]? = nil, batchSize: Int = 1) -> Result {
        let row = plan.coefficients(at: stepIndex, remembered: history.count)
        let zero = [Double](repeating: 0, count: x.count)
        let p = clamp(evaluate(row.prediction, x, e, z ?? zero, zero), batchSize: batchSize)
        let next = evaluate(row.nextSample, x, e, z ?? zero, p)
        let absolute = { (values: [Double]) in values.map { abs($0) } }
        var magnitude = row.nextSample
        magnitude.sample = abs(magnitude.sample)
        magnitude.modelOutput = abs(magnitude.modelOutput)
        magnitude.noise = abs(magnitude.noise)
        magnitude.prediction = abs(magnitude.prediction)
        magnitude.history = absolute(magnitude.history)
        let signed = history
        history = history.map(absolute)
        let magnitudes = evaluate(magnitude, absolute(x), absolute(e), absolute(z ?? zero), absolute(p))
        history = signed

        if let conversion = row.history {
            history.insert(evaluate(conversion, x, e, z ?? zero, p), at: 0)
            if history.count > plan.historyLength { history.removeLast() }
        }
        stepIndex += 1
        return Result(nextSample: next, prediction: p, magnitudes: magnitudes, terms: 4 + row.nextSample.history.count)
    }

    private func evaluate(_ c: LinearCombination, _ x: [Double], _ e: [Double], _ z: [Double], _ p: [Double]) -> [Double] {
        x.indices.map { i in
            var sum = c.sample * x[i] + c.modelOutput * e[i] + c.noise * z[i] + c.prediction * p[i]
            for (coefficient, output) in zip(c.history, history) { sum += coefficient * output[i] }
            return sum
        }
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
