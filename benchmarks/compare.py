#!/usr/bin/env python3
"""Times the steps and plans of this library against diffusers, torch.compile and NumPy, alternately in one process.

Usage::

    compare.py [--filter REGEX] [--quick] [--out DIR]

Every row is one scheduler at one size. In each round all contestants take a batch of steps, one after the other, another one
first each time; what is compared are the lower deciles of the rounds, because a machine's other load only adds time. The
contestants:

library             ``scheduler.step(e, t, x)`` of ``diffusion_scheduling``, which returns a new array
library, in place   the same with ``out=x``
diffusers           ``scheduler.step(e, t, x)`` of diffusers, eager, on torch tensors
torch.compile       the step as one expression with ready scalars, written by hand and compiled: what a careful engine could do
NumPy               the same expression, plain

Before they are timed all contestants take the same first steps and are compared with the expression in float64.

Needs diffusers==0.42.1, torch, numpy and matplotlib, a C++ compiler for torch.compile, and the C library (``make lib``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Protocol

# torch brings an OpenMP runtime along, and the library takes the one that the process has: so torch comes first.
import torch
import diffusers
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bindings" / "python"))
os.environ.setdefault("DIFFUSION_SCHEDULING_LIBRARY", str(ROOT / "out" / "lib" / "libdiffusion_scheduling.so"))
import diffusion_scheduling  # noqa: E402

STEP_COUNT = 50
WARM_STEPS = 3
"""After so many steps all are alike, until the last one."""

SHAPES = {
    64: (1, 4, 4, 4),
    16_384: (1, 4, 64, 64),
    65_536: (1, 4, 128, 128),
    524_288: (8, 4, 128, 128),
    786_432: (4, 3, 256, 256),
    3_145_728: (4, 3, 512, 512),
    25_165_824: (8, 3, 1024, 1024),
}
SIZES = [64, 16_384, 65_536, 524_288, 3_145_728, 25_165_824]
THRESHOLD_SIZES = [786_432, 3_145_728]


@dataclass
class Case:
    """A scheduler whose steps are timed, by the name and the arguments that it has in both libraries."""

    name: str
    class_name: str
    arguments: dict[str, Any]
    sizes: list[int] = field(default_factory=lambda: SIZES)

    def ours(self) -> Any:
        return getattr(diffusion_scheduling, self.class_name)(**self.arguments)

    def theirs(self) -> Any:
        return getattr(diffusers, self.class_name)(**self.arguments)

    @property
    def is_thresholded(self) -> bool:
        return bool(self.arguments.get("thresholding"))


# With v_prediction a multistep solver has to compute what it remembers, and nobody gets away with keeping the model's output.
V = {"prediction_type": "v_prediction"}
CASES = [
    Case("DDIM", "DDIMScheduler", {"clip_sample": False}),
    Case("DEIS 1", "DEISMultistepScheduler", {"solver_order": 1, **V}),
    Case("DEIS 2", "DEISMultistepScheduler", {"solver_order": 2, **V}),
    Case("DEIS 3", "DEISMultistepScheduler", {"solver_order": 3, **V}),
    Case("DPM-Solver++ 1", "DPMSolverMultistepScheduler", {"solver_order": 1, **V}),
    Case("DPM-Solver++ 2", "DPMSolverMultistepScheduler", {"solver_order": 2, **V}),
    Case("DPM-Solver++ 3", "DPMSolverMultistepScheduler", {"solver_order": 3, **V}),
    Case(
        "DEIS 3 thresholded",
        "DEISMultistepScheduler",
        {"solver_order": 3, "thresholding": True, "sample_max_value": 2.0, **V},
        THRESHOLD_SIZES,
    ),
]


# ---- Contestants


class Contestant(Protocol):
    """Takes the steps of a run, over and over."""

    name: str

    def begin(self) -> None:
        """Goes to the start of a run."""

    def step(self, index: int) -> None:
        """Takes the step of that index, the one after the last."""

    def result(self) -> np.ndarray:
        """The sample."""


class SchedulerContestant:
    """A scheduler of diffusers' shape, this library's or theirs."""

    def __init__(self, name: str, scheduler: Any, start: Any, outputs: list[Any], in_place: bool = False) -> None:
        self.name = name
        self.scheduler, self.start, self.outputs = scheduler, start, outputs
        self.in_place = in_place
        # Multistep schedulers go back to the start of their run without another plan.
        scheduler.set_timesteps(STEP_COUNT)
        self.timesteps = list(scheduler.timesteps)

    def begin(self) -> None:
        self.scheduler.set_timesteps(STEP_COUNT)
        self.sample = self.start.copy() if isinstance(self.start, np.ndarray) else self.start.clone()

    def step(self, index: int) -> None:
        e = self.outputs[index % len(self.outputs)]
        if self.in_place:
            self.scheduler.step(e, self.timesteps[index], self.sample, out=self.sample)
        else:
            self.sample = self.scheduler.step(e, self.timesteps[index], self.sample).prev_sample

    def result(self) -> np.ndarray:
        return np.asarray(self.sample)


class Expression:
    """The update with ready scalars: what a step is once the solver has been compiled away.

    next   = a x + b e + sum_k c[k] m[k]
    other  = f x + g e                     m[0] of the next step, or what DDIM returns besides: the predicted clean sample

    rows   [a, b, c...] and [f, g] of each step; None for the second if there is no other
    """

    def __init__(self, scheduler: Any) -> None:
        scheduler.set_timesteps(STEP_COUNT)
        self.history_length = scheduler.plan_properties.history_length
        self.rows: list[tuple[list[float], list[float] | None]] = []
        for index in range(STEP_COUNT):
            coefficients = scheduler.coefficients(index)
            step, other = coefficients.next_sample, coefficients.history
            if isinstance(scheduler, diffusion_scheduling.DDIMScheduler):
                other = coefficients.prediction
            history = step.history[: min(index, self.history_length)]
            has_other = other.sample != 0 or other.model_output != 0
            self.rows.append(
                ([step.sample, step.model_output, *history], [other.sample, other.model_output] if has_other else None)
            )


class NumPyContestant:
    """The expression in NumPy; in float64 it is what the others are compared with."""

    def __init__(self, name: str, expression: Expression, start: np.ndarray, outputs: list[np.ndarray]) -> None:
        self.name, self.expression = name, expression
        self.start, self.outputs = start, outputs

    def begin(self) -> None:
        self.sample, self.remembered = self.start.copy(), []

    def step(self, index: int) -> None:
        e = self.outputs[index % len(self.outputs)]
        (a, b, *c), other = self.expression.rows[index]
        x = a * self.sample + b * e
        for coefficient, m in zip(c, self.remembered):
            x += coefficient * m
        if other:
            m = other[0] * self.sample + other[1] * e
            self.remembered = [m, *self.remembered][: self.expression.history_length]
        self.sample = x

    def result(self) -> np.ndarray:
        return self.sample


def fused_step(x: Any, e: Any, remembered: list[Any], c: Any, other: Any) -> tuple[Any, Any]:
    """The expression for torch.compile, with the scalars in tensors, because numbers would be compiled in."""
    next_sample = c[0] * x + c[1] * e
    for k, m in enumerate(remembered):
        next_sample = next_sample + c[2 + k] * m
    return next_sample, None if other is None else other[0] * x + other[1] * e


class CompiledContestant:
    """The expression fused by torch.compile."""

    name = "torch.compile"

    def __init__(self, expression: Expression, start: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        self.history_length = expression.history_length
        self.start, self.outputs = start, outputs
        self.rows = [(torch.tensor(step), other and torch.tensor(other)) for step, other in expression.rows]
        self.function = torch.compile(fused_step, dynamic=False, mode="max-autotune-no-cudagraphs")

    def begin(self) -> None:
        self.sample, self.remembered = self.start.clone(), []

    def step(self, index: int) -> None:
        c, other = self.rows[index]
        e = self.outputs[index % len(self.outputs)]
        self.sample, m = self.function(self.sample, e, self.remembered, c, other)
        self.remembered = [m, *self.remembered][: self.history_length]

    def result(self) -> np.ndarray:
        return self.sample.numpy()


def contestants(case: Case, size: int) -> tuple[list[Contestant], Contestant | None]:
    """Who takes part, and the expression in float64."""
    generator = np.random.default_rng(0)
    shape = SHAPES[size]
    start = generator.standard_normal(shape, np.float32)
    outputs = [generator.standard_normal(shape, np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(array.copy()) for array in outputs]
    everyone: list[Contestant] = [
        SchedulerContestant("library", case.ours(), start, outputs),
        SchedulerContestant("library, in place", case.ours(), start, outputs, in_place=True),
        SchedulerContestant("diffusers", case.theirs(), torch.from_numpy(start.copy()), tensors),
    ]
    # A quantile is no part of a fused expression.
    if case.is_thresholded:
        return everyone, None
    expression = Expression(case.ours())
    everyone.append(CompiledContestant(expression, torch.from_numpy(start.copy()), tensors))
    everyone.append(NumPyContestant("NumPy", expression, start, outputs))
    wide = [array.astype(np.float64) for array in outputs]
    return everyone, NumPyContestant("float64", expression, start.astype(np.float64), wide)


def errors(everyone: list[Contestant], reference: Contestant | None) -> dict[str, float]:
    """How far each is from the expression in float64 after the first steps, in units of float32 at the sample's magnitude."""
    for each in [*everyone, *([reference] if reference else [])]:
        each.begin()
        for index in range(WARM_STEPS + 1):
            each.step(index)
    exact = (reference or everyone[2]).result().astype(np.float64)
    unit = float(np.finfo(np.float32).eps) * float(np.abs(exact).max())
    found = {each.name: float(np.abs(each.result() - exact).max()) / unit for each in everyone}
    for name, error in found.items():
        # Some single precision expressions cancel at the noisiest steps; a wrong one is off by millions.
        if not error < 10_000:
            raise SystemExit(f"{name} is {error:.0f} units off: no figures from something that is wrong")
    return found if reference else {}


