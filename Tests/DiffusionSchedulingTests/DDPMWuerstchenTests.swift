// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// DDPM in continuous time beyond the goldens: times, signal variances, steps off the plan, refusals.
@Suite struct DDPMWuerstchenTests {
    typealias Configuration = DDPMWuerstchenConfiguration

    @Test func timesAndSignalVariancesAreDiffusers() throws {
        let plan = try DDPMWuerstchenScheduler().plan(.count(4))
        #expect(plan.timesteps == [1, 0.75, 0.5, 0.25] && plan.grid.end == 0)
        for (level, expected) in zip(plan.levels, [1e-4, 0.144272074, 0.493843645, 0.847012222, 0.999899983]) {
            #expect(abs(level.signalRate * level.signalRate - expected) <= 2e-7)
        }
    }

    @Test func theLastStepDrawsNoiseAndAddsNone() throws {
        let scheduler = try DDPMWuerstchenScheduler()
        let last = try scheduler.plan(.count(2)).row(at: 1, age: 1)
        #expect(last.drawCount == 1 && last.nextSample.noise == 0)
        #expect(try scheduler.plan(.timesteps([1, 0.5, 0.25])).row(at: 1, age: 1).nextSample.noise > 0)
    }

    @Test func aStepLeadsToTheTimeAfterTheNearestOne() throws {
        var scheduler = try DDPMWuerstchenScheduler()
        try scheduler.setTimesteps(4)
        let plan = try #require(scheduler.plan)
        #expect(try scheduler.row(at: 0.75) == plan.row(at: 1, age: 1))
        #expect(try scheduler.row(at: 0.8) != plan.row(at: 1, age: 1))
        for time in [0, 0.1, -0.1, 1.1, .nan] { #expect(fault { _ = try scheduler.row(at: time) } != nil, "\(time)") }
    }

    @Test(arguments: [(1.0, 0.0), (0, 0.008), (1e100, 0.008), (0.5, 1e6), (2, 0.008)])
    func edgesAreFinite(_ scaler: Double, _ s: Double) throws {
        var configuration = Configuration()
        (configuration.scaler, configuration.s) = (scaler, s)
        let plan = try DDPMWuerstchenScheduler(configuration).plan(.count(50))
        #expect(plan.sigmas.allSatisfy { $0.isFinite })
        #expect((0..<50).allSatisfy { plan.row(at: $0, age: $0).nextSample.sample >= 1 - 1e-12 })
    }

    @Test(arguments: [#"{"scaler": -1}"#, #"{"s": -0.008}"#, #"{"s": NaN}"#, #"{"scaler": Infinity}"#])
    func valuesAreRefused(_ text: String) { #expect(fault { _ = try Configuration(json: text) } != nil, "\(text)") }

    @Test(arguments: [
        TimestepRequest.count(0), .timesteps([1]), .timesteps([0, 1]), .timesteps([1, 0.5, 0.5, 0]), .timesteps([1.5, 0]),
        .sigmas([1]),
    ])
    func requestsAreRefused(_ request: TimestepRequest) throws {
        let scheduler = try DDPMWuerstchenScheduler()
        #expect(fault { _ = try scheduler.plan(request) } != nil)
    }
}
