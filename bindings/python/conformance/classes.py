# SPDX-License-Identifier: Apache-2.0

"""Part (a) for the classes of ``generate_classes.py``.

The checks are those of ``configurations`` and these:

* Each evaluation draws as many noise tensors as the reference's, and the drop-in leaves a generator in the original's state.
* The scaled model input and a step's second output have their own bounds.
* Some runs begin at a later step, from a sample noised by our ``add_noise``.

The reference steps on our noise levels and timesteps here too. Our deliberate differences are `is_cut`, `adds_noise_at_the_end`,
`adds_noise_otherwise`, `refused_key` and `leaves_the_training`.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import random
import unittest.mock
from dataclasses import dataclass
from typing import Any

import diffusion_scheduling
import diffusion_scheduling.diffusers as drop_ins
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from diffusion_scheduling import _library, _tensors

from .configurations import LOOP, LU_SIGMA, ROUNDOFF, SIGMA, Outcome, model, relative, rms, step_bound, with_variance
from .goldens import generate, generate_classes

CLASSES: dict[str, Any] = generate_classes.CLASSES
VARIANCE_EXPLODING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
SHIFTED = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler")
"""The flow-matching classes with several ways to shift and space their levels."""

NO_BEGIN = ("PNDMScheduler", "LMSDiscreteScheduler")
"""The classes whose runs always begin with the plan. PNDM's original counts calls from wherever a run begins. LMS's counts steps
from the plan's start."""

WIDE_TABLE = 1e-13
"""The relative bound of float64 signal variances; `compare_grids` gives the reason."""

TREE = "BrownianTreeNoiseSampler"
"""The Brownian motion from which some originals draw noise. Our classes take normal numbers from the caller."""

Bounded = tuple[np.ndarray, np.ndarray]
"""A value in float64, and the error bound of its float32 counterpart."""


