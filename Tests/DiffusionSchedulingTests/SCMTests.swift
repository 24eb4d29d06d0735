// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// SCM beyond the goldens: angles, the end of a list, levels, refusals.
@Suite struct SCMTests {
    @Test func aRunOfTwoStepsHasDiffusersAngles() throws {
        let plan = try SCMScheduler().plan(.count(2))
        #expect(plan.timesteps == [Double(Float(1.5708)), Double(Float(1.3))] && plan.grid.end == 0)
        let even = try SCMScheduler().plan(.count(2), options: .init(intermediateTimesteps: nil))
        #expect(even.timesteps == [Double(Float(1.5708)), Double(Float(1.5708) / 2)])
        // diffusers refuses other counts unless the intermediate angle is None.
        #expect(try SCMScheduler().plan(.count(4)).timesteps.count == 4)
    }

    @Test func aStepHasTheCoefficientsOfTheReference() throws {
        let row = try SCMScheduler().plan(.count(2)).row(at: 0, age: 0), s = Double(Float(1.5708)), t = Double(Float(1.3))
        #expect(row.prediction == Combination(sample: cos(s), modelOutput: -sin(s)))
        #expect(abs(row.nextSample.modelOutput + cos(t) * sin(s)) <= 1e-16)
        #expect(row.nextSample.noise == 0.5 * sin(t) && row.drawCount == 1)
    }

    @Test func theLastStepDrawsNoiseAndAddsNone() throws {
        let plan = try SCMScheduler().plan(.count(3)), row = plan.row(at: 2, age: 2)
        #expect(row.drawCount == 1 && row.nextSample.noise == 0 && row.nextSample == row.prediction)
    }

    @Test func aListEndsWithTheAngleThatTheLastStepLeadsTo() throws {
        let plan = try SCMScheduler().plan(
            .timesteps([1.5, 0.5, 0.25]), options: .init(maxTimesteps: nil, intermediateTimesteps: nil))
        #expect(plan.timesteps == [1.5, 0.5] && plan.grid.end == 0.25 && plan.sigmas.count == 3)
        #expect(try SamplingPlan(json: plan.json) == plan)
    }

    @Test func noiseIsAddedAtAngles() throws {
        let scheduler = try SCMScheduler()
        for angle in [0, 0.3, 1.5708] {
            let level = try scheduler.level(atTimestep: angle)
            #expect(level.signalRate == cos(angle) && level.noiseRate == 0.5 * sin(angle))
        }
    }

    @Test func levelsAreFiniteAtTheFirstAngle() throws {
        let plan = try SCMScheduler().plan(.count(2))
        #expect(plan.sigmas.allSatisfy(\.isFinite) && plan.sigmas[0] > 1e5 && plan.sigmas[2] == 0)
    }

    @Test(arguments: [
        (TimestepRequest.count(0), "number of steps"), (.count(1001), "number of steps"), (.timesteps([1]), "number of timesteps"),
        (.timesteps([0.5, 1]), "timesteps[1]"), (.timesteps([4, 1]), "timesteps[0]"), (.timesteps([.nan, 0]), "timesteps[0]"),
        (.sigmas([1, 0]), "sigmas"), (.count(2, mu: 1), "mu"),
    ])
    func requestsAreRefused(_ request: TimestepRequest, _ key: String) throws {
        let scheduler = try SCMScheduler()
        guard case .invalidValue(key, _, _)? = fault({ _ = try scheduler.plan(request) }) else {
            Issue.record("\(request) is taken")
            return
        }
    }

    @Test func optionsAndKeysAreRefused() throws {
        let scheduler = try SCMScheduler()
        for (angle, middle) in [(nil, nil), (4.0, nil), (-0.1, nil), (1.5, 4.0), (.nan, nil)] as [(Double?, Double?)] {
            #expect(
                fault { _ = try scheduler.plan(.count(2), options: .init(maxTimesteps: angle, intermediateTimesteps: middle)) }
                    != nil)
        }
        for text in [
            #"{"prediction_type": "epsilon"}"#, #"{"sigma_data": -1}"#, #"{"sigma_data": NaN}"#, #"{"num_train_timesteps": 0}"#,
        ] {
            #expect(fault { _ = try SCMConfiguration(json: text) } != nil, "\(text)")
        }
    }
}
