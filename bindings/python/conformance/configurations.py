# SPDX-License-Identifier: Apache-2.0

"""Part (a): compares random configurations with live diffusers, here for the classes of ``generate.py``; ``classes`` has the rest.

Each configuration has its own seed and is drawn like those of the golden vectors. The checks:

* Timesteps are equal. They may be off by one if the reference's own unrounded value lies within 1e-3 of a rounding boundary
  (``loose_timesteps`` of the goldens' script).
* Noise levels agree to 1.2e-7: half a unit of float32 for our root, and one unit for torch's, which isn't correctly rounded.
  Grids between the ends of a table inherit the error of the ends' roots.
* Each float32 step is within the bound of its roundings from 50-digit arithmetic on the same inputs.
* Loops in float64 end within 1e-9 of the exact recurrence. diffusers' loops, widened to float64, end within their own error of it.
* The drop-in has the same bits as the class for NumPy.

The reference steps on our levels, so that a difference in a level's last bit isn't counted again in the steps.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import diffusers
import diffusion_scheduling
import diffusion_scheduling.diffusers as drop_ins
import mpmath
import numpy as np
import torch
from mpmath import mpf

from .goldens import generate

SIGMA = 1.2e-7
"""The relative bound of a noise level: half a float32 unit in the last place for our root, and one unit, 2^-23, for torch's."""
LU_SIGMA = 2.0**-21 + SIGMA
"""The relative bound of the lu grid's ends: one unit in the last place of a float32 logarithm between 4 and 8, plus the root's."""
ROUNDOFF = 2.0**-24
LOOP = 1e-9
"""The bound of float64 loops against exact ones, relative to max(1, |x|): 1,000 steps with relative coefficient errors of 1e-13."""
CANCELLATION = 1e-3
"""The bound of diffusers' own DEIS of order 3 in float64, relative to max(1, |x|). It subtracts antiderivatives, which cancel."""
LONGEST = 60
"""The most steps taken; longer runs stop there."""


@dataclass
class Outcome:
    """The results of one configuration."""

    name: str
    index: int
    seed: int
    steps_requested: int = 0
    faults: list[str] = field(default_factory=list)
    loose_timesteps: int = 0
    other_grid: bool = False
    other_end: bool = False
    """Whether the original adds noise after the last step. Ours doesn't, on purpose."""
    refused: bool = False
    """Whether ours refuses the configuration on purpose."""
    steps: int = 0
    steps_nearer: int = 0
    steps_equal: int = 0
    loop_nearer: int = 0
    loop_equal: int = 0
    worst_share_of_bound: float = 0.0
    redraws: int = 0
    limit: int = LONGEST
    """The most steps that were compared."""
    config: dict[str, Any] = field(default_factory=dict)


def step_bound(terms: int, magnitude: np.ndarray) -> np.ndarray:
    """Returns the error bound of a float32 step.

    With t terms, each coefficient and each product is rounded once (u), and so are up to t - 1 sums. To first order the error is
    (t + 1) u times the sum of the terms' magnitudes; the factor 1.01 covers the higher orders. The last summand covers denormal
    results.
    """
    return 1.01 * (terms + 1) * ROUNDOFF * magnitude + 2.0**-149


class ExactMultistep:
    """The recurrence of a multistep scheduler in 50-digit arithmetic, from its float32 noise levels."""

    def __init__(self, config: dict[str, Any], sigmas: list[float]) -> None:
        self.config = config
        self.sigmas = [mpf(s) for s in sigmas]
        self.rows: dict[tuple[int, int], Any] = {}
        self.restart()

    def restart(self) -> None:
        self.history: list[list[Any]] = []
        self.magnitudes: list[np.ndarray] = []
        self.index = 0

    def step(self, x: list[Any], e: list[Any], z: list[float]) -> tuple[list[Any], np.ndarray]:
        """Returns the next sample, and the bound of a float32 step from the same inputs."""
        i, config = self.index, self.config
        converted = generate.convert_exact(config, x, e, self.sigmas[i])
        self.history = [converted, *self.history][:3]
        self.magnitudes = [self.conversion_magnitude(np.array(x, float), np.array(e, float)), *self.magnitudes][:3]
        order = generate.choose_order(config, i, len(self.sigmas) - 1, min(i, config["solver_order"]))
        if (i, order) not in self.rows:
            self.rows[i, order] = generate.multistep_coefficients(config, order, self.sigmas, i)
        a, b, c = self.rows[i, order]
        result = [a * v + sum(w * m[j] for w, m in zip(b, self.history)) + c * z[j] for j, v in enumerate(x)]
        magnitude = float(abs(a)) * np.abs(np.array(x, float)) + float(abs(c)) * np.abs(np.array(z))
        for weight, m in zip(b, self.magnitudes):
            magnitude = magnitude + float(abs(weight)) * m
        self.index += 1
        # Each remembered output is a sum of two terms.
        return result, step_bound(2 + 2 * order, magnitude)

    def conversion_magnitude(self, x: np.ndarray, e: np.ndarray) -> np.ndarray:
        """Returns the sum of the magnitudes of a converted output's terms."""
        config, sigma = self.config, self.sigmas[self.index]
        A, S = (float(v) for v in generate.amplitudes(sigma, config["use_flow_sigmas"]))
        x, e, prediction = np.abs(x), np.abs(e), config["prediction_type"]
        clean = {
            "epsilon": (x + S * e) / A if A else np.inf,
            "sample": e,
            "v_prediction": A * x + S * e,
            "flow_prediction": x + float(sigma) * e,
        }[prediction]
        if config["algorithm_type"].endswith("++"):
            return clean
        if config["thresholding"] or prediction == "flow_prediction":
            return (x + A * clean) / S
        return {"epsilon": e, "sample": (x + A * e) / S, "v_prediction": A * e + S * x}[prediction]


