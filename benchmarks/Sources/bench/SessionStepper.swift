import DiffusionScheduling

/// A session of the library that steps a sample in place, over and over.
final class SessionStepper<Element: BenchmarkElement>: Contestant {
    private let data: StepData<Element>
    private let batchSize: Int
    private var session: SamplingSession
    let sample: Tensor<Element>

    init(_ stepCase: StepCase, _ data: StepData<Element>, maximumThreads: Int, sample: Tensor<Element>) {
        self.data = data
        batchSize = stepCase.batchSize
        session = SamplingSession(plan: stepCase.plan)
        session.maximumThreads = maximumThreads
        self.sample = sample
    }

    /// Goes to the start of the run.
    func restart() {
        session.reset()
        sample.copy(from: data.start)
    }

    /// Leaves room for the steps before the last one, which may be of another kind, and remembers as much as a step can use.
    func prepare(steps: Int) throws {
        if session.rememberedCount == session.plan.historyLength, session.stepIndex > 0,
            session.stepIndex + steps < session.plan.stepCount
        {
            return
        }
        restart()
        try run(steps: max(session.plan.historyLength, 1))
    }

    func run(steps: Int) throws { try Self.run(steps: steps, &session, data, sample, batchSize) }

    /// The session is passed on so that Swift checks the exclusive access to it once, as in a program that has it in a variable.
    private static func run(
        steps: Int, _ session: inout SamplingSession, _ data: StepData<Element>, _ sample: Tensor<Element>, _ batchSize: Int
    ) throws {
        let elements = sample.elements, noise = data.noiseElements, outputs = data.modelOutputs
        for _ in 0..<steps {
            let output = outputs[session.stepIndex & (outputs.count - 1)]
            var span = elements.mutableSpan
            try session.step(modelOutput: output.span, sample: &span, noise: noise?.span, batchSize: batchSize)
        }
    }
}
