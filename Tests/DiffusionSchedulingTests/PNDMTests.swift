// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// PNDM beyond the goldens: diffusers' own constants, runs that begin in the middle, refusals, levels that are equal.
@Suite struct PNDMTests {
    static func make(_ change: (inout PNDMConfiguration) -> Void = { _ in }) throws -> PNDMScheduler {
        var configuration = PNDMConfiguration()
        change(&configuration)
        return try PNDMScheduler(configuration)
    }

    static func stableDiffusion() throws -> PNDMScheduler {
        try make {
            ($0.betaStart, $0.betaEnd, $0.betaSchedule) = (0.00085, 0.012, .scaledLinear)
            ($0.skipPRKSteps, $0.stepsOffset) = (true, 1)
        }
    }

    /// A run of 10 steps, as in diffusers' tests, which assert these means in float32.
    static func upstreamRun(_ change: (inout PNDMConfiguration) -> Void) throws -> [Double] {
        var scheduler = try make(change)
        return try sample(from: UpstreamTests.sample, with: &scheduler, steps: 10, model: UpstreamTests.model)
    }

    struct Case: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let mean: Double
        var element: Double?
        let change: @Sendable (inout PNDMConfiguration) -> Void
    }

    @Test(arguments: [
        Case(testDescription: "Runge-Kutta", mean: 0.2579842171648016, element: 0.5159684343296037) { _ in },
        Case(testDescription: "v_prediction", mean: 0.08775859524200404) { $0.predictionType = .vPrediction },
        Case(testDescription: "final alpha of 1", mean: 0.29952720371231895) { ($0.setAlphaToOne, $0.betaStart) = (true, 0.01) },
        Case(testDescription: "final alpha of timestep 0", mean: 0.24341772782678595) { $0.betaStart = 0.01 },
        Case(testDescription: "without Runge-Kutta", mean: 0.25744214409544297, element: 0.5148842881908855) {
            $0.skipPRKSteps = true
        },
    ]) func meansAreThoseOfTheOracleInFloat64(_ expected: Case) throws {
        let x = try Self.upstreamRun(expected.change)
        #expect(abs(UpstreamTests.mean(x) - expected.mean) <= Tolerance.loop, "\(UpstreamTests.mean(x))")
        if let element = expected.element {
            #expect(abs(x[3 * 192 + 2 * 64 + 7 * 8 + 7] - element) <= Tolerance.loop)
        }
    }

    @Test func theTimestepsAreDiffusers() throws {
        var scheduler = try Self.stableDiffusion()
        try scheduler.setTimesteps(10)
        #expect(scheduler.timesteps == [901, 801, 801, 701, 601, 501, 401, 301, 201, 101, 1])
        #expect(scheduler.plan?.steps == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        try scheduler.setTimesteps(1)
        #expect(scheduler.timesteps == [1])

        scheduler = try Self.make()
        try scheduler.setTimesteps(5)
        #expect(scheduler.timesteps == [800, 700, 700, 600, 600, 500, 500, 400, 400, 300, 300, 200, 200, 0])
        #expect(scheduler.plan?.steps == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4])
    }

    @Test func aStepHasTheCoefficientsOfFormulaNine() throws {
        let plan = try Self.stableDiffusion().plan(.count(10))
        let row = plan.row(at: try plan.index(ofTimestep: 501), age: 0)
        #expect(abs(row.nextSample.sample - 1.240063170490742) <= 1e-14)
        #expect(abs(row.nextSample.modelOutput + 0.2961932986115857) <= 1e-14)
    }

    // MARK: Runs that begin in the middle

    @Test func ordersRiseWithWhatARunRemembers() throws {
        let plan = try Self.stableDiffusion().plan(.count(10))
        // The ratio is Adams and Bashforth's weight of the newest output: 1, 3/2, 23/12, 55/24.
        let weights = (0..<6).map { age -> Double in
            let row = plan.row(at: 4 + age, age: age)
            let euler = plan.row(at: 4 + age, age: 0).nextSample.modelOutput
            return row.nextSample.modelOutput / euler
        }
        for (weight, expected) in zip(weights, [1, 1.5, 23.0 / 12, 55.0 / 24, 55.0 / 24, 55.0 / 24]) {
            #expect(abs(weight - expected) <= 1e-14)
        }
        // The second evaluation of a full run repeats the first one's step, and its output doesn't enter the history.
        #expect(plan.row(at: 1, age: 1).nextSample.sample == 0)
        #expect(plan.row(at: 4, age: 4).nextSample.slotCoefficients.filter { $0 != 0 }.count == 3)
        #expect(plan.row(at: 3, age: 3).nextSample.slotCoefficients.filter { $0 != 0 }.count == 2)
    }

    /// A model that predicts no noise leaves DDIM's factor √(ᾱ_end/ᾱ_start), wherever a run begins: no step is taken twice.
    @Test(arguments: [true, false]) func aLateRunReachesTheEnd(_ skips: Bool) throws {
        var scheduler = try Self.make { $0.skipPRKSteps = skips }
        for begin in skips ? [0, 2, 5, 10] : [0, 4, 8, 12, 15] {
            try scheduler.setTimesteps(10)
            try scheduler.setBeginIndex(begin)
            let start = scheduler.timesteps[begin]
            var x = [1.0]
            for timestep in scheduler.timesteps[begin...] {
                try scheduler.step(modelOutput: [0], timestep: timestep, sample: &x)
            }
            let alphas = scheduler.noiseSchedule.alphasCumprod
            let expected = (alphas[0] / alphas[Int(start)]).squareRoot()
            #expect(abs(x[0] - expected) <= 1e-12 * expected, "from evaluation \(begin)")
        }
    }

    @Test func aRunCannotBeginWithinAStep() throws {
        var scheduler = try Self.make()
        try scheduler.setTimesteps(10)
        expectInvalid("begin index", "2", allowed: "such as 0") { try scheduler.setBeginIndex(2) }
        var plms = try Self.stableDiffusion()
        try plms.setTimesteps(10)
        expectInvalid("begin index", "1", allowed: "such as 0") { try plms.setBeginIndex(1) }
        #expect(try plms.plan?.index(ofTimestep: 801) == 2)
    }

    // MARK: Faults

    @Test func whatPNDMRefuses() throws {
        expectInvalid("prediction_type", "sample", allowed: "epsilon, v_prediction") {
            _ = try Self.make { $0.predictionType = .sample }
        }
        let scheduler = try Self.make()
        expectInvalid("number of steps", "3", allowed: "at least 4, unless skip_prk_steps") { _ = try scheduler.plan(.count(3)) }
        expectInvalid("number of steps", "1001", allowed: "from 1 to") { _ = try scheduler.plan(.count(1001)) }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try scheduler.plan(.timesteps([9, 5, 1])) }
        expectInvalid("sigmas", "given", allowed: "left out") { _ = try scheduler.plan(.sigmas([9, 5, 1])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try scheduler.plan(.count(10, mu: 1)) }
    }

    /// Betas of every kind: equal levels, levels without noise and levels without signal.
    @Test(arguments: [PredictionType.epsilon, .vPrediction], [0, 0.5, 0.999999])
    func plansAreFinite(_ type: PredictionType, _ beta: Double) throws {
        for (skips, spacing) in [(true, TimestepSpacing.linspace), (false, .leading), (true, .trailing), (false, .linspace)] {
            let scheduler = try Self.make {
                $0.numTrainTimesteps = 50
                $0.trainedBetas = (0..<50).map { $0 < 25 ? 0 : beta }
                ($0.predictionType, $0.skipPRKSteps, $0.timestepSpacing) = (type, skips, spacing)
            }
            for count in 4...50 { _ = try scheduler.plan(.count(count)) }
        }
    }
}
