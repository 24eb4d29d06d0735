import ArgumentParser
import Digits
import Foundation

@main
struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Samples handwritten digits with an exact denoiser and measures how few model evaluations a scheduler needs.",
        discussion: """
            Prints a table and writes samples.png and convergence.png. The denoiser is the closed-form posterior mean of a \
            mixture with one component for each of 1,797 images, so every error seen is the scheduler's.
            """)

    @Option(
        help: "A scheduler_config.json, or the folder it is in. (default: DEIS with Stable Diffusion's noise, Karras' levels)")
    var config: String?

    @Option(parsing: .upToNextOption, help: "Numbers of steps to measure and to show. (default: 5 10 15 20 50, shown 5 10 20)")
    var steps: [Int] = []

    @Option(parsing: .upToNextOption, help: "Solver orders to compare. (default: 1 2 3)")
    var order: [Int] = []

    @Option(help: "Seed of the start noise of all samples.")
    var seed: UInt64 = 0

    @Option(help: "Number of samples in each row of samples.png, up to 64.")
    var count = 16

    @Option(help: "Folder for the pictures.")
    var output = "out/demo"

    func validate() throws {
        guard (1...64).contains(count) else { throw ValidationError("--count is \(count), but must be from 1 to 64") }
        guard steps.allSatisfy({ $0 > 0 }) else { throw ValidationError("--steps must be greater than 0") }
    }

    func run() throws {
        let solver = try Solver(configuration: config ?? defaultConfigurationPath())
        if let unknown = order.first(where: { !solver.orders.contains($0) }) {
            let known = solver.orders.map(String.init).joined(separator: ", ")
            throw ValidationError("--order is \(unknown), but the orders of \(solver.name) are \(known)")
        }
        let experiment = Experiment(
            solver: solver, digits: try DigitImages(), seed: seed,
            orders: order.isEmpty ? solver.orders : order,
            tableSteps: steps.isEmpty ? [5, 10, 15, 20, 50] : steps,
            plotSteps: steps.isEmpty ? [5, 7, 10, 15, 20, 30, 50, 70, 100] : steps)
        let report = Report(findings: try experiment.run(), seed: seed)
        print(report.text)

        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        try report.sheet(columns: count, steps: steps.isEmpty ? [5, 10, 20] : steps).draw().writePNG(to: "\(output)/samples.png")
        try report.plot.draw().writePNG(to: "\(output)/convergence.png")
        print("\nWrote \(output)/samples.png and \(output)/convergence.png")
    }

    private func defaultConfigurationPath() throws -> String {
        guard let path = Bundle.module.path(forResource: "scheduler_config", ofType: "json") else {
            throw CocoaError(.fileNoSuchFile)
        }
        return path
    }
}
