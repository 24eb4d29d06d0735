# SPDX-License-Identifier: Apache-2.0

"""The coded form of plans: its members are those of docs/PLAN.md, and the examples that run it agree with the library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusion_scheduling as ds
import pytest

ROOT = Path(__file__).resolve().parents[3]
COMBINATION = {"sample", "modelOutput", "noise", "prediction", "history"}

pytestmark = pytest.mark.skipif(not (ROOT / "docs/PLAN.md").exists(), reason="the repository isn't there")


def plan_of(scheduler, steps=5):
    scheduler.set_timesteps(steps)
    return json.loads(scheduler.plan_json)


def test_members_are_the_documented_ones():
    page = (ROOT / "docs/PLAN.md").read_text()
    for plan in [plan_of(ds.DEISMultistepScheduler(solver_order=3)), plan_of(ds.DDIMScheduler())]:
        assert set(plan) == {"version", "grid", "initNoiseSigma", "clamp", "historyLength", "modelLearnsVariance", "rows"}
        assert set(plan["grid"]) == {"timesteps", "sigmas", "isFlow"}
        for index, rows in enumerate(plan["rows"]):
            assert len(rows) == min(index, plan["historyLength"]) + 1
            for row in rows:
                assert set(row) == {"prediction", "nextSample"} | ({"history"} if plan["historyLength"] else set())
                assert all(set(combination) == COMBINATION for combination in row.values())
        names = set(plan) - {"grid"} | {f"grid.{name}" for name in plan["grid"]} | COMBINATION | {"nextSample"}
        assert all(f"`{name}`" in page for name in names)


def test_clamps_are_the_documented_ones():
    assert plan_of(ds.DEISMultistepScheduler())["clamp"] == {"none": {}}
    assert plan_of(ds.DDIMScheduler(clip_sample_range=1.5))["clamp"] == {"range": {"limit": 1.5}}
    threshold = plan_of(ds.DEISMultistepScheduler(thresholding=True, sample_max_value=2.0))["clamp"]
    assert threshold == {"dynamicThreshold": {"ratio": 0.995, "maximum": 2}}


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
