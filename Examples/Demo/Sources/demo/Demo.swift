// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Digits
import Foundation

@main
struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Samples handwritten digits with an exact denoiser, and measures the schedulers' errors.",
        discussion: """
            Prints tables and writes pictures. The denoiser is the closed-form posterior mean of a mixture with one component \
            for each of 1,797 images, so every error seen is the scheduler's.

            convergence  how few model evaluations a scheduler needs: samples.png, convergence.png
            schedulers   all the classes side by side: schedulers.png, scheduler_samples.png
            deis         the methods and grids of DEIS' paper: deis_quadratic.png, deis_geometric.png
            ancestral    DDIM against ancestral sampling
            inversion    from a digit to its noise and back: inversion.png
            guidance     to a digit, weak and strong: guidance.png
            zero-snr     strong guidance without overexposure: zero_snr.png
            """)

    enum ExperimentName: String, CaseIterable, ExpressibleByArgument {
        case convergence, schedulers, deis, ancestral, inversion, guidance
        case zeroSNR = "zero-snr"
    }

    /// The mixture's bandwidth. Samples lie as far from the nearest image as the images lie from each other (the demo prints both
    /// distances): they neither copy nor blend images.
    static let bandwidth = 0.45

    @Option(parsing: .upToNextOption, help: "Experiments to run. (default: all)")
    var only: [ExperimentName] = []

    @Option(help: "Seed of all noise.")
    var seed: UInt64 = 0

    @Option(help: "Folder for the pictures.")
    var output = "out/demo"

    @Option(
        help: """
            For convergence: a scheduler_config.json, or the folder that contains it. (default: DEIS with Stable Diffusion's noise, \
            Karras' levels)
            """)
    var config: String?

    @Option(
        parsing: .upToNextOption,
        help: "For convergence: numbers of steps to measure and to show. (default: 5 10 15 20 50, shown 5 10 20)")
    var steps: [Int] = []

    @Option(parsing: .upToNextOption, help: "For convergence: solver orders to compare. (default: all)")
    var order: [Int] = []

    @Option(help: "Number of samples in each row of samples.png and scheduler_samples.png, up to 64.")
    var count = 16

    func validate() throws {
        guard (1...64).contains(count) else { throw ValidationError("--count is \(count), but must be from 1 to 64") }
        guard steps.allSatisfy({ $0 > 0 }) else { throw ValidationError("--steps must be greater than 0") }
    }

    func run() throws {
        let digits = try DigitImages()
        let mixture = DigitMixture(images: digits.pixels, bandwidth: Self.bandwidth)
        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        for name in only.isEmpty ? ExperimentName.allCases : only {
            let experiment: any Experiment =
                switch name {
                case .convergence: try convergence(digits, mixture)
                case .schedulers:
                    SchedulerComparison(
                        configuration: try defaultConfigurationPath(), digits: digits, mixture: mixture, seed: seed,
                        columns: count)
                case .deis:
                    DEISMethods(
                        configuration: try defaultConfigurationPath(), digits: digits, mixture: mixture, seed: seed)
                case .ancestral: AncestralSampling(digits: digits, mixture: mixture, seed: seed)
                case .inversion: Inversion(digits: digits, bandwidth: Self.bandwidth, seed: seed)
                case .guidance: GuidedDigits(digits: digits, mixture: mixture, seed: seed)
                case .zeroSNR: ZeroTerminalSNR(digits: digits, mixture: mixture, seed: seed)
                }
            let report = try experiment.run()
            print(report.text)
            for picture in report.pictures {
                try picture.canvas.writePNG(to: "\(output)/\(picture.name)")
                print("Wrote \(output)/\(picture.name)")
            }
            print()
        }
    }

    private func convergence(_ digits: DigitImages, _ mixture: DigitMixture) throws -> Convergence {
        let solver = try Solver(configuration: config ?? defaultConfigurationPath())
        if let unknown = order.first(where: { !solver.orders.contains($0) }) {
            let known = solver.orders.map(String.init).joined(separator: ", ")
            throw ValidationError("--order is \(unknown), but the orders of \(solver.name) are \(known)")
        }
        return Convergence(
            solver: solver, digits: digits, mixture: mixture, seed: seed,
            orders: order.isEmpty ? solver.orders : order,
            tableSteps: steps.isEmpty ? [5, 10, 15, 20, 50] : steps,
            plotSteps: steps.isEmpty ? [5, 7, 10, 15, 20, 30, 50, 70, 100] : steps,
            sheetSteps: steps.isEmpty ? [5, 10, 20] : steps, columns: count)
    }

    private func defaultConfigurationPath() throws -> String {
        guard let path = Bundle.module.path(forResource: "scheduler_config", ofType: "json") else {
            throw CocoaError(.fileNoSuchFile)
        }
        return path
    }
}