class ExactDDIM:
    """The recurrence of DDIM or its inverse in 50-digit arithmetic, from its float32 signal variances."""

    def __init__(
        self, config: dict[str, Any], alphas: list[float], timesteps: list[int], extra: dict[str, Any], inverse: bool
    ) -> None:
        self.arguments = config, [mpf(a) for a in alphas], timesteps, extra, inverse
        self.restart()

    def restart(self) -> None:
        self.index = 0

    def step(self, x: list[Any], e: list[Any], z: list[float]) -> tuple[list[Any], np.ndarray]:
        config, alphas, timesteps, extra, inverse = self.arguments
        prediction = config["prediction_type"]
        source, target = generate.ddim_levels(config, alphas, timesteps[self.index], len(timesteps), inverse)
        A, S, eta = mpmath.sqrt(source), mpmath.sqrt(1 - source), mpf(extra.get("eta", 0))
        clean = generate.clean_sample(prediction, A, S, None, x, e)
        noise = generate.noise_estimate(prediction, A, S, x, e)
        xm, em, zm, a, s = np.abs(np.array(x, float)), np.abs(np.array(e, float)), np.abs(np.array(z)), float(A), float(S)
        clean_m = {"epsilon": (xm + s * em) / a if a else np.inf, "sample": em, "v_prediction": a * xm + s * em}[prediction]
        noise_m = {"epsilon": em, "sample": (xm + a * em) / s if s else np.inf, "v_prediction": a * em + s * xm}[prediction]
        if config.get("thresholding"):
            clean = generate.threshold_exact(clean, config)
        elif config["clip_sample"]:
            limit = mpf(config["clip_sample_range"])
            clean = [min(max(v, -limit), limit) for v in clean]
        if extra.get("use_clipped_model_output"):
            noise = [(v - A * p) / S for v, p in zip(x, clean)]
            noise_m = (xm + a * clean_m) / s
        variance = eta * eta * (1 - target) / (1 - source) * (1 - source / target) if eta else mpf(0)
        keep, direction, c = mpmath.sqrt(target), mpmath.sqrt(1 - target - variance), mpmath.sqrt(variance)
        result = [keep * p + direction * n + c * w for p, n, w in zip(clean, noise, z)]
        self.index += 1
        return result, step_bound(5, float(keep) * clean_m + float(direction) * noise_m + float(c) * zm)


def relative(value: float, exact: float) -> float:
    return 0.0 if value == exact else abs(value - exact) / abs(exact)


def rms(values: list[float], exact: list[Any]) -> float:
    return math.sqrt(sum(float(v - x) ** 2 if math.isfinite(v) else math.inf for v, x in zip(values, exact)) / len(exact))


def has_another_grid(config: dict[str, Any], name: str) -> bool:
    """Whether our grid differs on purpose. The original's inverse denoises on flow sigmas, and on other grids if the configuration
    has another scheduler's sigma_min or sigma_max."""
    grids = [key for key in ("karras", "exponential", "beta") if config.get(f"use_{key}_sigmas")]
    if "Inverse" not in name or not (grids or config.get("use_flow_sigmas")):
        return False
    return not grids or any(config.get(key) is not None for key in ("sigma_min", "sigma_max"))


