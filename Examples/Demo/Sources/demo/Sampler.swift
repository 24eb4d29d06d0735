// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import ExactModel

/// Runs plans with the exact model.
struct Sampler {
    let mixture: DigitMixture
    let progress: ProgressBar

    struct Run {
        let samples: Matrix<Float>
        let evaluations: Int
        let schedulerSeconds, modelSeconds: Double
    }

    /// Takes samples from a plan's first noise level to its last, in the loop of every pipeline.
    ///
    /// - Parameters:
    ///   - plan: its construction counts as the scheduler's time.
    ///   - start: `[sample, pixel]`; noise of deviation 1, which is scaled to the plan's `initNoiseSigma`.
    ///   - seed: the seed of the noise that stochastic steps add.
    ///   - activity: the progress bar's text.
    func run(
        _ plan: @autoclosure () throws -> SamplingPlan, predicting type: PredictionType = .epsilon, from start: Matrix<Float>,
        seed: UInt64 = 0, activity: String
    ) throws -> Run {
        let clock = ContinuousClock()
        let began = clock.now
        var session = SamplingSession(plan: try plan())
        var schedulerTime = clock.now - began
        var modelTime = Duration.zero

        var noise = TorchCPUNoise(seed: seed)
        var x = start.scaled(by: Float(session.plan.initNoiseSigma))
        // A network would get the timestep. The exact model takes the noise level itself, which lies between timesteps.
        for level in session.plan.levels.dropLast() {
            var input = x
            schedulerTime += clock.measure { input = x.scaled(by: Float(session.inputScale)) }
            var modelOutput = input
            modelTime += clock.measure { modelOutput = mixture.predict(type, from: input, at: level.ofModelInput) }
            schedulerTime += try clock.measure {
                let needsNoise = session.plan.needsNoise(at: session.stepIndex, age: session.age)
                try session.step(
                    modelOutput: modelOutput.elements, sample: &x.elements,
                    noise: needsNoise ? noise.normals(x.elements.count) : nil, batchSize: x.rows)
            }
            progress.advance(by: x.rows, doing: activity)
        }
        return Run(
            samples: x, evaluations: session.plan.stepCount,
            schedulerSeconds: schedulerTime / .seconds(1), modelSeconds: modelTime / .seconds(1))
    }
}
