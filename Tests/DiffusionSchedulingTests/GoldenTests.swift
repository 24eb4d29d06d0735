// SPDX-License-Identifier: Apache-2.0

import TestDraws
import Testing

@testable import DiffusionScheduling

/// The multistep schedulers against diffusers and against 50-digit arithmetic, over the recorded configurations.
@Suite struct GoldenTests {
    @Suite struct DEIS {
        let goldens = MultistepGoldens<DEISMultistepConfiguration>("deis")
        @Test func coversTheParameters() throws { try goldens.checkCoverage(atLeast: 300) }
        @Test func configurationsReturnAsTheyCame() throws { try goldens.checkConfigurations() }
        @Test func timestepsAreTheReferences() throws { try goldens.checkTimesteps() }
        @Test func noiseLevelsAreTheReferences() throws { try goldens.checkNoiseLevels() }
        @Test func coefficientsAreExact() throws { try goldens.checkCoefficients() }
        @Test func plainLoopsAreExact() throws { try goldens.checkPlainLoops() }
        @Test func loopsInFloat64AreExact() throws { try goldens.checkFloat64Loops() }
        @Test func loopsInFloat32AreNearerThanTheReferences() throws { try goldens.checkFloat32Loops() }
    }

    @Suite struct DPMSolver {
        let goldens = MultistepGoldens<DPMSolverMultistepConfiguration>("dpmsolver")
        @Test func coversTheParameters() throws { try goldens.checkCoverage(atLeast: 300) }
        @Test func configurationsReturnAsTheyCame() throws { try goldens.checkConfigurations() }
        @Test func timestepsAreTheReferences() throws { try goldens.checkTimesteps() }
        @Test func noiseLevelsAreTheReferences() throws { try goldens.checkNoiseLevels() }
        @Test func coefficientsAreExact() throws { try goldens.checkCoefficients() }
        @Test func plainLoopsAreExact() throws { try goldens.checkPlainLoops() }
        @Test func loopsInFloat64AreExact() throws { try goldens.checkFloat64Loops() }
        @Test func loopsInFloat32AreNearerThanTheReferences() throws { try goldens.checkFloat32Loops() }
    }

    @Suite struct DPMSolverInverse {
        let goldens = MultistepGoldens<DPMSolverMultistepInverseConfiguration>("dpmsolver_inverse")
        @Test func coversTheParameters() throws { try goldens.checkCoverage(atLeast: 200) }
        @Test func configurationsReturnAsTheyCame() throws { try goldens.checkConfigurations() }
        @Test func timestepsAreTheReferences() throws { try goldens.checkTimesteps() }
        @Test func noiseLevelsAreTheReferences() throws { try goldens.checkNoiseLevels() }
        @Test func coefficientsAreExact() throws { try goldens.checkCoefficients() }
        @Test func plainLoopsAreExact() throws { try goldens.checkPlainLoops() }
        @Test func loopsInFloat64AreExact() throws { try goldens.checkFloat64Loops() }
        @Test func loopsInFloat32AreNearerThanTheReferences() throws { try goldens.checkFloat32Loops() }
    }
}

/// Checks for every multistep scheduler.
struct MultistepGoldens<Definition: MultistepDefinition & SigmaGridConfiguration> {
    typealias S = DefinedScheduler<Definition>

    let file: Result<GoldenFile, any Error>

    init(_ name: String) { file = Result { try GoldenFile.load(name) } }

    func eachRecord(_ body: (_ index: Int, _ record: GoldenRecord, _ scheduler: S) throws -> Void) throws {
        for (index, record) in try file.get().records.enumerated() where index % TestDraws.step == 0 {
            try body(index, record, S(S.Configuration(json: record.configText)))
        }
    }

    /// A plan on the reference's own noise levels, so only the coefficients differ.
    func plan(_ record: GoldenRecord, _ scheduler: S) throws -> SamplingPlan {
        try scheduler.plan(
            on: TimestepGrid(
                timesteps: record.timesteps, sigmas: record.sigmas,
                process: scheduler.configuration.useFlowSigmas ? .flow : .variancePreserving))
    }

