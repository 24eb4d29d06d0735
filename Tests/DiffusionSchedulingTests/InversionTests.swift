// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Image → noise → image, on data whose exact model is known: a Gaussian.
@Suite struct InversionTests {
    /// The exact model of data ~ N(mean, deviation²) in the prediction type of a scheduler, at the level (A, S).
    struct GaussianModel {
        var mean = 0.3, deviation = 0.6
        var predictionType = PredictionType.epsilon

        func callAsFunction(_ x: [Double], at level: NoiseLevel) -> [Double] {
            x.map { x in
                let a = level.signalRate, s = level.noiseRate
                let noise = s * (x - a * mean) / (a * a * deviation * deviation + s * s)
                let clean = (x - s * noise) / a
                switch predictionType {
                case .epsilon: return noise
                case .sample: return clean
                case .vPrediction: return a * noise - s * clean
                case .flowPrediction: return noise - clean
                }
            }
        }
    }

    static let picture: [Double] = [-1, -0.4, 0, 0.3, 0.7, 1]

    func run(_ plan: SamplingPlan, from start: [Double], model: GaussianModel) throws -> [Double] {
        var session = SamplingSession(plan: plan)
        var x = start
        while session.timestep != nil {
            try session.step(modelOutput: model(x, at: plan.levels[session.stepIndex]), sample: &x)
        }
        return x
    }

    func roundTripError(_ configuration: DPMSolverMultistepConfiguration, steps: Int) throws -> Double {
        let forward = try DPMSolverMultistepScheduler(configuration)
        let inverse = try DPMSolverMultistepInverseScheduler(from: configuration)
        let model = GaussianModel(predictionType: configuration.predictionType)
        let noise = try run(inverse.plan(.count(steps)), from: Self.picture, model: model)
        let picture = try run(forward.plan(.count(steps)), from: noise, model: model)
        return picture.rootMeanSquareError(from: Self.picture)
    }

    /// The error of a round trip falls with the number of steps n as n^−p.
    ///
    /// If the way back takes the same steps, the leading error of an even order cancels, since it changes its sign with the
    /// direction: order 2 returns with the error of order 3. With twice the steps it doesn't cancel. Order 3 is diffusers' and has
    /// half of Lagrange's weight for the second difference: it is of second order, and so returns as order 2 does.
    @Test(
        arguments: [DPMSolver.AlgorithmType.dpmsolverPlusPlus, .dpmsolver],
        [(order: 1, stepsBack: 1, p: 1.0), (1, 2, 1), (2, 1, 3), (2, 2, 2), (3, 1, 3), (3, 2, 2)])
    func errorFallsAtTheSolversOrder(_ algorithm: DPMSolver.AlgorithmType, _ run: (order: Int, stepsBack: Int, p: Double)) throws {
        // Inversion and denoising on one grid of even steps in ln ρ. The runs begin with lower orders, on steps so short that their
        // errors don't show.
        func grid(_ n: Int, from start: Double, to end: Double) -> TimestepGrid {
            let step = abs(end - start) / Double(n)
            let small = step * step / 4
            let sign = end > start ? 1.0 : -1.0
            let logarithms =
                [start, start + sign * small * small, start + sign * small] + (1...n).map { start + sign * Double($0) * step }
            return TimestepGrid(
                timesteps: logarithms.dropLast().indices.map { Double($0) }, exactSigmas: logarithms.map { exponential($0) },
                process: .variancePreserving)
        }
        var configuration = DPMSolverMultistepConfiguration()
        configuration.algorithmType = algorithm
        configuration.solverType = .heun
        configuration.solverOrder = run.order
        configuration.lowerOrderFinal = false
        configuration.finalSigmasType = .sigmaMin
        let scheduler = try DPMSolverMultistepScheduler(configuration)

        var points: [(x: Double, y: Double)] = []
        for n in [40, 60, 80, 120, 160] {
            let inverting = grid(n, from: -3, to: 3), denoising = grid(run.stepsBack * n, from: 3, to: -3)
            let noise = try self.run(scheduler.plan(on: inverting), from: Self.picture, model: GaussianModel())
            let picture = try self.run(scheduler.plan(on: denoising), from: noise, model: GaussianModel())
            points.append((logarithm(Double(n)), logarithm(picture.rootMeanSquareError(from: Self.picture))))
        }
        let slope = slope(of: points)
        #expect(abs(slope + run.p) <= 0.3, "slope \(slope) for order \(run.order)")
    }

