// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing

/// The fewest model evaluations that a scheduler needs: runs with several orders and numbers of steps, from the same noise.
struct Convergence: Experiment {
    /// The number of samples behind each Fréchet distance.
    static let sampleCount = 2000
    /// The number of samples, counted from the first, that are compared with the converged solution.
    static let comparedCount = 512
    /// A divisor of the usual 1,000 training timesteps, so every spacing reaches the noisiest.
    static let mostSteps = 500
    static let ddimSteps = [10, 20, 50]

    let solver: Solver
    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64
    let orders: [Int]
    /// Steps measured with all samples; the plot adds others, with the compared samples only.
    let tableSteps: [Int]
    let plotSteps: [Int]
    /// The columns of the picture of samples: their numbers of steps and of samples.
    let sheetSteps: [Int]
    let columns: Int

    /// The evaluations that order 1 needs to match a higher order.
    struct Match {
        let measurement: Measurement
        let error: ErrorSummary
        /// nil if `mostSteps` steps aren't enough.
        let firstOrder: Measurement?
    }

    struct Findings {
        /// The start of the runs: noise, or pictures for inverse runs.
        let start: Matrix<Float>
        let measurements: [Measurement]
        let converged: Sampler.Run
        let matches: [Match]
        /// DDIM from the same noise; empty if it doesn't fit the solver's model.
        let ddim: [Measurement]
        /// DDIM from noise between the first and the last column's.
        let interpolation: Sampler.Run?
        /// The Fréchet distance of a perfect sampler.
        let exactFrechetDistance: Double
        /// Medians over the converged samples and over the data.
        let nearestToSamples, nearestToData: Double
    }

    func run() throws -> Report {
        report(try findings())
    }

    private func findings() throws -> Findings {
        let noise = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed)
        var drawing = NormalNoise(seed: seed, stream: .max)
        let start: Matrix<Float>, goal: Matrix<Float>, ideal: Matrix<Float>
        if solver.isInverse {
            let level = solver.firstLevel
            start = mixture.draw(
                Self.sampleCount, signalRate: level.signalRate, noiseRate: level.noiseRate, using: &drawing)
            goal = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed &+ 1)
            ideal = noise
        } else {
            start = noise
            goal = digits.pixels
            ideal = mixture.draw(Self.sampleCount, using: &drawing)
        }
        let compared = start.prefix(Self.comparedCount)

        let mostSteps = min(Self.mostSteps, solver.trainingCount)
        let plotOnlySteps = solver.isStochastic ? [] : plotSteps.filter { !tableSteps.contains($0) }
        let work = orders.count * (tableSteps.reduce(0, +) * start.rows + plotOnlySteps.reduce(0, +) * compared.rows)
        let progress = ProgressBar(total: work + mostSteps * compared.rows)
        defer { progress.finish() }
        let sampler = Sampler(mixture: mixture, progress: progress)

        func run(
            _ plan: @autoclosure () throws -> SamplingPlan, from start: Matrix<Float>, _ activity: String
        ) throws -> Sampler.Run {
            try sampler.run(plan(), predicting: solver.predictionType, from: start, seed: seed, activity: activity)
        }
        let converged = try run(
            solver.plan(order: solver.orders.max() ?? 1, steps: mostSteps), from: compared, "\(mostSteps) steps")

        func measure(_ run: Sampler.Run, order: Int, steps: Int) -> Measurement {
            Measurement(
                run, order: order, steps: steps, converged: solver.isStochastic ? nil : converged.samples,
                goal: run.samples.rows < Self.sampleCount ? nil : goal)
        }
        func measure(_ start: Matrix<Float>, order: Int, steps: Int) throws -> Measurement {
            let run = try run(solver.plan(order: order, steps: steps), from: start, "order \(order), \(steps) steps")
            return measure(run, order: order, steps: steps)
        }
        var measurements: [Measurement] = []
        for order in orders {
            for steps in tableSteps { measurements.append(try measure(start, order: order, steps: steps)) }
            for steps in plotOnlySteps { measurements.append(try measure(compared, order: order, steps: steps)) }
        }

        let headlineSteps = tableSteps.contains(10) ? 10 : tableSteps[0]
        var matches: [Match] = []
        for better in measurements where orders.contains(1) && better.order > 1 && better.steps == headlineSteps {
            guard let error = better.error else { continue }
            let firstOrder = try fewestSteps(from: headlineSteps, to: mostSteps, reaching: error.rootMeanSquare) {
                try measure(compared, order: 1, steps: $0)
            }
            matches.append(Match(measurement: better, error: error, firstOrder: firstOrder))
        }

        var ddim: [Measurement] = []
        var interpolation: Sampler.Run?
        if let scheduler = solver.ddim {
            for steps in Self.ddimSteps {
                let run = try run(scheduler.plan(.count(steps)), from: compared, "DDIM, \(steps) steps")
                ddim.append(measure(run, order: 1, steps: steps))
            }
            if columns > 1 {
                let between = Matrix.sphericalInterpolation(from: noise.row(0), to: noise.row(columns - 1), count: columns)
                let steps = Self.ddimSteps.max() ?? 1
                interpolation = try run(scheduler.plan(.count(steps)), from: between, "DDIM between two noises")
            }
        }

        return Findings(
            start: compared, measurements: measurements, converged: converged, matches: matches, ddim: ddim,
            interpolation: interpolation,
            exactFrechetDistance: ideal.frechetDistance(to: goal),
            nearestToSamples: converged.samples.nearestDistances(to: digits.pixels).median,
            nearestToData: digits.pixels.nearestDistances(to: digits.pixels).median)
    }

    /// Doubles the number of steps until the error is reached, then bisects between the last two numbers.
    private func fewestSteps(
        from start: Int, to limit: Int, reaching error: Double, measure: (Int) throws -> Measurement
    ) throws -> Measurement? {
        func isReached(by measurement: Measurement) -> Bool { (measurement.error?.rootMeanSquare ?? .infinity) <= error }
        var (tooFew, steps) = (0, start)
        var best = try measure(steps)
        while !isReached(by: best) {
            if steps >= limit { return nil }
            (tooFew, steps) = (steps, min(2 * steps, limit))
            best = try measure(steps)
        }
        while best.steps - tooFew > 1 {
            let middle = try measure((tooFew + best.steps) / 2)
            if isReached(by: middle) { best = middle } else { tooFew = middle.steps }
        }
        return best
    }
}