@dataclass
class Case:
    """A drawn run, and the reference that planned it."""

    key: str
    run: Any
    begin: int
    reference: Any
    redraws: int

    @property
    def family(self) -> Any:
        return CLASSES[self.key]

    @property
    def name(self) -> str:
        return str(self.family.name)

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.reference.config)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of ``set_timesteps``."""
        return {"num_inference_steps" if key == "n" else key: value for key, value in self.run.request.items()}

    @property
    def has_drop_in(self) -> bool:
        """Whether the class has a drop-in with ``step``. Those with other methods are tested in tests/test_calls.py."""
        return not getattr(drop_ins, self.name).description.calls

    @property
    def learns_variance(self) -> bool:
        """Whether the model also predicts a variance."""
        learns: bool = generate_classes.learns_variance(self.reference.config)
        return learns

    def told(self, e: np.ndarray) -> np.ndarray:
        """The model's whole output: with a variance, or with several outputs, if the configuration expects them."""
        output: np.ndarray = generate_classes.outputs(self.config, with_variance(e, self.learns_variance))
        return output

    @property
    def train_steps(self) -> int:
        """The divisor of timesteps in the test problem's model."""
        steps: int = generate_classes.train_steps_of(self.reference)
        return steps

    @property
    def options(self) -> dict[str, Any]:
        """The options of a step. The original's flow-matching Euler accepts four churn options and ignores them; ours has none."""
        return {} if self.name == "FlowMatchEulerDiscreteScheduler" else self.run.options

    def prepared(self, scheduler: Any) -> Any:
        """Moves a scheduler to the start of the run, and returns it."""
        generate_classes.prepare(scheduler, self.run.request, self.begin)
        return scheduler

    def built(self, module: Any) -> Any:
        """A scheduler of the module's class with the drawn configuration, at the start of the run."""
        return self.prepared(generate.build(getattr(module, self.name), self.run.config, self.run.hidden))

    # ---- Deliberate differences

    @property
    def is_cut(self) -> bool:
        """Whether NumPy's ``arange`` returned one timestep too many, -1. Ours leaves it out."""
        n, timesteps = self.run.request.get("n"), self.reference.timesteps.tolist()
        return n is not None and timesteps[-1] == -1 and len(timesteps) in (n + 1, 2 * n + 1)

    @property
    def count(self) -> int:
        """Our number of evaluations: without those of the timestep -1, which are two for Heun and KDPM2."""
        count: int = generate_classes.evaluation_count(self.reference)
        return count - self.is_cut * self.family.stride

    @property
    def adds_noise_at_the_end(self) -> bool:
        """Whether the original adds noise after the last step: LCM with timesteps and a strength below 1. Ours never does."""
        request = self.run.request
        return self.name == "LCMScheduler" and "timesteps" in request and request.get("strength", 1) < 1

    @property
    def adds_noise_otherwise(self) -> bool:
        """Whether flow levels exceed 1. The original's ``scale_noise`` mixes in a level's share of noise; ours adds noise of that
        deviation, as in a variance-exploding process."""
        return self.name in SHIFTED and bool(self.reference.sigmas.max() > 1)

    @property
    def refused_key(self) -> str | None:
        """The key that ours refuses and the original accepts: sigma_max above 1 with inverted flow levels or stochastic flow steps,
        or sigmas in a request if UniPC's configuration spaces them. None: ours accepts all."""
        config, request = self.config, self.run.request
        is_spaced = any(config.get(f"use_{grid}_sigmas") for grid in ("karras", "exponential", "beta"))
        if self.name in SHIFTED:
            is_bounded = config.get("invert_sigmas") or (config.get("stochastic_sampling") and self.is_spaced)
            return "sigma_max" if is_bounded and (config.get("sigma_max") or 0) > 1 else None
        return "sigmas" if self.name == "UniPCMultistepScheduler" and is_spaced and "sigmas" in request else None

    @property
    def leaves_the_training(self) -> bool:
        """Whether steps_offset moves timesteps past the training's. The original fails only when a run reaches one; ours refuses
        the offset."""
        config = self.config
        return bool(config.get("steps_offset")) and bool(max(self.reference.timesteps) >= config["num_train_timesteps"])

    @property
    def extrapolates_noise(self) -> bool:
        """Whether the solver extrapolates the predicted noise instead of the clean sample."""
        config = self.config
        return not config.get("predict_x0", True) or config.get("algorithm_type") in ("dpmsolver", "noise_prediction")

    # ---- Bounds for the reference's own float32 arithmetic

    @property
    def is_logarithmic(self) -> bool:
        return self.config.get("interpolation_type") == "log_linear"

    @property
    def is_spaced(self) -> bool:
        """Whether the levels are spaced between two of the training's."""
        grids = ("karras", "exponential", "beta")
        return self.is_logarithmic or any(self.config.get(f"use_{grid}_sigmas") for grid in grids)

    @property
    def level_tolerance(self) -> float:
        """The relative bound of a level, without the error that a grid inherits from its ends. Interpolated levels add one rounding
        of ours and one of theirs."""
        if self.name == "KarrasVeScheduler":
            return 2 * SIGMA  # torch's float32 power may be off in its last bit; a product follows.
        if self.name == "ScoreSdeVeScheduler":
            return 2 * LU_SIGMA  # Float32 logarithms like log_linear's, with the roundings of their spacing.
        if self.is_logarithmic:
            return LU_SIGMA
        return 2 * SIGMA if any(t != round(t) for t in self.reference.timesteps.tolist()) else SIGMA

    def steepness(self, level: float) -> float:
        """The ratio of a level's relative error to that of its inputs.

        IPNDM's levels are β/√(1 − β²). The relative derivative by β is 1 + ς². torch's sine is one unit in the last place off, so β
        is off by two and a half; 1 − β² adds half a unit of β, and the root one unit.
        """
        return 4 * (1 + level * level) if self.name == "IPNDMScheduler" else 1

    def timestep_tolerance(self, i: int, timestep: float) -> float:
        """The bound of timestep i; 0 if it is exact.

        A timestep looked up at a level may be off by four units in the last place of a float32 logarithm. NumPy and torch don't
        round these logarithms correctly, and torch doesn't round the roots in them correctly. A flow's timestep is its level times
        a constant. EDM's is a quarter of its level's logarithm, or an angle of its level. Timesteps of spaced flow levels are off
        by as much as the levels.
        """
        config = self.config
        if self.name in SHIFTED and self.is_spaced:
            return self.level_tolerance * timestep + unit(timestep)
        if self.name == "IPNDMScheduler":
            # The timestep is an angle. Its derivative by ς is 1/(1 + ς²).
            return 4 * SIGMA * min(math.tan(min(timestep, 0.9999) * math.pi / 2), 1e3) + 4 * unit(timestep)
        if self.name == "CMStochasticIterativeScheduler":
            # 250 times the logarithm of a power: the power is off by `rho` roundings of its base, and both functions round.
            return 250 * 2.0**-52 * (4 * abs(config["rho"]) + 4) + math.ulp(timestep)
        if "mu" in self.run.request and (self.reference.timesteps.dtype == torch.float64 or config.get("stages") == 1):
            # torch rounds the weight of mu twice, in float32 if a pyramid has a single stage.
            return 4 * (unit(timestep) if config.get("stages") == 1 else math.ulp(max(timestep, 1.0)))
        if issubclass(self.family.loop, generate_classes.EDMLoop):
            return 4 * unit(max(abs(timestep), 0.25))
        if self.name in ("KarrasVeScheduler", "ScoreSdeVeScheduler"):
            return 2 * SIGMA * timestep  # The timestep is a level, and a power.
        if self.name not in VARIANCE_EXPLODING:
            return 0
        if config.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction":
            return 4 * unit(max(abs(timestep), 0.25))
        is_between = i % 2 == 1 and (hasattr(self.reference, "sigmas_interpol") or hasattr(self.reference, "mid_point_sigma"))
        if not is_between and not self.is_spaced and "sigmas" not in self.run.request:
            return 0
        alphas = self.reference.alphas_cumprod.double().numpy()
        lower = min(int(timestep), len(alphas) - 2)
        low, high = (0.5 * math.log((1 - a) / a) for a in alphas[lower : lower + 2])
        # Between the levels of a step, the interpolation's two products and their sum are rounded to float32 as well.
        own = min(4 * unit(max(abs(low), abs(high), 1)) / abs(high - low), 1) + (2 if is_between else 1) * unit(timestep)
        return own + self.lost_timestep(i, abs(high - low)) if is_between and hasattr(self.reference, "sigmas_up") else own

    def lost_timestep(self, i: int, slope: float) -> float:
        """The error of a second evaluation's timestep from the ancestral KDPM2's float32 roots.

        A step goes down to a level d below the next level t, and noise leads back up to t. So d² is t² less the noise's square, and
        equals r² t² with r the ratio of t to the step's level. d² is off by some 6 float32 roundings of t². The relative error of d
        is then 3/r² roundings, and that of the middle level's logarithm 1.5/r². The bound is twice that, because the slope of the
        logarithms changes on the way. Above a fifth, no digit is left.
        """
        levels = self.reference.sigmas.double().tolist()
        lost = 3 * 2.0**-24 * (levels[i - 1] / levels[i]) ** 2 if levels[i] else math.inf
        return lost / slope if lost < 0.2 else math.inf