# ---- Measurement


class CoreCheck:
    """Whether torch's threads have a processor core each: n parts of the same work should take little more than one part."""

    LEAST_SHARE = 0.75
    PART = 30_000  # below the 32,768 elements from which torch uses more threads

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self.one = torch.rand(self.PART) + 1
        self.all = torch.rand(self.PART * self.threads) + 1

    def speed_up(self) -> float:
        if self.threads == 1:
            return 1.0
        # The function is slow to compute and needs hardly any memory.
        one = min(duration(lambda: torch.lgamma(self.one)) for _ in range(3))
        # Threads that wait for each other's turn on a core are lucky now and then: not the best time, but the usual one.
        everything = sorted(duration(lambda: torch.lgamma(self.all)) for _ in range(3))[1]
        return self.threads * one / everything

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
    """Seconds per step (or call) of each contestant, round by round."""

    times: dict[str, list[float]]
    repeated_rounds: int = 0
    disturbed: bool = False
    """Whether threads shared a core, or medians jumped, after all repetitions."""

    def quantile(self, name: str, ratio: float) -> float:
        return float(np.quantile(self.times[name], ratio))

    def decile(self, name: str) -> float:
        return self.quantile(name, 0.1)

    def jumps(self) -> bool:
        """Whether somebody's usual time is far above what it could be: torch's medians do that where cores are shared."""
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
    """Measures again, twice at most, what has come out disturbed."""
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
    """Calls each batch, which returns its seconds per step, once a round; rounds that begin on a shared core are repeated."""
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
    """A batch of steps of one contestant, as long as the clock's resolution asks for."""

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
        # One step more, untimed, brings the tensors back into the caches after the other contestants' turns.
        if self.next + self.count + 1 >= STEP_COUNT:
            self.restart()
        self.take()
        return duration(lambda: [self.take() for _ in range(self.count)]) / self.count


