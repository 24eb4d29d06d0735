#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes the golden vectors of scheduler classes, one JSON file per class.

Each record describes one sampling loop: a scheduler configuration, the arguments of set_timesteps and of step, the schedule that
diffusers builds, and the final sample. The first configurations of a file are fixed: those of models on the Hub, and edge cases.
The others are drawn at random from the class's table of values and weights. A record holds three results:

* ``final_float32``: diffusers as shipped (float32 tables, scalars and samples);
* ``final_float64``: diffusers with its float32 tables widened to float64, float64 samples, and without its conversion
  of samples to float32, so all arithmetic of the step is double precision;
* ``final_exact``: the row formulas written out independently below, in 50-digit arithmetic on the same float32 tables.

The generator fails if ``final_float64`` and ``final_exact`` differ by more than the limits in CLASSES.

Usage::

    python3 Tests/Goldens/generate_classes.py [--only euler] [--seed N] [--count N] [--out DIR]

Needs the packages of generate.py, whose test problem and helpers this script shares.

Test problem
------------

Shape, initial values x_j, model m(x, t) and noise z_j(i) are those of generate.py. i is the index in ``timesteps``, also in loops
that begin late. The model receives the entry of ``timesteps``, fractional or not, and the sample, scaled by scale_model_input if
the class has that method. The noise is injected in place of diffusers' randn_tensor.

A loop that begins at index 0 starts from ``init_noise_sigma`` times x_j (from x_j if the class has no such factor). A loop that
begins at index k > 0 starts from ``initial``: add_noise (scale_noise for the flow class) of x_j with the noise z_j(number of
timesteps) at timestep k, computed in float64.

Record fields
-------------

``class``, ``config_text``, ``given``
    as in generate.py.
``model``
    the Hub model that ships this configuration (only in the records of such models).
``request``
    the arguments of set_timesteps, without those left at their defaults. ``n`` is num_inference_steps; the other names
    are the reference's: ``timesteps``, ``sigmas``, ``mu``, ``original_inference_steps``, ``strength``, ``max_timesteps``,
    ``intermediate_timesteps``, ``stage_index``.
``options``
    keyword arguments of step, without those left at their defaults: ``order``, ``r_timestep``, ``s_churn``, ``s_tmin``,
    ``s_tmax``, ``s_noise``.
    FlowMatchEulerDiscreteScheduler accepts the last four and ignores them.
``timesteps``
    the timesteps of all evaluations. float32 values are printed as the exact double. The lists of SCM and DDPMWuerstchen are
    without their last entry, the last step's target.
``loose``
    as in generate.py; empty for the classes that keep fractional timesteps.
``sigmas``
    base64 of little-endian float32: the reference's noise table for the loop. It has one entry more than there are timesteps,
    with two exceptions. Euler with log_linear interpolation has another entry, which is never reached. LTX with the caller's
    levels has no extra entry, since its last step returns its sample. Absent for classes without such a table.
``sigmas_float64``
    the table in float64, for classes that hold it in float64.
``alphas``, ``alphas_probe``
    the cumulative products of these classes, as in generate.py; float64 ones only as a probe.
``init_noise_sigma``
    the reference's float32 factor, printed as the exact double. Absent for the flow class, which has no factor.
``begin_index``
    index of the first evaluation. Classes with set_begin_index get it through that method. The others are stepped through the
    tail of the timesteps, so PNDM restarts its warm-up there.
``initial``
    base64 of 24 little-endian float64 numbers: the start of a loop that begins late. Absent if begin_index is 0.
``draws``
    noise tensors drawn by each evaluation, from begin_index on. A draw counts even if its coefficient is zero.
``final_exact``, ``final_float64``, ``final_float32``
    base64 of 24 little-endian float64 numbers. ``final_float32`` is not finite in a few records.
``report_exact``, ``report_float64``
    like the final results, for the second output of the last evaluation: ``denoised`` for LCM, ``pred_noised_sample`` for TCD,
    ``pred_original_sample`` for the other classes that have one. Absent for classes without a second output.

A model of Piflow gives ``n_grid`` outputs e[k] = (1 + k/8) m(x, t), one after another on the last axis.

Some steps get further arguments, as in the pipelines: the next timestep (UnCLIP), a timestep for each batch item (DDPMWuerstchen),
the previous step's prediction and timestep (CogVideoXDPM), or the step's index, noise and tables (HeliosDMD).

KarrasVe and ScoreSdeVe run by evaluations of the model, as the classes below do. ``timesteps`` are the levels that the model
receives. KarrasVe's ``sigmas_float64`` are the unrounded levels, and its ``init_noise_sigma`` includes the first step's noise.

The header counts the redrawn configurations by reason; # replaces the digits in messages.
"""

import copy
import dataclasses
import json
import math
import random
import re
import sys
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable

import diffusers
import mpmath
import numpy as np
import torch
from diffusers.schedulers.scheduling_dpm_cogvideox import DDIMSchedulerOutput as CogVideoXOutput
from diffusers.schedulers.scheduling_sde_ve import SdeVeOutput
from generate import (
    BATCH,
    ELEMENTS,
    LOOSE_MARGIN,
    STEP_BUCKETS,
    VARIANCE,
    Redraw,
    WideTorch,
    amplitudes,
    as_tensor,
    build,
    choose_order,
    clean_sample,
    deviation,
    dpm_step,
    draw_noise_table,
    floats,
    initial_values,
    main,
    model_exact,
    model_tensor,
    noise_estimate,
    noise_values,
    number,
    packed,
    pick,
    probe_indices,
    replaced_arguments,
    saved_text,
    spread,
    threshold_exact,
    write_records,
)
from mpmath import mpf

# ----------------------------------------------------------------------------------------------------------------------
# Drawing
# ----------------------------------------------------------------------------------------------------------------------

GRIDS = ("karras", "exponential", "beta", "flow")
SPACINGS = {"linspace": 34, "leading": 33, "trailing": 33}
OFFSETS = {0: 50, 1: 25, 2: 12, 3: 6, 7: 7}
PREDICTIONS = {"epsilon": 45, "sample": 20, "v_prediction": 35}
CLIPPING = {"clip_sample": {True: 40, False: 60}, "clip_sample_range": {1.0: 40, 0.5: 20, 1.5: 20, 2.5: 20}}
THRESHOLDING = {
    "thresholding": {True: 25, False: 75},
    "dynamic_thresholding_ratio": {0.995: 20, 0.5: 20, 0.75: 20, 0.9: 20, 1.0: 20},
    "sample_max_value": {0.5: 10, 1.0: 20, 1.5: 30, 3.0: 30, 100.0: 10},
}
COUNTS = {(1, 1): 4, (2, 4): 18, (5, 14): 34, (15, 50): 36, (51, 200): 6, (201, 400): 2}


@dataclasses.dataclass
class Run:
    """One loop: its configuration, the arguments of set_timesteps and step, and whether it begins late."""

    config: dict
    request: dict
    hidden: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)
    late: bool = False
    model: str | None = None


def draw_count(rng, limit):
    low, high = pick(rng, COUNTS)
    return rng.randint(min(low, limit), min(high, limit))


def draw_descending(rng, limit, integers):
    """Custom timesteps below `limit`, with fractions unless only integers are allowed."""
    count = rng.randint(1, min(20, limit))
    if integers or rng.random() < 0.5:
        values = rng.sample(range(limit), count)
    else:
        values = {round(rng.uniform(0, limit - 1), 2) for _ in range(count)}
    return sorted(values, reverse=True)


def draw_levels(rng):
    """Custom noise levels of the variance-exploding kind, the final one included."""
    levels = {float(f"{10 ** rng.uniform(-1.7, 1.9):.4g}") for _ in range(rng.randint(1, 16))}
    return sorted(levels, reverse=True) + [pick(rng, {0.0: 70, 0.01: 30})]


def draw_flow_levels(rng):
    """Custom noise levels of the flow kind: those of most pipelines, or a parabola."""
    count = rng.randint(2, 28)
    if rng.random() < 0.7:
        return np.linspace(1.0, 1 / count, count).tolist()
    return [round(1 - 0.9 * (k / count) ** 2 - 0.05 * k / count, 6) for k in range(count)]


def request_n(rng, config):
    return {"n": draw_count(rng, config["num_train_timesteps"])}


def request_timesteps(rng, config):
    return {"timesteps": draw_descending(rng, config["num_train_timesteps"], integers=False)}


def request_integer_timesteps(rng, config):
    return {"timesteps": draw_descending(rng, config["num_train_timesteps"], integers=True)}


def request_sigmas(rng, config):
    return {"sigmas": draw_levels(rng)}


def request_ramp(rng, config):
    """Positions from 0 to 1 between the greatest and the least level, which EDM's Euler takes as sigmas."""
    count = rng.randint(1, 16)
    if rng.random() < 0.5:
        return {"sigmas": np.linspace(0, 1, count).tolist()}
    return {"sigmas": sorted(round(rng.random(), 4) for _ in range(count))}


def request_flow_sigmas(rng, config):
    return {"sigmas": draw_flow_levels(rng)}


def request_ltx_levels(rng, config):
    """Levels with the final one, under either argument's name: LTX takes both alike."""
    levels = [*draw_flow_levels(rng), pick(rng, {0.0: 70, 0.01: 30})]
    return {pick(rng, {"sigmas": 70, "timesteps": 30}): levels}


def request_flow_both(rng, config):
    """CogView4's request: integer timesteps, and their levels, which the scheduler shifts."""
    timesteps = draw_descending(rng, config["num_train_timesteps"] - 1, integers=True)
    timesteps = [t + 1 for t in timesteps]
    return {"timesteps": timesteps, "sigmas": [t / config["num_train_timesteps"] for t in timesteps]}


def request_lcm(rng, config):
    request = {}
    original = config["original_inference_steps"]
    if rng.random() < 0.3:
        choices = [o for o in (10, 20, 40, 100) if o <= config["num_train_timesteps"]]
        request["original_inference_steps"] = original = rng.choice(choices)
    if rng.random() < 0.3:
        request["strength"] = rng.choice([0.3, 0.5, 0.75, 0.8])
    limit = max(1, int(original * request.get("strength", 1)))
    request["n"] = min(limit, pick(rng, {1: 8, 2: 14, 4: 24, 6: 14, 8: 18, 12: 12, limit: 10}))
    return request


def request_lcm_timesteps(rng, config):
    request = request_integer_timesteps(rng, config)
    if rng.random() < 0.4:
        request["strength"] = rng.choice([0.3, 0.5, 0.8])
    return request


def request_tcd(rng, config):
    request = request_lcm(rng, config)
    if rng.random() < 0.2:
        # More steps than training timesteps.
        request["original_inference_steps"] = 2 * config["num_train_timesteps"]
    return request


def request_scm(rng, config):
    """Two steps with an angle between them, or any number of evenly spaced steps."""
    request = {"n": 2}
    if rng.random() < 0.7:
        request = {"n": draw_count(rng, config["num_train_timesteps"]), "intermediate_timesteps": None}
    elif rng.random() < 0.5:
        request["intermediate_timesteps"] = round(rng.uniform(0.1, 1.1), 4)
    if rng.random() < 0.4:
        request["max_timesteps"] = round(rng.uniform(1.2, 1.5708), 5)
    return request


def request_scm_timesteps(rng, config):
    count = rng.randint(1, 12)
    angles = sorted({round(rng.uniform(0.01, 1.5708), 4) for _ in range(count)}, reverse=True)
    angles.append(pick(rng, {0: 70, 0.005: 30}))
    return {"n": len(angles) - 1, "timesteps": angles, "max_timesteps": None, "intermediate_timesteps": None}


def request_levels_of_flow(rng, config):
    """Unshifted levels, from pure noise or less down to 0."""
    return {"sigmas": [*draw_flow_levels(rng), 0.0]}


def request_stage(rng, config):
    """A stage of a pyramid. With one stage only, levels below pure noise, where the original would divide by 0."""
    if config["stages"] > 1:
        return {"n": draw_count(rng, config["num_train_timesteps"]), "stage_index": rng.randrange(config["stages"])}
    levels = [0.999 * level for level in draw_flow_levels(rng)]
    return {"sigmas": levels}


def request_distilled_stage(rng, config):
    """Up to 40 steps, of a stage if there are several, and for some an amplified first chunk. With one stage, also levels."""
    if config["stages"] == 1 and rng.random() < 0.5:
        return {"sigmas": sorted(draw_flow_levels(rng) + [0.0005], reverse=True)}
    request = {"n": min(draw_count(rng, config["num_train_timesteps"]), 40)}
    if config["stages"] > 1:
        request["stage_index"] = rng.randrange(config["stages"])
    if rng.random() < 0.3:
        request["is_amplify_first_chunk"] = True
    return request


def request_times(rng, config):
    times = sorted({round(rng.uniform(0.01, 1), 3) for _ in range(rng.randint(1, 20))}, reverse=True)
    return {"timesteps": [*times, pick(rng, {0.0: 70, 0.005: 30})]}


def request_two_or_more(rng, config):
    return {"n": max(2, draw_count(rng, config["num_train_timesteps"]))}


def request_any_n(rng, config):
    return {"n": draw_count(rng, 1000)}


def request_two_levels_or_more(rng, config):
    return {"n": max(2, draw_count(rng, 1000))}


def request_two_to_fifty(rng, config):
    return {"n": min(max(2, draw_count(rng, 1000)), 50)}


def apply_grid(rng, config, hidden, own_ends):
    """Replaces the drawn grid with the flags that select it, and draws ends for some grids.

    The ends are hidden keys if the class has no parameters for them.
    """
    grid, ends = config.pop("grid"), {}
    for name in GRIDS:
        if name in grid:
            config[f"use_{name}_sigmas"] = True
    if grid != "plain" and rng.random() < 0.3:
        flow = "flow" in grid
        ends = {"sigma_min": rng.choice([0.002, 0.03, 0.1]), "sigma_max": rng.choice([0.8, 0.95] if flow else [5.0, 80.0])}
        ends.pop(rng.choice(["", "", "sigma_min", "sigma_max"]), None)
    (config if own_ends else hidden).update(ends)


def adjust_euler(rng, run):
    apply_grid(rng, run.config, run.hidden, own_ends=True)


def adjust_edm(rng, run):
    config = run.config
    if config.get("algorithm_type", "sde-dpmsolver++").startswith("sde"):
        # Third order doesn't exist for these algorithms: the reference fails at the first such step.
        config["solver_order"] = min(config["solver_order"], 2)
    if config["final_sigmas_type"] == "sigma_min" and rng.random() < 0.5:
        # The last step leads from the least level to itself: otherwise heun's weights and order 3 divide by its length, 0.
        config["euler_at_final"] = True


def adjust_heun(rng, run):
    apply_grid(rng, run.config, run.hidden, own_ends=False)
    if "trained_betas" not in run.config and rng.random() < 0.15:
        run.config["beta_schedule"] = "exp"


def adjust_ends(rng, run):
    apply_grid(rng, run.config, run.hidden, own_ends=False)


def adjust_flow(rng, run):
    apply_grid(rng, run.config, run.hidden, own_ends=False)
    if run.config["use_dynamic_shifting"]:
        # The linear shift divides by mu.
        low = 0.2 if run.config["time_shift_type"] == "linear" else -0.6
        run.request["mu"] = round(rng.uniform(low, 1.9), 4)


def adjust_flow_lcm(rng, run):
    adjust_flow(rng, run)
    if "sigma_max" in run.hidden:
        # The library refuses levels above 1.
        run.hidden["sigma_max"] = 0.95


def adjust_ltx(rng, run):
    """Draws hidden keys: another class's parameters, which select the spacing of levels."""
    if "n" not in run.request or rng.random() < 0.3:
        return
    shifted = {name: pick(rng, values) for name, values in LTX_SPACING.items()}
    apply_grid(rng, shifted, run.hidden, own_ends=False)
    run.hidden.update(shifted)
    if "sigma_max" in run.hidden:
        # The library refuses levels above 1.
        run.hidden["sigma_max"] = 0.95
    if shifted["use_dynamic_shifting"]:
        run.request["mu"] = round(rng.uniform(0.2, 1.9), 4)


def adjust_pyramid(rng, run):
    if run.config["use_dynamic_shifting"]:
        run.config["shift"] = 1.0
        run.request["mu"] = round(rng.uniform(0.4, 2.0), 3)


def adjust_helios(rng, run):
    config = run.config
    config["use_flow_sigmas"] |= config["stages"] == 1
    adjust_pyramid(rng, run)
    if config["prediction_type"] == "flow_prediction":
        config["predict_x0"] = True  # The original refuses flow predictions without it.
    if not config["use_flow_sigmas"]:
        config["predict_x0"] = config["lower_order_final"] = True  # Otherwise the last step isn't finite.
        config["solver_type"] = "bh2"