def unit(value: float) -> float:
    """The unit in the last place of a float32 number."""
    return float(np.spacing(np.float32(abs(value))))


def draw(key: str, seed: int, index: int) -> Case:
    """Draws until the reference can take the run."""
    family = CLASSES[key]
    rng = random.Random(f"{seed}/{key}/{index}")
    redraws = 0
    while True:
        run = generate_classes.draw_run(rng, family)
        try:
            case = Case(key, run, 0, generate.build(generate_classes.original(family.name), run.config, run.hidden), redraws)
            case.prepared(case.reference)
            check_defined(case)
            if run.late and family.name not in NO_BEGIN:
                case.begin = rng.choice(range(family.stride, case.count, family.stride) or [0])
                case.prepared(case.reference)
            reference_loop(case, case.reference, start_of(case, case.reference), torch.float64)
        except (generate.Redraw, ValueError, IndexError, RuntimeError):
            redraws += 1
            continue
        return case


def check_defined(case: Case) -> None:
    """Raises Redraw if a level isn't finite, a training timestep is negative, or a step predicts a clean sample from pure noise."""
    reference, config, timesteps = case.reference, case.config, case.reference.timesteps.tolist()
    if not issubclass(case.family.loop, generate_classes.ProductLoop):
        if hasattr(reference, "sigmas") and not (
            torch.isfinite(reference.sigmas).all() and torch.isfinite(reference.timesteps).all()
        ):
            raise generate.Redraw("not finite")
        return
    if min(timesteps) < 0:
        raise generate.Redraw("negative timestep")
    if config["prediction_type"] == "epsilon" and (config.get("thresholding") or not config.get("clip_sample")):
        if any(reference.alphas_cumprod[t] == 0 for t in timesteps):
            raise generate.Redraw("clean sample undefined without signal")


def start_of(case: Case, reference: Any) -> list[float]:
    """The first sample of a run, rounded to float32 so that this rounding isn't counted as the steps'."""
    if case.begin:
        wide = copy.deepcopy(reference)
        generate_classes.widen(wide)
        values = generate_classes.late_start(wide, case.begin)
    else:
        values = [float(getattr(reference, "init_noise_sigma", 1)) * v for v in generate.initial_values()]
    return [float(np.float32(v)) for v in values]


def reference_loop(case: Case, reference: Any, start: list[float], dtype: torch.dtype) -> tuple[Any, ...]:
    """The reference's last sample, its last report, and the number of noise tensors drawn by each evaluation."""
    copied = copy.deepcopy(reference)
    if dtype == torch.float64:
        generate_classes.widen(copied)
    result: tuple[Any, ...] = generate_classes.run_reference(copied, case.begin, start, case.run.options, dtype)
    return result


