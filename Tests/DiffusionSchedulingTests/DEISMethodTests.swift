// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// DEIS's methods from its paper beyond the one that diffusers has.
@Suite struct DEISMethodTests {
    static let methods: [DEISMethod?] = [nil, .rhoAB, .tAB]

    static func scheduler(
        _ method: DEISMethod?, order: Int, _ change: (inout DEISMultistepConfiguration) -> Void = { _ in }
    ) throws -> DEISMultistepScheduler {
        try makeDEIS {
            ($0.method, $0.solverOrder, $0.lowerOrderFinal) = (method, order, false)
            change(&$0)
        }
    }

    /// A record of `Tests/Goldens/generate_deis_methods.py`.
    struct Record: Decodable {
        struct File: Decodable { let records: [Record] }

        struct Coefficients: Decodable {
            let index: Int
            let a: Double
            let b: [Double]
        }
        let config_text: String
        let sigmas: [Double]
        let coefficients: [Coefficients]
    }

    @Test func coefficientsAreThoseOf50Digits() throws {
        var worst = 0.0
        for record in try JSONDecoder().decode(Record.File.self, from: GoldenFile.data("deis_methods")).records {
            let scheduler = try DEISMultistepScheduler(.init(json: record.config_text))
            let process = scheduler.configuration.useFlowSigmas ? NoiseProcess.flow : .variancePreserving
            let solver = try scheduler.solver, levels = record.sigmas.map { NoiseLevel(sigma: $0, process: process) }
            for golden in record.coefficients {
                let update = solver.update(
                    order: golden.b.count, at: golden.index, of: levels, remembered: golden.b.count - 1)
                let place = "\(record.config_text), step \(golden.index)"
                #expect(update.outputs.count == golden.b.count, "\(place)")
                for (ours, exact) in zip([update.sample] + update.outputs, [golden.a] + golden.b) {
                    let error = abs(ours - exact) / abs(exact)
                    worst = max(worst, error)
                    #expect(error <= Tolerance.coefficient, "\(place): \(ours), exact \(exact)")
                }
            }
        }
        print("DEIS, the paper's methods: coefficients at most \(worst) from 50-digit arithmetic, relative")
    }

    @Test(arguments: methods, [1, 2, 3, 4]) func errorFallsWithTheOrder(method: DEISMethod?, order: Int) throws {
        for isFlow in [false, true] {
            let scheduler = try Self.scheduler(method, order: order) { $0.useFlowSigmas = isFlow }
            // t is a smooth function of ln ρ only for steps longer than the training's.
            let counts = method == .tAB && !isFlow ? [40, 55, 75, 100, 130] : [200, 280, 400, 560, 800]
            let points = try counts.map { count -> (count: Int, error: Double) in
                let ratios = linspace(log(20), log(0.1), count: count + 1).map { exp($0) }
                let plan = try scheduler.plan(
                    on: TimestepGrid(
                        timesteps: Array(repeating: 0, count: count),
                        exactSigmas: isFlow ? ratios.map { $0 / (1 + $0) } : ratios,
                        process: isFlow ? .flow : .variancePreserving))
                return try (count, Self.errorAfterAnExactStart(of: plan, length: order - 1))
            }
            let measured = ConvergenceTests.slope(points)
            #expect(abs(measured - Double(order)) <= 0.25, "flow \(isFlow): measured \(measured), \(points)")
        }
    }

    /// The error of a run with exact first steps, which would otherwise be of lower orders for want of stored outputs.
    static func errorAfterAnExactStart(of plan: SamplingPlan, length: Int) throws -> Double {
        let problem = ConvergenceTests.problem
        var session = SamplingSession(plan: plan), x = problem.sample(at: plan.levels[0])
        for index in 0..<plan.stepCount {
            try session.step(modelOutput: problem.output(.epsilon, for: x, at: plan.levels[index]), sample: &x)
            if index < length { x = problem.sample(at: plan.levels[index + 1]) }
        }
        let last = plan.levels[plan.stepCount]
        return zip(x, problem.sample(at: last)).map { abs($0 - $1) / last.signalRate }.max() ?? .nan
    }

