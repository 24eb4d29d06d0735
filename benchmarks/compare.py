#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Times this library's steps and plans against diffusers, torch.compile and NumPy, alternately in one process.

Usage::

    compare.py [--filter REGEX] [--quick] [--out DIR]

Every row is one scheduler at one size. In each round, every contestant takes a batch of steps in turn; the first contestant changes
from round to round. Ratios compare lower deciles of the rounds, because a machine's other load only adds time. The contestants:

library             ``scheduler.step(e, t, x)`` of ``diffusion_scheduling``, which returns a new array; for half types and guided
                    steps, ``step`` of ``diffusion_scheduling.diffusers`` on torch tensors
library, in place   ``library`` with ``out=x``
library, one thread ``library, in place`` with ``max_threads = 1``
diffusers           ``scheduler.step(e, t, x)`` of diffusers, eager, on torch tensors; guided steps after a pipeline's arithmetic
torch.compile       the step as one hand-written expression with ready scalars, compiled: the best that an engine can do
NumPy               the same expression, not compiled

Before the timing, every contestant takes the same steps, and its result is compared with the expression in float64.

Two more rows: this library's step of 64 elements through the C interface, in a compiled program; and steps between torch's matrix
products, with the ratio of the 90th percentile to the median.

Needs diffusers==0.42.1, torch, numpy and matplotlib, a C++ compiler for torch.compile, and the C library (``make lib``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

if "--quick" in sys.argv:
    # A spinning thread costs a time slice per step if other programs need the cores. Measurements don't use this setting.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Silences transformers, which diffusers' pipelines import.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# torch is imported first, because it loads an OpenMP runtime, and the library uses the runtime already in the process.
import diffusers
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bindings" / "python"))
os.environ.setdefault("DIFFUSION_SCHEDULING_LIBRARY", str(ROOT / "out" / "lib" / "libdiffusion_scheduling.so"))
import diffusion_scheduling  # noqa: E402
from diffusion_scheduling import diffusers as replacements  # noqa: E402

STEP_COUNT = 50
WARM_STEPS = 3
"""The number of steps before the solver reaches its full order. The steps after these cost the same, up to the last one."""

SHAPES = {
    64: (1, 4, 4, 4),
    16_384: (1, 4, 64, 64),
    65_536: (1, 4, 128, 128),
    524_288: (8, 4, 128, 128),
    98_304: (8, 3, 64, 64),
    262_144: (4, 4, 128, 128),
    786_432: (4, 3, 256, 256),
    1_572_864: (8, 3, 256, 256),
    3_145_728: (4, 3, 512, 512),
    25_165_824: (8, 3, 1024, 1024),
}
SIZES = [64, 16_384, 65_536, 524_288, 3_145_728, 25_165_824]
SMALLER_SIZES = SIZES[:-1]
DEEPFLOYD_SIZES = [98_304, 1_572_864]
"""Batches of the pictures that DeepFloyd's first two models make, which sample with thresholds."""
THRESHOLD_SIZES = sorted([*DEEPFLOYD_SIZES, 786_432, 3_145_728])
FEW_SIZES = [65_536, 3_145_728]
"""The sizes for cases that differ little from other cases."""
QUICK_SIZES = [65_536, 98_304]
ONE_THREAD_SIZES = [65_536, 524_288]
PRODUCT_SIZE = 262_144


@dataclass
class Case:
    """A scheduler whose steps are timed: its name, and its class and arguments in both libraries."""

    name: str
    class_name: str
    arguments: dict[str, Any]
    sizes: list[int] = field(default_factory=lambda: SIZES)
    element_type: torch.dtype = torch.float32
    guidance: tuple[float, float] | None = None
    """The guidance scale and the rescaling of guided steps; None for plain steps."""

    def ours(self) -> Any:
        """The library's scheduler for NumPy arrays."""
        return getattr(diffusion_scheduling, self.class_name)(**self.arguments)

    def replacement(self) -> Any:
        """The library's scheduler for torch tensors."""
        return getattr(replacements, self.class_name)(**self.arguments)

    def theirs(self) -> Any:
        return getattr(diffusers, self.class_name)(**self.arguments)

    @property
    def is_stochastic(self) -> bool:
        return str(self.arguments.get("algorithm_type")).startswith("sde")


# With v_prediction, a multistep solver must compute the tensor it stores; it can't store the model output itself.
V = {"prediction_type": "v_prediction"}
CASES = [
    Case("DDIM", "DDIMScheduler", {"clip_sample": False}),
    Case("DEIS 1", "DEISMultistepScheduler", {"solver_order": 1, **V}, SMALLER_SIZES),
    Case("DEIS 2", "DEISMultistepScheduler", {"solver_order": 2, **V}, SMALLER_SIZES),
    Case("DEIS 3", "DEISMultistepScheduler", {"solver_order": 3, **V}),
    Case("DPM-Solver++ 1", "DPMSolverMultistepScheduler", {"solver_order": 1, **V}, SMALLER_SIZES),
    Case("DPM-Solver++ 2", "DPMSolverMultistepScheduler", {"solver_order": 2, **V}, SMALLER_SIZES),
    Case("DPM-Solver++ 3", "DPMSolverMultistepScheduler", {"solver_order": 3, **V}),
    # The greatest threshold is out of reach, so each item's quantile matters, and is compared.
    Case(
        "DEIS 3 thresholded",
        "DEISMultistepScheduler",
        {"solver_order": 3, "thresholding": True, "sample_max_value": 4.0, **V},
        THRESHOLD_SIZES,
    ),
    Case(
        "SDE-DPM-Solver++ 2",
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", **V},
        FEW_SIZES,
    ),
    Case("DPM-Solver++ 2 inverse", "DPMSolverMultistepInverseScheduler", {"solver_order": 2, **V}, FEW_SIZES),
    Case("DDIM inverse", "DDIMInverseScheduler", {"clip_sample": False}, FEW_SIZES),
    Case("DEIS 3 float16", "DEISMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, torch.float16),
    Case("DEIS 3 bfloat16", "DEISMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, torch.bfloat16),
    Case("DPM-Solver++ 3 float16", "DPMSolverMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, torch.float16),
    Case("DPM-Solver++ 3 bfloat16", "DPMSolverMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, torch.bfloat16),
    Case("DEIS 3 guided", "DEISMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, guidance=(7.5, 0)),
    Case("DPM-Solver++ 2 guided", "DPMSolverMultistepScheduler", {"solver_order": 2, **V}, FEW_SIZES, guidance=(7.5, 0)),
    Case("DEIS 3 rescaled", "DEISMultistepScheduler", {"solver_order": 3, **V}, FEW_SIZES, guidance=(7.5, 0.7)),
]


# ---- Contestants


class Contestant(Protocol):
    """A contestant takes the steps of a run, over and over."""

    name: str

    def begin(self) -> None:
        """Returns to the start of a run."""

    def step(self, index: int) -> None:
        """Takes the step `index`, which follows the previous one."""

    def result(self) -> np.ndarray:
        """The current sample, in float64."""


@dataclass
class Data:
    """The inputs of the steps. Steps cycle through the model outputs."""

    start: Any
    outputs: list[Any]
    unconditional: list[Any]
    """The unconditional outputs of guided steps; empty for plain steps."""
    noise: Any
    """The noise of stochastic steps; None for other steps."""

    @classmethod
    def random(cls, case: Case, size: int) -> Data:
        """Tensors of the case's type."""
        generator = np.random.default_rng(0)

        def tensor() -> torch.Tensor:
            return torch.from_numpy(generator.standard_normal(SHAPES[size], np.float32)).to(case.element_type)

        return cls(
            tensor(),
            [tensor() for _ in range(3)],
            [tensor() for _ in range(3)] if case.guidance else [],
            tensor() if case.is_stochastic else None,
        )

    def arrays(self, dtype: Any) -> Data:
        """Copies as NumPy arrays."""

        def array(tensor: torch.Tensor) -> np.ndarray:
            return tensor.to(torch.float64).numpy().astype(dtype)

        noise = None if self.noise is None else array(self.noise)
        return Data(array(self.start), [array(e) for e in self.outputs], [array(e) for e in self.unconditional], noise)

    def at(self, index: int) -> tuple[Any, Any]:
        """The model outputs of a step: conditional, and unconditional or None."""
        k = index % len(self.outputs)
        return self.outputs[k], self.unconditional[k] if self.unconditional else None


class SchedulerContestant:
    """A scheduler with diffusers' interface, this library's or diffusers' own."""

    def __init__(
        self, name: str, scheduler: Any, data: Data, in_place: bool = False, guide: Callable[[Any, Any], Any] | None = None
    ) -> None:
        self.name, self.scheduler, self.data = name, scheduler, data
        self.in_place, self.guide = in_place, guide
        self.options = {} if data.noise is None else {"variance_noise": data.noise}
        # This plan provides the timesteps. Each run plans again, untimed.
        scheduler.set_timesteps(STEP_COUNT)
        self.timesteps = list(scheduler.timesteps)

    def begin(self) -> None:
        self.scheduler.set_timesteps(STEP_COUNT)
        start = self.data.start
        self.sample = start.copy() if isinstance(start, np.ndarray) else start.clone()

    def step(self, index: int) -> None:
        e, unconditional = self.data.at(index)
        if self.guide:
            e = self.guide(e, unconditional)
        if self.in_place:
            self.scheduler.step(e, self.timesteps[index], self.sample, out=self.sample, **self.options)
        else:
            self.sample = self.scheduler.step(e, self.timesteps[index], self.sample, **self.options).prev_sample

    def result(self) -> np.ndarray:
        return wide(self.sample)


def wide(sample: Any) -> np.ndarray:
    return sample.astype(np.float64) if isinstance(sample, np.ndarray) else sample.to(torch.float64).numpy()


def pipeline_guidance(guidance: tuple[float, float]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Guidance with the arithmetic of diffusers' pipelines."""
    scale, rescale = guidance
    if not rescale:
        return lambda e, unconditional: unconditional + scale * (e - unconditional)
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    return lambda e, unconditional: rescale_noise_cfg(unconditional + scale * (e - unconditional), e, guidance_rescale=rescale)


def own_guidance(guidance: tuple[float, float]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The cheapest guidance in Python outside the library: one pass of torch, then the library's rescaling."""
    scale, rescale = guidance

    def guide(e: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
        guided = torch.lerp(unconditional, e, scale)
        if rescale:
            array = guided.numpy()
            diffusion_scheduling.rescale_noise_cfg(array, e.numpy(), rescale, out=array)
        return guided

    return guide


@dataclass
class Row:
    """The scalars of a step."""

    prediction: Any
    """[sample, model output] of the clamped prediction, or None."""
    step: Any
    """[sample, model output, noise, prediction, slots from the most recently stored one on...]"""
    other: Any
    """[sample, model output, prediction], or None."""


class Expression:
    """A step's update with ready scalars, without the solver.

    e      = e_u + s (e_c - e_u)           in guided steps, possibly rescaled
    p      = clamp(h x + i e)              in thresholded steps: the clamped prediction
    next   = a x + b e + n z + d p + sum_k c[k] m[k]
    other  = f x + g e + j p               m[0] of the next step, or DDIM's second result, the predicted clean sample
    """

    def __init__(self, case: Case) -> None:
        scheduler = case.ours()
        scheduler.set_timesteps(STEP_COUNT)
        properties = scheduler.plan_properties()
        self.slot_count = properties.n_slots
        self.guidance = case.guidance
        self.threshold = (properties.threshold_ratio, properties.threshold_maximum) if case.arguments.get("thresholding") else None
        self.rows: list[Row] = []
        for index in range(STEP_COUNT):
            row = scheduler.row(index)
            step, stored = row.next_sample, row.stored
            # The second result: the store or, without slots, DDIM's report.
            other = next(iter(stored.values())) if stored else row.prediction
            # The solvers store into the slots in turn. The slot stored by step index - 1 comes first.
            slots = [step.slots[(index - 1 - k) % self.slot_count] for k in range(min(index, self.slot_count))]
            has_other = other.sample != 0 or other.model_output != 0 or other.prediction != 0
            prediction = row.prediction
            self.rows.append(
                Row(
                    [prediction.sample, prediction.model_output] if self.threshold else None,
                    [step.sample, step.model_output, step.noise, step.prediction, *slots],
                    [other.sample, other.model_output, other.prediction] if has_other else None,
                )
            )

    def update(self, x: Any, e: Any, unconditional: Any, z: Any, earlier: list[Any], prediction: Any, c: Any, other: Any) -> Any:
        """The next sample and the second result, for tensors or arrays."""
        if self.guidance:
            scale, rescale = self.guidance
            conditional = e
            e = unconditional + scale * (e - unconditional)
            if rescale:
                e = e * (rescale * deviation(conditional) / deviation(e) + (1 - rescale))
        p = None
        if self.threshold:
            ratio, maximum = self.threshold
            p = prediction[0] * x + prediction[1] * e
            s = quantile(abs(p), ratio).clip(1, None).clip(None, maximum)
            p = p.clip(-s, s) / s
        next_sample = c[0] * x + c[1] * e
        if z is not None:
            next_sample = next_sample + c[2] * z
        if p is not None:
            next_sample = next_sample + c[3] * p
        for k, m in enumerate(earlier):
            next_sample = next_sample + c[4 + k] * m
        if other is None:
            return next_sample, None
        kept = other[0] * x + other[1] * e
        return next_sample, kept if p is None else kept + other[2] * p


def deviation(tensor: Any) -> Any:
    """The batch items' standard deviations, in a shape that broadcasts over the items."""
    axes = tuple(range(1, tensor.ndim))
    return tensor.std(axis=axes, keepdims=True) if isinstance(tensor, np.ndarray) else tensor.std(dim=axes, keepdim=True)


def quantile(tensor: Any, ratio: float) -> Any:
    """The batch items' quantiles, in a shape that broadcasts over the items."""
    items = tensor.reshape(tensor.shape[0], -1)
    if isinstance(tensor, np.ndarray):
        return np.quantile(items, ratio, axis=1).astype(tensor.dtype).reshape(-1, 1, 1, 1)
    return torch.quantile(items, ratio, dim=1).reshape(-1, 1, 1, 1)


class NumPyContestant:
    """The expression in NumPy. In float64 it is the reference of the other contestants."""

    def __init__(self, name: str, expression: Expression, data: Data) -> None:
        self.name, self.expression, self.data = name, expression, data

    def begin(self) -> None:
        self.sample, self.earlier = self.data.start.copy(), []

    def step(self, index: int) -> None:
        row = self.expression.rows[index]
        e, unconditional = self.data.at(index)
        self.sample, kept = self.expression.update(
            self.sample, e, unconditional, self.data.noise, self.earlier, row.prediction, row.step, row.other
        )
        self.earlier = [kept, *self.earlier][: self.expression.slot_count]

    def result(self) -> np.ndarray:
        return wide(self.sample)


class CompiledContestant:
    """The expression fused by torch.compile. The scalars are tensors, because numbers would be compiled in."""

    name = "torch.compile"

    def __init__(self, expression: Expression, data: Data) -> None:
        self.slot_count, self.data = expression.slot_count, data

        def scalars(values: list[float] | None) -> torch.Tensor | None:
            return None if values is None else torch.tensor(values)

        self.rows = [Row(scalars(row.prediction), scalars(row.step), scalars(row.other)) for row in expression.rows]
        self.function = torch.compile(expression.update, dynamic=False, mode="max-autotune-no-cudagraphs")

    def begin(self) -> None:
        self.sample, self.earlier = self.data.start.clone(), []

    def step(self, index: int) -> None:
        row = self.rows[index]
        e, unconditional = self.data.at(index)
        self.sample, kept = self.function(
            self.sample, e, unconditional, self.data.noise, self.earlier, row.prediction, row.step, row.other
        )
        self.earlier = [kept, *self.earlier][: self.slot_count]

    def result(self) -> np.ndarray:
        return wide(self.sample)


def contestants(case: Case, size: int) -> tuple[list[Contestant], Contestant]:
    """The contestants, and the expression in float64."""
    data, expression = Data.random(case, size), Expression(case)
    everyone: list[Contestant]
    if case.guidance:
        everyone = [
            SchedulerContestant("library", case.replacement(), data, guide=own_guidance(case.guidance)),
            SchedulerContestant("diffusers", case.theirs(), data, guide=pipeline_guidance(case.guidance)),
        ]
    elif case.element_type != torch.float32:
        everyone = [
            SchedulerContestant("library", case.replacement(), data),
            SchedulerContestant("diffusers", case.theirs(), data),
        ]
    else:
        arrays = data.arrays(np.float32)
        everyone = [
            SchedulerContestant("library", case.ours(), arrays),
            SchedulerContestant("library, in place", case.ours(), arrays, in_place=True),
            SchedulerContestant("diffusers", case.theirs(), data),
            NumPyContestant("NumPy", expression, arrays),
        ]
        if size in ONE_THREAD_SIZES:
            single = case.ours()
            single.max_threads = 1
            everyone.append(SchedulerContestant("library, one thread", single, arrays, in_place=True))
    everyone.append(CompiledContestant(expression, data))
    return everyone, NumPyContestant("float64", expression, data.arrays(np.float64))


def errors(case: Case, everyone: list[Contestant], reference: Contestant) -> tuple[dict[str, float], dict[str, str]]:
    """The contestants' errors against the expression in float64 after the first steps, in units of the element type at the sample's
    magnitude, and the reason of a failed compilation. The compiled contestant is then removed."""
    reasons: dict[str, str] = {}
    for each in [*everyone, reference]:
        try:
            each.begin()
            for index in range(WARM_STEPS + 1):
                each.step(index)
        except Exception as error:  # torch's compiler raises many types.
            if not isinstance(each, CompiledContestant):
                raise
            reasons[each.name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    everyone[:] = [each for each in everyone if each.name not in reasons]
    exact = reference.result()
    unit = float(torch.finfo(case.element_type).eps) * float(np.abs(exact).max())
    # 50 units are less than the error of one threshold for a whole batch (192). diffusers' DEIS of order 3 is 680 units off in
    # float32, where its coefficients cancel.
    limits = {"diffusers": 10_000} if case.element_type == torch.float32 else {}
    found = {each.name: float(np.abs(each.result() - exact).max()) / unit for each in everyone}
    for name, error in found.items():
        if not error < limits.get(name, 50):
            raise SystemExit(f"{case.name}: {name} is {error:.0f} units off: wrong results aren't timed")
    return found, reasons


# ---- Measurement


class CoreCheck:
    """Checks that each of torch's n threads has its own processor core: n threads then take little more than 1/n of one's time."""

    LEAST_SHARE = 0.75

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        # 60,000 elements of a slow function: computing bounds the time, not memory.
        self.work = torch.rand(60_000) + 1

    def speed_up(self) -> float:
        if self.threads == 1:
            return 1.0
        # torch's threshold for using threads depends on its version, so the number of threads is set here.
        torch.set_num_threads(1)
        one = min(duration(lambda: torch.lgamma(self.work)) for _ in range(3))
        torch.set_num_threads(self.threads)
        # Threads that share a core are sometimes lucky, so the median counts, not the best time.
        everything = sorted(duration(lambda: torch.lgamma(self.work)) for _ in range(3))[1]
        return one / everything

    def has_cores(self) -> bool:
        return self.speed_up() >= self.LEAST_SHARE * self.threads


def duration(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass
class Effort:
    seconds: float
    least_rounds: int
    most_rounds: int


@dataclass
class Timings:
    """Each contestant's seconds per step or call, round by round."""

    times: dict[str, list[float]]
    repeated_rounds: int = 0
    disturbed: bool = False
    """Whether threads still shared a core, or medians still jumped, after all repetitions."""

    def quantile(self, name: str, ratio: float) -> float:
        return float(np.quantile(self.times[name], ratio))

    def decile(self, name: str) -> float:
        return self.quantile(name, 0.1)

    def jumps(self) -> bool:
        """Whether a contestant's median is more than twice its lower decile, as torch's is on shared cores."""
        return any(self.quantile(name, 0.5) > 2 * self.decile(name) for name in self.times)

    def summary(self, name: str) -> dict[str, float]:
        return {
            "median": self.quantile(name, 0.5),
            "lowerDecile": self.decile(name),
            "lowerQuartile": self.quantile(name, 0.25),
            "upperQuartile": self.quantile(name, 0.75),
            "rounds": len(self.times[name]),
        }


def alternate(batches: dict[str, Callable[[], float]], effort: Effort, check: CoreCheck) -> Timings:
    """Measures, and repeats a disturbed measurement at most twice."""
    repeated = 0
    for attempt in range(3):
        timings = alternate_once(batches, effort, check)
        timings.disturbed = timings.disturbed or timings.jumps()
        timings.repeated_rounds += repeated
        if not timings.disturbed:
            break
        repeated = timings.repeated_rounds + len(next(iter(timings.times.values())))
    return timings


def alternate_once(batches: dict[str, Callable[[], float]], effort: Effort, check: CoreCheck) -> Timings:
    """Calls each batch once per round for its seconds per step. A round waits while threads share cores, up to a limit."""
    names = list(batches)
    timings = Timings({name: [] for name in names})
    rounds, begin = 0, time.perf_counter()
    while rounds < effort.most_rounds and (rounds < effort.least_rounds or time.perf_counter() - begin < effort.seconds):
        if not check.has_cores():
            timings.repeated_rounds += 1
            if timings.repeated_rounds <= 2 * effort.least_rounds:
                time.sleep(0.005)
                continue
            timings.disturbed = True
        for turn in range(len(names)):
            name = names[(turn + rounds) % len(names)]
            timings.times[name].append(batches[name]())
        rounds += 1
    return timings


class StepBatch:
    """A batch of one contestant's steps, long enough for the clock's resolution."""

    SECONDS = 50e-6

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.restart()
        one = duration(self.take)
        self.count = min(max(int(self.SECONDS / one), 1), STEP_COUNT - WARM_STEPS - 3)

    def restart(self) -> None:
        self.contestant.begin()
        self.next = 0
        for _ in range(WARM_STEPS):
            self.take()

    def take(self) -> None:
        self.contestant.step(self.next)
        self.next += 1

    def __call__(self) -> float:
        # An untimed step brings the tensors back into the caches after the other contestants' turns.
        if self.next + self.count + 1 >= STEP_COUNT:
            self.restart()
        self.take()
        return duration(lambda: [self.take() for _ in range(self.count)]) / self.count


# ---- Rows


def compare_steps(case: Case, size: int, effort: Effort, check: CoreCheck) -> dict[str, Any]:
    everyone, reference = contestants(case, size)
    found, reasons = errors(case, everyone, reference)
    del reference
    if size > 1_000_000:
        # Long steps need fewer rounds.
        effort = Effort(effort.seconds, min(effort.least_rounds, 9), effort.most_rounds)
    timings = alternate({each.name: StepBatch(each) for each in everyone}, effort, check)
    return row({"kind": "step", "scheduler": case.name, "elements": size, "leftOut": reasons}, timings, found)


SIGMA_GRIDS = {
    "timesteps": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "flow": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
}


def compare_plans(name: str, class_name: str, grid: str, effort: Effort, check: CoreCheck) -> dict[str, Any]:
    case = Case(name, class_name, SIGMA_GRIDS[grid])
    schedulers = {"library": case.ours(), "diffusers": case.theirs()}

    def batch(scheduler: Any) -> Callable[[], float]:
        return lambda: duration(lambda: scheduler.set_timesteps(STEP_COUNT))

    timings = alternate({name: batch(scheduler) for name, scheduler in schedulers.items()}, effort, check)
    return row({"kind": "plan", "scheduler": name, "sigmas": grid}, timings, {})


def series_between_products(contestant: Contestant, least: int) -> list[float]:
    """The durations of steps of whole runs, at least `least` of them. A matrix product precedes each step."""
    a, b = torch.rand(512, 512), torch.rand(512, 512)
    series: list[float] = []
    while len(series) < least:
        contestant.begin()
        for index in range(STEP_COUNT - 1):
            torch.mm(a, b)
            seconds = duration(lambda: contestant.step(index))
            if index >= WARM_STEPS:
                series.append(seconds)
    return series


def between_products(effort: Effort, check: CoreCheck) -> dict[str, Any]:
    """Times steps in a process with torch's threads. Each step follows a matrix product, which leaves the threads to the step.

    A second OpenMP runtime would compete for the cores, and some steps would take many times the median. The machine's other load
    has the same effect, so the calmest of several series counts.
    """
    case = Case("DEIS 3", "DEISMultistepScheduler", {"solver_order": 3, **V})
    data = Data.random(case, PRODUCT_SIZE)
    everyone = [
        SchedulerContestant("library", case.ours(), data.arrays(np.float32), in_place=True),
        SchedulerContestant("diffusers", case.theirs(), data),
    ]
    shares: dict[str, list[float]] = {each.name: [] for each in everyone}
    times: dict[str, list[float]] = {}
    shared = 0
    for _ in range(2 if effort.least_rounds < 10 else 7):
        shared += not check.has_cores()
        for each in everyone:
            series = series_between_products(each, 94 if effort.least_rounds < 10 else 282)
            share = float(np.quantile(series, 0.9) / np.median(series))
            shares[each.name].append(share)
            if share == min(shares[each.name]):
                times[each.name] = series
    timings = Timings(times, disturbed=shared > 0)
    result = row({"kind": "products", "scheduler": "DEIS 3 between products", "elements": PRODUCT_SIZE}, timings, {})
    for name, all_shares in shares.items():
        result["contestants"][name]["ninetiethPercentileOfMedian"] = min(all_shares)
        result["contestants"][name]["allSeries"] = all_shares
    return result


def through_c(quick: bool) -> dict[str, Any]:
    """Times the step of 64 elements through the C interface with the tests' program: order 3, in place, one thread."""
    library = Path(os.environ["DIFFUSION_SCHEDULING_LIBRARY"]).resolve()
    source = ROOT / "Tests" / "c" / "abi_step_time.c"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "step_time"
        include = ROOT / "Sources" / "CDiffusionScheduling" / "include"
        command = [os.environ.get("CC", "cc"), "-std=c11", "-O2", f"-I{include}", str(source), "-o", str(program), str(library)]
        subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-lm"], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
        found = []
        for _ in range(3 if quick else 15):
            text = subprocess.run([program], check=True, capture_output=True, text=True, env=environment).stdout
            match = re.search(r"session step ([0-9.]+) ns, (\d+) allocations", text)
            if not match:
                raise SystemExit(f"no figures in: {text}")
            found.append((float(match[1]), int(match[2])))
    nanoseconds = [time for time, _ in found]
    return {
        "kind": "C",
        "scheduler": "DEIS 3 through C",
        "elements": 64,
        "lowerDecile": float(np.quantile(nanoseconds, 0.1)) * 1e-9,
        "median": float(np.median(nanoseconds)) * 1e-9,
        "allocations": max(count for _, count in found),
    }


def row(what: dict[str, Any], timings: Timings, found: dict[str, float]) -> dict[str, Any]:
    ours = timings.decile("library")
    return {
        **what,
        "contestants": {
            name: {**timings.summary(name), "ratio": timings.decile(name) / ours, "error": found.get(name)}
            for name in timings.times
        },
        "repeatedRounds": timings.repeated_rounds,
        "disturbed": timings.disturbed,
    }


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


COLUMNS = ["library", "library, in place", "library, one thread", "diffusers", "torch.compile", "NumPy"]


def header() -> str:
    titles = [f"{'scheduler':24}{'elements':>11}"] + [f"{name:>22}" for name in COLUMNS]
    return "".join(titles) + "\n" + "-" * (35 + 22 * len(COLUMNS))


def line(result: dict[str, Any]) -> str:
    """A row as text: medians, and ratios of lower deciles. ~ marks repeated rounds, ! a measurement that stayed disturbed."""
    cells = []
    for name in COLUMNS:
        found = result["contestants"].get(name)
        cells.append(f"{time_text(found['median'])} {found['ratio']:8.2f} x" if found else "")
    mark = "!" if result["disturbed"] else "~" if result["repeatedRounds"] else ""
    cells += [f"no {name}: {reason[:60]}" for name, reason in result.get("leftOut", {}).items()]
    begin = f"{result['scheduler']:24}{result.get('elements', result.get('sigmas')):>11}"
    return (begin + "".join(f"{c:>22}" for c in cells) + mark).rstrip()


# ---- Goals


def goals(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of the library's goals, each with this run's result: the worst of its rows."""
    found: list[dict[str, Any]] = []

    def rows(rival: str, wanted: Callable[[dict[str, Any]], Any], ours: str = "library") -> list[tuple[float, str]]:
        return [
            (
                each["contestants"][rival]["lowerDecile"] / each["contestants"][ours]["lowerDecile"],
                f"{each['scheduler']}, {each.get('elements', each.get('sigmas'))}",
            )
            for each in results
            if rival in each.get("contestants", {}) and ours in each["contestants"] and wanted(each)
        ]

    def line(name: str, values: list[tuple[float, str]], *, at_least: float | None = None, at_most: float | None = None) -> None:
        def is_met(value: float) -> bool:
            return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)

        target = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
        goal: dict[str, Any] = {"name": name, "target": target, "outcome": "not measured"}
        if values:
            worst, place = min(values) if at_least is not None else max(values)
            goal |= {"outcome": "met" if is_met(worst) else "missed", "worst": worst, "place": place}
            goal |= {"median": float(np.median([value for value, _ in values]))}
            goal |= {"met": sum(is_met(value) for value, _ in values), "count": len(values)}
        found.append(goal)

    def elsewhere(name: str) -> None:
        """A line that only `make bench` measures, and whose target is told there."""
        found.append({"name": name, "target": "", "outcome": "make bench"})

    def steps(names: str, least: int, most: float) -> Callable[[dict[str, Any]], Any]:
        return lambda each: each["kind"] == "step" and re.fullmatch(names, each["scheduler"]) and least <= each["elements"] <= most

    third, first = r"(DEIS|DPM-Solver\+\+) 3", r"(DEIS|DPM-Solver\+\+) 1|DDIM"
    # Plain steps in float32. Half types, thresholds and guidance have other goals, or none.
    plain = r"(?!.*(thresholded|float16|guided|rescaled)).*"
    compiled = rows("torch.compile", steps(plain, 0, math.inf))
    mean = [(math.exp(sum(math.log(ratio) for ratio, _ in compiled) / len(compiled)), "all rows")] if compiled else []
    c = [each for each in results if each["kind"] == "C"]
    products = [each for each in results if each["kind"] == "products"]
    nanoseconds = [(each["lowerDecile"] * 1e9, each["scheduler"]) for each in c]
    thresholded = rows("diffusers", lambda each: "thresholded" in each["scheduler"] and each["elements"] in DEEPFLOYD_SIZES)
    threads = rows("library, one thread", steps(plain, 64_000, 600_000), "library, in place")
    shares = [(each["contestants"]["library"]["ninetiethPercentileOfMedian"], each["scheduler"]) for each in products]

    # The core's goals, in the order of the README's first table.
    elsewhere("step in place of 64 elements in Swift: ns")
    line("step of 64 elements through the C ABI: ns", nanoseconds, at_most=70)
    elsewhere("step in cache, 16 K to 512 K, float32: share of the loop by hand's speed")
    elsewhere("  three outputs")
    elsewhere("  half types")
    line("thresholded step of 8 x 3 x 64 x 64 and 8 x 3 x 256 x 256 against diffusers", thresholded, at_least=20)
    elsewhere("thresholded step, 16 K to 3.1 M: times the plain step")
    elsewhere("step above the caches: median share of the bare loop's bandwidth")
    elsewhere("256 rows of 16 K at different timesteps: times the speed of single calls")
    # The others.
    elsewhere("step above the caches, in place: share of the bare loop's bandwidth")
    elsewhere("  out of place")
    elsewhere("step in cache, 16 K to 512 K, float64: share of the bare loop's bandwidth")
    line("order 3 against diffusers, 16 K and 64 K", rows("diffusers", steps(third, 16_000, 70_000)), at_least=25)
    line("order 3 against diffusers, above", rows("diffusers", steps(third, 70_001, math.inf)), at_least=12)
    line("order 1 and DDIM against diffusers, 16 K and 64 K", rows("diffusers", steps(first, 16_000, 70_000)), at_least=10)
    line("order 1 and DDIM against diffusers, above", rows("diffusers", steps(first, 70_001, math.inf)), at_least=5)
    line("against the hand-fused torch.compile", compiled, at_least=1)
    line("against the hand-fused torch.compile, geometric mean", mean, at_least=2)
    elsewhere("half types: share of the time of float32, 3.1 M and more, two threads")
    line("two threads against one, 64 K to 512 K: times the speed", threads if torch.get_num_threads() == 2 else [], at_least=1.6)
    line("allocations of a step through the C ABI", [(each["allocations"], each["scheduler"]) for each in c], at_most=0)
    line("in a torch process, between products: 90th percentile, of the median", shares, at_most=2)
    line("setTimesteps against diffusers", rows("diffusers", lambda each: each["kind"] == "plan"), at_least=10)
    elsewhere("guidance in the step: share of the time of separate passes")
    elsewhere("256 rows of 16 K at different timesteps: times the same at one")
    return found


def goal_lines(reached: list[dict[str, Any]], quick: bool) -> list[str]:
    title = f"{'goal':80}{'target':>8}{'worst':>9}{'median':>9}{'rows met':>11}"
    lines = [title + ("   (OF A RUN TOO SHORT FOR FIGURES)" if quick else ""), "-" * len(title)]
    for goal in reached:
        figures = " " * 29
        if "worst" in goal:
            count = f"{goal['met']} of {goal['count']}"
            figures = f"{goal['worst']:9.2f}{goal['median']:9.2f}{count:>11}"
        lines.append(f"{goal['name']:80}{goal['target']:>8}{figures}  {goal['outcome']:13}{goal.get('place', '')}".rstrip())
    return lines


# ---- The run


def machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "processorCount": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "numpy": np.__version__,
        "library": diffusion_scheduling.__version__,
        "openMP": diffusion_scheduling.runtime_description(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = "'DEIS 3/65536', 'plan/DEIS/karras', 'products/', 'C/'"
    parser.add_argument("--filter", default="", help=f"measure the rows whose names match this regular expression: {names}")
    parser.add_argument("--quick", action="store_true", help="a smoke test: a few rounds, and only two sizes if there is no filter")
    parser.add_argument("--out", default="out/bench", type=Path, help="the folder for compare.json; default %(default)s")
    arguments = parser.parse_args()
    wants = re.compile(arguments.filter, re.IGNORECASE).search
    effort = Effort(0.05, 3, 5) if arguments.quick else Effort(2, 15, 400)

    # torch.compile limits the compilations of one function. Each case and size needs one.
    torch._dynamo.config.cache_size_limit = 1000
    torch.set_grad_enabled(False)
    check = CoreCheck()
    about = {**machine(), "speedUpOfCompute": check.speed_up()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), "\n")

    results: list[dict[str, Any]] = []

    def take(result: dict[str, Any]) -> None:
        print(line(result), flush=True)
        results.append(result)

    print(header())
    for case in CASES:
        for size in case.sizes:
            if wants(f"{case.name}/{size}") and not (arguments.quick and not arguments.filter and size not in QUICK_SIZES):
                take(compare_steps(case, size, effort, check))
    for name, class_name in (("DEIS", "DEISMultistepScheduler"), ("DPM-Solver++", "DPMSolverMultistepScheduler")):
        for grid in SIGMA_GRIDS:
            if wants(f"plan/{name}/{grid}"):
                take(compare_plans(name, class_name, grid, effort, check))
    if wants("plan/DDIM/timesteps"):
        take(compare_plans("DDIM", "DDIMScheduler", "timesteps", effort, check))

    if wants("products/DEIS 3"):
        products = between_products(effort, check)
        take(products)
        for name, each in products["contestants"].items():
            print(f"    {name}: 90th percentile {each['ninetiethPercentileOfMedian']:.2f} times the median")
    if wants("C/DEIS 3"):
        result = through_c(arguments.quick)
        print(f"{result['scheduler']:24}{64:>11}{result['median'] * 1e9:>19.0f} ns, {result['allocations']} allocations")
        results.append(result)

    reached = goals(results)
    print("", *goal_lines(reached, arguments.quick), sep="\n")

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "compare.json"
    path.write_text(
        json.dumps({"version": 1, "isQuick": arguments.quick, "machine": about, "rows": results, "goals": reached}, indent=2) + "\n"
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
