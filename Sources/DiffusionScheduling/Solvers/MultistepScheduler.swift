// SPDX-License-Identifier: Apache-2.0

/// The common part of DEIS and the DPM-Solvers: a scheduler with a linear multistep solver.
///
/// A conforming definition chooses the solver, the grid and the orders; the plan follows.
public protocol MultistepDefinition: SchedulerDefinition, PredictionTypeConfiguration {
    /// The type of the solver.
    associatedtype Solver: MultistepSolver
    /// The solver that the configuration chooses.
    ///
    /// - Throws: `invalidValue` if the solver needs the training's noise levels and one of them isn't finite.
    var solver: Solver { get throws(SchedulerError) }
    /// The most model outputs that a step combines.
    var highestSolverOrder: Int { get }
    /// The number of evaluations that a step makes.
    var evaluationsPerStep: Int { get }
    /// Whether the model output holds a predicted variance besides the prediction.
    var modelLearnsVariance: Bool { get }
    /// The clamp of predicted clean samples.
    var clamp: PredictionClamp { get }
    /// The timesteps and noise levels of a run.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration.
    func grid(_ request: TimestepRequest, noise: NoiseSchedule) throws(SchedulerError) -> TimestepGrid
    /// The highest order that a step may have.
    func highestOrder(atStep index: Int, of stepCount: Int) -> Int
    /// The standard deviation of the noise that a run starts with.
    var initNoiseSigma: Double { get }
    /// The factor c that makes a sample the model's input c x at a level: c = 1, but c = 1/√(ς² + σ_d²) for ``EDMDefinition``.
    func inputScale(at level: NoiseLevel) -> Double
}

/// A scheduler whose steps have the parts that diffusers documents: a conversion and updates, as rows.
public protocol MultistepScheduler: PlannedScheduler {
    /// The row whose next sample is the converted model output of a step of the plan.
    ///
    /// - Throws: `timestepsNotSet`; `invalidValue` for an index that isn't a step's.
    func conversion(ofStep index: Int) throws(SchedulerError) -> PlanRow

    /// The row whose next sample is an update from converted outputs at a step of the plan. Its model output is the step's
    /// converted output, and slot k the one of k + 1 steps before.
    ///
    /// - Parameters:
    ///   - order: the number of converted outputs that the update combines, from 1 to 3 and at most `index` + 1.
    ///   - index: the step, from 0.
    /// - Throws: as `conversion(ofStep:)`; `unsupportedOperation` where a step has several evaluations.
    func update(order: Int, ofStep index: Int) throws(SchedulerError) -> PlanRow
}

extension DefinedScheduler: MultistepScheduler where Definition: MultistepDefinition {
    /// The solver that the configuration chooses.
    ///
    /// - Throws: `invalidValue` if the solver needs the training's noise levels and one of them isn't finite.
    public var solver: Definition.Solver { get throws(SchedulerError) { try configuration.solver } }

    /// The most model outputs that a step combines.
    public var solverOrder: Int { configuration.highestSolverOrder }
    /// Whether the model output holds a predicted variance besides the prediction.
    public var modelLearnsVariance: Bool { configuration.modelLearnsVariance }

    /// The timesteps and noise levels of a run.
    ///
    /// - Throws: `invalidValue` for a request that is out of range or doesn't fit the configuration.
    public func grid(_ request: TimestepRequest) throws(SchedulerError) -> TimestepGrid {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        return try configuration.grid(named(request), noise: noiseSchedule)
    }

    public func conversion(ofStep index: Int) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let plan = try plan(with: index), level = plan.levels[index], solver = try solver
        return PlanRow(
            prediction: solver.prediction(at: level), nextSample: solver.conversion(at: level, clamped: plan.clamp != .none))
    }

    public func update(order: Int, ofStep index: Int) throws(SchedulerError) -> PlanRow {
        let host = FloatingPointEnvironment.begin()
        defer { host.end() }
        let plan = try plan(with: index), solver = try solver
        guard configuration.evaluationsPerStep == 1 else {
            throw .unsupportedOperation("updates by order, where a step has several evaluations", className: Definition.className)
        }
        try require("order", order, "1, 2 or 3", (1...3).contains(order))
        try require("step index", index, "at least \(order - 1) for an update of order \(order)", index >= order - 1)
        let update = solver.update(order: order, at: index, of: plan.levels, remembered: order - 1)
        return PlanRow(
            prediction: Combination(),
            nextSample: Combination(
                sample: update.sample, modelOutput: update.outputs.first ?? 0, noise: update.noise,
                slots: Array(update.outputs.dropFirst())),
            report: Combination())
    }

    /// The plan, once it is known to have a step.
    private func plan(with index: Int) throws(SchedulerError) -> SamplingPlan {
        guard let plan else { throw .timestepsNotSet }
        try require("step index", index, "less than the number of steps, \(plan.stepCount)", plan.timesteps.indices.contains(index))
        return plan
    }
}

