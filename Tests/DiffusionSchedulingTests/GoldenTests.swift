import Testing

@testable import DiffusionScheduling

/// DEIS against diffusers and against 50-digit arithmetic, over the recorded configurations.
@Suite struct DEISGoldenTests {
    static let file = Result { try GoldenFile.load("deis") }

    func eachRecord(
        _ body: (_ index: Int, _ record: GoldenRecord, _ scheduler: DEISMultistepScheduler) throws -> Void
    ) throws {
        for (index, record) in try Self.file.get().records.enumerated() {
            try body(index, record, DEISMultistepScheduler(.init(json: record.configText)))
        }
    }

    /// A plan on the very noise levels that the reference had, so that only the coefficients differ.
    func plan(_ record: GoldenRecord, _ scheduler: DEISMultistepScheduler) throws -> SamplingPlan {
        try scheduler.plan(
            grid: TimestepGrid(
                timesteps: record.timesteps, sigmas: record.sigmas, isFlow: scheduler.configuration.useFlowSigmas))
    }

    @Test func coversTheParameters() throws {
        let file = try Self.file.get()
        #expect(file.records.count >= 300)
        for parameter in DEISMultistepConfiguration.parameters where parameter.overrideName == nil {
            guard let counts = file.coverage[parameter.key] else { continue }
            for (value, count) in counts { #expect(count > 0, "\(parameter.key) \(value)") }
        }
        for key in ["solver_order", "prediction_type", "timestep_spacing", "beta_schedule", "thresholding", "use_flow_sigmas"] {
            #expect((file.coverage[key]?.count ?? 0) >= 2, "\(key) is drawn with one value only")
        }
    }

    @Test func configurationsReturnAsTheyCame() throws {
        try eachRecord { index, record, scheduler in
            #expect(scheduler.configuration.jsonText == record.configText, "record \(index)")
        }
    }

    @Test func timestepsAreTheReferences() throws {
        try eachRecord { index, record, scheduler in
            let timesteps = try scheduler.plan(record.request).timesteps
            #expect(timesteps.count == record.timesteps.count, "record \(index)")
            for (i, (ours, theirs)) in zip(timesteps, record.timesteps).enumerated() {
                let allowed = record.loose.contains(i) ? 1.0 : 0
                #expect(abs(ours - theirs) <= allowed, "record \(index), timestep \(i): \(ours), reference \(theirs)")
            }
        }
    }

    @Test func noiseLevelsAreTheReferences() throws {
        try eachRecord { index, record, scheduler in
            let plan = try scheduler.plan(record.request)
            // Karras, exponential and beta grids run between the ends of the table, and where torch's root of an end is one
            // unit off, its whole grid is off by as much.
            let inherited =
                scheduler.configuration.sigmaSpacing(flowShift: 1) == .timesteps
                ? 0 : max(relative(plan.sigmas[0], record.sigmas[0]), relative(plan.sigmas[record.n - 1], record.sigmas[record.n - 1]))
            #expect(inherited <= Tolerance.sigma, "record \(index), the ends of the grid")
            for (i, (ours, theirs)) in zip(plan.sigmas, record.sigmas).enumerated() {
                // A timestep on the edge may be the neighbour, and then so is its level on a plain grid.
                if record.loose.contains(i), plan.timesteps[i] != record.timesteps[i] { continue }
                #expect(
                    relative(ours, theirs) <= Tolerance.sigma + inherited,
                    "record \(index), level \(i): \(ours), reference \(theirs)")
            }
        }
    }

    @Test func coefficientsAreExact() throws {
        try eachRecord { index, record, scheduler in
            let plan = try plan(record, scheduler)
            for golden in record.coefficients {
                let update = scheduler.solver.update(
                    order: golden.order, at: golden.index, of: plan.levels, remembered: golden.order - 1)
                #expect(relative(update.sample, golden.a) <= Tolerance.coefficient, "record \(index), step \(golden.index), a")
                for (k, b) in golden.b.enumerated() {
                    let ours = k < update.outputs.count ? update.outputs[k] : 0
                    #expect(
                        relative(ours, b) <= Tolerance.coefficient,
                        "record \(index), step \(golden.index) of order \(golden.order), b\(k): \(ours), exact \(b)")
                }
            }
        }
    }

    private func relative(_ value: Double, _ exact: Double) -> Double { value == exact ? 0 : abs(value - exact) / abs(exact) }

    @Test func plainLoopsAreExact() throws {
        try eachRecord { index, record, scheduler in
            let plan = try plan(record, scheduler)
            var oracle = PlainOracle(plan: plan)
            var x = GoldenProblem.initialSample
            for timestep in plan.timesteps {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
                x = oracle.step(modelOutput: e, sample: x, batchSize: GoldenProblem.batchSize).nextSample
            }
            let deviation = x.deviation(from: record.finalExact)
            #expect(deviation <= Tolerance.loop, "record \(index): \(deviation) from the exact result")
            let own = record.finalFloat64.deviation(from: record.finalExact)
            let thresholds = scheduler.configuration.thresholding ? 1e-6 : 0  // the reference rounds the ratio to float32
            #expect(
                x.deviation(from: record.finalFloat64) <= Tolerance.loop + 2 * own + thresholds,
                "record \(index): diffusers in float64, whose own error is \(own)")
        }
    }

    @Test func loopsInFloat64AreExact() throws {
        try eachRecord { index, record, scheduler in
            var session = SamplingSession(plan: try plan(record, scheduler))
            var x = GoldenProblem.initialSample
            while let timestep = session.timestep {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
                try session.step(modelOutput: e, sample: &x, batchSize: GoldenProblem.batchSize)
            }
            let deviation = x.deviation(from: record.finalExact)
            #expect(deviation <= Tolerance.loop, "record \(index): \(deviation) from the exact result")
        }
    }

    @Test func float32StepsKeepTheirBoundAndLoopsAreNearerThanTheReferences() throws {
        var nearer = 0, total = 0
        try eachRecord { index, record, scheduler in
            let plan = try plan(record, scheduler)
            var session = SamplingSession(plan: plan)
            var x = GoldenProblem.initialSample.map { Float($0) }
            while let timestep = session.timestep {
                let e = x.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: scheduler.count)) }
                try session.step(modelOutput: e, sample: &x, batchSize: GoldenProblem.batchSize)
            }
            let ours = x.map(Double.init).rootMeanSquareError(from: record.finalExact)
            let theirs = record.finalFloat32.rootMeanSquareError(from: record.finalExact)
            total += 1
            if !(ours > theirs) { nearer += 1 }
            if scheduler.configuration.solverOrder == 3, record.n >= 25 {
                #expect(!(ours > theirs), "record \(index), order 3, \(record.n) steps: \(ours), reference \(theirs)")
            }
        }
        print("float32 loops nearer to the exact result than diffusers': \(nearer) of \(total)")
        #expect(Double(nearer) >= Tolerance.nearerShare * Double(total))
    }
}
