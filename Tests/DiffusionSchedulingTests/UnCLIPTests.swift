// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// UnCLIP beyond the goldens: timesteps, the levels that steps lead to, variances, refusals.
@Suite struct UnCLIPTests {
    typealias Configuration = UnCLIPConfiguration

    @Test func timestepsAreDiffusers() throws {
        #expect(try UnCLIPScheduler().plan(.count(5)).timesteps == [999, 749, 500, 250, 0])
        #expect(try UnCLIPScheduler().plan(.count(2)).timesteps == [999, 0])
    }

    /// diffusers' own constants of `_get_variance`, whose root it takes.
    @Test func variancesAreUpstreams() throws {
        let scheduler = try UnCLIPScheduler()
        var scheduled = scheduler
        try scheduled.setTimesteps(1000)
        for (timestep, variance) in [(487.0, 0.0549625), (999, 0.9994987)] {
            let deviation = try scheduled.row(at: timestep).nextSample.noise
            #expect(abs(deviation * deviation - variance * variance) <= 1e-5 * variance || abs(deviation - variance) <= 1e-5)
        }
    }

    @Test func aStepLeadsToTheNextTimestepOfTheRunUnlessItIsTold() throws {
        var scheduler = try UnCLIPScheduler()
        try scheduler.setTimesteps(5)
        let plan = try #require(scheduler.plan)
        for (index, timestep) in plan.timesteps.enumerated() {
            #expect(try scheduler.row(at: timestep) == plan.row(at: index, age: index))
        }
        #expect(try scheduler.row(at: 999, options: .init(prevTimestep: 749)) == plan.row(at: 0, age: 0))
        #expect(try scheduler.row(at: 999, options: .init(prevTimestep: 998)) != plan.row(at: 0, age: 0))
        #expect(try scheduler.row(at: 0, options: .init(prevTimestep: -1)) == plan.row(at: 4, age: 4))
        // A step to its own timestep only adds the noise of the least variance.
        let still = try scheduler.row(at: 500, options: .init(prevTimestep: 500)).nextSample
        #expect(still.noise == 1e-10 && abs(still.sample - 1) <= 1e-15 && still.prediction == 0)
    }

    @Test func aStepBetweenNeighboursHasTheTablesVariance() throws {
        var scheduler = try UnCLIPScheduler()
        try scheduler.setTimesteps(1000)
        let alphas = scheduler.noiseSchedule.alphasCumprod
        for t in [1, 2, 500, 998] {
            let beta = Double(BetaSchedule.squaredCosineBeta(t, count: 1000))
            let expected = alphas[t - 1].squareRoot() * beta / (1 - alphas[t])
            #expect(abs(try scheduler.row(at: Double(t)).nextSample.prediction - expected) <= 1e-15)
        }
    }

    @Test func coefficientsAreFiniteWithMostTimesteps() throws {
        var configuration = Configuration()
        configuration.numTrainTimesteps = 1_000_000
        let plan = try UnCLIPScheduler(configuration).plan(.count(100_000))
        #expect(plan.row(at: 99_999, age: 0).nextSample.sample.isFinite)
    }

    @Test(arguments: [
        #"{"variance_type": "learned"}"#, #"{"variance_type": "fixed_small"}"#, #"{"prediction_type": "v_prediction"}"#,
        #"{"beta_schedule": "linear"}"#, #"{"clip_sample_range": 0}"#,
    ])
    func valuesAreRefused(_ text: String) { #expect(fault { _ = try Configuration(json: text) } != nil, "\(text)") }

    /// Between neighbouring timesteps β is the table's; otherwise it follows from the levels. A step to the clean sample has no
    /// range.
    @Test func learnedRanges() throws {
        var configuration = Configuration()
        configuration.varianceType = .learnedRange
        var scheduler = try UnCLIPScheduler(configuration)
        try scheduler.setTimesteps(5)
        let alphas = scheduler.noiseSchedule.alphasCumprod
        for (timestep, next) in [(250.0, 0), (250, 249), (999, 500)] {
            let row = try scheduler.row(at: timestep, options: .init(prevTimestep: next))
            let source = alphas[Int(timestep)], target = alphas[next], beta = (target - source) / target
            guard case .exponential(let offset, let slope) = row.noiseFactor else { Issue.record("no factor"); continue }
            #expect(row.nextSample.noise == 1)
            // The table's β is 0.0025, and ᾱ is rounded to 2⁻²⁴.
            let tolerance = next == Int(timestep) - 1 ? 1e-4 : 1e-12
            let small = beta * (1 - target) / (1 - source)
            #expect(abs(exp(2 * (offset + slope)) / beta - 1) < tolerance)
            #expect(abs(exp(2 * (offset - slope)) / small - 1) < tolerance)
        }
        let last = try scheduler.row(at: 250, options: .init(prevTimestep: -1))
        #expect(last.noiseFactor == .none && last.nextSample.noise == 0 && last.drawCount == 1)
    }

    @Test(arguments: [TimestepRequest.count(1), .count(0), .count(1001), .timesteps([999, 0]), .sigmas([1]), .count(5, mu: 1)])
    func requestsAreRefused(_ request: TimestepRequest) throws {
        let scheduler = try UnCLIPScheduler()
        #expect(fault { _ = try scheduler.plan(request) } != nil)
        var scheduled = scheduler
        try scheduled.setTimesteps(5)
        #expect(fault { _ = try scheduled.row(at: 250, options: .init(prevTimestep: 251)) } != nil)
        #expect(fault { _ = try scheduled.row(at: 1000) } != nil)
    }
}