def adjust_unipc(rng, run):
    config = run.config
    apply_grid(rng, config, run.hidden, own_ends=True)
    flow = config.get("use_flow_sigmas", False)
    if flow:
        config["flow_shift"] = rng.choice([1.0, 0.5, 3.0, 3.0, 5.0, 7.0])
        config["prediction_type"] = pick(rng, {"flow_prediction": 75, "epsilon": 10, "sample": 10, "v_prediction": 5})
        if "use_karras_sigmas" not in config:
            config["shift_terminal"] = pick(rng, {None: 70, 0.02: 15, 0.1: 15})
            if rng.random() < 0.3:
                run.request = request_flow_sigmas(rng, config)
        if any(config.get(f"use_{name}_sigmas") for name in ("exponential", "beta")):
            # These grids aren't converted to flow levels, so their ends must lie below 1.
            config.update(sigma_min=0.03, sigma_max=0.95)
    if rng.random() < (0.4 if flow else 0.05):
        config["use_dynamic_shifting"] = True
        run.request["mu"] = round(rng.uniform(-0.6, 1.9), 4)
    if not config["predict_x0"]:
        if config["prediction_type"] == "flow_prediction":
            config["predict_x0"] = True
        else:
            config["final_sigmas_type"] = "sigma_min"
    if rng.random() < 0.9 and (config["solver_type"] == "bh1" or not config["lower_order_final"]):
        # diffusers divides infinity by infinity here if the final level is 0.
        config["final_sigmas_type"] = "sigma_min"


def adjust_singlestep(rng, run):
    config = run.config
    apply_grid(rng, config, run.hidden, own_ends=False)
    if config.get("use_flow_sigmas"):
        config["flow_shift"] = rng.choice([1.0, 0.5, 3.0, 7.0])
        config["prediction_type"] = pick(rng, {"flow_prediction": 70, "epsilon": 10, "sample": 10, "v_prediction": 10})
        if rng.random() < 0.4:
            config["use_dynamic_shifting"] = True
            run.request["mu"] = round(rng.uniform(-0.6, 1.9), 4)
    elif config.get("beta_schedule") == "squaredcos_cap_v2" and rng.random() < 0.7:
        config["lambda_min_clipped"] = -5.1
    if "timesteps" in run.request and any(config.get(f"use_{name}_sigmas") for name in GRIDS):
        run.request = request_n(rng, config)
        config.pop("use_dynamic_shifting", None)
    if config["algorithm_type"] == "dpmsolver":
        # In the original, this algorithm supports neither a final level of 0, nor thresholding, nor flow predictions.
        config.update(final_sigmas_type="sigma_min", thresholding=False)
        if config["prediction_type"] == "flow_prediction":
            config["prediction_type"] = "epsilon"
    elif config["algorithm_type"] == "deis":
        config["final_sigmas_type"] = "sigma_min"


class Table(list):
    """A function of the timestep: its values from timestep 0 on. The last value applies to all later timesteps.

    A file holds the function as a list.
    """

    def __call__(self, timestep):
        return self[min(int(timestep), len(self) - 1)]


def adjust_sasolver(rng, run):
    config = run.config
    apply_grid(rng, config, run.hidden, own_ends=False)
    if config.get("use_flow_sigmas"):
        config["flow_shift"] = rng.choice([1.0, 0.5, 3.0, 7.0])
        config["prediction_type"] = pick(rng, {"flow_prediction": 70, "epsilon": 10, "sample": 10, "v_prediction": 10})
    elif config.get("beta_schedule") == "squaredcos_cap_v2" and rng.random() < 0.7:
        config["lambda_min_clipped"] = -5.1
    if config["algorithm_type"] == "noise_prediction":
        # In the original, this algorithm supports neither thresholding nor flow predictions.
        config["thresholding"] = False
        if config["prediction_type"] == "flow_prediction":
            config["prediction_type"] = "epsilon"
    tau = pick(rng, {(): 40, (0.0,): 15, (1.0,): 20, (0.5,): 15, (0.0, 0.25, 0.5, 1.0, 1.4): 10})
    if tau:
        config["tau_func"] = Table(value for value in tau for _ in range(1 if len(tau) == 1 else 5))


def adjust_pndm(rng, run):
    if not run.config["skip_prk_steps"]:
        # Runge-Kutta steps are for the four noisiest timesteps, which a late begin skips.
        run.late = False
        if rng.random() < 0.9:
            run.request["n"] = max(4, run.request["n"])


def adjust_ddpm(rng, run):
    config = run.config
    if "trained_betas" not in config and rng.random() < 0.25:
        config["beta_schedule"] = rng.choice(["laplace", "sigmoid"])
    if config["variance_type"] == "fixed_large_log":
        # The noise's factor is the root of a negative number, except at timestep 0, which draws no noise.
        config.update(timestep_spacing="leading", steps_offset=0)
        run.request, run.late = rng.choice([{"n": 1}, {"timesteps": [0]}]), False


def adjust_lcm(rng, run):
    config = run.config
    if config["original_inference_steps"] > config["num_train_timesteps"] and rng.random() < 0.9:
        config["original_inference_steps"] = 10
    run.request = pick(rng, {request_lcm: 75, request_lcm_timesteps: 25})(rng, config)


def adjust_tcd(rng, run):
    run.request = pick(rng, {request_tcd: 75, request_lcm_timesteps: 25})(rng, run.config)


def adjust_ipndm(rng, run):
    if rng.random() < 0.3:
        levels = {round(rng.uniform(0, 1), 4) for _ in range(rng.randint(2, 20))}
        run.config["trained_betas"] = sorted(levels | {0.0, 0.9}, reverse=True)


def adjust_consistency(rng, run):
    run.config["num_train_timesteps"] = pick(rng, {40: 70, 18: 15, 151: 15})
    run.request = pick(rng, {request_n: 60, request_integer_timesteps: 40})(rng, run.config)


