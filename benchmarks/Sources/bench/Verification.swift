import DiffusionScheduling
import Foundation

/// Compares everything that is going to be timed with the oracle, at the size that is going to be timed.
struct Verification<Element: BenchmarkElement> {
    private let stepCase: StepCase
    private let count: Int
    private let data: StepData<Element>
    private let before: Tensor<Element>
    /// The same steps on one thread, on all, and by the kernels alone.
    private let single, threaded: SessionStepper<Element>
    private let kernel: KernelStepper<Element>

    init(stepCase: StepCase, count: Int, misalignment: Int) {
        self.stepCase = stepCase
        self.count = count
        data = StepData(count: count, isStochastic: stepCase.isStochastic, misalignment: misalignment)
        func tensor() -> Tensor<Element> { Tensor(count: count, misalignment: misalignment) }
        before = tensor()
        single = SessionStepper(stepCase, data, maximumThreads: 1, sample: tensor())
        threaded = SessionStepper(stepCase, data, maximumThreads: 0, sample: tensor())
        kernel = KernelStepper(stepCase, data, maximumThreads: 0, sample: tensor(), nextSample: tensor())
    }

    /// What the kernels promise (CKernels.h), in units in the last place of the largest of t terms: half a unit for the result's
    /// rounding; with float64 up to t² for that of products and sums, else t/32 for that of coefficients. A clamped prediction has
    /// up to four units more: its own rounding, and with a threshold those of the order statistics, the threshold and the quotient.
    private var tolerance: Double {
        let t = Double(stepCase.inputs.count)
        return 0.5 + (Element.elementType == .float64 ? t * t : t / 32) + (stepCase.plan.clamp == .none ? 0 : 4)
    }

    /// Runs the first steps, which use more remembered outputs each, on data of every kind.
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
        var returning = ReturningSession(stepCase, data)
        var oracle = StepOracle<Element>(stepCase)
        var worst = 0.0
        for step in 0..<stepCase.plan.historyLength + 2 {
            func failure(_ what: String) -> BenchmarkFailure {
                BenchmarkFailure(
                    "\(stepCase.name), \(Element.elementType.rawValue), \(count) elements, \(kind.rawValue) data, step \(step): \(what)")
            }
            before.copy(from: single.sample)
            try single.run(steps: 1)
            try threaded.run(steps: 1)
            try kernel.run(steps: 1)
            let error = oracle.error(
                of: single.sample, newlyRemembered: kernel.newestRemembered, sample: before,
                modelOutput: data.modelOutput(step: step), noise: data.noiseElements)
            guard error <= tolerance else { throw failure("off by \(error) units in the last place") }
            worst = max(worst, error)

            let same =
                haveSameBits(UnsafeBufferPointer(threaded.sample.elements), single.sample)
                && haveSameBits(UnsafeBufferPointer(kernel.sample.elements), single.sample)
            guard same else { throw failure("the bits depend on the threads or on the form of the step") }
            guard try returning.step().withUnsafeBufferPointer({ haveSameBits($0, single.sample) }) else {
                throw failure("the returning step has other bits")
            }
        }
        guard returning.outputsAreUnchanged else {
            throw BenchmarkFailure("\(stepCase.name), \(count) elements: a later step changed the output of an earlier one")
        }
        return worst
    }

    /// Of a NaN only that it is one has to be the same.
    private func haveSameBits(_ a: UnsafeBufferPointer<Element>, _ b: Tensor<Element>) -> Bool {
        if memcmp(a.baseAddress!, b.address, b.count * MemoryLayout<Element>.stride) == 0 { return true }
        return a.indices.allSatisfy { i in
            let (p, q) = (a[i].widened, b.elements[i].widened)
            return p == q && p.sign == q.sign || p.isNaN && q.isNaN
        }
    }
}

/// A session that returns each next sample in an array of its own, and keeps them all.
private struct ReturningSession<Element: BenchmarkElement> {
    private let data: StepData<Element>
    private let batchSize: Int
    private let noise: [Element]?
    private var session: SamplingSession
    private var outputs: [[Element]]
    private var checksums: [UInt64]

    init(_ stepCase: StepCase, _ data: StepData<Element>) {
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
        ).prevSample
        outputs.append(next)
        checksums.append(checksum(next))
        return next
    }

    var outputsAreUnchanged: Bool { outputs.map(checksum) == checksums }
}

/// A sum over the bytes that depends on their order (FNV-1a's, but by words).
private func checksum(_ elements: [some BenchmarkElement]) -> UInt64 {
    elements.withUnsafeBytes { bytes in
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        let words = bytes.count / 8
        for i in 0..<words { hash = (hash ^ bytes.loadUnaligned(fromByteOffset: 8 * i, as: UInt64.self)) &* 0x100_0000_01B3 }
        for i in 8 * words..<bytes.count { hash = (hash ^ UInt64(bytes[i])) &* 0x100_0000_01B3 }
        return hash
    }
}
