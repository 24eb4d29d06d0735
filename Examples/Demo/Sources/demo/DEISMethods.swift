// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import Foundation

/// The methods of DEIS's paper on its time grids: with few model evaluations, the interpolation variable and the grid matter most.
///
/// Zhang and Chen 2022, arXiv:2204.13902, tables 2 and 3, with an exact model in place of networks.
struct DEISMethods: Experiment {
    static let evaluations = [5, 6, 8, 10, 12, 24, 48]
    static let convergedSteps = 500

    /// The model's `scheduler_config.json`.
    let configuration: String
    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64

    /// A method, with its order on smooth problems.
    struct Method {
        let name: String
        let series: Int
        let order: Int
        /// nil: polynomials in ln ρ.
        let method: DEISMethod?

        var evaluationsPerStep: Int { method == .rhoRK ? order : 1 }

        /// The method of the converged solutions.
        static let converging = Method(name: "ln ρ 2", series: 3, order: 3, method: nil)

        static let all: [Method] =
            [Method(name: "DDIM", series: 0, order: 1, method: nil)]
            + (2...4).map { Method(name: "tAB\($0 - 1)", series: 1, order: $0, method: .tAB) }
            + (2...4).map { Method(name: "ρAB\($0 - 1)", series: 2, order: $0, method: .rhoAB) }
            + (2...4).map { Method(name: "ln ρ \($0 - 1)", series: 3, order: $0, method: nil) }
            + (2...4).map { Method(name: "ρRK\($0)", series: 4, order: $0, method: .rhoRK) }
    }

    /// Noise levels from the training's greatest to its least.
    enum Grid: String, CaseIterable {
        case uniform = "even t"
        case quadratic = "quadratic t"
        case power = "Karras (ρ^1/7)"
        case geometric = "geometric ρ"

        /// n + 1 levels.
        func levels(_ n: Int, _ noise: NoiseSchedule) -> [Double] {
            let last = Double(noise.count - 1), most = noise.sigmas[noise.count - 1], least = noise.sigmas[0]
            return (0...n).map { index in
                let rest = 1 - Double(index) / Double(n)
                return switch self {
                case .uniform: noise.sigma(atTimestep: last * rest)
                case .quadratic: noise.sigma(atTimestep: last * rest * rest)
                case .power: pow(pow(least, 1 / 7) + rest * (pow(most, 1 / 7) - pow(least, 1 / 7)), 7)
                case .geometric: least * pow(most / least, rest)
                }
            }
        }
    }

    struct Result {
        let grid: Grid
        let method: Method
        let evaluations: Int
        let error: ErrorSummary
        let frechetDistance: Double
        /// The error for a mixture of two normal distributions on the line.
        let lineError: Double
    }

    func run() throws -> Report {
        let noise = NormalNoise.matrix(rows: Convergence.comparedCount, columns: digits.pixels.columns, seed: seed)
        var drawing = NormalNoise(seed: seed, stream: .max)
        let ideal = mixture.draw(noise.rows, using: &drawing)
        let evaluationsInAll = Grid.allCases.count * Method.all.count * Self.evaluations.reduce(0, +)
        let progress = ProgressBar(total: (evaluationsInAll + Self.convergedSteps) * noise.rows)
        defer { progress.finish() }
        let sampler = Sampler(mixture: mixture, progress: progress)

        let converged = try sampler.run(
            plan(.converging, .geometric, evaluations: Self.convergedSteps), from: noise, activity: "\(Self.convergedSteps) steps")
        let line = LineMixture()
        let lineSolution = try line.run(plan(.converging, .geometric, evaluations: 4000))
        var results: [Result] = []
        for grid in Grid.allCases {
            for method in Method.all {
                // A method with several evaluations per step takes as many steps as the evaluations allow.
                for evaluations in Self.evaluations where evaluations % method.evaluationsPerStep == 0 {
                    let plan = try plan(method, grid, evaluations: evaluations)
                    let run = try sampler.run(plan, from: noise, activity: "\(method.name), \(grid.rawValue)")
                    let distances = run.samples.rootMeanSquareDistances(to: converged.samples)
                    results.append(
                        Result(
                            grid: grid, method: method, evaluations: evaluations, error: ErrorSummary(distances),
                            frechetDistance: run.samples.frechetDistance(to: digits.pixels),
                            lineError: try line.error(of: plan, from: lineSolution)))
                }
            }
        }
        return report(results, exactFrechetDistance: ideal.frechetDistance(to: digits.pixels))
    }

