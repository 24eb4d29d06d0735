// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// LTX's ancestral Euler beyond the goldens: the caller's levels, steps to their own level, refusals.
@Suite struct LTXEulerAncestralTests {
    static func make(_ change: (inout LTXEulerAncestralRFConfiguration) -> Void = { _ in }) throws -> LTXEulerAncestralRFScheduler {
        var configuration = LTXEulerAncestralRFConfiguration()
        change(&configuration)
        return try LTXEulerAncestralRFScheduler(configuration)
    }

    @Test func theLevelsOfACountAreFlowMatchEulers() throws {
        let text = #"{"shift": 3.0, "shift_terminal": 0.1, "use_karras_sigmas": true, "extra": 1}"#
        let configuration = try LTXEulerAncestralRFConfiguration(json: text)
        #expect(configuration.unusedKeys == ["extra"])
        let euler = try FlowMatchEulerDiscreteScheduler(from: configuration)
        let plan = try LTXEulerAncestralRFScheduler(configuration).plan(.count(9))
        #expect(try plan.grid == euler.plan(.count(9)).grid)
    }

    @Test func levelsOfTheCallersHaveATimestepEach() throws {
        let scheduler = try Self.make { $0.numTrainTimesteps = 100 }
        let plan = try scheduler.plan(.sigmas([1, 0.5, 0.25]))
        #expect(plan.timesteps == [100, 50, 25] && plan.sigmas == [1, 0.5, 0.25, 0.25])
        #expect(plan.row(at: 2, age: 0).nextSample == Combination(.sample) && plan.row(at: 2, age: 0).drawCount == 0)
        #expect(try scheduler.plan(.timesteps([1, 0.5, 0.25])) == plan)
    }

    /// The noise of a small share η, against the difference of squares without cancellation.
    @Test func aSmallShareOfNoiseIsAccurate() throws {
        let plan = try Self.make { $0.eta = 0x1p-30 }.plan(.sigmas([0.75, 0.5, 0]))
        // τ = 1/2, τ − δ = η/6; the root of (τ − δ)(τ + δ − 2 τ δ)/(1 − δ)², up to terms of η².
        let descent = 0x1p-30 / 6, kept = 0.5 + descent
        let expected = ((descent * 0.5 + 0.25 * 1e-12) / (kept * kept + 1e-12)).squareRoot()
        let row = plan.row(at: 0, age: 0)
        #expect(abs(row.nextSample.noise / expected - 1) <= 1e-9 && row.drawCount == 1)
        #expect(plan.row(at: 1, age: 0).drawCount == 0)
    }

    @Test func pureNoiseIsReplacedByPureNoise() throws {
        let row = try Self.make().plan(.sigmas([1, 1, 0])).row(at: 0, age: 0)
        #expect(row.nextSample.sample == 0 && abs(row.nextSample.noise - 1) <= 1e-12)
    }

    @Test(arguments: [-2.0, 0, 1e-9, 1, 1.5, 1e30], [-1.0, 0, 1e30])
    func plansAreFinite(_ eta: Double, _ noise: Double) throws {
        for noise in [noise, 1] {
            let scheduler = try Self.make { ($0.eta, $0.sNoise) = (eta, noise) }
            for count in 1...30 { _ = try scheduler.plan(.count(count)) }
            _ = try scheduler.plan(.sigmas([1, 1, 1 - 0x1p-24, 0.5, 0.5, 1e-7, 1e-9, 0, 0]))
        }
    }

    @Test func whatIsRefused() throws {
        expectInvalid("eta", "inf", allowed: "1e30") { _ = try Self.make { $0.eta = .infinity } }
        expectInvalid("s_noise", "nan", allowed: "1e30") { _ = try Self.make { $0.sNoise = .nan } }
        expectInvalid("sigmas[1]", "0.5", allowed: "not greater") { _ = try Self.make().plan(.sigmas([0.2, 0.5])) }
        expectInvalid("number of sigmas", "1", allowed: "at least 2") { _ = try Self.make().plan(.sigmas([0.2])) }
        expectInvalid("sigmas[0]", "1.5", allowed: "from 0 to 1") { _ = try Self.make().plan(.sigmas([1.5, 0])) }
        expectInvalid("timesteps and sigmas", "both given", allowed: "one") {
            _ = try Self.make().plan(.timestepsAndSigmas([1, 0], [1, 0]))
        }
        expectInvalid("invert_sigmas", "true", allowed: "false") {
            _ = try LTXEulerAncestralRFConfiguration(json: #"{"invert_sigmas": true}"#)
        }
        expectInvalid("shift", "0.0", allowed: "1e-30") { _ = try LTXEulerAncestralRFConfiguration(json: #"{"shift": 0}"#) }
        expectInvalid("sigma_max", "5.0", allowed: "at most 1") {
            let text = #"{"use_beta_sigmas": true, "sigma_max": 5}"#
            _ = try LTXEulerAncestralRFScheduler(LTXEulerAncestralRFConfiguration(json: text)).plan(.count(4))
        }
        expectInvalid("mu", "missing", allowed: "use_dynamic_shifting") {
            let text = #"{"use_dynamic_shifting": true}"#
            _ = try LTXEulerAncestralRFScheduler(LTXEulerAncestralRFConfiguration(json: text)).plan(.count(4))
        }
    }
}
