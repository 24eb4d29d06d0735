import Digits

/// Runs a solver with several orders and numbers of steps from the same noise and measures what comes out.
struct Experiment {
    /// Chosen so that samples lie as far from the nearest image as the images lie from each other (both distances are
    /// printed): neither copies nor blends.
    static let bandwidth = 0.45
    /// For the Fréchet distance.
    static let sampleCount = 2000
    /// For the distance to the converged solution: the first of the samples.
    static let comparedCount = 512
    static let convergedSteps = 400

    let solver: Solver
    let digits: DigitImages
    let seed: UInt64
    let orders: [Int]
    /// Measured with all samples; the plot has others too, with the compared ones only.
    let tableSteps: [Int]
    let plotSteps: [Int]

    struct Measurement {
        let order: Int
        let steps: Int
        let run: Solver.Run
        /// Root mean square distance to the converged solution, over all compared samples. Few of them, those that end as
        /// another digit, have the greatest part in it.
        let error: Double
        /// The median of the compared samples' own root mean square distances.
        let medianError: Double
        /// To the data; nil where too few samples were drawn.
        let frechetDistance: Double?
    }

    /// How many evaluations order 1 needs for what a higher order reaches.
    struct Match {
        let measurement: Measurement
        /// nil where `convergedSteps` are not enough.
        let firstOrder: Measurement?
    }

    struct Findings {
        let schedulerName: String
        let measurements: [Measurement]
        let converged: Solver.Run
        let matches: [Match]
        /// The Fréchet distance of exact draws from the mixture: what a perfect sampler gets.
        let exactFrechetDistance: Double
        /// Medians over the converged samples and over the data.
        let nearestToSamples, nearestToData: Double
    }

    func run() throws -> Findings {
        let mixture = DigitMixture(images: digits.pixels, bandwidth: Self.bandwidth)
        let noise = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed)
        let compared = noise.prefix(Self.comparedCount)

        let plotOnlySteps = plotSteps.filter { !tableSteps.contains($0) }
        let work = orders.count * (tableSteps.reduce(0, +) * noise.rows + plotOnlySteps.reduce(0, +) * compared.rows)
        let progress = ProgressBar(total: work + Self.convergedSteps * compared.rows)
        defer { progress.finish() }

        func sample(_ noise: Matrix<Float>, order: Int, steps: Int) throws -> Solver.Run {
            try solver.run(from: noise, order: order, steps: steps, mixture: mixture) {
                progress.advance(by: noise.rows, doing: "order \(order), \(steps) steps")
            }
        }
        let converged = try sample(compared, order: solver.orders.max() ?? 1, steps: Self.convergedSteps)

        func measure(_ noise: Matrix<Float>, order: Int, steps: Int) throws -> Measurement {
            let run = try sample(noise, order: order, steps: steps)
            let errors = run.samples.prefix(compared.rows).rootMeanSquareDistances(to: converged.samples)
            return Measurement(
                order: order, steps: steps, run: run,
                error: (errors.reduce(0) { $0 + $1 * $1 } / Double(errors.count)).squareRoot(),
                medianError: median(errors),
                frechetDistance: noise.rows < Self.sampleCount ? nil : run.samples.frechetDistance(to: digits.pixels))
        }
        var measurements: [Measurement] = []
        for order in orders {
            for steps in tableSteps { measurements.append(try measure(noise, order: order, steps: steps)) }
            for steps in plotOnlySteps { measurements.append(try measure(compared, order: order, steps: steps)) }
        }

        let headlineSteps = tableSteps.contains(10) ? 10 : tableSteps[0]
        var matches: [Match] = []
        for better in measurements where orders.contains(1) && better.order > 1 && better.steps == headlineSteps {
            let firstOrder = try fewestSteps(from: headlineSteps, reaching: better.error) {
                try measure(compared, order: 1, steps: $0)
            }
            matches.append(Match(measurement: better, firstOrder: firstOrder))
        }

        var exactNoise = NormalNoise(seed: seed, stream: .max)
        let exactDraws = mixture.draw(Self.sampleCount, using: &exactNoise)
        return Findings(
            schedulerName: solver.name, measurements: measurements, converged: converged, matches: matches,
            exactFrechetDistance: exactDraws.frechetDistance(to: digits.pixels),
            nearestToSamples: median(converged.samples.nearestDistances(to: digits.pixels)),
            nearestToData: median(digits.pixels.nearestDistances(to: digits.pixels)))
    }

    /// Doubles the number of steps until the error is reached, then bisects between the last two.
    private func fewestSteps(
        from start: Int, reaching error: Double, measure: (Int) throws -> Measurement
    ) throws -> Measurement? {
        var (tooFew, steps) = (0, start)
        var best = try measure(steps)
        while best.error > error {
            if steps >= Self.convergedSteps { return nil }
            (tooFew, steps) = (steps, min(2 * steps, Self.convergedSteps))
            best = try measure(steps)
        }
        while best.steps - tooFew > 1 {
            let middle = try measure((tooFew + best.steps) / 2)
            if middle.error > error { tooFew = middle.steps } else { best = middle }
        }
        return best
    }
}

private func median(_ values: [Double]) -> Double {
    values.sorted()[values.count / 2]
}
