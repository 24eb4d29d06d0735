// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Digits
import Drawing
import ExactModel
import Foundation

/// The samples' distribution beside the exact denoiser's and the data's, and the time by batch size.
struct Measure: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures the samples' Fréchet distance to the data, and where the time goes.")

    @OptionGroup var options: Options

    @Option(help: "The number of steps.")
    var steps = 20

    func run() throws { try Self.run(Setup(options), steps: steps) }

    static func run(_ setup: Setup, steps: Int) throws {
        try printDistances(setup, steps: steps)
        try printTimes(setup, steps: steps)
    }

    // MARK: Distances

    /// The demo's, whose samples lie as far from the nearest image as the images lie from each other.
    private static let bandwidth = 0.45

    private static func printDistances(_ setup: Setup, steps: Int) throws {
        let digits = try setup.digits(), labels = digits.labels
        guard setup.folder.classCount == 10 else {
            throw EngineError("the model must have 10 classes, the digits, for this subcommand")
        }
        let plan = try setup.scheduler.plan(.count(steps))
        let progress = ProgressBar(total: 2 * labels.count * plan.stepCount)
        defer { progress.finish() }
        print("One sample for each of the \(labels.count) images, of the image's class; \(steps) steps of \(setup.scheduler.name).")
        print("Fréchet: to the images, on pixels. Nearest: mean distance, RMSE, to the nearest image that isn't the same.")
        print("Recognised: the nearest image shows the class.\n")
        print("".padded(to: 38) + "Fréchet  nearest  recognised")
        func printRow(_ name: String, _ samples: Matrix<Float>) {
            let distances = samples.nearestDistances(to: digits.pixels)
            let recognised = (0..<samples.rows).count { digits.nearestLabel(to: Array(samples.row($0))) == labels[$0] }
            progress.finish()
            print(
                name.padded(to: 38)
                    + String(
                        format: "%7.3f  %7.3f  %8.1f %%", samples.frechetDistance(to: digits.pixels),
                        distances.reduce(0, +) / Double(distances.count), 100 * Double(recognised) / Double(samples.rows)))
        }

        for guidance in [nil, Guidance(scale: 2)] {
            var noise = TorchCPUNoise(seed: setup.seed)
            let scale = Float(plan.initNoiseSigma)
            let starts = noise.normals(labels.count * setup.folder.elementCount).map { $0 * scale }
            let samples = try setup.pipeline.run(
                plan, from: starts, labels: labels, guidance: guidance, noise: &noise, progress: progress, activity: "sampling")
            printRow("the network, \(guidance?.name ?? "no guidance")", setup.matrix(samples))
        }
        let mixture = DigitMixture(images: digits.pixels, bandwidth: bandwidth)
        printRow("the exact denoiser, same noise", try exactSamples(plan, mixture, digits, seed: setup.seed))

        let order = shuffled(labels.indices, seed: setup.seed)
        func half(_ indices: ArraySlice<Int>) -> Matrix<Float> {
            Matrix(rows: indices.count, columns: digits.pixels.columns, elements: indices.flatMap { digits.pixels.row($0) })
        }
        let halves = (half(order.prefix(order.count / 2)), half(order.dropFirst(order.count / 2)))
        let distances = digits.pixels.nearestDistances(to: digits.pixels)
        print(
            "one half of the images to the other".padded(to: 38)
                + String(
                    format: "%7.3f  %7.3f\n", halves.0.frechetDistance(to: halves.1),
                    distances.reduce(0, +) / Double(distances.count)))
    }

    /// Samples of the closed-form denoiser of each image's class.
    private static func exactSamples(_ plan: SamplingPlan, _ mixture: DigitMixture, _ digits: DigitImages, seed: UInt64) throws
        -> Matrix<Float>
    {
        var noise = TorchCPUNoise(seed: seed)
        let columns = digits.pixels.columns
        let scale = Float(plan.initNoiseSigma)
        var samples = Matrix<Float>(
            rows: digits.labels.count, columns: columns, elements: noise.normals(digits.pixels.elements.count).map { $0 * scale })
        for digit in 0...9 {
            let model = mixture.restricted(to: digit, of: digits),
                rows = digits.labels.indices.filter { digits.labels[$0] == digit }
            var session = SamplingSession(plan: plan)
            var x = Matrix<Float>(rows: rows.count, columns: columns, elements: rows.flatMap { samples.row($0) })
            for level in plan.levels.dropLast() {
                let input = x.scaled(by: Float(session.inputScale))
                let stepNoise = session.needsNoise ? noise.normals(x.elements.count) : nil
                try session.step(
                    modelOutput: model.predict(.epsilon, from: input, at: level.ofModelInput).elements, sample: &x.elements,
                    noise: stepNoise, batchSize: x.rows)
            }
            for (index, row) in rows.enumerated() {
                samples.elements.replaceSubrange(row * columns..<(row + 1) * columns, with: x.row(index))
            }
        }
        return samples
    }

    /// The indices in a random order.
    private static func shuffled(_ indices: Range<Int>, seed: UInt64) -> [Int] {
        var noise = TorchCPUNoise(seed: seed)
        let keys = noise.normals(indices.count)
        return indices.sorted { keys[$0] < keys[$1] }
    }

    // MARK: Times

    private static func printTimes(_ setup: Setup, steps: Int) throws {
        let guidance = Guidance(scale: 2)
        print("Time for \(steps) steps with guidance, which has two rows of the network for each sample; medians of some runs.")
        print("A run makes its plan once. The steps contain the scaling of the network's inputs, and the guidance.\n")
        print("batch  network ms  plan ms  steps ms    network     plan    steps     rest")
        for count in [1, 2, 4, 8, 16, 32, 64] {
            let labels = (0..<count).map { $0 % setup.folder.classCount }
            var runs: [Pipeline.Times] = []
            let clock = ContinuousClock(), began = clock.now
            while runs.count < 3 || (runs.count < 100 && clock.now - began < .milliseconds(500)) {
                var noise = TorchCPUNoise(seed: setup.seed)
                let starts = noise.normals(count * setup.folder.elementCount)
                _ = try setup.pipeline.run(
                    setup.scheduler.plan(.count(steps)), from: starts, labels: labels, guidance: guidance, noise: &noise)
                runs.append(setup.pipeline.times)
            }
            // The first run also warms up.
            runs = runs.dropFirst().sorted { $0.total < $1.total }
            let run = runs[runs.count / 2], rest = run.total - run.network - run.scheduler
            let times = [run.network, run.plan, run.steps].map { $0 / .milliseconds(1) }
            let shares = [run.network, run.plan, run.steps, rest].map { 100 * ($0 / run.total) }
            print(
                String(format: "%5d  %10.2f  %7.4f  %8.4f", count, times[0], times[1], times[2])
                    + String(format: "  %7.3f %%  %5.3f %%  %5.3f %%  %5.3f %%", shares[0], shares[1], shares[2], shares[3]))
        }
    }
}