/// The highest order of a step where short runs end with lower orders, for stability (Lu et al. 2022, arXiv:2211.01095,
/// appendix B): of fewer than 15 steps the last is of order 1, the one before it of order 2 at most, and so on.
func highestOrder(atStep index: Int, of stepCount: Int, lowerOrderFinal: Bool, firstOrderAtEnd: Bool) -> Int {
    if firstOrderAtEnd, index == stepCount - 1 { return 1 }
    return lowerOrderFinal && stepCount < 15 ? stepCount - index : .max
}

/// Refuses noise levels without a signal: ln ρ, in which multistep solvers extrapolate, is infinite there.
func requireSignal(_ levels: [NoiseLevel]) throws(SchedulerError) {
    for (index, level) in levels.enumerated() {
        try require("sigmas[\(index)]", level.sigma, "from 0 to less than 1", level.signalRate > 0)
    }
}

extension MultistepDefinition {
    public static var returnsReport: Bool { false }
    public static var attributes: StepAttributes { StepAttributes(history: "model_outputs", age: "lower_order_nums") }
    public var evaluationsPerStep: Int { 1 }
    public var modelLearnsVariance: Bool { false }
    public static var updateNames: [String] { solverUpdateNames("dpm_solver") }
    /// The names of a solver's updates.
    static func solverUpdateNames(_ solver: String) -> [String] {
        ["\(solver)_first_order_update", "multistep_\(solver)_second_order_update", "multistep_\(solver)_third_order_update"]
    }

    public var initNoiseSigma: Double { 1 }
    public func inputScale(at level: NoiseLevel) -> Double { 1 }

    public func plan(
        _ request: TimestepRequest, options: Options, noise: NoiseSchedule
    ) throws(SchedulerError) -> SamplingPlan {
        try plan(on: grid(request, noise: noise), options: options)
    }

    /// Every step's conversion and update folded into combinations of tensors.
    ///
    /// - Throws: `invalidValue` for a level without signal, where ln ρ is infinite; `unrepresentablePlan`.
    public func plan(on grid: TimestepGrid, options: Options) throws(SchedulerError) -> SamplingPlan {
        let levels = grid.levels, ring = highestSolverOrder - 1, solver = try solver
        try requireSignal(levels)
        var rows = levels.indices.dropLast().map { index in
            let prediction = solver.prediction(at: levels[index])
            let conversion = solver.conversion(at: levels[index], clamped: clamp != .none)
            let highest = min(highestSolverOrder, highestOrder(atStep: index, of: levels.count - 1))
            return (0...min(index, highestSolverOrder - 1)).map { remembered in
                PlanRow(
                    prediction: prediction,
                    nextSample: solver.update(order: highest, at: index, of: levels, remembered: remembered)
                        .combination(converting: conversion, at: index, ring: ring),
                    stores: ring > 0 ? [.init(slot: index % ring, value: conversion)] : [])
            }
        }
        if solver.isStochastic, levels[0].sigma >= levels[levels.count - 1].sigma {
            for index in rows.indices { for age in rows[index].indices { rows[index][age].drawCount = 1 } }
        }
        return try SamplingPlan(
            grid: grid, initNoiseSigma: initNoiseSigma, inputScales: levels.dropLast().map(inputScale), clamp: clamp,
            slotCount: ring, warmUp: ring, steps: rows.indices.map { $0 / evaluationsPerStep },
            modelLearnsVariance: modelLearnsVariance, rows: rows)
    }
}

extension SchedulerDefinition where Self: SigmaScheduleConfiguration {
    public var namedLevels: SigmaSchedule? { sigmaSchedule }
}

extension SchedulerDefinition where Self: SigmaGridConfiguration {
    /// The levels of a ``SigmaSchedule`` over the training's; with flow sigmas, shifted shares of noise ς' = κ ς/(1 + (κ − 1) ς) of
    /// at most 1 − 10⁻⁶, because there is no signal to divide by at 1.
    ///
    /// - Throws: as ``SigmaSchedule/sigmas(count:of:)``, and `invalidValue` for a `mu` that isn't allowed.
    public func sigmas(
        count: Int, of schedule: SigmaSchedule, mu: Double?, noise: NoiseSchedule
    ) throws(SchedulerError) -> [Double] {
        guard useFlowSigmas else { return try schedule.sigmas(count: count, of: noise) }
        let levels = try schedule.flowSigmas(count: count, numTrainTimesteps: noise.count)
        if Self.shiftsRequestedLevels { return levels }
        let shift = try FlowShift.constant(flowShift(.count(count, mu: mu)))
        return shift.levels(levels, terminal: nil).map { min($0, 1 - 1e-6) }
    }