# ----------------------------------------------------------------------------------------------------------------------
# Configurations that models ship
# ----------------------------------------------------------------------------------------------------------------------

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SDXL_FOREIGN = {"clip_sample": False, "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True}


def linear_levels(count):
    return np.linspace(1.0, 1 / count, count).tolist()


SHIPPED = {
    "euler": [
        Run({**SD_BETAS, "timestep_spacing": "leading", "steps_offset": 1}, {"n": 20}, SDXL_FOREIGN, model="SDXL base 1.0"),
        Run({**SD_BETAS, "timestep_spacing": "leading", "steps_offset": 1}, {"n": 50}, SDXL_FOREIGN, model="SDXL base 1.0"),
        Run(
            {**SD_BETAS, "timestep_spacing": "leading", "steps_offset": 1},
            {"n": 20},
            SDXL_FOREIGN,
            late=True,
            model="SDXL refiner 1.0",
        ),
        Run({**SD_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}, {"n": 1}, model="SD-Turbo"),
        Run({**SD_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}, {"n": 4}, model="SDXL-Lightning"),
        Run(
            {
                **SD_BETAS,
                "prediction_type": "v_prediction",
                "timestep_type": "continuous",
                "use_karras_sigmas": True,
                "sigma_min": 0.002,
                "sigma_max": 700.0,
                "timestep_spacing": "leading",
                "steps_offset": 1,
            },
            {"n": 25},
            SDXL_FOREIGN,
            model="Stable Video Diffusion",
        ),
        Run(
            {**SD_BETAS, "num_train_timesteps": 1100, "beta_end": 0.014, "timestep_spacing": "leading", "steps_offset": 1},
            {"n": 25},
            model="Kolors",
        ),
    ],
    "euler_ancestral": [
        Run(
            {**SD_BETAS, "timestep_spacing": "trailing", "steps_offset": 1},
            {"n": 1},
            {"interpolation_type": "linear", **SDXL_FOREIGN},
            model="SDXL-Turbo",
        ),
        Run(
            {**SD_BETAS, "timestep_spacing": "trailing", "steps_offset": 1},
            {"n": 4},
            {"interpolation_type": "linear", **SDXL_FOREIGN},
            model="SDXL-Turbo",
        ),
        Run({"beta_schedule": "linear"}, {"n": 100}, model="Allegro"),
    ],
    "heun": [
        Run(
            {
                "num_train_timesteps": 1024,
                "beta_schedule": "exp",
                "prediction_type": "sample",
                "clip_sample": True,
                "use_karras_sigmas": True,
            },
            {"n": 64},
            model="Shap-E",
        ),
        Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with Heun"),
    ],
    "karras_ve": [],
    "score_sde_ve": [],
    "kdpm2": [Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with KDPM2")],
    "kdpm2_ancestral": [
        Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with KDPM2")
    ],
    "dpmsolver_sde": [
        Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with DPM++ SDE"),
        Run({**SD_BETAS, "use_karras_sigmas": True}, {"n": 20}, model="Stable Diffusion 1.5 with DPM++ SDE Karras"),
    ],
    "lms": [Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with LMS")],
    "flow_match_euler": [
        Run({"shift": 3.0}, {"n": 28}, model="Stable Diffusion 3"),
        Run({"shift": 3.0}, {"n": 28}, late=True, model="Stable Diffusion 3"),
        Run({"use_dynamic_shifting": True, "shift": 3.0}, {"sigmas": linear_levels(28), "mu": 1.15}, model="FLUX.1-dev"),
        Run({"use_dynamic_shifting": True, "shift": 3.0}, {"sigmas": linear_levels(20), "mu": 0.63}, model="FLUX.1-dev"),
        Run({"shift": 1.0}, {"sigmas": linear_levels(4)}, model="FLUX.1-schnell"),
        Run(
            {
                "use_dynamic_shifting": True,
                "base_shift": 0.5,
                "max_shift": 0.9,
                "max_image_seq_len": 8192,
                "shift_terminal": 0.02,
            },
            {"sigmas": linear_levels(30), "mu": 0.6935},
            model="Qwen-Image",
        ),
        Run(
            {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 0.25, "max_shift": 0.75},
            {"timesteps": [1000, 800, 600, 400, 200], "sigmas": [1.0, 0.8, 0.6, 0.4, 0.2], "mu": 1.75},
            model="CogView4",
        ),
        Run(
            {
                "use_dynamic_shifting": True,
                "base_shift": 0.95,
                "max_shift": 2.05,
                "base_image_seq_len": 1024,
                "shift_terminal": 0.1,
            },
            {"sigmas": linear_levels(30), "mu": 1.6},
            model="LTX-Video",
        ),
        Run({"invert_sigmas": True}, {"sigmas": [1.0, 0.99, 0.97, 0.9, 0.7, 0.4]}, model="Mochi"),
        Run({"shift": 6.0}, {"n": 30}, model="Lumina-Image 2"),
        Run({"shift": 7.0}, {"sigmas": np.linspace(1.0, 0.0, 21)[:-1].tolist()}, model="HunyuanVideo"),
    ],
    "flow_map_euler": [],
    "helios": [],
    "helios_dmd": [],
    "piflow": [],
    "flow_match_lcm": [Run({"shift": 3.0}, {"n": 4}, model="Stable Diffusion 3.5 with LCM")],
    "minimax_h3": [
        Run({}, {"n": 50}, model="MiniMax-H3, video"),
        Run({"shift": 3.0}, {"n": 50}, model="MiniMax-H3, audio"),
    ],
    "ltx_euler_ancestral": [
        Run({"eta": 0.5}, {"sigmas": [0.975, 0.909375, 0.725, 0.421875, 0.0]}, model="LTX-2's temporal refinement"),
        Run(
            {},
            {"n": 8, "mu": 1.6},
            {
                "use_dynamic_shifting": True,
                "base_shift": 0.95,
                "max_shift": 2.05,
                "base_image_seq_len": 1024,
                "shift_terminal": 0.1,
            },
            model="LTX-Video",
        ),
    ],
    "unipc": [
        Run(
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
            {"n": 30},
            model="Wan 2.1",
        ),
        Run(
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 5.0},
            {"n": 50},
            model="Wan 2.1 at 720p",
        ),
        Run(
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
            {"n": 20},
            late=True,
            model="Wan 2.1, video to video",
        ),
        Run(
            {
                "use_flow_sigmas": True,
                "use_karras_sigmas": True,
                "prediction_type": "flow_prediction",
                "sigma_max": 200.0,
                "sigma_min": 0.147,
            },
            {"n": 35},
            model="Cosmos 3",
        ),
        Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with UniPC"),
    ],
    "dpmsolver_singlestep": [
        Run(SD_BETAS, {"n": 20}, {"skip_prk_steps": True, "steps_offset": 1}, model="Stable Diffusion 1.5 with DPM-Solver"),
    ],
    "sasolver": [
        Run({**SD_BETAS, "steps_offset": 1}, {"n": 20}, {"skip_prk_steps": True}, model="Stable Diffusion 1.5 with SA-Solver"),
    ],
    "pndm": [
        Run(
            {**SD_BETAS, "skip_prk_steps": True, "steps_offset": 1},
            {"n": 50},
            {"clip_sample": False},
            model="Stable Diffusion 1.5",
        ),
        Run(
            {**SD_BETAS, "skip_prk_steps": True, "steps_offset": 1},
            {"n": 20},
            {"clip_sample": False},
            late=True,
            model="Stable Diffusion 1.5",
        ),
        Run(
            {**SD_BETAS, "skip_prk_steps": True, "steps_offset": 1, "prediction_type": "v_prediction"},
            {"n": 25},
            {"clip_sample": False},
            model="Stable Diffusion 2.1",
        ),
        Run({}, {"n": 50}, model="PNDM as constructed"),
    ],
    "ddpm": [
        Run({"variance_type": "fixed_large"}, {"n": 1000}, model="ddpm-cifar10-32"),
        Run({"variance_type": "fixed_small"}, {"n": 50}, model="ddpm-celebahq-256"),
        Run({"beta_schedule": "squaredcos_cap_v2"}, {"n": 100}, model="ddpm-butterflies"),
        Run(
            {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1},
            {"n": 50},
            model="Kandinsky 3",
        ),
    ],
    "ddpm_parallel": [],
    "ddim_parallel": [
        Run(
            {**SD_BETAS, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
            {"n": 50},
            SDXL_FOREIGN,
            model="Stable Diffusion 1.5",
        ),
    ],
    "edm_dpmsolver": [
        Run({}, {"n": 20}, SDXL_FOREIGN, model="Playground v2.5"),
        Run({}, {"n": 20}, SDXL_FOREIGN, late=True, model="Playground v2.5"),
    ],
    "cosine_dpmsolver": [Run({}, {"n": 100}, model="Stable Audio Open 1.0")],
    "edm_euler": [
        Run({"final_sigmas_type": "sigma_min"}, {"n": 20}, model="Cosmos 1.0"),
        Run({"final_sigmas_type": "sigma_min"}, {"sigmas": np.linspace(0, 1, 12).tolist()}, model="Cosmos 1.0"),
    ],
    "lcm": [
        Run({"steps_offset": 1}, {"n": 4}, {"skip_prk_steps": True}, model="LCM_Dreamshaper v7"),
        Run({"steps_offset": 1}, {"n": 8}, {"skip_prk_steps": True}, model="LCM_Dreamshaper v7"),
        Run({"steps_offset": 1}, {"n": 4, "strength": 0.5}, {"skip_prk_steps": True}, model="LCM_Dreamshaper v7"),
        Run({"rescale_betas_zero_snr": False}, {"n": 6}, model="SSD-1B LCM"),
    ],
    "cogvideox_ddim": [
        Run(
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            {"n": 50},
            model="CogVideoX-2b",
        ),
        Run(
            {
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "snr_shift_scale": 1.0,
            },
            {"n": 20},
            model="CogVideoX-5b",
        ),
    ],
    "cogvideox_dpm": [
        Run(
            {
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "snr_shift_scale": 1.0,
            },
            {"n": 50},
            late=late,
            model="CogVideoX-5b",
        )
        for late in (False, True)
    ],
    "flow_match_heun": [Run({"shift": 3.0}, {"n": 28}, model="Stable Diffusion 3 with Heun")],
    "ipndm": [Run({}, {"n": 50}, model="IPNDM as constructed")],
    "tcd": [
        Run({"steps_offset": 1}, {"n": 4}, SDXL_FOREIGN, model="SDXL with TCD's LoRA"),
        Run({"steps_offset": 1}, {"n": 8}, SDXL_FOREIGN, {"eta": 0.2}, model="Hyper-SDXL"),
    ],
    "scm": [
        Run({}, {"n": 2}, model="SANA-Sprint"),
        Run({}, {"n": 1, "intermediate_timesteps": None}, model="SANA-Sprint"),
        Run({}, {"n": 4, "intermediate_timesteps": None}, model="SANA-Sprint"),
    ],
    "consistency_models": [
        Run({}, {"n": 1}, model="cd_imagenet64_l2"),
        Run({}, {"timesteps": [22, 0]}, model="cd_imagenet64_l2"),
        Run({}, {"timesteps": [17, 0]}, model="cd_bedroom256_lpips"),
    ],
    "unclip": [
        Run({"clip_sample_range": 5.0, "prediction_type": "sample"}, {"n": 25}, model="karlo prior"),
        Run({}, {"n": 7}, model="karlo super resolution"),
    ],
    "ddpm_wuerstchen": [
        Run({}, {"n": 20}, model="Stable Cascade prior"),
        Run({}, {"n": 10}, late=True, model="Stable Cascade decoder"),
    ],
}

# Cases that random draws seldom or never reach.
EDGES = {
    "scm": [
        # The intermediate angle is half the greatest one.
        Run({}, {"n": 2, "intermediate_timesteps": None}),
        Run({"sigma_data": 1.0}, {"n": 1, "timesteps": [1.2, 0.4], "max_timesteps": None, "intermediate_timesteps": None}),
    ],
    "consistency_models": [
        Run({}, {"n": 40}),
        # The float32 square of this level is less than its rounded float64 square, so the float32 result is NaN.
        Run({"sigma_min": 0.05}, {"n": 2}),
        Run({"sigma_min": 0.0, "clip_denoised": False}, {"n": 3}),
    ],
    "unclip": [
        # All timesteps: each step uses the table's own variance.
        Run({"num_train_timesteps": 60}, {"n": 60}),
        # Epsilon prediction without clipping.
        Run({"clip_sample": False}, {"n": 5}),
    ],
    "ddpm_wuerstchen": [
        Run({}, {"n": 1}),
        # Noise remains after the last step.
        Run({}, {"timesteps": [1.0, 0.6, 0.2]}),
    ],
    "euler": [
        Run({}, {"n": 10}),
        # 62 timesteps, the last one -1.
        Run({"timestep_spacing": "trailing"}, {"n": 61}),
        # The last two levels are equal.
        Run({"final_sigmas_type": "sigma_min"}, {"n": 5}),
        # Repeated interior levels.
        Run({}, {"sigmas": [10.0, 3.0, 3.0, 1.0, 0.0]}),
    ],
    "euler_ancestral": [
        Run({}, {"n": 10}),
        # NaN in float32.
        Run({"beta_schedule": "squaredcos_cap_v2"}, {"n": 4}),
        # Timesteps beyond the table.
        Run({"timestep_spacing": "leading", "steps_offset": 20}, {"n": 100}),
    ],
    "heun": [Run({}, {"n": 10}), Run({}, {"n": 1}), Run({"timestep_spacing": "trailing"}, {"n": 61})],
    "karras_ve": [
        *(Run({}, {"n": n}) for n in (4, 50)),
        Run({"sigma_max": 10.0}, {"n": 2}),
        # Noise before the first step too, before none, and before all.
        Run({"s_max": 1e6}, {"n": 20}),
        Run({"s_churn": 0.0}, {"n": 20}),
        Run({"s_min": 0.0, "s_max": 1e6, "s_churn": 4.0}, {"n": 20}),
        Run({"s_noise": 0.0}, {"n": 6}),
        Run({"sigma_min": 1.0, "sigma_max": 1.0}, {"n": 4}),
    ],
    "score_sde_ve": [
        *(Run({}, {"n": n}) for n in (2, 25)),
        Run({"correct_steps": 0}, {"n": 20}),
        Run({"snr": 0.0}, {"n": 5}),
    ],
    "kdpm2": [Run({}, {"n": 10}), Run({}, {"n": 1}), Run({"timestep_spacing": "trailing"}, {"n": 61})],
    "kdpm2_ancestral": [Run({}, {"n": 10}), Run({}, {"n": 1}), Run({"timestep_spacing": "trailing"}, {"n": 61})],
    "dpmsolver_sde": [
        Run({}, {"n": 10}),
        Run({}, {"n": 1}),
        # Karras levels ignore the ends of other schedulers' levels.
        Run({"use_karras_sigmas": True}, {"n": 10}, {"sigma_min": 0.1, "sigma_max": 10.0}),
        Run({"noise_sampler_seed": [1, 2]}, {"n": 4}, options={"s_noise": 0.0}),
    ],
    "lms": [
        Run({}, {"n": 10}),
        Run({}, {"n": 1}),
        Run({"timestep_spacing": "trailing"}, {"n": 61}),
        # Karras levels ignore the ends of other schedulers' levels.
        Run({"use_karras_sigmas": True}, {"n": 10}, {"sigma_min": 0.1, "sigma_max": 10.0}),
        Run({}, {"n": 4}, options={"order": 1}),
        Run({}, {"n": 10}, options={"order": 3}),
        Run({}, {"n": 10}, options={"order": 7}),
    ],
    "flow_match_euler": [
        Run({}, {"n": 4}),
        Run({"shift_terminal": 0.1, "use_dynamic_shifting": True}, {"n": 4, "mu": 1.0}),
        Run({"stochastic_sampling": True, "shift": 3.0}, {"n": 1}),
    ],
    "flow_map_euler": [
        *(Run({"shift": 5.0}, {"n": n}) for n in (1, 2, 4, 50)),
        # All steps lead to the clean sample.
        Run({"shift": 5.0}, {"n": 2}, options={"r_timestep": 0.0}),
    ],
    "helios": [
        # The levels of the original's pipeline for one stage.
        Run(
            {"stages": 1, "use_dynamic_shifting": True, "time_shift_type": "linear"},
            {"sigmas": np.linspace(0.999, 0.0, 51)[:-1].tolist(), "mu": 1.5},
        ),
        *(Run({}, {"n": 20, "stage_index": stage}) for stage in range(3)),
        *(Run({}, {"n": n, "stage_index": 1}) for n in (1, 2, 3)),
        Run({"stages": 2, "stage_range": [0, 0.4, 1], "num_train_timesteps": 100, "shift": 3.0}, {"n": 6, "stage_index": 1}),
        Run({"lower_order_final": False, "solver_order": 3}, {"n": 8, "stage_index": 2}),
    ],
    "flow_match_lcm": [Run({}, {"n": 1}), Run({"invert_sigmas": True}, {"n": 6})],
    "helios_dmd": [
        # The pipeline takes two steps per stage, and four in the first chunk.
        *(
            Run({}, {"n": 2, "stage_index": stage, "is_amplify_first_chunk": first})
            for stage in range(3)
            for first in (True, False)
        ),
        *(Run({"stages": 1}, {"n": n}) for n in (1, 4, 25)),
        Run({"stages": 1, "shift": 3.0}, {"sigmas": [1.0, 0.75, 0.5, 0.25]}),
    ],
    "piflow": [
        # The pipelines take four steps by default.
        *(Run({}, {"n": n}) for n in (1, 2, 4, 8, 50)),
        # The last step begins beyond its end, and leads back.
        Run({"eps": 0.3125}, {"n": 4}),
    ],
    "minimax_h3": [
        Run({}, {"n": 2}),
        # Float32 merges some of the first run's levels near 1, and all but two of the second's.
        Run({"shift": 2e6}, {"n": 40}),
        Run({"shift": 1e12}, {"n": 9}),
        # A time that rounds to 1 before the end: its step ignores the model output.
        Run({}, {"sigmas": [0.9, 0.3, 1e-9, 0.0]}),
    ],
    "ltx_euler_ancestral": [
        Run({}, {"n": 1}),
        # Steps to their own level, one of them at pure noise; the run ends with some noise.
        Run({}, {"sigmas": [1.0, 1.0, 0.7, 0.7, 0.05]}),
        Run({"s_noise": 0.0}, {"n": 12}),
    ],
    "unipc": [
        Run({}, {"n": 10}),
        Run({"solver_order": 3}, {"n": 10}),
        Run({"solver_order": 4, "final_sigmas_type": "sigma_min"}, {"n": 12}),
        Run({"timestep_spacing": "trailing"}, {"n": 61}),
        # The last two levels are equal.
        Run({"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, {"n": 8}),
        Run({"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "lower_order_final": False}, {"n": 8}),
    ],
    "dpmsolver_singlestep": [
        Run({"solver_order": 3, "solver_type": "heun"}, {"n": 11}),
        # The last step repeats a level from the start of its block.
        Run({"solver_order": 3, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, {"n": 6}),
        Run({"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, {"n": 9}, late=True),
        Run({"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, {"n": 8}),
        Run({"algorithm_type": "deis", "solver_type": "logrho", "final_sigmas_type": "sigma_min"}, {"n": 5}),
        Run({"thresholding": True, "sample_max_value": 0.5, "solver_order": 1}, {"n": 4}),
        Run({"thresholding": True, "sample_max_value": 100.0, "solver_order": 3}, {"n": 5}),
    ],
    "sasolver": [
        Run({"predictor_order": 1, "corrector_order": 1, "timestep_spacing": "leading", "steps_offset": 2}, {"n": 10}),
        Run({"predictor_order": 3, "corrector_order": 4, "timestep_spacing": "leading", "steps_offset": 3}, {"n": 12}),
        Run({"predictor_order": 4, "corrector_order": 3, "lower_order_final": False}, {"n": 8}),
        Run({"predictor_order": 3, "corrector_order": 3, "algorithm_type": "noise_prediction"}, {"n": 12}, late=True),
        # A step to its own level.
        Run({"use_karras_sigmas": True, "lower_order_final": False}, {"n": 8}),
        # 62 timesteps, the last one -1.
        Run({"timestep_spacing": "trailing"}, {"n": 61}),
    ],
    "pndm": [
        Run({}, {"n": 10}),
        Run({}, {"n": 4}),
        *(Run({"skip_prk_steps": True}, {"n": n}) for n in (1, 2, 10)),
    ],
    "ddpm": [
        Run({}, {"n": 10}),
        # Epsilon without signal: clipping makes infinities finite.
        Run({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {"n": 10}),
        # The last step's variance is 0, raised to the floor of 1e-20.
        Run({}, {"timesteps": [900, 500, 100]}),
    ],
    "ddpm_parallel": [Run({}, {"n": 10})],
    "ddim_parallel": [
        Run({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {"n": 10}),
        Run({}, {"n": 10}, options={"eta": 1.0, "use_clipped_model_output": True}),
    ],
    "edm_dpmsolver": [
        Run({"solver_order": 3}, {"n": 10}),
        Run({"algorithm_type": "sde-dpmsolver++", "thresholding": True}, {"n": 10}),
        # The reference refuses the alias deis with a final level of 0.
        Run(
            {
                "sigma_schedule": "exponential",
                "algorithm_type": "deis",
                "solver_type": "heun",
                "final_sigmas_type": "sigma_min",
                "euler_at_final": True,
            },
            {"n": 17},
        ),
        Run({"final_sigmas_type": "sigma_min", "sigma_schedule": "exponential"}, {"n": 1}),
    ],
    "cosine_dpmsolver": [
        Run({"sigma_schedule": "karras", "solver_type": "heun"}, {"n": 12}),
        Run({"solver_order": 1, "prediction_type": "epsilon"}, {"n": 4}),
    ],
    "edm_euler": [
        Run({"sigma_schedule": "exponential"}, {"n": 8}, options={"s_churn": 20.0, "s_tmax": 50.0, "s_noise": 1.003}),
        # A single level is the greatest one, or the least one for exponential levels.
        Run({"prediction_type": "v_prediction"}, {"n": 1}),
        Run({"sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"}, {"n": 1}),
        Run({}, {"sigmas": [0.1, 0.4, 0.4, 0.9]}, options={"s_churn": 1.0, "s_tmin": 1.0}),
    ],
    "lcm": [
        Run({}, {"n": 4}),
        # The last step adds noise, too.
        Run({}, {"timesteps": [999, 759, 499, 259], "strength": 0.5}),
        Run({"rescale_betas_zero_snr": True, "clip_sample": True}, {"n": 4}),
    ],
    "cogvideox_ddim": [
        Run({}, {"n": 10}),
        Run({"set_alpha_to_one": False, "snr_shift_scale": 0.5}, {"n": 1}),
        # Levels without any signal.
        Run({"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "linspace"}, {"n": 12}),
        Run({"beta_schedule": "squaredcos_cap_v2", "steps_offset": 1}, {"n": 30}),
    ],
    "cogvideox_dpm": [
        Run({}, {"n": 10}),
        Run({"set_alpha_to_one": False, "snr_shift_scale": 0.5}, {"n": 1}),
        # Levels without any signal.
        Run({"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "linspace"}, {"n": 12}),
    ],
    "flow_match_heun": [
        Run({}, {"n": 1}),
        Run({"shift": 3.0}, {"n": 4}, options={"s_churn": 20.0, "s_noise": 1.003}),
        Run({"shift": 0.5}, {"n": 10}, options={"s_churn": 1.0, "s_tmin": 0.05, "s_tmax": 0.9}),
    ],
    "ipndm": [
        *(Run({}, {"n": n}) for n in (1, 2, 10)),
        # The trained betas determine the number of steps.
        Run({"trained_betas": [0.95, 0.8, 0.6, 0.6, 0.3, 0.1]}, {"n": 20}),
    ],
    "tcd": [
        Run({}, {"n": 4}),
        Run({"original_inference_steps": 20}, {"n": 1}, options={"eta": 0.0}),
        # The last timestep that strength keeps draws noise with the coefficient 0.
        Run({}, {"timesteps": [999, 759, 499, 259], "strength": 0.5}, options={"eta": 1.0}),
        Run({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {"n": 4}),
    ],
}


# ----------------------------------------------------------------------------------------------------------------------
# Reference library
# ----------------------------------------------------------------------------------------------------------------------


WITH_END = (diffusers.SCMScheduler, diffusers.DDPMWuerstchenScheduler)
"""The classes whose lists of timesteps end with the last step's target."""


class KarrasVeScheduler(diffusers.KarrasVeScheduler):
    """The original with a `step` per evaluation of the model: the calls that the pipeline makes between two evaluations.

    The pipeline adds noise before the first evaluation of a step. Here, the preceding step adds it at its end. The run's first step
    draws its noise without adding it, because init_noise_sigma includes it.
    """

    def set_timesteps(self, num_inference_steps):
        super().set_timesteps(num_inference_steps)
        levels, raised, told = self.schedule.double().flip(0), [], []
        for level in self.schedule.flip(0):
            raised.append(self.raised_level(level.double()))
            told.append(self.raised_level(level))
        pairs = zip(levels[1:], raised[1:]), zip(levels[1:], told[1:])
        rest, told_rest = ([float(each) for pair in between for each in pair] for between in pairs)
        self.sigmas = torch.tensor([float(raised[0]), *rest, 0.0], dtype=torch.float64)
        self.timesteps = torch.tensor([float(told[0]), *told_rest])
        added = (raised[0] ** 2 - levels[0] ** 2) ** 0.5 * self.config.s_noise
        self.init_noise_sigma = math.hypot(self.config.sigma_max, float(added))
        self.place = 0

    def raised_level(self, level):
        with unittest.mock.patch.object(home_of(self), "randn_tensor", lambda shape, **arguments: torch.zeros(shape)):
            return self.add_noise_to_input(torch.zeros(1), level)[1]

    def step(self, model_output, timestep, sample, return_dict=True, generator=None):
        index, dtype = self.place, torch.promote_types(sample.dtype, torch.float32)
        self.place += 1
        level, target = self.sigmas[index : index + 2].to(dtype)
        if index % 2 == 0:
            if index == 0:
                self.raised = level
                self.add_noise_to_input(sample, level, generator)
            self.start = sample
            result = super().step(model_output, self.raised, target, sample)
            self.derivative, next_sample = result.derivative, result.prev_sample
        else:
            result = self.step_correct(model_output, self.raised, level, self.start, sample, self.derivative)
            next_sample, self.raised = self.add_noise_to_input(result.prev_sample, level, generator)
        results = next_sample, result.pred_original_sample
        return CogVideoXOutput(*results) if return_dict else results


class ScoreSdeVeScheduler(diffusers.ScoreSdeVeScheduler):
    """The original with a `step` per evaluation of the model: corrections, then a prediction.

    Corrections measure the norms that noise and an exact score have on average.
    """

    def set_timesteps(self, num_inference_steps, sampling_eps=None, device=None):
        super().set_timesteps(num_inference_steps, sampling_eps, device)
        self.place = 0
        if hasattr(self, "discrete_sigmas"):
            # The constructor's call comes before its tables are made.
            shares = self.timesteps
            self.set_sigmas(num_inference_steps)
            places = (shares * (num_inference_steps - 1)).long()
            if places.tolist() != list(range(num_inference_steps))[::-1]:
                raise Redraw("a level twice")
            evaluations = self.config.correct_steps + 1
            self.timesteps = self.sigmas.repeat_interleave(evaluations)
            self.sigmas = torch.cat([self.discrete_sigmas.flip(0).repeat_interleave(evaluations), torch.zeros(1)])

    def step(self, model_output, timestep, sample, return_dict=True, generator=None):
        level, target = self.sigmas[self.place : self.place + 2]
        self.place += 1
        library, whole_run = home_of(self).torch, self.timesteps
        if self.place % (self.config.correct_steps + 1):
            norms = iter([1 / level, torch.ones_like(level)])
            ones = torch.ones(len(sample), dtype=sample.dtype)
            patches = {"norm": lambda *arguments, **named: next(norms), "ones": lambda *arguments: ones}
            with unittest.mock.patch.multiple(library, create=True, **patches):
                next_sample = self.step_correct(model_output, sample, generator).prev_sample
            results = next_sample, sample + 2 * (self.config.snr * level) ** 2 * model_output
        else:
            # Share 1 of two levels.
            self.discrete_sigmas, self.timesteps = torch.stack([target, level]), torch.ones(2)
            results = self.step_pred(model_output, torch.ones(()), sample, generator, return_dict=False)
            self.timesteps = whole_run
        return SdeVeOutput(*results) if return_dict else results


EVALUATED = {"KarrasVeScheduler": KarrasVeScheduler, "ScoreSdeVeScheduler": ScoreSdeVeScheduler}
"""Wrappers that take one evaluation per step, for originals that don't."""


def original(name):
    """diffusers' class of this name, or its wrapper with a `step` per evaluation."""
    return EVALUATED.get(name) or getattr(diffusers, name)


def home_of(scheduler):
    """The module of the scheduler's class in diffusers."""
    return next(sys.modules[each.__module__] for each in type(scheduler).__mro__ if each.__module__.startswith("diffusers."))


def evaluation_count(scheduler):
    return len(scheduler.timesteps) - isinstance(scheduler, WITH_END)


def train_steps_of(scheduler):
    """The number that the model divides timesteps by."""
    return scheduler.config.get("num_train_timesteps", 1000)


def learns_variance(config):
    """Whether the model also predicts a variance, VARIANCE everywhere."""
    return config.get("variance_type") in ("learned", "learned_range")


def outputs(config, output):
    """The outputs of a model with several, e[k] = (1 + k/8) e from a single output e, one after another on the last axis.

    output  an array or a tensor; of a model with one output, it is returned unchanged
    """
    count = config.get("n_grid", 1)
    join = torch.cat if torch.is_tensor(output) else np.concatenate
    return join([(1 + k / 8) * output for k in range(count)], -1) if count > 1 else output


def step_arguments(scheduler, index, report=None, dtype=torch.float32):
    """Further arguments that pipelines pass to a step: its next or previous timestep, the previous report, noise and tables.

    report  the second result of the previous step; None at the beginning of a run
    dtype   the element type of the step's noise
    """
    timesteps = scheduler.timesteps.tolist()
    if isinstance(scheduler, diffusers.CogVideoXDPMScheduler):
        before = None if report is None else timesteps[index - 1]
        return {"old_pred_original_sample": report, "timestep_back": before}
    if isinstance(scheduler, diffusers.HeliosDMDScheduler):
        tables = {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps, "all_timesteps": scheduler.timesteps}
        return {"cur_sampling_step": index, "dmd_noisy_tensor": as_tensor(noise_values(index), dtype), **tables}
    if not isinstance(scheduler, diffusers.UnCLIPScheduler):
        return {}
    return {"prev_timestep": timesteps[index + 1] if index + 1 < len(timesteps) else None}


def take_step(scheduler, **arguments):
    """A step's results as an object. Some classes return a pair despite return_dict=True."""
    is_video = isinstance(scheduler, diffusers.HeliosDMDScheduler)
    if is_video:
        # HeliosDMD takes tensors of five dimensions, and would broadcast others to five.
        arguments.update((name, arguments[name].unsqueeze(2)) for name in ("model_output", "sample", "dmd_noisy_tensor"))
    result = scheduler.step(**{"return_dict": True, **arguments})
    if is_video:
        result.prev_sample = result.prev_sample.squeeze(2)
    return CogVideoXOutput(*result) if isinstance(result, tuple) else result


def told_timestep(scheduler, index):
    """The timestep as `step` takes it: for DDPMWuerstchen, one for each batch item."""
    t = scheduler.timesteps[index]
    return t.repeat(BATCH) if isinstance(scheduler, diffusers.DDPMWuerstchenScheduler) else t


def prepare(scheduler, request, begin):
    arguments = dict(request)
    if "n" in arguments:
        arguments["num_inference_steps"] = arguments.pop("n")
    pyramids = (diffusers.HeliosScheduler, diffusers.HeliosDMDScheduler)
    if isinstance(scheduler, (*pyramids, diffusers.UniPCMultistepScheduler)) and "sigmas" in arguments:
        # These classes take arrays only.
        arguments["sigmas"] = np.array(arguments["sigmas"])
    if isinstance(scheduler, pyramids):
        # Pyramids need the number of levels, too.
        arguments.setdefault("num_inference_steps", len(arguments.get("sigmas", [])))
    if isinstance(scheduler, diffusers.EDMEulerScheduler) and "sigmas" in arguments:
        # EDM Euler takes tensors.
        arguments["sigmas"] = torch.tensor(arguments["sigmas"], dtype=torch.float64)
    scheduler.set_timesteps(**arguments)
    take_ratios(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)


GREATEST_RATIO = float(np.sqrt(np.float32((1 - 2.0**-24) / 2.0**-24)))
"""The ratio of noise to signal that represents levels without signal."""


def widen(scheduler):
    """Makes every float32 table of the scheduler float64, including timesteps that steps compute with."""
    for name, value in vars(scheduler).items():
        has_use = name != "timesteps" or isinstance(scheduler, WITH_END)
        if torch.is_tensor(value) and value.dtype == torch.float32 and has_use:
            setattr(scheduler, name, value.double())
    if hasattr(scheduler, "sigmas_interpol"):
        derive_anew(scheduler)
    follow_ratios(scheduler)
    if isinstance(scheduler, diffusers.DDPMWuerstchenScheduler):
        # Steps compute the signal variances from the widened s, and divide them by this number.
        scheduler._init_alpha_cumprod = torch.cos(scheduler.s / (1 + scheduler.s) * torch.pi * 0.5) ** 2
    if isinstance(scheduler, diffusers.PiflowScheduler):
        scheduler.eps = float(np.float32(scheduler.eps))  # The last step's end is rounded like the table of raw times.
    if isinstance(scheduler, diffusers.CMStochasticIterativeScheduler):
        # With ends rounded to float32 like the levels, the last step adds no noise, as in the float32 run.
        ends = {key: float(np.float32(scheduler.config[key])) for key in ("sigma_min", "sigma_max")}
        scheduler.register_to_config(**ends)


def derive_anew(scheduler):
    """Derives KDPM2's further tables from its current noise levels, with entries repeated as in `sigmas`."""
    levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]])

    def doubled(table):
        return torch.cat([table[:1], table[1:].repeat_interleave(2), table[-1:]])

    if not hasattr(scheduler, "sigmas_up"):
        scheduler.sigmas_interpol = doubled(torch.sqrt(levels * levels.roll(1)))
        return
    following = torch.cat([levels[1:], levels[-1:]])
    ratio = torch.where(levels > 0, following / levels, 1)
    scheduler.sigmas_up = doubled(following * torch.sqrt((1 - ratio) * (1 + ratio)))
    scheduler.sigmas_down, scheduler.sigmas_interpol = doubled(following * ratio), doubled(following)


def take_ratios(scheduler):
    """Gives IPNDM's scheduler `sigmas` like other classes': the ratios of its noise rates to its signal rates."""
    if type(scheduler) is diffusers.IPNDMScheduler:
        scheduler.sigmas = (scheduler.betas / scheduler.alphas).clamp(max=GREATEST_RATIO)


def follow_ratios(scheduler):
    """Derives the rates of IPNDM's scheduler from its `sigmas`."""
    if type(scheduler) is diffusers.IPNDMScheduler:
        ratios = scheduler.sigmas.double()
        is_pure, length = ratios >= GREATEST_RATIO, torch.sqrt(1 + ratios * ratios)
        scheduler.betas = torch.where(is_pure, 1, ratios / length).to(scheduler.sigmas.dtype)
        scheduler.alphas = torch.where(is_pure, 0, 1 / length).to(scheduler.sigmas.dtype)


def late_start(scheduler, begin):
    """The start of a loop that begins late, made as image-to-image pipelines do, in float64."""
    clean = as_tensor(initial_values(), torch.float64)
    noise = as_tensor(noise_values(len(scheduler.timesteps)), torch.float64)
    times = scheduler.timesteps[begin].repeat(BATCH)
    if hasattr(scheduler, "scale_noise"):
        start = scheduler.scale_noise(clean, times, noise)
    else:
        start = scheduler.add_noise(clean, noise, times)
    assert start.dtype == torch.float64
    return start.flatten().tolist()


def run_reference(scheduler, begin, initial, options, dtype):
    """Final sample, second output of the last evaluation (or None), and noise tensors drawn by each evaluation."""
    draws = []
    index = begin

    def injected_noise(shape, generator=None, device=None, dtype=None, layout=None):
        draws[-1] += 1
        return as_tensor(noise_values(index), dtype or standard).reshape(shape)

    module = home_of(scheduler)
    wide = dtype == torch.float64
    standard = dtype
    # In the wide run, the module's conversions of samples to float32 are to float64.
    patches = {"torch": WideTorch() if wide else torch}
    if hasattr(module, "randn_tensor"):
        patches["randn_tensor"] = injected_noise
    if hasattr(module, "BrownianTreeNoiseSampler"):
        patches["BrownianTreeNoiseSampler"] = lambda x, *ends, **arguments: Motion(lambda: injected_noise(x.shape, dtype=x.dtype))
    train_steps = train_steps_of(scheduler)
    x, report = as_tensor(initial, dtype), None
    with unittest.mock.patch.multiple(module, **patches):
        for index in range(begin, evaluation_count(scheduler)):
            t = told_timestep(scheduler, index)
            # LCM computes its scalars in float32 for a tensor, but in double precision for an integer.
            if wide and not t.is_floating_point():
                t = int(t)
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            assert scaled.dtype == dtype
            draws.append(0)
            output = model_tensor(scaled, float(scheduler.timesteps[index]), train_steps, learns_variance(scheduler.config))
            output = outputs(scheduler.config, output)
            arguments = {**options, **step_arguments(scheduler, index, report, dtype)}
            if "dmd_noisy_tensor" in arguments:
                # The last step doesn't read the noise.
                draws[-1] += index + 1 < evaluation_count(scheduler)
            result = take_step(scheduler, model_output=output, timestep=t, sample=x, **arguments)
            x = result.prev_sample
            # Helios's steps also return the tensors that the next steps need.
            others = result.keys() - {"prev_sample", "last_sample", "this_order"}
            report = result[others.pop()] if others else None
            for output in (x, report) if report is not None else (x,):
                assert output.dtype == dtype
                if wide and not torch.isfinite(output).all():
                    raise Redraw("not finite")
    return x.double().flatten().tolist(), None if report is None else report.double().flatten().tolist(), draws


class Motion:
    """A Brownian motion over the noise levels: its increments, divided by their standard deviations.

    The increments over a run's steps are independent normal numbers. An increment that begins where the preceding one began, and
    leads further, is combined from that one and a new one.
    """

    def __init__(self, draw):
        self.draw, self.before = draw, None

    def __call__(self, source, target):
        increment = self.draw()
        if self.before is not None and self.before[0] == source:
            _, middle, first = self.before
            share = (source - middle) / (source - target)
            increment = share.sqrt() * first + (1 - share).sqrt() * increment
        self.before = source, target, increment
        return increment


class RecordingTorch:
    """The torch module, with a record of the arrays that from_numpy converts."""

    def __init__(self):
        self.arrays = []

    def from_numpy(self, array):
        self.arrays.append(array.copy())
        return torch.from_numpy(array)

    def __getattr__(self, name):
        return getattr(torch, name)


def loose_timesteps(scheduler, request):
    """Indices of integer timesteps that depend on the last bit of the grid computation."""
    config = scheduler.config
    pairs = hasattr(scheduler, "sigmas_interpol") and config.use_karras_sigmas
    is_whole = pairs or not scheduler.timesteps.is_floating_point()
    if not any(config.get(f"use_{name}_sigmas") for name in GRIDS) or not is_whole:
        return []
    scheduler = copy.deepcopy(scheduler)
    recorder, raw = RecordingTorch(), []
    convert = scheduler._sigma_to_t

    def recorded_conversion(sigma, log_sigmas):
        raw.append(float(convert(sigma, log_sigmas)))
        return convert(sigma, log_sigmas)

    scheduler._sigma_to_t = recorded_conversion
    with unittest.mock.patch.object(home_of(scheduler), "torch", recorder):
        prepare(scheduler, request, 0)
    rounds = config.use_karras_sigmas and not config.get("use_flow_sigmas")
    values, timesteps = raw or recorder.arrays[-1].tolist(), scheduler.timesteps.tolist()
    if pairs:
        # The other timesteps lie between the steps, and stay fractional.
        values, timesteps = values[: len(timesteps) // 2 + 1], timesteps[::2]
    assert [round(v) if rounds else int(v) for v in values] == timesteps
    loose = []
    for index, value in enumerate(values):
        edge = math.floor(value) + 0.5 if rounds else round(value)
        # Truncation toward zero doesn't jump at zero.
        if abs(value - edge) < LOOSE_MARGIN and (rounds or edge):
            loose.append(2 * index if pairs else index)
    return loose


# ----------------------------------------------------------------------------------------------------------------------
# Exact evaluation
# ----------------------------------------------------------------------------------------------------------------------


class Loop:
    """A loop in 50-digit arithmetic. Subclasses define the step of one evaluation.

    `step` returns the next sample, the second output or None, and the number of noise tensors drawn.
    """

    def __init__(self, scheduler, begin, options):
        self.config = dict(scheduler.config)
        self.timesteps = [float(t) for t in scheduler.timesteps]
        self.begin, self.options = begin, options
        self.count = getattr(scheduler, "num_inference_steps", None)
        self.evaluations, self.train_steps = evaluation_count(scheduler), train_steps_of(scheduler)
        self.sigmas = [mpf(s) for s in scheduler.sigmas.tolist()] if hasattr(scheduler, "sigmas") else None
        self.alphas = [mpf(a) for a in scheduler.alphas_cumprod.tolist()] if hasattr(scheduler, "alphas_cumprod") else None

    def start(self):
        """The start of a loop that begins late: add_noise, by its formula."""
        keep, add = self.noising(self.begin)
        return [keep * mpf(v) + add * mpf(z) for v, z in zip(initial_values(), noise_values(len(self.timesteps)))]

    def model_input(self, i, x):
        return x

    def churned(self, i, x):
        """The sample with churn's noise, its level, and the number of noise tensors drawn."""
        source, churn = self.sigmas[i], mpf(0)
        if self.options.get("s_tmin", 0) <= source <= self.options.get("s_tmax", math.inf):
            churn = min(mpf(self.options.get("s_churn", 0)) / (len(self.sigmas) - 1), mpmath.sqrt(2) - 1)
        if churn:
            rise = mpf(self.options.get("s_noise", 1)) * source * mpmath.sqrt(churn * (churn + 2))
            x = mixed((mpf(1), x), (rise, noise_exact(i)))
        return x, source * (1 + churn), int(churn > 0)

    def run(self, initial):
        x, draws = [mpf(v) for v in initial], []
        report = None
        for i in range(self.begin, self.evaluations):
            output = model_exact(self.model_input(i, x), self.timesteps[i], self.train_steps)
            x, report, drawn = self.step(i, x, output)
            draws.append(drawn)
        return x, report, draws


def mixed(*terms):
    """The sum of coefficient-vector pairs; pairs with a zero coefficient are skipped."""
    terms = [(c, v) for c, v in terms if c != 0]
    return [sum((c * v[j] for c, v in terms), mpf(0)) for j in range(ELEMENTS)]


def noise_exact(i):
    return [mpf(z) for z in noise_values(i)]


def clamped(values, limit):
    limit = mpf(limit)
    return [min(max(v, -limit), limit) for v in values]


class ExplodingLoop(Loop):
    """Euler and its relatives: the sample is data plus sigma times noise, and the model sees it divided by its magnitude."""

    def noising(self, i):
        return mpf(1), self.sigmas[i]

    def model_input(self, i, x):
        scale = 1 / mpmath.sqrt(self.sigmas[i] ** 2 + 1)
        return [scale * v for v in x]

    def clean(self, x, output, sigma, raised=None):
        """The clean sample; `raised` is the level of the sample if churn raised it."""
        prediction = self.config["prediction_type"]
        if prediction == "epsilon":
            return mixed((mpf(1), x), (-(raised or sigma), output))
        if prediction == "v_prediction":
            scale = sigma * sigma + 1
            return mixed((1 / scale, x), (-sigma / mpmath.sqrt(scale), output))
        return output


class EulerLoop(ExplodingLoop):
    def step(self, i, x, output):
        source, target = self.sigmas[i], self.sigmas[i + 1]
        x, raised, drawn = self.churned(i, x)
        p = self.clean(x, output, source, raised)
        return mixed((target / raised, x), (1 - target / raised, p)), p, drawn


class EulerAncestralLoop(ExplodingLoop):
    def step(self, i, x, output):
        source, target = self.sigmas[i], self.sigmas[i + 1]
        p = self.clean(x, output, source)
        ratio = target / source
        up = target * mpmath.sqrt((1 - ratio) * (1 + ratio))
        return mixed((ratio**2, x), (1 - ratio**2, p), (up, noise_exact(i))), p, 1


class HeunLoop(ExplodingLoop):
    def step(self, i, x, output):
        # The table repeats the inner levels, so the level of evaluation i is entry i.
        p = self.clean(x, output, self.sigmas[i])
        if self.config["clip_sample"]:
            p = clamped(p, self.config["clip_sample_range"])
        if i % 2 == 0:
            source, target = self.sigmas[i], self.sigmas[i + 1]
            h = target - source
            self.half = mixed((1 + h / (2 * source), x), (-h / (2 * source), p))
            return mixed((target / source, x), (1 - target / source, p)), p, 0
        h = self.sigmas[i] - self.sigmas[i - 1]
        share = h / (2 * self.sigmas[i])
        return mixed((mpf(1), self.half), (share, x), (-share, p)), p, 0


class KDPM2Loop(ExplodingLoop):
    def level(self, i):
        """The level of the model's input. A step's second evaluation is at the geometric mean of the step's levels."""
        return self.sigmas[i] if i % 2 == 0 else mpmath.sqrt(self.sigmas[i - 1] * self.sigmas[i])

    def model_input(self, i, x):
        scale = 1 / mpmath.sqrt(self.level(i) ** 2 + 1)
        return [scale * v for v in x]

    def step(self, i, x, output):
        level = self.level(i)
        p = self.clean(x, output, level)
        if i % 2 == 0:
            self.base = x
            ratio = mpmath.sqrt(self.sigmas[i + 1] / level)
            return mixed((ratio, x), (1 - ratio, p)), p, 0
        share = (self.sigmas[i] - self.sigmas[i - 1]) / level
        return mixed((mpf(1), self.base), (share, x), (-share, p)), p, 0


class EDMLoop(Loop):
    """The classes of Karras et al.: the sample is data plus sigma times noise, and the clean sample is preconditioned."""

    def noising(self, i):
        return mpf(1), self.sigmas[i]

    def length(self, sigma):
        return mpmath.sqrt(sigma**2 + mpf(self.config["sigma_data"]) ** 2)

    def model_input(self, i, x):
        return [v / self.length(self.sigmas[i]) for v in x]

    def clean(self, x, output, sigma):
        share = mpf(self.config["sigma_data"]) / self.length(sigma)
        sign = -1 if self.config["prediction_type"] == "v_prediction" else 1
        return mixed((share**2, x), (sign * sigma * share, output))


class EDMEulerLoop(EDMLoop):
    def step(self, i, x, output):
        x, raised, drawn = self.churned(i, x)
        p, ratio = self.clean(x, output, raised), self.sigmas[i + 1] / raised
        return mixed((ratio, x), (1 - ratio, p)), p, drawn


class EDMMultistepLoop(EDMLoop):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        # The cosine schedule's class has only this algorithm.
        self.config.setdefault("algorithm_type", "sde-dpmsolver++")
        self.history = []

    def step(self, i, x, output):
        p = self.clean(x, output, self.sigmas[i])
        if self.config.get("thresholding"):
            p = threshold_exact(p, self.config)
        order = choose_order(self.config, i, len(self.timesteps), len(self.history))
        self.history = [p, *self.history][:3]
        drawn = int(self.config["algorithm_type"].startswith("sde"))
        source, target = self.sigmas[i], self.sigmas[i + 1]
        if target == source:
            return x, None, drawn
        if target == 0:
            # This step is of order 1.
            return p, None, drawn
        levels = [(mpf(1), s) for s in [target] + [self.sigmas[i - k] for k in range(order)]]
        a, b, c = dpm_step(self.config, order, levels)
        return mixed((a, x), *zip(b, self.history), (c, noise_exact(i))), None, drawn


class DPMSolverSDELoop(KDPM2Loop):
    def noise(self, i):
        scale = mpf(self.options.get("s_noise", 1))
        return [scale * z for z in noise_exact(i)]

    def step(self, i, x, output):
        p = self.clean(x, output, self.level(i))
        if i % 2 == 0:
            source, target = self.sigmas[i : i + 2]
            if target == 0:
                return p, p, 0
            self.base, self.first = x, self.noise(i)
            middle = self.level(i + 1)
            ratio = target / source
            return mixed((ratio, x), (1 - ratio, p), (middle * mpmath.sqrt(1 - ratio), self.first)), p, 1
        source, target, middle = self.sigmas[i - 1], self.sigmas[i], self.level(i)
        ratio = (target / source) ** 2
        up = target * mpmath.sqrt(1 - ratio)
        shares = [mpmath.sqrt(part / (source - target)) for part in (source - middle, middle - target)]
        noise = (up * shares[0], self.first), (up * shares[1], self.noise(i))
        return mixed((ratio, self.base), (1 - ratio, p), *noise), p, 1


class KDPM2AncestralLoop(ExplodingLoop):
    def step(self, i, x, output):
        # The second evaluation of a step is at the step's target level, entry i of the table.
        p = self.clean(x, output, self.sigmas[i])
        if i % 2 == 0:
            self.base = x
            ratio = self.sigmas[i + 1] / self.sigmas[i]
            return mixed((ratio, x), (1 - ratio, p)), p, 0
        ratio = self.sigmas[i] / self.sigmas[i - 1]
        down, up = self.sigmas[i] * ratio, self.sigmas[i] * mpmath.sqrt((1 - ratio) * (1 + ratio))
        share = (down - self.sigmas[i - 1]) / self.sigmas[i]
        return mixed((mpf(1), self.base), (share, x), (-share, p), (up, noise_exact(i))), p, 1


class LMSLoop(ExplodingLoop):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.derivatives = []

    def step(self, i, x, output):
        p = self.clean(x, output, self.sigmas[i])
        derivative = mixed((1 / self.sigmas[i], x), (-1 / self.sigmas[i], p))
        self.derivatives = ([derivative] + self.derivatives)[: self.options.get("order", 4)]
        h = self.sigmas[i + 1] - self.sigmas[i]
        nodes = [self.sigmas[i - k] - self.sigmas[i] for k in range(len(self.derivatives))]
        if len(set(nodes)) < len(nodes):
            raise Redraw("repeated levels")
        weights = []
        for j, node in enumerate(nodes):
            polynomial = [mpf(1)]
            for other in nodes[:j] + nodes[j + 1 :]:
                polynomial = [(s - other * c) / (node - other) for s, c in zip([mpf(0), *polynomial], [*polynomial, mpf(0)])]
            weights.append(sum(c * h ** (k + 1) / (k + 1) for k, c in enumerate(polynomial)))
        return mixed((mpf(1), x), *zip(weights, self.derivatives)), p, 0


class KarrasVeLoop(Loop):
    """Levels alternate: one that a step raises the sample to, and one that the step leads to."""

    def step(self, i, x, output):
        level, target = self.sigmas[i], self.sigmas[i + 1]
        p = mixed((mpf(1), x), (level, output))
        if i % 2 == 0:
            self.half = mixed((mpf(1), x), ((level - target) / 2, output))
            return mixed((mpf(1), x), (level - target, output)), p, int(i == 0)
        rise = mpf(self.config["s_noise"]) * mpmath.sqrt(target**2 - level**2)
        return mixed((mpf(1), self.half), ((self.sigmas[i - 1] - level) / 2, output), (rise, noise_exact(i))), p, 1


class ScoreSdeVeLoop(Loop):
    """Corrections at a level, then a prediction that leads to the next one."""

    def step(self, i, x, output):
        level, target, evaluations = self.sigmas[i], self.sigmas[i + 1], self.config["correct_steps"] + 1
        if (i + 1) % evaluations:
            step_size = 2 * (mpf(self.config["snr"]) * level) ** 2
            score, noise = step_size, mpmath.sqrt(2 * step_size)
        else:
            score = level**2 - target**2
            noise = mpmath.sqrt(score)
        mean = mixed((mpf(1), x), (score, output))
        return mixed((mpf(1), mean), (noise, noise_exact(i))), mean, 1


class FlowLoop(Loop):
    renoises = False

    def noising(self, i):
        return 1 - self.sigmas[i], self.sigmas[i]

    def step(self, i, x, output):
        source, target = self.sigmas[i], self.sigmas[i + 1]
        if self.config.get("stochastic_sampling", self.renoises):
            keep = 1 - target
            return mixed((keep, x), (-source * keep, output), (target, noise_exact(i))), None, 1
        return mixed((mpf(1), x), (target - source, output)), None, 0


class FlowMapLoop(Loop):
    """A step leads to the given timestep, or to the run's next one."""

    def noising(self, i):
        share = mpf(self.timesteps[i]) / self.train_steps
        return 1 - share, share

    def target(self, i):
        told = self.options.get("r_timestep")
        if told is None:
            return self.sigmas[i + 1]
        near = [level for t, level in zip(self.timesteps, self.sigmas) if abs(t - told) <= 1e-3]
        return near[0] if near else mpf(told) / self.train_steps

    def step(self, i, x, output):
        return mixed((mpf(1), x), (self.target(i) - self.sigmas[i], output)), None, 0


class PiflowLoop(FlowLoop):
    """The policy through the clean samples that the model predicts, followed by Euler's method."""

    def __init__(self, scheduler, begin, options):
        super().__init__(scheduler, begin, options)
        self.raw = [*scheduler._piflow_raw_timesteps.tolist(), float(np.float32(scheduler.config["eps"]))]

    def step(self, i, x, output):
        count, shift, eps = self.config["n_grid"], mpf(self.config["shift"]), mpf(self.config["eps"])

        def raw_time(level):
            return level / (shift + (1 - shift) * level)

        begin, end, level = mpf(self.raw[i]), mpf(self.raw[i + 1]), self.sigmas[i]
        length = np.float32(self.raw[i]) - np.float32(self.raw[i + 1])
        substeps = max(1, round(float(length * np.float32(self.config["num_policy_substeps"]))))
        cleans = [mixed((mpf(1), x), (-level * (1 + mpf(k) / 8), output)) for k in range(count)]
        first = raw_time(level)
        last = max(first - (begin - end), mpf(0))
        for substep in range(1, substeps + 1):
            place = min(max((raw_time(level) - last) / max(first - last, eps), mpf(0)), mpf(1)) * (count - 1)
            below = min(int(place), count - 2)
            clean = mixed((1 - (place - below), cleans[below]), (place - below, cleans[below + 1]))
            raw = max(begin - substep * (begin - end) / substeps, mpf(0))
            target = shift * raw / (1 + (shift - 1) * raw)
            share = (level - target) / max(level, eps)
            x, level = mixed((1 - share, x), (share, clean)), target
        return x, None, 0


class FlowLCMLoop(FlowLoop):
    renoises = True


class HeliosDMDLoop(Loop):
    """A step cuts off the fractions of its timesteps, and takes the levels of the nearest timesteps."""

    def step(self, i, x, output):
        def level(i):
            return self.sigmas[min(range(len(self.timesteps)), key=lambda k: abs(self.timesteps[k] - int(self.timesteps[i])))]

        clean = mixed((mpf(1), x), (-level(i), output))
        if i + 1 == len(self.timesteps):
            return clean, None, 0
        return mixed((1 - level(i + 1), clean), (level(i + 1), noise_exact(i))), None, 1


class TimeLoop(Loop):
    """Timesteps are times from 0 to 1, rounded to float32."""

    def noising(self, i):
        return mpf(self.timesteps[i]), 1 - mpf(self.timesteps[i])

    def step(self, i, x, output):
        ratio = self.sigmas[i + 1] / self.sigmas[i]
        clean = mixed((mpf(1), x), (1 - mpf(self.timesteps[i]), output))
        return mixed((ratio, x), (1 - ratio, clean)), None, 0


class LTXLoop(Loop):
    def step(self, i, x, output):
        if i + 1 >= len(self.sigmas):
            # Each of the caller's levels has a timestep, but the step at the last one returns its sample.
            return x, None, 0
        source, target, eta = self.sigmas[i], self.sigmas[i + 1], mpf(self.config["eta"])
        if target < mpf(1e-8):
            return mixed((mpf(1), x), (-source, output)), None, 0
        down = target * (1 + (target / source - 1) * eta)
        stepped = mixed((mpf(1), x), (down - source, output))
        if not (eta > 0 and self.config["s_noise"] > 0):
            return stepped, None, 0
        keep = (1 - target) / (1 - down + mpf(1e-12))
        square = target**2 - down**2 * (1 - target) ** 2 / ((1 - down) ** 2 + mpf(1e-12))
        noise = mpf(self.config["s_noise"]) * mpmath.sqrt(max(square, mpf(0)))
        return mixed((keep, stepped), (noise, noise_exact(i))), None, 1


class FlowHeunLoop(Loop):
    def noising(self, i):
        return 1 - self.sigmas[i], self.sigmas[i]

    def step(self, i, x, output):
        first = i - i % 2
        source, target = self.sigmas[first], self.sigmas[first + 1]
        churn = mpf(0)
        if self.options.get("s_tmin", 0) <= source <= self.options.get("s_tmax", math.inf):
            churn = min(mpf(self.options.get("s_churn", 0)) / (len(self.sigmas) - 1), mpmath.sqrt(2) - 1)
        if i == first:
            rise = mpf(self.options.get("s_noise", 1)) * source * mpmath.sqrt(churn * (churn + 2))
            self.raised = mixed((mpf(1), x), (rise, noise_exact(i)))
            self.derivative = [v / (1 + churn) for v in output]
            derivative = self.derivative
        else:
            derivative = [(a + b) / 2 for a, b in zip(self.derivative, output)]
        return mixed((mpf(1), self.raised), (target - source * (1 + churn), derivative)), None, int(churn > 0)


class IPNDMLoop(Loop):
    WEIGHTS = {
        1: [mpf(1)],
        2: [mpf(3) / 2, -mpf(1) / 2],
        3: [mpf(23) / 12, -mpf(16) / 12, mpf(5) / 12],
        4: [mpf(55) / 24, -mpf(59) / 24, mpf(37) / 24, -mpf(9) / 24],
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.history = []

    def rates(self, i):
        ratio = self.sigmas[i]
        if ratio >= GREATEST_RATIO:
            return mpf(0), mpf(1)
        length = mpmath.sqrt(1 + ratio * ratio)
        return 1 / length, ratio / length

    def step(self, i, x, output):
        (signal, noise), (following_signal, following_noise) = self.rates(i), self.rates(i + 1)
        self.history = [mixed((noise, x), (signal, output)), *self.history][:4]
        if signal == 0:
            # The sample is pure noise. The original computes its clean part as 0 / 1e-8.
            assert len(self.history) == 1
            return mixed((following_noise, x)), None, 0
        mean = mixed(*zip(self.WEIGHTS[len(self.history)], self.history))
        clean = [(v - noise * m) / signal for v, m in zip(x, mean)]
        return mixed((following_signal, clean), (following_noise, mean)), None, 0


def exponential_weights(nodes, h, data, rate=1):
    """Integrals over 0..h of exp(-rate (h - u)), or exp(h - u) for noise, times the Lagrange basis of the nodes."""
    moments = [-mpmath.expm1(-rate * h) / rate if data else mpmath.expm1(h)]
    for k in range(1, len(nodes)):
        moments.append((h**k - k * moments[-1]) / rate if data else k * moments[-1] - h**k)
    weights = []
    for j, node in enumerate(nodes):
        polynomial = [mpf(1)]
        for other in nodes[:j] + nodes[j + 1 :]:
            shifted = [mpf(0)] + polynomial
            polynomial = [(s - other * p) / (node - other) for s, p in zip(shifted, polynomial + [mpf(0)])]
        weights.append(sum(c * m for c, m in zip(polynomial, moments)))
    return weights


class UniPCLoop(Loop):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.history, self.order, self.corrected = [], 0, None

    def level(self, i):
        return amplitudes(self.sigmas[i], self.config["use_flow_sigmas"])

    def noising(self, i):
        return self.level(i)

    def convert(self, i, x, output):
        prediction = self.config["prediction_type"]
        A, S = self.level(i)
        if not self.config["predict_x0"]:
            return noise_estimate(prediction, A, S, x, output)
        p = clean_sample(prediction, A, S, self.sigmas[i], x, output)
        return threshold_exact(p, self.config) if self.config["thresholding"] else p

    def update(self, i, x, outputs, newest=None):
        """The step from level i to level i + 1 with the outputs of levels i, i - 1, …, and of level i + 1 if it is known."""
        data = self.config["predict_x0"]
        A, S = self.level(i + 1)
        A_source, S_source = self.level(i)
        if self.sigmas[i + 1] == 0:
            # The step to level 0 is of order 1, and its exponential integrator returns the clean sample.
            assert data and len(outputs) == 1
            return outputs[0]
        if self.sigmas[i + 1] == self.sigmas[i]:
            # A step of length 0, which the reference allows in orders 1 and 2.
            return x
        origin = mpmath.log(A_source / S_source)
        h = mpmath.log(A / S) - origin
        nodes = [mpmath.log(self.level(i - k)[0] / self.level(i - k)[1]) - origin for k in range(len(outputs))]
        scale = A if data else -S
        keep = S / S_source if data else A / A_source
        vectors = list(outputs)
        if newest is not None:
            nodes.append(h)
            vectors.append(newest)
        if len(vectors) == 2:
            # The reference gives the difference a weight of one half here, instead of solving for it.
            exponent = -h if data else h
            size = exponent if self.config["solver_type"] == "bh1" else mpmath.expm1(exponent)
            base = exponential_weights(nodes[:1], h, data)[0]
            share = -size / 2 * (h / nodes[1]) * (1 if data else -1)
            weights = [base - share, share]
        else:
            weights = exponential_weights(nodes, h, data)
        return mixed((keep, x), *((scale * w, v) for w, v in zip(weights, vectors)))

    def step(self, i, x, output):
        converted = self.convert(i, x, output)
        if self.corrected is not None and i - 1 not in self.config["disable_corrector"]:
            x = self.update(i - 1, self.corrected, self.history[: self.order], converted)
        self.corrected = x
        self.history = [converted] + self.history
        self.order = min(self.config["solver_order"], len(self.history))
        if self.config["lower_order_final"]:
            self.order = min(self.order, len(self.timesteps) - i)
        return self.update(i, x, self.history[: self.order]), None, 0


class HeliosLoop(UniPCLoop):
    """A stage of a pyramid. Runs on flow levels end with a noise rate of 1e-8 and a signal rate of 1."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.is_euler = self.config["scheduler_type"] == "euler"
        if self.config["use_flow_sigmas"] and not self.is_euler:
            self.sigmas[-1] = mpf("1e-8")

    def level(self, i):
        is_end = i + 1 == len(self.sigmas) and self.config["use_flow_sigmas"]
        return (mpf(1), self.sigmas[i]) if is_end else super().level(i)

    def step(self, i, x, output):
        if not self.is_euler:
            return super().step(i, x, output)
        return mixed((mpf(1), x), (self.sigmas[i + 1] - self.sigmas[i], output)), None, 0


class SinglestepLoop(Loop):
    """DPM-Solver in blocks. A block's steps have the orders 1, 2, ..., and all lead from the block's start."""

    def __init__(self, scheduler, *arguments):
        super().__init__(scheduler, *arguments)
        self.orders, self.outputs, self.origin = scheduler.order_list, [], None

    def level(self, i):
        return amplitudes(self.sigmas[i], self.config["use_flow_sigmas"])

    def noising(self, i):
        return self.level(i)

    def convert(self, i, x, output):
        prediction = self.config["prediction_type"]
        A, S = self.level(i)
        if self.config["algorithm_type"] == "dpmsolver":
            return noise_estimate(prediction, A, S, x, output)
        p = clean_sample(prediction, A, S, self.sigmas[i], x, output)
        return threshold_exact(p, self.config) if self.config["thresholding"] else p

    def differences(self, order, first, halves):
        """Weights of the first and second derivative over the step, for the block's outputs, newest first."""
        place = [(self.places[-1 - k] - first) / self.way for k in range(order)]
        if order == 2 or self.config["solver_type"] == "midpoint":
            weight = halves[0] if order == 2 and self.config["solver_type"] == "midpoint" else halves[1]
            return [weight / place[0]] + [mpf(0)] * (order - 2)
        # The parabola through the three outputs, as a polynomial in the position.
        near, far = place[0], place[1]
        return [
            (2 * halves[2] - far * halves[1]) / (near * (near - far)),
            (2 * halves[2] - near * halves[1]) / (far * (far - near)),
        ]

    def step(self, i, x, output):
        algorithm = self.config["algorithm_type"]
        self.outputs = [self.convert(i, x, output)] + self.outputs
        order = min(self.orders[i], len(self.outputs))
        if order == 1:
            self.origin = x
        drawn = int(algorithm == "sde-dpmsolver++")
        base = i - order + 1
        A, S = self.level(i + 1)
        A_base, S_base = self.level(base)
        if S == 0:
            # The step to level 0 is of order 1.
            assert order == 1 and algorithm != "dpmsolver"
            return self.outputs[0], None, drawn
        self.places = [mpmath.log(self.level(k)[0] / self.level(k)[1]) for k in range(base, i + 1)]
        h = self.way = mpmath.log(A / S) - self.places[0]
        noise = mpf(0)
        if h == 0:
            # diffusers divides by h in every order but 1.
            if order > 1:
                raise Redraw("no way to go")
            return x, None, drawn
        if algorithm == "dpmsolver++":
            keep, grown = S / S_base, mpmath.expm1(-h)
            weights = [-A * grown, A * (grown / h + 1), -A * ((grown + h) / h**2 - mpf(1) / 2)]
        elif algorithm == "dpmsolver":
            keep, grown = A / A_base, mpmath.expm1(h)
            weights = [-S * grown, -S * (grown / h - 1), -S * ((grown - h) / h**2 - mpf(1) / 2)]
        else:
            keep, lost = S / S_base * mpmath.exp(-h), -mpmath.expm1(-2 * h)
            # In diffusers, the last term has the opposite sign of the integral's.
            weights = [A * lost, A * (1 - lost / (2 * h)), A * ((lost - 2 * h) / (4 * h**2) - mpf(1) / 2)]
            noise = S * mpmath.sqrt(lost)
        shares = []
        if order > 1:
            shares = self.differences(order, self.places[0], [weights[0] / 2, weights[1], weights[2]])
        shares.append(weights[0] - sum(shares))
        terms = zip(shares, self.outputs)
        return mixed((keep, self.origin), *terms, (noise, noise_exact(i))), None, drawn


class SASolverLoop(Loop):
    def __init__(self, scheduler, *arguments):
        super().__init__(scheduler, *arguments)
        self.tau, self.history, self.corrected, self.order = scheduler.tau_func, [], None, 0

    def level(self, i):
        return amplitudes(self.sigmas[i], self.config["use_flow_sigmas"])

    def noising(self, i):
        # add_noise takes the training's levels, even if the run's differ.
        product = self.alphas[int(self.timesteps[i])]
        return mpmath.sqrt(product), mpmath.sqrt(1 - product)

    def convert(self, i, x, output):
        prediction = self.config["prediction_type"]
        A, S = self.level(i)
        if self.config["algorithm_type"] == "noise_prediction":
            return noise_estimate(prediction, A, S, x, output)
        p = clean_sample(prediction, A, S, self.sigmas[i], x, output)
        return threshold_exact(p, self.config) if self.config["thresholding"] else p

    def update(self, i, x, outputs, newest=None):
        """A step from level i to i + 1 with the outputs of levels i, i - 1, ..., and of level i + 1 if it is known."""
        data = self.config["algorithm_type"] == "data_prediction"
        A, S = self.level(i + 1)
        A_source, S_source = self.level(i)
        if self.sigmas[i + 1] == self.sigmas[i]:
            return x
        origin = mpmath.log(A_source / S_source)
        h = mpmath.log(A / S) - origin
        tau = mpf(self.tau(self.timesteps[i]))
        rate = 1 + tau**2
        nodes = [mpmath.log(self.level(i - k)[0] / self.level(i - k)[1]) - origin for k in range(len(outputs))]
        vectors = list(outputs)
        if newest is not None:
            nodes, vectors = [h] + nodes, [newest] + vectors
        weights = exponential_weights(nodes, h, data, rate)
        if data and len(vectors) == 2:
            excess = (rate * h - 1 + mpmath.exp(-rate * h)) / rate**2
            shift = (h / 2 - excess / h) if newest is not None else (h**2 / 2 - excess) / -nodes[1]
            weights = [weights[0] + shift, weights[1] - shift]
        if data:
            scale, keep = rate * A, mpmath.exp(-(tau**2) * h) * S / S_source
            noise = S * mpmath.sqrt(-mpmath.expm1(-2 * tau**2 * h))
        else:
            scale, keep, noise = -rate * S, A / A_source, tau * S * mpmath.sqrt(mpmath.expm1(2 * h))
        return mixed((keep, x), *((scale * w, v) for w, v in zip(weights, vectors)), (noise, noise_exact(i)))

    def step(self, i, x, output):
        converted = self.convert(i, x, output)
        if self.corrected is not None:
            x = self.update(i - 1, self.corrected, self.history[: self.order - 1], converted)
        self.corrected = x
        orders = [self.config["predictor_order"], self.config["corrector_order"]]
        if self.config["lower_order_final"]:
            left = len(self.timesteps) - i
            orders = [min(orders[0], left), min(orders[1], left + 1)]
        predictor, self.order = min(orders[0], len(self.history) + 1), min(orders[1], len(self.history) + 2)
        self.history = [converted] + self.history
        return self.update(i, x, self.history[:predictor]), None, 1


class ProductLoop(Loop):
    """The classes whose levels are cumulative products at integer timesteps."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.timesteps = [int(t) for t in self.timesteps]

    def noising(self, i):
        product = self.alphas[self.timesteps[i]]
        return mpmath.sqrt(product), mpmath.sqrt(1 - product)

    def clean(self, product, x, output):
        signal, noise = mpmath.sqrt(product), mpmath.sqrt(1 - product)
        prediction = self.config["prediction_type"]
        if prediction == "epsilon" and product == 0:
            # Only clipping makes infinities finite.
            if self.config.get("thresholding") or not self.config["clip_sample"]:
                raise Redraw("clean sample undefined without signal")
            p = [mpmath.sign(v - noise * m) * mpmath.inf for v, m in zip(x, output)]
        else:
            p = clean_sample(prediction, signal, noise, noise / signal if signal else None, x, output)
        if self.config.get("thresholding"):
            return threshold_exact(p, self.config)
        return clamped(p, self.config["clip_sample_range"]) if self.config["clip_sample"] else p


def between(least, greatest):
    """The deviation for a variance that the model places between two variances, on a logarithmic scale."""
    place = (VARIANCE + 1) / 2
    return mpmath.exp((place * mpmath.log(greatest) + (1 - place) * mpmath.log(least)) / 2)


class DDPMLoop(ProductLoop):
    def step(self, i, x, output):
        t = self.timesteps[i]
        source = self.alphas[t]
        target = self.alphas[self.timesteps[i + 1]] if i + 1 < len(self.timesteps) else mpf(1)
        ratio = source / target
        beta = 1 - ratio
        p = self.clean(source, x, output)
        deviation = mpf(0)
        if t > 0:
            deviation = mpmath.sqrt(max((1 - target) / (1 - source) * beta, mpf(1e-20)))
            if self.config["variance_type"] == "fixed_large":
                deviation = mpmath.sqrt(beta)
            elif self.config["variance_type"] == "fixed_large_log":
                # diffusers takes the root of this logarithm, which is real only for beta = 1.
                deviation = mpmath.sqrt(mpmath.log(beta))
            elif self.config["variance_type"] == "learned":
                deviation = mpmath.sqrt(VARIANCE)
            elif self.config["variance_type"] == "learned_range":
                deviation = between(deviation**2, beta)
        next_sample = mixed(
            (mpmath.sqrt(target) * beta / (1 - source), p),
            (mpmath.sqrt(ratio) * (1 - target) / (1 - source), x),
            (deviation, noise_exact(i)),
        )
        return next_sample, p, int(t > 0)


class LCMLoop(ProductLoop):
    def step(self, i, x, output):
        t = self.timesteps[i]
        p = self.clean(self.alphas[t], x, output)
        k = t * mpf(self.config["timestep_scaling"])
        square = k * k + mpf(1) / 4
        denoised = mixed((k / mpmath.sqrt(square), p), (1 / (4 * square), x))
        if i == self.count - 1:
            return denoised, denoised, 0
        # At the end of a schedule that strength cut short there is no next timestep, and the level stays.
        target = self.alphas[self.timesteps[min(i + 1, len(self.timesteps) - 1)]]
        return mixed((mpmath.sqrt(target), denoised), (mpmath.sqrt(1 - target), noise_exact(i))), denoised, 1


class TCDLoop(ProductLoop):
    def step(self, i, x, output):
        source = self.alphas[self.timesteps[i]]
        signal, noise = mpmath.sqrt(source), mpmath.sqrt(1 - source)
        prediction = self.config["prediction_type"]
        p = clean_sample(prediction, signal, noise, None, x, output)
        epsilon = noise_estimate(prediction, signal, noise, x, output)
        following = self.timesteps[i + 1] if i + 1 < len(self.timesteps) else 0
        eta = self.options.get("eta", 0.3)
        inner = self.alphas[math.floor(np.float32(1 - eta) * np.float32(following))]
        noised = mixed((mpmath.sqrt(inner), p), (mpmath.sqrt(1 - inner), epsilon))
        if eta == 0 or i == self.count - 1:
            return noised, noised, 0
        ratio = self.alphas[following] / inner
        return mixed((mpmath.sqrt(ratio), noised), (mpmath.sqrt(1 - ratio), noise_exact(i))), noised, 1


class CogVideoXLoop(ProductLoop):
    def target(self, i):
        """The cumulative product at the step's target, and whether the target lies below timestep 0."""
        following = self.timesteps[i] - self.config["num_train_timesteps"] // self.count
        if following >= 0:
            return self.alphas[following], False
        return (mpf(1) if self.config["set_alpha_to_one"] else self.alphas[0]), True

    def step(self, i, x, output):
        source, (target, _) = self.alphas[self.timesteps[i]], self.target(i)
        p = clean_sample(self.config["prediction_type"], mpmath.sqrt(source), mpmath.sqrt(1 - source), None, x, output)
        keep = mpmath.sqrt((1 - target) / (1 - source))
        return mixed((keep, x), (mpmath.sqrt(target) - mpmath.sqrt(source) * keep, p)), p, 0


class DDIMLoop(CogVideoXLoop):
    def step(self, i, x, output):
        source, (target, _) = self.alphas[self.timesteps[i]], self.target(i)
        signal, noise = mpmath.sqrt(source), mpmath.sqrt(1 - source)
        p = self.clean(source, x, output)
        if self.options.get("use_clipped_model_output"):
            epsilon = mixed((1 / noise, x), (-signal / noise, p))
        else:
            epsilon = noise_estimate(self.config["prediction_type"], signal, noise, x, output)
        eta = mpf(self.options.get("eta", 0))
        variance = eta**2 * (1 - target) / (1 - source) * (1 - source / target)
        next_sample = mixed(
            (mpmath.sqrt(target), p), (mpmath.sqrt(1 - target - variance), epsilon), (mpmath.sqrt(variance), noise_exact(i))
        )
        return next_sample, p, int(eta > 0)


class CogVideoXDPMLoop(CogVideoXLoop):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.before = None

    def step(self, i, x, output):
        source, (target, is_below) = self.alphas[self.timesteps[i]], self.target(i)
        p = clean_sample(self.config["prediction_type"], mpmath.sqrt(source), mpmath.sqrt(1 - source), None, x, output)
        before, self.before = self.before, (source, p)
        second = before is not None and not is_below
        drawn = 2 if second else 1
        if target == source:
            return x, p, drawn
        # exp(-2 h).
        kept = source * (1 - target) / ((1 - source) * target)
        share = mpmath.sqrt(target) * (1 - kept)
        terms = [(mpmath.sqrt(kept * (1 - target) / (1 - source)), x), (share, p)]
        if second and source and before[0]:
            half_logarithms = [mpmath.log(a / (1 - a)) / 2 for a in (before[0], source, target)]
            weight = share * (half_logarithms[2] - half_logarithms[1]) / (2 * (half_logarithms[1] - half_logarithms[0]))
            terms += [(weight, p), (-weight, before[1])]
        return mixed(*terms, (mpmath.sqrt((1 - target) * (1 - kept)), noise_exact(i))), p, drawn


class PNDMLoop(ProductLoop):
    WEIGHTS = IPNDMLoop.WEIGHTS

    def __init__(self, scheduler, *arguments):
        super().__init__(scheduler, *arguments)
        self.runge_kutta = 0 if self.config["skip_prk_steps"] else len(scheduler.prk_timesteps)
        self.stride = self.config["num_train_timesteps"] // self.count
        self.calls, self.history, self.base, self.sum = 0, [], None, None

    def transfer(self, source, target, x, output):
        """A step from timestep `source` to timestep `target` with a constant output."""
        beyond = mpf(1) if self.config["set_alpha_to_one"] else self.alphas[0]
        a, b = self.alphas[source], self.alphas[target] if target >= 0 else beyond
        if self.config["prediction_type"] == "v_prediction":
            output = mixed((mpmath.sqrt(a), output), (mpmath.sqrt(1 - a), x))
        # DDIM's deterministic step, as a combination of the sample and the output.
        keep = mpmath.sqrt(b / a)
        return mixed((keep, x), (mpmath.sqrt(1 - b) - keep * mpmath.sqrt(1 - a), output))

    def step(self, i, x, output):
        t = self.timesteps[i]
        call, self.calls = self.calls, self.calls + 1
        if call < self.runge_kutta:
            origin = self.timesteps[call // 4 * 4]
            target = t if call % 2 else t - self.stride // 2
            phase = call % 4
            if phase == 0:
                self.base, self.sum = x, [mpf(0)] * ELEMENTS
                self.history = ([output] + self.history)[:4]
            self.sum = mixed((mpf(1), self.sum), ((mpf(1) / 6, mpf(1) / 3, mpf(1) / 3, mpf(1) / 6)[phase], output))
            return self.transfer(origin, target, self.base, self.sum if phase == 3 else output), None, 0
        source, target = t, t - self.stride
        if call == 1:
            # The second call repeats the first step with the mean of both outputs.
            source, target, x = t + self.stride, t, self.base
            mean = mixed((mpf(1) / 2, output), (mpf(1) / 2, self.history[0]))
        else:
            if call == 0:
                self.base = x
            self.history = ([output] + self.history)[:4]
            mean = mixed(*zip(self.WEIGHTS[len(self.history)], self.history))
        return self.transfer(source, target, x, mean), None, 0


class SCMLoop(Loop):
    """Timesteps are angles."""

    def step(self, i, x, output):
        source, target = mpf(self.timesteps[i]), mpf(self.timesteps[i + 1])
        p = mixed((mpmath.cos(source), x), (-mpmath.sin(source), output))
        return mixed((mpmath.cos(target), p), (mpf(self.config["sigma_data"]) * mpmath.sin(target), noise_exact(i))), p, 1


class ConsistencyLoop(Loop):
    def noising(self, i):
        return mpf(1), self.sigmas[i]

    def magnitude(self, i):
        return mpmath.sqrt(self.sigmas[i] ** 2 + mpf(self.config["sigma_data"]) ** 2)

    def model_input(self, i, x):
        return [v / self.magnitude(i) for v in x]

    def step(self, i, x, output):
        least, greatest = (mpf(float(np.float32(self.config[key]))) for key in ("sigma_min", "sigma_max"))
        data, distance = mpf(self.config["sigma_data"]), self.sigmas[i] - least
        p = mixed((data**2 / (distance**2 + data**2), x), (distance * data / self.magnitude(i), output))
        if self.config["clip_denoised"]:
            p = clamped(p, 1)
        if len(self.timesteps) == 1:
            return p, None, 0
        level = min(max(self.sigmas[i + 1], least), greatest)
        return mixed((mpf(1), p), (mpf(self.config["s_noise"]) * mpmath.sqrt(level**2 - least**2), noise_exact(i))), None, 1


class UnCLIPLoop(ProductLoop):
    def __init__(self, scheduler, *arguments):
        super().__init__(scheduler, *arguments)
        self.tables = [[mpf(v) for v in table.tolist()] for table in (scheduler.betas, scheduler.alphas)]

    def step(self, i, x, output):
        t, u = self.timesteps[i], self.timesteps[i + 1] if i + 1 < len(self.timesteps) else self.timesteps[i] - 1
        source, target = self.alphas[t], self.alphas[u] if u >= 0 else mpf(1)
        beta, alpha = (table[t] for table in self.tables) if u == t - 1 else (1 - source / target, source / target)
        p, kept = self.clean(source, x, output), (1 - target) / (1 - source)
        deviation = mpmath.sqrt(max(kept * beta, mpf(1e-20))) if t > 0 else mpf(0)
        if t > 0 and self.config["variance_type"] == "learned_range":
            deviation = between(kept * beta, beta)
        next_sample = mixed(
            (mpmath.sqrt(target) * beta / (1 - source), p), (mpmath.sqrt(alpha) * kept, x), (deviation, noise_exact(i))
        )
        return next_sample, p, int(t > 0)


class WuerstchenLoop(Loop):
    """Timesteps are times from 1 to 0."""

    def product(self, i):
        t, scaler, s = mpf(self.timesteps[i]), mpf(self.config["scaler"]), mpf(float(np.float32(self.config["s"])))
        t = 1 - (1 - t) ** scaler if scaler > 1 else t**scaler
        root = mpmath.cos((t + s) / (1 + s) * mpmath.pi / 2) / mpmath.cos(s / (1 + s) * mpmath.pi / 2)
        return min(max(root**2, mpf(0.0001)), mpf(0.9999))

    def noising(self, i):
        return mpmath.sqrt(self.product(i)), mpmath.sqrt(1 - self.product(i))

    def step(self, i, x, output):
        source, target = self.product(i), self.product(i + 1)
        alpha = source / target
        deviation = mpmath.sqrt((1 - alpha) * (1 - target) / (1 - source)) if self.timesteps[i + 1] else mpf(0)
        keep, share = 1 / mpmath.sqrt(alpha), (1 - alpha) / mpmath.sqrt(1 - source)
        return mixed((keep, x), (-keep * share, output), (deviation, noise_exact(i))), None, 1


# ----------------------------------------------------------------------------------------------------------------------
# Classes
# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Family:
    """A scheduler class: its drawn parameters and arguments as tables of values and weights, and its exact loop."""

    name: str
    loop: type
    parameters: dict
    requests: dict
    adjust: Callable = lambda rng, run: None
    options: dict = dataclasses.field(default_factory=dict)
    has_noise_table: bool = True
    # Share of loops that begin late, and the spacing of indices that they may begin at.
    late: float = 0.2
    stride: int = 1
    count: int = 80
    # Greatest allowed difference of the float64 reference from the exact result, relative to max(1, |x|).
    limit: float = 1e-10
    # Parameters that `adjust` chooses, with the values that must occur.
    settled: dict = dataclasses.field(default_factory=dict)


CHURN = {
    "s_churn": {None: 50, 1.0: 12, 5.0: 14, 20.0: 12, 80.0: 12},
    "s_tmin": {None: 70, 0.05: 15, 1.0: 15},
    "s_tmax": {None: 70, 50.0: 15, 5.0: 15},
    "s_noise": {None: 60, 1.003: 20, 0.9: 20},
}
FLOW_CHURN = {
    "s_churn": {None: 40, 1.0: 20, 5.0: 20, 20.0: 20},
    "s_tmin": {None: 70, 0.05: 15, 0.3: 15},
    "s_tmax": {None: 70, 0.9: 15, 0.5: 15},
    "s_noise": {None: 60, 1.003: 20, 0.9: 20},
}
EDM_LEVELS = {
    "num_train_timesteps": {1000: 70, 100: 30},
    "sigma_min": {0.002: 60, 0.03: 40},
    "sigma_max": {80.0: 60, 500.0: 40},
    "sigma_data": {0.5: 60, 1.0: 40},
    "sigma_schedule": {"karras": 55, "exponential": 45},
    "rho": {7.0: 60, 2.5: 40},
    "final_sigmas_type": {"zero": 60, "sigma_min": 40},
}
FLOW_LEVELS = {
    "num_train_timesteps": {1000: 80, 100: 20},
    "shift": {1.0: 25, 0.5: 10, 1.73: 15, 3.0: 30, 6.0: 10, 17.0: 10},
    "use_dynamic_shifting": {True: 40, False: 60},
    "base_shift": {0.5: 70, 0.95: 30},
    "max_shift": {1.15: 70, 2.05: 30},
    "base_image_seq_len": {256: 70, 1024: 30},
    "max_image_seq_len": {4096: 70, 8192: 30},
    "invert_sigmas": {True: 15, False: 85},
    "shift_terminal": {None: 70, 0.02: 15, 0.1: 15},
    "grid": {"plain": 58, "karras": 14, "exponential": 14, "beta": 14},
    "time_shift_type": {"exponential": 65, "linear": 35},
}
PYRAMID = {
    "num_train_timesteps": {1000: 80, 100: 20},
    "shift": {1.0: 60, 3.0: 25, 0.5: 15},
    "stages": {3: 55, 2: 20, 1: 25},
    "gamma": {1 / 3: 65, 0.5: 35},
}
DYNAMIC_SHIFT = {
    "use_dynamic_shifting": {True: 35, False: 65},
    "time_shift_type": {"exponential": 60, "linear": 40},
}
LTX_SPACING = {
    "shift": {1.0: 30, 0.5: 20, 3.0: 50},
    "use_dynamic_shifting": {True: 50, False: 50},
    "shift_terminal": {None: 60, 0.1: 40},
    "time_shift_type": {"exponential": 65, "linear": 35},
    "grid": {"plain": 70, "karras": 10, "exponential": 10, "beta": 10},
}
SIGMA_GRIDS = {"plain": 46, "karras": 20, "exponential": 17, "beta": 17}
GRID_FLAGS = {f"use_{name}_sigmas": (True, False) for name in ("karras", "exponential", "beta")}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
COGVIDEOX = {
    "set_alpha_to_one": {True: 70, False: 30},
    "steps_offset": {0: 60, 1: 40},
    "prediction_type": PREDICTIONS,
    "timestep_spacing": SPACINGS,
    "rescale_betas_zero_snr": {True: 30, False: 70},
    "snr_shift_scale": {3.0: 40, 1.0: 25, 0.5: 15, 2.7: 20},
}

DDPM = {
    "variance_type": {
        "fixed_small": 24,
        "fixed_small_log": 18,
        "fixed_large": 23,
        "fixed_large_log": 5,
        "learned": 15,
        "learned_range": 15,
    },
    **CLIPPING,
    "prediction_type": PREDICTIONS,
    **THRESHOLDING,
    "timestep_spacing": SPACINGS,
    "steps_offset": OFFSETS,
    "rescale_betas_zero_snr": {True: 20, False: 80},
}

CLASSES = {
    "edm_dpmsolver": Family(
        "EDMDPMSolverMultistepScheduler",
        EDMMultistepLoop,
        {
            **EDM_LEVELS,
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "solver_order": {1: 20, 2: 40, 3: 40},
            "thresholding": {True: 25, False: 75},
            "dynamic_thresholding_ratio": {0.995: 50, 0.75: 50},
            "sample_max_value": {1.0: 50, 1.5: 50},
            "algorithm_type": {"dpmsolver++": 50, "sde-dpmsolver++": 40, "deis": 10},
            "solver_type": {"midpoint": 60, "heun": 40},
            "lower_order_final": {True: 60, False: 40},
            "euler_at_final": {True: 25, False: 75},
        },
        {request_n: 100},
        adjust_edm,
        has_noise_table=False,
        count=16,
    ),
    "cosine_dpmsolver": Family(
        "CosineDPMSolverMultistepScheduler",
        EDMMultistepLoop,
        {
            **EDM_LEVELS,
            "sigma_min": {0.3: 60, 0.03: 40},
            "prediction_type": {"epsilon": 40, "v_prediction": 60},
            "solver_order": {1: 25, 2: 75},
            "solver_type": {"midpoint": 60, "heun": 40},
            "lower_order_final": {True: 60, False: 40},
            "euler_at_final": {True: 25, False: 75},
        },
        {request_n: 100},
        adjust_edm,
        has_noise_table=False,
        count=16,
    ),
    "euler": Family(
        "EulerDiscreteScheduler",
        EulerLoop,
        {
            "prediction_type": {"epsilon": 40, "v_prediction": 35, "sample": 18, "original_sample": 7},
            "interpolation_type": {"linear": 80, "log_linear": 20},
            "grid": SIGMA_GRIDS,
            "timestep_spacing": SPACINGS,
            "timestep_type": {"discrete": 75, "continuous": 25},
            "steps_offset": OFFSETS,
            "rescale_betas_zero_snr": {True: 20, False: 80},
            "final_sigmas_type": {"zero": 70, "sigma_min": 30},
        },
        {request_n: 70, request_timesteps: 15, request_sigmas: 15},
        adjust_euler,
        CHURN,
        count=88,
        settled={**GRID_FLAGS, "beta_schedule": SCHEDULES},
    ),
    "euler_ancestral": Family(
        "EulerAncestralDiscreteScheduler",
        EulerAncestralLoop,
        {
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
            "rescale_betas_zero_snr": {True: 20, False: 80},
        },
        {request_n: 100},
        count=72,
        settled={"beta_schedule": SCHEDULES},
    ),
    "heun": Family(
        "HeunDiscreteScheduler",
        HeunLoop,
        {
            "prediction_type": PREDICTIONS,
            "grid": SIGMA_GRIDS,
            **CLIPPING,
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
        },
        {request_n: 80, request_timesteps: 20},
        adjust_heun,
        stride=2,
        settled={**GRID_FLAGS, "beta_schedule": (*SCHEDULES, "exp")},
    ),
    "karras_ve": Family(
        "KarrasVeScheduler",
        KarrasVeLoop,
        {
            "sigma_min": {0.02: 50, 0.1: 30, 0.002: 20},
            "sigma_max": {100.0: 50, 10.0: 30, 3.0: 20},
            "s_noise": {1.007: 50, 1.0: 25, 0.9: 25},
            "s_churn": {80.0: 35, 5.0: 35, 1.0: 15, 0.0: 15},
            "s_min": {0.05: 60, 0.0: 20, 1.0: 20},
            "s_max": {50.0: 60, 5.0: 15, 1e6: 25},
        },
        {request_two_to_fifty: 100},
        has_noise_table=False,
        # The class has no add_noise.
        late=0,
        count=24,
    ),
    "score_sde_ve": Family(
        "ScoreSdeVeScheduler",
        ScoreSdeVeLoop,
        {
            "num_train_timesteps": {2000: 70, 100: 30},
            "snr": {0.15: 50, 0.075: 25, 0.5: 25},
            "sigma_min": {0.01: 60, 0.1: 20, 1e-3: 20},
            "sigma_max": {1348.0: 40, 50.0: 30, 3.0: 30},
            "sampling_eps": {1e-5: 70, 1e-3: 30},
            "correct_steps": {1: 60, 0: 15, 2: 15, 3: 10},
        },
        {request_two_to_fifty: 100},
        has_noise_table=False,
        # The original's add_noise takes numbers of levels.
        late=0,
        count=20,
    ),
    "kdpm2": Family(
        "KDPM2DiscreteScheduler",
        KDPM2Loop,
        {
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "grid": SIGMA_GRIDS,
            "timestep_spacing": SPACINGS,
            "steps_offset": {0: 60, 1: 40},
        },
        {request_n: 100},
        adjust_ends,
        stride=2,
        count=16,
        settled={**GRID_FLAGS, "beta_schedule": SCHEDULES},
    ),
    "kdpm2_ancestral": Family(
        "KDPM2AncestralDiscreteScheduler",
        KDPM2AncestralLoop,
        {
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "grid": SIGMA_GRIDS,
            "timestep_spacing": SPACINGS,
            "steps_offset": {0: 60, 1: 40},
        },
        {request_n: 100},
        adjust_ends,
        stride=2,
        count=16,
        settled={**GRID_FLAGS, "beta_schedule": SCHEDULES},
    ),
    "dpmsolver_sde": Family(
        "DPMSolverSDEScheduler",
        DPMSolverSDELoop,
        {
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "grid": SIGMA_GRIDS,
            "timestep_spacing": SPACINGS,
            "steps_offset": {0: 60, 1: 40},
            "noise_sampler_seed": {None: 60, 0: 40},
        },
        {request_n: 100},
        adjust_ends,
        {"s_noise": {None: 60, 1.003: 20, 0.9: 20}},
        stride=2,
        count=16,
        settled={**GRID_FLAGS, "beta_schedule": SCHEDULES},
    ),
    "lms": Family(
        "LMSDiscreteScheduler",
        LMSLoop,
        {
            "prediction_type": PREDICTIONS,
            "grid": SIGMA_GRIDS,
            "timestep_spacing": SPACINGS,
            "steps_offset": {0: 60, 1: 40},
        },
        {request_n: 100},
        adjust_ends,
        {"order": {None: 60, 1: 10, 2: 15, 3: 15}},
        # After a late begin, the original takes the order of a run from the start.
        late=0,
        count=16,
        settled={**GRID_FLAGS, "beta_schedule": SCHEDULES},
    ),
    "flow_match_euler": Family(
        "FlowMatchEulerDiscreteScheduler",
        FlowLoop,
        {
            **FLOW_LEVELS,
            "stochastic_sampling": {True: 25, False: 75},
        },
        {request_n: 50, request_flow_sigmas: 30, request_timesteps: 10, request_flow_both: 10},
        adjust_flow,
        {"s_churn": {None: 92, 5.0: 8}, "s_noise": {None: 92, 1.1: 8}},
        has_noise_table=False,
        count=96,
        settled=GRID_FLAGS,
    ),
    "flow_map_euler": Family(
        "FlowMapEulerDiscreteScheduler",
        FlowMapLoop,
        {"num_train_timesteps": {1000: 80, 100: 20}, "shift": {1.0: 30, 0.5: 15, 5.0: 35, 17.0: 20}},
        {request_n: 60, request_flow_sigmas: 25, request_timesteps: 15},
        # These timesteps, divided by either training length, are exact in float32, the original's type.
        options={"r_timestep": {None: 70, 0.0: 15, 62.5: 15}},
        has_noise_table=False,
        count=20,
    ),
    "piflow": Family(
        "PiflowScheduler",
        PiflowLoop,
        {
            "num_train_timesteps": {1000: 80, 100: 20},
            "shift": {5.0: 45, 1.0: 20, 3.0: 20, 12.0: 15},
            "n_grid": {10: 50, 2: 20, 5: 30},
            "eps": {1e-6: 70, 2.0**-13: 15, 2.0**-7: 15},
            "final_step_size_scale": {0.5: 60, 1.0: 20, 0.1: 20},
            "num_policy_substeps": {128: 60, 1: 15, 37: 25},
        },
        {request_n: 100},
        has_noise_table=False,
        # The class has no add_noise.
        late=0,
        count=20,
    ),
    "helios": Family(
        "HeliosScheduler",
        HeliosLoop,
        {
            **PYRAMID,
            "prediction_type": {"flow_prediction": 55, "epsilon": 15, "sample": 15, "v_prediction": 15},
            "solver_order": {2: 50, 1: 20, 3: 30},
            "predict_x0": {True: 70, False: 30},
            "solver_type": {"bh2": 60, "bh1": 40},
            "lower_order_final": {True: 70, False: 30},
            "disable_corrector": {(): 70, (0,): 15, (1, 2): 15},
            "use_flow_sigmas": {True: 75, False: 25},
            "scheduler_type": {"unipc": 80, "euler": 20},
            **DYNAMIC_SHIFT,
        },
        {request_stage: 100},
        adjust_helios,
        has_noise_table=False,
        # The class has no add_noise.
        late=0,
        count=40,
        # As for UniPC.
        limit=2e-9,
    ),
    "helios_dmd": Family(
        "HeliosDMDScheduler",
        HeliosDMDLoop,
        {
            **PYRAMID,
            "use_flow_sigmas": {True: 60, False: 40},
            "prediction_type": {"flow_prediction": 80, "epsilon": 20},
            **DYNAMIC_SHIFT,
        },
        {request_distilled_stage: 100},
        adjust_pyramid,
        has_noise_table=False,
        # The class's add_noise takes tables as arguments.
        late=0,
        count=32,
    ),
    "flow_match_lcm": Family(
        "FlowMatchLCMScheduler",
        FlowLCMLoop,
        {**FLOW_LEVELS, "upscale_mode": {"bicubic": 70, "area": 30}},
        {request_n: 50, request_flow_sigmas: 30, request_timesteps: 10, request_flow_both: 10},
        adjust_flow_lcm,
        has_noise_table=False,
        count=32,
        settled=GRID_FLAGS,
    ),
    "minimax_h3": Family(
        "MiniMaxH3Scheduler",
        TimeLoop,
        {"shift": {12.0: 40, 3.0: 30, 1.0: 10, 0.5: 10, 1000.0: 10}},
        {request_two_levels_or_more: 75, request_levels_of_flow: 25},
        has_noise_table=False,
        count=16,
    ),
    "ltx_euler_ancestral": Family(
        "LTXEulerAncestralRFScheduler",
        LTXLoop,
        {
            "num_train_timesteps": {1000: 80, 100: 20},
            "eta": {1.0: 40, 0.5: 20, 0.0: 15, 0.05: 10, 1.5: 15},
            "s_noise": {1.0: 60, 0.8: 25, 0.0: 15},
        },
        {request_n: 65, request_ltx_levels: 35},
        adjust_ltx,
        has_noise_table=False,
        # The class has no add_noise.
        late=0,
        count=16,
    ),
    "unipc": Family(
        "UniPCMultistepScheduler",
        UniPCLoop,
        {
            "solver_order": {1: 15, 2: 45, 3: 40},
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "predict_x0": {True: 75, False: 25},
            "solver_type": {"bh2": 47, "bh1": 38, "midpoint": 5, "heun": 5, "logrho": 5},
            "lower_order_final": {True: 75, False: 25},
            "disable_corrector": {(): 60, (0,): 15, (0, 1, 2): 10, (3,): 10, (1, 5, 6): 5},
            "grid": {
                "plain": 34,
                "karras": 12,
                "exponential": 10,
                "beta": 10,
                "flow": 24,
                "karras flow": 6,
                "exponential flow": 2,
                "beta flow": 2,
            },
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
            "final_sigmas_type": {"zero": 60, "sigma_min": 40},
            "rescale_betas_zero_snr": {True: 15, False: 85},
        },
        {request_n: 100},
        adjust_unipc,
        count=96,
        # With predict_x0 off and a noisiest level of 20291, a step's terms are thousands of times its result.
        limit=2e-9,
        settled={
            **GRID_FLAGS,
            "use_flow_sigmas": (True, False),
            "use_dynamic_shifting": (True, False),
            "beta_schedule": SCHEDULES,
        },
    ),
    "dpmsolver_singlestep": Family(
        "DPMSolverSinglestepScheduler",
        SinglestepLoop,
        {
            "solver_order": {1: 10, 2: 45, 3: 45},
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "algorithm_type": {"dpmsolver++": 45, "dpmsolver": 20, "sde-dpmsolver++": 30, "deis": 5},
            "solver_type": {"midpoint": 45, "heun": 45, "logrho": 10},
            "lower_order_final": {True: 50, False: 50},
            "grid": {"plain": 40, "karras": 12, "exponential": 12, "beta": 12, "flow": 24},
            "final_sigmas_type": {"zero": 55, "sigma_min": 45},
            "variance_type": {None: 80, "fixed_small": 20},
        },
        {request_n: 85, request_integer_timesteps: 15},
        adjust_singlestep,
        count=18,
        # dpmsolver, like UniPC, multiplies the sample by a quotient of two signal rates.
        limit=2e-9,
    ),
    "sasolver": Family(
        "SASolverScheduler",
        SASolverLoop,
        {
            "predictor_order": {1: 15, 2: 45, 3: 30, 4: 10},
            "corrector_order": {1: 15, 2: 45, 3: 30, 4: 10},
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "algorithm_type": {"data_prediction": 75, "noise_prediction": 25},
            "lower_order_final": {True: 75, False: 25},
            "grid": {"plain": 40, "karras": 12, "exponential": 12, "beta": 12, "flow": 24},
            "variance_type": {None: 80, "fixed_small": 20},
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
        },
        {request_n: 100},
        adjust_sasolver,
        count=18,
        # The reference integrates powers of lambda, not of differences: in short steps of high orders, the sums cancel.
        limit=1e-6,
    ),
    "pndm": Family(
        "PNDMScheduler",
        PNDMLoop,
        {
            "skip_prk_steps": {True: 60, False: 40},
            "set_alpha_to_one": {True: 40, False: 60},
            "prediction_type": {"epsilon": 55, "v_prediction": 45},
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
        },
        {request_n: 100},
        adjust_pndm,
        settled={"beta_schedule": SCHEDULES},
    ),
    "ddpm": Family(
        "DDPMScheduler",
        DDPMLoop,
        DDPM,
        {request_n: 80, request_integer_timesteps: 20},
        adjust_ddpm,
        settled={"beta_schedule": (*SCHEDULES, "laplace", "sigmoid")},
    ),
    "ddpm_parallel": Family(
        "DDPMParallelScheduler",
        DDPMLoop,
        DDPM,
        {request_n: 80, request_integer_timesteps: 20},
        adjust_ddpm,
        count=40,
        settled={"beta_schedule": (*SCHEDULES, "laplace", "sigmoid")},
    ),
    "ddim_parallel": Family(
        "DDIMParallelScheduler",
        DDIMLoop,
        {**{key: values for key, values in DDPM.items() if key != "variance_type"}, "set_alpha_to_one": {True: 60, False: 40}},
        {request_n: 100},
        options={"eta": {None: 40, 1.0: 30, 0.3: 30}, "use_clipped_model_output": {None: 60, True: 40}},
        # If a step draws all noise anew, the factor of the old noise is the root of a difference of equal numbers.
        limit=1e-7,
        count=40,
        settled={"beta_schedule": SCHEDULES},
    ),
    "edm_euler": Family(
        "EDMEulerScheduler",
        EDMEulerLoop,
        {**EDM_LEVELS, "prediction_type": {"epsilon": 55, "v_prediction": 45}},
        {request_n: 75, request_ramp: 25},
        options=CHURN,
        has_noise_table=False,
        count=16,
    ),
    "lcm": Family(
        "LCMScheduler",
        LCMLoop,
        {
            "original_inference_steps": {50: 60, 100: 15, 25: 15, 10: 10},
            **CLIPPING,
            "set_alpha_to_one": {True: 60, False: 40},
            "steps_offset": OFFSETS,
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "timestep_spacing": SPACINGS,
            "timestep_scaling": {10.0: 70, 1.0: 10, 0.5: 10, 100.0: 10},
            "rescale_betas_zero_snr": {True: 15, False: 85},
        },
        {request_n: 100},
        adjust_lcm,
        settled={"beta_schedule": SCHEDULES},
    ),
    "cogvideox_ddim": Family(
        "CogVideoXDDIMScheduler",
        CogVideoXLoop,
        COGVIDEOX,
        {request_n: 100},
        count=16,
        settled={"beta_schedule": SCHEDULES},
    ),
    "cogvideox_dpm": Family(
        "CogVideoXDPMScheduler",
        CogVideoXDPMLoop,
        COGVIDEOX,
        {request_n: 100},
        count=16,
        settled={"beta_schedule": SCHEDULES},
    ),
    "flow_match_heun": Family(
        "FlowMatchHeunDiscreteScheduler",
        FlowHeunLoop,
        {"num_train_timesteps": {1000: 70, 100: 30}, "shift": {1.0: 30, 0.5: 15, 1.73: 20, 3.0: 35}},
        {request_n: 100},
        options=FLOW_CHURN,
        has_noise_table=False,
        stride=2,
        count=16,
    ),
    "ipndm": Family(
        "IPNDMScheduler",
        IPNDMLoop,
        {"num_train_timesteps": {1000: 70, 100: 30}},
        {request_n: 100},
        adjust_ipndm,
        has_noise_table=False,
        late=0,
        count=14,
        settled={"trained_betas": ("list",)},
    ),
    "tcd": Family(
        "TCDScheduler",
        TCDLoop,
        {
            "original_inference_steps": {50: 70, 20: 30},
            "prediction_type": PREDICTIONS,
            "rescale_betas_zero_snr": {True: 15, False: 85},
        },
        {request_n: 100},
        adjust_tcd,
        {"eta": {None: 40, 0.0: 20, 0.7: 25, 1.0: 15}},
        count=16,
        settled={"beta_schedule": SCHEDULES},
    ),
    "scm": Family(
        "SCMScheduler",
        SCMLoop,
        {"num_train_timesteps": {1000: 80, 100: 20}, "sigma_data": {0.5: 60, 1.0: 40}},
        {request_scm: 75, request_scm_timesteps: 25},
        has_noise_table=False,
        # The class has no add_noise.
        late=0,
        count=14,
    ),
    "consistency_models": Family(
        "CMStochasticIterativeScheduler",
        ConsistencyLoop,
        {
            "sigma_min": {0.002: 70, 0.03: 30},
            "sigma_max": {80.0: 70, 10.0: 30},
            "sigma_data": {0.5: 70, 1.0: 30},
            "s_noise": {1.0: 60, 1.01: 40},
            "rho": {7.0: 60, 3.0: 40},
            "clip_denoised": {True: 60, False: 40},
        },
        {request_any_n: 100},
        adjust_consistency,
        has_noise_table=False,
        count=16,
    ),
    "unclip": Family(
        "UnCLIPScheduler",
        UnCLIPLoop,
        {
            "num_train_timesteps": {1000: 70, 100: 30},
            "variance_type": {"fixed_small_log": 60, "learned_range": 40},
            "clip_sample": {True: 60, False: 40},
            "clip_sample_range": {1.0: 50, 2.5: 50},
            "prediction_type": {"epsilon": 60, "sample": 40},
            "beta_schedule": {"squaredcos_cap_v2": 100},
        },
        {request_two_or_more: 100},
        has_noise_table=False,
        count=14,
    ),
    "ddpm_wuerstchen": Family(
        "DDPMWuerstchenScheduler",
        WuerstchenLoop,
        {"scaler": {1.0: 50, 2.0: 25, 0.5: 25}, "s": {0.008: 70, 0.05: 30}},
        {request_any_n: 70, request_times: 30},
        has_noise_table=False,
        count=14,
    ),
}


def draw_run(rng, family):
    config = draw_noise_table(rng) if family.has_noise_table else {}
    for key, values in family.parameters.items():
        value = pick(rng, values)
        config[key] = list(value) if isinstance(value, tuple) else value
    run = Run(config, pick(rng, family.requests)(rng, config), late=rng.random() < family.late)
    for key, values in family.options.items():
        value = pick(rng, values)
        if value is not None:
            run.options[key] = value
    family.adjust(rng, run)
    return run


# ----------------------------------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------------------------------


def make_record(rng, family, run):
    scheduler = build(original(family.name), run.config, run.hidden)
    prepare(scheduler, run.request, 0)
    timesteps = [number(t) for t in scheduler.timesteps[: evaluation_count(scheduler)]]
    products = issubclass(family.loop, ProductLoop)
    if products and min(timesteps) < 0:
        raise Redraw("negative timestep")
    if hasattr(scheduler, "sigmas") and not (torch.isfinite(scheduler.sigmas).all() and torch.isfinite(scheduler.timesteps).all()):
        raise Redraw("not finite")
    begin = 0
    if run.late:
        begin = rng.choice(range(family.stride, len(timesteps), family.stride) or [0])
    loose = loose_timesteps(scheduler, run.request)
    prepare(scheduler, run.request, begin)

    record = {"class": family.name, "config_text": saved_text(scheduler)}
    given = replaced_arguments(run.config, scheduler)
    if given:
        record["given"] = given
    if run.model:
        record["model"] = run.model
    record.update(request=run.request, options=run.options, timesteps=timesteps, loose=loose)
    if products:
        alphas = scheduler.alphas_cumprod.numpy()
        if len(alphas) <= 100 and alphas.dtype == np.float32:
            record["alphas"] = packed(alphas, "<f4")
        record["alphas_probe"] = {str(i): number(alphas[i]) for i in probe_indices(rng, len(alphas), extra=2)}
    elif hasattr(scheduler, "sigmas"):
        if scheduler.sigmas.dtype == torch.float64:
            record["sigmas_float64"] = packed(scheduler.sigmas.numpy(), "<f8")
        else:
            assert scheduler.sigmas.dtype == torch.float32
            record["sigmas"] = packed(scheduler.sigmas.numpy(), "<f4")
    factor = 1.0
    if hasattr(scheduler, "init_noise_sigma"):
        factor = float(scheduler.init_noise_sigma)
        record["init_noise_sigma"] = number(factor)
    record["begin_index"] = begin

    loop = family.loop(scheduler, begin, run.options)
    wide = copy.deepcopy(scheduler)
    widen(wide)
    initial = [factor * v for v in initial_values()]
    if begin:
        initial = late_start(wide, begin)
        if deviation(floats(loop.start()), initial) > 1e-12:
            raise AssertionError(f"add_noise differs from its formula: {run}")
        record["initial"] = packed(initial, "<f8")

    double, double_report, draws = run_reference(wide, begin, initial, run.options, torch.float64)
    single, _, single_draws = run_reference(scheduler, begin, initial, run.options, torch.float32)
    exact, exact_report, exact_draws = loop.run(initial)
    assert draws == single_draws == exact_draws
    record["draws"] = draws
    exact = floats(exact)
    record["final_exact"] = packed(exact, "<f8")
    record["final_float64"] = packed(double, "<f8")
    record["final_float32"] = packed(single, "<f8")
    gaps = {"float64": deviation(exact, double), "float32": deviation(exact, single)}
    if double_report is not None:
        exact_report = floats(exact_report)
        record["report_exact"] = packed(exact_report, "<f8")
        record["report_float64"] = packed(double_report, "<f8")
        gaps["report"] = deviation(exact_report, double_report)
    return record, gaps, scheduler


# Parameters drawn from a continuum of values, or without a meaning of their own.
UNCOUNTED = {"beta_start", "beta_end", "_class_name", "_diffusers_version", "_use_default_values"}


def count_coverage(coverage, record, scheduler):
    def add(key, value):
        coverage.setdefault(key, Counter())[value if isinstance(value, str) else json.dumps(value)] += 1

    for key, value in scheduler.config.items():
        if key == "trained_betas":
            add(key, "null" if value is None else "list")
        elif key == "num_train_timesteps":
            add(key, value if value >= 100 else "20-50")
        elif key == "beta_schedule" and scheduler.config.get("trained_betas") is not None:
            continue
        elif key not in UNCOUNTED:
            add(key, value)
    for key, value in record.get("given", {}).items():
        add(f"{key} (given)", value)
    add("request", "+".join(sorted(record["request"])))
    for key, value in record["options"].items():
        add(key, value)
    add("begin_index", "0" if record["begin_index"] == 0 else "late")
    add("draws", "some" if sum(record["draws"]) else "none")
    add("evaluations", next((label for limit, label in STEP_BUCKETS if len(record["timesteps"]) <= limit), "1001-"))


def missing_values(family, coverage):
    """The listed values that occur in no record, as text."""
    listed = {key: list(values) for key, values in {**family.parameters, **family.options, **family.settled}.items()}
    for key, values in listed.items():
        seen = set(coverage.get(key, {})) | set(coverage.get(f"{key} (given)", {}))
        for value in values:
            if key == "grid" or (key in family.options and value is None):
                continue
            value = list(value) if isinstance(value, tuple) else value
            if (value if isinstance(value, str) else json.dumps(value)) not in seen:
                yield f"{key} = {value}"


def reason_of(error):
    message = re.sub(r"\d+", "#", str(error).split("\n")[0])[:100]
    return message if isinstance(error, Redraw) else f"{type(error).__name__}: {message}"


def generate(key, seed, count, folder):
    family = CLASSES[key]
    rng = random.Random(f"{seed}/{key}")
    records, coverage, redrawn, checks = [], {}, Counter(), []
    fixed = SHIPPED[key] + EDGES[key]
    started = time.monotonic()
    while len(records) < (count or family.count):
        is_fixed = len(records) < len(fixed)
        run = fixed[len(records)] if is_fixed else draw_run(rng, family)
        try:
            record, gaps, scheduler = make_record(rng, family, run)
        except (Redraw, ValueError, IndexError, RuntimeError) as error:
            if is_fixed:
                raise
            redrawn[reason_of(error)] += 1
            continue
        records.append(record)
        count_coverage(coverage, record, scheduler)
        checks.append((gaps, record, dict(scheduler.config)))

    write_records(folder / f"{key}.json", seed, started, coverage, redrawn, records)
    missing = list(missing_values(family, coverage)) if count is None else []
    for value in missing:
        print(f"  NOT COVERED: {value}")
    return check(family, checks) + len(missing)


def check(family, checks):
    """Prints the deviations of the reference from the exact evaluation. Returns the number of records beyond the limit."""
    for kind in ("float64", "report", "float32"):
        values = [gaps[kind] for gaps, _, _ in checks if kind in gaps]
        if values:
            print(f"  {kind}: {spread(values)}")
    failures = 0
    for gaps, record, config in checks:
        worst = max(gaps["float64"], gaps.get("report", 0))
        if not worst <= family.limit:
            failures += 1
            plain = {k: v for k, v in config.items() if k != "trained_betas" and not k.startswith("_")}
            request = {k: v for k, v in record["request"].items() if not isinstance(v, list)}
            print(f"  BEYOND {family.limit:g}: {worst:.2e} {request} from {record['begin_index']} {plain}")
    return failures


if __name__ == "__main__":
    main("Writes the golden vectors of scheduler classes.", CLASSES, 20261107, generate)
