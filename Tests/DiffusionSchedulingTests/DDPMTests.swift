// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// DDPM beyond the goldens: diffusers' own constants, variances, steps in any order, its two beta schedules, refusals.
@Suite struct DDPMTests {
    static func make(_ change: (inout DDPMConfiguration) -> Void = { _ in }) throws -> DDPMScheduler {
        var configuration = DDPMConfiguration()
        change(&configuration)
        return try DDPMScheduler(configuration)
    }

    @Test(arguments: [(DDPMVarianceType.fixedSmall, 0.723196332049013), (.fixedLarge, 0.7733689907759008)])
    func aStepHasTheCoefficientsOfTheReference(_ type: DDPMVarianceType, _ deviation: Double) throws {
        let plan = try Self.make { $0.varianceType = type }.plan(.count(10))
        let next = plan.row(at: try plan.index(ofTimestep: 500), age: 0).nextSample
        #expect(abs(next.prediction - 0.2853435431706586) <= 1e-14)
        #expect(abs(next.sample - 0.554367985524955) <= 1e-14)
        #expect(abs(next.noise - deviation) <= 1e-14)
    }

    @Test func variancesOfNeighbours() throws {
        let scheduler = try Self.make()
        for (timestep, variance) in [(487.0, 0.00979154091), (999, 0.0199999642)] {
            let deviation = try scheduler.row(from: timestep, to: timestep - 1).nextSample.noise
            #expect(abs(deviation * deviation - variance) <= 1e-7)
        }
    }

    /// diffusers' loops over all 1,000 timesteps with a generator of seed 0.
    @Test(arguments: [(PredictionType.epsilon, 0.337188959), (.vPrediction, 0.263059795)])
    func meansAreUpstreams(_ type: PredictionType, _ mean: Double) throws {
        var scheduler = try Self.make { $0.predictionType = type }
        let found = try UpstreamTests.meanWithNoise(&scheduler, steps: 1000)
        #expect(abs(found - mean) <= 1e-5, "\(found)")
    }

    // MARK: Noise

    @Test func onlyTimestepZeroDrawsNoNoise() throws {
        let plan = try Self.make().plan(.count(10))
        #expect((0..<10).map { plan.row(at: $0, age: 0).drawCount } == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0])
        // A last step from another timestep than 0 draws; the least variance is 10⁻²⁰.
        let offset = try Self.make { $0.stepsOffset = 1 }.plan(.count(10))
        #expect(offset.row(at: 9, age: 0).nextSample.noise == 1e-10)
        #expect(offset.row(at: 9, age: 0).drawCount == 1)
    }

    @Test func theLogarithmicVariancesAreTheOthers() throws {
        func rows(_ type: DDPMVarianceType) throws -> [PlanRow] {
            let plan = try Self.make { $0.varianceType = type }.plan(.count(20))
            return plan.timesteps.indices.map { plan.row(at: $0, age: 0) }
        }
        #expect(try rows(.fixedSmallLog) == rows(.fixedSmall))
        #expect(try rows(.fixedLargeLog) == rows(.fixedLarge))
    }

    // MARK: Steps in any order

    @Test func aStepLeadsToTheNextTimestepOfTheRun() throws {
        var scheduler = try Self.make { $0.clipSample = false }
        try scheduler.setTimesteps(.timesteps([900, 500, 37]))
        let plan = try #require(scheduler.plan)
        for (index, timestep) in plan.timesteps.enumerated() {
            #expect(try scheduler.row(at: timestep) == plan.row(at: index, age: 0))
        }
        // Beside the plan: the plan's next timestep below.
        #expect(try scheduler.row(at: 700) == scheduler.row(from: 700, to: 500))
        #expect(try scheduler.row(at: 36) == scheduler.row(from: 36, to: nil))
        expectInvalid("next timestep", "500", allowed: "less than 500") { _ = try scheduler.row(from: 500, to: 500) }
        #expect(throws: SchedulerError.self) { try scheduler.row(at: 1000) }
        #expect(throws: SchedulerError.self) { try scheduler.row(at: 0.5) }
    }

