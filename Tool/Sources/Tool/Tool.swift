// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

@main
struct Tool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diffusion-scheduling",
        abstract: "Looks at the schedulers of diffusion models: plans, noise levels, configurations.",
        discussion: """
            A SCHEDULER is a scheduler_config.json, a folder that contains one (also in its subfolder "scheduler"), - for standard \
            input, or a name: a class of diffusers', or a sampler of AUTOMATIC1111's, ComfyUI's or DEIS' paper, with the name of noise \
            levels after it or without. `diffusion-scheduling list` lists the names.

            Exit status: 0, or 1 for what the library refuses, or 64 for arguments that the tool doesn't know.

            EXAMPLES:
              diffusion-scheduling plan sdxl/scheduler --steps 12
              diffusion-scheduling compare sdxl/scheduler "DPM++ 2M Karras" deis:tab3 --steps 12 --output levels.svg
              diffusion-scheduling convert sdxl/scheduler "DPM++ 2M Karras" > scheduler_config.json
              diffusion-scheduling check models/*/scheduler
            """,
        version: "0.1.0",
        subcommands: [Plan.self, Compare.self, Convert.self, Check.self, Noise.self, List.self])
}
