/// The oracles. The plain one computes a step as CKernels.h documents it, one operation after the other; Swift never fuses a
/// product and a sum, so the core has to have the same bits. The exact one knows how far a float32 step may be from what it
/// would be without rounding.

import CKernels

// MARK: - The same bits

/// The sum, in float64, of the terms whose coefficient isn't zero, in order; rounded once.
func plainCombination<T: Element>(_ coefficients: [Double], _ tensors: [[T]], prediction: [T]? = nil, count: Int) -> [T] {
    var sum = [Double](repeating: 0, count: count)
    var isFirst = true
    for (term, coefficient) in coefficients.enumerated() where coefficient != 0 {
        let used = T.used(coefficient)
        let tensor = term == Row.predictionTerm ? prediction! : tensors[term]
        for i in 0..<count {
            let product = used * tensor[i].widened
            sum[i] = isFirst ? product : sum[i] + product
        }
        isFirst = false
    }
    return sum.map { T($0) }
}

func plainPrediction<T: Element>(_ row: Row, _ inputs: [[T]], count: Int) -> [T] {
    plainCombination(row.prediction, inputs, count: count)
}

/// All three outputs, whichever are wanted. `inputs` holds a tensor or an empty array for each.
func plainStep<T: Element>(_ row: Row, inputs: [[T]], threshold: Double, count: Int) -> [[T]] {
    var p = plainPrediction(row, inputs, count: count)
    if row.clamp != DSK_CLAMP_NONE {
        let range = T(row.clamp == DSK_CLAMP_RANGE ? row.clampRange : threshold)
        for i in 0..<count {
            if p[i] < -range { p[i] = -range }
            if p[i] > range { p[i] = range }
            if row.clamp == DSK_CLAMP_THRESHOLD { p[i] = T(p[i].widened / range.widened) }
        }
    }
    return row.outputs.map { plainCombination($0, inputs, prediction: p, count: count) }
}

/// The header's formula on a sorted copy.
func plainThreshold<T: Element>(_ prediction: [T], ratio: Double, maxValue: Double) -> Double {
    if prediction.contains(where: \.isNaN) { return .nan }
    if prediction.isEmpty { return min(1, maxValue) }
    let sorted = prediction.map(\.magnitude).sorted()
    let rank = Double(T(ratio)) * Double(sorted.count - 1)
    let k = Int(rank)
    let low = Double(sorted[k])
    let high = rank > Double(k) ? Double(sorted[k + 1]) : low
    let quantile = Double(T(low + (rank - Double(k)) * (high - low)))
    if quantile.isNaN && maxValue > 1 { return .nan }
    return quantile > 1 ? min(quantile, maxValue) : min(1, maxValue)
}

// MARK: - The forward error

/// A number that was computed for float32 elements, as it would be without rounding, and a bound on the difference.
struct Bounded {
    var exact: Double
    var bound: Double
}

/// CKernels.h: |computed - exact| <= 2^-24 |out| + 2^-29 sum |coefficient * input|: one rounding to float32, and the rounding of
/// every coefficient to 29 bits; products are exact. The prediction comes with an error of its own, which its coefficient scales.
/// The factor 1 + 2^-18 covers what is of second order: at most ten sums' 2^-53 of the magnitudes, the same sums that `exact`
/// itself has, and |out| where the exact value stands.
func exactCombination(_ coefficients: [Double], _ tensors: [[Float]], prediction: Bounded? = nil, at i: Int) -> Bounded {
    var sum = Bounded(exact: 0, bound: 0)
    var magnitudes = 0.0
    for (term, coefficient) in coefficients.enumerated() where coefficient != 0 {
        let input = term == Row.predictionTerm ? prediction! : Bounded(exact: Double(tensors[term][i]), bound: 0)
        sum.exact += coefficient * input.exact
        sum.bound += abs(coefficient) * input.bound
        magnitudes += abs(coefficient * input.exact)
    }
    sum.bound = (sum.bound + 0x1p-24 * abs(sum.exact) + 0x1p-29 * magnitudes) * (1 + 0x1p-18)
    return sum
}

func exactStep(_ row: Row, inputs: [[Float]], threshold: Double, at i: Int) -> [Bounded] {
    let u = 0x1p-24
    var p = exactCombination(row.prediction, inputs, at: i)
    switch row.clamp {
    case DSK_CLAMP_RANGE:
        // Clamping to the exact range brings no two numbers further apart; the range itself is rounded.
        p.exact = min(max(p.exact, -row.clampRange), row.clampRange)
        p.bound += u * row.clampRange
    case DSK_CLAMP_THRESHOLD:
        // min(max(p, -s), s) / s = min(max(p / s, -1), 1): p's error is divided by s, and the rounding of s and of the quotient
        // add u each to a number of at most 1.
        p.exact = min(max(p.exact / threshold, -1), 1)
        p.bound = (p.bound / threshold + 2 * u) * (1 + 64 * u)
    default: break
    }
    return row.outputs.map { exactCombination($0, inputs, prediction: p, at: i) }
}
