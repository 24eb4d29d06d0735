// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The stochastic DPM-Solver beyond the goldens: its numbers by hand, the law of its noise, levels without noise, refusals.
@Suite struct DPMSolverSDETests {
    static let name = "DPMSolverSDEScheduler"

    static func plan(_ count: Int, _ members: String = KDPM2Tests.betas) throws -> SamplingPlan {
        try VarianceExplodingTests.scheduler(name, members).plan(.count(count))
    }

    /// The step from ς = 2.5546913147 to τ = 1.4623570442, by way of m = 1.9328400968.
    @Test func stepsAreTheFormulas() throws {
        let plan = try Self.plan(10), first = plan.row(at: 10, age: 10), second = plan.row(at: 11, age: 11)
        let last = plan.row(at: 18, age: 18), kept = first.stores[0].value, up = 1.1990748654884873
        #expect(abs(first.nextSample.noise - 1.2638760679257104) < 1e-6 && first.drawCount == 1 && second.drawCount == 1)
        #expect(first.nextSample.sample == 1 && abs(first.nextSample.modelOutput + 1.092334270477295) < 1e-6)
        #expect(abs(kept.sample - 0.32766494403876906) < 1e-7 && abs(kept.noise - 0.7545108075995628 * up) < 1e-6)
        #expect(second.nextSample.slots[0] == 1 && abs(second.nextSample.noise - 0.6562876208000997 * up) < 1e-6)
        #expect(abs(second.nextSample.sample - 0.67233505596123094) < 1e-7)
        #expect(abs(second.nextSample.modelOutput + 0.67233505596123094 * 1.9328400968148205) < 1e-6)
        #expect(last.nextSample == Combination(sample: 1, modelOutput: -plan.sigmas[18]) && last.drawCount == 0)
        #expect(plan.timesteps[1] > 888 && plan.timesteps[1] < 999 && plan.timesteps[1] != plan.timesteps[1].roundedToFloat32)
        #expect(plan.starts == Array(stride(from: 0, through: 18, by: 2)) && plan.slotCount == 1)
    }

    /// diffusers' object keeps x, and its motion gives a whole step's noise at once.
    @Test func attributeRowsReadTheWholeIncrement() throws {
        var scheduler = try DPMSolverSDEScheduler()
        try scheduler.setTimesteps(.count(6), options: try .init(values: ["s_noise": 0.5]))
        let plan = try #require(scheduler.plan)
        let first = try scheduler.attributeRow(at: 2, age: 0), second = try scheduler.attributeRow(at: 3, age: 0)
        let sigma = plan.sigmas[2], target = plan.sigmas[3], ratio = target / sigma
        #expect(first.nextSample == plan.row(at: 2, age: 0).nextSample)
        #expect(first.stores == [.init(slot: 0, value: Combination(.sample))])
        #expect(abs(second.nextSample.slots[0] - ratio * ratio) < 1e-15)
        let whole = 0.5 * target * ((1 - ratio) * (1 + ratio)).squareRoot()
        #expect(abs(second.nextSample.noise - whole) < 1e-13 * whole)
    }

    /// The two noises of a step belong to one Brownian motion; noises of different steps are independent.
    ///
    /// A step's noise is x' − r² x − (1 − r²) x̃ for a model that predicts the sample itself. Bounds are five standard deviations
    /// of the mean of n products, whose variance is at most 2.
    @Test func noiseHasTheLawOfABrownianMotion() throws {
        let plan = try Self.plan(6), count = 4096
        var sums = [Double](repeating: 0, count: 5), total = 0.0
        for seed in 0..<24 {
            var session = SamplingSession(plan: plan), source = TorchCPUNoise(seed: UInt64(seed))
            var x = [Double](repeating: 0, count: count), noises: [[Double]] = []
            for step in 0..<2 {
                let sigma = plan.sigmas[2 * step], target = plan.sigmas[2 * step + 1], ratio = target / sigma, before = x
                for (share, deviation) in [
                    (0, (sigma * target).squareRoot() * (1 - ratio).squareRoot()),
                    ((1 - ratio) * (1 + ratio), target * ((1 - ratio) * (1 + ratio)).squareRoot()),
                ] {
                    let middle = x
                    let noise = source.normals(count).map(Double.init)
                    try session.step(modelOutput: [Double](repeating: 0, count: count), sample: &x, noise: noise)
                    let end = x
                    noises.append(
                        end.indices.map { (end[$0] - (1 - share) * before[$0] - share * middle[$0]) / deviation })
                }
            }
            for j in 0..<count {
                let z = noises.map { $0[j] }
                for (k, product) in [z[0] * z[0], z[1] * z[1], z[0] * z[1], z[1] * z[2], z[1] * z[3]].enumerated() {
                    sums[k] += product
                }
            }
            total += Double(count)
        }
        let sigma = plan.sigmas[0], target = plan.sigmas[1], middle = (sigma * target).squareRoot()
        let expected = [1, 1, ((sigma - middle) / (sigma - target)).squareRoot(), 0, 0]
        for (sum, value) in zip(sums, expected) {
            #expect(abs(sum / total - value) <= 5 * (2 / total).squareRoot(), "\(sum / total)")
        }
    }

