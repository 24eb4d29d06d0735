// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// Compares all contestants with the oracle, at the size at which they are timed.
struct Verification<Element: BenchmarkElement, Output: BenchmarkElement> {
    private let stepCase: StepCase
    private let count: Int
    private let data: StepData<Element, Output>
    private let before: Tensor<Element>
    /// The steps on one thread, on all threads, and by the kernels alone.
    private let single, threaded: SessionStepper<Element, Output>
    private let kernel: KernelStepper<Element, Output>
    /// The loops by hand that are compared with the steps, if there are any.
    private let byHand: KernelStepper<Element, Output>?
    /// The steps that keep their outputs, and guidance in separate passes, if they are timed.
    private let consuming: ConsumingStepper<Element>?
    private let separate: SeparateGuidance?

    init(stepCase: StepCase, count: Int, misalignment: Int) throws {
        self.stepCase = stepCase
        self.count = count
        data = StepData(stepCase, count: count, misalignment: misalignment)
        func tensor() -> Tensor<Element> { Tensor(count: count, misalignment: misalignment) }
        before = tensor()
        single = SessionStepper(stepCase, data, maximumThreads: 1, sample: tensor())
        threaded = SessionStepper(stepCase, data, maximumThreads: 0, sample: tensor())
        kernel = KernelStepper(stepCase, data, maximumThreads: 0, sample: tensor(), nextSample: tensor())
        byHand = KernelStepper(stepCase, data, maximumThreads: 0, sample: tensor(), nextSample: tensor()).byHand()
        if stepCase.forms.contains(.consuming), let data = data as? StepData<Element, Element> {
            consuming = try ConsumingStepper(stepCase, data, maximumThreads: 0, sample: tensor())
        } else {
            consuming = nil
        }
        if stepCase.guidance != nil, let data = data as? StepData<Float, Float> {
            separate = SeparateGuidance(stepCase, data, threads: 1, sample: Tensor(count: count, misalignment: misalignment))
        } else {
            separate = nil
        }
    }

    /// The kernels' bound (CKernels.h), in units in the last place of the largest of t terms: half a unit for the result's
    /// rounding, plus, with float64, up to t² for the rounding of products and sums, otherwise t/32 for the coefficients'. A
    /// clamped prediction has up to four units more: its own rounding and, with a threshold, the roundings of the order statistics,
    /// the threshold and the quotient.
    private var tolerance: Double {
        let t = Double(stepCase.inputs.count)
        return 0.5 + (Element.elementType == .float64 ? t * t : t / 32) + (stepCase.plan.clamp == .none ? 0 : 4)
    }

    /// Runs the first steps, each of which uses more slots, on data of every kind.
    ///
    /// - Returns: the greatest error, in units in the last place.
    func run() throws -> Double {
        var worst = 0.0
        for kind in DataKind.allCases { worst = max(worst, try run(kind)) }
        return worst
    }

