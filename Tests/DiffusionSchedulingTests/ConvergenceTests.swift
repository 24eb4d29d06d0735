// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// DEIS against the exact solution of the probability flow of normally distributed data.
@Suite struct ConvergenceTests {
    static let problem = GaussianProblem()

    /// Levels from ρ = 20 to ρ = 0.1, evenly spaced by h in ln ρ, except for the first two steps of length h². These are of order 1
    /// and 2 for want of stored outputs, and would leave errors of h² and h³ in the result if they were as long; so their errors
    /// are h⁴ and far less.
    static func grid(_ count: Int, isFlow: Bool = false) -> TimestepGrid {
        let from = log(20.0), to = log(0.1)
        let h = (from - to) / Double(count - 2)
        let warmUp = [from, from - h * h / 8, from - h * h / 4]
        let rest = linspace(warmUp[2], to, count: count - 1)[1...]
        let ratios = (warmUp + rest).map { exp($0) }
        return TimestepGrid(
            timesteps: Array(repeating: 0, count: count), sigmas: isFlow ? ratios.map { $0 / (1 + $0) } : ratios,
            process: isFlow ? .flow : .variancePreserving)
    }

    static func scheduler(order: Int, _ type: PredictionType = .epsilon, isFlow: Bool = false) throws -> DEISMultistepScheduler {
        try makeDEIS {
            $0.solverOrder = order
            $0.predictionType = type
            $0.useFlowSigmas = isFlow
            $0.lowerOrderFinal = false
        }
    }

    /// The slope of ln(error) over ln(1/steps), by least squares.
    static func slope(_ points: [(count: Int, error: Double)]) -> Double {
        let x = points.map { -log(Double($0.count)) }, y = points.map { log($0.error) }
        let meanX = x.reduce(0, +) / Double(x.count), meanY = y.reduce(0, +) / Double(y.count)
        let covariance = zip(x, y).map { ($0 - meanX) * ($1 - meanY) }.reduce(0, +)
        return covariance / x.map { ($0 - meanX) * ($0 - meanX) }.reduce(0, +)
    }

    @Test(arguments: [1, 2, 3], [false, true]) func errorFallsWithTheOrder(order: Int, isFlow: Bool) throws {
        let scheduler = try Self.scheduler(order: order, isFlow: isFlow)
        let points = try [200, 300, 450, 680, 1000].map { count in
            try (count: count, error: Self.problem.error(of: scheduler.plan(on: Self.grid(count, isFlow: isFlow))))
        }
        let measured = Self.slope(points)
        #expect(abs(measured - Double(order)) <= Tolerance.measuredOrder, "order \(order): measured \(measured), \(points)")
    }

    /// Tests the test: a solver of a lower order must not pass.
    @Test func lowerOrdersAreTold() throws {
        let points = try [200, 1000].map { count in
            try (count: count, error: Self.problem.error(of: Self.scheduler(order: 2).plan(on: Self.grid(count))))
        }
        #expect(abs(Self.slope(points) - 3) > Tolerance.measuredOrder)
    }

    @Test func higherOrdersAreNearer() throws {
        for count in [20, 100] {
            let errors = try (1...3).map { try Self.problem.error(of: Self.scheduler(order: $0).plan(on: Self.grid(count))) }
            #expect(errors[0] > 2 * errors[1] && errors[1] > 2 * errors[2], "n = \(count): \(errors)")
        }
    }

    /// The prediction type makes no difference: noise, clean sample and velocity give one run.
    @Test(arguments: [1, 2, 3]) func predictionTypesGiveTheSameRun(order: Int) throws {
        for isFlow in [false, true] {
            let grid = Self.grid(30, isFlow: isFlow)
            let expected = try Self.problem.run(Self.scheduler(order: order, isFlow: isFlow).plan(on: grid))
            // Each process has its own velocity: diffusers gives it a different meaning in the other process.
            for type in [PredictionType.sample, isFlow ? .flowPrediction : .vPrediction] {
                let plan = try Self.scheduler(order: order, type, isFlow: isFlow).plan(on: grid)
                let deviation = try Self.problem.run(plan, type).deviation(from: expected)
                #expect(deviation <= Tolerance.loop, "\(type), flow \(isFlow): \(deviation)")
            }
        }
    }

