# SPDX-License-Identifier: Apache-2.0

"""Compares the Python classes with diffusers: ``make conformance``.

(a)  random configurations of all classes: ``configurations`` and ``classes``
(b)  diffusers' own tests: ``upstream``
(c)  whole pipelines: ``pipelines``
(d)  pipelines of other runtimes: ``runtimes``

Writes ``report.json`` and ``report.txt``. The exit status is 1 if a part fails.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import diffusion_scheduling
import torch

from . import classes, configurations, pipelines, runtimes, upstream
from .goldens import generate

CHECKS = {
    **dict.fromkeys(["deis", "dpmsolver", "dpmsolver_inverse", "ddim", "ddim_inverse"], configurations.check),
    **dict.fromkeys(classes.CLASSES, classes.check),
}
KEYS = list(CHECKS)
PARTS = ["configurations", "upstream", "pipelines", "runtimes"]


def check_configurations(count: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a row of figures for each class, and the configurations with faults."""
    outcomes: list[configurations.Outcome] = []
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context, configurations.prepare_process) as pool:
        turns = [(KEYS[i % len(KEYS)], i // len(KEYS)) for i in range(count)]
        jobs = [pool.submit(CHECKS[key], key, seed, index) for key, index in turns]
        for job in concurrent.futures.as_completed(jobs):
            outcomes.append(job.result())
            if len(outcomes) % 500 == 0:
                print(f"  {len(outcomes)} of {count} configurations, {time.monotonic() - started:.0f} s", flush=True)
    rows = []
    for key in KEYS:
        name = classes.CLASSES[key].name if key in classes.CLASSES else generate.FILES[key][0]
        mine = [outcome for outcome in outcomes if outcome.name == name]
        steps, refused = sum(o.steps for o in mine), sum(o.refused for o in mine)
        loops = len(mine) - refused
        rows.append(
            {
                "class": name,
                "configurations": len(mine),
                "refused_on_purpose": refused,
                "off": sum(bool(o.faults) for o in mine),
                "timesteps_off_by_one_at_an_edge": sum(o.loose_timesteps for o in mine),
                "grids_that_differ_on_purpose": sum(o.other_grid for o in mine),
                "ends_that_differ_on_purpose": sum(o.other_end for o in mine),
                "steps": steps,
                "steps_nearer_than_float32_original": share(sum(o.steps_nearer for o in mine), steps),
                "steps_equally_near": share(sum(o.steps_equal for o in mine), steps),
                "loops_nearer_than_float32_original": share(sum(o.loop_nearer for o in mine), loops),
                "loops_equally_near": share(sum(o.loop_equal for o in mine), loops),
                "worst_share_of_step_bound": max((o.worst_share_of_bound for o in mine), default=0.0),
            }
        )
    faults = [
        {"class": o.name, "index": o.index, "n": o.steps_requested, "faults": o.faults[:5], "config": o.config}
        for o in outcomes
        if o.faults
    ]
    return rows, faults


def share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 0.0


def table(rows: list[dict[str, Any]], *, turned: bool = False) -> str:
    """Formats each row as a line or, if turned, as a column."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([cell_text(row.get(key, "")) for key in keys] for row in rows)]
    if turned:
        cells = [list(column) for column in zip(*cells)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def cell_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="number of random configurations; default %(default)s")
    parser.add_argument("--seed", type=int, help="seed of the configurations; random by default; the report names it")
    parser.add_argument("--out", type=Path, default=Path("out/conformance"), help="folder for the report; default %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; default all")
    arguments = parser.parse_args()
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    parts = arguments.only or PARTS

    report: dict[str, Any] = {
        "seed": seed,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "diffusion_scheduling": diffusion_scheduling.__version__,
    }
    lines = [", ".join(f"{key} {value}" for key, value in report.items())]
    print(lines[0], flush=True)
    failed = False

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    if "configurations" in parts:
        rows, faults = check_configurations(arguments.count, seed)
        report["configurations"], report["faults"] = rows, faults
        failed |= bool(faults)
        say(f"\n{arguments.count} random configurations, {len(faults)} off\n" + table(rows, turned=True))
        for fault in faults[:20]:
            say(f"off: {json.dumps(fault, default=str)}")
    if "upstream" in parts:
        result = upstream.run()
        report["upstream"] = result
        if result is None:
            say(f"\ndiffusers' own tests: skipped, {upstream.VARIABLE} names no checkout of diffusers")
        else:
            failed |= bool(result["lost"]) or not result["passed_by_originals"]
            say(
                f"\ndiffusers' own tests: {result['tests']}; {result['passed_by_originals']} pass on the originals; "
                f"{len(result['lost'])} pass on the originals but not on the drop-ins"
            )
            for test in result["lost"]:
                say(f"lost: {test}")
            for test, reason in result["beyond"].items():
                say(f"beyond float32: {test}: {reason}")
    if "pipelines" in parts:
        results = pipelines.check()
        report["pipelines"] = results
        failed |= not all(result["passed"] for result in results)
        say("\npipelines, differences of pictures in [0, 1]\n" + table(results))
    if "runtimes" in parts:
        found = runtimes.check()
        report["runtimes"] = found
        if found is None:
            say("\npipelines of other runtimes: skipped, neither optimum-intel nor optimum-onnx is installed for this Python")
        else:
            failed |= not all(record["passed"] for record in found)
            say("\npipelines of other runtimes, differences of pictures in [0, 1]\n" + table(found))

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
    (arguments.out / "report.txt").write_text("\n".join(lines) + "\n")
    print(f"\nreport: {arguments.out}/report.txt and report.json")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