    private func plan(_ method: Method, _ grid: Grid, evaluations: Int) throws -> SamplingPlan {
        var settings = try DEISMultistepConfiguration(contentsOf: configuration)
        (settings.useKarrasSigmas, settings.useExponentialSigmas) = (false, false)
        (settings.method, settings.solverOrder, settings.lowerOrderFinal) = (method.method, method.order, false)
        // The last step leads to the training's least level.
        settings.finalSigmasType = .sigmaMin
        let scheduler = try DEISMultistepScheduler(settings)
        let levels = grid.levels(evaluations / method.evaluationsPerStep, scheduler.noiseSchedule)
        return try scheduler.plan(.sigmas(levels.dropLast()))
    }

    // MARK: Text and pictures

    private func report(_ results: [Result], exactFrechetDistance: Double) -> Report {
        func table(_ title: String, _ format: String, _ value: (Result) -> Double) -> [String] {
            let width = (Grid.allCases.map(\.rawValue.count).max() ?? 0) + 2
            var lines = ["", title]
            lines.append("grid".padded(to: width) + "method  " + Self.evaluations.map { String(format: "%8d", $0) }.joined())
            for grid in Grid.allCases {
                for method in Method.all {
                    let row = results.filter { $0.grid == grid && $0.method.name == method.name }
                    lines.append(
                        grid.rawValue.padded(to: width) + method.name.padded(to: 8)
                            + Self.evaluations.map { evaluations in
                                row.first { $0.evaluations == evaluations }.map { String(format: format, value($0)) }
                                    ?? String(repeating: " ", count: 8)
                            }.joined())
                }
            }
            return lines
        }
        let count = Convergence.comparedCount
        let lines =
            ["DEIS with the methods and grids of its paper, seed \(seed); columns are model evaluations"]
            + table("Digits: RMSE of \(count) samples to the converged solution", "%8.4f") { $0.error.rootMeanSquare }
            + table("Digits: Fréchet distance of \(count) samples to the data", "%8.3f", \.frechetDistance)
            + ["", String(format: "A perfect sampler's Fréchet distance with \(count) samples: %.3f.", exactFrechetDistance)]
            + table("Two normal distributions on a line: RMSE to the exact flow", "%8.4f", \.lineError)
        return Report(
            text: lines.joined(separator: "\n"),
            pictures: [
                .init(name: "deis_quadratic.png", canvas: plot(results, .quadratic).draw()),
                .init(name: "deis_geometric.png", canvas: plot(results, .geometric).draw()),
            ])
    }

    private func plot(_ results: [Result], _ grid: Grid) -> LinePlot {
        LinePlot(
            title: "DEIS with the methods of its paper, levels: \(grid.rawValue)", xLabel: "model evaluations",
            yLabel: "difference to the converged solution: RMSE",
            lines: Method.all.map { method in
                LinePlot.Line(
                    series: method.series, isDashed: method.order == 2, label: method.name,
                    points: results.filter { $0.grid == grid && $0.method.name == method.name }
                        .map { (Double($0.evaluations), $0.error.rootMeanSquare) })
            },
            arrows: [])
    }
}

/// A mixture of two normal distributions of numbers, whose score is known.
private struct LineMixture {
    let means = [-1.0, 0.6], deviations = [0.15, 0.3], weights = [0.4, 0.6]
    /// The first samples: quantiles of a logistic distribution, which is close to the normal one.
    let start = (0..<256).map { log((Double($0) + 0.5) / (255.5 - Double($0))) / 1.702 }

    /// An exact model's predicted noise at x.
    func noise(_ x: Double, at level: NoiseLevel) -> Double {
        let variances = deviations.map { $0 * $0 * level.signalRate * level.signalRate + level.noiseRate * level.noiseRate }
        let logs = weights.indices.map { k -> Double in
            let distance = x - level.signalRate * means[k]
            return log(weights[k] / variances[k].squareRoot()) - distance * distance / (2 * variances[k])
        }
        let greatest = logs.max() ?? 0, shares = logs.map { exp($0 - greatest) }, total = shares.reduce(0, +)
        let score = weights.indices.reduce(0.0) { $0 - shares[$1] / total * (x - level.signalRate * means[$1]) / variances[$1] }
        return -level.noiseRate * score
    }

    func run(_ plan: SamplingPlan) throws -> [Double] {
        var session = SamplingSession(plan: plan), x = start.map { $0 * plan.initNoiseSigma }
        for level in plan.levels.dropLast() {
            try session.step(modelOutput: x.map { noise($0, at: level) }, sample: &x)
        }
        return x
    }

    func error(of plan: SamplingPlan, from solution: [Double]) throws -> Double {
        let squares = try zip(run(plan), solution).map { ($0 - $1) * ($0 - $1) }
        return (squares.reduce(0, +) / Double(squares.count)).squareRoot()
    }
}
