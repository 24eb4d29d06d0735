// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import DiffusionScheduling

/// Guidance in separate passes into a buffer, then the plain step: the rival of a guided step.
final class SeparateGuidance: Contestant {
    private let data: StepData<Float, Float>
    private var session: SamplingSession
    private let threads: UInt32
    private let guided: Tensor<Float>
    private var passes = bare_guidance()
    let sample: Tensor<Float>

    init(_ stepCase: StepCase, _ data: StepData<Float, Float>, threads: Int, sample: Tensor<Float>) {
        self.data = data
        session = SamplingSession(plan: stepCase.plan)
        session.maximumThreads = threads
        self.threads = UInt32(threads)
        self.sample = sample
        guided = Tensor(count: data.count)
        passes.guided = guided.elements.baseAddress
        passes.n_elements = data.count
        passes.scale = Float(stepCase.guidance?.scale ?? 1)
        passes.rescale = Float(stepCase.guidance?.rescale ?? 0)
    }

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
        let elements = sample.elements
        for _ in 0..<steps {
            passes.conditional = data.modelOutput(step: session.stepIndex).baseAddress
            passes.unconditional = data.unconditional(step: session.stepIndex)!.baseAddress
            bare_guide(&passes, threads)
            var span = elements.mutableSpan
            try session.step(modelOutput: UnsafeBufferPointer(guided.elements).span, sample: &span)
        }
    }
}
