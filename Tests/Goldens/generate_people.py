#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes people.json: the last samples of diffusers' schedulers after uses beyond plain stepping.

bindings/python/tests/people.py defines the acts, the sample and the model.

Usage::

    python3 Tests/Goldens/generate_people.py [--out DIR]

Needs the packages of generate.py. A run with the same versions reproduces the file byte for byte on the same kind of processor.

Case fields
-----------

``class``, ``act``
    diffusers' class, and the name of the act.
``type``
    the type of diffusers' last sample. "half begun" runs diffusers as shipped, from float16 to float32. All other acts run in
    float64, with diffusers' float32 tables widened before each step, and without its rounding of samples to float32.
``final``
    base64 of the last sample's little-endian float64 numbers.

Steps draw their noise from torch's generator, seeded with the magnitude of the timestep's integer part.
"""

import argparse
import json
import logging
import sys
import unittest.mock
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
from generate import WideTorch, packed
from generate_classes import home_of, original, step_arguments, take_ratios, widen

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python/tests"))

import people  # noqa: E402

CLASSES = [
    "CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DDPMWuerstchenScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeliosDMDScheduler",
    "HeliosScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KarrasVeScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
    "PNDMScheduler",
    "PiflowScheduler",
    "SASolverScheduler",
    "SCMScheduler",
    "ScoreSdeVeScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "UniPCMultistepScheduler",
]


def step(scheduler, x, t):
    torch.manual_seed(abs(int(t)))
    # people.take_step documents the arguments.
    is_kept = isinstance(scheduler, (diffusers.CogVideoXDPMScheduler, diffusers.HeliosDMDScheduler))
    known = not is_kept and t in scheduler.timesteps
    arguments = step_arguments(scheduler, scheduler.timesteps.tolist().index(t)) if known else {}
    is_wide = x.dtype == torch.float64
    if is_wide:
        if getattr(scheduler, "betas", x).dtype == torch.float32:
            take_ratios(scheduler)
        widen(scheduler)
        # LCM computes its scalars in float32 for a tensor, but in double precision for an integer.
        t = t if t.is_floating_point() else int(t)
    with unittest.mock.patch.object(home_of(scheduler), "torch", WideTorch() if is_wide else torch):
        model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        told = t.repeat(len(x)) if isinstance(scheduler, diffusers.DDPMWuerstchenScheduler) else t
        return people.take_step(scheduler, people.model(model_input), told, x, return_dict=False, **arguments)[0]


def case(name, label, act):
    x = people.cast(torch.from_numpy(people.sample(act.items)), act.type)
    final = people.perform(act, people.make(original(name), **act.config), x, step)
    assert torch.isfinite(final).all(), (name, label)
    return {
        "class": name,
        "act": label,
        "type": str(final.dtype).removeprefix("torch."),
        "final": packed(final.double().flatten().numpy(), "<f8"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    for name in CLASSES:
        getattr(diffusers, name)  # Imports the class's module.
    people.replace_trees()
    people.begin_at_first_stages()
    cases = [
        case(name, label, act) for name in CLASSES for label, act in people.ACTS.items() if act.applies(people.make(original(name)))
    ]
    versions = {"diffusers": diffusers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in cases)
    path = options.out / "people.json"
    path.write_text(f'{{"generator":{json.dumps(versions, separators=(",", ":"))},\n"cases":[\n{lines}\n]}}\n')
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