def on_levels_of(case: Case, ours: Any) -> Any:
    """A reference that steps on our noise levels and timesteps."""
    reference = copy.deepcopy(case.reference)
    if hasattr(reference, "sigmas"):
        # Euler's log_linear list ends with one unreached level, KDPM2's lists with two. The churn's share depends on the length.
        unreached = max(len(reference.sigmas) - len(reference.timesteps) - 1, 0)
        levels = np.append(ours.sigmas, np.zeros(unreached, np.float32))
        # LTX's list has no level for the last timestep of a run on the caller's levels.
        reference.sigmas = torch.from_numpy(levels[: len(reference.sigmas)])
        reference.timesteps = torch.from_numpy(ours.timesteps).to(reference.timesteps.dtype)
        generate_classes.follow_ratios(reference)
    if case.adds_noise_at_the_end:
        reference.num_inference_steps = len(ours.timesteps)
    return reference


def draws_from_tree(reference: Any) -> bool:
    return hasattr(generate_classes.home_of(reference), TREE)


def overlaps(description: Any) -> bool:
    """Whether a step's two evaluations read dependent increments of one motion."""
    motion = description.brownian_motion
    return motion is not None and motion.overlaps


def check(key: str, seed: int, index: int) -> Outcome:
    """Draws a run and checks it."""
    case = draw(key, seed, index)
    run = case.run
    outcome = Outcome(case.name, index, seed, len(case.reference.timesteps), redraws=case.redraws)
    outcome.config = {**run.config, **run.hidden, **run.request, **run.options, "begin": case.begin}
    try:
        compare(outcome, case)
    except Exception as error:  # A configuration that raises is a fault; the others still count.
        outcome.faults.append(f"{type(error).__name__}: {error}")
    return outcome


def compare(outcome: Outcome, case: Case) -> None:
    saved = json.loads(generate.saved_text(case.reference))
    try:
        ours = getattr(diffusion_scheduling, case.name).from_config(saved)
        begin_run(case, ours)
    except diffusion_scheduling.InvalidValueError as error:
        refused = [case.refused_key, "steps_offset" if case.leaves_the_training else None]
        if not any(key is not None and key in str(error) for key in refused):
            raise
        outcome.refused = True
        return
    if case.refused_key is not None:
        outcome.faults.append(f"{case.refused_key} is accepted")
    outcome.other_grid, outcome.other_end = case.is_cut, case.adds_noise_at_the_end
    compare_grids(outcome, case, ours)
    if len(ours.timesteps) != case.count:
        return
    reference = on_levels_of(case, ours)
    start = start_of(case, reference)
    compare_start(outcome, case, ours, reference)
    compare_batch_step(outcome, case, reference, start)
    final, magnitudes = compare_steps(outcome, case, ours, reference, start)
    compare_loops(outcome, case, ours, reference, start, final, magnitudes)


def begin_run(case: Case, ours: Any) -> None:
    """Plans the run, and moves to its start."""
    ours.set_timesteps(**case.arguments, **case.options)
    if hasattr(ours, "set_begin_index"):
        ours.set_begin_index(case.begin)


def compare_grids(outcome: Outcome, case: Case, ours: Any) -> None:
    """Compares timesteps and noise levels."""
    reference = case.reference
    mine, timesteps = ours.timesteps.tolist(), reference.timesteps.tolist()
    count = case.count
    if len(mine) != count:
        outcome.faults.append(f"{len(mine)} timesteps, allowed {count}, reference {len(timesteps)}")
        return
    loose = generate_classes.loose_timesteps(reference, case.run.request)
    for i, (own, theirs) in enumerate(zip(mine, timesteps)):
        distance = abs(own - theirs)
        if i in loose and distance == 1:
            outcome.loose_timesteps += 1
        elif distance > case.timestep_tolerance(i, theirs):
            outcome.faults.append(f"timestep {i} is {own}, reference {theirs}")
    factor = getattr(reference, "init_noise_sigma", None)
    if factor is not None and relative(ours.init_noise_sigma, float(factor)) > case.level_tolerance + SIGMA:
        outcome.faults.append(f"init_noise_sigma is {ours.init_noise_sigma}, reference {float(factor)}")
    if hasattr(reference, "alphas_cumprod"):
        own, theirs = ours.alphas_cumprod, reference.alphas_cumprod.numpy()
        # torch doesn't round float64 roots correctly either. Stretching the table to end at 0 enlarges their errors.
        is_wide = theirs.dtype == np.float64
        if not (np.allclose(own, theirs, rtol=WIDE_TABLE, atol=0) if is_wide else np.array_equal(own, theirs)):
            outcome.faults.append("alphas_cumprod has other bits")
    if not hasattr(reference, "sigmas"):
        return
    own_levels, their_levels = ours.sigmas.astype(float), reference.sigmas.double().numpy()
    inherited = 0.0
    if case.is_spaced:
        inherited = max(relative(own_levels[i], their_levels[i]) for i in (0, count - 1))
    if inherited > case.level_tolerance:
        outcome.faults.append(f"the ends of the grid are off by {inherited:.2e}")
    for i, (a, b) in enumerate(zip(own_levels[: count if case.is_cut else count + 1], their_levels)):
        if i in loose and mine[i] != timesteps[i]:
            continue
        if relative(a, b) > case.level_tolerance * case.steepness(b) + inherited:
            outcome.faults.append(f"sigma {i} is {a}, reference {b}")