# ---- Rows


def compare_steps(case: Case, size: int, effort: Effort, check: CoreCheck) -> dict[str, Any]:
    everyone, reference = contestants(case, size)
    found = errors(everyone, reference)
    timings = alternate({each.name: StepBatch(each) for each in everyone}, effort, check)
    return row({"kind": "step", "scheduler": case.name, "elements": size}, timings, found)


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


def row(what: dict[str, Any], timings: Timings, found: dict[str, float]) -> dict[str, Any]:
    ours = timings.decile("library")
    return {
        **what,
        "contestants": {
            name: {**timings.summary(name), "ratio": timings.decile(name) / ours, "error": found.get(name)} for name in timings.times
        },
        "repeatedRounds": timings.repeated_rounds,
        "disturbed": timings.disturbed,
    }


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


COLUMNS = ["library", "library, in place", "diffusers", "torch.compile", "NumPy"]


def header() -> str:
    titles = [f"{'scheduler':19}{'elements':>11}"] + [f"{name:>22}" for name in COLUMNS]
    return "".join(titles) + "\n" + "-" * (30 + 22 * len(COLUMNS))


def line(result: dict[str, Any]) -> str:
    """Medians, and ratios of lower deciles; ~ after rounds that were repeated, ! where that didn't help (see Timings.disturbed)."""
    cells = []
    for name in COLUMNS:
        found = result["contestants"].get(name)
        cells.append(f"{time_text(found['median'])} {found['ratio']:8.2f} x" if found else "")
    mark = "!" if result["disturbed"] else "~" if result["repeatedRounds"] else ""
    return (f"{result['scheduler']:19}{result.get('elements', result.get('sigmas')):>11}" + "".join(f"{c:>22}" for c in cells) + mark).rstrip()