    private func slope(of points: [(x: Double, y: Double)]) -> Double {
        let n = Double(points.count)
        let meanX = points.map(\.x).reduce(0, +) / n, meanY = points.map(\.y).reduce(0, +) / n
        let covariance = points.map { ($0.x - meanX) * ($0.y - meanY) }.reduce(0, +)
        return covariance / points.map { ($0.x - meanX) * ($0.x - meanX) }.reduce(0, +)
    }

    @Test func plainGridsReturnThePicture() throws {
        var configuration = DPMSolverMultistepConfiguration()
        configuration.finalSigmasType = .sigmaMin
        let coarse = try roundTripError(configuration, steps: 25), fine = try roundTripError(configuration, steps: 100)
        #expect(fine < coarse / 3)
        #expect(fine < 0.01)
    }

    @Test func flowSigmasAreInverted() throws {
        var configuration = DPMSolverMultistepConfiguration()
        configuration.useFlowSigmas = true
        configuration.flowShift = 3
        configuration.predictionType = .flowPrediction
        let plan = try DPMSolverMultistepInverseScheduler(from: configuration).plan(.count(20))
        #expect(zip(plan.sigmas, plan.sigmas.dropFirst()).allSatisfy { $0 < $1 }, "flow levels ascend: \(plan.sigmas)")
        #expect(zip(plan.timesteps, plan.timesteps.dropFirst()).allSatisfy { $0 <= $1 })
        let coarse = try roundTripError(configuration, steps: 25), fine = try roundTripError(configuration, steps: 100)
        #expect(fine < coarse / 3, "\(coarse), \(fine)")
        #expect(fine < 0.02, "\(fine)")
    }

    @Test(arguments: [20, 50, 100, 1000])
    func karrasGridsKeepTheirLength(_ n: Int) throws {
        var configuration = DPMSolverMultistepInverseConfiguration()
        configuration.useKarrasSigmas = true
        configuration.betaSchedule = .scaledLinear
        let plan = try DPMSolverMultistepInverseScheduler(configuration).plan(.count(n))
        #expect(plan.timesteps.count == n)
        #expect(plan.sigmas.count == n + 1)
        #expect(plan.timesteps.last == 999)
    }

    @Test func stochasticConfigurationsAreInvertedWithoutNoise() throws {
        for (stochastic, twin) in [
            (DPMSolver.AlgorithmType.sdeDPMSolverPlusPlus, DPMSolver.AlgorithmType.dpmsolverPlusPlus),
            (.sdeDPMSolver, .dpmsolver),
        ] {
            var configuration = DPMSolverMultistepInverseConfiguration()
            configuration.algorithmType = stochastic
            let plan = try DPMSolverMultistepInverseScheduler(configuration).plan(.count(20))
            configuration.algorithmType = twin
            #expect(plan == (try DPMSolverMultistepInverseScheduler(configuration).plan(.count(20))))
        }
    }