    @Test func velocityAndNoiseAreThoseOfTheTrainingTimestep() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(10)
        let alpha = scheduler.noiseSchedule.alphasCumprod[333]
        let (signal, noise) = (alpha.squareRoot(), (1 - alpha).squareRoot())
        #expect(try scheduler.getVelocity(sample: [2.0], noise: [3], timesteps: [333]) == [3 * signal - 2 * noise])
        let noisy = try scheduler.addNoise([3.0], to: [2], timesteps: [333])
        #expect(abs(noisy[0] - (2 * signal + 3 * noise)) <= 1e-15)
    }

    // MARK: Beta schedules

    @Test func laplaceAndSigmoidAreDiffusers() throws {
        let expected: [(BetaSchedule, [Double])] = [
            (.laplace, [0.9788462519645691, 0.9702835083007812, 0.7072834372520447, 0.20702660083770752, 0.03162277489900589]),
            (
                .sigmoid,
                [0.9998508095741272, 0.9997010231018066, 0.29888758063316345, 4.048962364322506e-05, 3.9681821363046765e-05]
            ),
        ]
        for (schedule, alphas) in expected {
            let noise = try Self.make { $0.betaSchedule = schedule }.noiseSchedule
            #expect([0, 1, 500, 998, 999].map { noise.alphasCumprod[$0] } == alphas, "\(schedule)")
        }
        #expect(BetaSchedule.sigmoid.betas(from: 0.0001, to: 0.02, count: 1000)[500] == 0.010079878382384777)
    }

    @Test func otherClassesRefuseThem() throws {
        for word in ["laplace", "sigmoid"] {
            expectInvalid("beta_schedule", "\"\(word)\"", allowed: "linear, scaled_linear, squaredcos_cap_v2") {
                _ = try DDIMConfiguration(json: #"{"beta_schedule": "\#(word)"}"#)
            }
        }
        expectInvalid("beta_schedule", "sigmoid", allowed: "linear, scaled_linear, squaredcos_cap_v2") {
            _ = try makeDEIS { $0.betaSchedule = .sigmoid }
        }
        #expect(try DDPMConfiguration(json: #"{"beta_schedule": "laplace"}"#).betaSchedule == .laplace)
    }

    // MARK: Faults

    @Test func aLearnedVarianceIsRequired() throws {
        var scheduler = try Self.make { $0.varianceType = .learned }
        try scheduler.setTimesteps(4)
        var x: [Float] = [1, 2, 3]
        let output: [Float] = [0, 0, 0], noise: [Float] = [1, 1, 1]
        let error = fault { try scheduler.session?.step(modelOutput: output, sample: &x, noise: noise) }
        #expect(error?.description.contains("6, twice those of the sample: the prediction and its variance") == true)
        #expect(x == [1, 2, 3] && scheduler.stepIndex == 0)
        #expect(fault { _ = try scheduler.step(modelOutput: output, timestep: 500, sample: x, noise: noise) } != nil)
        // The last step draws and needs no noise.
        let last = try scheduler.step(modelOutput: output, timestep: 0, sample: x)
        #expect(last.nextSample.count == 3)
    }

    // MARK: Learned variances

    /// Two batch items and a guided step against the formula, v from −1.5 to 1.5.
    @Test(arguments: [DDPMVarianceType.learned, .learnedRange])
    func learnedVariances(_ type: DDPMVarianceType) throws {
        let scheduler = try Self.make {
            $0.varianceType = type
            $0.clipSample = false
        }
        let plan = try scheduler.plan(.count(10)), fixed = try Self.make { $0.clipSample = false }.plan(.count(10))
        let count = 5, batch = 2
        let x = (0..<count * batch).map { Double($0) / 7 - 0.6 }, z = x.indices.map { 0.9 - 0.2 * Double($0) }
        func output(_ factor: Double) -> [Double] {
            (0..<batch).flatMap { item in
                (0..<count).map { factor * x[item * count + $0] } + (0..<count).map { 0.75 * Double($0 - 2 + item) - 0.3 }
            }
        }
        for index in 0..<plan.stepCount {
            let row = fixed.row(at: index, age: 0)
            let source = scheduler.noiseSchedule.alphasCumprod[Int(plan.timesteps[index])]
            let target = index + 1 < 10 ? scheduler.noiseSchedule.alphasCumprod[Int(plan.timesteps[index + 1])] : 1
            let large = (target - source) / target, small = max((1 - target) / (1 - source) * large, 1e-20)
            for guided in [false, true] {
                var session = SamplingSession(plan: plan, beginIndex: index), next = x
                if guided {
                    try session.step(
                        conditional: output(0.5), unconditional: output(0.25), guidance: Guidance(scale: 3), sample: &next,
                        noise: z,
                        batchSize: batch)
                } else {
                    try session.step(modelOutput: output(0.5), sample: &next, noise: z, batchSize: batch)
                }
                for i in x.indices {
                    let v = output(0.5)[i / count * 2 * count + count + i % count]
                    let e = (guided ? 0.25 + 3 * 0.25 : 0.5) * x[i]
                    let range = exp(((1 + v) * log(large) + (1 - v) * log(small)) / 4)
                    let sigma = plan.timesteps[index] == 0 ? 0 : type == .learned ? max(v, 0).squareRoot() : range
                    let mean = row.nextSample.sample * x[i] + row.nextSample.modelOutput * e
                    #expect(abs(next[i] - (mean + sigma * z[i])) <= 1e-14 * (1 + abs(mean) + abs(sigma * z[i])), "\(index) \(i)")
                }
            }
        }
    }

    @Test func learnedVariancesInPlansFiles() throws {
        for type in [DDPMVarianceType.learned, .learnedRange] {
            let plan = try Self.make { $0.varianceType = type }.plan(.count(3))
            #expect(try SamplingPlan(json: plan.json) == plan)
            #expect(plan.modelLearnsVariance)
        }
        let text = try Self.make { $0.varianceType = .learned }.plan(.count(3)).json.text
        let other = text.replacingOccurrences(of: #""model_learns_variance": true"#, with: #""model_learns_variance": false"#)
        try #require(other != text)
        expectInvalid("noise factor of evaluation 0", "given", allowed: "left out for a model that predicts no variance") {
            _ = try SamplingPlan(jsonText: other)
        }
    }

    /// Levels without a range, and places outside it.
    @Test func learnedRangesAreFinite() throws {
        let scheduler = try Self.make {
            $0.varianceType = .learnedRange
            $0.trainedBetas = [0, 0, 0.1, 0.5]
            $0.numTrainTimesteps = 4
        }
        let plan = try scheduler.plan(.count(4))
        var session = SamplingSession(plan: plan), x: [Float] = [1, -1, 0.5]
        while session.stepIndex < 4 {
            try session.step(modelOutput: [0, 1, 2, -2, 0, 2], sample: &x, noise: [1, -1, 2])
            #expect(x.allSatisfy { $0.isFinite })
        }
    }

    @Test func whatDDPMRefuses() throws {
        expectInvalid("prediction_type", "flow_prediction", allowed: "epsilon, sample, v_prediction") {
            _ = try Self.make { $0.predictionType = .flowPrediction }
        }
        let scheduler = try Self.make()
        expectInvalid("number of steps", "1001", allowed: "from 1 to") { _ = try scheduler.plan(.count(1001)) }
        expectInvalid("timesteps[1]", "5.0", allowed: "less than the one before") { _ = try scheduler.plan(.timesteps([5, 5])) }
        expectInvalid("timesteps[0]", "1000.0", allowed: "from 0 to 999") { _ = try scheduler.plan(.timesteps([1000])) }
    }

    /// Betas of every kind: equal levels, levels without noise and levels without signal.
    @Test(arguments: DDPMVarianceType.allCases, [0, 0.5, 0.999999])
    func plansAreFinite(_ variance: DDPMVarianceType, _ beta: Double) throws {
        for type in [PredictionType.epsilon, .sample, .vPrediction] {
            for (clips, rescales) in [(true, true), (false, true), (false, false)] {
                let scheduler = try Self.make {
                    $0.numTrainTimesteps = 50
                    $0.trainedBetas = (0..<50).map { $0 < 25 ? 0 : beta }
                    ($0.predictionType, $0.varianceType, $0.clipSample, $0.rescaleBetasZeroSNR) = (type, variance, clips, rescales)
                }
                for count in 1...50 { _ = try scheduler.plan(.count(count)) }
            }
        }
    }
}
