// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Drawing

/// Pictures from noise.
struct Sample: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Samples pictures of classes: samples.png.")

    @OptionGroup var options: Options
    @OptionGroup var guidance: GuidanceOptions

    @Option(help: "The number of steps.")
    var steps = 20

    @Option(parsing: .upToNextOption, help: "Classes to sample. (default: all)")
    var classes: [Int] = []

    @Option(help: "Pictures of each class, from 1 to 1000.")
    var count = 10

    @Option(help: ArgumentHelp("Also writes the samples as NumPy's .npy.", valueName: "file"))
    var samples: String?

    func validate() throws {
        guard (1...1000).contains(count) else { throw ValidationError("--count is \(count), but must be from 1 to 1000.") }
    }

    func run() throws {
        try Self.run(
            Setup(options), steps: steps, classes: classes, count: count, guidance: guidance.value, samples: samples)
    }

    static func run(_ setup: Setup, steps: Int, classes: [Int], count: Int, guidance: Guidance?, samples path: String?) throws {
        try setup.check(classes: classes)
        let classes = classes.isEmpty ? Array(0..<setup.folder.classCount) : classes
        let labels = classes.flatMap { Array(repeating: $0, count: count) }
        let (plan, planTime) = try setup.makePlan(steps)
        let progress = ProgressBar(total: labels.count * plan.stepCount)
        defer { progress.finish() }

        // torch.randn after torch.manual_seed(seed), for all pictures at once.
        var noise = TorchCPUNoise(seed: setup.seed)
        let scale = Float(plan.initNoiseSigma)
        let starts = noise.normals(labels.count * setup.folder.elementCount).map { $0 * scale }
        let samples = try setup.pipeline.run(
            plan, from: starts, labels: labels, guidance: guidance, noise: &noise, progress: progress, activity: "sampling")
        progress.finish()

        let manner = "\(steps) steps, \(guidance?.name ?? "no guidance"), seed \(setup.seed)"
        print("\(labels.count) pictures: \(manner); \(setup.pipeline.times.adding(plan: planTime).shares)")
        let pictures = setup.pictures(samples)
        let sheet = SampleSheet(
            title: "A trained network's samples of each class", notes: ["\(setup.scheduler.name): \(manner)."], remarkTitle: "",
            groups: [
                classes.indices.map { index in
                    .init(label: "\(classes[index])", images: Array(pictures[index * count..<(index + 1) * count].prefix(32)))
                }
            ], side: setup.folder.side)
        try setup.save(sheet, as: "samples.png")
        try setup.save(samples, to: path)
        print()
    }
}
