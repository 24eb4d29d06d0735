extension SamplingSession {
    /// Takes the next step of many sessions at once, in place: row i of the tensors belongs to `sessions[i]`.
    ///
    /// For engines that serve many requests with one model: each session has a plan, a step, a solver and an order of its own, and
    /// sessions come and go between the calls (continuous batching). Every row becomes, bit for bit, what it becomes alone.
    ///
    /// ```swift
    /// var sessions: [SamplingSession?] = [SamplingSession(plan: a), nil, SamplingSession(plan: b, beginIndex: 7)]
    /// let timesteps = sessions.map { $0?.timestep ?? 0 }
    /// // … ask the model about all rows …
    /// try SamplingSession.step(rows: &sessions, modelOutput: output.span, sample: &sample)
    /// ```
    ///
    /// - Parameters:
    ///   - sessions: nil where a row is free; what the tensors hold there is neither read nor written.
    ///   - modelOutput: what the model said, row by row as many elements as the sample has; twice as many if it also predicts the
    ///     variance, which then all sessions' plans have to expect.
    ///   - unconditional: what it said without the condition, for the rows that are guided; like `modelOutput`, which then is what it
    ///     said under the condition.
    ///   - guidance: one for each row, nil where a row isn't guided; empty for none.
    ///   - sample: as many elements for each row. A row is one batch item.
    ///   - noise: standard normal numbers, as many as the sample has elements; read in the rows whose step is stochastic.
    ///   - maximumThreads: the most threads the step may use, 0 for as many as the OpenMP runtime would. That of the sessions doesn't
    ///     count.
    /// - Throws: `wrongElementCount`, and `row` with what is wrong with a row, as for a step of its own; nothing has changed then.
    /// - Complexity: O(elements), in one parallel region; some allocations.
    public static func step<Element: TensorElement, Output: TensorElement>(
        rows sessions: inout [SamplingSession?], modelOutput: Span<Output>, unconditional: Span<Output>? = nil,
        guidance: [Guidance?] = [], sample: inout MutableSpan<Element>, noise: Span<Element>? = nil, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        // Lent out of the array, since a session can't be changed inside of an optional without copying it.
        let lent = UnsafeMutablePointer<SamplingSession>.allocate(capacity: max(sessions.count, 1))
        let rows = SessionRows(
            sessions.indices.map { row in
                guard let session = sessions[row].take() else { return nil }
                (lent + row).initialize(to: session)
                return lent + row
            }, guidance: guidance, maximumThreads: maximumThreads)
        defer {
            for (row, session) in rows.sessions.enumerated() { sessions[row] = session?.move() }
            lent.deallocate()
        }
        let workspace = try rows.prepare(
            StepRequest(
                elementType: Element.elementType, sampleCount: sample.count, modelOutputCount: modelOutput.count,
                unconditionalCount: unconditional?.count, noiseCount: noise?.count, batchSize: max(sessions.count, 1)))
        StepTensors.inPlace(modelOutput: modelOutput, unconditional: unconditional, sample: &sample, noise: noise) {
            rows.execute($0, workspace)
        }
        rows.moveOn()
    }

    /// Takes the next step of many sessions at once, in place, on arrays.
    public static func step<Element: TensorElement>(
        rows sessions: inout [SamplingSession?], modelOutput: [Element], unconditional: [Element]? = nil, guidance: [Guidance?] = [],
        sample: inout [Element], noise: [Element]? = nil, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        var span = sample.mutableSpan
        try step(
            rows: &sessions, modelOutput: modelOutput.span, unconditional: unconditional?.span, guidance: guidance, sample: &span,
            noise: noise?.span, maximumThreads: maximumThreads)
    }
}

