// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// An element type of these tests, made from a `Double` with one rounding and exact in a `Double`.
private protocol TestedElement: TensorElement {
    init(rounding value: Double)
    var widened: Double { get }
}
extension Float: TestedElement {
    init(rounding value: Double) { self = Float(value) }
    var widened: Double { Double(self) }
}
extension Double: TestedElement {
    init(rounding value: Double) { self = value }
    var widened: Double { self }
}
extension BFloat16: TestedElement {
    /// (`Float` in between adds a second rounding, which random data tolerate.)
    init(rounding value: Double) { self = BFloat16(Float(value)) }
    var widened: Double { Double(Float(self)) }
}
#if !(os(macOS) && arch(x86_64))
    extension Float16: TestedElement {
        init(rounding value: Double) { self = Float16(value) }
        var widened: Double { Double(self) }
    }
#endif

/// float16 and bfloat16, and sessions whose model output has another type than the sample.
@Suite struct ElementTypeTests {
    // MARK: BFloat16

    @Test func everyBFloat16SurvivesFloat() {
        for bits in UInt16.min...UInt16.max {
            let number = BFloat16(bitPattern: bits), float = Float(number)
            #expect(float.bitPattern == UInt32(bits) << 16)
            let back = BFloat16(float)
            if float.isNaN { #expect(Float(back).isNaN) } else { #expect(back.bitPattern == bits) }
            #expect((number == back) == !float.isNaN)
        }
    }

    @Test func bfloat16RoundsToNearestAndEven() {
        for bits in UInt16(0)..<0x7f80 {
            let middle = Float(bitPattern: UInt32(bits) << 16 | 0x8000)
            for sign: UInt16 in [0, 0x8000] {
                let signed = { (x: Float) in BFloat16(sign == 0 ? x : -x).bitPattern }
                #expect(signed(middle) == sign | (bits % 2 == 0 ? bits : bits + 1))
                #expect(signed(middle.nextDown) == sign | bits)
                #expect(signed(middle.nextUp) == sign | (bits + 1))
            }
        }
        #expect(BFloat16(.infinity).bitPattern == 0x7f80)
        #expect(BFloat16(.greatestFiniteMagnitude).bitPattern == 0x7f80)
        // All its set bits are cut off, but it must not become infinite.
        #expect(Float(BFloat16(Float(bitPattern: 0x7f80_0001))).isNaN)
        #expect(Float(BFloat16(Float(bitPattern: 0xffff_ffff))).isNaN)
        #expect(BFloat16(0) == BFloat16(-0.0) && BFloat16(.nan) != BFloat16(.nan))
        #expect("\(BFloat16(1.5))" == "1.5")
    }

    @Test func sizes() {
        #expect(ElementType.allCases.map(\.size) == [4, 8, 2, 2])
        #expect(ElementType.allCases.map(\.rawValue) == ["float32", "float64", "float16", "bfloat16"])
    }

    // MARK: Sessions

    private static func plan(thresholding: Bool = false, learnsVariance: Bool = false) throws -> SamplingPlan {
        var configuration = DPMSolverMultistepConfiguration()
        configuration.solverOrder = 3
        configuration.thresholding = thresholding
        configuration.sampleMaxValue = 2
        configuration.varianceType = learnsVariance ? "learned_range" : nil
        return try DPMSolverMultistepScheduler(configuration).plan(.count(8))
    }

    private static let count = 2 * 150

    /// A smooth function like a model's, in the type that it computes in, with variances after each item if it learns them.
    private static func output<Element: TestedElement, Output: TestedElement>(
        _ sample: [Element], timestep: Double, twice: Bool, as type: Output.Type
    ) -> [Output] {
        let e = sample.enumerated().map { Output(rounding: sin(3 * $1.widened + Double($0) + timestep / 300)) }
        guard twice else { return e }
        let half = count / 2, variances = [Output](repeating: Output(rounding: 7), count: half)
        return e[..<half] + variances + e[half...] + variances
    }

    private static func start<Element: TestedElement>(_: Element.Type) -> [Element] {
        (0..<count).map { Element(rounding: 1.5 * cos(Double($0 * $0))) }
    }

    /// A model output whose type converts to the sample's without loss gives the bits of its conversion: the sum has the same
    /// terms, whether the kernel or the caller widens them.
    private func checkMixed<Element: TestedElement, Output: TestedElement>(
        _: Element.Type, _: Output.Type, thresholding: Bool, learnsVariance: Bool
    ) throws {
        let plan = try Self.plan(thresholding: thresholding, learnsVariance: learnsVariance)
        var mixed = SamplingSession(plan: plan), uniform = SamplingSession(plan: plan)
        var sample = Self.start(Element.self), converted = sample
        while let timestep = mixed.timestep {
            let e = Self.output(sample, timestep: timestep, twice: learnsVariance, as: Output.self)
            var span = sample.mutableSpan
            try mixed.step(modelOutput: e.span, sample: &span, batchSize: 2)
            try uniform.step(modelOutput: e.map { Element(rounding: $0.widened) }, sample: &converted, batchSize: 2)
            #expect(bits(sample) == bits(converted), "\(Element.self), \(Output.self), step \(mixed.stepIndex)")
        }
        #expect(sample.allSatisfy { $0.widened.isFinite })
    }

    @Test(arguments: [false, true], [false, true])
    func modelOutputsOfNarrowerTypes(thresholding: Bool, learnsVariance: Bool) throws {
        try checkMixed(Float.self, BFloat16.self, thresholding: thresholding, learnsVariance: learnsVariance)
        try checkMixed(Double.self, BFloat16.self, thresholding: thresholding, learnsVariance: learnsVariance)
        try checkMixed(Double.self, Float.self, thresholding: thresholding, learnsVariance: learnsVariance)
        try checkMixed(BFloat16.self, BFloat16.self, thresholding: thresholding, learnsVariance: learnsVariance)
        #if !(os(macOS) && arch(x86_64))
            try checkMixed(Float.self, Float16.self, thresholding: thresholding, learnsVariance: learnsVariance)
            try checkMixed(Double.self, Float16.self, thresholding: thresholding, learnsVariance: learnsVariance)
        #endif
    }

    /// A run ends within rounding of a run in `Double`.
    ///
    /// Each step's bounds follow from the previous ones: an input's error counts times its coefficient; the model output is rounded
    /// (u of its type), the sample and the stored tensors are rounded (u of theirs), and each sum in `Float` adds 2⁻²⁴ (t + 1)
    /// Σ|coefficient · input|, rounded up to 2⁻²⁰ Σ.
    private func checkNearDouble<Element: TestedElement, Output: TestedElement>(
        _: Element.Type, _: Output.Type, u: Double, outputU: Double
    ) throws {
        let plan = try Self.plan()
        var session = SamplingSession(plan: plan), reference = SamplingSession(plan: plan)
        var sample = Self.start(Element.self), exact = sample.map(\.widened)
        var bound = 0.0, slots = Array(repeating: (size: 0.0, bound: 0.0), count: plan.slotCount)
        while let timestep = session.timestep {
            let row = plan.row(at: session.stepIndex, age: session.age)
            // Both runs get the exact run's outputs, so only their arithmetic differs.
            let e = Self.output(exact, timestep: timestep, twice: false, as: Double.self)
            let rounded = e.map { Output(rounding: $0) }
            let inputs = [
                (size: exact.map(abs).max()!, bound: bound), (size: e.map(abs).max()!, bound: outputU * e.map(abs).max()!),
            ]
            func combined(_ c: Combination) -> (size: Double, bound: Double) {
                let terms = zip([c.sample, c.modelOutput] + c.slotCoefficients, inputs + slots)
                let size = terms.reduce(0) { $0 + abs($1.0) * ($1.1.size + $1.1.bound) }
                return (size, terms.reduce(0) { $0 + abs($1.0) * $1.1.bound } + (u + 0x1p-20) * size)
            }
            bound = combined(row.nextSample).bound
            let stored = row.stores.map { combined($0.value) }
            for (store, value) in zip(row.stores, stored) { slots[store.slot] = value }
            try reference.step(modelOutput: e, sample: &exact)
            var span = sample.mutableSpan
            try session.step(modelOutput: rounded.span, sample: &span)
        }
        let error = zip(sample, exact).map { abs($0.widened - $1) }.max()!
        #expect(error < bound && error > bound / 1000, "\(Element.self), \(Output.self): \(error), bound \(bound)")
    }

    @Test func runsInHalfPrecision() throws {
        try checkNearDouble(BFloat16.self, BFloat16.self, u: 0x1p-8, outputU: 0x1p-8)
        try checkNearDouble(BFloat16.self, Float.self, u: 0x1p-8, outputU: 0x1p-24)
        #if !(os(macOS) && arch(x86_64))
            try checkNearDouble(Float16.self, Float16.self, u: 0x1p-11, outputU: 0x1p-11)
            try checkNearDouble(Float16.self, Float.self, u: 0x1p-11, outputU: 0x1p-24)
            try checkNearDouble(Float16.self, BFloat16.self, u: 0x1p-11, outputU: 0x1p-8)
        #endif
    }

    /// Each step may bring a model output of another type; the sample's type stays.
    @Test func theSampleDecides() throws {
        var session = SamplingSession(plan: try Self.plan())
        var sample = Self.start(Float.self), brains = Self.start(BFloat16.self)
        let e = Self.output(sample, timestep: 0, twice: false, as: Float.self)
        let narrow = e.map { BFloat16($0) }, wide = e.map { Double($0) }
        var span = sample.mutableSpan
        try session.step(modelOutput: narrow.span, sample: &span)
        try session.step(modelOutput: e.span, sample: &span)
        try session.step(modelOutput: wide.span, sample: &span)
        #expect(throws: SchedulerError.wrongElementType(argument: "sample", type: "bfloat16", expected: "float32")) {
            try session.step(modelOutput: brains, sample: &brains)
        }
        #expect(session.stepIndex == 3)
    }

    /// The calls beside the steps accept the half types, too.
    @Test func addedNoise() throws {
        var scheduler = try DPMSolverMultistepScheduler(.init())
        try scheduler.setTimesteps(8)
        let clean = Self.start(BFloat16.self), noise = Array(clean.reversed())
        let noisy = try scheduler.addNoise(noise, to: clean, timesteps: Array(scheduler.timesteps[2...3]))
        let exact = try scheduler.addNoise(
            noise.map(\.widened), to: clean.map(\.widened), timesteps: Array(scheduler.timesteps[2...3]))
        for (a, b) in zip(noisy, exact) { #expect(abs(a.widened - b) <= 0x1p-8 * abs(b) + 0x1p-20) }
        var guided = clean
        try Guidance(scale: 1, rescale: 0.7).rescale(&guided, conditional: noise.map { BFloat16(2 * Float($0)) }, batchSize: 2)
        #expect(guided != clean)
    }
}
