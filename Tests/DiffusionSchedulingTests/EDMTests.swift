// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// EDM schedulers beyond the goldens: diffusers' own constants, ends of the levels, refusals.
@Suite struct EDMTests {
    // MARK: Euler

    static func euler(_ change: (inout EDMEulerConfiguration) -> Void = { _ in }) throws -> EDMEulerScheduler {
        var configuration = EDMEulerConfiguration()
        change(&configuration)
        return try EDMEulerScheduler(configuration)
    }

    @Test func levelsAndRowsAreTheReferences() throws {
        let plan = try Self.euler().plan(.count(5)), row = plan.row(at: 1, age: 1)
        #expect(zip(plan.sigmas, [80, 17.527832, 2.51521897, 0.169752762, 0.002, 0]).allSatisfy { abs($0 - $1) <= 1e-6 * $1 })
        #expect(
            zip(plan.timesteps, [1.09550667, 0.715947509, 0.230589971, -0.443353057, -1.55365205]).allSatisfy {
                abs($0 - $1) <= 4e-7
            })
        #expect(abs(row.prediction.sample - 0.000813074509442703) <= 1e-10)
        #expect(abs(row.prediction.modelOutput - 0.4997966900376986) <= 1e-9)
        #expect(abs(row.nextSample.sample - 0.14419497754493293) <= 1e-7)
        #expect(abs(row.nextSample.modelOutput - 0.4280765756924659) <= 1e-7)
        #expect(abs(plan.inputScales[1] - 0.05702892281790716) <= 1e-8)
        #expect(plan.initNoiseSigma == (80.0 * 80 + 1).squareRoot() && plan.grid.process == .varianceExploding)
    }

    /// Upstream's loop with 256 training timesteps, which doesn't step from the scaled sample.
    @Test func theLoopIsUpstreams() throws {
        var scheduler = try Self.euler { $0.numTrainTimesteps = 256 }
        try scheduler.setTimesteps(10)
        var x = UpstreamTests.sample.map { $0 * scheduler.initNoiseSigma }
        for timestep in scheduler.timesteps {
            let input = try scheduler.scaleModelInput(x, timestep: timestep)
            try scheduler.step(modelOutput: UpstreamTests.model(input, timestep), timestep: timestep, sample: &x)
        }
        #expect(abs(UpstreamTests.mean(x) - 0.0445124209) <= Tolerance.upstreamLoop, "\(UpstreamTests.mean(x))")
        #expect(abs(x[3 * 192 + 2 * 64 + 7 * 8 + 7] - -0.0890248418) <= Tolerance.upstreamLoop)
    }

    /// A run of one step takes the greatest of the Karras levels and the least of the exponential ones, as in diffusers.
    @Test func aRunOfOneStepBeginsAtAnEnd() throws {
        #expect(try Self.euler().plan(.count(1)).sigmas[0] == Double(Float(80)))
        let plan = try Self.euler { ($0.sigmaSchedule, $0.finalSigmasType) = (.exponential, .sigmaMin) }.plan(.count(1))
        #expect(abs(plan.sigmas[0] - 0.002) <= 1e-9)
        // A step to its own level changes nothing.
        #expect(abs(plan.row(at: 0, age: 0).nextSample.sample - 1) <= 1e-15 && plan.row(at: 0, age: 0).nextSample.modelOutput == 0)
    }

    @Test func givenPlacesAreTakenOnTheSpacing() throws {
        let scheduler = try Self.euler(), even = try scheduler.plan(.count(5))
        #expect(try scheduler.plan(.sigmas([0, 0.25, 0.5, 0.75, 1])) == even)
        #expect(try scheduler.plan(.sigmas([0.25, 0.75])).sigmas == [even.sigmas[1], even.sigmas[3], 0])
        expectInvalid("sigmas[1]", "0.1", allowed: "not less") { _ = try scheduler.plan(.sigmas([0.2, 0.1])) }
        expectInvalid("sigmas[0]", "-0.5", allowed: "from 0 to 1") { _ = try scheduler.plan(.sigmas([-0.5])) }
        expectInvalid("timesteps", "given", allowed: "left out") { _ = try scheduler.plan(.timesteps([1])) }
        expectInvalid("mu", "1.0", allowed: "left out") { _ = try scheduler.plan(.count(4, mu: 1)) }
    }

    /// A step that gets the prediction instead of the model output equals a step whose output predicts it.
    @Test func aStepMayBeGivenThePrediction() throws {
        let scheduler = try Self.euler()
        var options = EDMEulerConfiguration.Options()
        options.sChurn = 3
        let plain = try scheduler.plan(.count(6), options: options)
        options.takesPredOriginalSample = true
        let given = try scheduler.plan(.count(6), options: options)
        for index in 0..<6 {
            let row = plain.row(at: index, age: index), other = given.row(at: index, age: index)
            let folded = other.nextSample.replacing(.modelOutput, by: row.prediction)
            #expect(abs(folded.sample - row.nextSample.sample) <= 1e-14 && abs(folded.noise - row.nextSample.noise) <= 1e-12)
            #expect(abs(folded.modelOutput - row.nextSample.modelOutput) <= 1e-14 && other.prediction == Combination(.modelOutput))
        }
    }

    /// Noise added without a plan has the level that the model gets, in the table or between its levels.
    @Test func noiseIsAddedAtTheLevelThatTheModelIsTold() throws {
        let scheduler = try Self.euler(), noise = scheduler.noiseSchedule
        #expect(noise.count == 1000 && noise.sigmas[999] == 80)
        #expect(try scheduler.level(atTimestep: noise.timesteps[700]).sigma == noise.sigmas[700])
        #expect(abs(try scheduler.level(atTimestep: 0.5).sigma - exponential(2)) <= 1e-14)
    }

    // MARK: DPM-Solver

    static func solver(
        _ change: (inout EDMDPMSolverMultistepConfiguration) -> Void = { _ in }
    ) throws -> EDMDPMSolverMultistepScheduler {
        var configuration = EDMDPMSolverMultistepConfiguration()
        change(&configuration)
        return try EDMDPMSolverMultistepScheduler(configuration)
    }

    @Test func updatesAreTheReferences() throws {
        var scheduler = try Self.solver()
        try scheduler.setTimesteps(10)
        let update = try scheduler.update(order: 2, ofStep: 5).nextSample
        #expect(abs(update.sample - 0.31295585853756464) <= 1e-6)
        #expect(abs(update.modelOutput - 1.0876880981038097) <= 1e-6 && abs(update.slots[0] - -0.40064395664137425) <= 1e-6)
    }

    /// The stochastic integral has no third order, and a step to its own level changes nothing; diffusers raises an error for the
    /// first and gives NaN for the second.
    @Test func stepsWithoutAnswerInDiffusersHaveOneHere() throws {
        let third = try Self.solver { ($0.algorithmType, $0.solverOrder) = (.sdeDPMSolverPlusPlus, 3) }
        #expect(third.solverOrder == 2)
        #expect(try third.plan(.count(20)).row(at: 19, age: 19).drawCount == 1)
        for type in [DPMSolver.AlgorithmType.dpmsolverPlusPlus, .sdeDPMSolverPlusPlus] {
            var scheduler = try Self.solver {
                ($0.algorithmType, $0.solverType, $0.finalSigmasType, $0.sigmaSchedule) = (type, .heun, .sigmaMin, .exponential)
            }
            try scheduler.setTimesteps(20)
            let last = try #require(scheduler.plan).row(at: 19, age: 19).nextSample
            #expect(abs(last.sample - 1) <= 1e-5 && abs(last.noise) <= 1e-5)
        }
        let flat = try Self.solver { ($0.algorithmType, $0.sigmaMin) = (.sdeDPMSolverPlusPlus, 80) }.plan(.count(4))
        #expect(
            (0..<3).allSatisfy {
                flat.row(at: $0, age: $0).nextSample == Combination(.sample) && flat.row(at: $0, age: $0).drawCount == 1
            })
    }

    @Test func theSolverChoosesItsLevelsItself() throws {
        let scheduler = try Self.solver()
        expectInvalid("timesteps or sigmas", "given", allowed: "left out") { _ = try scheduler.plan(.sigmas([1, 0])) }
        expectInvalid("solver_order", "4", allowed: "1, 2 or 3") { _ = try Self.solver { $0.solverOrder = 4 } }
        expectInvalid("algorithm_type", "dpmsolver", allowed: "dpmsolver++, sde") {
            _ = try Self.solver { $0.algorithmType = .dpmsolver }
        }
    }

    // MARK: Cosine

    @Test func cosineLevelsAreTheReferences() throws {
        var scheduler = try CosineDPMSolverMultistepScheduler()
        let plan = try scheduler.plan(.count(10))
        let levels = [
            500.00006, 219.273819, 96.1620483, 42.1716347, 18.4942741, 8.11061955, 3.55689335, 1.55986726, 0.684076131, 0.299999982,
            0,
        ]
        #expect(zip(plan.sigmas, levels).allSatisfy { abs($0 - $1) <= 1e-6 * $1 })
        #expect(
            plan.timesteps.allSatisfy { (0..<1).contains($0) } && (0..<10).allSatisfy { plan.row(at: $0, age: $0).drawCount == 1 })
        #expect(!plan.needsNoise(at: 9, age: 9))
        #expect(abs(try scheduler.level(atTimestep: 0.5).sigma - 1) <= 1e-15)
        try scheduler.setTimesteps(10)
        #expect(try scheduler.level(atTimestep: plan.timesteps[3]).sigma == plan.sigmas[3])
        var configuration = CosineDPMSolverMultistepConfiguration()
        configuration.solverOrder = 3
        expectInvalid("solver_order", "3", allowed: "1 or 2") { _ = try CosineDPMSolverMultistepScheduler(configuration) }
    }

    // MARK: Faults

    @Test func whatLevelsRefuse() throws {
        expectInvalid("sigma_min", "0.0", allowed: "greater than 0") { _ = try Self.euler { $0.sigmaMin = 0 } }
        expectInvalid("sigma_min", "1e-60", allowed: "in float32") { _ = try Self.euler { $0.sigmaMin = 1e-60 } }
        expectInvalid("sigma_max", "0.001", allowed: "at least sigma_min") { _ = try Self.euler { $0.sigmaMax = 0.001 } }
        expectInvalid("sigma_max", "1e+39", allowed: "finite") { _ = try Self.euler { $0.sigmaMax = 1e39 } }
        expectInvalid("sigma_data", "-0.5", allowed: "from 0") { _ = try Self.euler { $0.sigmaData = -0.5 } }
        expectInvalid("rho", "0.0", allowed: "greater than 0") { _ = try Self.euler { $0.rho = 0 } }
        expectInvalid("rho", "0.001", allowed: "ends above 0") { _ = try Self.euler { $0.rho = 0.001 } }
        expectInvalid("num_train_timesteps", "0", allowed: "from 1") { _ = try Self.euler { $0.numTrainTimesteps = 0 } }
        expectInvalid("prediction_type", "sample", allowed: "epsilon, v_prediction") {
            _ = try Self.euler { $0.predictionType = .sample }
        }
    }
}