def is_undefined(reference: Any, timesteps: list[int]) -> bool:
    """Whether a step predicts a clean sample from pure noise. The original divides by zero there; ours floors the divisor."""
    return (
        isinstance(reference, diffusers.DDIMScheduler)
        and reference.config.prediction_type == "epsilon"
        and any(reference.alphas_cumprod[t] == 0 for t in timesteps)
    )


def draw(key: str, seed: int, index: int) -> tuple[Any, ...]:
    """Draws until the reference can run the configuration. Returns the reference too."""
    name, _, drawing, _ = generate.FILES[key]
    rng = random.Random(f"{seed}/{key}/{index}")
    redraws = 0
    while True:
        config, hidden, n, extra = drawing(rng)
        try:
            reference = generate.build(getattr(diffusers, name), config, hidden)
            timesteps = generate.configure(reference, n, extra["mu"])
            if min(timesteps) < 0 or ("DDIM" in name and max(timesteps) >= config["num_train_timesteps"]):
                raise generate.Redraw("timestep outside of the training")
            if is_undefined(reference, timesteps):
                raise generate.Redraw("clean sample undefined without signal")
            if hasattr(reference, "sigmas") and not torch.isfinite(reference.sigmas).all():
                raise generate.Redraw("not finite")
            wide = reference_loop(name, config, hidden, n, extra, None, torch.float64)
        except (generate.Redraw, ValueError, IndexError, RuntimeError, UnboundLocalError, ZeroDivisionError):
            redraws += 1
            continue
        return config, hidden, n, extra, reference, timesteps, redraws, wide


def reference_loop(
    name: str,
    config: dict[str, Any],
    hidden: dict[str, Any],
    n: int,
    extra: dict[str, Any],
    ours: Any,
    dtype: torch.dtype,
    limit: int = LONGEST,
) -> list[float]:
    """Returns the reference's sample after at most `limit` steps; on our noise levels if `ours` is given."""
    reference = generate.build(getattr(diffusers, name), config, hidden)
    timesteps = generate.configure(reference, n, extra["mu"])
    if ours is not None:
        on_levels_of(reference, ours)
        timesteps = ours.timesteps.tolist()
    if "DDIM" in name:
        arguments = {key: value for key, value in extra.items() if key != "mu"}
        result: list[float] = generate.run_ddim_reference(reference, timesteps[:limit], dtype, arguments)
    elif dtype == torch.float64 and name == "DPMSolverMultistepScheduler":
        result = generate.run_without_rounding(reference, timesteps[:limit])
    else:
        result = generate.run_multistep_reference(reference, timesteps[:limit], dtype)
    return result


def on_levels_of(reference: Any, ours: Any) -> None:
    """Makes the reference step on our noise levels."""
    if isinstance(ours, (diffusion_scheduling.DDIMScheduler, diffusion_scheduling.DDIMInverseScheduler)):
        reference.alphas_cumprod = torch.from_numpy(ours.alphas_cumprod)
        for end in ("final_alpha_cumprod", "initial_alpha_cumprod"):
            if hasattr(reference, end):
                setattr(reference, end, torch.tensor(1.0) if ours.config.set_alpha_to_one else reference.alphas_cumprod[0])
    else:
        reference.sigmas = torch.from_numpy(ours.sigmas)
        reference.timesteps = torch.from_numpy(ours.timesteps)
        reference.num_inference_steps = len(ours.timesteps)
        # A repeated first timestep would be looked up at its second place.
        reference._step_index = 0


def with_variance(e: np.ndarray, learned: bool) -> np.ndarray:
    return np.concatenate([e, np.full_like(e, generate.VARIANCE)], axis=1) if learned else e


def model(x: np.ndarray, t: float, train_steps: int) -> np.ndarray:
    """The test problem's model. Its output is rounded to the sample's type."""
    wide = x.astype(np.float64)
    answer: np.ndarray = (0.8 * wide / (1 + 0.25 * wide * wide) + 0.3 * (t / train_steps) - 0.1).astype(x.dtype)
    return answer


