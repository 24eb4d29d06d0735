// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// SA-Solver beyond the goldens: weights of diffusers 0.42.1 in float64, its share of noise, degenerate levels, refusals.
@Suite struct SASolverTests {
    private func make(_ change: (inout SASolverConfiguration) -> Void = { _ in }) throws -> SASolverScheduler {
        var configuration = SASolverConfiguration()
        change(&configuration)
        return try SASolverScheduler(configuration)
    }

    @Test func weightsAreTheReferences() {
        let levels = [11.9395199, 6.13521004, 3.44296741, 2.04108739].map { NoiseLevel(sigma: $0, process: .variancePreserving) }
        let step = ExponentialIntegrator(from: levels[2], to: levels[3], predictsCleanSample: true, stochasticity: 1)
        func expect(_ values: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation) {
            // The levels have nine digits.
            #expect(zip(values, expected).allSatisfy { abs($0 - $1) <= 1e-8 }, "\(values)", sourceLocation: sourceLocation)
        }
        expect([step.sampleRate, step.noiseRate], [0.554367996665071, 0.723196335998836])
        expect(step.weights(through: [levels[2]]), [0.285343525233173])
        expect(step.halfWeights(with: levels[1], scalesWithExponential: false), [0.493536850588694, -0.208193325355521])
        expect(
            step.weights(through: [levels[2], levels[1], levels[0]]),
            [0.55263827628932, -0.368003708556357, 0.100708957500211])
        expect(step.halfWeights(with: levels[3], scalesWithExponential: false), [0.0553057423671992, 0.230037782865974])
        expect(
            step.weights(through: [levels[3], levels[2], levels[1]]),
            [0.144903427046788, 0.16052474901571, -0.0200846508293244])
    }

    /// SA-Solver without noise is UniPC with B(h) = h.
    @Test(arguments: [1, 2, 3]) func withoutNoiseItIsUniPC(_ order: Int) throws {
        let plan = try make {
            ($0.predictorOrder, $0.correctorOrder, $0.tauFunc) = (order, order + 1, [0])
        }.plan(.count(12))
        var configuration = UniPCMultistepConfiguration()
        (configuration.solverOrder, configuration.solverType) = (order, .bh1)
        let uniPC = try UniPCMultistepScheduler(configuration).plan(on: plan.grid)
        // The orders of their last steps differ.
        for index in 0..<8 {
            let row = plan.row(at: index, age: index), other = uniPC.row(at: index, age: index)
            #expect(row.nextSample == other.nextSample && row.drawCount == 1, "step \(index)")
        }
    }

    @Test func tauSaysWhereNoiseIsAdded() throws {
        let plan = try make().plan(.count(20))
        for (index, timestep) in plan.timesteps.enumerated() {
            let row = plan.row(at: index, age: index)
            #expect(row.drawCount == 1 && (row.nextSample.noise != 0) == (200...800).contains(timestep))
        }
        // The last value applies to all later steps.
        let constant = try make { $0.tauFunc = [0.5] }.plan(.count(20))
        let table = try make { $0.tauFunc = Array(repeating: 0.5, count: 1000) }.plan(.count(20))
        #expect(constant == table && constant.needsNoise(at: 0, age: 0))
    }

    /// diffusers divides 0 by 0 in some of these runs.
    @Test(arguments: [1, 2, 3, 4], SASolverAlgorithmType.allCases) func repeatedLevelsStayFinite(
        _ order: Int, _ type: SASolverAlgorithmType
    ) throws {
        for corrector in 1...4 {
            let scheduler = try make {
                ($0.predictorOrder, $0.correctorOrder, $0.algorithmType) = (order, corrector, type)
                ($0.lowerOrderFinal, $0.tauFunc) = (false, [1.5])
            }
            for sigmas in [[5, 5, 5, 5, 5.0], [9, 5, 5, 2, 2, 2, 0], [9, 9, 9, 5, 5, 1, 1], [5, 3, 0, 0, 0], [2, 1, 3, 2, 4]] {
                let timesteps = (1..<sigmas.count).map { Double(10 * (sigmas.count - $0)) }
                _ = try scheduler.plan(
                    on: TimestepGrid(timesteps: timesteps, sigmas: sigmas, process: .variancePreserving))
            }
        }
    }

    @Test func noiseIsAddedAtTrainingLevels() throws {
        var scheduler = try make { $0.useFlowSigmas = true }
        try scheduler.setTimesteps(5)
        let level = try scheduler.level(atTimestep: 500)
        #expect(level.process == .variancePreserving)
        #expect(abs(level.signalRate * level.signalRate - Double(scheduler.noiseSchedule.alphasCumprod[500])) <= 1e-15)
    }

    @Test func badValuesAreNamed() throws {
        expectInvalid("predictor_order", "5", allowed: "from 1 to 4") { _ = try make { $0.predictorOrder = 5 } }
        expectInvalid("corrector_order", "0", allowed: "from 1 to 4") { _ = try make { $0.correctorOrder = 0 } }
        expectInvalid("tau_func[1]", "-1.0", allowed: "from 0 to 1000") { _ = try make { $0.tauFunc = [0, -1] } }
        expectInvalid("tau_func", "empty", allowed: "null") { _ = try make { $0.tauFunc = [] } }
        expectInvalid("algorithm_type", "noise_prediction", allowed: "flow_prediction") {
            _ = try make { ($0.algorithmType, $0.predictionType) = (.noisePrediction, .flowPrediction) }
        }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try make().plan(.count(5, mu: 1)) }
    }
}
