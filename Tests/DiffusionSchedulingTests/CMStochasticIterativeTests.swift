// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Consistency models beyond the goldens: levels, ends, the boundary condition, refusals.
@Suite struct CMStochasticIterativeTests {
    typealias Configuration = CMStochasticIterativeConfiguration

    static func make(_ change: (inout Configuration) -> Void = { _ in }) throws
        -> CMStochasticIterativeScheduler
    {
        var configuration = Configuration()
        change(&configuration)
        return try CMStochasticIterativeScheduler(configuration)
    }

    @Test func levelsAndTimestepsAreDiffusers() throws {
        let plan = try Self.make().plan(.count(2))
        for (found, expected) in zip(
            plan.timesteps + plan.sigmas, [1095.50666, 201.668042, 80, 2.24043965, Double(Float(0.002))])
        {
            #expect(abs(found - expected) <= 1e-8 * expected)
        }
        #expect(plan.initNoiseSigma == 80 && abs(plan.inputScales[0] - 1 / 80.0015624847) <= 1e-12)
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let plan = try Self.make().plan(.count(2))
        let first = plan.row(at: 0, age: 0)
        let last = plan.row(at: 1, age: 1)
        #expect(abs(last.prediction.sample - 0.047522987079820216) <= 1e-10)
        #expect(abs(last.prediction.modelOutput - 0.4875597128049477) <= 1e-10)
        #expect(abs(first.nextSample.noise - 2.240438760714496) <= 1e-7)
        // diffusers' last coefficient is 6.7e-7, 0 or NaN, depending on its roundings.
        #expect(last.nextSample.noise == 0 && last.drawCount == 1)
    }

    @Test func aRunOfOneStepDrawsNothing() throws {
        let row = try Self.make().plan(.count(1)).row(at: 0, age: 0)
        #expect(row.drawCount == 0 && row.nextSample == Combination(.prediction))
    }

    @Test func theSampleIsKeptAtTheLeastLevel() throws {
        let grid = TimestepGrid(
            timesteps: [-1553.6], sigmas: [0.002, 0.002], process: .varianceExploding)
        let row = try Self.make { $0.clipDenoised = false }.plan(on: grid).row(at: 0, age: 0)
        #expect(row.prediction == Combination(.sample) && row.nextSample == Combination(.sample))
    }

    @Test func timestepsAreNumbersOfLevels() throws {
        let plan = try Self.make().plan(.timesteps([22, 0]))
        #expect(abs(plan.sigmas[0] - 80) <= 1e-5 && abs(plan.sigmas[1] - 1.38236797) <= 1e-7)
    }

    /// diffusers computes 0/0 and 0⁰ here.
    @Test func edgesAreFinite() throws {
        for change: (inout Configuration) -> Void in [
            { $0.numTrainTimesteps = 1 }, { $0.sigmaMin = 0 }, { ($0.sigmaMin, $0.sigmaMax) = (0, 0) },
            { $0.sigmaMin = 80 },
            { $0.rho = -7 }, { $0.sigmaMax = 3e38 },
        ] {
            let scheduler = try Self.make(change)
            for count in Set([1, scheduler.count]) {
                let plan = try scheduler.plan(.count(count))
                #expect(plan.sigmas.allSatisfy(\.isFinite) && plan.timesteps.allSatisfy(\.isFinite))
            }
        }
    }

    @Test func aTimestepTellsItsLevel() throws {
        let scheduler = try Self.make()
        for (timestep, sigma) in zip(scheduler.noiseSchedule.timesteps, scheduler.noiseSchedule.sigmas) {
            #expect(abs(try scheduler.trainingLevel(atTimestep: timestep).sigma - sigma) <= 1e-13 * sigma)
        }
    }

    @Test(arguments: [
        (#"{"rho": 0}"#, "rho"), (#"{"rho": 0.0001}"#, "rho"), (#"{"rho": -7, "sigma_min": 0}"#, "rho"),
        (#"{"sigma_min": 81}"#, "sigma_min"),
        (#"{"sigma_min": -0.1}"#, "sigma_min"), (#"{"sigma_max": 1e39}"#, "sigma_max"),
        (#"{"sigma_data": 0}"#, "sigma_data"),
        (#"{"s_noise": Infinity}"#, "s_noise"), (#"{"num_train_timesteps": 0}"#, "num_train_timesteps"),
        (#"{"sigma_max": NaN}"#, "sigma_max"),
    ])
    func valuesAreRefused(_ text: String, _ key: String) {
        guard case .invalidValue(key, _, _)? = fault({ _ = try Configuration(json: text) }) else {
            Issue.record("\(text) is taken")
            return
        }
    }

    @Test(arguments: [
        TimestepRequest.count(0), .count(41), .timesteps([0, 1]), .timesteps([40, 3]),
        .timesteps([2.5, 1]), .timesteps([]),
        .sigmas([1]),
    ])
    func requestsAreRefused(_ request: TimestepRequest) throws {
        let scheduler = try Self.make()
        #expect(fault { _ = try scheduler.plan(request) } != nil)
    }
}
