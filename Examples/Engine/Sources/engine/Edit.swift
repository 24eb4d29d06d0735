// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Digits
import Drawing
import Foundation

/// Image-to-image: a real digit with noise added, and sampled from there on.
struct Edit: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Edits real digits, image-to-image: edited.png.",
        discussion:
            "A strength of 0 returns the digit, a strength of 1 begins with noise alone. The share of the steps that are taken is the strength."
    )

    @OptionGroup var options: Options
    @OptionGroup var guidance: GuidanceOptions

    @Option(help: "The number of steps of a whole run.")
    var steps = 40

    @Option(parsing: .upToNextOption, help: "Numbers of the digits' images, from 0 to 1796. (default: the first ten)")
    var digits: [Int] = []

    @Option(parsing: .upToNextOption, help: "Strengths, from 0 to 1. (default: 0.1 0.2 0.4)")
    var strength: [Double] = []

    @Option(parsing: .upToNextOption, help: "The classes to edit to, one for each digit or one for all. (default: the digits' own)")
    var classes: [Int] = []

    @Option(help: ArgumentHelp("Also writes the samples as NumPy's .npy, strength by strength.", valueName: "file"))
    var samples: String?

    func validate() throws {
        if let wrong = strength.first(where: { !(0...1).contains($0) }) {
            throw ValidationError("--strength has \(wrong), but must have numbers from 0 to 1.")
        }
    }

    func run() throws {
        try Self.run(
            Setup(options), steps: steps, digits: digits.isEmpty ? Array(0..<10) : digits,
            strengths: strength.isEmpty ? [0.1, 0.2, 0.4] : strength, classes: classes, guidance: guidance.value, samples: samples)
    }

    static func run(
        _ setup: Setup, steps: Int, digits numbers: [Int], strengths: [Double], classes: [Int], guidance: Guidance?,
        samples path: String?
    ) throws {
        let digits = try setup.digits()
        if let wrong = numbers.first(where: { !digits.labels.indices.contains($0) }) {
            throw EngineError("--digits has \(wrong), but must have numbers from 0 to \(digits.labels.count - 1)")
        }
        try setup.check(classes: classes)
        guard [0, 1, numbers.count].contains(classes.count) else {
            throw EngineError("--classes has \(classes.count) numbers, but must have one, or \(numbers.count), one for each digit")
        }
        let own = numbers.map { digits.labels[$0] }
        let labels = classes.isEmpty ? own : classes.count == 1 ? own.map { _ in classes[0] } : classes
        let images = numbers.flatMap { Array(digits.pixels.row($0)) }

        var scheduler = setup.scheduler
        try scheduler.setTimesteps(steps)
        let plan = scheduler.plan!
        let begins = strengths.map { plan.beginIndex(strength: $0) }
        let progress = ProgressBar(total: begins.reduce(0) { $0 + (plan.stepCount - $1) * labels.count })
        defer { progress.finish() }
        let results = try begins.map { begin in
            var noise = TorchCPUNoise(seed: setup.seed), start = images
            if begin < plan.stepCount {
                let timesteps = Array(repeating: plan.timesteps[begin], count: labels.count)
                start = try scheduler.addNoise(noise.normals(images.count), to: images, timesteps: timesteps)
            }
            return try setup.pipeline.run(
                plan, beginIndex: begin, from: start, labels: labels, guidance: guidance, noise: &noise, progress: progress,
                activity: "editing")
        }
        progress.finish()

        let errors = results.map { zip($0, images).rootMeanSquareDifference }
        print("\(labels.count) digits edited, \(steps) steps, \(guidance?.name ?? "no guidance"):")
        for (strength, error) in zip(strengths, errors) {
            print(String(format: "  strength %4.2f: RMSE %.4f to the digits", strength, error))
        }
        var rows: [SampleSheet.Row] = [.init(label: "digit", images: Array(setup.pictures(images).prefix(32)))]
        for (index, result) in results.enumerated() {
            rows.append(
                .init(
                    label: String(format: "strength %g", strengths[index]), remark: String(format: "%.3f", errors[index]),
                    images: Array(setup.pictures(result).prefix(32))))
        }
        let goal = classes.isEmpty ? "to their own classes" : "to \(classes.map(String.init).joined(separator: ", "))"
        let sheet = SampleSheet(
            title: "Real digits, edited \(goal)",
            notes: ["\(setup.scheduler.name): \(steps) steps, \(guidance?.name ?? "no guidance"), seed \(setup.seed)."],
            remarkTitle: "RMSE to the digits", groups: [Array(rows.prefix(1)), Array(rows.dropFirst())], side: setup.folder.side)
        try setup.save(sheet, as: "edited.png")
        try setup.save(results.flatMap { $0 }, to: path)
        print()
    }
}

extension SamplingPlan {
    /// The evaluation that image-to-image begins with: diffusers takes the last `strength` of the steps, rounded down.
    func beginIndex(strength: Double) -> Int {
        let count = (steps.last ?? -1) + 1
        let first = count - min(Int(Double(count) * strength), count)
        return steps.firstIndex { $0 >= first } ?? stepCount
    }
}

extension Zip2Sequence<[Float], [Float]> {
    /// The root of the mean squared difference of the pairs; 0 without pairs.
    var rootMeanSquareDifference: Double {
        var sum = 0.0, count = 0.0
        for (a, b) in self {
            sum += Double((a - b) * (a - b))
            count += 1
        }
        return count == 0 ? 0 : (sum / count).squareRoot()
    }
}
