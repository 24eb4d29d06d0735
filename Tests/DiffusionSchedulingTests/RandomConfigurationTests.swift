import Testing

@testable import DiffusionScheduling

/// Random valid configurations of every scheduler, over whole runs: what is accepted gives finite samples.
@Suite struct RandomConfigurationTests {
    static let count = 300

    @Test func deisRunsStayFinite() throws {
        var generator = SeededGenerator("random DEIS")
        for _ in 0..<Self.count {
            var c = DEISMultistepConfiguration()
            drawNoiseSchedule(&c, &generator)
            drawGrid(&c, &generator)
            drawThresholding(&c, &generator)
            (c.solverOrder, c.lowerOrderFinal) = (.random(in: 1...3, using: &generator), .random(using: &generator))
            c.predictionType = c.useFlowSigmas ? .flowPrediction : .allCases.randomElement(using: &generator)!
            c.finalSigmasType = Bool.random(using: &generator) ? nil : .allCases.randomElement(using: &generator)
            try run(DEISMultistepScheduler.self, c, &generator)
        }
    }

    @Test func dpmSolverRunsStayFinite() throws {
        var generator = SeededGenerator("random DPM-Solver")
        for _ in 0..<Self.count {
            var c = DPMSolverMultistepConfiguration()
            drawDPMSolver(&c, &generator)
            c.finalSigmasType = .allCases.randomElement(using: &generator)!
            c.rescaleBetasZeroSNR = .random(using: &generator)
            let hasLogarithms = c.betaStart > 0 && c.trainedBetas == nil
            c.useLuLambdas = Int.random(in: 0..<6, using: &generator) == 0 && !c.useFlowSigmas && hasLogarithms
            try run(DPMSolverMultistepScheduler.self, c, &generator)
        }
    }

    @Test func dpmSolverInverseRunsStayFinite() throws {
        var generator = SeededGenerator("random DPM-Solver inverse")
        for _ in 0..<Self.count {
            var c = DPMSolverMultistepInverseConfiguration()
            drawDPMSolver(&c, &generator)
            try run(DPMSolverMultistepInverseScheduler.self, c, &generator)
        }
    }

    @Test func ddimRunsStayFinite() throws {
        var generator = SeededGenerator("random DDIM")
        for _ in 0..<Self.count {
            var c = DDIMConfiguration()
            drawNoiseSchedule(&c, &generator)
            drawThresholding(&c, &generator)
            drawDDIM(&c, &generator)
            c.previousTimestep = Bool.random(using: &generator) ? nil : .schedule
            try run(DDIMScheduler.self, c, &generator)
        }
    }

    @Test func ddimInverseRunsStayFinite() throws {
        var generator = SeededGenerator("random DDIM inverse")
        for _ in 0..<Self.count {
            var c = DDIMInverseConfiguration()
            drawNoiseSchedule(&c, &generator)
            drawDDIM(&c, &generator)
            if c.timestepSpacing == .linspace { c.timestepSpacing = .leading }
            try run(DDIMInverseScheduler.self, c, &generator)
        }
    }

    // MARK: Runs