    /// The original's inverse denoises with flow sigmas, or when another scheduler's sigma_min or sigma_max comes along (they
    /// replace the wrong ends). Ours inverts in these cases, too, so its grid differs on purpose.
    func hasAnotherGrid(_ scheduler: S) -> Bool {
        guard let inverse = scheduler as? DPMSolverMultistepInverseScheduler else { return false }
        switch inverse.configuration.sigmaSpacing(flowShift: 1) {
        case .timesteps: return false
        case .flow: return true
        default: return inverse.configuration.sigmaMin != nil || inverse.configuration.sigmaMax != nil
        }
    }

    /// The model's output for a sample, followed in each batch item by the variance if the model learns one.
    func model(_ x: [Double], timestep: Double, scheduler: S) -> [Double] {
        let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
        guard scheduler.modelLearnsVariance else { return e }
        let half = e.count / GoldenProblem.batchSize
        return (0..<GoldenProblem.batchSize).flatMap { item in
            e[item * half..<(item + 1) * half] + [Double](repeating: 0.5, count: half)
        }
    }

    func checkCoverage(atLeast count: Int) throws {
        let file = try file.get()
        #expect(file.records.count >= count)
        // The drawn configurations must cover several values of every key, and every word that a key allows.
        for parameter in S.Configuration.parameters where parameter.overrideName == nil {
            // beta_start and beta_end have ranges; time_shift_type has one word.
            guard !["beta_start", "beta_end", "time_shift_type"].contains(parameter.key) else { continue }
            let values = Set(file.coverage[parameter.key].map { $0.keys.map { $0 } } ?? [])
                .union(file.coverage["\(parameter.key) (given)"].map { $0.keys.map { $0 } } ?? [])
            #expect(values.count >= 2, "\(parameter.key) was drawn as \(values.sorted())")
        }
        for bucket in ["1", "2-4", "5-14", "15-50", "51-200", "201-999"] {
            #expect((file.coverage["n"]?[bucket] ?? 0) >= 5, "n in \(bucket)")
        }
    }

    func checkConfigurations() throws {
        try eachRecord { index, record, scheduler in
            #expect(scheduler.configuration.jsonText == record.configText, "record \(index)")
        }
    }

    func checkTimesteps() throws {
        try eachRecord { index, record, scheduler in
            if hasAnotherGrid(scheduler) { return }
            let timesteps = try scheduler.plan(record.request).timesteps
            #expect(timesteps.count == record.timesteps.count, "record \(index)")
            for (i, (ours, theirs)) in zip(timesteps, record.timesteps).enumerated() {
                let allowed = record.loose.contains(i) ? 1.0 : 0
                #expect(abs(ours - theirs) <= allowed, "record \(index), timestep \(i): \(ours), reference \(theirs)")
            }
        }
    }