    private func run(_ kind: DataKind) throws -> Double {
        data.fill(with: kind)
        single.restart()
        threaded.restart()
        kernel.restart()
        byHand?.restart()
        consuming?.restart()
        separate?.restart()
        // The returning step takes arrays of one type, without guidance.
        var returning = (data as? StepData<Element, Element>).flatMap { data in
            stepCase.guidance == nil ? ReturningSession(stepCase, data) : nil
        }
        var oracle = StepOracle<Element, Output>(stepCase)
        var worst = 0.0
        for step in 0..<stepCase.plan.warmUp + 2 {
            func failure(_ what: String) -> BenchmarkFailure {
                BenchmarkFailure(
                    "\(stepCase.name), \(Element.elementType.rawValue), \(count), \(kind.rawValue) data, step \(step): \(what)")
            }
            before.copy(from: single.sample)
            try single.run(steps: 1)
            try threaded.run(steps: 1)
            try kernel.run(steps: 1)
            try byHand?.run(steps: 1)
            try consuming?.stepFresh()
            try separate?.run(steps: 1)
            let error = oracle.error(
                of: single.sample, slot: kernel.slot, sample: before,
                modelOutput: data.modelOutput(step: step), unconditional: data.unconditional(step: step), noise: data.noiseElements)
            guard error <= tolerance else { throw failure("off by \(error) units in the last place") }
            worst = max(worst, error)

            let same =
                haveSameBits(UnsafeBufferPointer(threaded.sample.elements), single.sample)
                && haveSameBits(UnsafeBufferPointer(kernel.sample.elements), single.sample)
            guard same else { throw failure("the bits depend on the threads or on the form of the step") }
            if let byHand, !haveSameBits(UnsafeBufferPointer(byHand.sample.elements), single.sample) {
                throw failure("the loop by hand has other bits")
            }
            if let consuming, !haveSameBits(UnsafeBufferPointer(consuming.sample.elements), single.sample) {
                throw failure("the step that keeps its model output has other bits")
            }
            if let returned = try returning?.step(), !returned.withUnsafeBufferPointer({ haveSameBits($0, single.sample) }) {
                throw failure("the returning step has other bits")
            }
            if let separate {
                // Every pass rounds, so the results differ by many units of the outputs at large scales.
                let isNear = zip(separate.sample.elements, single.sample.elements).allSatisfy { a, b in
                    a.isNaN && b.widened.isNaN || abs(a.widened - b.widened) <= 1e-4 * max(abs(b.widened), 1)
                }
                guard isNear else { throw failure("guidance in separate passes gives something else") }
            }
        }
        guard returning?.outputsAreUnchanged ?? true else {
            throw BenchmarkFailure("\(stepCase.name), \(count) elements: a later step changed the output of an earlier one")
        }
        return worst
    }

    /// Any NaN equals any other; other elements must have the same bits.
    private func haveSameBits(_ a: UnsafeBufferPointer<Element>, _ b: Tensor<Element>) -> Bool {
        if memcmp(a.baseAddress!, b.address, b.count * MemoryLayout<Element>.stride) == 0 { return true }
        return a.indices.allSatisfy { i in
            let (p, q) = (a[i].widened, b.elements[i].widened)
            return p == q && p.sign == q.sign || p.isNaN && q.isNaN
        }
    }
}

/// A session that returns each next sample in a new array, and keeps all of them.
private struct ReturningSession<Element: BenchmarkElement> {
    private let data: StepData<Element, Element>
    private let batchSize: Int
    private let noise: [Element]?
    private var session: SamplingSession
    private var outputs: [[Element]]
    private var checksums: [UInt64]

    init(_ stepCase: StepCase, _ data: StepData<Element, Element>) {
        self.data = data
        batchSize = stepCase.batchSize
        noise = data.noiseElements.map(Array.init)
        session = SamplingSession(plan: stepCase.plan)
        outputs = [Array(data.start.elements)]
        checksums = outputs.map(checksum)
    }

    mutating func step() throws -> [Element] {
        let modelOutput = Array(data.modelOutput(step: session.stepIndex))
        let next = try session.step(
            modelOutput: modelOutput, sample: outputs[outputs.count - 1], noise: noise, batchSize: batchSize
        ).nextSample
        outputs.append(next)
        checksums.append(checksum(next))
        return next
    }

    var outputsAreUnchanged: Bool { outputs.map(checksum) == checksums }
}

/// A sum over the bytes that depends on their order (like FNV-1a, but by words).
private func checksum(_ elements: [some BenchmarkElement]) -> UInt64 {
    elements.withUnsafeBytes { bytes in
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        let words = bytes.count / 8
        for i in 0..<words { hash = (hash ^ bytes.loadUnaligned(fromByteOffset: 8 * i, as: UInt64.self)) &* 0x100_0000_01B3 }
        for i in 8 * words..<bytes.count { hash = (hash ^ UInt64(bytes[i])) &* 0x100_0000_01B3 }
        return hash
    }
}