    @Test func oneFileTravelsThroughAllSchedulersAndReturns() throws {
        let text = """
            {
              "_class_name": "DEISMultistepScheduler",
              "_diffusers_version": "0.42.1",
              "algorithm_type": "deis",
              "beta_end": 0.012,
              "beta_schedule": "scaled_linear",
              "beta_start": 0.00085,
              "dynamic_thresholding_ratio": 0.995,
              "flow_shift": 1.0,
              "lower_order_final": true,
              "num_train_timesteps": 1000,
              "prediction_type": "epsilon",
              "sample_max_value": 1.0,
              "skip_prk_steps": true,
              "solver_order": 3,
              "solver_type": "logrho",
              "steps_offset": 1,
              "thresholding": false,
              "time_shift_type": "exponential",
              "timestep_spacing": "leading",
              "trained_betas": null,
              "use_beta_sigmas": false,
              "use_dynamic_shifting": false,
              "use_exponential_sigmas": false,
              "use_flow_sigmas": false,
              "use_karras_sigmas": true
            }

            """
        let first = try DEISMultistepScheduler(.init(json: text))
        let forward = try DPMSolverMultistepScheduler(from: first.configuration)
        let inverse = try DPMSolverMultistepInverseScheduler(from: forward.configuration)
        // Each conversion goes through text, as files do.
        let saved = try DPMSolverMultistepInverseConfiguration(json: inverse.configuration.jsonText)
        let last = try DEISMultistepScheduler(from: saved)
        for (key, value) in try JSONReader.read(Array(text.utf8)).members() {
            #expect(last.configuration.json[key] == value, "\(key)")
        }
        let model = GaussianModel()
        let a = try run(first.plan(.count(20)), from: Self.picture, model: model)
        let b = try run(last.plan(.count(20)), from: Self.picture, model: model)
        #expect(a == b)
    }

    @Test func ddimReturnsThePicture() throws {
        var configuration = DDIMConfiguration()
        configuration.clipSample = false
        configuration.setAlphaToOne = false
        var errors: [Double] = []
        for steps in [50, 200] {
            var forward = try DDIMScheduler(configuration)
            var inverse = try DDIMInverseScheduler(from: configuration)
            try forward.setTimesteps(steps)
            try inverse.setTimesteps(steps)
            let model = GaussianModel()
            let stride = Double(1000 / steps)
            var x = Self.picture
            for timestep in inverse.timesteps {
                // A step uses the model's output at the level where it starts.
                let e = model(x, at: try forward.trainingLevel(atTimestep: max(timestep - stride, 0)))
                x = try inverse.step(modelOutput: e, timestep: timestep, sample: x).nextSample
            }
            for timestep in forward.timesteps {
                let e = model(x, at: try forward.trainingLevel(atTimestep: timestep))
                x = try forward.step(modelOutput: e, timestep: timestep, sample: x).nextSample
            }
            errors.append(x.rootMeanSquareError(from: Self.picture))
        }
        #expect(errors[1] < errors[0] / 3, "\(errors)")
    }

    @Test func deisOfOrderOneIsDDIM() throws {
        // DDIM's and DEIS's steps are equal on equal levels: DDIM's ᾱ and DEIS's ς, which is rounded to float32.
        let ddim = try DDIMScheduler(
            {
                var configuration = DDIMConfiguration()
                configuration.clipSample = false
                return configuration
            }())
        var configuration = DEISMultistepConfiguration()
        configuration.solverOrder = 1
        let deis = try DEISMultistepScheduler(configuration)
        let pairs: [(Double, Double)] = [(999, 899), (500, 480), (101, 1), (20, 0)]
        for (from, to) in pairs {
            let step = try ddim.row(from: from, to: to).nextSample
            let grid = TimestepGrid(
                timesteps: [from], sigmas: [from, to].map(deis.noiseSchedule.sigma(atTimestep:)), process: .variancePreserving)
            let row = try deis.plan(on: grid).row(at: 0, age: 0).nextSample
            #expect(abs(step.sample - row.sample) <= 4 * Tolerance.sigma * abs(row.sample), "from \(from) to \(to)")
            #expect(abs(step.modelOutput - row.modelOutput) <= 4 * Tolerance.sigma * abs(row.sample), "from \(from) to \(to)")
        }
    }
}
