#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks and times the steps of ``diffusion_scheduling.torch`` on a GPU, in one run of less than 8 minutes.

Usage::

    device.py [--out DIR] [--budget SECONDS] [--rehearse]

The checks, each printing "ok" or its findings:

bits            steps with "float64" sums have the bits of the library's steps on the host
graph           a captured step, replayed over whole runs, has the bits of single launches
synchronisation no step waits for the device: torch.cuda.set_sync_debug_mode("error")
noise           noise drawn in the kernel has the bits of torch.randn on CUDA

The times of a step in the middle of a run, for DEIS of order 3, UniPC of order 2 and Euler, at three sizes in float32 and bfloat16:

kernel          DeviceBatch.step in a captured graph
drop-in         the drop-in's step, launched from Python
diffusers       the original's step, eager
torch.compile   the row's sums as one expression with ready scalars, compiled
copy            a copy that reads and writes the step's number of bytes

Device times are medians of events around batches of launches. Host times end when a call returns. Tables go to DIR/device.md and
DIR/device.json. Without a GPU, nothing is measured, and the exit status is 2.

``--rehearse`` runs interpreted kernels on a few elements, and leaves out what needs a GPU. Its times mean nothing.

Needs torch with Triton, diffusers==0.42.1, and the C library (``make lib``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads the variable at import.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import diffusers
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bindings" / "python"))
os.environ.setdefault("DIFFUSION_SCHEDULING_LIBRARY", str(ROOT / "out" / "lib" / "libdiffusion_scheduling.so"))
import diffusion_scheduling as ds  # noqa: E402
from diffusion_scheduling import _launch  # noqa: E402
from diffusion_scheduling import diffusers as replacements  # noqa: E402
from diffusion_scheduling.torch import DeviceBatch, PlanTable  # noqa: E402

STEPS = 20
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # With v prediction, solvers must compute the tensors they remember.
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3, "prediction_type": "v_prediction"}),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2, "prediction_type": "v_prediction"}),
    "Euler": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
}
SHAPES = {"4×64×64": (1, 4, 64, 64), "16×128×128": (1, 16, 128, 128), "16×21×90×160": (1, 16, 21, 90, 160)}
TINY = {"4×3×5": (1, 4, 3, 5)}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RANDN_SIZES = [1, 255, 4096, 65536, 262144, 1_000_003, 4_838_400]


