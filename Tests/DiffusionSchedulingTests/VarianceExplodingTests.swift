// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Euler and its kin: their numbers by hand, their order, diffusers' own tests, and refusals.
@Suite struct VarianceExplodingTests {
    static func scheduler(_ name: String, _ members: String = "") throws -> any PlannedScheduler {
        try SchedulerCatalog.makeScheduler(json: "{\"_class_name\": \"\(name)\"\(members.isEmpty ? "" : ", ")\(members)}")
    }

    static func euler(_ members: String = "") throws -> any PlannedScheduler { try scheduler("EulerDiscreteScheduler", members) }
    static func heun(_ members: String = "") throws -> any PlannedScheduler { try scheduler("HeunDiscreteScheduler", members) }

    // MARK: Numbers

    /// The step from ς = 2.5546913147 to τ = 1.4623570442 of the default run of 10 steps.
    @Test(arguments: [
        ("epsilon", 1, -1.092334270477295), ("v_prediction", 0.6292305507457325, -0.39816266519737226),
        ("sample", 0.5724202512479525, 0.4275797487520475), ("original_sample", 0.5724202512479525, 0.4275797487520475),
    ])
    func eulerStepsAreTheFormulas(type: String, sample: Double, output: Double) throws {
        let plan = try Self.euler("\"prediction_type\": \"\(type)\"").plan(.count(10))
        let row = plan.row(at: 5, age: 5)
        #expect(abs(row.nextSample.sample - sample) < 1e-7 && abs(row.nextSample.modelOutput - output) < 1e-6)
        #expect(abs(plan.inputScales[5] - 0.36450624681343674) < 1e-7)
        #expect(abs(plan.initNoiseSigma - 157.407272) < 2e-5)
    }