/// A step of many sessions, each a row of the same tensors.
package struct SessionRows {
    let sessions: [UnsafeMutablePointer<SamplingSession>?]
    private let guidance: [Guidance?]
    private let maximumThreads: Int

    /// - Parameters:
    ///   - sessions: for each row one of its own, nil where it is free.
    ///   - guidance: as many, or none.
    package init(_ sessions: [UnsafeMutablePointer<SamplingSession>?], guidance: [Guidance?], maximumThreads: Int) {
        self.sessions = sessions
        self.guidance = guidance
        self.maximumThreads = maximumThreads
    }

    /// Takes the step on memory of the caller's: aligned, and overlapping only where an output is an input.
    package func step(_ tensors: StepTensors) throws(SchedulerError) {
        let workspace = try prepare(StepRequest(tensors, guidance: nil, batchSize: max(sessions.count, 1)))
        execute(tensors, workspace)
        moveOn()
    }

    /// Checks everything that can be wrong and makes room; after that the step can't fail. Where it throws, no session has changed.
    fileprivate func prepare(_ request: StepRequest) throws(SchedulerError) -> StepWorkspace {
        try require(
            "number of guidances", guidance.count, "0 or the number of rows, \(sessions.count)",
            guidance.isEmpty || guidance.count == sessions.count)
        guard !sessions.isEmpty || request.sampleCount == 0 else {
            throw .wrongElementCount(argument: "sample", count: request.sampleCount, expected: "0, as there are no rows")
        }
        try StepTensors.check(
            sampleCount: request.sampleCount, modelOutputCount: request.modelOutputCount,
            unconditionalCount: request.unconditionalCount, noiseCount: request.noiseCount, batchSize: request.batchSize,
            modelLearnsVariance: true)
        try eachRow(of: request) { (session, request) throws(SchedulerError) in
            if request.guidance != nil, request.unconditionalCount == nil {
                throw .invalidValue(key: "guidance", value: "given", allowed: "absent where there is no unconditional output")
            }
            try session.pointee.check(request)
        }
        let workspace = try StepWorkspace(
            itemCount: request.batchSize, elementsPerItem: request.sampleCount / request.batchSize, findsThresholds: false)
        var prepared: [(session: UnsafeMutablePointer<SamplingSession>, wasFresh: Bool)] = []
        prepared.reserveCapacity(sessions.count)
        do throws(SchedulerError) {
            try eachRow(of: request) { (session, request) throws(SchedulerError) in
                prepared.append((session, session.pointee.elementType == nil))
                try session.pointee.makeRoom(request)
            }
        } catch {
            for (session, wasFresh) in prepared where wasFresh { session.pointee.reset() }
            throw error
        }
        return workspace
    }

    fileprivate func execute(_ tensors: StepTensors, _ workspace: StepWorkspace) {
        if sessions.isEmpty { return }
        Kernels.step(count: sessions.count, tensors, workspace: workspace, maximumThreads: maximumThreads) { row in
            sessions[row]?.pointee.stepItem(guidance: guidance(of: row))
        }
    }

    fileprivate func moveOn() {
        for session in sessions { session?.pointee.moveOn() }
    }

    private func guidance(of row: Int) -> Guidance? { guidance.isEmpty ? nil : guidance[row] }

    /// Calls the body with every session and what is asked of it.
    private func eachRow(
        of request: StepRequest, _ body: (UnsafeMutablePointer<SamplingSession>, StepRequest) throws(SchedulerError) -> Void
    ) throws(SchedulerError) {
        for (row, session) in sessions.enumerated() {
            guard let session else { continue }
            let own = StepRequest(
                elementType: request.elementType, sampleCount: request.sampleCount / request.batchSize,
                modelOutputCount: request.modelOutputCount / request.batchSize,
                unconditionalCount: request.unconditionalCount.map { $0 / request.batchSize }, guidance: guidance(of: row),
                noiseCount: request.noiseCount.map { $0 / request.batchSize }, batchSize: 1)
            do throws(SchedulerError) {
                try body(session, own)
            } catch {
                throw .row(row, error)
            }
        }
    }
}