class Machine:
    """The device, or the host in a rehearsal."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")

    @property
    def name(self) -> str:
        return f"rehearsal on {platform.processor() or 'a processor'}" if self.rehearse else torch.cuda.get_device_name()

    def synchronize(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()

    def captured(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work as one graph, after three runs of the work without a graph. In a rehearsal, the work itself."""
        if self.rehearse:
            return work
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    @contextlib.contextmanager
    def without_synchronisation(self) -> Iterator[None]:
        if self.rehearse:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def device_time(self, work: Callable[[], Any], batches: int = 12, seconds: float = 0.02) -> float:
        """The work's median time on the device, in microseconds. A batch lasts about `seconds`."""
        for _ in range(3):
            work()
        self.synchronize()
        if self.rehearse:
            begin = time.perf_counter()
            work()
            return (time.perf_counter() - begin) * 1e6
        one = self._batch(work, 10)
        count = max(10, min(2000, int(seconds * 1e6 / max(one, 0.5))))
        return statistics.median(self._batch(work, count) for _ in range(batches))

    def _batch(self, work: Callable[[], Any], count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / count

    def host_time(self, work: Callable[[], Any], batches: int = 12, count: int = 50) -> float:
        """The median time until a call returns, in microseconds. Each batch begins with an empty device queue."""
        if self.rehearse:
            batches = count = 1
        times = []
        for _ in range(batches):
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(count):
                work()
            times.append((time.perf_counter() - begin) * 1e6 / count)
        self.synchronize()
        return statistics.median(times)


def normal(shape: tuple[int, ...], seed: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def ours(name: str, steps: int = STEPS, **more: Any) -> Any:
    class_name, options = SCHEDULERS[name]
    scheduler = getattr(ds, class_name)(**options, **more)
    scheduler.set_timesteps(steps)
    return scheduler


# ---- Checks


def check_bits(machine: Machine) -> str:
    """Compares a batch with the host: items of all schedulers at different steps, and a free place."""
    schedulers = [ours(name, 6) for name in SCHEDULERS]
    extra = ds.DDPMScheduler(thresholding=True, clip_sample=False)
    extra.set_timesteps(6)
    schedulers.append(extra)
    shape, found = (5, 4, 9, 11) if machine.rehearse else (5, 4, 64, 67), []
    for dtype in (torch.float32, torch.float16, torch.float64):
        batch = DeviceBatch(PlanTable(schedulers, machine.device), shape, dtype, sums="float64", draws_noise=False)
        sessions: list[ds.Session | None] = [*(ds.Session(scheduler, i) for i, scheduler in enumerate(schedulers)), None]
        for i in range(len(schedulers)):
            batch.begin(i, i, i)
        x = normal(shape, 1, machine.device, dtype)
        for number in range(4):
            sessions = [None if each is None or each.timestep is None else each for each in sessions]
            e, z = torch.tanh(x), normal(shape, 10 + number, machine.device, dtype)
            expected = ds.step_rows(sessions, e.cpu().numpy(), x.cpu().numpy(), noise=z.cpu().numpy())
            x = batch.step(e, x, noise=z)
            if not np.array_equal(x.cpu().numpy(), expected):
                found.append(f"{dtype}, step {number}: {np.abs(x.cpu().numpy() - expected).max()}")
    return "; ".join(found) or "ok"


def whole_run(machine: Machine, is_captured: bool) -> torch.Tensor:
    """The last samples of runs that begin one after another."""
    schedulers = [ours(name, steps) for name, steps in zip(SCHEDULERS, (7, 9, 12))]
    ancestral = ds.EulerAncestralDiscreteScheduler()
    ancestral.set_timesteps(8)
    table = PlanTable([*schedulers, ancestral], machine.device)
    shape = (4, 2, 5, 5) if machine.rehearse else (4, 4, 64, 64)
    batch = DeviceBatch(table, shape)
    sample = normal(shape, 2, machine.device)

    def step() -> None:
        batch.step(torch.tanh(batch.model_input(sample)), sample, out=sample)

    work = machine.captured(step) if is_captured else step
    for number in range(16):
        if number < 4:
            batch.begin(number, number, 0, seed=number)
        work()
    machine.synchronize()
    assert not batch.rows.any()
    return sample


def check_graph(machine: Machine) -> str:
    if machine.rehearse:
        whole_run(machine, False)
        return "not checked: a rehearsal has no graphs"
    return "ok" if torch.equal(whole_run(machine, True), whole_run(machine, False)) else "a replayed run has other bits"


def check_synchronisation(machine: Machine) -> str:
    shape = (2, 3, 5) if machine.rehearse else (2, 4, 64, 64)
    batch = DeviceBatch(PlanTable([ours(name) for name in SCHEDULERS], machine.device), shape)
    x = normal(shape, 3, machine.device)
    batch.step(x, x)
    drop_in = getattr(replacements, SCHEDULERS["UniPC 2"][0])(**SCHEDULERS["UniPC 2"][1])
    drop_in.set_timesteps(STEPS, device=machine.device)
    try:
        with machine.without_synchronisation():
            for plan in range(2):
                batch.begin(plan, plan)
            for _ in range(4):
                batch.step(torch.tanh(batch.model_input(x)), x, out=x, unconditional=x, guidance_scale=3.0)
            batch.free(0)
            for timestep in drop_in.timesteps[:4]:
                drop_in.step(torch.tanh(x), timestep, x)
    except RuntimeError as error:
        return str(error)
    return "not checked: a rehearsal has no device to wait for" if machine.rehearse else "ok"


def check_noise(machine: Machine) -> list[dict[str, Any]]:
    """For each size, the count of the kernel's numbers that differ from torch.randn's, and the greatest difference."""
    scheduler = ds.EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(4)
    table = PlanTable([scheduler], machine.device)
    record = table.records[table.record()].cpu()
    factor = float(record[20 + 2])
    rows = []
    for n in [65] if machine.rehearse else RANDN_SIZES:
        generator = torch.Generator(machine.device).manual_seed(1234)
        torch.randn(n, generator=generator, device=machine.device)  # Makes the offset nonzero.
        offset = 0 if machine.rehearse else generator.get_offset()
        expected = torch.randn(n, generator=generator, device=machine.device)
        # A step on zeros is the noise times one coefficient, so equal numbers give the result of a step with the expected noise.
        zeros = torch.zeros(1, n, device=machine.device)
        drawn, given = DeviceBatch(table, (1, n)), DeviceBatch(table, (1, n), draws_noise=False)
        drawn.begin(0, seed=1234, offset=offset)
        given.begin(0)
        found, wanted = drawn.step(zeros, zeros), given.step(zeros, zeros, noise=expected[None])
        differing = (found != wanted).sum().item()
        row = {
            "n": n,
            "differing": differing,
            "greatest": float((found - wanted).abs().max()) / abs(factor),
            "offset": int(drawn.offsets[0]),
            "torch_offset": None if machine.rehearse else generator.get_offset(),
        }
        rows.append(row)
    return rows


# ---- Times


def expression(scheduler: Any, index: int) -> tuple[Callable[..., Any], int, int]:
    """A row's sums as an engine would write them: a function of x, e and the slots. Also returns the counts of slots and stores."""
    records = _launch.table_of(scheduler._ready(), 0)
    warm_up = int(scheduler._ready().properties.warm_up)
    record = [each for each in records if each["evaluation"] == index][min(index, warm_up)]
    reads, stores = int((record["reads"] >= 0).sum()), int((record["stores"] >= 0).sum())
    # Without a clamp, p is a sum of x and e, so its terms fold into the row's.
    rows = [row + np.concatenate([row[9] * record["prediction"][:3], np.zeros(7)]) for row in record["outputs"]]
    places = [0, *(1 + k for k in range(stores))]
    coefficients = [[float(c) for c in (*rows[place][:2], *rows[place][3 : 3 + reads])] for place in places]

    def step(x: torch.Tensor, e: torch.Tensor, *slots: torch.Tensor) -> list[torch.Tensor]:
        results = []
        for row in coefficients:
            total = None
            for c, tensor in zip(row, (x, e, *slots)):
                if c:
                    term = c * tensor.float()
                    total = term if total is None else total + term
            assert total is not None
            results.append(total.to(x.dtype))
        return results

    return step, reads, stores


def times(machine: Machine, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Returns the times of all contestants, in microseconds."""
    class_name, options = SCHEDULERS[name]
    device, index = machine.device, STEPS // 2
    x, e = normal(shape, 4, device, dtype), normal(shape, 5, device, dtype)
    scheduler = ours(name)
    step, reads, stores = expression(scheduler, index)
    found: dict[str, Any] = {
        "scheduler": name,
        "elements": x.numel(),
        "type": str(dtype).removeprefix("torch."),
        "streams": 3 + reads + stores,
    }

    # The batch advances to the middle of the run, where steps have their full order.
    table = PlanTable([scheduler], device)
    batch = DeviceBatch(table, shape, dtype)
    out = torch.empty_like(x)
    for item in range(shape[0]):
        batch.begin(item)
    for _ in range(index):
        batch.step(e, x, out=out)
    row = int(batch.rows[0])

    def kernel() -> None:
        batch.step(e, x, out=out)

    # The record becomes its own successor, so every replay takes the same step. Steps past the run's end would be cheaper.
    table.records.view(torch.int32)[row, 14] = row
    captured = machine.captured(kernel)
    found["kernel"] = machine.device_time(captured)
    found["kernel, host"] = machine.host_time(kernel)
    found["replay, host"] = machine.host_time(captured)

    slots = [normal(shape, 6 + k, device, dtype) for k in range(reads)]
    if machine.rehearse:
        step(x, e, *slots)
    else:
        torch._dynamo.reset()  # All rows' sums are one function to dynamo, which compiles a function at most eight times.
        compiled = machine.captured(lambda fast=torch.compile(step): fast(x, e, *slots))  # type: ignore[misc]
        found["torch.compile"] = machine.device_time(compiled)

    half = x.numel() * x.element_size() * (3 + reads + stores) // 2
    source, target = (torch.empty(half, dtype=torch.uint8, device=device) for _ in range(2))
    source.zero_()
    found["copy"] = machine.device_time(machine.captured(lambda: target.copy_(source)))
    found["share of copy"] = found["copy"] / found["kernel"]

    for key, module in (("drop-in", replacements), ("diffusers", diffusers)):
        stepped = getattr(module, class_name)(**options)
        stepped.set_timesteps(STEPS, device=device)
        timesteps, number = list(stepped.timesteps), [0]

        def turn(stepped: Any = stepped, timesteps: list[Any] = timesteps, number: list[int] = number) -> None:
            # Two steps before the last one, goes back to the middle. Its remembered tensors stay, so the order stays full.
            if number[0] == STEPS - 3:
                number[0] = stepped._step_index = index
            stepped.step(e, timesteps[number[0]], x)
            number[0] += 1

        for _ in range(index):
            turn()
        found[key] = machine.device_time(turn)
        found[f"{key}, host"] = machine.host_time(turn)
    return found


def table_of(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return head + ["| " + " | ".join(text(row.get(name)) for name in names) + " |" for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="the folder for device.md and device.json")
    parser.add_argument("--budget", type=float, default=440, metavar="SECONDS", help="begin no size after this; 440 by default")
    parser.add_argument("--rehearse", action="store_true", help="interpret the kernels on a few elements, without a GPU")
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        print("device.py: torch finds no CUDA device, so nothing is measured; --rehearse runs without one", file=sys.stderr)
        return 2
    diffusers.utils.logging.set_verbosity_error()  # diffusers would warn of the missing scale_model_input calls.
    machine, begin = Machine(arguments.rehearse), time.monotonic()
    if arguments.rehearse:
        _launch.DEVICES.add("cpu")
    facts = {
        "device": machine.name,
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "diffusers": diffusers.__version__,
        "cuda": torch.version.cuda,
    }
    print(facts)
    checks: dict[str, Any] = {}
    for name, check in {"bits": check_bits, "graph": check_graph, "synchronisation": check_synchronisation}.items():
        checks[name] = check(machine)
        print(f"{name}: {checks[name]}", flush=True)
    noise = check_noise(machine)
    wrong = [row for row in noise if row["differing"] or row["torch_offset"] not in (None, row["offset"])]
    checks["noise"] = "not checked: a rehearsal has no torch.randn on CUDA" if arguments.rehearse else "ok"
    if wrong and not arguments.rehearse:
        checks["noise"] = f"{len(wrong)} of {len(noise)} sizes differ"
    print(f"noise: {checks['noise']}", flush=True)
    rows, left_out = [], []
    for label, shape in (TINY if arguments.rehearse else SHAPES).items():
        for dtype in TYPES.values():
            for name in SCHEDULERS:
                if time.monotonic() - begin > arguments.budget:
                    left_out.append(f"{name}, {label}, {dtype}")
                    continue
                rows.append(times(machine, name, shape, dtype))
                print(rows[-1], flush=True)
    largest = [row for row in rows if row["elements"] >= 4_000_000]
    if largest:
        least = min(row["share of copy"] for row in largest)
        checks["bandwidth"] = f"at least {least:.2f} of a copy's at 4.8 M elements; 0.85 is wanted"
    text = [f"# Steps on {facts['device']}", "", f"{json.dumps(facts)}", "", "Times are in microseconds.", ""]
    text += [*table_of(rows), "", "Noise:", "", *table_of(noise), ""]
    text += [f"- {name}: {result}" for name, result in checks.items()] + [f"- left out: {each}" for each in left_out]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "device.md").write_text("\n".join(text) + "\n")
    data = {"facts": facts, "checks": checks, "noise": noise, "rows": rows, "left_out": left_out}
    (arguments.out / "device.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"{time.monotonic() - begin:.0f} s; tables are in {arguments.out / 'device.md'}")
    failed = [
        name for name, result in checks.items() if name != "bandwidth" and result != "ok" and not result.startswith("not checked")
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