    /// The level of a training timestep t: ς(t) of the table, or ς = t/T with flow sigmas.
    ///
    /// - Throws: nothing.
    public func trainingLevel(atTimestep timestep: Double, noise: NoiseSchedule) throws(SchedulerError) -> NoiseLevel {
        useFlowSigmas
            ? NoiseLevel(sigma: timestep / Double(noise.count), process: .flow)
            : NoiseLevel(sigma: noise.sigma(atTimestep: timestep), process: .variancePreserving)
    }
}

extension MultistepScheduler {
    /// The quantity m that the solver extrapolates, from a model output at the next step: m = (x − A p)/S, the predicted noise, for
    /// DEIS and DPM-Solver; m = p, the predicted clean sample, for DPM-Solver++. p is thresholded if the configuration says so.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`, `wrongElementCount`, `outOfMemory`.
    public func convertModelOutput<Element: TensorElement>(
        _ modelOutput: [Element], sample: [Element], batchSize: Int = 1
    ) throws(SchedulerError) -> [Element] {
        let (plan, index) = try nextStep()
        let level = plan.levels[index], conversion = try conversion(ofStep: index)
        let grid = TimestepGrid(
            timesteps: [plan.timesteps[index]], sigmas: [level.sigma, level.sigma], process: plan.grid.process)
        var session = SamplingSession(
            plan: try SamplingPlan(
                grid: grid, clamp: plan.clamp, modelLearnsVariance: plan.modelLearnsVariance,
                rows: [[conversion]]))
        return try session.step(modelOutput: modelOutput, sample: sample, batchSize: batchSize).nextSample
    }

    /// The next sample by a ``MultistepUpdate`` of order 1, from the converted output of the step that comes next.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`; `invalidValue` for too few model outputs, or for a step with fewer steps before
    ///   it; `wrongElementCount`, `missingNoise`; `unsupportedOperation` where a step has several evaluations.
    public func firstOrderUpdate<Element: TensorElement>(
        modelOutput: [Element], sample: [Element], noise: [Element]? = nil
    ) throws(SchedulerError) -> [Element] {
        try update(order: 1, modelOutputs: [modelOutput], sample: sample, noise: noise)
    }

    /// The next sample by a ``MultistepUpdate`` of order 2, from the converted outputs of this step and the one before, this one
    /// last.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`; `invalidValue` for too few model outputs, or for a step with fewer steps before
    ///   it; `wrongElementCount`, `missingNoise`; `unsupportedOperation` where a step has several evaluations.
    public func secondOrderUpdate<Element: TensorElement>(
        modelOutputs: [[Element]], sample: [Element], noise: [Element]? = nil
    ) throws(SchedulerError) -> [Element] {
        try update(order: 2, modelOutputs: modelOutputs, sample: sample, noise: noise)
    }

    /// The next sample by a ``MultistepUpdate`` of order 3, from the converted outputs of this step and the two before, this one
    /// last.
    ///
    /// - Throws: `timestepsNotSet`, `stepPastEnd`; `invalidValue` for too few model outputs, or for a step with fewer steps before
    ///   it; `wrongElementCount`, `missingNoise`; `unsupportedOperation` where a step has several evaluations.
    public func thirdOrderUpdate<Element: TensorElement>(
        modelOutputs: [[Element]], sample: [Element], noise: [Element]? = nil
    ) throws(SchedulerError) -> [Element] {
        try update(order: 3, modelOutputs: modelOutputs, sample: sample, noise: noise)
    }

    private func update<Element: TensorElement>(
        order: Int, modelOutputs: [[Element]], sample: [Element], noise: [Element]?
    ) throws(SchedulerError) -> [Element] {
        try require("number of model outputs", modelOutputs.count, "at least \(order)", modelOutputs.count >= order)
        let row = try update(order: order, ofStep: nextStep().1).nextSample
        var terms = [(row.sample, sample), (row.modelOutput, modelOutputs[modelOutputs.count - 1])]
        if row.noise != 0 {
            guard let noise else { throw .missingNoise(step: stepIndex) }
            terms.append((row.noise, noise))
        }
        for (slot, output) in modelOutputs.reversed().dropFirst().prefix(order - 1).enumerated() {
            terms.append((row.slots[slot], output))
        }
        for (_, tensor) in terms where tensor.count != sample.count {
            throw .wrongElementCount(
                argument: "modelOutputs or noise", count: tensor.count, expected: "\(sample.count), like the sample")
        }
        return try Kernels.combine(terms)
    }

    func nextStep() throws(SchedulerError) -> (SamplingPlan, Int) {
        guard let session else { throw .timestepsNotSet }
        guard session.timestep != nil else { throw .stepPastEnd(stepCount: session.plan.stepCount) }
        return (session.plan, session.stepIndex)
    }
}