    /// Plans a run and takes it to its end, in float32, with a model that isn't linear.
    private func run<S: PlannedScheduler>(
        _ type: S.Type, _ configuration: S.Configuration, _ generator: inout SeededGenerator
    ) throws {
        let text = configuration.jsonText
        var scheduler = try S(configuration)
        // Few long runs, many short ones.
        let most = configuration is any DDIMFamilyConfiguration ? scheduler.noiseSchedule.count : 1000
        let n = min(Int(exponential(.random(in: 0...logarithm(1001), using: &generator))), most)
        if let fault = fault({ try scheduler.setTimesteps(n) }) {
            // An offset that leaves the table is refused, as it should be.
            if case .invalidValue(key: "steps_offset", _, _) = fault { return }
            Issue.record("\(fault): \(n) steps of \(text)")
            return
        }
        #expect(scheduler.timesteps.allSatisfy { $0 >= 0 }, "\(n) steps of \(text)")
        #expect(scheduler.timesteps.count <= n, "\(n) steps of \(text)")
        var x = (0..<12).map { Float($0 % 7) / 3 - 1 }
        for timestep in scheduler.timesteps {
            let e = x.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: scheduler.count)) }
            let noise = (0..<x.count).map { _ in Float.random(in: -1.7...1.7, using: &generator) }
            try scheduler.step(modelOutput: e, timestep: timestep, sample: &x, noise: noise, batchSize: 2)
        }
        #expect(x.allFinite, "\(n) steps of \(text)")
    }

    // MARK: Draws

    private func drawNoiseSchedule(_ c: inout some NoiseScheduleConfiguration, _ generator: inout SeededGenerator) {
        c.numTrainTimesteps = [1000, 1000, 1000, 500, 100, 7, 1].randomElement(using: &generator)!
        c.betaSchedule = .allCases.randomElement(using: &generator)!
        (c.betaStart, c.betaEnd) = [(0.0001, 0.02), (0.00085, 0.012), (1e-6, 0.05), (0, 0.02)].randomElement(using: &generator)!
        if c.numTrainTimesteps == 7 { c.trainedBetas = [0, 0.01, 0.01, 0.5, 0, 0.2, 0.9] }
    }

    private func drawThresholding(_ c: inout some ThresholdingConfiguration, _ generator: inout SeededGenerator) {
        c.thresholding = Int.random(in: 0..<3, using: &generator) == 0
        c.dynamicThresholdingRatio = .random(in: 0...1, using: &generator)
        c.sampleMaxValue = .random(in: 0.1...4, using: &generator)
    }

    private func drawGrid(_ c: inout some SigmaGridConfiguration, _ generator: inout SeededGenerator) {
        // A level of 0 has no logarithm, and is refused where the spacing needs one.
        let grids = c.betaStart == 0 || c.trainedBetas != nil ? [0, 1, 3, 4] : [0, 1, 2, 3, 4]
        switch grids.randomElement(using: &generator)! {
        case 1: c.useKarrasSigmas = true
        case 2: c.useExponentialSigmas = true
        case 3: c.useBetaSigmas = true
        case 4: c.useFlowSigmas = true
        default: break
        }
        c.flowShift = .random(in: 0.3...8, using: &generator)
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = .random(in: 0...3, using: &generator)
    }

    private func drawDPMSolver(_ c: inout some DPMSolverConfiguration, _ generator: inout SeededGenerator) {
        drawNoiseSchedule(&c, &generator)
        drawGrid(&c, &generator)
        drawThresholding(&c, &generator)
        c.algorithmType = .allCases.randomElement(using: &generator)!
        c.solverType = .allCases.randomElement(using: &generator)!
        c.solverOrder = .random(in: 1...3, using: &generator)
        (c.lowerOrderFinal, c.eulerAtFinal) = (.random(using: &generator), .random(using: &generator))
        c.predictionType = c.useFlowSigmas ? .flowPrediction : .allCases.randomElement(using: &generator)!
        c.lambdaMinClipped = Bool.random(using: &generator) ? -.infinity : -5.1
        c.varianceType = [nil, "learned_range", "fixed_small"].randomElement(using: &generator)!
    }

    private func drawDDIM(_ c: inout some DDIMFamilyConfiguration, _ generator: inout SeededGenerator) {
        c.clipSample = .random(using: &generator)
        c.clipSampleRange = .random(in: 0.5...3, using: &generator)
        c.setAlphaToOne = .random(using: &generator)
        c.timestepSpacing = .allCases.randomElement(using: &generator)!
        c.stepsOffset = Int.random(in: 0...1, using: &generator) * (c.numTrainTimesteps > 1 ? 1 : 0)
        c.predictionType = [.epsilon, .sample, .vPrediction].randomElement(using: &generator)!
        c.rescaleBetasZeroSNR = .random(using: &generator)
    }
}
