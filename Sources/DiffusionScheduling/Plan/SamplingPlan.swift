// SPDX-License-Identifier: Apache-2.0

/// A scheduler compiled for a run: the timestep of each evaluation, and the scalars that combine tensors.
///
/// A plan is a value that never changes. Any number of sessions on any threads can run it at once, and because it is `Codable`
/// an engine whose tensors live elsewhere can run the same table there:
///
/// ```swift
/// let plan = try scheduler.plan(.count(20))
/// for index in plan.timesteps.indices {
///     let row = plan.row(at: index, age: index)
///     // next = row.nextSample.sample * x + row.nextSample.modelOutput * e + Σ row.nextSample.slots[k] * slot[k]
/// }
/// ```
///
/// A plan has one evaluation for each of its timesteps. Solvers read what earlier evaluations stored, as far back as the run
/// reaches, so each evaluation has a row for every *age*, the number of evaluations since the run began, up to `warmUp`. A run may
/// begin later, for example for image-to-image, and warms up from there.
public struct SamplingPlan: Sendable, Equatable {
    /// All copies of a plan share its table: every session holds a plan.
    private let storage: Storage

    private struct Table {
        let grid: TimestepGrid
        let levels: [NoiseLevel]
        let initNoiseSigma: Double
        let inputScales: [Double]
        let outputWeights: [[Double]]
        let clamp: PredictionClamp
        let findsThresholds: Bool
        let slotCount: Int
        let warmUp: Int
        let steps: [Int]
        let reportName: String
        let modelLearnsVariance: Bool
        let isStochastic: Bool
        let scalesInputs: Bool
        let rows: [[PlanRow]]
        let kernelRows: KernelRows
    }

    private final class Storage: Sendable {
        let table: Table

        init(_ table: Table) { self.table = table }
    }

    /// The timesteps and noise levels.
    public var grid: TimestepGrid { storage.table.grid }
    /// The signal and noise rates at each of the grid's levels.
    public var levels: [NoiseLevel] { storage.table.levels }
    /// The standard deviation of the noise that a run starts with.
    public var initNoiseSigma: Double { storage.table.initNoiseSigma }
    /// The input scale of each evaluation: the model's input is input scale · sample.
    public var inputScales: [Double] { storage.table.inputScales }
    /// The weights at each evaluation for models that give several outputs e₀ … e_{K−1}: the step's model output is e = Σ w_k e_k, which
    /// callers compute. Empty for models that give one.
    public var outputWeights: [[Double]] { storage.table.outputWeights }
    /// The clamp of predicted clean samples.
    public var clamp: PredictionClamp { storage.table.clamp }
    var findsThresholds: Bool { storage.table.findsThresholds }
    /// The number of slots that the rows store and read.
    public var slotCount: Int { storage.table.slotCount }
    /// The age from which on rows no longer depend on the age.
    public var warmUp: Int { storage.table.warmUp }
    /// The number of the step that each evaluation belongs to, from 0 on. A run may begin at the first evaluation of a step.
    public var steps: [Int] { storage.table.steps }
    /// diffusers' name of a step's second result.
    public var reportName: String { storage.table.reportName }
    /// Whether the model output may hold a variance: in each batch item, after the prediction, as many numbers again. Rows with a
    /// ``PlanRow/noiseFactor`` read them, others ignore them.
    public var modelLearnsVariance: Bool { storage.table.modelLearnsVariance }
    /// Whether a generator draws noise for any row, even where it has the coefficient 0.
    public var isStochastic: Bool { storage.table.isStochastic }
    /// Whether an input scale is not 1.
    public var scalesInputs: Bool { storage.table.scalesInputs }
    /// `rows[i][k]`: evaluation i at the age k, k ≤ min(i, warmUp).
    private var rows: [[PlanRow]] { storage.table.rows }
    /// The rows in the form that the kernels read.
    var kernelRows: KernelRows { storage.table.kernelRows }

