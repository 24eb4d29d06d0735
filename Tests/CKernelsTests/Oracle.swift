// SPDX-License-Identifier: Apache-2.0

/// The oracles. The plain one computes a step as CKernels.h documents it, one operation after the other; Swift never fuses a
/// product and a sum, so the core must give the same bits. The exact one bounds a float32 step's distance from the result without
/// rounding.

import CKernels

// MARK: - The plain oracle

/// The arithmetic of an item, which its tensors' widest type decides. Numbers are float64 here, whatever their type.
enum Arithmetic {
    case half, short, wide

    init(_ kinds: some Sequence<ElementKind>) {
        self = kinds.contains(.float64) ? .wide : kinds.contains(.float32) ? .short : .half
    }

    /// The coefficient rounded to the bits that the arithmetic uses.
    func used(_ coefficient: Double) -> Double {
        switch self {
        case .half: return Double(Float(coefficient))
        case .short:
            // 29 bits, ties to even: the leading one and 28 after it.
            guard coefficient.isFinite && coefficient != 0 else { return coefficient }
            let significand = (coefficient.significand * 0x1p28).rounded(.toNearestOrEven) * 0x1p-28
            return Double(sign: coefficient.sign, exponent: coefficient.exponent, significand: significand)
        case .wide: return coefficient
        }
    }

    func product(_ a: Double, _ b: Double) -> Double { self == .half ? Double(Float(a) * Float(b)) : a * b }
    func sum(_ a: Double, _ b: Double) -> Double { self == .half ? Double(Float(a) + Float(b)) : a + b }
    /// A number rounded to the type of p.
    func rounded(_ p: Double) -> Double { self == .wide ? p : Double(Float(p)) }

    /// The sum of the terms whose coefficient isn't zero, in order, before it is rounded.
    func combination(_ coefficients: [Double], _ tensors: [[Double]], prediction: [Double]? = nil, count: Int) -> [Double] {
        var sums = [Double](repeating: 0, count: count)
        var isFirst = true
        for (term, coefficient) in coefficients.enumerated() where coefficient != 0 {
            let used = used(coefficient)
            let tensor = term == Row.predictionTerm ? prediction! : tensors[term]
            for i in 0..<count {
                let product = product(used, tensor[i])
                sums[i] = isFirst ? product : sum(sums[i], product)
            }
            isFirst = false
        }
        return sums
    }

    func prediction(_ row: Row, _ inputs: [[Double]], count: Int) -> [Double] {
        combination(row.prediction, inputs, count: count).map(rounded)
    }

    /// All three outputs before rounding.
    func step(_ row: Row, inputs: [[Double]], threshold: Double, count: Int) -> [[Double]] {
        var p = prediction(row, inputs, count: count)
        if row.clamp != DSK_CLAMP_NONE {
            let range = rounded(row.clamp == DSK_CLAMP_RANGE ? row.clampRange : threshold)
            for i in 0..<count {
                if p[i] < -range { p[i] = -range }
                if p[i] > range { p[i] = range }
                // A float64 quotient of float32 numbers, rounded to float32, equals the float32 quotient.
                if row.clamp == DSK_CLAMP_THRESHOLD { p[i] = rounded(p[i] / range) }
            }
        }
        return row.outputs.map { combination($0, inputs, prediction: p, count: count) }
    }
}

func plainCombination<T: Element>(_ coefficients: [Double], _ tensors: [[T]], count: Int) -> [T] {
    Arithmetic([T.kind]).combination(coefficients, tensors.map { $0.map(\.widened) }, count: count).map { T($0) }
}

func plainPrediction<T: Element>(_ row: Row, _ inputs: [[T]], count: Int) -> [T.Prediction] {
    Arithmetic([T.kind]).prediction(row, inputs.map { $0.map(\.widened) }, count: count).map { T.Prediction($0) }
}

/// All three outputs. `inputs` holds a tensor or an empty array for each input.
func plainStep<T: Element>(_ row: Row, inputs: [[T]], threshold: Double, count: Int) -> [[T]] {
    Arithmetic([T.kind]).step(row, inputs: inputs.map { $0.map(\.widened) }, threshold: threshold, count: count)
        .map { $0.map { T($0) } }
}