    @Test(arguments: [1, 2, 3, 4], [false, true]) func stagesHaveTheOrderOfTheirNumber(order: Int, isFlow: Bool) throws {
        let scheduler = try Self.scheduler(.rhoRK, order: order) {
            $0.useFlowSigmas = isFlow
            ($0.useExponentialSigmas, $0.sigmaMin, $0.sigmaMax) = (!isFlow, isFlow ? nil : 0.1, isFlow ? nil : 20)
        }
        let points = try [20, 30, 45, 70, 100].map { count -> (count: Int, error: Double) in
            // The levels are even in ln ρ and float64; float32 levels would add errors of their own.
            let ratios = linspace(log(20), log(0.1), count: count + 1).map { exp($0) }
            let nodes = RungeKuttaTable(order: order).nodes
            let stages = zip(ratios, ratios.dropFirst()).flatMap { s, t in nodes.map { s + $0 * (t - s) } } + [ratios[count]]
            let grid = TimestepGrid(
                timesteps: Array(repeating: 0, count: count * order), exactSigmas: stages.map { isFlow ? $0 / (1 + $0) : $0 },
                process: isFlow ? .flow : .variancePreserving)
            return try (count, ConvergenceTests.problem.error(of: scheduler.plan(on: grid)))
        }
        let measured = ConvergenceTests.slope(points)
        #expect(abs(measured - Double(order)) <= 0.25, "measured \(measured), \(points)")
    }

    /// A step against the textbook's form of the method, in y = x/A.
    @Test(arguments: [2, 3, 4]) func aStepIsTheTextbooks(order: Int) throws {
        let plan = try Self.scheduler(.rhoRK, order: order).plan(.count(3))
        let problem = ConvergenceTests.problem
        func slope(_ y: [Double], _ level: NoiseLevel) -> [Double] { problem.noise(in: y.map { $0 * level.signalRate }, at: level) }
        func plus(_ y: [Double], _ factor: Double, _ k: [Double]) -> [Double] { zip(y, k).map { $0 + factor * $1 } }
        var y = problem.sample(at: plan.levels[0]).map { $0 / plan.levels[0].signalRate }
        for step in 0..<3 {
            let levels = (0...order).map { plan.levels[step * order + $0] }
            let h = levels[order].noiseToSignal - levels[0].noiseToSignal
            let k1 = slope(y, levels[0])
            switch order {
            case 2: y = plus(plus(y, h / 2, k1), h / 2, slope(plus(y, h, k1), levels[1]))
            case 3:
                let k2 = slope(plus(y, h / 2, k1), levels[1])
                let k3 = slope(plus(plus(y, -h, k1), 2 * h, k2), levels[2])
                y = plus(plus(plus(y, h / 6, k1), 4 * h / 6, k2), h / 6, k3)
            default:
                let k2 = slope(plus(y, h / 2, k1), levels[1]), k3 = slope(plus(y, h / 2, k2), levels[2])
                let k4 = slope(plus(y, h, k3), levels[3])
                y = plus(plus(plus(plus(y, h / 6, k1), h / 3, k2), h / 3, k3), h / 6, k4)
            }
        }
        let expected = y.map { $0 * plan.levels[3 * order].signalRate }
        #expect(try problem.run(plan).deviation(from: expected) <= Tolerance.loop)
    }