    /// Makes a plan of rows.
    ///
    /// - Parameters:
    ///   - grid: the timesteps and noise levels.
    ///   - initNoiseSigma: the standard deviation of the noise that a run starts with.
    ///   - inputScales: one for each timestep; empty: 1 each.
    ///   - outputWeights: as the property: for each timestep as many, from 2 to 100; empty: the model gives one output.
    ///   - clamp: of every prediction.
    ///   - slotCount: the number of slots that rows store and read.
    ///   - warmUp: the age from which on rows don't depend on it.
    ///   - steps: as the property; empty: a step for each evaluation.
    ///   - reportName: diffusers' name of the report.
    ///   - modelLearnsVariance: whether the model output may hold a variance.
    ///   - rows: for each timestep of the grid min(i, warmUp) + 1 rows, by age.
    /// - Throws: `invalidValue` if the rows aren't such a table, or read a slot that no earlier row has stored;
    ///   `unrepresentablePlan` if a coefficient isn't finite.
    /// - Complexity: O(rows).
    public init(
        grid: TimestepGrid, initNoiseSigma: Double = 1, inputScales: [Double] = [], outputWeights: [[Double]] = [],
        clamp: PredictionClamp = .none, slotCount: Int = 0, warmUp: Int = 0, steps: [Int] = [],
        reportName: String = "pred_original_sample", modelLearnsVariance: Bool = false,
        rows: [[PlanRow]]
    ) throws(SchedulerError) {
        try grid.validate()
        try clamp.validate()
        let count = grid.timesteps.count
        try require(
            "initial noise sigma", initNoiseSigma, "finite and at least 0", initNoiseSigma >= 0 && initNoiseSigma < .infinity)
        try require("number of slots", slotCount, in: 0...Combination.maximumSlotCount)
        try require("warm-up", warmUp, in: 0...Self.maximumWarmUp)
        try require("number of rows", rows.count, "the number of timesteps, \(count)", rows.count == count)
        let inputScales = inputScales.isEmpty ? Array(repeating: 1, count: count) : inputScales
        try require("number of input scales", inputScales.count, "the number of timesteps, \(count)", inputScales.count == count)
        for (index, scale) in inputScales.enumerated() {
            try require("input scale of evaluation \(index)", scale, "finite and greater than 0", scale > 0 && scale < .infinity)
        }
        if let outputs = outputWeights.first?.count {
            try require(
                "number of output weights", outputWeights.count, "the number of timesteps, \(count)", outputWeights.count == count)
            try require("number of model outputs", outputs, in: 2...Self.maximumOutputs)
            for (index, weights) in outputWeights.enumerated() {
                try require(
                    "number of output weights of evaluation \(index)", weights.count, "\(outputs)", weights.count == outputs)
                guard weights.allSatisfy(\.isFinite) else { throw .unrepresentablePlan(step: index) }
            }
        }
        let steps = steps.isEmpty ? Array(0..<count) : steps
        try require("number of step numbers", steps.count, "the number of timesteps, \(count)", steps.count == count)
        for (index, step) in steps.enumerated() {
            let before = index == 0 ? -1 : steps[index - 1]
            try require(
                "step number of evaluation \(index)", step, index == 0 ? "0" : "\(before) or \(before + 1)",
                step == before + 1 || (index > 0 && step == before))
        }
        for (index, choices) in rows.enumerated() {
            let expected = min(index, warmUp) + 1
            try require("number of rows of evaluation \(index)", choices.count, "\(expected)", choices.count == expected)
            for row in choices {
                try row.validate(at: index, slotCount: slotCount)
                try require(
                    "noise factor of evaluation \(index)", "given", "left out for a model that predicts no variance",
                    modelLearnsVariance || row.noiseFactor == .none)
            }
        }
        let flow = try SlotFlow(rows: rows, warmUp: warmUp, steps: steps)
        let kernelRows = try KernelRows(count: count, choices: warmUp + 1) { (index, age) throws(SchedulerError) in
            let age = min(age, rows[index].count - 1)
            return try KernelRow(
                rows[index][age], clamp: clamp, slotOrder: flow.order(at: index, age: age), live: flow.live(at: index, age: age))
        }
        storage = Storage(
            Table(
                grid: grid, levels: grid.levels, initNoiseSigma: initNoiseSigma, inputScales: inputScales,
                outputWeights: outputWeights, clamp: clamp, findsThresholds: clamp.findsThresholds, slotCount: slotCount,
                warmUp: warmUp, steps: steps, reportName: reportName,
                modelLearnsVariance: modelLearnsVariance, isStochastic: rows.contains { $0.contains { $0.drawCount > 0 } },
                scalesInputs: inputScales.contains { $0 != 1 }, rows: rows, kernelRows: kernelRows))
    }

    /// The greatest `warmUp`: a solver looks back over its slots, with a few evaluations for each.
    static let maximumWarmUp = 16
    /// The most outputs of a model.
    static let maximumOutputs = 100

    /// The timestep that the model gets at each evaluation.
    public var timesteps: [Double] { grid.timesteps }
    /// The noise levels: one more than timesteps.
    public var sigmas: [Double] { grid.sigmas }
    /// The number of evaluations of the model: one for each timestep.
    public var stepCount: Int { grid.timesteps.count }

    /// The scalars of an evaluation in a run that has taken `age` evaluations before it.
    ///
    /// - Precondition: `index` is an evaluation of the plan and `age` is not negative.
    public func row(at index: Int, age: Int) -> PlanRow { rows[index][min(age, rows[index].count - 1)] }