/// The header's formula, applied to a sorted copy of p.
func plainThreshold<P: Element>(_ prediction: [P], ratio: Double, maxValue: Double) -> Double {
    plainThreshold(P.self, sorted: plainOrder(prediction), ratio: ratio, maxValue: maxValue)
}

/// The sorted |p|; nil if it contains a NaN.
func plainOrder<P: Element>(_ prediction: [P]) -> [Double]? {
    prediction.contains(where: \.isNaN) ? nil : prediction.map(\.widened.magnitude).sorted()
}

func plainThreshold<P: Element>(_: P.Type, sorted: [Double]?, ratio: Double, maxValue: Double) -> Double {
    guard let sorted else { return .nan }
    if sorted.isEmpty { return min(1, maxValue) }
    let rank = P.Prediction(ratio).widened * Double(sorted.count - 1)
    let k = Int(rank)
    let low = sorted[k]
    let high = rank > Double(k) ? sorted[k + 1] : low
    let quantile = P.Prediction(low + (rank - Double(k)) * (high - low)).widened
    if quantile.isNaN && maxValue > 1 { return .nan }
    return quantile > 1 ? min(quantile, maxValue) : min(1, maxValue)
}

// MARK: - The forward error

/// A number without rounding, and a bound on its distance from the computed one.
struct Bounded {
    var exact: Double
    var bound: Double
}

/// The table of CKernels.h.
extension ElementKind {
    var roundoff: Double { [.float32: 0x1p-24, .float64: 0x1p-53, .float16: 0x1p-11, .bfloat16: 0x1p-8][self]! }
    var least: Double { [.float32: 0x1p-149, .float64: 0x1p-1074, .float16: 0x1p-24, .bfloat16: 0x1p-133][self]! }
}

/// CKernels.h: |computed - exact| <= max(u |out|, least / 2) + e sum |coefficient * input|. The prediction has an error of its own,
/// which its coefficient scales. The factor 1 + 2^-18 covers the second-order terms of float32 sums; `exact` itself is off by at
/// most ten sums' 2^-53, which counts for float64 outputs.
func exactCombination(
    _ coefficients: [Double], _ tensors: [[Double]], prediction: Bounded? = nil, at i: Int, _ arithmetic: Arithmetic,
    output: ElementKind
) -> Bounded {
    var sum = Bounded(exact: 0, bound: 0)
    var magnitudes = 0.0, terms = 0.0
    for (term, coefficient) in coefficients.enumerated() where coefficient != 0 {
        let input = term == Row.predictionTerm ? prediction! : Bounded(exact: tensors[term][i], bound: 0)
        sum.exact += coefficient * input.exact
        sum.bound += abs(coefficient) * input.bound
        magnitudes += abs(coefficient) * (abs(input.exact) + input.bound)
        terms += 1
    }
    let e = [.half: (terms + 1) * 0x1p-24, .short: 0x1p-29, .wide: terms * 0x1p-53][arithmetic]!
    let own = arithmetic == .wide ? terms * 0x1p-53 : 0
    sum.bound += (e + own) * magnitudes
    sum.bound += max(output.roundoff * (abs(sum.exact) + sum.bound), output.least / 2)
    sum.bound *= 1 + 0x1p-18
    return sum
}

func exactStep(
    _ row: Row, inputs: [[Double]], threshold: Double, at i: Int, _ arithmetic: Arithmetic, outputs: [ElementKind]
) -> [Bounded] {
    let kind: ElementKind = arithmetic == .wide ? .float64 : .float32
    let u = kind.roundoff
    var p = exactCombination(row.prediction, inputs, at: i, arithmetic, output: kind)
    switch row.clamp {
    case DSK_CLAMP_RANGE:
        // Clamping to the exact range never moves two numbers apart; the range itself is rounded.
        p.exact = min(max(p.exact, -row.clampRange), row.clampRange)
        p.bound += u * row.clampRange
    case DSK_CLAMP_THRESHOLD:
        // min(max(p, -s), s) / s = min(max(p / s, -1), 1): p's error is divided by s, and the rounding of s and of the quotient
        // add u each to a number of at most 1.
        p.exact = min(max(p.exact / threshold, -1), 1)
        p.bound = (p.bound / threshold + 2 * u) * (1 + 64 * u)
    default: break
    }
    return zip(row.outputs, outputs).map {
        exactCombination($0, inputs, prediction: p, at: i, arithmetic, output: $1)
    }
}
