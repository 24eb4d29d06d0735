#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes docs/SCHEDULERS.md: a table of all classes, made from their descriptions and from plans of ten steps.

``make python`` runs this script. With ``--check``, it writes nothing, and fails if the page is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import diffusion_scheduling
from diffusion_scheduling._description import DESCRIPTIONS, Description
from formulas import FORMULAS

PAGE = Path(__file__).resolve().parents[2] / "docs/SCHEDULERS.md"
DIFFERENCES = Path("docs/DIFFERENCES.md")
STEPS = 10


ORDERS = {
    "CMStochasticIterativeScheduler": "1",
    "CogVideoXDDIMScheduler": "1",
    "CogVideoXDPMScheduler": "2",
    "CosineDPMSolverMultistepScheduler": "2",
    "DDIMInverseScheduler": "1",
    "DDIMParallelScheduler": "1",
    "DDIMScheduler": "1",
    "DDPMParallelScheduler": "1",
    "DDPMScheduler": "1",
    "DDPMWuerstchenScheduler": "1",
    "DEISMultistepScheduler": "1 to 4",
    "DPMSolverMultistepInverseScheduler": "1 to 3",
    "DPMSolverMultistepScheduler": "1 to 3",
    "DPMSolverSDEScheduler": "2",
    "DPMSolverSinglestepScheduler": "1 to 3",
    "EDMDPMSolverMultistepScheduler": "1 to 3",
    "EDMEulerScheduler": "1",
    "EulerAncestralDiscreteScheduler": "1",
    "EulerDiscreteScheduler": "1",
    "FlowMapEulerDiscreteScheduler": "1",
    "FlowMatchEulerDiscreteScheduler": "1",
    "FlowMatchHeunDiscreteScheduler": "2",
    "FlowMatchLCMScheduler": "1",
    "HeliosDMDScheduler": "1",
    "HeliosScheduler": "1 to 6",
    "HeunDiscreteScheduler": "2",
    "IPNDMScheduler": "4",
    "KDPM2AncestralDiscreteScheduler": "2",
    "KDPM2DiscreteScheduler": "2",
    "KarrasVeScheduler": "2",
    "LCMScheduler": "1",
    "LMSDiscreteScheduler": "1 to 7",
    "LTXEulerAncestralRFScheduler": "1",
    "MiniMaxH3Scheduler": "1",
    "PNDMScheduler": "4",
    "PiflowScheduler": "1",
    "SASolverScheduler": "1 to 4",
    "SCMScheduler": "1",
    "ScoreSdeVeScheduler": "1",
    "TCDScheduler": "1",
    "UnCLIPScheduler": "1",
    "UniPCMultistepScheduler": "1 to 6",
}
"""The orders of the solvers, which are neither in a description nor in a plan."""

HEAD = f"""# The schedulers

Each class has diffusers' name, parameters and defaults. `make python` writes this page from the library itself. The numbers are
those of a run of {STEPS} steps with the defaults.

- order: the solver's order, or the range of `solver_order`
- evaluations: the evaluations of the model
- noise: the noise tensors drawn by a generator
- slots: the tensors that a session keeps between steps, besides the sample
- second output: the output of a step besides the next sample
- options: the options of a run besides its steps

[{DIFFERENCES}]({DIFFERENCES.name}) lists each class's differences from diffusers, and the reasons.

| class | source | order | process | evaluations | noise | slots | second output | options |
|---|---|---|---|---|---|---|---|---|
"""

SCHEDULES = [
    ("karras", "evenly spaced in σ^1/7", "Karras et al. 2022, 2206.00364"),
    ("exponential, polyexponential", "evenly spaced in ln σ", "k-diffusion"),
    ("vp", "evenly spaced times of the continuous variance-preserving process", "Song et al. 2020, 2011.13456"),
    ("laplace", "quantiles of a Laplace distribution of ln σ", "Hang and Gu 2024, 2407.03297"),
    ("kl_optimal", "evenly spaced in arctan σ", "Sabour et al. 2024, 2404.14507"),
    ("linear_quadratic", "along a line, then a parabola", "Mochi 1, ComfyUI"),
    ("bong_tangent", "two arctangents", "RES4LYF"),
    ("simple, normal, sgm_uniform, ddim_uniform", "evenly spaced in the timestep, with different ends", "ComfyUI"),
    ("quadratic", "evenly spaced in the timestep's root", "Zhang and Chen 2022, 2204.13902"),
    ("beta, beta57", "timesteps at quantiles of Beta(0.6, 0.6), Beta(0.5, 0.7)", "Lee et al. 2024, 2407.12173, RES4LYF"),
    (
        "align_your_steps_sd15, align_your_steps_sdxl, align_your_steps_svd",
        "optimised for one model with 10 steps; interpolated in ln σ for other numbers of steps",
        "Sabour et al. 2024, 2404.14507",
    ),
]

