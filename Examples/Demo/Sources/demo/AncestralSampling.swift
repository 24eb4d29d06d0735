// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Digits
import Drawing
import Foundation

/// The cost in evaluations of ancestral sampling's noise. DDIM without noise (η = 0) runs against DDIM with the noise of the
/// model's training Markov chain (η = 1: Ho et al. 2020, arXiv:2006.11239).
///
/// Song, Meng and Ermon 2020, arXiv:2010.02502, table 1: there for pictures of CIFAR-10 and CelebA.
struct AncestralSampling: Experiment {
    /// Fewer samples than elsewhere, because of the run with 1,000 steps.
    static let sampleCount = 1000
    /// The number of exact draws that measure the distance's random variation.
    static let perfectRuns = 20
    /// Each number divides the 1,000 training timesteps.
    static let deterministicSteps = [10, 20, 50]
    static let ancestralSteps = [10, 20, 50, 100, 1000]

    let digits: DigitImages
    let mixture: DigitMixture
    let seed: UInt64

    /// Fréchet distances to the data, by number of evaluations.
    private typealias Distances = [(evaluations: Int, distance: Double)]

    func run() throws -> Report {
        let noise = NormalNoise.matrix(rows: Self.sampleCount, columns: digits.pixels.columns, seed: seed)
        let progress = ProgressBar(total: (Self.deterministicSteps + Self.ancestralSteps).reduce(0, +) * noise.rows)
        defer { progress.finish() }
        let sampler = Sampler(mixture: mixture, progress: progress)

        // The default betas are Ho et al.'s. The spacing `trailing` begins at the noisiest timestep.
        var configuration = DDIMConfiguration()
        configuration.clipSample = false
        configuration.timestepSpacing = .trailing
        let scheduler = try DDIMScheduler(configuration)

        func distances(eta: Double, steps: [Int]) throws -> Distances {
            try steps.map { steps in
                let run = try sampler.run(
                    scheduler.plan(.count(steps), eta: eta), from: noise, seed: seed, activity: "η = \(eta), \(steps) steps")
                return (run.evaluations, run.samples.frechetDistance(to: digits.pixels))
            }
        }
        let deterministic = try distances(eta: 0, steps: Self.deterministicSteps)
        let ancestral = try distances(eta: 1, steps: Self.ancestralSteps)

        var drawing = NormalNoise(seed: seed, stream: .max)
        let perfect = (0..<Self.perfectRuns).map { _ in
            mixture.draw(Self.sampleCount, using: &drawing).frechetDistance(to: digits.pixels)
        }
        return Report(text: text(deterministic, ancestral, perfect: perfect))
    }

    private func text(_ deterministic: Distances, _ ancestral: Distances, perfect: [Double]) -> String {
        var lines = [
            "DDIM against ancestral sampling: Fréchet distance of \(Self.sampleCount) samples to the data",
            "",
            "evaluations  DDIM (η = 0)  ancestral (η = 1)",
        ]
        for (evaluations, distance) in ancestral {
            let other = deterministic.first { $0.evaluations == evaluations }.map { String(format: "%.3f", $0.distance) } ?? ""
            let padding = String(repeating: " ", count: 12 - other.count)
            lines.append(String(format: "%11d  ", evaluations) + padding + other + String(format: "  %17.3f", distance))
        }
        let mean = perfect.reduce(0, +) / Double(perfect.count)
        let deviation = (perfect.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(perfect.count - 1)).squareRoot()
        lines += ["", String(format: "A perfect sampler's: %.3f ± %.3f.", mean, deviation)]

        // Distances below this differ only by chance.
        let goodEnough = mean + 2 * deviation
        for (evaluations, distance) in deterministic where distance > goodEnough {
            guard let needed = Self.evaluations(reaching: distance, in: ancestral) else { continue }
            lines.append(
                "What DDIM reaches with \(evaluations) evaluations takes ancestral sampling about \(Int(needed.rounded())) "
                    + "(interpolated).")
        }
        if let ours = deterministic.first(where: { $0.distance <= goodEnough }),
            let theirs = ancestral.first(where: { $0.distance <= goodEnough }), let longest = ancestral.last
        {
            lines += [
                "The first within two deviations of a perfect sampler: DDIM with \(ours.evaluations) evaluations, ancestral "
                    + "sampling with \(theirs.evaluations).",
                "The whole Markov chain has \(longest.evaluations), \(longest.evaluations / ours.evaluations) times as many as "
                    + "DDIM needs; Song et al. report 10 to 50 times.",
            ]
        }
        return lines.joined(separator: "\n")
    }

    /// Interpolates between the rows of the table, linearly in logarithms.
    private static func evaluations(reaching distance: Double, in rows: Distances) -> Double? {
        for (worse, better) in zip(rows, rows.dropFirst()) where worse.distance >= distance && distance >= better.distance {
            let share = log(worse.distance / distance) / log(worse.distance / better.distance)
            return Double(worse.evaluations) * pow(Double(better.evaluations) / Double(worse.evaluations), share)
        }
        return nil
    }
}