    @Test func ancestralStepsAreTheFormulas() throws {
        let plan = try Self.scheduler("EulerAncestralDiscreteScheduler").plan(.count(10)), row = plan.row(at: 5, age: 5)
        #expect(abs(row.nextSample.modelOutput + 1.717608528030657) < 1e-6 && row.nextSample.sample == 1)
        #expect(abs(row.nextSample.noise - 1.1990748654884873) < 1e-6)
        let last = plan.row(at: 9, age: 9)
        #expect(last.drawCount == 1 && !last.needsNoise)
        expectInvalid("prediction_type", "\"sample\"", allowed: "epsilon, v_prediction") {
            _ = try Self.scheduler("EulerAncestralDiscreteScheduler", #""prediction_type": "sample""#)
        }
        expectInvalid("timesteps", "given", allowed: "left out") {
            _ = try EulerAncestralDiscreteScheduler().plan(.timesteps([5]))
        }
    }

    /// diffusers' own test, with its seed: the last step draws noise, too.
    @Test func ancestralLoopsAreUpstreams() throws {
        var scheduler = try Self.scheduler("EulerAncestralDiscreteScheduler", #""num_train_timesteps": 1100"#)
        try scheduler.setTimesteps(10)
        var x = UpstreamTests.sample.map { Float($0 * scheduler.initNoiseSigma) }, generator = TorchCPUNoise(seed: 0)
        for timestep in scheduler.timesteps {
            x = try scheduler.scaleModelInput(x, timestep: timestep)
            let output = x.map { Float(Double($0) * timestep / (timestep + 1)) }
            try scheduler.step(modelOutput: output, timestep: timestep, sample: &x, generator: &generator)
        }
        // Upstream's tolerances.
        let sum = x.map { Double(abs($0)) }.reduce(0, +)
        #expect(abs(sum - 152.3192) < 1e-2 && abs(sum / Double(x.count) - 0.1983) < 1e-3, "\(sum)")
    }

    /// NumPy's `arange` gives `trailing` a timestep below 0 for 62 numbers of steps. The spaced levels end at its level.
    @Test func spacedLevelsEndBelowTheLastTimestep() throws {
        let members = #""timestep_spacing": "trailing", "use_karras_sigmas": true"#
        let euler = try Self.euler(members).plan(.count(61)), heun = try Self.heun(members).plan(.count(61))
        #expect(abs(euler.sigmas[60] - 0.010001) < 1e-6 && euler.timesteps[60] == 0 && euler.stepCount == 61)
        #expect(abs(heun.sigmas[heun.stepCount - 1] - 0.0291) < 1e-4 && heun.timesteps[heun.stepCount - 1] == 0)
        // The last of 60 steps is at timestep 16.
        #expect(try Self.euler(members).plan(.count(60)).timesteps[59] > 10)
    }

    /// SDXL-Turbo's only step adds no noise, but diffusers draws for it.
    @Test func stepsDrawNoiseThatTheyDoNotAdd() throws {
        for json in [
            #"{"_class_name": "EulerAncestralDiscreteScheduler"}"#,
            #"{"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": true}"#,
            #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#,
        ] {
            let plan = try SchedulerCatalog.makeScheduler(json: json).plan(.count(1))
            #expect(plan.row(at: 0, age: 0).drawCount == 1 && !plan.row(at: 0, age: 0).needsNoise && plan.isStochastic, "\(json)")
        }
    }

    @Test func stepsWriteTheNextModelInput() throws {
        let plan = try Self.euler().plan(.count(5))
        var session = SamplingSession(plan: plan), x: [Double] = [3, -2, 0.5], input = [Double](repeating: .nan, count: 3)
        while session.timestep != nil {
            var sample = x.mutableSpan, next = input.mutableSpan
            try session.step(modelOutput: [0.25, -1, 2].span, sample: &sample, nextModelInput: &next)
            let scale = session.timestep == nil ? 1 : plan.inputScales[session.stepIndex]
            for (u, v) in zip(input, x) { #expect(abs(u - scale * v) <= 0x1p-52 * abs(u)) }
        }
        session.reset()
        let few = fault {
            var sample = x.mutableSpan, input = [1.0, 2.0], next = input.mutableSpan
            try session.step(modelOutput: [0.25, -1, 2].span, sample: &sample, nextModelInput: &next)
        }
        #expect(few == .wrongElementCount(argument: "nextModelInput", count: 2, expected: "3, as the sample"))
        #expect(session.stepIndex == 0)
    }

    @Test func churnRaisesTheNoise() throws {
        let row = try Self.euler().plan(.count(10), optionValues: ["s_churn": 3]).row(at: 5, age: 5)
        #expect(
            abs(row.nextSample.noise - 2.1220859837053854) < 1e-6 && abs(row.nextSample.modelOutput + 1.8587416648864745) < 1e-6)
        #expect(row.nextSample.sample == 1 && row.prediction.noise == row.nextSample.noise && row.drawCount == 1)
    }

    /// Stable Video Diffusion's configuration.
    @Test func continuousTimestepsAreQuarterLogarithms() throws {
        let plan = try Self.euler(
            #""prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": true, "sigma_min": 0.002, "sigma_max": 700.0, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "leading""#
        ).plan(.count(5))
        for (ours, theirs) in zip(plan.timesteps, [1.63777006, 1.22604895, 0.686656892, -0.0970981717, -1.55365205]) {
            #expect(abs(ours - theirs) < 1e-6)
        }
        #expect(abs(plan.initNoiseSigma - (700.0 * 700 + 1).squareRoot()) < 1e-4)
    }

    @Test func logarithmicLevelsEndWithTheTrainings() throws {
        let plan = try Self.euler(#""interpolation_type": "log_linear""#).plan(.count(5))
        let expected = [157.407257, 22.7840710, 3.29790330, 0.477358431, 0.0690957233, 0.0100013297]
        #expect(plan.sigmas.count == 6 && zip(plan.sigmas, expected).allSatisfy { abs($0 - $1) <= Tolerance.luSigma * $1 })
        let row = try Self.euler(#""interpolation_type": "log_linear""#).plan(.count(5), optionValues: ["s_churn": 0.6]).row(
            at: 0, age: 0)
        #expect(abs(row.nextSample.noise - plan.sigmas[0] * (0.1 * 2.1).squareRoot()) < 1e-9, "of six levels")
    }

    @Test(arguments: ["epsilon", "sample", "v_prediction"]) func noStepLeadsAwayFromALevelWithoutNoise(type: String) throws {
        let plan = try Self.euler("\"prediction_type\": \"\(type)\"").plan(.sigmas([3, 0, 0, 0]), optionValues: ["s_churn": 1])
        for index in 1...2 {
            let row = plan.row(at: index, age: index)
            #expect(row.nextSample == Combination(.sample))
        }
        let degenerate = try Self.heun("\"prediction_type\": \"\(type)\", \"beta_start\": 0.0, \"clip_sample\": true").plan(
            .count(4))
        #expect(degenerate.sigmas.filter { $0 == 0 }.count == 3)
        var session = SamplingSession(plan: degenerate), x = goldenStart
        try session.run(&x)
        #expect(x.allFinite)
    }

    // MARK: Heun

    @Test func heunEvaluatesTwiceAStep() throws {
        let plan = try Self.heun().plan(.count(4))
        #expect(plan.stepCount == 7 && plan.steps == [0, 0, 1, 1, 2, 2, 3] && plan.starts == [0, 2, 4, 6] && plan.slotCount == 1)
        #expect(plan.timesteps == [999, 666, 666, 333, 333, 0, 0])
        #expect(try plan.index(ofTimestep: 666) == 2)
        let h = plan.sigmas[1] - plan.sigmas[0], first = plan.row(at: 0, age: 0), second = plan.row(at: 1, age: 1)
        #expect(first.nextSample == Combination(sample: 1, modelOutput: h))
        #expect(first.stores == [.init(slot: 0, value: Combination(sample: 1, modelOutput: h / 2))])
        #expect(second.nextSample == Combination(modelOutput: h / 2, slots: [1]) && second.stores.isEmpty)
        var scheduler = try HeunDiscreteScheduler()
        try scheduler.setTimesteps(4)
        expectInvalid("begin index", "3", allowed: "such as 2") { try scheduler.setBeginIndex(3) }
    }

    /// The order, measured on normally distributed data, whose probability flow is known.
    @Test(
        arguments: [("EulerDiscreteScheduler", 1.0), ("HeunDiscreteScheduler", 2)], [PredictionType.epsilon, .sample, .vPrediction])
    func errorFallsWithTheOrder(_ expected: (name: String, order: Double), type: PredictionType) throws {
        let configuration = try Self.scheduler(expected.name, "\"prediction_type\": \"\(type.rawValue)\"").configuration
        let points = try [200, 300, 450, 680, 1000].map { count in
            let levels = linspace(logarithm(20), logarithm(0.1), count: count + 1).map { exponential($0) }
            let isHeun = expected.order == 2
            let sigmas: [Double] = [levels[0]] + levels.dropFirst().flatMap { isHeun ? [$0, $0] : [$0] }
            let grid = TimestepGrid(
                timesteps: Array(repeating: 0, count: sigmas.count - 1), exactSigmas: sigmas, process: .varianceExploding)
            let definition = try #require(configuration as? any VarianceExplodingDefinition)
            return try (count: count, error: Self.error(of: Self.plan(definition, on: grid), type))
        }
        let measured = ConvergenceTests.slope(points)
        #expect(abs(measured - expected.order) <= Tolerance.measuredOrder, "measured \(measured), \(points)")
    }

    private static func plan<D: VarianceExplodingDefinition>(_ definition: D, on grid: TimestepGrid) throws -> SamplingPlan {
        try definition.plan(on: grid, for: .count(grid.timesteps.count), options: .init())
    }

    /// The problem's models get the sample in the plan's own process.
    private static func error(of plan: SamplingPlan, _ type: PredictionType) throws -> Double {
        let problem = ConvergenceTests.problem
        var session = SamplingSession(plan: plan), x = problem.sample(at: plan.levels[0])
        while session.timestep != nil {
            let level = NoiseLevel(sigma: plan.sigmas[session.stepIndex], process: .variancePreserving)
            let output = problem.output(type, for: x.map { $0 * level.signalRate }, at: level)
            try session.step(modelOutput: output, sample: &x)
        }
        return zip(x, problem.sample(at: plan.levels[plan.stepCount])).map { abs($0 - $1) }.max() ?? .nan
    }

    // MARK: diffusers' own tests

    /// The constants belong to upstream's loop, which steps from the scaled sample.
    @Test(arguments: [
        ("EulerDiscreteScheduler", "", 0.0131258862, 0.0262517706),
        ("EulerDiscreteScheduler", #", "use_karras_sigmas": true"#, 0.162138805, -0.324277818),
        ("HeunDiscreteScheduler", "", 1.60586904e-4, 3.21173808e-4),
    ]) func loopsAreUpstreams(name: String, members: String, mean: Double, element: Double) throws {
        var scheduler = try Self.scheduler(name, #""num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02"# + members)
        let x = try Self.upstreamLoop(&scheduler, UpstreamTests.sample)
        #expect(abs(UpstreamTests.mean(x) - mean) <= Tolerance.upstreamLoop, "\(UpstreamTests.mean(x))")
        #expect(abs(x[3 * 192 + 2 * 64 + 7 * 8 + 7] - element) <= Tolerance.upstreamLoop)
    }

    static func upstreamLoop(_ scheduler: inout any PlannedScheduler, _ start: [Double]) throws -> [Double] {
        try scheduler.setTimesteps(10)
        var x = start.map { $0 * scheduler.initNoiseSigma }
        for timestep in scheduler.timesteps {
            x = try scheduler.scaleModelInput(x, timestep: timestep)
            try scheduler.step(modelOutput: UpstreamTests.model(x, timestep), timestep: timestep, sample: &x)
        }
        return x
    }

    // MARK: Noise

    /// A generator draws only in steps to which churn adds noise.
    @Test func generatorsDrawWhereChurnDoes() throws {
        var scheduler = try EulerDiscreteScheduler()
        var options = EulerDiscreteConfiguration.Options()
        (options.sChurn, options.sTmin, options.sTmax) = (5, 1, 50)
        try scheduler.setTimesteps(.count(10), options: options)
        let plan = try #require(scheduler.plan), draws = plan.sigmas.dropLast().filter { (1...50).contains($0) }.count
        var used = TorchCPUNoise(seed: 7), expected = TorchCPUNoise(seed: 7), x = goldenStart
        for timestep in scheduler.timesteps {
            try scheduler.step(modelOutput: goldenOutput(x, timestep: timestep), timestep: timestep, sample: &x, generator: &used)
        }
        for _ in 0..<draws { _ = expected.normals(x.count) }
        #expect(draws > 0 && draws < 10 && bits(used.normals(24)) == bits(expected.normals(24)))
    }

    // MARK: Refusals

    @Test func whatDiffusersRefusesLateIsRefusedAtOnce() throws {
        expectInvalid("beta_schedule", "\"exp\"", allowed: "linear, scaled_linear, squaredcos_cap_v2") {
            _ = try Self.euler(#""beta_schedule": "exp""#)
        }
        expectInvalid("beta_schedule", "exp", allowed: "squaredcos_cap_v2") {
            var configuration = EulerDiscreteConfiguration()
            configuration.betaSchedule = .exponential
            _ = try EulerDiscreteScheduler(configuration)
        }
        expectInvalid("prediction_type", "\"original_sample\"", allowed: "epsilon, sample, v_prediction") {
            _ = try Self.heun(#""prediction_type": "original_sample""#)
        }
        expectInvalid("prediction_type", "\"flow_prediction\"", allowed: "v_prediction") {
            _ = try Self.euler(#""prediction_type": "flow_prediction""#)
        }
        expectInvalid("clip_sample_range", "0.0", allowed: "greater than 0") { _ = try Self.heun(#""clip_sample_range": 0.0"#) }
        expectInvalid("sigma_min", "-1.0", allowed: "greater than 0") { _ = try Self.euler(#""sigma_min": -1.0"#) }
        #expect(fault { _ = try Self.euler(#""use_karras_sigmas": true, "use_beta_sigmas": true"#) } != nil)
        expectInvalid("timesteps", "given", allowed: "use_karras_sigmas") {
            _ = try Self.heun(#""use_karras_sigmas": true"#).plan(.timesteps([10, 5]))
        }
        expectInvalid("timesteps", "given", allowed: "continuous") {
            _ = try Self.euler(#""prediction_type": "v_prediction", "timestep_type": "continuous""#).plan(.timesteps([10, 5]))
        }
        expectInvalid("timesteps[1]", "11.0", allowed: "not greater") { _ = try Self.euler().plan(.timesteps([10, 11])) }
        expectInvalid("number of sigmas", "1", allowed: "at least 2") { _ = try Self.euler().plan(.sigmas([1])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try Self.euler().plan(.count(5, mu: 1)) }
        expectInvalid("s_churn", "-1.0", allowed: "at least 0") {
            _ = try Self.euler().plan(.count(5), optionValues: ["s_churn": -1])
        }
        expectInvalid("beta_start", "0", allowed: "logarithm") {
            _ = try Self.euler(#""beta_start": 0.0, "interpolation_type": "log_linear""#).plan(.count(5))
        }
    }
}