FOOT = """
## Noise levels by name

A run takes a name in Swift with `setTimesteps(scheduler.request(20, .klOptimal))`, in Python with
`set_timesteps(20, sigma_schedule="kl_optimal")`, and in C with the member `sigma_schedule` of `ds_scheduler_set_timesteps`. The key
`diffusion_scheduling_sigma_schedule` of a configuration names the levels of all its runs. Every scheduler that takes custom noise
levels takes the names; an inverse scheduler takes the levels in its own order. In flow matching, the levels are those before the
shift. `vp` and `align_your_steps_*` are levels of particular models, none of which is a flow.

| name | levels | source |
|---|---|---|
"""


SAMPLERS = """
## Samplers by name

The names are AUTOMATIC1111's, ComfyUI's, and those of the DEIS paper. They are accepted in Swift by
`SchedulerCatalog.makeScheduler(named: "DPM++ 2M Karras", for: model)`, in Python by `make_scheduler("DPM++ 2M Karras", model)`, in
C by `ds_scheduler_create_named`, and at the command line by `diffusion-scheduling plan "DPM++ 2M Karras" --model sdxl/scheduler`.

The model's scheduler says how the model was trained. A flow-matching model gets flow levels, and Euler, Heun and LCM become their
flow-matching classes. The name of noise levels may follow the sampler's: a name of the table above, AUTOMATIC1111's spelling, or
`automatic`, which is AUTOMATIC1111's default for the sampler. A name without a scheduler is refused, and the message gives the
nearest name.

| names | class | values |
|---|---|---|
"""


def papers(text: str) -> str:
    """The papers with links. An arXiv id is a word that begins with a digit and contains a point."""
    words = text.split(", ")
    return ", ".join(f"[{word}](https://arxiv.org/abs/{word})" if "." in word and word[0].isdigit() else word for word in words)


def code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def row(name: str, description: Description) -> str:
    scheduler = getattr(diffusion_scheduling, name)()
    scheduler.set_timesteps(STEPS)
    plan = json.loads(scheduler.plan_json())
    evaluations = plan["evaluations"]
    draws = sum(each["rows"][-1].get("noise_draws", 0) for each in evaluations)
    options = ", ".join(f"`{option.name}`" for option in description.options)
    columns = [
        f"`{name}`",
        papers(FORMULAS[name].papers),
        ORDERS[name],
        plan["process"].replace("_", " "),
        len(evaluations),
        draws,
        plan["slots"],
        f"`{plan['report']}`",
        options,
    ]
    return f"| {' | '.join(map(str, columns))} |\n"


def samplers() -> str:
    """The rows of the samplers' names. Names of one configuration share a row."""
    rows: dict[str, list[str]] = {}
    for name in diffusion_scheduling.sampler_names():
        scheduler = diffusion_scheduling.make_scheduler(name)
        defaults = type(scheduler)().config
        values = ", ".join(
            f"`{key}` {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in scheduler.config.items()
            if not key.startswith("_") and value != defaults.get(key)
        )
        rows.setdefault(f"`{type(scheduler).__name__}` | {values}", []).append(f"`{name}`")
    return "".join(f"| {', '.join(names)} | {row} |\n" for row, names in rows.items())


def main() -> int:
    if missing := sorted(DESCRIPTIONS.keys() - (ORDERS.keys() & FORMULAS.keys())):
        print(f"{__file__}: no order, or no formula in formulas.py, for {', '.join(missing)}")
        return 1
    page = HEAD + "".join(row(name, description) for name, description in sorted(DESCRIPTIONS.items())) + FOOT
    page += "".join(f"| {code(names)} | {levels} | {papers(source)} |\n" for names, levels, source in SCHEDULES)
    page += SAMPLERS + samplers()
    if "--check" in sys.argv:
        if PAGE.exists() and PAGE.read_text("utf-8") == page:
            return 0
        print(f"{PAGE} is out of date: run `make python`")
        return 1
    PAGE.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
