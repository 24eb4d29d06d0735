// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// The steps of diffusers 0.42.1's DPMSolverMultistepScheduler with a pass over memory for each tensor operation.
///
/// Operations, their order and the float32 coefficients are those of diffusers' file for what the engine's model asks for: dpmsolver++ of
/// order 2 with the midpoint rule, predicted noise, guidance. Each step starts at the library's sample and gets the outputs of the network
/// that the library's step gets.
///
/// Its time is a lower bound of diffusers': the overhead of Python and of torch for every operation is left out, that of operations on
/// single numbers included, and so are `set_timesteps` and the arguments' checks.
final class PassPerOperation {
    /// Time of the steps so far.
    private(set) var time = Duration.zero
    /// The greatest difference from the library's samples so far, as a share of what float32 allows.
    private(set) var greatestShare = 0.0

    private let sigmas: [Float]
    private let guidanceScale: Float
    private let endsWithOrder1: Bool
    private var index = 0
    /// The last step's prediction, the greatest magnitude of the prediction's terms, the step's result, and the result's bound.
    private var prediction: Tensor?, magnitude = 0.0, result: Tensor?, bound = 0.0
    /// `torch.cat([latents] * 2)`.
    private var modelInput: Tensor?

    /// Nil for other schedulers and other guidance.
    init?(_ scheduler: any PlannedScheduler, _ plan: SamplingPlan, _ guidance: Guidance) {
        guard let configuration = scheduler.configuration as? DPMSolverMultistepConfiguration,
            configuration.algorithmType == .dpmsolverPlusPlus, configuration.solverType == .midpoint,
            configuration.solverOrder == 2, configuration.predictionType == .epsilon, configuration.varianceType == nil,
            !configuration.thresholding, !configuration.useFlowSigmas, guidance.rescale == 0
        else { return nil }
        sigmas = plan.sigmas.map(Float.init)
        guidanceScale = Float(guidance.scale)
        endsWithOrder1 =
            configuration.eulerAtFinal || (configuration.lowerOrderFinal && plan.stepCount < 15)
            || configuration.finalSigmasType == .zero
    }

    /// Takes a step from a sample and the outputs of the network for it.
    func step(sample: Tensor, conditional: Tensor, unconditional: Tensor) {
        let clock = ContinuousClock(), began = clock.now
        modelInput = Tensor(joining: sample, sample)
        let output = unconditional + guidanceScale * (conditional - unconditional)

        let scalars = Scalars<Float>(sigmas, index)
        let m0 = (sample - scalars.sigma * output) / scalars.alpha
        let previous = index == 0 || (endsWithOrder1 && index == sigmas.count - 2) ? nil : prediction
        var next = scalars.ofSample * sample - scalars.ofPrediction * m0
        if let m1 = previous {
            let slope = scalars.inverseRatio * (m0 - m1)
            next = next - (0.5 * scalars.ofPrediction) * slope
        }
        (prediction, result) = (m0, next)
        time += clock.now - began

        let outputs = unconditional.greatestMagnitude + abs(Double(guidanceScale)) * (conditional - unconditional).greatestMagnitude
        setBound(scalars, sample: sample.greatestMagnitude, output: outputs, hasSlope: previous != nil)
        index += 1
    }

    /// Bounds the difference of the two results with maxima X, E, M of the magnitudes of sample, guided output and prediction.
    ///
    /// u = 2⁻²⁴ is the error of an operation. α has at most 3 u, σ 4 u, their ratio 9 u, and the guided output 3 u of E = |e_u| + g|e_c − e_u|.
    /// So a prediction (x − σe)/α is off by less than 12 u M, with M = (X + σE)/α. With products and sums, 12 u of the sample's term,
    /// 15 u of the prediction's and 16 u of the slope's are lost. The library loses less than 2 u of all terms: it computes in float64
    /// and rounds what it stores. 20 u cover their sum and the squares of u.
    ///
    /// The other two coefficients are differences of logarithms, which cancel: their errors are the distances from float64.
    private func setBound(_ scalars: Scalars<Float>, sample: Double, output: Double, hasSlope: Bool) {
        let exact = Scalars<Double>(sigmas, index)
        let m0 = (sample + exact.sigma * output) / exact.alpha, difference = hasSlope ? m0 + magnitude : 0
        let ofSlope = 0.5 * exact.ofPrediction * exact.inverseRatio
        let slopeError = abs(Double(0.5 * scalars.ofPrediction) * Double(scalars.inverseRatio) - ofSlope)
        let terms = exact.ofSample * sample + abs(exact.ofPrediction) * m0 + (hasSlope ? abs(ofSlope) * difference : 0)
        bound =
            abs(Double(scalars.ofPrediction) - exact.ofPrediction) * m0 + (hasSlope ? slopeError * difference : 0)
            + 20 * 0x1p-24 * terms
        magnitude = m0
    }