    /// Flow matching is another process in x but the same one in y = x/A, so its steps are the same.
    @Test func flowMatchingStepsTheSameInDisguise() throws {
        let plain = try Self.scheduler(order: 3).plan(on: Self.grid(40))
        let flow = try Self.scheduler(order: 3, isFlow: true).plan(on: Self.grid(40, isFlow: true))
        let y = try zip(Self.problem.run(plain), Self.problem.run(flow)).map {
            ($0 / plain.levels[40].signalRate, $1 / flow.levels[40].signalRate)
        }
        // The levels are float32 numbers, and ς/(1 + ς) is rounded apart from ς.
        for (a, b) in y { #expect(abs(a - b) <= 4 * Tolerance.float32Roundoff, "\(a), \(b)") }
    }

    /// The default grid with order 3, down to the last training level. diffusers' own float32 is off by 2e-5, 4e-4 and 9e-2 here.
    @Test func float32KeepsWithinItsRoundingAtEveryNumberOfSteps() throws {
        var table = "order 3, linspace:      n   float64 to exact   float32 to float64\n"
        var errors: [Double] = []
        for count in [25, 100, 999] {
            let plan = try makeDEIS { $0.solverOrder = 3 }.plan(.count(count))
            var float64 = SamplingSession(plan: plan), float32 = SamplingSession(plan: plan)
            var oracle = PlainOracle(plan: plan)
            var x = Self.problem.sample(at: plan.levels[0]), y = x.map { Float($0) }
            var worst = 0.0
            for index in 0..<count {
                let level = plan.levels[index]
                let output = Self.problem.output(.epsilon, for: x, at: level)
                let step = oracle.step(modelOutput: output, sample: x)
                worst = max(worst, step.magnitudes.max() ?? 0)
                try float64.step(modelOutput: output, sample: &x)
                let rounded = Self.problem.output(.epsilon, for: y.map(Double.init), at: level).map { Float($0) }
                try float32.step(modelOutput: rounded, sample: &y)
            }
            let exact = Self.problem.sample(at: plan.levels[count])
            let error = x.deviation(from: exact)
            let rounding = y.map(Double.init).deviation(from: x)
            table += "                   \(count)   \(error)   \(rounding)\n"
            #expect(rounding <= Tolerance.float32Loop(steps: count, magnitude: worst), "n = \(count), worst step \(worst)")
            errors.append(error)
        }
        print(table)
        #expect(errors[0] <= 2e-2 && errors[1] <= 2e-3 && errors[2] <= 2e-5, "\(errors)")
    }

    /// The last step to a final level of 0 removes all noise and gives the predicted clean sample.
    @Test(arguments: [1, 2, 3]) func aRunToNoNoiseEndsWithThePrediction(order: Int) throws {
        let plan = try makeDEIS {
            $0.solverOrder = order
            $0.finalSigmasType = .zero
        }.plan(.count(30))
        #expect(plan.sigmas.last == 0)
        var session = SamplingSession(plan: plan)
        var x = Self.problem.sample(at: plan.levels[0])
        for index in 0..<29 {
            try session.step(modelOutput: Self.problem.output(.epsilon, for: x, at: plan.levels[index]), sample: &x)
        }
        let output = Self.problem.output(.epsilon, for: x, at: plan.levels[29])
        let clean = Self.problem.output(.sample, for: x, at: plan.levels[29])
        try session.step(modelOutput: output, sample: &x)
        #expect(x.deviation(from: clean) <= 1e-14)
    }
}
