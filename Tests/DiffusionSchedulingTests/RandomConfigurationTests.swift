// SPDX-License-Identifier: Apache-2.0

import TestDraws
import Testing

@testable import DiffusionScheduling

/// Random valid configurations of every scheduler over whole runs: every accepted one gives finite samples, which the plan's table
/// gives element by element.
@Suite struct RandomConfigurationTests {
    @Test func deis() throws { try runs(DEISMultistepScheduler.self, "DEIS", RandomConfigurations.deis) }
    @Test func dpmSolver() throws { try runs(DPMSolverMultistepScheduler.self, "DPM-Solver", RandomConfigurations.dpmSolver) }
    @Test func dpmSolverInverse() throws {
        try runs(DPMSolverMultistepInverseScheduler.self, "DPM-Solver inverse", RandomConfigurations.dpmSolverInverse)
    }
    @Test func dpmSolverSinglestep() throws {
        try runs(DPMSolverSinglestepScheduler.self, "DPM-Solver singlestep", RandomConfigurations.dpmSolverSinglestep)
    }
    @Test func saSolver() throws { try runs(SASolverScheduler.self, "SA-Solver", RandomConfigurations.saSolver) }
    @Test func ddim() throws { try runs(DDIMScheduler.self, "DDIM", RandomConfigurations.ddim) }
    @Test func ddimParallel() throws { try runs(DDIMParallelScheduler.self, "parallel DDIM", RandomConfigurations.ddimParallel) }
    @Test func ddimInverse() throws { try runs(DDIMInverseScheduler.self, "DDIM inverse", RandomConfigurations.ddimInverse) }
    @Test func euler() throws { try runs(EulerDiscreteScheduler.self, "Euler", RandomConfigurations.euler) }
    @Test func eulerAncestral() throws {
        try runs(EulerAncestralDiscreteScheduler.self, "ancestral Euler", RandomConfigurations.eulerAncestral)
    }
    @Test func edmEuler() throws { try runs(EDMEulerScheduler.self, "EDM Euler", RandomConfigurations.edmEuler) }
    @Test func edmDPMSolver() throws {
        try runs(EDMDPMSolverMultistepScheduler.self, "EDM DPM-Solver", RandomConfigurations.edmDPMSolver)
    }
    @Test func cosineDPMSolver() throws {
        try runs(CosineDPMSolverMultistepScheduler.self, "cosine DPM-Solver", RandomConfigurations.cosineDPMSolver)
    }
    @Test func heun() throws { try runs(HeunDiscreteScheduler.self, "Heun", RandomConfigurations.heun) }
    @Test func kdpm2Ancestral() throws {
        try runs(KDPM2AncestralDiscreteScheduler.self, "ancestral KDPM2", RandomConfigurations.kdpm2Ancestral)
    }
    @Test func dpmSolverSDE() throws {
        try runs(DPMSolverSDEScheduler.self, "stochastic DPM-Solver", RandomConfigurations.dpmSolverSDE)
    }
    @Test func lms() throws { try runs(LMSDiscreteScheduler.self, "LMS", RandomConfigurations.lms) }
    @Test func flowMapEuler() throws {
        try runs(FlowMapEulerDiscreteScheduler.self, "flow map Euler", RandomConfigurations.flowMapEuler)
    }
    @Test func flowMatchEuler() throws {
        try runs(FlowMatchEulerDiscreteScheduler.self, "flow Euler", RandomConfigurations.flowMatchEuler)
    }
    @Test func flowMatchLCM() throws { try runs(FlowMatchLCMScheduler.self, "flow LCM", RandomConfigurations.flowMatchLCM) }
    @Test func helios() throws { try runs(HeliosScheduler.self, "Helios", RandomConfigurations.helios) }
    @Test func heliosDMD() throws { try runs(HeliosDMDScheduler.self, "Helios DMD", RandomConfigurations.heliosDMD) }
    @Test func karrasVe() throws { try runs(KarrasVeScheduler.self, "Karras VE", RandomConfigurations.karrasVe) }
    @Test func miniMaxH3() throws { try runs(MiniMaxH3Scheduler.self, "MiniMax-H3", RandomConfigurations.miniMaxH3) }
    @Test func piflow() throws { try runs(PiflowScheduler.self, "Piflow", RandomConfigurations.piflow) }
    @Test func scoreSdeVe() throws { try runs(ScoreSdeVeScheduler.self, "Score SDE VE", RandomConfigurations.scoreSdeVe) }
    @Test func kdpm2() throws { try runs(KDPM2DiscreteScheduler.self, "KDPM2", RandomConfigurations.kdpm2) }

    private func runs<S: PlannedScheduler>(
        _ type: S.Type, _ name: String, _ draw: (inout SeededGenerator) -> S.Configuration
    ) throws {
        var generator = SeededGenerator("random \(name)")
        for _ in 0..<TestDraws.count(300) { try run(type, draw(&generator), &generator) }
    }

