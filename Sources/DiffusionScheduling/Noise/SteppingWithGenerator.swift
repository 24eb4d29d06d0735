// SPDX-License-Identifier: Apache-2.0

// Steps that draw their noise from a seeded source, as diffusers' steps do with their `generator`.

extension PlannedScheduler {
    /// Takes one step in place, with noise from a source where the run is stochastic.
    ///
    /// Each step of a stochastic run draws as many numbers as the sample has elements, even if it doesn't use them, so that the
    /// source keeps pace with diffusers' generator.
    public mutating func step(
        modelOutput: [Float], timestep: Double, sample: inout [Float], generator: inout some NormalSource, batchSize: Int = 1
    ) throws(SchedulerError) {
        guard let plan else { throw .timestepsNotSet }
        // A failed step must not draw: the copy is kept only if the step succeeds.
        var advanced = generator
        let noise = plan.isStochastic ? advanced.normals(sample.count) : nil
        try step(modelOutput: modelOutput, timestep: timestep, sample: &sample, noise: noise, batchSize: batchSize)
        generator = advanced
    }
}

extension DDIMScheduler {
    /// Takes the step from a timestep with noise from a source where η > 0, and returns the next sample and the predicted clean
    /// one.
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
