# SPDX-License-Identifier: Apache-2.0

"""Part (b): runs diffusers' own ``tests/schedulers`` from an unmodified checkout, on the originals and on the drop-ins."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

VARIABLE = "DIFFUSERS_SOURCE"

NAMES = """
    consistency_model ddim ddim_inverse ddim_parallel ddpm ddpm_parallel deis dpm_multi dpm_multi_inverse dpm_sde dpm_single
    edm_dpmsolver_multistep edm_euler euler euler_ancestral flow_map_euler_discrete heun ipndm kdpm2_ancestral kdpm2_discrete lcm
    lms pndm sasolver score_sde_ve tcd unclip unipc
""".split()
FILES = [*(f"test_scheduler_{name}.py" for name in NAMES), "test_schedulers.py"]
"""The tests of the library's classes, and the tests that all schedulers share. A class without a drop-in is the original in both
runs."""

BEYOND = {
    "tests.schedulers.test_scheduler_ipndm.IPNDMSchedulerTest.test_full_loop_no_noise": (
        "runs twice without planning again; the original extrapolates from the first run's end and divides by 1e-8: 2540529"
    ),
    "tests.schedulers.test_scheduler_ddpm.DDPMSchedulerTest.test_full_loop_with_noise": (
        "expects 387.9466 within 0.01; the original in float64 ends at 387.9676, since its float32 cancels in 1 - alpha"
    ),
    "tests.schedulers.test_scheduler_ddpm_parallel.DDPMParallelSchedulerTest.test_full_loop_with_noise": "as DDPM's test",
    "tests.schedulers.test_scheduler_lms.LMSDiscreteSchedulerTest.test_full_loop_with_noise": (
        "begins at the ninth step with one derivative; the original uses the first weight of order 4, ours a step of order 1"
    ),
}
"""Tests that pass only with the originals' own errors, and the evidence."""


def run() -> dict[str, Any] | None:
    """Returns the counts of tests, and the tests that pass on one side only. None: ``VARIABLE`` names no checkout."""
    source = os.environ.get(VARIABLE)
    if not source:
        return None
    originals, drop_ins = outcomes(Path(source), drop_ins=False), outcomes(Path(source), drop_ins=True)
    passed = {test for test, outcome in originals.items() if outcome == "passed"}
    lost = sorted(test for test in passed if drop_ins.get(test) != "passed" and test not in BEYOND)
    gained = sorted(test for test, outcome in drop_ins.items() if outcome == "passed" and test not in passed)
    beyond = {test: reason for test, reason in BEYOND.items() if drop_ins.get(test) != "passed"}
    return {"tests": len(originals), "passed_by_originals": len(passed), "lost": lost, "beyond": beyond, "gained": gained}


def outcomes(source: Path, *, drop_ins: bool) -> dict[str, str]:
    """Returns each test's outcome: passed, failure, error or skipped."""
    package = Path(__file__).resolve().parents[1]
    environment = dict(os.environ, PYTHONPATH=str(package), HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
    environment.pop("DIFFUSION_SCHEDULING_DROP_INS", None)
    if drop_ins:
        environment["DIFFUSION_SCHEDULING_DROP_INS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "conformance.upstream_plugin", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *(f"tests/schedulers/{name}" for name in FILES)]
        result = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report:\n{result.stdout}\n{result.stderr}")
        cases = xml.etree.ElementTree.parse(report).iter("testcase")
        found: dict[str, str] = {}
        for case in cases:
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            found[f"{case.get('classname')}.{case.get('name')}"] = kinds.pop() if kinds else "passed"
        return found
