// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// LMS beyond the goldens: its weights, diffusers' own loops, its order, degenerate levels, refusals.
@Suite struct LMSTests {
    static func scheduler(_ members: String = "") throws -> any PlannedScheduler {
        try VarianceExplodingTests.scheduler("LMSDiscreteScheduler", members)
    }

    /// The step from ς = 2.5546913147 to τ = 1.4623570442 of the default run of 10 steps.
    @Test func weightsAreTheIntegrals() throws {
        let expected = [-1.5321285032711782, 0.5213313090183651, -0.08504453838206924, 0.003507462157587515]
        let plan = try Self.scheduler().plan(.count(10)), row = plan.row(at: 5, age: 5).nextSample
        #expect(row.sample == 1 && abs(row.modelOutput - expected[0]) < 1e-6)
        for back in 1...3 { #expect(abs(row.slots[(5 - back) % 3] - expected[back]) < 1e-6) }
        // Weights of any order sum up to the step's length.
        let weights = (1...6).map { LMSDiscreteConfiguration.weights(at: 7, of: plan.sigmas, count: $0).reduce(0, +) }
        for sum in weights { #expect(abs(sum - (plan.sigmas[8] - plan.sigmas[7])) < 1e-13) }
    }

    /// Evenly spaced levels give the weights of Adams and Bashforth.
    @Test func weightsAreAdamsAndBashforths() {
        let weights = LMSDiscreteConfiguration.weights(at: 3, of: [4, 3, 2, 1, 0], count: 4)
        for (ours, theirs) in zip(weights, [-55.0 / 24, 59.0 / 24, -37.0 / 24, 9.0 / 24]) { #expect(abs(ours - theirs) < 1e-14) }
    }

    @Test func runsBegunLaterWarmUpThere() throws {
        let plan = try Self.scheduler().plan(.count(8)), row = plan.row(at: 4, age: 0).nextSample
        #expect(row == Combination(sample: 1, modelOutput: plan.sigmas[5] - plan.sigmas[4]))
        #expect(plan.warmUp == 3 && plan.slotCount == 3)
        #expect(try Self.scheduler().plan(.count(8), optionValues: ["order": 1]).slotCount == 0)
        #expect(try Self.scheduler().plan(.count(8), optionValues: ["order": 7]).slotCount == 6)
    }

    /// The sums of magnitudes and tolerances of diffusers' own tests.
    @Test(arguments: [
        ("", 1006.388), (#", "prediction_type": "v_prediction""#, 0.0017), (#", "use_karras_sigmas": true"#, 3812.9927),
    ])
    func loopsAreUpstreams(members: String, sum: Double) throws {
        var scheduler = try Self.scheduler(#""num_train_timesteps": 1100"# + members)
        let x = try VarianceExplodingTests.upstreamLoop(&scheduler, UpstreamTests.sample)
        #expect(abs(x.map { abs($0) }.reduce(0, +) - sum) < 2e-2)
    }

    /// diffusers' Karras levels ignore the ends that another scheduler's configuration brings along; the other spacings don't.
    @Test func karrasLevelsPassOverOtherEnds() throws {
        let ends = #", "sigma_min": 0.1, "sigma_max": 10.0"#
        let karras = try Self.scheduler(#""use_karras_sigmas": true"# + ends).plan(.count(5))
        #expect(try karras == Self.scheduler(#""use_karras_sigmas": true"#).plan(.count(5)))
        #expect(try Self.scheduler(#""use_exponential_sigmas": true"# + ends).plan(.count(5)).sigmas[0] == 10)
    }

    /// diffusers divides by 0 at repeated levels and at levels without noise.
    @Test(arguments: ["epsilon", "sample", "v_prediction"]) func degenerateLevelsGiveFiniteRuns(type: String) throws {
        let members = "\"prediction_type\": \"\(type)\", "
        let plans = [
            try Self.scheduler(members + #""beta_start": 0.0"#).plan(.count(6)),
            try Self.scheduler(
                members + #""num_train_timesteps": 3, "trained_betas": [0.1, 0, 0.5], "timestep_spacing": "trailing""#
            )
            .plan(.count(9)),
        ]
        for plan in plans {
            var session = SamplingSession(plan: plan), x = goldenStart
            try session.run(&x)
            #expect(x.allFinite)
        }
    }

    @Test func whatIsNotPossibleIsRefused() throws {
        for order in [0, 8] {
            expectInvalid("order", "\(order)", allowed: "from 1 to 7") {
                _ = try Self.scheduler().plan(.count(5), optionValues: ["order": .number(literal: "\(order)")])
            }
        }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try LMSDiscreteScheduler().plan(.timesteps([5])) }
        expectInvalid("beta_schedule", "\"exp\"", allowed: "squaredcos_cap_v2") {
            _ = try Self.scheduler(#""beta_schedule": "exp""#)
        }
    }
}