# ---- Goals


def goals(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the ratios should reach, and the worst of each kind."""
    found: list[dict[str, Any]] = []

    def ratios(rival: str, wanted: Callable[[dict[str, Any]], bool]) -> list[tuple[float, str]]:
        return [
            (each["contestants"][rival]["ratio"], f"{each['scheduler']}, {each.get('elements', each.get('sigmas'))}")
            for each in results
            if rival in each["contestants"] and wanted(each)
        ]

    def at_least(target: float, what: str, values: list[tuple[float, str]]) -> None:
        if values:
            worst, place = min(values)
            found.append({"name": f"{what}: {target:g} x", "target": target, "worst": worst, "place": place, "isMet": worst >= target})

    def steps(names: str, least: int, most: float) -> Callable[[dict[str, Any]], bool]:
        return lambda each: each["kind"] == "step" and re.fullmatch(names, each["scheduler"]) and least <= each["elements"] <= most

    third, first, plain = r"(DEIS|DPM-Solver\+\+) 3", r"(DEIS|DPM-Solver\+\+) 1|DDIM", r"(?!.*thresholded).*"
    at_least(25, "diffusers, order 3, 16 K and 64 K elements", ratios("diffusers", steps(third, 16_000, 70_000)))
    at_least(12, "diffusers, order 3, above", ratios("diffusers", steps(third, 70_001, math.inf)))
    at_least(10, "diffusers, order 1 and DDIM, 16 K and 64 K elements", ratios("diffusers", steps(first, 16_000, 70_000)))
    at_least(5, "diffusers, order 1 and DDIM, above", ratios("diffusers", steps(first, 70_001, math.inf)))
    compiled = ratios("torch.compile", steps(plain, 0, math.inf))
    at_least(1, "hand-fused torch.compile", compiled)
    if compiled:
        mean = math.exp(sum(math.log(ratio) for ratio, _ in compiled) / len(compiled))
        at_least(2, "hand-fused torch.compile, geometric mean", [(mean, "all rows")])
    at_least(30, "diffusers, thresholded, 0.8 M elements", ratios("diffusers", steps(".*thresholded", 0, 800_000)))
    at_least(15, "diffusers, thresholded, 3.1 M elements", ratios("diffusers", steps(".*thresholded", 800_001, math.inf)))
    at_least(10, "diffusers, set_timesteps", ratios("diffusers", lambda each: each["kind"] == "plan"))
    return found


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
    parser.add_argument("--filter", default="", help="measure the rows whose names match: 'DEIS 3/65536', 'plan/DEIS/karras'")
    parser.add_argument("--quick", action="store_true", help="a few rounds, and without a filter only the smaller sizes: to see that everything works")
    parser.add_argument("--out", default="out/bench", type=Path, help="the folder for compare.json")
    arguments = parser.parse_args()
    wants = re.compile(arguments.filter, re.IGNORECASE).search
    effort = Effort(0.05, 3, 5) if arguments.quick else Effort(3, 15, 400)

    # torch.compile counts the compilations of one function; each case and size is another one.
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
            if wants(f"{case.name}/{size}") and not (arguments.quick and not arguments.filter and size > 1_000_000):
                take(compare_steps(case, size, effort, check))
    for name, class_name in (("DEIS", "DEISMultistepScheduler"), ("DPM-Solver++", "DPMSolverMultistepScheduler")):
        for grid in SIGMA_GRIDS:
            if wants(f"plan/{name}/{grid}"):
                take(compare_plans(name, class_name, grid, effort, check))
    if wants("plan/DDIM/timesteps"):
        take(compare_plans("DDIM", "DDIMScheduler", "timesteps", effort, check))

    reached = goals(results)
    print("\nGoals" if not arguments.quick else "\nGoals, of a run too short for them")
    for goal in reached:
        print(f"{'met    ' if goal['isMet'] else 'MISSED '}{goal['name']}; worst {goal['worst']:.2f} x, {goal['place']}")

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "compare.json"
    path.write_text(
        json.dumps({"version": 1, "isQuick": arguments.quick, "machine": about, "rows": results, "goals": reached}, indent=2) + "\n"
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