def prepare_process() -> None:
    """Silences a process of the pool and limits it to one core."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    diffusers.utils.logging.set_verbosity(50)


def check(key: str, seed: int, index: int) -> Outcome:
    """Draws a configuration and checks it."""
    config, hidden, n, extra, reference, timesteps, redraws, _ = draw(key, seed, index)
    name = generate.FILES[key][0]
    outcome = Outcome(name, index, seed, n, redraws=redraws, config={**config, **hidden, **extra})
    try:
        compare(outcome, name, config, hidden, n, extra, reference, timesteps)
    except Exception as error:  # A configuration that raises is a fault; the others still count.
        outcome.faults.append(f"{type(error).__name__}: {error}")
    return outcome


def compare(
    outcome: Outcome,
    name: str,
    config: dict[str, Any],
    hidden: dict[str, Any],
    n: int,
    extra: dict[str, Any],
    reference: Any,
    timesteps: list[int],
) -> None:
    is_ddim = "DDIM" in name
    saved = json.loads(generate.saved_text(reference))
    ours = getattr(diffusion_scheduling, name).from_config(saved)
    ours.set_timesteps(n, **({} if extra["mu"] is None else {"mu": extra["mu"]}))
    outcome.other_grid = not is_ddim and has_another_grid(saved, name)
    if not outcome.other_grid:
        compare_grids(outcome, reference, ours, n, timesteps)
    full = {**dict(reference.config)}
    run = ours.timesteps.tolist()
    if is_ddim:
        exact: Any = ExactDDIM(full, ours.alphas_cumprod.tolist(), run, extra, "Inverse" in name)
    else:
        exact = ExactMultistep(full, ours.sigmas.tolist())
        if full["algorithm_type"].startswith("sde") and ours.sigmas[-1] > ours.sigmas[-2]:
            # Rounding may put the end of a lu grid below the table's least level. The last step would then lead up to that level,
            # and its noise would have an imaginary deviation.
            outcome.limit = min(LONGEST, n - 1)
    compare_steps(outcome, name, config, hidden, n, extra, ours, exact)


def compare_grids(outcome: Outcome, reference: Any, ours: Any, n: int, timesteps: list[int]) -> None:
    """Compares timesteps and noise levels."""
    is_ddim = not hasattr(reference, "sigmas")
    loose = [] if is_ddim else generate.loose_timesteps(reference, n, timesteps)
    mine = ours.timesteps.tolist()
    if len(mine) != len(timesteps):
        outcome.faults.append(f"{len(mine)} timesteps, reference {len(timesteps)}")
        return
    for i, (own, theirs) in enumerate(zip(mine, timesteps)):
        if own != theirs:
            if i in loose and abs(own - theirs) == 1:
                outcome.loose_timesteps += 1
            else:
                outcome.faults.append(f"timestep {i} is {own}, reference {theirs}")
    if is_ddim:
        table = reference.alphas_cumprod.numpy()
        worst = max(relative(float(a), float(b)) for a, b in zip(ours.alphas_cumprod, table))
        if worst > SIGMA:
            outcome.faults.append(f"alphas_cumprod off by {worst:.2e}")
        return
    own, theirs = ours.sigmas.astype(float), reference.sigmas.double().numpy()
    config = reference.config
    grids = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")
    chosen = next((key for key in grids if config.get(key)), None)
    inherited = 0.0
    if chosen or config.get("use_flow_sigmas"):
        inherited = max(relative(own[0], theirs[0]), relative(own[n - 1], theirs[n - 1]))
    if inherited > (LU_SIGMA if chosen == "use_lu_lambdas" else SIGMA):
        outcome.faults.append(f"the ends of the grid are off by {inherited:.2e}")
    for i, (a, b) in enumerate(zip(own, theirs)):
        if i < n and mine[i] != timesteps[i]:
            continue  # A timestep at a rounding boundary may be its neighbour. On a plain grid its level is then the neighbour's.
        if relative(a, b) > SIGMA + inherited:
            outcome.faults.append(f"sigma {i} is {a}, reference {b}")


def compare_steps(
    outcome: Outcome,
    name: str,
    config: dict[str, Any],
    hidden: dict[str, Any],
    n: int,
    extra: dict[str, Any],
    ours: Any,
    exact: Any,
) -> None:
    """Compares single steps from the same inputs, then loops."""
    is_ddim = "DDIM" in name
    full, run = ours.config, ours.timesteps.tolist()
    learned = full.get("variance_type") is not None
    train_steps = full["num_train_timesteps"]
    stochastic = not is_ddim and full["algorithm_type"].startswith("sde")
    options = {key: value for key, value in extra.items() if key in ("eta", "use_clipped_model_output")}
    drop_in = generate.build(getattr(drop_ins, name), config, hidden)
    drop_in.set_timesteps(n, **({} if extra["mu"] is None else {"mu": extra["mu"]}))
    followed = generate.build(getattr(diffusers, name), config, hidden)
    generate.configure(followed, n, extra["mu"])
    on_levels_of(followed, ours)
    if not is_ddim and hasattr(drop_in, "set_begin_index"):
        ours.set_begin_index(0)
        drop_in.set_begin_index(0)
    elif not is_ddim:
        drop_in._step_index = 0
    # On a grid that differs on purpose, the drop-in leaves out repeated timesteps, as the original does.
    is_comparable = drop_in.timesteps.tolist() == run
    if not is_comparable and not outcome.other_grid:
        outcome.faults.append("the drop-in has other timesteps")
    shape = generate.SHAPE
    start = np.array(generate.initial_values())
    x = start.astype(np.float32).reshape(shape)
    for i, t in enumerate(run[: outcome.limit]):
        e = model(x, t, train_steps)
        z = generate.noise_values(i)
        arguments = dict(options)
        if stochastic or options.get("eta", 0) > 0:
            arguments["variance_noise"] = np.array(z, np.float32).reshape(shape)
        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        whole = with_variance(e, learned)
        result = ours.step(whole, t, x, **arguments).prev_sample
        same = result
        if is_comparable:
            same = drop_in.step(torch.from_numpy(whole), t, torch.from_numpy(x), **tensors).prev_sample.numpy()
        theirs = followed.step(torch.from_numpy(whole), t, torch.from_numpy(x), **tensors).prev_sample.numpy()
        true, bound = exact.step(x.ravel().tolist(), e.ravel().tolist(), z)
        if not np.array_equal(result, same, equal_nan=True):
            outcome.faults.append(f"step {i}: the drop-in has other bits")
        error = np.abs([float(float(v) - w) for v, w in zip(result.ravel(), true)])
        share = float(np.max(error / bound))
        outcome.worst_share_of_bound = max(outcome.worst_share_of_bound, share)
        if not share <= 1:
            outcome.faults.append(f"step {i} is off by {share:.2f} of its bound")
        own_error, their_error = rms(result.ravel().tolist(), true), rms(theirs.ravel().tolist(), true)
        outcome.steps += 1
        outcome.steps_nearer += own_error < their_error
        outcome.steps_equal += own_error == their_error
        x = result
    compare_loops(outcome, name, config, hidden, n, extra, ours, exact, x)


def compare_loops(
    outcome: Outcome,
    name: str,
    config: dict[str, Any],
    hidden: dict[str, Any],
    n: int,
    extra: dict[str, Any],
    ours: Any,
    exact: Any,
    final: np.ndarray,
) -> None:
    """Compares the ends of loops in float64 and float32. `final` is the end of our float32 loop."""
    full, run = ours.config, ours.timesteps.tolist()
    learned, train_steps = full.get("variance_type") is not None, full["num_train_timesteps"]
    exact.restart()
    x = generate.initial_values()
    for i, t in enumerate(run[: outcome.limit]):
        e = generate.model_exact(x, t, train_steps)
        x, _ = exact.step(x, e, generate.noise_values(i))
    wide = np.array(generate.initial_values()).reshape(generate.SHAPE)
    ours.set_timesteps(n, **({} if extra["mu"] is None else {"mu": extra["mu"]}))
    options = {key: value for key, value in extra.items() if key in ("eta", "use_clipped_model_output")}
    stochastic = "DDIM" not in name and full["algorithm_type"].startswith("sde")
    if "DDIM" not in name:
        ours.set_begin_index(0)
    for i, t in enumerate(run[: outcome.limit]):
        arguments = dict(options)
        if stochastic or options.get("eta", 0) > 0:
            arguments["variance_noise"] = np.array(generate.noise_values(i)).reshape(generate.SHAPE)
        wide = ours.step(with_variance(model(wide, t, train_steps), learned), t, wide, **arguments).prev_sample
    end = [float(v) for v in x]
    own = generate.deviation(end, wide.ravel().tolist())
    if not own <= LOOP:
        outcome.faults.append(f"the float64 loop ends {own:.2e} from the exact one")
    reference = reference_loop(name, config, hidden, n, extra, ours, torch.float64, outcome.limit)
    theirs = generate.deviation(end, reference)
    allowed = generate.allowed_deviation(name, generate.build(getattr(diffusers, name), config, hidden))
    if "DEIS" in name and full["solver_order"] == 3:
        allowed = max(allowed, CANCELLATION)
    if not theirs <= allowed:
        outcome.faults.append(f"diffusers' float64 loop ends {theirs:.2e} from the exact one: the exact recurrence is another")
    single = reference_loop(name, config, hidden, n, extra, ours, torch.float32, outcome.limit)
    own_error, their_error = rms(final.ravel().tolist(), x), rms(single, x)
    outcome.loop_nearer = int(own_error < their_error or math.isnan(their_error))
    outcome.loop_equal = int(own_error == their_error)