    /// A session that was saved between the evaluations of a step keeps the first one's noise.
    @Test func savedSessionsKeepTheNoiseOfAStep() throws {
        let plan = try Self.plan(4)
        func run(saving: Bool) throws -> [Float] {
            var session = SamplingSession(plan: plan), source = TorchCPUNoise(seed: 3), x = goldenStart
            while session.timestep != nil {
                try session.step(modelOutput: x.map { $0 / 2 }, sample: &x, noise: source.normals(x.count))
                if saving { session = try SamplingSession(plan: plan, restoring: session.savedState()) }
            }
            return x
        }
        #expect(try run(saving: true) == run(saving: false))
    }

    /// diffusers' noise is NaN at such a level.
    @Test(arguments: ["epsilon", "v_prediction"]) func runsPassLevelsWithoutNoise(type: String) throws {
        let plan = try Self.plan(4, "\"prediction_type\": \"\(type)\", \"beta_start\": 0.0")
        #expect(plan.sigmas.filter { $0 == 0 }.count == 3 && plan.row(at: 5, age: 5).nextSample == Combination(.sample))
        for levels in [[2.0, 2, 2, 1, 1, 3, 3, 0], [3, 1, 1, 0.5], [1, 0, 0, 0, 0, 2, 2, 1]] {
            let grid = TimestepGrid(
                timesteps: Array(repeating: 0, count: levels.count - 1), exactSigmas: levels, process: .varianceExploding)
            let own = try DPMSolverSDEScheduler().plan(on: grid)
            for row in (0..<own.stepCount).map({ own.row(at: $0, age: $0) }) {
                #expect(row.nextSample.noise >= 0 && row.nextSample.noise.isFinite && row.nextSample.sample.isFinite)
            }
        }
    }

    @Test func whatDiffusersRefusesLateIsRefusedAtOnce() throws {
        expectInvalid("prediction_type", "\"sample\"", allowed: "epsilon, v_prediction") {
            _ = try Self.plan(4, #""prediction_type": "sample""#)
        }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try DPMSolverSDEScheduler().plan(.timesteps([5])) }
        expectInvalid("s_noise", "-1.0", allowed: "at least 0") {
            _ = try DPMSolverSDEScheduler().plan(.count(4), optionValues: ["s_noise": -1])
        }
        for (seed, value) in [("-1", "-1"), ("[3, -2]", "-2")] {
            expectInvalid("noise_sampler_seed", value, allowed: "at least 0") {
                _ = try Self.plan(4, "\"noise_sampler_seed\": \(seed)")
            }
        }
        expectInvalid("noise_sampler_seed", "0.5", allowed: "an integer or a list of integers, or null") {
            _ = try Self.plan(4, #""noise_sampler_seed": 0.5"#)
        }
    }

    @Test(arguments: ["null", "7", "[1, 2, 3]"]) func seedsReturnAsTheyCame(seed: String) throws {
        let scheduler = try VarianceExplodingTests.scheduler(Self.name, "\"noise_sampler_seed\": \(seed)")
        let again = try SchedulerCatalog.makeScheduler(json: scheduler.configuration.jsonText)
        #expect(again.configuration.jsonText == scheduler.configuration.jsonText)
    }
}