    func checkNoiseLevels() throws {
        try eachRecord { index, record, scheduler in
            if hasAnotherGrid(scheduler) { return }
            let plan = try scheduler.plan(record.request)
            // Karras, exponential and beta grids run between the ends of the table. A one-unit error of torch's root at an end
            // moves the whole grid by as much.
            let last = record.n - 1
            let inherited =
                scheduler.configuration.sigmaSpacing(flowShift: 1) == .timesteps
                ? 0 : max(relative(plan.sigmas[0], record.sigmas[0]), relative(plan.sigmas[last], record.sigmas[last]))
            let isLu = scheduler.configuration.sigmaSpacing(flowShift: 1) == .lu
            #expect(inherited <= (isLu ? Tolerance.luSigma : Tolerance.sigma), "record \(index), the ends of the grid")
            for (i, (ours, theirs)) in zip(plan.sigmas, record.sigmas).enumerated() {
                // A timestep on the edge may be its neighbour; a plain grid's level then follows it.
                if record.loose.contains(i), plan.timesteps[i] != record.timesteps[i] { continue }
                #expect(
                    relative(ours, theirs) <= Tolerance.sigma + inherited,
                    "record \(index), level \(i): \(ours), reference \(theirs)")
            }
        }
    }

    func checkCoefficients() throws {
        try eachRecord { index, record, scheduler in
            let plan = try plan(record, scheduler)
            for golden in record.coefficients {
                let update = try scheduler.solver.update(
                    order: golden.order, at: golden.index, of: plan.levels, remembered: golden.order - 1)
                let place = "record \(index), step \(golden.index) of order \(golden.order)"
                #expect(relative(update.sample, golden.a) <= Tolerance.coefficient, "\(place), a")
                #expect(relative(update.noise, golden.c) <= Tolerance.coefficient, "\(place), c")
                for (k, b) in golden.b.enumerated() {
                    let ours = k < update.outputs.count ? update.outputs[k] : 0
                    #expect(relative(ours, b) <= Tolerance.coefficient, "\(place), b\(k): \(ours), exact \(b)")
                }
            }
        }
    }

    func checkPlainLoops() throws {
        try eachRecord { index, record, scheduler in
            let plan = try plan(record, scheduler)
            var oracle = PlainOracle(plan: plan)
            var x = GoldenProblem.initialSample
            for (i, timestep) in plan.timesteps.enumerated() {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
                x =
                    oracle.step(
                        modelOutput: e, sample: x, noise: GoldenProblem.noise(step: i), batchSize: GoldenProblem.batchSize
                    ).nextSample
            }
            let deviation = x.deviation(from: record.finalExact)
            #expect(deviation <= Tolerance.loop, "record \(index): \(deviation) from the exact result")
            let own = record.finalFloat64.deviation(from: record.finalExact)
            #expect(
                x.deviation(from: record.finalFloat64) <= Tolerance.loop + 2 * own,
                "record \(index): diffusers in float64, whose own error is \(own)")
        }
    }

    func checkFloat64Loops() throws {
        try eachRecord { index, record, scheduler in
            var session = SamplingSession(plan: try plan(record, scheduler))
            var x = GoldenProblem.initialSample
            while let timestep = session.timestep {
                let noise = GoldenProblem.noise(step: session.stepIndex)
                try session.step(
                    modelOutput: model(x, timestep: timestep, scheduler: scheduler), sample: &x, noise: noise,
                    batchSize: GoldenProblem.batchSize)
            }
            // The kernel, like torch, rounds the threshold's ratio to the elements' type; the exact result doesn't.
            let deviation = x.deviation(from: record.finalExact)
            #expect(deviation <= Tolerance.loop, "record \(index): \(deviation) from the exact result")
        }
    }

    func checkFloat32Loops() throws {
        var nearer = 0, total = 0
        try eachRecord { index, record, scheduler in
            var session = SamplingSession(plan: try plan(record, scheduler))
            var x = GoldenProblem.initialSample.map { Float($0) }
            while let timestep = session.timestep {
                let e = model(x.map(Double.init), timestep: timestep, scheduler: scheduler).map { Float($0) }
                let noise = GoldenProblem.noise(step: session.stepIndex).map { Float($0) }
                try session.step(modelOutput: e, sample: &x, noise: noise, batchSize: GoldenProblem.batchSize)
            }
            let ours = x.map(Double.init).rootMeanSquareError(from: record.finalExact)
            let theirs = record.finalFloat32.rootMeanSquareError(from: record.finalExact)
            total += 1
            if !(ours > theirs) { nearer += 1 }
            if scheduler is DEISMultistepScheduler, scheduler.solverOrder == 3, record.n >= 25 {
                #expect(!(ours > theirs), "record \(index), order 3, \(record.n) steps: \(ours), reference \(theirs)")
            }
        }
        print("\(S.self): float32 loops nearer to the exact result than diffusers': \(nearer) of \(total)")
        #expect(Double(nearer) >= Tolerance.nearerShare * Double(total))
    }

    private func relative(_ value: Double, _ exact: Double) -> Double {
        value == exact ? 0 : abs(value - exact) / abs(exact)
    }
}
