// SPDX-License-Identifier: Apache-2.0

// Steps that draw their noise from a seeded source, as diffusers' steps do with their `generator`.

extension PlannedScheduler {
    /// Takes one step in place, a ``PlanRow``, with noise from a source.
    ///
    /// A step draws as many tensors as diffusers' step draws from its generator, even unused ones, so that the source keeps pace.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `unknownTimestep`, `invalidValue`, `wrongElementCount`, `wrongElementType`,
    ///   `outOfMemory`. Nothing has changed then, and nothing has been drawn.
    public mutating func step(
        modelOutput: [Float], timestep: Double, sample: inout [Float], generator: inout some NormalSource, batchSize: Int = 1
    ) throws(SchedulerError) {
        let draws = try drawCount(atTimestep: timestep)
        // A failed step must not draw: the copy is kept only if the step succeeds.
        var advanced = generator
        var noise: [Float]?
        for _ in 0..<draws { noise = advanced.normals(sample.count) }
        try step(modelOutput: modelOutput, timestep: timestep, sample: &sample, noise: noise, batchSize: batchSize)
        generator = advanced
    }

    /// The number of noise tensors that the step at a timestep draws.
    private func drawCount(atTimestep timestep: Double) throws(SchedulerError) -> Int {
        guard let session else { throw .timestepsNotSet }
        // Steps with slots draw by their age, which only the run knows.
        if session.plan.slotCount == 0, let row = try? row(at: timestep, optionValues: [:]) { return row.drawCount }
        // Past the end, and at a timestep whose turn it isn't, the step fails.
        if session.timestep == timestep || session.hasBegun || session.timestep == nil {
            return session.timestep == nil ? 0 : session.plan.row(at: session.stepIndex, age: session.age).drawCount
        }
        return session.plan.row(at: try session.plan.index(ofTimestep: timestep), age: 0).drawCount
    }
}

extension DDIMScheduler {
    /// Takes the step from a timestep, a ``PlanRow``, with noise from a source where η > 0, and returns the next sample and the
    /// predicted clean one.
    ///
    /// - Throws: `timestepsNotSet`; `unknownTimestep`; `invalidValue` for η outside [0, 1]; `wrongElementCount`, `outOfMemory`.
    ///   Nothing has been drawn then.
    public func step(
        modelOutput: [Float], timestep: Double, sample: [Float], eta: Double, useClippedModelOutput: Bool = false,
        generator: inout some NormalSource, batchSize: Int = 1
    ) throws(SchedulerError) -> SchedulerOutput<Float> {
        var advanced = generator
        let noise = eta > 0 ? advanced.normals(sample.count) : nil
        let output = try step(
            modelOutput: modelOutput, timestep: timestep, sample: sample, eta: eta,
            useClippedModelOutput: useClippedModelOutput, noise: noise, batchSize: batchSize)
        generator = advanced
        return output
    }
}
