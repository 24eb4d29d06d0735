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
        print("Time for \(steps) steps with guidance, which has two rows of the network for each sample; medians of some runs. The")
        print("scheduler's is that of the steps, with the copies of the network's inputs and the guidance; runs share their plan.")
        print("With plan: the scheduler's share in a run that makes its plan. With passes: its share if each tensor operation of")
        print("the steps made a pass over memory, as diffusers' do.\n")
        print("batch  network ms  steps ms  plan ms  passes ms    network  scheduler     rest  with plan  with passes")
        var greatestShare: Double?
        for count in [1, 2, 4, 8, 16, 32, 64] {
            let labels = (0..<count).map { $0 % setup.folder.classCount }
            var runs: [Pipeline.Times] = [], planTimes: [Duration] = [], passTimes: [Duration] = []
            func run(_ plan: SamplingPlan, beside passes: PassPerOperation?) throws {
                var noise = TorchCPUNoise(seed: setup.seed)
                let scale = Float(plan.initNoiseSigma)
                let starts = noise.normals(count * setup.folder.elementCount).map { $0 * scale }
                _ = try setup.pipeline.run(plan, from: starts, labels: labels, guidance: guidance, noise: &noise, beside: passes)
            }
            let clock = ContinuousClock(), began = clock.now
            // The first run also warms up.
            while runs.count < 3 || (runs.count < 100 && clock.now - began < .seconds(1)) {
                let (plan, planTime) = try setup.makePlan(steps)
                planTimes.append(planTime)
                try run(plan, beside: nil)
                runs.append(setup.pipeline.times)
                if let passes = PassPerOperation(setup.scheduler, plan, guidance) {
                    try run(plan, beside: passes)
                    passTimes.append(passes.time)
                    greatestShare = max(greatestShare ?? 0, passes.greatestShare)
                }
            }
            func median(_ durations: [Duration]) -> Duration? {
                durations.isEmpty ? nil : durations.dropFirst().sorted()[(durations.count - 1) / 2]
            }
            let network = median(runs.map(\.network))!, taken = median(runs.map(\.scheduler))!, rest = median(runs.map(\.rest))!
            let plan = median(planTimes)!, passes = median(passTimes), others = network + rest
            func column(_ value: Double?, _ format: String, width: Int) -> String {
                (value.map { String(format: format, $0) } ?? "-").leftPadded(to: width)
            }
            func share(_ value: Double?, width: Int) -> String { column(value.map { 100 * $0 }, "%.3f %%", width: width) }
            print(
                column(Double(count), "%.0f", width: 5) + column(network / .milliseconds(1), "%.2f", width: 12)
                    + column(taken / .milliseconds(1), "%.4f", width: 10) + column(plan / .milliseconds(1), "%.4f", width: 9)
                    + column(passes.map { $0 / .milliseconds(1) }, "%.4f", width: 11)
                    + share(network / (others + taken), width: 11) + share(taken / (others + taken), width: 11)
                    + share(rest / (others + taken), width: 9) + share((taken + plan) / (others + taken + plan), width: 11)
                    + share(passes.map { $0 / (others + $0) }, width: 13))
        }
        if let greatestShare {
            let share = String(format: "%.0f %%", 100 * greatestShare)
            print("\nThe passes' samples are the library's: they differ by at most \(share) of float32's bound.")
        } else {
            print("\nPasses are written for DPM-Solver++ of order 2 and predicted noise alone, as the model's own scheduler is.")
        }
    }
}
