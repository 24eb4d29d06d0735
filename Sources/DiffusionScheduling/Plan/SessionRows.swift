// SPDX-License-Identifier: Apache-2.0

extension SamplingSession {
    /// Takes the next step of many sessions at once, in place: row i of the tensors belongs to `sessions[i]`. ``PlanRow`` has the
    /// formula of a row.
    ///
    /// For engines that serve many requests with one model: each session has its own plan, step, solver and order, and sessions
    /// come and go between the calls (continuous batching). Every row gets the same bits as in a separate step.
    ///
    /// ```swift
    /// var sessions: [SamplingSession?] = [SamplingSession(plan: a), nil, SamplingSession(plan: b, beginIndex: 7)]
    /// let timesteps = sessions.map { $0?.timestep ?? 0 }
    /// // … ask the model about all rows …
    /// try SamplingSession.step(rows: &sessions, modelOutput: output.span, sample: &sample)
    /// ```
    ///
    /// - Parameters:
    ///   - sessions: nil for a free row, whose elements are neither read nor written.
    ///   - modelOutput: the model's output, with as many elements in each row as the sample; twice as many if it also predicts the
    ///     variance, which all sessions' plans must then expect.
    ///   - unconditional: the model's output without the condition, for guided rows; like `modelOutput`, which is then the output
    ///     under the condition.
    ///   - guidance: one for each row, nil for rows without guidance; empty for none.
    ///   - sample: the same number of elements for each row. A row is one batch item.
    ///   - noise: standard normal numbers, as many as the sample has elements; read in the rows whose step is stochastic.
    ///   - maximumThreads: the most threads the step may use, 0 for as many as the OpenMP runtime would. The sessions' own limits
    ///     don't apply.
    /// - Throws: `wrongElementCount`; `invalidValue` for a number of guidances that isn't the number of rows; `outOfMemory`; and
    ///   `row` with the error of one row. Nothing has changed then.
    /// - Complexity: O(elements), in one parallel region; some allocations.
    public static func step<Element: TensorElement, Output: TensorElement>(
        rows sessions: inout [SamplingSession?], modelOutput: Span<Output>, unconditional: Span<Output>? = nil,
        guidance: [Guidance?] = [], sample: inout MutableSpan<Element>, noise: Span<Element>? = nil, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        // Sessions leave the array during the step: changing one inside an optional would copy it.
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
        try StepTensors.inPlace(modelOutput: modelOutput, unconditional: unconditional, sample: &sample, noise: noise) {
            (tensors) throws(SchedulerError) in
            try rows.step(tensors)
        }
    }

    /// Takes the next step of many sessions at once, in place, each a ``PlanRow``, on arrays.
    ///
    /// - Throws: as the step on spans; nothing has changed then.
    public static func step<Element: TensorElement>(
        rows sessions: inout [SamplingSession?], modelOutput: [Element], unconditional: [Element]? = nil,
        guidance: [Guidance?] = [],
        sample: inout [Element], noise: [Element]? = nil, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        try modelOutput.withSpan { (modelOutput) throws(SchedulerError) in
            try unconditional.withSpan { (unconditional) throws(SchedulerError) in
                try noise.withSpan { (noise) throws(SchedulerError) in
                    var span = sample.mutableSpan
                    try step(
                        rows: &sessions, modelOutput: modelOutput, unconditional: unconditional, guidance: guidance, sample: &span,
                        noise: noise, maximumThreads: maximumThreads)
                }
            }
        }
    }
}

/// A step of many sessions, each a row of the same tensors.
package struct SessionRows {
    let sessions: [UnsafeMutablePointer<SamplingSession>?]
    private let guidance: [Guidance?]
    private let maximumThreads: Int

    /// - Parameters:
    ///   - sessions: a different session for each row; nil if the row is free.
    ///   - guidance: one for each row, or none at all.
    package init(_ sessions: [UnsafeMutablePointer<SamplingSession>?], guidance: [Guidance?], maximumThreads: Int) {
        self.sessions = sessions
        self.guidance = guidance
        self.maximumThreads = maximumThreads
    }

    /// Takes the step in the caller's memory, which is aligned and overlaps only where an output is an input.
    package func step(_ tensors: StepTensors) throws(SchedulerError) {
        guard !sessions.isEmpty || tensors.elementCount == 0 else {
            throw .wrongElementCount(argument: "sample", count: tensors.elementCount, expected: "0, because there are no rows")
        }
        if sessions.isEmpty { return }
        try check(tensors)
        let workspace = try StepWorkspace(
            itemCount: sessions.count, elementsPerItem: tensors.elementCount / sessions.count, findsThresholds: false)
        try makeRoom(for: tensors)
        try Kernels.step(count: sessions.count, tensors, workspace: workspace, maximumThreads: maximumThreads) { row in
            sessions[row]?.pointee.stepItem(guidance: guidance(of: row))
        }
        for session in sessions { session?.pointee.moveOn() }
    }

    /// Checks all rows before anything changes.
    private func check(_ tensors: StepTensors) throws(SchedulerError) {
        try require(
            "number of guidances", guidance.count, "0 or the number of rows, \(sessions.count)",
            guidance.isEmpty || guidance.count == sessions.count)
        try tensors.validate(batchSize: sessions.count, modelLearnsVariance: true)
        try forEachRow { (row, session) throws(SchedulerError) in
            let guidance = guidance(of: row)
            if guidance != nil, tensors.unconditional == nil {
                throw .invalidValue(key: "guidance", value: "given", allowed: "left out if there is no unconditional output")
            }
            try session.pointee.check(tensors.part(row, of: sessions.count), guidance: guidance, batchSize: 1)
        }
    }

    /// Makes room in every session, or in none.
    private func makeRoom(for tensors: StepTensors) throws(SchedulerError) {
        var begun: [UnsafeMutablePointer<SamplingSession>] = []
        do throws(SchedulerError) {
            try forEachRow { (row, session) throws(SchedulerError) in
                if session.pointee.elementType == nil { begun.append(session) }
                try session.pointee.makeRoom(
                    for: tensors.part(row, of: sessions.count), guidance: guidance(of: row), batchSize: 1)
            }
        } catch {
            for session in begun { session.pointee.reset() }
            throw error
        }
    }

    private func guidance(of row: Int) -> Guidance? { guidance.isEmpty ? nil : guidance[row] }

    private func forEachRow(
        _ body: (Int, UnsafeMutablePointer<SamplingSession>) throws(SchedulerError) -> Void
    ) throws(SchedulerError) {
        for (row, session) in sessions.enumerated() {
            guard let session else { continue }
            do throws(SchedulerError) {
                try body(row, session)
            } catch {
                throw .row(row, error)
            }
        }
    }
}