def compare_start(outcome: Outcome, case: Case, ours: Any, reference: Any) -> None:
    """Compares our ``add_noise`` in float64 with the exact start of a run that begins at a later step."""
    if not case.begin or case.adds_noise_otherwise:
        return
    exact = generate.floats(case.family.loop(reference, case.begin, case.run.options).start())
    clean = np.array(generate.initial_values()).reshape(generate.SHAPE)
    noise = np.array(generate.noise_values(len(reference.timesteps))).reshape(generate.SHAPE)
    own = generate.deviation(exact, ours.add_noise(clean, noise, ours.timesteps[case.begin]).ravel().tolist())
    if not own <= LOOP:
        outcome.faults.append(f"add_noise is {own:.2e} off")


class Bound:
    """The error bounds of float32 steps, from the roundings in the sums of our rows.

    A sum inherits its terms' errors times their coefficients, and adds `step_bound`. Slots keep their bounds between steps. The
    coefficients are ours; loops in float64 compare them with the exact ones.

    A class that remembers tensors in diffusers' attributes runs rows over these attributes. diffusers defines their content, and an
    attribute with a large coefficient adds a larger rounding error than a slot of the plan.
    """

    def __init__(self, ours: Any) -> None:
        self.ours = ours
        self.slots: dict[int, Bounded] = {}
        self.magnitudes: list[np.ndarray] = []
        """For each step and element, the largest of its sums of terms' magnitudes, and at least the sample's magnitude."""
        description = ours.description
        attributes = description.attributes
        self.reads_attributes = bool(attributes.tensors or attributes.history) and not (
            overlaps(description) or attributes.timestep
        )
        self.newest = len(attributes.tensors) if attributes.history else None
        """The slot of a list's newest element; None without a list."""

    def row(self, index: int, age: int) -> Any:
        """The row of a step."""
        if not self.reads_attributes:
            return self.ours.row(index, age)
        plan = self.ours._plan
        return _library.written(_library.Row, _library.library.ds_scheduler_attribute_row, plan.value, index, age)

    def weighted(self, index: int, e: np.ndarray) -> Bounded:
        """The model output of a step's row, from the test problem's. The sum of several outputs is rounded to float32."""
        weights = self.ours._plan.output_weights
        if not weights:
            return e, np.zeros_like(e)
        total = sum(weight * (1 + k / 8) for k, weight in enumerate(weights[index])) * e
        # The outputs are rounded as well. All weights are positive.
        return total, 2 * ROUNDOFF * np.abs(total)

    def step(self, row: Any, x: np.ndarray, e: np.ndarray, lost_output: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bounds of the next sample and of the report.

        lost_output  the error bound of e
        """
        factor, lost = self.noise_factor(row)
        z = factor * z
        terms = {"sample": (x, np.zeros_like(x)), "model_output": (e, lost_output), "noise": (z, lost * np.abs(z))}
        self.magnitudes.append(np.abs(x))
        terms["prediction"] = self.clamped(*self.sum(row.prediction, terms))
        (_, next_sample), (_, report) = self.sum(row.next_sample, terms), self.sum(row.report, terms)
        values = {slot: self.sum(stored, terms) for slot, stored in row.stored.items()}
        if self.reads_attributes and self.newest in values:
            # The older elements move back by one slot. No row reads elements past the last slot.
            moved = {slot + (slot >= self.newest): value for slot, value in self.slots.items()}
            self.slots = {slot: value for slot, value in moved.items() if slot < len(row.next_sample.slots)}
        self.slots = {**self.slots, **values}
        return next_sample, report

    def noise_factor(self, row: Any) -> tuple[float, float]:
        """The factor of a row's noise at the model's variance, and the relative rounding error of their product."""
        if row.noise_factor == _library.NOISE_FACTOR_NONE:
            return 1.0, 0.0
        v = generate.VARIANCE
        if row.noise_factor == _library.NOISE_FACTOR_ROOT:
            return math.sqrt(v), ROUNDOFF
        return math.exp(row.noise_offset + row.noise_slope * v), ROUNDOFF

    def sum(self, combination: Any, terms: dict[str, Bounded]) -> Bounded:
        parts = [(getattr(combination, name), *term) for name, term in terms.items()]
        parts += [(combination.slots[slot], *term) for slot, term in self.slots.items()]
        parts = [part for part in parts if part[0] != 0]
        zeros = np.zeros(generate.SHAPE)
        value = sum((c * v for c, v, _ in parts), zeros)
        magnitude = sum((abs(c) * np.abs(v) for c, v, _ in parts), zeros)
        inherited = sum((abs(c) * error for c, _, error in parts), zeros)
        self.magnitudes[-1] = np.maximum(self.magnitudes[-1], magnitude)
        return value, step_bound(len(parts), magnitude) + 1.01 * inherited

    def clamped(self, value: np.ndarray, error: np.ndarray) -> Bounded:
        """A prediction after the plan's clamp, with its bound.

        A fixed range adds no error. A threshold s is off by d: the largest error of the item's elements, plus four roundings of the
        interpolation between two of them. The clamped value, at most s, and its divisor s are each off by d. This adds 2 d / s.
        """
        properties = self.ours.plan_properties()
        if properties.clamp == _library.CLAMP_RANGE:
            return value.clip(-properties.clamp_range, properties.clamp_range), error
        if properties.clamp != _library.CLAMP_THRESHOLD:
            return value, error
        axes = tuple(range(1, value.ndim))
        quantile = np.quantile(np.abs(value), properties.threshold_ratio, axis=axes, keepdims=True)
        s = quantile.clip(1, max(1, properties.threshold_maximum))
        d = np.max(error, axis=axes, keepdims=True) + 4 * ROUNDOFF * np.max(np.abs(value), axis=axes, keepdims=True)
        result = value.clip(-s, s) / s
        return result, 1.01 * ((error + 2 * d) / s + ROUNDOFF * np.abs(result))


class Noise:
    """Replaces ``randn_tensor``: draws from the generator, but returns the test problem's noise."""

    index = 0

    def __call__(self, shape: Any, dtype: Any = None, **arguments: Any) -> Any:
        randn_tensor(shape, dtype=dtype, **arguments)
        return generate.as_tensor(generate.noise_values(self.index), dtype).reshape(shape)


def compare_batch_step(outcome: Outcome, case: Case, reference: Any, start: list[float]) -> None:
    """Compares a step of batch items at different timesteps, in float64, if the original has a method for it."""
    if getattr(diffusion_scheduling, case.name).description.batch_step is None:
        return
    drop_in, wide = case.built(drop_ins), copy.deepcopy(reference)
    generate_classes.widen(wide)
    wide.num_inference_steps = len(wide.timesteps)  # The original leaves it unset for custom timesteps.
    x = torch.tensor(start, dtype=torch.float64).reshape(generate.SHAPE)
    at = random.Random(outcome.index).choices(range(len(wide.timesteps)), k=len(x))
    e = case.told(model(x.numpy(), float(wide.timesteps[at[0]]), case.train_steps))
    steps = [getattr(each, drop_in.description.batch_step.name) for each in (drop_in, wide)]
    options = {key: value for key, value in accepted(steps[0], **case.run.options).items() if key != "eta"}
    own, theirs = (step(torch.from_numpy(e), wide.timesteps[at], x, **options) for step in steps)
    deviation = generate.deviation(theirs.flatten().tolist(), own.flatten().tolist())
    if not deviation <= LOOP:
        outcome.faults.append(f"items at the timesteps {wide.timesteps[at].tolist()} are {deviation:.2e} from the original's")


def accepted(method: Any, **arguments: Any) -> dict[str, Any]:
    """The arguments that a method accepts."""
    known = inspect.signature(method).parameters
    return {name: value for name, value in arguments.items() if name in known}


def compare_steps(
    outcome: Outcome, case: Case, ours: Any, reference: Any, start: list[float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compares single float32 steps from the same inputs. Returns our last sample, and the magnitudes of each step's terms."""
    drop_in, followed = case.built(drop_ins) if case.has_drop_in else None, copy.deepcopy(reference)
    if hasattr(drop_in, "_step_index") and not hasattr(drop_in, "set_begin_index"):
        # A repeated first timestep would be looked up at its second place.
        drop_in._step_index = 0
    if drop_in is not None and drop_in.timesteps.tolist() != reference.timesteps.tolist():
        outcome.faults.append("the drop-in has other timesteps")
    module = generate_classes.home_of(followed)
    noise = Noise()
    patches = [unittest.mock.patch.object(_tensors, "_randn_tensor", lambda: noise)]
    if hasattr(module, "randn_tensor"):
        patches.append(unittest.mock.patch.object(module, "randn_tensor", noise))
    if draws_from_tree(followed):

        def motion(x: Any, *ends: float, **arguments: Any) -> Any:
            return generate_classes.Motion(lambda: noise(x.shape, x.dtype))

        patches.append(unittest.mock.patch.object(module, TREE, motion))
    for patch in patches:
        patch.start()
    try:
        return take_steps(outcome, case, ours, drop_in, followed, noise, start)
    finally:
        for patch in patches:
            patch.stop()


def take_steps(
    outcome: Outcome, case: Case, ours: Any, drop_in: Any, followed: Any, noise: Noise, start: list[float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    exact, bound = case.family.loop(followed, case.begin, case.run.options), Bound(ours)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    stepped = followed if drop_in is None else drop_in
    mine, original = (accepted(each.step, generator=generator) for each, generator in zip((stepped, followed), generators))
    x, old = np.array(start, np.float32).reshape(generate.SHAPE), None
    for i in range(case.begin, len(ours.timesteps)):
        noise.index, t, told = i, ours.timesteps[i], generate_classes.told_timestep(followed, i)
        timestep, arguments = float(followed.timesteps[i]), generate_classes.step_arguments(followed, i, old)
        z = np.array(generate.noise_values(i)).reshape(generate.SHAPE)
        scaled = np.asarray(ours.scale_model_input(x, t))
        compare_inputs(outcome, i, exact, drop_in, followed, x, scaled, told)
        e = model(scaled, timestep, case.train_steps)
        output = case.told(e)
        told_output = torch.from_numpy(output)
        results = ours.step(output, t, x, variance_noise=z.astype(np.float32))
        told_all = {"model_output": told_output, "timestep": told, "sample": torch.from_numpy(x), **arguments}
        same = None if drop_in is None else generate_classes.take_step(drop_in, **told_all, **mine, **case.options)
        theirs = generate_classes.take_step(followed, **told_all, **original, **case.run.options)
        true, report, drawn = exact.step(i, x.ravel().tolist(), e.ravel().tolist())
        row = bound.row(i, i - case.begin)
        if row.n_noise_draws != drawn:
            outcome.faults.append(f"step {i} draws {row.n_noise_draws} noise tensors, the exact one {drawn}")
        if (
            drop_in is not None
            and not draws_from_tree(followed)
            and not torch.equal(*(generator.get_state() for generator in generators))
        ):
            outcome.faults.append(f"step {i}: the drop-in leaves the generator another way")
        limits = bound.step(row, x.astype(float), *bound.weighted(i, e.astype(float)), z)
        if same is None:
            pass
        elif overlaps(drop_in.description) and i % 2:
            allowed = 2 * limits[0] + noise_share_error(ours, i)
            if not np.all(np.abs(results.prev_sample - same.prev_sample.numpy()) <= allowed):
                outcome.faults.append(f"step {i}: the drop-in's result is another")
        elif not all(np.array_equal(a, b.numpy()) for a, b in zip(results, same.values())):
            outcome.faults.append(f"step {i}: the drop-in has other bits")
        for what, values, expected, limit in zip(("sample", "report"), results, (true, report), limits):
            error = np.abs([float(float(v) - w) for v, w in zip(values.ravel(), expected)])
            share = float(np.max(error / limit.ravel()))
            outcome.worst_share_of_bound = max(outcome.worst_share_of_bound, share)
            if not share <= 1:
                outcome.faults.append(f"step {i}: the {what} is off by {share:.2f} of its bound")
        own_error, their_error = (rms(v.ravel().tolist(), true) for v in (results.prev_sample, theirs.prev_sample))
        outcome.steps += 1
        outcome.steps_nearer += own_error < their_error
        outcome.steps_equal += own_error == their_error
        x = results.prev_sample
        old = torch.from_numpy(results[-1])
    return x, bound.magnitudes


def noise_share_error(ours: Any, i: int) -> np.ndarray:
    """The bound of the motion's noise over a whole step, a float32 sum of two parts.

    A part's coefficient is the root of its share: its difference of levels divided by the whole step's. The levels come from
    float32 logarithms of at most 10, so each is off by 10 roundings. The root of a share is off by half their sum over the smaller
    difference. Two products and a sum add three roundings.
    """
    source, target = ours.sigmas[i - 1 : i + 1].astype(float)
    parts = ours.row(i - 1, 0).stored[0].noise, ours.row(i, 0).next_sample.noise
    noise: np.ndarray = sum(abs(part * np.array(generate.noise_values(i - 1 + k))) for k, part in enumerate(parts))
    middle = math.sqrt(source * target)
    share = 10 * source / (middle - target) if target < source else 0
    return (share + 3) * 2.0**-24 * noise.reshape(generate.SHAPE)


def compare_inputs(
    outcome: Outcome, i: int, exact: Any, drop_in: Any, followed: Any, x: np.ndarray, scaled: np.ndarray, timestep: Any
) -> None:
    """Compares the model's input, a rounded product with a rounded factor."""
    true = exact.model_input(i, [generate.mpf(v) for v in x.ravel().tolist()])
    error = np.abs([float(float(v) - w) for v, w in zip(scaled.ravel(), true)])
    if not np.all(error <= step_bound(1, np.abs(generate.floats(true)))):
        outcome.faults.append(f"step {i}: the scaled input is off")
    if hasattr(followed, "scale_model_input"):
        followed.scale_model_input(torch.from_numpy(x), timestep)
        if drop_in is not None and not np.array_equal(drop_in.scale_model_input(torch.from_numpy(x), timestep).numpy(), scaled):
            outcome.faults.append(f"step {i}: the drop-in scales inputs to other bits")


def rounded_end(case: Case, reference: Any, start: list[float], magnitudes: list[np.ndarray]) -> list[float]:
    """The end of the exact loop if each evaluation is off by ten float64 roundings of its terms, with alternating signs.

    A solver that extrapolates noise multiplies the sample by a quotient of two signal rates. A run that starts at the level 20,291
    has a quotient of 20,291. HeunDiscrete and KarrasVe divide the difference of the sample and its prediction by a level. Our rows
    fold the noise estimate in, so their terms are smaller.
    """
    loop = case.family.loop(reference, case.begin, case.run.options)
    x = [generate.mpf(v) for v in start]
    for i, magnitude in enumerate(magnitudes, case.begin):
        e = generate.model_exact(loop.model_input(i, x), loop.timesteps[i], case.train_steps)
        if case.extrapolates_noise:
            magnitude = magnitude * float(max(1, loop.level(i + 1)[0] / loop.level(i)[0]))
        if case.name in ("HeunDiscreteScheduler", "KarrasVeScheduler") and i % 2:
            magnitude = magnitude + float(abs(1 - loop.sigmas[i - 1] / loop.sigmas[i])) * np.abs(generate.floats(x)).reshape(
                magnitude.shape
            )
        x, _, _ = loop.step(i, x, e)
        off = [10 * 2.0**-53 * m for m in magnitude.ravel().tolist()]
        x = [v + d if (i + j) % 2 else v - d for j, (v, d) in enumerate(zip(x, off))]
    ends: list[float] = generate.floats(x)
    return ends


def compare_loops(
    outcome: Outcome, case: Case, ours: Any, reference: Any, start: list[float], final: np.ndarray, magnitudes: list[np.ndarray]
) -> None:
    """Compares the ends of loops in float64 and float32.

    final       the end of our float32 loop
    magnitudes  the magnitudes of each step's terms
    """
    exact, exact_report, exact_draws = case.family.loop(reference, case.begin, case.run.options).run(start)
    double, double_report, draws = reference_loop(case, reference, start, torch.float64)
    if draws != exact_draws:
        outcome.faults.append("diffusers draws another number of noise tensors than the exact loop")
    ends = [(generate.floats(exact), double)]
    if double_report is not None:
        ends.append((generate.floats(exact_report), double_report))
    theirs = max(generate.deviation(*pair) for pair in ends)
    allowed = case.family.limit
    if theirs > allowed:
        allowed = generate.deviation(ends[0][0], rounded_end(case, reference, start, magnitudes))
    if not theirs <= allowed:
        outcome.faults.append(f"diffusers' float64 loop ends {theirs:.2e} from the exact one: the exact recurrence is another")

    begin_run(case, ours)
    x = np.array(start).reshape(generate.SHAPE)
    results: Any = ()
    for i in range(case.begin, len(ours.timesteps)):
        t = ours.timesteps[i]
        e = case.told(model(np.asarray(ours.scale_model_input(x, t)), float(reference.timesteps[i]), case.train_steps))
        results = ours.step(e, t, x, variance_noise=np.array(generate.noise_values(i)).reshape(generate.SHAPE))
        x = results.prev_sample
    for what, values, (true, other) in zip(("sample", "report"), results, ends):
        own = generate.deviation(true, values.ravel().tolist())
        if not own <= LOOP + 2 * generate.deviation(true, other):
            outcome.faults.append(f"the float64 loop's {what} ends {own:.2e} from the exact one")

    single, _, _ = reference_loop(case, reference, start, torch.float32)
    if not np.isfinite(final).all():
        outcome.faults.append("the float32 loop isn't finite")
    own_error, their_error = rms(final.ravel().tolist(), exact), rms(single, exact)
    outcome.loop_nearer = int(own_error < their_error or math.isnan(their_error))
    outcome.loop_equal = int(own_error == their_error)
