# SPDX-License-Identifier: Apache-2.0

"""The JSON of plans: its members match docs/PLAN.md, and the examples that run it agree with the library."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
PLAN = {
    *("version", "process", "init_noise_sigma", "model_learns_variance", "clamp"),
    *("slots", "warm_up", "report", "sigmas", "evaluations"),
}
EVALUATION = {"step", "timestep", "input_scale", "rows"}
ROW, OPTIONAL = {"prediction", "next_sample"}, {"stores", "report", "noise_draws"}
SLOTS = {f"slot_{slot}" for slot in range(6)}
STREAMS = {"sample", "model_output", "noise", "prediction"} | SLOTS


def plan_of(scheduler, steps=5):
    scheduler.set_timesteps(steps)
    return json.loads(scheduler.plan_json())


def test_members_are_the_documented_ones():
    page = (ROOT / "docs/PLAN.md").read_text()
    sde = ds.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    for plan in [plan_of(ds.DEISMultistepScheduler(solver_order=3)), plan_of(ds.DDIMScheduler()), plan_of(sde)]:
        assert set(plan) == PLAN
        assert len(plan["sigmas"]) == len(plan["evaluations"]) + 1
        for index, evaluation in enumerate(plan["evaluations"]):
            assert set(evaluation) == EVALUATION
            assert len(evaluation["rows"]) == min(index, plan["warm_up"]) + 1
            for row in evaluation["rows"]:
                assert ROW <= set(row) <= ROW | OPTIONAL
                stores = row.get("stores", {})
                assert set(stores) <= SLOTS and len(stores) <= 2 and bool(stores) == (plan["slots"] > 0)
                for combination in [row["prediction"], row["next_sample"], *stores.values()]:
                    assert set(combination) <= STREAMS and 0 not in combination.values()
    assert all(f"`{name}`" in page for name in PLAN | EVALUATION | ROW | OPTIONAL | (STREAMS - SLOTS) | {"slot_0", "slot_5"})


def test_the_documented_example_is_what_the_library_writes():
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/PLAN.md").read_text(), re.S)
    assert json.loads(example) == plan_of(ds.DEISMultistepScheduler(solver_order=2), 2)


SCHEDULERS = [
    lambda: ds.DEISMultistepScheduler(solver_order=3),
    lambda: ds.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    lambda: ds.DDIMScheduler(),
    lambda: ds.DPMSolverMultistepScheduler(thresholding=True, sample_max_value=2.0),
]


@pytest.mark.parametrize("make", SCHEDULERS)
def test_the_documented_program_agrees_with_the_library(make):
    """Runs the lines of docs/PLAN.md as a reader would copy them."""
    page = (ROOT / "docs/PLAN.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.S)
    program = {}
    exec(lines, program)
    scheduler = make()
    scheduler.set_timesteps(6)
    start = np.random.default_rng(1).standard_normal((2, 3, 4))
    draws = [np.random.default_rng(seed).standard_normal(start.shape) for seed in range(6)]
    session, remaining, x = ds.Session(scheduler), iter(draws), start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = session.step(np.tanh(x) - 1e-4 * t, x, noise=next(remaining) if session.needs_noise else None)
    remaining = iter(draws)
    found = program["run"](scheduler.plan_json(), lambda x, t: np.tanh(x) - 1e-4 * t, start, lambda: next(remaining))
    assert np.allclose(found, x, rtol=1e-9, atol=1e-9)


def test_clamps_are_the_documented_ones():
    assert plan_of(ds.DEISMultistepScheduler())["clamp"] == {"none": {}}
    assert plan_of(ds.DDIMScheduler(clip_sample_range=1.5))["clamp"] == {"range": {"limit": 1.5}}
    threshold = plan_of(ds.DEISMultistepScheduler(thresholding=True, sample_max_value=2.0))["clamp"]
    assert threshold == {"dynamic_threshold": {"ratio": 0.995, "maximum": 2}}


@pytest.mark.parametrize("program", ["run_with_numpy.py", "run_with_torch.py"])
def test_examples_agree_with_the_library(program):
    if "torch" in program:
        pytest.importorskip("torch")
    run = subprocess.run(
        [sys.executable, ROOT / "Examples/Plans" / program],
        env=os.environ | {"PYTHONPATH": str(Path(ds.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