    /// The slots that an evaluation reads, in the order in which they are summed.
    public func reads(at index: Int, age: Int) -> [Int] {
        let row = kernelRows.row(at: index, age: age)
        return (0..<row.pointee.slotCount).map { Int(row.pointee.slots[$0]) }
    }

    /// Whether an evaluation adds noise.
    public func needsNoise(at index: Int, age: Int) -> Bool { kernelRows.row(at: index, age: age).pointee.needsNoise }

    /// Whether a run may begin at an evaluation: only at the first one of a step.
    public func isStart(_ index: Int) -> Bool { index == 0 || steps[index] != steps[index - 1] }

    /// Refuses an index that no run may begin at; the end of the plan is allowed.
    package func requireStart(_ index: Int, _ argument: String) throws(SchedulerError) {
        guard index < stepCount, !isStart(index) else { return }
        throw .invalidValue(
            key: argument, value: "\(index)",
            allowed:
                "the first evaluation of a step, such as \(steps.firstIndex(of: steps[index])!): this one belongs to the step that "
                + "begins there")
    }

    /// The first evaluation that has the timestep and at which a run may begin.
    ///
    /// - Throws: `unknownTimestep` if none has.
    public func index(ofTimestep timestep: Double) throws(SchedulerError) -> Int {
        guard let index = timesteps.indices.first(where: { timesteps[$0] == timestep && isStart($0) }) else {
            let ends = [timesteps.first, timesteps.last].compactMap { $0 }.map(timestepText).joined(separator: " to ")
            throw .unknownTimestep(timestep, expected: "one of the plan's \(stepCount) timesteps, from \(ends)")
        }
        return index
    }

    public static func == (a: SamplingPlan, b: SamplingPlan) -> Bool {
        if a.storage === b.storage { return true }
        return a.grid == b.grid && a.initNoiseSigma == b.initNoiseSigma && a.inputScales == b.inputScales
            && a.outputWeights == b.outputWeights && a.clamp == b.clamp && a.slotCount == b.slotCount && a.warmUp == b.warmUp
            && a.steps == b.steps && a.reportName == b.reportName
            && a.modelLearnsVariance == b.modelLearnsVariance && a.rows == b.rows
    }
}

/// The contents of the slots on every path through a plan's rows: the stored slots, in order, and the slots still to be read.
private struct SlotFlow {
    private let orders: [[SlotOrder]]
    private let live: [[UInt8]]

    /// - Throws: `invalidValue` if a run may reach a row without having stored a slot that the row reads.
    init(rows: [[PlanRow]], warmUp: Int, steps: [Int]) throws(SchedulerError) {
        var orders: [[SlotOrder]] = []
        orders.reserveCapacity(rows.count)
        // The slots that every run has stored on its way to the row.
        var stored: [UInt8] = [0], next: [UInt8] = []
        for (index, choices) in rows.enumerated() {
            let isStart = index == 0 || steps[index] != steps[index - 1]
            var order: [SlotOrder] = []
            order.reserveCapacity(choices.count)
            next.removeAll(keepingCapacity: true)
            for age in choices.indices {
                // The row before is one evaluation younger; at the last age, it may also be as old as this one.
                let isLast = age == warmUp, hasOlder = isLast && age < (index > 0 ? rows[index - 1].count : 0)
                var slots = SlotOrder()
                // Rows that no run reaches count every slot as stored.
                var set: UInt8 = isStart || age > 0 ? 0 : .max
                if index > 0, age > 0 || (hasOlder && !isStart) {
                    let from = hasOlder ? age : age - 1
                    slots = orders[index - 1][from]
                    for store in rows[index - 1][from].stores { slots.store(store.slot) }
                    set = stored[from] | rows[index - 1][from].storeSet
                    if age > 0 { set &= stored[age - 1] | rows[index - 1][age - 1].storeSet }
                }
                let missing = choices[age].readSet & ~set
                try require(
                    "slot \(missing.trailingZeroBitCount) in evaluation \(index) at the age \(age)", "read",
                    "left alone, as a run may come there without having stored it", missing == 0)
                order.append(slots)
                next.append(set)
            }
            orders.append(order)
            swap(&stored, &next)
        }
        self.orders = orders

        var live: [[UInt8]] = Array(repeating: [], count: rows.count)
        for index in rows.indices.reversed() {
            live[index] = rows[index].indices.map { age in
                let row = rows[index][age]
                var later: UInt8 = 0
                if index + 1 < rows.count { later = live[index + 1][min(age + 1, rows[index + 1].count - 1)] }
                return row.readSet | (later & ~row.storeSet)
            }
        }
        self.live = live
    }

    func order(at index: Int, age: Int) -> SlotOrder { orders[index][age] }
    func live(at index: Int, age: Int) -> UInt8 { live[index][age] }
}

func timestepText(_ timestep: Double) -> String {
    Int(exactly: timestep).map(String.init) ?? timestep.description
}
