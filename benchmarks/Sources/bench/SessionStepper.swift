// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// A session of the library that steps a sample in place, run after run.
final class SessionStepper<Element: BenchmarkElement, Output: BenchmarkElement>: Contestant {
    private let data: StepData<Element, Output>
    private let batchSize: Int
    private let guidance: Guidance?
    private var session: SamplingSession
    let sample: Tensor<Element>

    init(_ stepCase: StepCase, _ data: StepData<Element, Output>, maximumThreads: Int, sample: Tensor<Element>) {
        self.data = data
        batchSize = stepCase.batchSize
        guidance = stepCase.guidance
        session = SamplingSession(plan: stepCase.plan)
        session.maximumThreads = maximumThreads
        self.sample = sample
    }

    /// Returns to the start of the run.
    func restart() {
        session.reset()
        sample.copy(from: data.start)
    }

    func prepare(steps: Int) throws {
        if session.isInMidst(for: steps) { return }
        restart()
        try run(steps: max(session.plan.warmUp, 1))
    }

    func run(steps: Int) throws {
        if let guidance {
            try Self.run(steps: steps, &session, data, sample, batchSize, guidance)
        } else {
            try Self.run(steps: steps, &session, data, sample, batchSize)
        }
    }

    /// The session is an argument, so Swift checks the exclusive access to it once, as for a program's local variable.
    // Specialised by hand: a generic class has one method for all types, which would look up the types at every step.
    @_specialize(where Element == Float, Output == Float)
    @_specialize(where Element == Float, Output == BFloat16)
    @_specialize(where Element == Double, Output == Double)
    @_specialize(where Element == BFloat16, Output == BFloat16)
    #if !(os(macOS) && arch(x86_64))
        @_specialize(where Element == Float16, Output == Float16)@_specialize(where Element == Float, Output == Float16)
    #endif
    private static func run(
        steps: Int, _ session: inout SamplingSession, _ data: StepData<Element, Output>, _ sample: Tensor<Element>, _ batchSize: Int
    ) throws {
        let elements = sample.elements, noise = data.noiseElements, outputs = data.modelOutputs
        for _ in 0..<steps {
            let output = outputs[session.stepIndex & (outputs.count - 1)]
            var span = elements.mutableSpan
            try session.step(modelOutput: output.span, sample: &span, noise: noise?.span, batchSize: batchSize)
        }
    }

    @_specialize(where Element == Float, Output == Float)
    private static func run(
        steps: Int, _ session: inout SamplingSession, _ data: StepData<Element, Output>, _ sample: Tensor<Element>,
        _ batchSize: Int, _ guidance: Guidance
    ) throws {
        let elements = sample.elements, noise = data.noiseElements, outputs = data.modelOutputs, others = data.unconditional
        for _ in 0..<steps {
            let place = session.stepIndex & (outputs.count - 1)
            var span = elements.mutableSpan
            try session.step(
                conditional: outputs[place].span, unconditional: others[place].span, guidance: guidance, sample: &span,
                noise: noise?.span, batchSize: batchSize)
        }
    }
}

extension SamplingSession {
    /// Whether `steps` steps fit before the last one, which may be of another kind, and the run has warmed up.
    func isInMidst(for steps: Int) -> Bool {
        age >= plan.warmUp && hasBegun && stepIndex + steps < plan.stepCount
    }
}

/// A session that keeps the memory of its model outputs, run after run: each step swaps the buffer with the slot's former memory.
final class ConsumingStepper<Element: BenchmarkElement>: Contestant {
    private let data: StepData<Element, Element>
    private var session: SamplingSession
    private var output: TensorBuffer<Element>
    let sample: Tensor<Element>

    init(_ stepCase: StepCase, _ data: StepData<Element, Element>, maximumThreads: Int, sample: Tensor<Element>) throws {
        self.data = data
        session = SamplingSession(plan: stepCase.plan)
        session.maximumThreads = maximumThreads
        output = try TensorBuffer(count: data.count)
        self.sample = sample
    }

    func restart() {
        session.reset()
        sample.copy(from: data.start)
    }

    /// Writes the next model output.
    private func writeOutput() {
        let values = data.modelOutput(step: session.stepIndex)
        output.withMutableSpan { span in
            span.withUnsafeMutableBufferPointer { _ = $0.update(fromContentsOf: values) }
        }
    }

    func prepare(steps: Int) throws {
        if session.isInMidst(for: steps) { return }
        restart()
        for _ in 0..<session.plan.warmUp + 1 { try stepFresh() }
    }

    /// A step with a fresh model output. Timed steps reuse the memory's contents, so the model isn't timed.
    func stepFresh() throws {
        writeOutput()
        try run(steps: 1)
    }

    func run(steps: Int) throws { try Self.run(steps: steps, &session, &output, sample) }

    @_specialize(where Element == Float)
    private static func run(
        steps: Int, _ session: inout SamplingSession, _ output: inout TensorBuffer<Element>, _ sample: Tensor<Element>
    ) throws {
        let elements = sample.elements
        for _ in 0..<steps {
            var span = elements.mutableSpan
            try session.step(consuming: &output, sample: &span)
        }
    }
}
