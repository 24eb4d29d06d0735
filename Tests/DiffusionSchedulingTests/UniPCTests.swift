// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// The quirks of UniPC, its weights against values of diffusers 0.42.1 in float64, and its order of convergence.
@Suite struct UniPCTests {
    private func make(_ change: (inout UniPCMultistepConfiguration) -> Void = { _ in }) throws -> UniPCMultistepScheduler {
        var configuration = UniPCMultistepConfiguration()
        change(&configuration)
        return try UniPCMultistepScheduler(configuration)
    }

    /// The default plan of 10 steps on the reference's noise levels ς₃ … ς₆, whose roots aren't rounded correctly.
    private func referencePlan() throws -> SamplingPlan {
        let scheduler = try make(), plan = try scheduler.plan(.count(10))
        var sigmas = plan.sigmas
        sigmas.replaceSubrange(3...6, with: [11.9395199, 6.13521004, 3.44296741, 2.04108739])
        return try scheduler.plan(
            on: TimestepGrid(timesteps: plan.timesteps, sigmas: sigmas, process: .variancePreserving))
    }

    private func expect(
        _ combination: Combination, _ expected: [(Stream, Double)], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let streams: [Stream] = [.sample, .modelOutput, .noise, .prediction, .slot(0), .slot(1), .slot(2)]
        for stream in streams {
            let value = expected.first { $0.0 == stream }?.1 ?? 0
            #expect(
                abs(combination[stream] - value) <= 2e-13 * max(1, abs(value)),
                "\(stream): \(combination[stream]), expected \(value)",
                sourceLocation: sourceLocation)
        }
    }

    /// Coefficients of p, as the reference lists them, folded into x and e.
    private func folded(_ row: PlanRow, _ terms: [(Stream, Double)]) -> [(Stream, Double)] {
        var combination = Combination()
        for (stream, value) in terms { combination[stream] = value }
        return combination.replacing(.prediction, by: row.prediction).terms.map { ($0.stream, $0.coefficient) }
    }

    @Test func aRowOfTheDefaultPlan() throws {
        let row = try referencePlan().row(at: 5, age: 5)
        expect(row.prediction, [(.sample, 3.58525098420737), (.modelOutput, -3.44296741485596)])
        expect(
            row.nextSample,
            folded(row, [(.slot(1), 0.93512456088376), (.prediction, 0.314102298839941), (.slot(0), -0.0810656336652329)]))
        #expect(row.stores.map(\.slot) == [0, 1])
        expect(row.stores[0].value, row.prediction.terms.map { ($0.stream, $0.coefficient) })
        expect(
            row.stores[1].value,
            folded(row, [(.slot(1), 0.93512456088376), (.prediction, 0.162594785252888), (.slot(0), -0.0127793484969669)]))
    }

    @Test func aRowOfAFlowPlan() throws {
        let row = try make {
            $0.useFlowSigmas = true
            $0.flowShift = 3
            $0.predictionType = .flowPrediction
        }.plan(.count(10)).row(at: 5, age: 5)
        expect(row.prediction, [(.sample, 1), (.modelOutput, -0.750374794006348)])
        expect(
            row.nextSample,
            folded(row, [(.slot(1), 0.889184777428272), (.prediction, 0.199778558350487), (.slot(0), -0.0553848543928373)]))
        expect(
            row.stores[1].value,
            folded(row, [(.slot(1), 0.889184777428272), (.prediction, 0.103667931327719), (.slot(0), -0.0092037858781698)]))
    }

    /// Predictors and correctors from ς₅ to ς₆ of the default grid.
    @Test func weightsAreTheReferences() throws {
        let levels = try referencePlan().levels
        let s = levels[5], t = levels[6], p = levels[4], pp = levels[3]
        let step = ExponentialIntegrator(from: s, to: t, predictsCleanSample: true)
        func expect(_ weights: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation) {
            #expect(weights.count == expected.count, sourceLocation: sourceLocation)
            for (weight, value) in zip(weights, expected) {
                #expect(abs(weight - value) <= 1e-13, "\(weights)", sourceLocation: sourceLocation)
            }
        }
        #expect(abs(step.sampleRate - 0.93512456088376) <= 1e-14)
        expect(step.weights(through: [s]), [0.179142713659345])
        expect(step.halfWeights(with: p, scalesWithExponential: true), [0.260208347324577, -0.0810656336652329])
        expect(step.halfWeights(with: p, scalesWithExponential: false), [0.283239376337105, -0.10409666267776])
        expect(step.weights(through: [s, p, pp]), [0.333900265416921, -0.212596923308374, 0.0578393715507975])
        expect(step.halfWeights(with: t, scalesWithExponential: true), [0.0895713568296723, 0.0895713568296723])
        expect(step.halfWeights(with: t, scalesWithExponential: false), [0.0641238222263578, 0.115018891432987])
        expect(step.weights(through: [s, p, t]), [0.108700833737524, -0.0127793484969669, 0.0832212284187876])
        expect(
            step.weights(through: [s, p, pp, t]),
            [0.127147944046093, -0.0291473153992303, 0.00473788614482332, 0.076404198867658])
    }

    @Test func phiIsWellConditioned() {
        for k in 1...7 {
            for y in [-30, -5, -2.0, -1.999999, -1, -1e-3, 0, 1e-9, 0.5, 1.999999, 2, 5.0, 30] {
                // φ_k(y) = y φ_{k+1}(y) + 1/k!, by whichever way each was computed.
                let factorial = (1...k).reduce(1.0) { $0 * Double($1) }
                let exponent = exponentialMinusOne(y)
                let phi = ExponentialIntegrator.phi(k, y, exponent: exponent)
                let expected = y * ExponentialIntegrator.phi(k + 1, y, exponent: exponent) + 1 / factorial
                #expect(abs(phi - expected) <= 1e-13 * max(abs(expected), 1 / factorial), "k \(k), y \(y): \(phi), \(expected)")
            }
        }
    }

    // MARK: Grids

    @Test func gridsAreTheReferences() throws {
        func expect(
            _ timesteps: [Double], _ sigmas: [Double], sourceLocation: SourceLocation = #_sourceLocation,
            _ change: (inout UniPCMultistepConfiguration) -> Void
        ) throws {
            let plan = try make {
                $0.useFlowSigmas = true
                change(&$0)
            }.plan(.count(4))
            #expect(plan.timesteps == timesteps, sourceLocation: sourceLocation)
            for (sigma, value) in zip(plan.sigmas, sigmas) {
                #expect(abs(sigma - value) <= 1e-8 + 1e-7 * value, "\(plan.sigmas)", sourceLocation: sourceLocation)
            }
        }
        try expect([999, 900, 750, 500], [0.999998987, 0.900119960, 0.750374795, 0.500998974, 0]) { $0.flowShift = 3 }
        try expect([993, 954, 554, 9], [0.993687153, 0.954762578, 0.554835439, 0.009902294, 0]) { $0.useKarrasSigmas = true }
    }

    @Test func levelsOfARequestAreShifted() throws {
        let scheduler = try make {
            $0.useFlowSigmas = true
            $0.flowShift = 3
            $0.finalSigmasType = .sigmaMin
        }
        let plan = try scheduler.plan(.sigmas([1, 0.5]))
        #expect(plan.sigmas == [1 - 1e-6, 0.75, 0.75].map { Double(Float($0)) })
        #expect(plan.timesteps == [999, 750])
        // A shift so large that all levels coincide leaves a run without divisions by 0.
        #expect(
            try make {
                $0.useFlowSigmas = true
                $0.flowShift = 1e12
            }.plan(.count(8)).levels.allSatisfy { $0.signalRate > 0 })
    }

    @Test func dynamicShiftingNeedsMu() throws {
        let scheduler = try make {
            $0.useFlowSigmas = true
            $0.useDynamicShifting = true
        }
        expectInvalid("mu", "missing", allowed: "use_dynamic_shifting") { _ = try scheduler.plan(.count(4)) }
        #expect(try scheduler.plan(.count(4, mu: 0)).sigmas == make { $0.useFlowSigmas = true }.plan(.count(4, mu: 3)).sigmas)
    }

    // MARK: Rows

    @Test(arguments: [1, 2, 3, 6]) func aRunBegunLateWarmsUp(order: Int) throws {
        let plan = try make {
            $0.solverOrder = order
            $0.disableCorrector = [7]
        }.plan(.count(20))
        #expect(plan.slotCount == order && plan.warmUp == order)
        // The first step of a run is of order 1 and corrects nothing; each further step has one more stored output.
        #expect(plan.row(at: 5, age: 0).nextSample.slotCoefficients.allSatisfy { $0 == 0 })
        for age in 1...order {
            let slots = plan.row(at: 12, age: age).nextSample.slotCoefficients
            #expect(slots.filter { $0 != 0 }.count == min(age, order - 1) + 1)
        }
        // Step 7 isn't corrected: step 8 reads no U.
        #expect(plan.row(at: 8, age: order).nextSample[.slot(order - 1)] == 0)
        #expect(plan.row(at: 9, age: order).nextSample[.slot(order - 1)] != 0)
    }

    /// diffusers ends these runs in NaN or in an error of the linear solver.
    @Test(arguments: [1, 2, 3], UniPCSolverType.allCases) func runsToNoNoiseEndWithTheCleanSample(
        order: Int, type: UniPCSolverType
    ) throws {
        for (predictsClean, lowers) in [(true, false), (false, true), (false, false)] {
            let plan = try make {
                $0.solverOrder = order
                $0.solverType = type
                $0.predictX0 = predictsClean
                $0.lowerOrderFinal = lowers
            }.plan(.count(30))
            let exact = ConvergenceTests.problem.sample(at: plan.levels[30])
            let deviation = try ConvergenceTests.problem.run(plan).deviation(from: exact)
            // 30 steps of order 1 leave an error of some 5 %.
            #expect(deviation < (order == 1 ? 0.1 : 0.05), "\(deviation)")
        }
    }

    @Test func levelsThatOccurTwiceAreSteppedOver() throws {
        // The run has as many steps as training timesteps, and equal last levels.
        for order in [2, 3] {
            let plan = try make {
                $0.solverOrder = order
                $0.lowerOrderFinal = false
                $0.finalSigmasType = .sigmaMin
            }.plan(.count(1000))
            #expect(try ConvergenceTests.problem.run(plan).allFinite)
            let karras = try make {
                $0.solverOrder = order
                $0.useKarrasSigmas = true
                $0.lowerOrderFinal = false
                $0.finalSigmasType = .sigmaMin
            }.plan(.count(8))
            let last = karras.row(at: 7, age: 7), slots = order - 1
            // The last step stays at its level, but corrects the sample.
            #expect(last.nextSample[.slot(slots)] == 1 && last.nextSample.slotCoefficients.filter { $0 != 0 }.count == 1)
        }
    }

    @Test func thresholdingIsOfCleanSamples() throws {
        let plan = try make { $0.thresholding = true }.plan(.count(10))
        #expect(plan.clamp != .none && plan.row(at: 5, age: 5).stores[0].value == Combination(prediction: 1))
        let noise = try make {
            $0.thresholding = true
            $0.predictX0 = false
        }.plan(.count(10))
        #expect(noise.clamp == .none)
    }

    // MARK: Configurations

    @Test func otherSolversTypesMeanBH2() throws {
        for word in ["midpoint", "heun", "logrho"] {
            let configuration = try UniPCMultistepConfiguration(json: #"{"solver_type": "\#(word)"}"#)
            #expect(configuration.solverType == .bh2)
        }
    }

    @Test func badValuesAreNamed() throws {
        expectInvalid("solver_order", "7", allowed: "from 1 to 6") { _ = try make { $0.solverOrder = 7 } }
        expectInvalid("shift_terminal", "given", allowed: "use_flow_sigmas") { _ = try make { $0.shiftTerminal = 0.1 } }
        expectInvalid("predict_x0", "false", allowed: "flow_prediction") {
            _ = try make {
                $0.predictX0 = false
                $0.predictionType = .flowPrediction
            }
        }
        expectInvalid("sigma_min", "-1.0", allowed: "greater than 0") { _ = try make { $0.sigmaMin = -1 } }
        expectInvalid("solver_p", "{}", allowed: "another scheduler") {
            _ = try UniPCMultistepConfiguration(json: #"{"solver_p": {}}"#)
        }
        expectInvalid("sigmas", "given", allowed: "use_beta_sigmas") {
            _ = try make { $0.useBetaSigmas = true }.plan(.sigmas([0.9, 0.5]))
        }
        expectInvalid("sigmas[0]", "1.5", allowed: "at most 1") { _ = try make { $0.useFlowSigmas = true }.plan(.sigmas([1.5])) }
    }

    // MARK: Convergence

    /// The grids of `ConvergenceTests` begin with steps so short that their lower orders don't matter. UniPC's corrector raises a
    /// predictor's order p by one.
    @Test(arguments: [1, 2, 3], [false, true]) func errorFallsWithTheOrder(order: Int, predictsNoise: Bool) throws {
        for isFlow in [false, true] {
            let scheduler = try make {
                $0.solverOrder = order
                $0.predictX0 = !predictsNoise
                $0.lowerOrderFinal = false
                $0.useFlowSigmas = isFlow
            }
            let points = try [200, 300, 450, 680, 1000].map { count in
                try (
                    count: count,
                    error: ConvergenceTests.problem.error(
                        of: scheduler.plan(on: ConvergenceTests.grid(count, isFlow: isFlow)))
                )
            }
            let measured = ConvergenceTests.slope(points)
            #expect(measured >= Double(order + 1) - Tolerance.measuredOrder, "order \(order): measured \(measured), \(points)")
            print("UniPC order \(order), noise \(predictsNoise), flow \(isFlow): measured \(measured)")
        }
    }
}
