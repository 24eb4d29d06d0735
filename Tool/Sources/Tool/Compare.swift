// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Drawing

struct Compare: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints the noise levels of several schedulers side by side, and draws them.",
        discussion: """
            Names are for the model of the first file among the schedulers, or of --model. The picture has the levels that the steps \
            begin at over the steps; its name ends with .svg or .png.

            EXAMPLES:
              diffusion-scheduling compare sdxl/scheduler "DPM++ 2M Karras" deis:tab3 --steps 12 --output levels.svg
              diffusion-scheduling compare "euler simple" "euler beta" "euler kl_optimal" --model flux/scheduler
            """)

    @Argument(help: "Files, folders, - or names.")
    var schedulers: [SchedulerArgument]

    @Option(help: "The scheduler of the model that names are for.")
    var model: SchedulerArgument?

    @OptionGroup var request: RequestOptions

    @Option(
        help: ArgumentHelp("Where to draw the levels.", valueName: "file.svg|file.png"),
        completion: .file(extensions: ["svg", "png"]))
    var output: String?

    func validate() throws {
        guard let output else { return }
        guard output.hasSuffix(".svg") || output.hasSuffix(".png") else {
            throw ValidationError("--output is \(output), but must end with .svg or .png.")
        }
    }

    func run() throws {
        // Standard input can be read only once, so the files are read first.
        let files = try schedulers.map { try $0.isFile ? $0.scheduler(overrides: request.overrides) : nil }
        let model = try model?.scheduler() ?? files.compactMap { $0 }.first
        var compared: [(name: String, levels: [Double])] = []
        for (argument, file) in zip(schedulers, files) {
            let scheduler = try file ?? argument.scheduler(for: model, overrides: request.overrides)
            let plan = try request.plan(scheduler)
            // The first level of each step; a step may evaluate the model several times.
            let starts = (0..<plan.stepCount).filter { plan.isStart($0) }
            let name = file == nil ? argument.text : "\(argument.shortText) (\(scheduler.name))"
            compared.append((name, starts.map { plan.sigmas[$0] } + plan.sigmas.suffix(1)))
        }

        var table = Table(numbers: ["step"] + compared.map(\.name))
        for step in 0..<(compared.map(\.levels.count).max() ?? 0) {
            table.rows.append([String(step)] + compared.map { step < $0.levels.count ? brief($0.levels[step]) : "" })
        }
        print(table.text)
        guard let output else { return }
        let canvas = plot(compared).draw()
        try output.hasSuffix(".svg") ? canvas.writeSVG(to: output) : canvas.writePNG(to: output)
    }

    private func plot(_ compared: [(name: String, levels: [Double])]) -> LinePlot {
        LinePlot(
            title: "Noise levels", xLabel: "step", yLabel: "σ where the step begins", xScale: .linear,
            lines: compared.enumerated().map { index, each in
                // A logarithmic axis can't show 0.
                let points = each.levels.enumerated().filter { $0.element > 0 }.map { (x: Double($0.offset), y: $0.element) }
                return LinePlot.Line(series: index, label: each.name, points: points)
            })
    }
}
