// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling
import Drawing

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints a run's timesteps, noise levels and coefficients.",
        discussion: """
            With x the sample, e the model's output, z noise, p the predicted clean sample after its clamp, and s0, s1 … what earlier \
            evaluations stored. The formulas are those of a run that began at its first step.

            EXAMPLES:
              diffusion-scheduling plan sdxl/scheduler --steps 12
              diffusion-scheduling plan "DPM++ 2M Karras" --model sdxl/scheduler --set solver_order=3
              diffusion-scheduling plan DDIMScheduler --option eta=0.5 --format json > plan.json
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument { case table, json }

    @Argument(help: "A file, a folder, - or a name.")
    var scheduler: SchedulerArgument

    @Option(help: "The scheduler of the model that a name is for.")
    var model: SchedulerArgument?

    @OptionGroup var request: RequestOptions

    @Option(help: "A table, or the plan as docs/PLAN.md describes it.")
    var format = Format.table

    func run() throws {
        let scheduler = try scheduler.scheduler(for: model?.scheduler(), overrides: request.overrides)
        let plan = try request.plan(scheduler)
        print(format == .json ? plan.json.text : Self.text(plan, of: scheduler))
    }

    private static func text(_ plan: SamplingPlan, of scheduler: any PlannedScheduler) -> String {
        let stores = plan.slotCount > 0, draws = plan.isStochastic, scales = plan.scalesInputs
        var table = Table(
            numbers: ["step", "timestep", "sigma"],
            texts: (scales ? ["model input"] : []) + ["next sample"] + (stores ? ["stores"] : []))
        for index in 0..<plan.stepCount {
            let row = plan.row(at: index, age: index)
            var texts = [String(plan.steps[index]), brief(plan.timesteps[index]), brief(plan.sigmas[index])]
            if scales { texts.append("\(brief(plan.inputScales[index])) x") }
            texts.append(formula(row.nextSample))
            if stores { texts.append(row.stores.map { "s\($0.slot) = \(formula($0.value))" }.joined(separator: ", ")) }
            table.rows.append(texts)
        }
        let end = plan.sigmas[plan.stepCount]
        let evaluations = plan.stepCount
        return """
            \(scheduler.name), \(evaluations) evaluations of the model, \(plan.grid.process.rawValue.replacing("_", with: " ")) process, \
            initial noise \(brief(plan.initNoiseSigma))\(draws ? ", draws noise" : "")
            \(table.text)
            The last evaluation leads to sigma \(brief(end)).
            """
    }
}