    /// Compares the step's result with the library's.
    func check(_ samples: [Float]) throws {
        let difference = samples.withUnsafeBufferPointer { (Tensor(viewing: $0) - result!).greatestMagnitude }
        guard difference <= bound else {
            let numbers = String(format: "%.2g from the library's, but must be within %.2g", difference, bound)
            throw EngineError("the sample after step \(index), with a pass per tensor operation, is \(numbers)")
        }
        greatestShare = max(greatestShare, difference / bound)
    }
}

/// A tensor whose operators make a pass and a tensor each, as torch's do.
final class Tensor {
    private let elements: UnsafeMutableBufferPointer<Float>
    private let isView: Bool

    /// Elements that others own, and keep for as long as the tensor lives.
    init(viewing elements: UnsafeBufferPointer<Float>) {
        (self.elements, isView) = (UnsafeMutableBufferPointer(mutating: elements), true)
    }

    private init(count: Int) { (elements, isView) = (.allocate(capacity: count), false) }

    convenience init(joining first: Tensor, _ second: Tensor) {
        self.init(count: first.elements.count + second.elements.count)
        let end = elements[..<first.elements.count].initialize(fromContentsOf: first.elements)
        _ = elements[end...].initialize(fromContentsOf: second.elements)
    }

    deinit { if !isView { elements.deallocate() } }

    @inline(__always)
    private static func pass(_ a: Tensor, _ b: Tensor, _ operation: (Float, Float) -> Float) -> Tensor {
        precondition(b.elements.count == a.elements.count)
        let result = Tensor(count: a.elements.count), (a, b, c) = (a.elements, b.elements, result.elements)
        for index in c.indices { c[index] = operation(a[index], b[index]) }
        return result
    }

    static func + (a: Tensor, b: Tensor) -> Tensor { pass(a, b, +) }
    static func - (a: Tensor, b: Tensor) -> Tensor { pass(a, b, -) }
    static func * (scalar: Float, a: Tensor) -> Tensor { pass(a, a) { a, _ in scalar * a } }
    static func / (a: Tensor, scalar: Float) -> Tensor { pass(a, a) { a, _ in a / scalar } }

    /// The greatest magnitude of an element; NaN where one is NaN.
    var greatestMagnitude: Double { elements.reduce(0) { $1.isNaN ? .nan : Swift.max($0, abs(Double($1))) } }
}

/// The numbers of a step, in diffusers' formulas.
private struct Scalars<Real: Logarithmic> {
    /// The rates of the level that the step begins at.
    let alpha, sigma: Real
    /// σ_t/σ_s, α_t (e⁻ʰ − 1) and 1/r₀.
    let ofSample, ofPrediction: Real
    var inverseRatio: Real = 0

    init(_ sigmas: [Float], _ index: Int) {
        func rates(_ index: Int) -> (alpha: Real, sigma: Real, lambda: Real) {
            let sigma = Real(sigmas[index]), alpha = 1 / (sigma * sigma + 1).squareRoot()
            return (alpha, sigma * alpha, Real.log(alpha) - Real.log(sigma * alpha))
        }
        let s0 = rates(index), t = rates(index + 1), h = t.lambda - s0.lambda
        (alpha, sigma) = (s0.alpha, s0.sigma)
        (ofSample, ofPrediction) = (t.sigma / s0.sigma, t.alpha * (Real.exp(-h) - 1))
        if index > 0 { inverseRatio = 1 / ((s0.lambda - rates(index - 1).lambda) / h) }
    }
}

private protocol Logarithmic: BinaryFloatingPoint {
    static func log(_ x: Self) -> Self
    static func exp(_ x: Self) -> Self
}

extension Float: Logarithmic {
    fileprivate static func log(_ x: Float) -> Float { Foundation.log(x) }
    fileprivate static func exp(_ x: Float) -> Float { Foundation.exp(x) }
}

extension Double: Logarithmic {
    fileprivate static func log(_ x: Double) -> Double { Foundation.log(x) }
    fileprivate static func exp(_ x: Double) -> Double { Foundation.exp(x) }
}
