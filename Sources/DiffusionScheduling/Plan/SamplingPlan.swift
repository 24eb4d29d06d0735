// SPDX-License-Identifier: Apache-2.0

/// A scheduler compiled for a number of steps: what the model is told at each step and the scalars that combine tensors.
///
/// A plan is a value that never changes. Any number of sessions on any threads can run it at once, and because it is `Codable`
/// an engine whose tensors live elsewhere can run the same table there:
///
/// ```swift
/// let plan = try scheduler.plan(.count(20))
/// for index in plan.timesteps.indices {
///     let step = plan.coefficients(at: index, remembered: min(index, plan.historyLength))
///     // next = step.nextSample.sample * x + step.nextSample.modelOutput * e + Σ step.nextSample.history[k] * m[k]
/// }
/// ```
///
/// A multistep solver uses the outputs of earlier steps as far as there are any, so each step has a row of scalars for every
/// number of remembered outputs: a run may begin at any step, for image-to-image say, and warms up from there.
public struct SamplingPlan: Sendable, Equatable {
    /// The timesteps and noise levels.
    public let grid: TimestepGrid
    /// The signal and noise rates at each of the grid's levels.
    public let levels: [NoiseLevel]
    /// The standard deviation of the noise that a run starts with.
    public let initNoiseSigma: Double
    /// What is done to predicted clean samples.
    public let clamp: PredictionClamp
    /// How many outputs of earlier steps a step may use.
    public let historyLength: Int
    /// Whether each batch item of the model output may hold, after the prediction, as many numbers that predict its variance;
    /// they are passed over.
    public let modelLearnsVariance: Bool
    /// Whether any step adds noise.
    public let isStochastic: Bool
    /// `rows[i][k]`: step i with k remembered outputs, k ≤ min(i, historyLength).
    private let rows: [[StepCoefficients]]
    /// The same rows as the kernels read them.
    let kernelRows: KernelRows

    /// Makes a plan of rows.
    ///
    /// - Parameter rows: for each step of the grid min(i, historyLength) + 1 rows, by the number of remembered outputs.
    /// - Throws: `unrepresentablePlan` if a coefficient isn't finite.
    public init(
        grid: TimestepGrid, initNoiseSigma: Double = 1, clamp: PredictionClamp = .none, historyLength: Int,
        modelLearnsVariance: Bool = false, rows: [[StepCoefficients]]
    ) throws(SchedulerError) {
        try grid.validate()
        try clamp.validate()
        try require(
            "initial noise sigma", initNoiseSigma, "finite and at least 0", initNoiseSigma >= 0 && initNoiseSigma < .infinity)
        try require(
            "history length", historyLength, "from 0 to \(KernelRows.maximumHistory)",
            (0...KernelRows.maximumHistory).contains(historyLength))
        try require(
            "number of rows", rows.count, "the number of timesteps, \(grid.timesteps.count)", rows.count == grid.timesteps.count)
        for (index, choices) in rows.enumerated() {
            let expected = min(index, historyLength) + 1
            try require("number of rows of step \(index)", choices.count, "\(expected)", choices.count == expected)
            for (remembered, row) in choices.enumerated() {
                guard row.prediction.isFinite, row.nextSample.isFinite, row.history?.isFinite ?? true else {
                    throw .unrepresentablePlan(step: index)
                }
                let read = row.nextSample.history.count
                try require(
                    "number of history coefficients of step \(index)", read,
                    "at most \(remembered), the number of remembered outputs", read <= remembered)
                // What a later step reads, every step must write, and a memory is made of this step's tensors alone.
                try require(
                    "history of step \(index)", row.history == nil ? "missing" : "given",
                    "given exactly if the history length isn't 0", (row.history != nil) == (historyLength > 0))
                try require(
                    "number of history coefficients of the prediction or the history of step \(index)",
                    row.prediction.history.count + (row.history?.history.count ?? 0), "0",
                    row.prediction.history.isEmpty && (row.history?.history.isEmpty ?? true))
            }
        }
        self.grid = grid
        levels = grid.levels
        self.initNoiseSigma = initNoiseSigma
        self.clamp = clamp
        self.historyLength = historyLength
        self.modelLearnsVariance = modelLearnsVariance
        isStochastic = rows.contains { $0.contains { $0.nextSample.noise != 0 || $0.prediction.noise != 0 } }
        self.rows = rows
        kernelRows = KernelRows(rows: rows, clamp: clamp, historyLength: historyLength)
    }

    /// What the model is told at each step.
    public var timesteps: [Double] { grid.timesteps }
    /// The noise levels: one more than timesteps.
    public var sigmas: [Double] { grid.sigmas }
    /// The number of steps.
    public var stepCount: Int { grid.timesteps.count }

    /// The scalars of a step when that many outputs of the steps before it are remembered.
    ///
    /// - Precondition: `index` is a step of the plan and `remembered` is not negative.
    public func coefficients(at index: Int, remembered: Int) -> StepCoefficients {
        rows[index][min(remembered, rows[index].count - 1)]
    }

    /// Whether a step adds noise.
    public func needsNoise(at index: Int, remembered: Int) -> Bool {
        let row = coefficients(at: index, remembered: remembered)
        return row.nextSample.noise != 0 || row.prediction.noise != 0
    }

    /// The first step that has the timestep.
    ///
    /// - Throws: `unknownTimestep` if none has.
    public func index(ofTimestep timestep: Double) throws(SchedulerError) -> Int {
        guard let index = timesteps.firstIndex(of: timestep) else {
            let ends = [timesteps.first, timesteps.last].compactMap { $0 }.map(timestepText).joined(separator: " to ")
            throw .unknownTimestep(timestep, expected: "one of the plan's \(stepCount) timesteps, from \(ends)")
        }
        return index
    }

    public static func == (a: SamplingPlan, b: SamplingPlan) -> Bool {
        a.grid == b.grid && a.initNoiseSigma == b.initNoiseSigma && a.clamp == b.clamp && a.historyLength == b.historyLength
            && a.modelLearnsVariance == b.modelLearnsVariance && a.rows == b.rows
    }
}

func timestepText(_ timestep: Double) -> String {
    Int(exactly: timestep).map(String.init) ?? timestep.description
}
