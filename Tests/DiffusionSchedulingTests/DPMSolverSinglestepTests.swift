// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// DPM-Solver in blocks beyond the goldens: weights of diffusers 0.42.1 in float64, the orders of a run, degenerate blocks, refusals.
@Suite struct DPMSolverSinglestepTests {
    private func make(
        _ change: (inout DPMSolverSinglestepConfiguration) -> Void = { _ in }
    ) throws -> DPMSolverSinglestepScheduler {
        var configuration = DPMSolverSinglestepConfiguration()
        change(&configuration)
        return try DPMSolverSinglestepScheduler(configuration)
    }

    private func levels(_ sigmas: [Double]) -> [NoiseLevel] {
        sigmas.map { NoiseLevel(sigma: $0, process: .variancePreserving) }
    }

    @Test(
        arguments: [
            (
                DPMSolver.SolverType.midpoint, [3.44296741, 6.13521004], 2.04108739,
                [0.909863921163426, 0.279657622322478, 0.0139400625233798]
            ),
            (.heun, [3.44296741, 6.13521004], 2.04108739, [0.909863921163426, 0.329947808584936, -0.0363501237390787]),
            (
                .midpoint, [2.55469131, 4.70333433, 9.48892117], 1.46235704,
                [0.830025754074928, 0.440576473903367, 0, 0.0369006795445222]
            ),
            (
                .heun, [2.55469131, 4.70333433, 9.48892117], 1.46235704,
                [0.830025754074928, 0.514493020923837, -0.138195294204471, 0.101179426728523]
            ),
        ] as [(DPMSolver.SolverType, [Double], Double, [Double])])
    func weightsAreTheReferences(_ type: DPMSolver.SolverType, _ outputs: [Double], _ target: Double, _ expected: [Double]) throws {
        let solver = DPMSolver(algorithmType: .dpmsolverPlusPlus, solverType: type, predictionType: .epsilon)
        let update = try #require(solver.update(through: levels(outputs), to: levels([target])[0]))
        #expect(update.noise == 0)
        for (value, reference) in zip([update.sample] + update.outputs, expected) {
            // The levels have nine digits.
            #expect(abs(value - reference) <= 1e-8, "\(update)")
        }
    }

    /// The number of outputs that each step of a run reads, which is its order.
    private func orders(_ plan: SamplingPlan) -> [Int] {
        plan.timesteps.indices.map { index in
            let row = plan.row(at: index, age: index)
            return max(1, row.nextSample.slotCoefficients.filter { $0 != 0 }.count)
        }
    }

    @Test(
        arguments: [
            (2, 6, false, [1, 2, 1, 2, 1, 2]), (2, 6, true, [1, 2, 1, 2, 1, 1]), (2, 5, false, [1, 2, 1, 2, 1]),
            (3, 6, false, [1, 2, 3, 1, 2, 3]), (3, 6, true, [1, 2, 3, 1, 2, 1]), (3, 5, true, [1, 2, 3, 1, 2]),
            (3, 4, false, [1, 2, 3, 1]), (1, 3, false, [1, 1, 1]),
        ] as [(Int, Int, Bool, [Int])])
    func blocksHaveTheOrdersOfTheReference(_ order: Int, _ count: Int, _ lowers: Bool, _ expected: [Int]) throws {
        let plan = try make {
            $0.solverOrder = order
            $0.solverType = .heun
            $0.lowerOrderFinal = lowers
            $0.finalSigmasType = .sigmaMin
        }.plan(.count(count))
        #expect(orders(plan) == expected)
        let toNoNoise = try make {
            $0.solverOrder = order
            $0.solverType = .heun
        }.plan(.count(count))
        #expect(orders(toNoNoise) == expected.dropLast() + [1])
    }

    @Test func aRunBegunInABlockStartsOneThere() throws {
        let plan = try make { $0.solverOrder = 3 }.plan(.count(9))
        let first = plan.row(at: 1, age: 0), second = plan.row(at: 2, age: 1)
        #expect(first.nextSample.slotCoefficients.allSatisfy { $0 == 0 })
        #expect(first.stores.first?.value == Combination(.sample))
        #expect(second.nextSample.sample != 0 && second.nextSample[.slot(0)] != 0)
        // A store at the end of a block would never be read.
        #expect(plan.row(at: 2, age: 2).stores.isEmpty)
    }

    /// diffusers divides 0 by 0 in some of these runs.
    @Test(arguments: [2, 3], DPMSolver.SolverType.allCases) func repeatedLevelsStayFinite(
        _ order: Int, _ type: DPMSolver.SolverType
    ) throws {
        for algorithm in [DPMSolver.AlgorithmType.dpmsolver, .dpmsolverPlusPlus, .sdeDPMSolverPlusPlus] {
            let scheduler = try make {
                $0.solverOrder = order
                $0.solverType = type
                $0.algorithmType = algorithm
            }
            for sigmas in [[5, 5, 5, 5, 5.0], [9, 5, 5, 2, 2, 2, 0], [9, 9, 9, 5, 5, 1, 1], [5, 3, 0, 0, 0], [2, 1, 3, 2, 4]] {
                let timesteps = (1..<sigmas.count).map { Double(10 * (sigmas.count - $0)) }
                let plan = try scheduler.plan(
                    on: TimestepGrid(timesteps: timesteps, sigmas: sigmas, process: .variancePreserving))
                #expect(plan.row(at: 0, age: 0).drawCount == (algorithm.isStochastic ? 1 : 0))
            }
        }
    }

    @Test func levelsWithoutNoiseAreReachedByEveryAlgorithm() throws {
        for algorithm in [DPMSolver.AlgorithmType.dpmsolver, .dpmsolverPlusPlus, .sdeDPMSolverPlusPlus] {
            let plan = try make { $0.algorithmType = algorithm }.plan(.count(10))
            let last = plan.row(at: 9, age: 9)
            #expect(last.nextSample == last.prediction)
        }
    }

    @Test func badValuesAreNamed() throws {
        expectInvalid("solver_order", "4", allowed: "1, 2 or 3") { _ = try make { $0.solverOrder = 4 } }
        expectInvalid("algorithm_type", "\"sde-dpmsolver\"", allowed: "dpmsolver++") {
            _ = try DPMSolverSinglestepConfiguration(json: #"{"algorithm_type": "sde-dpmsolver"}"#)
        }
        expectInvalid("algorithm_type", "sde-dpmsolver", allowed: "dpmsolver++") {
            _ = try make { $0.algorithmType = .sdeDPMSolver }
        }
        #expect(try DPMSolverSinglestepConfiguration(json: #"{"algorithm_type": "deis"}"#).algorithmType == .dpmsolverPlusPlus)
        expectInvalid("mu", "1.0", allowed: "use_dynamic_shifting") { _ = try make().plan(.count(5, mu: 1)) }
    }
}
