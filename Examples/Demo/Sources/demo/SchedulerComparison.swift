// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing

/// All schedulers side by side, from the same noise and with the same number of model evaluations.
///
/// Runs every class that samples with one model. Deterministic runs are compared with the converged solution between their own
/// ends: see `RunEnds`.
struct SchedulerComparison: Experiment {
    /// Odd numbers, as Heun needs, and one more than divisors of the 1,000 training timesteps: PNDM has one step less, and only
    /// then even steps. Numbers in the table are measured with all samples, the others with the compared ones.
    static let tableEvaluations = [5, 11, 21, 51]
    static let plotEvaluations = [5, 9, 11, 21, 41, 51, 101]
    static let sheetEvaluations = 11
    /// The steps of the converged solutions. Twice as many change them by less than 10⁻⁵, and flow matching's by 3 · 10⁻⁴.
    static let convergedSteps = 200

    /// The model's `scheduler_config.json`.
    let configuration: String
    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64
    /// The number of columns in the picture of samples.
    let columns: Int

    struct Findings {
        var entries: [Entry] = []
        /// The converged solutions, for the compared samples.
        var solutions: [RunEnds: Matrix<Float>] = [:]
        /// The Fréchet distance of a perfect sampler.
        let exactFrechetDistance: Double

        struct Entry {
            let scheduler: ComparedScheduler
            /// nil for stochastic runs.
            let ends: RunEnds?
            /// Measurements by rising number of evaluations.
            let measurements: [Measurement]
        }
    }

    func run() throws -> Report {
        report(try findings())
    }

    private func findings() throws -> Findings {
        let schedulers = try ComparedScheduler.all(contentsOf: configuration)
        let ends = try schedulers.map { scheduler in
            let plan = try scheduler.plan(evaluations: Self.tableEvaluations[0])
            return plan.isStochastic ? nil : RunEnds(of: plan)
        }
        let noise = NormalNoise.matrix(rows: Convergence.sampleCount, columns: digits.pixels.columns, seed: seed)
        let compared = noise.prefix(Convergence.comparedCount)
        var drawing = NormalNoise(seed: seed, stream: .max)
        let ideal = mixture.draw(noise.rows, using: &drawing)
        var findings = Findings(exactFrechetDistance: ideal.frechetDistance(to: digits.pixels))

        let plotOnlyEvaluations = Self.plotEvaluations.filter { !Self.tableEvaluations.contains($0) }
        let tableWork = schedulers.count * Self.tableEvaluations.reduce(0, +) * noise.rows
        let plotWork = ends.count { $0 != nil } * plotOnlyEvaluations.reduce(0, +) * compared.rows
        let progress = ProgressBar(
            total: tableWork + plotWork + Set(ends.compactMap { $0 }).count * Self.convergedSteps * compared.rows)
        defer { progress.finish() }
        let sampler = Sampler(mixture: mixture, progress: progress)

        for ends in Set(ends.compactMap { $0 }) {
            findings.solutions[ends] = try sampler.run(
                ends.plan(contentsOf: configuration, steps: Self.convergedSteps), predicting: ends.predictionType,
                from: compared.scaled(by: ends.scale), activity: "\(Self.convergedSteps) steps"
            ).samples
        }
        for (scheduler, ends) in zip(schedulers, ends) {
            let measurements = try (ends == nil ? Self.tableEvaluations : Self.plotEvaluations).map { evaluations in
                let isInTable = Self.tableEvaluations.contains(evaluations)
                let run = try sampler.run(
                    scheduler.plan(evaluations: evaluations), predicting: scheduler.predictionType,
                    from: isInTable ? noise : compared, seed: seed,
                    activity: "\(scheduler.shortName), \(evaluations) evaluations")
                return Measurement(
                    run, order: scheduler.order, steps: scheduler.steps(evaluations),
                    converged: ends.flatMap { findings.solutions[$0] }, goal: isInTable ? digits.pixels : nil)
            }
            findings.entries.append(.init(scheduler: scheduler, ends: ends, measurements: measurements))
        }
        return findings
    }
}