    /// Every class of the catalogue, with values for all keys in its description; refused configurations are drawn again.
    @Test(arguments: SchedulerCatalog.supportedClassNames) func valuesOfTheDescription(name: String) throws {
        var generator = SeededGenerator("described \(name)"), taken = 0
        let description = try SchedulerCatalog.description(ofClass: name)
        for _ in 0..<TestDraws.count(60) {
            let values = RandomConfigurations.values(of: description, &generator)
            let count = Int(exponential(.random(in: 0...logarithm(60), using: &generator))) + 1
            do throws(SchedulerError) {
                let scheduler = try SchedulerCatalog.makeScheduler(
                    json: Array(#"{"_class_name": "\#(name)"}"#.utf8), overrides: values)
                let plan = try scheduler.plan(.count(count, mu: values["use_dynamic_shifting"] == true ? 0.8 : nil))
                try Self.run(plan, &generator, "\(count) steps of \(JSONValue.object(values).text)")
                taken += 1
            } catch .invalidValue, .conflictingKeys {
                // A value is out of range, or two exclude one another.
            } catch {
                Issue.record("\(error): \(count) steps of \(JSONValue.object(values).text)")
                return
            }
        }
        #expect(taken * 10 >= TestDraws.count(60), "only \(taken) configurations of \(name) are accepted")
    }

    /// Runs to the end, and compares the run with the plan's table.
    private static func run(_ plan: SamplingPlan, _ generator: inout SeededGenerator, _ text: String) throws(SchedulerError) {
        var session = SamplingSession(plan: plan), oracle = PlainOracle(plan: plan)
        var single = session, x = GoldenProblem.initialSample.map { $0 * plan.initNoiseSigma }, rounded = x.map { Float($0) }
        while session.timestep != nil {
            let e = x.map { $0 / (1 + $0 * $0).squareRoot() },
                noise = x.map { _ in Double.random(in: -1.7...1.7, using: &generator) }
            let expected = oracle.step(modelOutput: e, sample: x, noise: noise, batchSize: GoldenProblem.batchSize)
            try session.step(modelOutput: plan.withVariance(e), sample: &x, noise: noise, batchSize: GoldenProblem.batchSize)
            let output = rounded.map { $0 / (1 + $0 * $0).squareRoot() }
            try single.step(
                modelOutput: plan.withVariance(output), sample: &rounded, noise: noise.map { Float($0) },
                batchSize: GoldenProblem.batchSize)
            for i in x.indices {
                guard abs(x[i] - expected.nextSample[i]) <= 1e-9 * max(expected.magnitudesOfAll[i], 1) else {
                    Issue.record("\(x[i]) instead of \(expected.nextSample[i]) in step \(session.stepIndex), \(text)")
                    return
                }
            }
        }
        #expect(x.allFinite && rounded.allFinite, "\(text)")
    }

    /// Plans a run and takes it to its end, with a nonlinear model.
    private func run<S: PlannedScheduler>(
        _ type: S.Type, _ configuration: S.Configuration, _ generator: inout SeededGenerator
    ) throws {
        let text = configuration.jsonText
        var scheduler = try S(configuration)
        // Few long runs, many short ones.
        let isBetweenTimesteps =
            configuration is any DDIMFamilyConfiguration || configuration is ParallelDefinition<DDIMConfiguration>
        let most = isBetweenTimesteps ? scheduler.noiseSchedule.count : 1000
        let n = min(Int(exponential(.random(in: 0...logarithm(1001), using: &generator))), most) + (S.countsEnd ? 1 : 0)
        if let fault = fault({ try scheduler.setTimesteps(n) }) {
            // An offset that leaves the table is rightly refused.
            if case .invalidValue(key: "steps_offset", _, _) = fault { return }
            Issue.record("\(fault): \(n) steps of \(text)")
            return
        }
        let plan = try #require(scheduler.plan)
        // Models that get ¼ ln ς also get negative numbers; Euler's logarithmic levels have one more.
        let isContinuous =
            (configuration as? EulerDiscreteConfiguration)?.timestepType == .continuous || configuration is any EDMDefinition
        // A level of 1 may round to a float32 above 1, by 2⁻²³, and inverted the level is below 0. Two shifts multiply the excess by
        // 1/shift each, and a stretch to a terminal level by less than 400 here.
        var least = 0.0
        if let flow = configuration as? any ShiftedFlowDefinition {
            let amplification = flow.shiftTerminal == nil ? max(1, 1 / (flow.shift * flow.shift)) : 400
            least = -0x1p-22 * Double(scheduler.count) * amplification
        }
        #expect(isContinuous || plan.timesteps.allSatisfy { $0 >= least }, "\(n) steps of \(text)")
        #expect(plan.starts.count <= n + (isContinuous ? 1 : 0), "\(n) steps of \(text)")
        let start: [Double] = (0..<6).map { Double($0 % 5) / 3 - 0.5 }
        var x = start.map { Float($0) }, exact = start, exactSession = SamplingSession(plan: plan), oracle = PlainOracle(plan: plan)
        for timestep in scheduler.timesteps {
            func model(_ x: Double) -> Double { GoldenProblem.model(x, timestep: timestep, trainingCount: scheduler.count) }
            let noise = (0..<x.count).map { _ in Double.random(in: -1.7...1.7, using: &generator) }
            let e = x.map { Float(model(Double($0))) }
            try scheduler.step(modelOutput: e, timestep: timestep, sample: &x, noise: noise.map { Float($0) }, batchSize: 2)

            let exactOutput = exact.map(model)
            let expected = oracle.step(modelOutput: exactOutput, sample: exact, noise: noise, batchSize: 2)
            try exactSession.step(modelOutput: exactOutput, sample: &exact, noise: noise, batchSize: 2)
            for i in exact.indices {
                guard abs(exact[i] - expected.nextSample[i]) <= 1e-9 * max(expected.magnitudesOfAll[i], 1) else {
                    Issue.record("\(exact[i]) instead of \(expected.nextSample[i]) at timestep \(timestep), \(n) steps of \(text)")
                    return
                }
            }
            // SA-Solver of a high order is unstable for a large τ: the sample would leave float32's range.
            if exact.contains(where: { abs($0) > 1e30 }) { return }
        }
        #expect(x.allFinite && exact.allFinite, "\(n) steps of \(text)")
    }
}
