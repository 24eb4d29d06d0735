// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Digits
import Drawing
import Foundation

@main
struct Engine: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine",
        abstract: "Runs a trained network through OpenVINO with the library's schedulers.",
        discussion: """
            Without a subcommand: all of them, one after the other. Pictures go into out/engine.

            Exit status: 0, or 1 for what a model folder, OpenVINO or the library refuses, or 64 for arguments that the program doesn't know.

            EXAMPLES:
              engine sample --sampler "DPM++ 2M Karras" --steps 12 --classes 3 8 --guidance 2 --seed 7
              engine edit --digits 3 --strength 0.4 0.6 --classes 8
              engine invert --steps 25 100
            """,
        subcommands: [All.self, Sample.self, Edit.self, Invert.self, Measure.self], defaultSubcommand: All.self)
}

/// Samples, edits, inverts and measures.
struct All: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "All of the others, with their defaults.")

    @OptionGroup var options: Options

    func run() throws {
        let setup = try Setup(options)
        try Sample.run(setup, steps: 20, classes: [], count: 10, guidance: Guidance(scale: 2), samples: nil)
        try Edit.run(
            setup, steps: 40, digits: Array(0..<10), strengths: [0.1, 0.2, 0.4], classes: [8], guidance: Guidance(scale: 2),
            samples: nil)
        try Invert.run(setup, steps: Invert.defaultSteps)
        try Measure.run(setup, steps: 20)
    }
}

/// Options of every subcommand.
struct Options: ParsableArguments {
    @Option(help: "The model's folder.")
    var model = "Examples/Engine/Model"

    @Option(help: "The folder of OpenVINO's library.")
    var openvino = "out/openvino/wheel/libs"

    @Option(
        help: ArgumentHelp(
            "A scheduler by a sampler's name, such as \"DPM++ 2M Karras\", or by its class. (default: the model's)",
            valueName: "name"))
    var sampler: String?

    @Option(help: "The seed of the noise, as torch.manual_seed takes it.")
    var seed: UInt64 = 0

    @Option(help: "The folder for the pictures.")
    var output = "out/engine"
}

/// The pipeline, the scheduler and the folder for pictures that every subcommand needs.
struct Setup {
    let pipeline: Pipeline
    let scheduler: any PlannedScheduler
    let seed: UInt64
    let output: String

    /// Prints what is loaded.
    init(_ options: Options) throws {
        let folder = try ModelFolder(path: options.model)
        scheduler =
            try options.sampler.map { try SchedulerCatalog.makeScheduler(named: $0, for: folder.scheduler) } ?? folder.scheduler
        guard !scheduler.isInverse else {
            throw EngineError("\(options.sampler ?? options.model) leads from pictures to noise, but must lead to pictures")
        }
        let clock = ContinuousClock(), began = clock.now
        let openVINO = try OpenVINO(folder: options.openvino)
        pipeline = Pipeline(folder, openVINO)
        try pipeline.prepare(1, isGuided: false)
        (seed, output) = (options.seed, options.output)
        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let seconds = (clock.now - began) / .seconds(1)
        print(
            "\(options.model) on OpenVINO \(openVINO.version), loaded in \(String(format: "%.2f", seconds)) s; \(scheduler.name)\n")
    }

    var folder: ModelFolder { pipeline.folder }

    /// A plan, which all runs of so many steps share, and the time that making it takes.
    func makePlan(_ steps: Int) throws -> (plan: SamplingPlan, time: Duration) {
        let clock = ContinuousClock(), began = clock.now
        let plan = try scheduler.plan(.count(steps))
        return (plan, clock.now - began)
    }

    func check(classes: [Int]) throws {
        if let wrong = classes.first(where: { !(0..<folder.classCount).contains($0) }) {
            throw EngineError("--classes has \(wrong), but the model's classes are from 0 to \(folder.classCount - 1)")
        }
    }

    /// The digits as the model's samples.
    func digits() throws -> DigitImages {
        guard folder.channels == 1, folder.side == DigitImages.side else {
            throw EngineError("the model's samples must be of 1×8×8, as the digits are, for this subcommand")
        }
        return try DigitImages()
    }

    func matrix(_ samples: [Float]) -> Matrix<Float> {
        Matrix(rows: samples.count / folder.elementCount, columns: folder.elementCount, elements: samples)
    }

    /// The first channel of each sample.
    func pictures(_ samples: [Float]) -> [[Float]] {
        stride(from: 0, to: samples.count, by: folder.elementCount).map { Array(samples[$0..<$0 + folder.side * folder.side]) }
    }

    func save(_ sheet: SampleSheet, as name: String) throws {
        let path = "\(output)/\(name)"
        try sheet.draw().writePNG(to: path)
        print("Wrote \(path)")
    }

    func save(_ samples: [Float], to path: String?) throws {
        guard let path else { return }
        let shape = [samples.count / folder.elementCount, folder.channels, folder.side, folder.side]
        try NumPyFile.write(samples, shape: shape, to: path)
        print("Wrote \(path)")
    }
}

extension PlannedScheduler {
    /// The class, with the names of the sampler that it is.
    var name: String {
        let names = SchedulerCatalog.samplerNames(of: self)
        return type(of: configuration).className + (names.isEmpty ? "" : " (\(names[0]))")
    }

    /// Whether runs lead from pictures to noise.
    var isInverse: Bool {
        guard let sigmas = try? plan(.count(2)).sigmas else { return false }
        return sigmas[0] < sigmas[sigmas.count - 1]
    }
}

extension Guidance {
    /// For tables and pictures.
    var name: String { String(format: "guidance %g", scale) + (rescale == 0 ? "" : String(format: ", rescaled by %g", rescale)) }
}

extension Pipeline.Times {
    var shares: String {
        let network = network / total, scheduler = scheduler / total
        return String(
            format: "network %.2f %%, scheduler %.3f %%, rest %.2f %%", 100 * network, 100 * scheduler, 100 * (rest / total))
    }
}

/// Guidance as options.
struct GuidanceOptions: ParsableArguments {
    @Option(help: "Classifier-free guidance to the class: 1 is the network's output for it. (default: none)")
    var guidance: Double?

    @Option(help: "The share by which guided outputs are scaled back to their deviation without guidance.")
    var rescale = 0.0

    var value: Guidance? { guidance.map { Guidance(scale: $0, rescale: rescale) } }
}
