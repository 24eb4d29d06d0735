// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// KDPM2 beyond the goldens: its numbers by hand, diffusers' own loops, its order, levels without noise, refusals.
@Suite struct KDPM2Tests {
    static let name = "KDPM2DiscreteScheduler"
    /// diffusers' own tests have these betas.
    static let betas = #""beta_start": 0.0001, "beta_end": 0.02"#

    static func plan(_ count: Int, _ members: String = betas) throws -> SamplingPlan {
        try VarianceExplodingTests.scheduler(name, members).plan(.count(count))
    }

    /// The step from ς = 2.5546913147 to τ = 1.4623570442, by way of m = 1.9328400968.
    @Test func stepsAreTheFormulas() throws {
        let plan = try Self.plan(10), first = plan.row(at: 10, age: 10), second = plan.row(at: 11, age: 11)
        #expect(first.nextSample.sample == 1 && abs(first.nextSample.modelOutput + 0.6218512178824451) < 1e-6)
        #expect(first.stores == [.init(slot: 0, value: Combination(.sample))])
        #expect(second.nextSample.slots[0] == 1 && abs(second.nextSample.modelOutput + 1.092334270477295) < 1e-6)
        #expect(second.nextSample.sample == 0 && second.stores.isEmpty)
        #expect(abs(plan.inputScales[11] - 1 / hypotenuse(1, 1.9328400968148205)) < 1e-7)
        #expect(abs(second.prediction.modelOutput + 1.9328400968148205) < 1e-6)
        let v = try Self.plan(10, #""prediction_type": "v_prediction", "# + Self.betas).row(at: 11, age: 11).nextSample
        let m = 1.9328400968148205, h = -1.092334270477295
        #expect(abs(v.sample - h * m / (m * m + 1)) < 1e-6 && abs(v.modelOutput - h / (m * m + 1).squareRoot()) < 1e-6)
    }

    @Test func stepsHaveTwoEvaluations() throws {
        let plan = try Self.plan(4)
        #expect(plan.stepCount == 7 && plan.steps == [0, 0, 1, 1, 2, 2, 3] && plan.starts == [0, 2, 4, 6] && plan.slotCount == 1)
        #expect(plan.sigmas.count == 8 && plan.sigmas[1] == plan.sigmas[2] && plan.sigmas[7] == 0)
        #expect(plan.timesteps[0] == 999 && plan.timesteps[2] == 666 && (666..<999).contains(plan.timesteps[1]))
        #expect(try Self.plan(1).stepCount == 1)
        var scheduler = try KDPM2DiscreteScheduler()
        try scheduler.setTimesteps(4)
        expectInvalid("begin index", "3", allowed: "such as 2") { try scheduler.setBeginIndex(3) }
    }

    /// σ_down is τ²/ς. diffusers evaluates at the float32 root of ς σ_down, which is τ.
    @Test func ancestralStepsAreTheFormulas() throws {
        let plan = try VarianceExplodingTests.scheduler("KDPM2AncestralDiscreteScheduler", Self.betas).plan(.count(10))
        let first = plan.row(at: 10, age: 10), second = plan.row(at: 11, age: 11), last = plan.row(at: 18, age: 18)
        #expect(first.nextSample.sample == 1 && abs(first.nextSample.modelOutput + 1.092334270477295) < 1e-6)
        #expect(first.stores == [.init(slot: 0, value: Combination(.sample))] && first.drawCount == 0)
        #expect(second.nextSample.slots[0] == 1 && abs(second.nextSample.modelOutput + 1.717608528030657) < 1e-6)
        #expect(abs(second.nextSample.noise - 1.1990748654884873) < 1e-6 && second.drawCount == 1)
        #expect(last.nextSample == Combination(sample: 1, modelOutput: -plan.sigmas[18]) && last.drawCount == 0)
        #expect(plan.timesteps[11] == plan.timesteps[12] || abs(plan.timesteps[11] - plan.timesteps[12]) < 1)
        #expect(plan.starts == Array(stride(from: 0, through: 18, by: 2)))
    }

    /// diffusers' float32 roots are NaN in these runs.
    @Test(arguments: [2, 3, 4, 5, 8, 10]) func ancestralRunsAreFinite(count: Int) throws {
        for members in ["", #", "use_karras_sigmas": true"#, #", "use_beta_sigmas": true"#] {
            let plan = try VarianceExplodingTests.scheduler(
                "KDPM2AncestralDiscreteScheduler", #""beta_schedule": "squaredcos_cap_v2""# + members
            ).plan(.count(count))
            var session = SamplingSession(plan: plan), x = goldenStart
            while let timestep = session.timestep {
                let e = x.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: 1000)) }
                let noise = GoldenProblem.noise(step: session.stepIndex).map { Float($0) }
                try session.step(modelOutput: e, sample: &x, noise: noise, batchSize: GoldenProblem.batchSize)
            }
            #expect(x.allFinite && plan.timesteps.allSatisfy { $0.isFinite })
        }
    }

    /// diffusers rounds the timesteps of Karras levels but not the timesteps between them.
    @Test func timestepsOfKarrasLevelsAreWhole() throws {
        let timesteps = try Self.plan(8, #""use_karras_sigmas": true"#).timesteps
        for (index, timestep) in timesteps.enumerated().dropLast() {
            #expect((timestep == timestep.rounded()) == (index % 2 == 0), "\(timestep)")
        }
        #expect(try Self.plan(8, #""use_exponential_sigmas": true"#).timesteps[2] != 999)
    }

    /// The sums of magnitudes and tolerances of diffusers' own tests.
    @Test(arguments: [("epsilon", 20.4125), ("v_prediction", 4.6934e-07)]) func loopsAreUpstreams(type: String, sum: Double) throws
    {
        var scheduler = try VarianceExplodingTests.scheduler(
            Self.name, "\"num_train_timesteps\": 1100, \"prediction_type\": \"\(type)\", \(Self.betas)")
        let x = try VarianceExplodingTests.upstreamLoop(&scheduler, UpstreamTests.sample)
        #expect(abs(x.map { abs($0) }.reduce(0, +) - sum) < 1e-2)
    }

    /// The order, measured on normally distributed data, whose probability flow is known.
    @Test(arguments: KDPM2DiscreteConfiguration.predictionTypes) func theOrderIsTwo(type: PredictionType) throws {
        var configuration = KDPM2DiscreteConfiguration()
        configuration.predictionType = type
        let points = try [200, 300, 450, 680, 1000].map { count in
            let levels = linspace(logarithm(20), logarithm(0.1), count: count + 1).map { exponential($0) }
            let sigmas = [levels[0]] + levels.dropFirst().flatMap { [$0, $0] }
            let grid = TimestepGrid(
                timesteps: Array(repeating: 0, count: sigmas.count - 1), exactSigmas: sigmas, process: .varianceExploding)
            let plan = try configuration.plan(on: grid, options: .init()), problem = ConvergenceTests.problem
            var session = SamplingSession(plan: plan), x = problem.sample(at: plan.levels[0])
            while session.timestep != nil {
                let scale = session.inputScale, sigma = (1 - scale * scale).squareRoot() / scale
                let level = NoiseLevel(sigma: sigma, process: .variancePreserving)
                try session.step(modelOutput: problem.output(type, for: x.map { $0 * scale }, at: level), sample: &x)
            }
            let error = zip(x, problem.sample(at: plan.levels[plan.stepCount])).map { abs($0 - $1) }.max() ?? .nan
            return (count: count, error: error)
        }
        #expect(abs(ConvergenceTests.slope(points) - 2) <= Tolerance.measuredOrder, "\(points)")
    }

    /// diffusers divides by m = 0 at such a level.
    @Test(arguments: ["epsilon", "v_prediction"]) func runsPassLevelsWithoutNoise(type: String) throws {
        let plan = try Self.plan(4, "\"prediction_type\": \"\(type)\", \"beta_start\": 0.0")
        #expect(plan.sigmas.filter { $0 == 0 }.count == 3 && plan.row(at: 5, age: 5).nextSample == Combination(.sample))
        var session = SamplingSession(plan: plan), x = goldenStart
        try session.run(&x)
        #expect(x.allFinite)
    }

    @Test func whatDiffusersRefusesLateIsRefusedAtOnce() throws {
        expectInvalid("prediction_type", "\"sample\"", allowed: "epsilon, v_prediction") {
            _ = try Self.plan(4, #""prediction_type": "sample""#)
        }
        expectInvalid("beta_schedule", "\"exp\"", allowed: "squaredcos_cap_v2") { _ = try Self.plan(4, #""beta_schedule": "exp""#) }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try KDPM2DiscreteScheduler().plan(.timesteps([5])) }
        #expect(fault { _ = try Self.plan(4, #""use_karras_sigmas": true, "use_beta_sigmas": true"#) } != nil)
    }
}