    @Test func evaluationsOfAStepAreListed() throws {
        let steps = try Self.scheduler(nil, order: 3).plan(.count(4)), stages = try Self.scheduler(.rhoRK, order: 3).plan(.count(4))
        #expect(stages.steps == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
        for step in 0..<4 {
            let (s, t) = (steps.sigmas[step], steps.sigmas[step + 1])
            #expect(Array(stages.sigmas[3 * step..<3 * step + 3]) == [s, (s + t) / 2, t])
            #expect(stages.timesteps[3 * step] == steps.timesteps[step])
            #expect(step == 3 || stages.timesteps[3 * step + 2] == steps.timesteps[step + 1])
            #expect(
                stages.timesteps[3 * step + 1] == roundedHalfToEven(try makeDEIS().noiseSchedule.timestep(atSigma: (s + t) / 2)))
        }
        #expect(stages.isStart(3) && !stages.isStart(4))
        // A step to a level without noise, or to its own level, is of order 1.
        let clean = try Self.scheduler(.rhoRK, order: 4) { $0.finalSigmasType = .zero }.plan(.count(3))
        #expect(clean.steps == [0, 0, 0, 0, 1, 1, 1, 1, 2] && clean.sigmas.last == 0)
        let still = try Self.scheduler(.rhoRK, order: 4) { $0.useKarrasSigmas = true }.plan(.count(3))
        #expect(still.steps == clean.steps && still.row(at: 8, age: 3).nextSample == Combination(.sample))
    }

    /// The first order is DDIM in every variable, and a run warms up through all orders below its own.
    @Test func theFirstOrderIsTheSameInAllMethods() throws {
        let expected = try Self.scheduler(nil, order: 1).plan(.count(10))
        for method in DEISMethod.allCases {
            #expect(try Self.scheduler(method, order: 1).plan(.count(10)) == expected, "\(method)")
        }
    }

    /// Constant outputs are integrated exactly, whatever the variable: the coefficients' sum is A_t (ρ_t − ρ_s).
    @Test(arguments: methods) func coefficientsSumToTheIntegralOfOne(method: DEISMethod?) throws {
        for change in [{ $0.finalSigmasType = .zero }, { $0.rescaleToFlow() }, { _ in }]
            as [(inout DEISMultistepConfiguration) -> Void]
        {
            let scheduler = try Self.scheduler(method, order: 4, change), solver = try scheduler.solver
            let levels = try scheduler.plan(.count(8)).levels
            for index in 4..<8 where levels[index] != levels[index + 1] {
                let (s, t) = (levels[index], levels[index + 1])
                let update = solver.update(order: 4, at: index, of: levels, remembered: 3)
                let size = update.outputs.map(abs).reduce(0, +), expected = t.signalRate * (t.noiseToSignal - s.noiseToSignal)
                #expect(update.outputs.count == 4)
                #expect(abs(update.outputs.reduce(0, +) - expected) <= 1e-14 * size, "\(String(describing: method)), \(index)")
            }
        }
    }

    /// Timesteps that share a level, and tables of one timestep, still make t a function of ρ with an inverse.
    @Test func timeIsAFunctionOfEveryTable() throws {
        for betas in [[0.3], [0.1, 0, 0, 0.2], [0, 0, 0.5], [0, 0]] {
            let plan = try Self.scheduler(.tAB, order: 4) {
                ($0.numTrainTimesteps, $0.trainedBetas) = (betas.count, betas)
            }.plan(.count(betas.count))
            #expect(plan.stepCount == betas.count)
        }
    }

    /// Updates by order exist only for steps with one evaluation.
    @Test func stagesHaveNoUpdatesByOrder() throws {
        var scheduler = try Self.scheduler(.rhoRK, order: 3)
        try scheduler.setTimesteps(4)
        #expect(throws: SchedulerError.self) { try scheduler.update(order: 2, ofStep: 2) }
        #expect(try scheduler.conversion(ofStep: 2).nextSample == Combination(.modelOutput))
    }

    @Test func anUnknownMethodIsRefused() {
        expectInvalid("diffusion_scheduling_method", #""euler""#, allowed: "rho_ab, t_ab, rho_rk, or null") {
            _ = try DEISMultistepConfiguration(json: #"{"diffusion_scheduling_method": "euler"}"#)
        }
        #expect(throws: Never.self) { try DEISMultistepConfiguration(json: "{}", overrides: ["method": "t_ab"]) }
    }
}

extension DEISMultistepConfiguration {
    fileprivate mutating func rescaleToFlow() { (useFlowSigmas, flowShift, predictionType) = (true, 3, .flowPrediction) }
}
