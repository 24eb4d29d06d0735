#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes the golden vectors of the scheduler tests.

Each record of the JSON files beside this script describes one complete sampling loop: a randomly drawn scheduler
configuration and step count, the schedule that the reference library builds, and the final sample. A record holds
three results:

* ``final_float32``: the reference library as shipped (float32 tables, scalars and samples);
* ``final_float64``: the reference library with its float32 noise table widened to float64 and float64 samples, so
  that all remaining arithmetic is double precision (the DPM-Solver class still rounds the sample to float32);
* ``final_exact``: the recurrence written out independently below, evaluated with 50 decimal digits from the float32
  noise table.

Implementations are measured against the exact result; the other two confirm that the recurrence is the reference's.

Usage::

    python3 Tests/Goldens/generate.py [--only deis] [--seed N] [--count N] [--out DIR]

Needs diffusers==0.42.1, torch, numpy, scipy and mpmath (gmpy2 makes mpmath several times faster and is optional).
A run with the same seed and library versions reproduces the files byte for byte on the same kind of processor;
torch's float32 square root may differ by one ulp between processors.

Test problem
------------

Tensors have the shape (2, 3, 2, 2); j is the flat row-major index.

* initial sample: x_j = ((37 j + 11) mod 128) / 32 - 2
* model: m(x, t) = 0.8 x / (1 + 0.25 x^2) + 0.3 t / T - 0.1, with the integer timestep t and T training timesteps.
  It is evaluated in double precision and rounded to the sample's type. With a learned variance three more channels
  filled with 0.5 follow on axis 1.
* noise of loop step i: z_j = ((53 (i + 1) (j + 1) + 29 i + 7) mod 256) / 64 - 2

Record fields
-------------

``class``, ``config_text``
    scheduler class and the verbatim text of its saved configuration file. The text is kept as a string because it may
    contain a bare ``-Infinity``, which strict JSON readers refuse.
``given``
    constructor arguments that the class replaced by other values in its configuration; absent if there are none.
``n``, ``mu``
    arguments of set_timesteps.
``timesteps``
    the integer timesteps.
``loose``
    indices of timesteps that the last bit of a transcendental function decides: their unrounded values lie within 1e-3 of a jump
    in the conversion to integers.
``sigmas``
    base64 of little-endian float32: the noise table of the loop, one entry more than there are timesteps.
``alphas``, ``alphas_probe``
    DDIM classes only: the cumulative products, complete for short tables (base64 of little-endian float32), and a few
    of them by index.
``coefficients``
    some steps as linear combinations. Multistep classes: x' = a x + sum_k b[k] m_k + c z, where m_0 is the newest
    converted model output. DDIM classes: x' = a x + b e + c z with the noise estimate e, and for predictions other
    than epsilon also x' = a_model x + b_model m + c z with the raw model output m. Absent with clipping or
    thresholding.
``eta``, ``use_clipped_model_output``
    arguments of the DDIM step.
``final_exact``, ``final_float64``, ``final_float32``, ``x0_exact``
    base64 of 24 little-endian float64 numbers. ``final_float32`` is not finite in a few records whose float32
    scalars cancel or underflow; the other two always are. ``x0_exact`` (DDIM classes) is the clean-sample estimate of
    the last step.
"""

import argparse
import base64
import itertools
import json
import logging
import math
import random
import statistics
import sys
import tempfile
import time
import unittest.mock
import warnings
from collections import Counter
from pathlib import Path

import diffusers
import mpmath
import numpy as np
import scipy
import torch
from mpmath import mp, mpf

BATCH, CHANNELS, HEIGHT, WIDTH = SHAPE = (2, 3, 2, 2)
VARIANCE = 0.5
"""The variance that a model with a learned variance predicts for every element."""
ITEM = CHANNELS * HEIGHT * WIDTH
ELEMENTS = BATCH * ITEM

# Order-3 weights lose up to about 25 digits to cancellation when neighbouring table entries differ by one float32 ulp.
mp.dps = 50

LOOSE_MARGIN = 1e-3


class Redraw(Exception):
    """A drawn configuration without a usable reference result; the argument gives the reason."""


# ----------------------------------------------------------------------------------------------------------------------
# Test problem
# ----------------------------------------------------------------------------------------------------------------------


def initial_values():
    return [((37 * j + 11) % 128) / 32 - 2 for j in range(ELEMENTS)]


def noise_values(step):
    return [((53 * (step + 1) * (j + 1) + 29 * step + 7) % 256) / 64 - 2 for j in range(ELEMENTS)]


def as_tensor(values, dtype):
    return torch.tensor(values, dtype=torch.float64).reshape(SHAPE).to(dtype)


def model_tensor(x, t, train_steps, learned_variance):
    """The model for the reference runs: double arithmetic, rounded to the type of the sample."""
    wide = x.double()
    out = (0.8 * wide / (1 + 0.25 * wide * wide) + 0.3 * (t / train_steps) - 0.1).to(x.dtype)
    if learned_variance:
        out = torch.cat([out, torch.full_like(out, VARIANCE)], dim=1)
    return out


def model_exact(x, t, train_steps):
    shift = mpf(0.3) * t / train_steps - mpf(0.1)
    gain, bend = mpf(0.8), mpf(0.25)
    return [gain * v / (1 + bend * v * v) + shift for v in x]


# ----------------------------------------------------------------------------------------------------------------------
# Drawing configurations
# ----------------------------------------------------------------------------------------------------------------------


def pick(rng, weighted):
    """One key of a {value: weight} table."""
    return rng.choices(list(weighted), weights=list(weighted.values()))[0]


def draw_noise_table(rng):
    """The parameters behind the table of training noise levels, shared by all classes."""
    config = {"num_train_timesteps": pick(rng, {1000: 70, 500: 12, 100: 18})}
    kind = pick(rng, {"linear": 36, "scaled_linear": 26, "squaredcos_cap_v2": 22, "trained": 16})
    if kind == "trained":
        count = rng.randint(20, 50)
        low, high = rng.choice([(1e-4, 0.2), (1e-3, 0.35), (0.01, 0.1)])
        config["num_train_timesteps"] = count
        config["trained_betas"] = sorted(round(rng.uniform(low, high), 6) for _ in range(count))
    else:
        config["beta_schedule"] = kind
        ranges = [(1e-4, 0.02), (0.00085, 0.012), (0.0015, 0.0195), (0.01, 0.02), (5e-5, 0.05)]
        start, end = ranges[pick(rng, {0: 40, 1: 30, 2: 10, 3: 10, 4: 10})]
        if rng.random() < 0.1:
            start, end = round(10 ** rng.uniform(-4.5, -3), 7), round(rng.uniform(0.005, 0.05), 4)
        config["beta_start"], config["beta_end"] = start, end
    return config


def draw_thresholding(rng, config):
    config["thresholding"] = rng.random() < 0.3
    config["dynamic_thresholding_ratio"] = rng.choice([0.995, 0.5, 0.6, 0.75, 0.87, 0.9, 0.95, 0.99, 1.0])
    config["sample_max_value"] = rng.choice([0.5, 1.0, 1.5, 2.0, 3.0, 100.0])


def draw_spacing(rng, config, spacings):
    config["timestep_spacing"] = rng.choice(spacings)
    config["steps_offset"] = pick(rng, {0: 50, 1: 25, 2: 12, 3: 6, 7: 4, 20: 3})


def draw_grid(rng, config, grids):
    """Chooses the noise grid and, for some grids, keys that modify it.

    Returns the keys that aren't constructor parameters of the class. They come from another scheduler's configuration, and move
    the ends of three grids.
    """
    grid = pick(rng, grids)
    hidden = {}
    if grid == "lu":
        config["use_lu_lambdas"] = True
        # One of the other flags beside this one is legal. The records show which flag diffusers follows.
        if rng.random() < 0.25:
            config[rng.choice(["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])] = True
    elif grid == "flow":
        config["use_flow_sigmas"] = True
    elif grid != "plain":
        config[f"use_{grid}_sigmas"] = True
        if rng.random() < 0.25:
            hidden["sigma_min"] = rng.choice([0.002, 0.03, 0.1, 0.29])
            hidden["sigma_max"] = rng.choice([5.0, 14.6, 80.0, 0.95])
            dropped = rng.choice([None, None, "sigma_min", "sigma_max"])
            hidden.pop(dropped, None)
            # With levels below 1, these grids also work with flow amplitudes.
            if hidden.get("sigma_max") == 0.95:
                config["use_flow_sigmas"] = rng.random() < 0.5
    if config.get("use_flow_sigmas"):
        config["flow_shift"] = rng.choice([0.5, 1.0, 1.0, 1.7, 3.0, 5.0, 7.0])
    return hidden


def draw_shift(rng, config):
    """Dynamic shifting: the switch in the configuration and the `mu` argument."""
    config["use_dynamic_shifting"] = rng.random() < (0.4 if config.get("use_flow_sigmas") else 0.05)
    if config["use_dynamic_shifting"] and rng.random() < 0.85:
        return round(rng.uniform(-0.6, 1.9), 4)
    return None


def draw_prediction(rng, config, flow_allowed):
    kinds = {"epsilon": 40, "sample": 28, "v_prediction": 32}
    if flow_allowed:
        # Flow prediction is meaningful only with flow amplitudes, but the other grids accept it.
        kinds["flow_prediction"] = 75 if config.get("use_flow_sigmas") else 3
    config["prediction_type"] = pick(rng, kinds)


def draw_steps(rng, train_steps):
    while True:
        if rng.random() < 0.25:
            n = pick(rng, {1: 1, 2: 2, 14: 3, 15: 3, 16: 2, train_steps - 1: 1.5, train_steps: 2})
        else:
            n = max(1, round(math.exp(rng.uniform(0, math.log(train_steps)))))
        # Long loops test little more than short ones, but dominate file size and run time.
        if n <= 300 or rng.random() < 0.3:
            return n


def draw_deis(rng):
    config = draw_noise_table(rng)
    config["solver_order"] = pick(rng, {1: 15, 2: 40, 3: 45})
    config["algorithm_type"] = pick(rng, {"deis": 80, "dpmsolver": 10, "dpmsolver++": 10})
    config["solver_type"] = pick(rng, {"logrho": 80, "midpoint": 5, "heun": 5, "bh1": 5, "bh2": 5})
    config["lower_order_final"] = rng.random() < 0.6
    hidden = draw_grid(rng, config, {"plain": 38, "karras": 15, "exponential": 13, "beta": 13, "flow": 21})
    draw_prediction(rng, config, flow_allowed=True)
    draw_thresholding(rng, config)
    draw_spacing(rng, config, ["linspace", "leading", "trailing"])
    mu = draw_shift(rng, config)
    return config, hidden, draw_steps(rng, config["num_train_timesteps"]), {"mu": mu}


def draw_deis_accuracy(_):
    """The default configuration in every order at few, many and nearly all steps, one after the other."""
    order, n = next(deis_accuracy_runs)
    return {"solver_order": order}, {}, n, {"mu": None}


DEIS_ACCURACY_RUNS = [(order, n) for order in (1, 2, 3) for n in (25, 100, 999)]
deis_accuracy_runs = itertools.cycle(DEIS_ACCURACY_RUNS)


def draw_dpm_parts(rng, config):
    """Draws the parameters that the forward and the inverse DPM-Solver share."""
    config["solver_order"] = pick(rng, {1: 15, 2: 45, 3: 40})
    config["solver_type"] = pick(rng, {"midpoint": 44, "heun": 41, "logrho": 5, "bh1": 5, "bh2": 5})
    config["lower_order_final"] = rng.random() < 0.6
    config["euler_at_final"] = rng.random() < 0.3
    config["lambda_min_clipped"] = pick(rng, {-math.inf: 65, -5.1: 15, -4.0: 8, -3.0: 8, -1.5: 4})
    draw_thresholding(rng, config)
    draw_spacing(rng, config, ["linspace", "leading", "trailing"])


def draw_variance(rng, config):
    # With other predictions, diffusers keeps the variance channels and fails on the shape.
    if config["prediction_type"] == "epsilon":
        config["variance_type"] = pick(rng, {None: 60, "learned": 20, "learned_range": 20})


def draw_dpmsolver(rng):
    config = draw_noise_table(rng)
    draw_dpm_parts(rng, config)
    config["algorithm_type"] = pick(
        rng, {"dpmsolver++": 36, "dpmsolver": 22, "sde-dpmsolver++": 22, "sde-dpmsolver": 15, "deis": 5}
    )
    if config["algorithm_type"] == "sde-dpmsolver" and config["solver_order"] == 3 and rng.random() < 0.9:
        # diffusers' third-order update lacks this algorithm, so only loops of one or two steps succeed.
        config["solver_order"] = 2
    finals = ["zero", "sigma_min"] if config["algorithm_type"].endswith("++") else ["sigma_min"]
    config["final_sigmas_type"] = rng.choice(finals)
    grids = {"plain": 36, "karras": 13, "exponential": 11, "beta": 11, "lu": 11, "flow": 18}
    hidden = draw_grid(rng, config, grids)
    draw_prediction(rng, config, flow_allowed=config["algorithm_type"] in ("dpmsolver++", "sde-dpmsolver++", "deis"))
    draw_variance(rng, config)
    config["rescale_betas_zero_snr"] = rng.random() < 0.2
    mu = draw_shift(rng, config)
    return config, hidden, draw_steps(rng, config["num_train_timesteps"]), {"mu": mu}


def draw_dpmsolver_inverse(rng):
    config = draw_noise_table(rng)
    draw_dpm_parts(rng, config)
    config["algorithm_type"] = pick(rng, {"dpmsolver++": 50, "dpmsolver": 42, "deis": 8})
    hidden = draw_grid(rng, config, {"plain": 44, "karras": 15, "exponential": 14, "beta": 12, "flow": 15})
    draw_prediction(rng, config, flow_allowed=config["algorithm_type"] != "dpmsolver")
    draw_variance(rng, config)
    return config, hidden, draw_steps(rng, config["num_train_timesteps"]), {"mu": None}


def draw_ddim_parts(rng, spacings):
    config = draw_noise_table(rng)
    config["clip_sample"] = rng.random() < 0.4
    config["clip_sample_range"] = rng.choice([1.0, 0.5, 1.5, 2.5])
    config["set_alpha_to_one"] = rng.random() < 0.5
    config["rescale_betas_zero_snr"] = rng.random() < 0.25
    config["prediction_type"] = rng.choice(["epsilon", "sample", "v_prediction"])
    draw_spacing(rng, config, spacings)
    return config


def draw_ddim(rng):
    config = draw_ddim_parts(rng, ["leading", "trailing", "linspace"])
    draw_thresholding(rng, config)
    eta = pick(rng, {0.0: 50, 1.0: 20, 0.25: 10, 0.5: 10, round(rng.uniform(0.05, 0.95), 3): 10})
    extra = {"mu": None, "eta": eta, "use_clipped_model_output": rng.random() < 0.4}
    return config, {}, draw_steps(rng, config["num_train_timesteps"]), extra


def draw_ddim_inverse(rng):
    config = draw_ddim_parts(rng, ["leading", "trailing"])
    return config, {}, draw_steps(rng, config["num_train_timesteps"]), {"mu": None}


# ----------------------------------------------------------------------------------------------------------------------
# Reference library
# ----------------------------------------------------------------------------------------------------------------------


def correctly_rounded_root(tensor):
    return torch.from_numpy(np.sqrt(tensor.numpy()))


def build(cls, config, hidden):
    """The scheduler, with tables that don't depend on the build of torch.

    On some builds, torch's float32 square root is off by one in the last bit for some arguments. The sigmas keep this error. The
    rescaling to a zero terminal signal-to-noise ratio subtracts two roots, and would magnify the error a thousandfold near the end
    of the table, so it takes correctly rounded roots.
    """
    if config.get("rescale_betas_zero_snr"):
        with unittest.mock.patch.object(torch.Tensor, "sqrt", correctly_rounded_root):
            return construct(cls, config, hidden)
    return construct(cls, config, hidden)


def construct(cls, config, hidden):
    if not hidden:
        return cls(**config)
    scheduler = cls.from_config({**config, **hidden})
    for key, value in hidden.items():
        assert scheduler.config[key] == value
    return scheduler


def saved_text(scheduler):
    with tempfile.TemporaryDirectory() as folder:
        scheduler.save_config(folder)
        return (Path(folder) / "scheduler_config.json").read_text()


def configure(scheduler, n, mu):
    """Calls set_timesteps and checks that a loop from index 0 is well defined. Returns the timesteps as integers."""
    if mu is None:
        scheduler.set_timesteps(n)
    else:
        scheduler.set_timesteps(n, mu=mu)
    timesteps = [int(t) for t in scheduler.timesteps]
    if len(timesteps) != n:
        raise Redraw("number of timesteps")
    if hasattr(scheduler, "set_begin_index"):
        # Without a begin index, the first step looks its timestep up, which fails if the timestep occurs twice.
        scheduler.set_begin_index(0)
    elif hasattr(scheduler, "step_index"):
        if len(scheduler.sigmas) != n + 1:
            raise Redraw("length of the noise table")
        if timesteps.count(timesteps[0]) > 1:
            raise Redraw("first timestep occurs twice")
    return timesteps


def noise_table(scheduler):
    """The float32 ratios of noise to signal for all training timesteps, ascending."""
    products = scheduler.alphas_cumprod
    return np.array(((1 - products) / products) ** 0.5)


def unrounded_timesteps(scheduler, n):
    """The timesteps of an alternative noise grid before conversion to integers, and whether the conversion rounds them.

    None for the plain grid, whose levels are computed from integer timesteps.
    """
    config = scheduler.config
    table = noise_table(scheduler)
    ends = table if isinstance(scheduler, diffusers.DPMSolverMultistepInverseScheduler) else np.flip(table).copy()
    # DPMSolverMultistepScheduler doesn't round with this noise table: the integer cast cuts off fractions.
    rounds = not (isinstance(scheduler, diffusers.DPMSolverMultistepScheduler) and config.beta_schedule == "squaredcos_cap_v2")
    if config.use_karras_sigmas:
        grid = scheduler._convert_to_karras(in_sigmas=ends, num_inference_steps=n)
    elif config.get("use_lu_lambdas"):
        grid = np.exp(scheduler._convert_to_lu(in_lambdas=np.log(ends), num_inference_steps=n))
    elif config.use_exponential_sigmas:
        grid, rounds = scheduler._convert_to_exponential(in_sigmas=ends, num_inference_steps=n), False
    elif config.use_beta_sigmas:
        grid, rounds = scheduler._convert_to_beta(in_sigmas=ends, num_inference_steps=n), False
    elif config.use_flow_sigmas:
        share = 1.0 - np.linspace(1, 1 / config.num_train_timesteps, n + 1)
        shift = config.flow_shift
        grid = np.flip(shift * share / (1 + (shift - 1) * share))[:-1]
        return grid * config.num_train_timesteps, False
    else:
        return None
    logs = np.log(table)
    return np.array([scheduler._sigma_to_t(value, logs) for value in grid]), rounds


def loose_timesteps(scheduler, n, timesteps):
    """Indices of timesteps that depend on the last bit of the grid computation."""
    raw = unrounded_timesteps(scheduler, n)
    if raw is None:
        return []
    raw, rounds = raw
    assert [int(v) for v in (raw.round() if rounds else raw)] == timesteps

    loose = []
    for index, value in enumerate(raw):
        if rounds:
            distance = abs(value - math.floor(value) - 0.5)
        elif value < 0.5:
            # Truncation toward zero doesn't jump at zero, and values are never negative.
            distance = 1.0
        else:
            distance = abs(value - round(value))
        if distance < LOOSE_MARGIN:
            loose.append(index)
    return loose


class WideTorch:
    """The torch module, except that its float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def run_without_rounding(scheduler, timesteps):
    """The float64 run without the class's conversion of samples to float32. Only the check uses it."""
    with unittest.mock.patch.object(sys.modules[type(scheduler).__module__], "torch", WideTorch()):
        return run_multistep_reference(scheduler, timesteps, torch.float64)


def run_multistep_reference(scheduler, timesteps, dtype):
    if dtype == torch.float64:
        scheduler.sigmas = scheduler.sigmas.double()
    config = scheduler.config
    stochastic = config.algorithm_type.startswith("sde")
    learned = config.get("variance_type") is not None
    x = as_tensor(initial_values(), dtype)
    for i, t in enumerate(timesteps):
        output = model_tensor(x, t, config.num_train_timesteps, learned)
        extra = {"variance_noise": as_tensor(noise_values(i), dtype)} if stochastic else {}
        x = scheduler.step(output, t, x, **extra).prev_sample
        assert x.dtype == dtype
        if dtype == torch.float64 and not torch.isfinite(x).all():
            raise Redraw("not finite")
    return x.double().flatten().tolist()


def run_ddim_reference(scheduler, timesteps, dtype, step_arguments):
    if dtype == torch.float64:
        for name in ("alphas_cumprod", "final_alpha_cumprod", "initial_alpha_cumprod"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, getattr(scheduler, name).double())
    config = scheduler.config
    x = as_tensor(initial_values(), dtype)
    for i, t in enumerate(timesteps):
        output = model_tensor(x, t, config.num_train_timesteps, False)
        extra = dict(step_arguments)
        if extra.get("eta", 0) > 0:
            extra["variance_noise"] = as_tensor(noise_values(i), dtype)
        result = scheduler.step(output, t, x, **extra)
        x = result.prev_sample
        if dtype == torch.float64 and not (torch.isfinite(x).all() and torch.isfinite(result.pred_original_sample).all()):
            raise Redraw("not finite")
    return x.double().flatten().tolist()


# ----------------------------------------------------------------------------------------------------------------------
# Exact recurrence: multistep solvers
# ----------------------------------------------------------------------------------------------------------------------


def amplitudes(sigma, flow):
    """Signal and noise amplitude (A, S) at the noise level sigma."""
    if flow:
        return 1 - sigma, sigma
    signal = 1 / mpmath.sqrt(1 + sigma * sigma)
    return signal, sigma * signal


def threshold_exact(x0, config):
    ratio, ceiling = mpf(config["dynamic_thresholding_ratio"]), mpf(config["sample_max_value"])
    rank = ratio * (ITEM - 1)
    below = int(mpmath.floor(rank))
    above = int(mpmath.ceil(rank))
    out = []
    for start in range(0, ELEMENTS, ITEM):
        item = x0[start : start + ITEM]
        ordered = sorted(abs(v) for v in item)
        limit = ordered[below] + (rank - below) * (ordered[above] - ordered[below])
        # A ceiling below one overrides the floor of one.
        limit = min(max(limit, mpf(1)), ceiling)
        out += [min(max(v, -limit), limit) / limit for v in item]
    return out


def clean_sample(prediction, A, S, sigma, x, output):
    if prediction == "epsilon":
        return [(v - S * m) / A for v, m in zip(x, output)]
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return [A * v - S * m for v, m in zip(x, output)]
    return [v - sigma * m for v, m in zip(x, output)]


def noise_estimate(prediction, A, S, x, output):
    if prediction == "epsilon":
        return output
    if prediction == "sample":
        return [(v - A * m) / S for v, m in zip(x, output)]
    return [A * m + S * v for v, m in zip(x, output)]


def convert_exact(config, x, output, sigma):
    """The quantity that the solver interpolates: the clean sample for "++" algorithms, otherwise the noise."""
    algorithm, prediction = config["algorithm_type"], config["prediction_type"]
    A, S = amplitudes(sigma, config["use_flow_sigmas"])
    divisor = S
    if algorithm == "deis" or algorithm.endswith("++"):
        x0 = clean_sample(prediction, A, S, sigma, x, output)
        if prediction == "flow_prediction":
            # DEIS divides by the raw noise level, which equals S only with flow amplitudes.
            divisor = sigma
    else:
        # For velocities with flow amplitudes, the noise by way of the clean sample would differ: A^2 + S^2 isn't 1.
        noise = noise_estimate(prediction, A, S, x, output)
        if not config["thresholding"]:
            return noise
        x0 = [(v - S * e) / A for v, e in zip(x, noise)]
    if config["thresholding"]:
        x0 = threshold_exact(x0, config)
    if algorithm.endswith("++"):
        return x0
    return [(v - A * c) / divisor for v, c in zip(x, x0)]


def choose_order(config, i, count, steps_done):
    """The order of step i in a loop of `count` steps, after `steps_done` steps."""
    few = config["lower_order_final"] and count < 15
    last = i == count - 1 and (few or config.get("euler_at_final") or config.get("final_sigmas_type") == "zero")
    second_last = i == count - 2 and few
    order = config["solver_order"]
    if order == 1 or steps_done < 1 or last:
        return 1
    if order == 2 or steps_done < 2 or second_last:
        return 2
    return 3


def deis_weights(order, A_t, rho_t, rho_nodes):
    """Weights of the stored noises: integrals over rho of the Lagrange basis in ln rho, newest node first."""
    rho_s = rho_nodes[0]
    u = [mpmath.log(rho / rho_s) for rho in rho_nodes[:order]]
    d = mpmath.log(rho_t / rho_s)
    # Integrals of 1, ln(rho/rho_s) and its square from rho_s to rho_t.
    j0 = rho_t - rho_s
    j1 = rho_t * (d - 1) + rho_s
    j2 = rho_t * (d * d - 2 * d + 2) - 2 * rho_s
    weights = []
    for k in range(order):
        others = [u[other] for other in range(order) if other != k]
        if order == 1:
            integral = j0
        elif order == 2:
            integral = (j1 - others[0] * j0) / (u[k] - others[0])
        else:
            p, q = others
            integral = (j2 - (p + q) * j1 + p * q * j0) / ((u[k] - p) * (u[k] - q))
        weights.append(A_t * integral)
    return weights


def dpm_step(config, order, levels):
    """(a, b, c) of one DPM-Solver step; `levels` are (A, S) at the target, the source and the earlier nodes."""
    (A_t, S_t), (A_s, S_s) = levels[:2]
    lam = [mpmath.log(A / S) for A, S in levels]
    h = lam[0] - lam[1]
    algorithm = config["algorithm_type"]
    grow = mpmath.expm1(h)
    c = mpf(0)
    w2 = None
    # w0 weighs the newest output, w1 and w2 the scaled first and second differences.
    if algorithm == "dpmsolver++":
        a = S_t / S_s
        fall = mpmath.expm1(-h)
        w0, w1 = -A_t * fall, A_t * (fall / h + 1)
        w2 = -A_t * ((fall + h) / h**2 - mpf(1) / 2)
    elif algorithm == "dpmsolver":
        a = A_t / A_s
        w0, w1 = -S_t * grow, -S_t * (grow / h - 1)
        w2 = -S_t * ((grow - h) / h**2 - mpf(1) / 2)
    elif algorithm == "sde-dpmsolver++":
        a = S_t / S_s * mpmath.exp(-h)
        rise = -mpmath.expm1(-2 * h)
        w0, w1 = A_t * rise, A_t * (1 - rise / (2 * h))
        w2 = A_t * ((rise - 2 * h) / (4 * h**2) - mpf(1) / 2)
        c = S_t * mpmath.sqrt(rise)
    else:
        a = A_t / A_s
        w0, w1 = -2 * S_t * grow, -2 * S_t * (grow / h - 1)
        c = S_t * mpmath.sqrt(mpmath.expm1(2 * h))
    if order == 1:
        return a, [w0], c
    r0 = (lam[1] - lam[2]) / h
    if order == 2:
        if config["solver_type"] == "midpoint":
            w1 = w0 / 2
        return a, [w0 + w1 / r0, -w1 / r0], c
    r1 = (lam[2] - lam[3]) / h
    g, q = r0 / (r0 + r1), 1 / (r0 + r1)
    first, second = (1 + g) * w1 + q * w2, g * w1 + q * w2
    return a, [w0 + first / r0, -first / r0 - second / r1, second / r1], c


def multistep_coefficients(config, order, sigmas, i):
    """(a, b, c) of step i of a multistep loop."""
    source, target = sigmas[i], sigmas[i + 1]
    if target == source:
        # A step of length 0 is the identity, the limit of the formulas. Some of their terms are 0 * infinity.
        return mpf(1), [mpf(0)] * order, mpf(0)
    if target == 0:
        # At a final level without noise, the sample is the newest estimate of the clean sample.
        return mpf(0), [mpf(1)] + [mpf(0)] * (order - 1), mpf(0)
    levels = [amplitudes(s, config["use_flow_sigmas"]) for s in [target] + [sigmas[i - k] for k in range(order)]]
    if config["algorithm_type"] == "deis":
        rho = [S / A for A, S in levels]
        return levels[0][0] / levels[1][0], deis_weights(order, levels[0][0], rho[0], rho[1:]), mpf(0)
    return dpm_step(config, order, levels)


def run_multistep_exact(config, sigmas, timesteps):
    """Final sample and, per step, (order, a, b, c)."""
    count = len(timesteps)
    stochastic = config["algorithm_type"].startswith("sde")
    sigmas = [mpf(s) for s in sigmas]
    x = [mpf(v) for v in initial_values()]
    history, steps = [], []
    for i, t in enumerate(timesteps):
        order = choose_order(config, i, count, len(history))
        output = model_exact(x, t, config["num_train_timesteps"])
        history = [convert_exact(config, x, output, sigmas[i])] + history[:2]
        a, b, c = multistep_coefficients(config, order, sigmas, i)
        steps.append((order, a, b, c))
        if order == 1:
            x = [a * v + b[0] * m for v, m in zip(x, history[0])]
        elif order == 2:
            x = [a * v + b[0] * m + b[1] * p for v, m, p in zip(x, *history[:2])]
        else:
            x = [a * v + b[0] * m + b[1] * p + b[2] * q for v, m, p, q in zip(x, *history)]
        if stochastic:
            x = [v + c * mpf(z) for v, z in zip(x, noise_values(i))]
    return x, steps


# ----------------------------------------------------------------------------------------------------------------------
# Exact recurrence: DDIM
# ----------------------------------------------------------------------------------------------------------------------


def ddim_levels(config, alphas, t, n, inverse):
    """Cumulative products at the source and at the target of the step with timestep t."""
    beyond = mpf(1) if config["set_alpha_to_one"] else alphas[0]
    stride = config["num_train_timesteps"] // n
    other = alphas[t - stride] if t - stride >= 0 else beyond
    return (other, alphas[t]) if inverse else (alphas[t], other)


def run_ddim_exact(config, alphas, timesteps, eta, use_clipped, inverse):
    """Final sample, last clean-sample estimate and, per step, the coefficients by name."""
    n = len(timesteps)
    prediction = config["prediction_type"]
    alphas = [mpf(v) for v in alphas]
    eta = mpf(eta)
    x, x0 = [mpf(v) for v in initial_values()], None
    steps = []
    for i, t in enumerate(timesteps):
        source, target = ddim_levels(config, alphas, t, n, inverse)
        if source == 0 and prediction == "epsilon":
            raise Redraw("clean sample undefined without signal")
        signal, noise = mpmath.sqrt(source), mpmath.sqrt(1 - source)
        output = model_exact(x, t, config["num_train_timesteps"])
        if prediction == "epsilon":
            x0, e = [(v - noise * m) / signal for v, m in zip(x, output)], output
        elif prediction == "sample":
            x0, e = output, [(v - signal * m) / noise for v, m in zip(x, output)]
        else:
            x0 = [signal * v - noise * m for v, m in zip(x, output)]
            e = [signal * m + noise * v for v, m in zip(x, output)]
        if config.get("thresholding"):
            x0 = threshold_exact(x0, config)
        elif config["clip_sample"]:
            limit = mpf(config["clip_sample_range"])
            x0 = [min(max(v, -limit), limit) for v in x0]
        if use_clipped:
            e = [(v - signal * c) / noise for v, c in zip(x, x0)]
        variance = mpf(0)
        if eta:
            variance = eta * eta * (1 - target) / (1 - source) * (1 - source / target)
        # For eta = 1 without signal at the source, the difference is exactly 0. The square of a rounded root would miss 0.
        keep, direction, c = mpmath.sqrt(target), mpmath.sqrt(1 - target - variance), mpmath.sqrt(variance)
        assert isinstance(direction, mpf)
        x = [keep * v + direction * w for v, w in zip(x0, e)]
        if eta:
            x = [v + c * mpf(z) for v, z in zip(x, noise_values(i))]

        step = {}
        if source != 0:
            step.update(a=keep / signal, b=direction - keep * noise / signal)
        step["c"] = c
        if prediction == "v_prediction":
            step.update(a_model=keep * signal + direction * noise, b_model=direction * signal - keep * noise)
        elif prediction == "sample":
            step.update(a_model=direction / noise, b_model=keep - signal * direction / noise)
        steps.append(step)
    return x, x0, steps


# ----------------------------------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------------------------------


def packed(values, kind):
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode("ascii")


def floats(values):
    return [float(v) for v in values]


def number(value):
    """A JSON number. Whole numbers become integers, which keeps the files short."""
    value = float(value)
    return int(value) if value.is_integer() else value


def probe_indices(rng, count, extra):
    """The first and last three indices and `extra` random ones between them."""
    chosen = {i for i in (0, 1, 2, count - 3, count - 2, count - 1) if 0 <= i < count}
    middle = range(3, count - 3)
    chosen.update(rng.sample(middle, min(extra, len(middle))))
    return sorted(chosen)


def replaced_arguments(config, scheduler):
    return {key: value for key, value in config.items() if scheduler.config[key] != value}


def new_record(name, scheduler, config, n, mu):
    record = {"class": name, "config_text": saved_text(scheduler)}
    given = replaced_arguments(config, scheduler)
    if given:
        record["given"] = given
    record["n"], record["mu"] = n, mu
    return record


def make_multistep_record(rng, name, draw):
    cls = getattr(diffusers, name)
    config, hidden, n, extra = draw(rng)
    scheduler = build(cls, config, hidden)
    record = new_record(name, scheduler, config, n, extra["mu"])
    record["timesteps"] = timesteps = configure(scheduler, n, extra["mu"])
    sigmas = scheduler.sigmas.numpy().copy()
    assert sigmas.dtype == np.float32
    if not np.isfinite(sigmas).all():
        raise Redraw("not finite")
    record["loose"] = loose_timesteps(scheduler, n, timesteps)
    record["sigmas"] = packed(sigmas, "<f4")

    wide = run_multistep_reference(scheduler, timesteps, torch.float64)
    widest = wide
    if name == "DPMSolverMultistepScheduler":
        configure(scheduler, n, extra["mu"])
        widest = run_without_rounding(scheduler, timesteps)
    configure(scheduler, n, extra["mu"])
    single = run_multistep_reference(scheduler, timesteps, torch.float32)

    exact, steps = run_multistep_exact(dict(scheduler.config), sigmas.tolist(), timesteps)
    entries = []
    for i in probe_indices(rng, n, extra=2):
        order, a, b, c = steps[i]
        entries.append({"index": i, "order": order, "a": number(a), "b": [number(v) for v in b], "c": number(c)})
    record["coefficients"] = entries
    return finish_record(record, exact, wide, widest, single), scheduler


def make_ddim_record(rng, name, draw):
    cls = getattr(diffusers, name)
    inverse = "Inverse" in name
    config, hidden, n, extra = draw(rng)
    scheduler = build(cls, config, hidden)
    record = new_record(name, scheduler, config, n, extra.pop("mu"))
    record["timesteps"] = timesteps = configure(scheduler, n, None)
    if min(timesteps) < 0:
        raise Redraw("negative timestep")
    record["loose"] = []
    record.update(extra)
    alphas = scheduler.alphas_cumprod.numpy().copy()
    assert alphas.dtype == np.float32
    if len(alphas) <= 100:
        record["alphas"] = packed(alphas, "<f4")
    probes = probe_indices(rng, len(alphas), extra=2)
    record["alphas_probe"] = {str(i): number(alphas[i]) for i in probes}

    single = run_ddim_reference(scheduler, timesteps, torch.float32, extra)
    wide = run_ddim_reference(scheduler, timesteps, torch.float64, extra)

    full = dict(scheduler.config)
    exact, x0, steps = run_ddim_exact(
        full, alphas.tolist(), timesteps, extra.get("eta", 0), extra.get("use_clipped_model_output", False), inverse
    )
    if not (full.get("thresholding") or full["clip_sample"]):
        record["coefficients"] = [
            {"index": i, "timestep": timesteps[i], **{key: number(value) for key, value in steps[i].items()}}
            for i in probe_indices(rng, n, extra=2)
        ]
    record["x0_exact"] = packed(floats(x0), "<f8")
    return finish_record(record, exact, wide, wide, single), scheduler


def finish_record(record, exact, wide, widest, single):
    """Adds the results to a record. Returns it with the deviations of the reference's results from the exact one.

    `widest` equals `wide`, except for the class that rounds samples to float32: there it is the result without the rounding.
    """
    exact = floats(exact)
    record["final_exact"] = packed(exact, "<f8")
    record["final_float64"] = packed(wide, "<f8")
    record["final_float32"] = packed(single, "<f8")
    gaps = {"double": deviation(exact, widest), "float64": deviation(exact, wide), "float32": deviation(exact, single)}
    return record, gaps


def deviation(exact, other):
    worst = 0.0
    for p, q in zip(exact, other):
        gap = abs(p - q) / max(1.0, abs(p))
        worst = max(worst, math.inf if math.isnan(gap) else gap)
    return worst


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------

FILES = {
    "deis": ("DEISMultistepScheduler", make_multistep_record, draw_deis, 320),
    "dpmsolver": ("DPMSolverMultistepScheduler", make_multistep_record, draw_dpmsolver, 360),
    "dpmsolver_inverse": ("DPMSolverMultistepInverseScheduler", make_multistep_record, draw_dpmsolver_inverse, 260),
    "ddim": ("DDIMScheduler", make_ddim_record, draw_ddim, 320),
    "ddim_inverse": ("DDIMInverseScheduler", make_ddim_record, draw_ddim_inverse, 120),
    "deis_accuracy": ("DEISMultistepScheduler", make_multistep_record, draw_deis_accuracy, len(DEIS_ACCURACY_RUNS)),
}

# Parameters drawn from a continuum of values, or without a meaning of their own.
UNCOUNTED = {"beta_start", "beta_end", "time_shift_type", "_class_name", "_diffusers_version", "_use_default_values"}
STEP_BUCKETS = [(1, "1"), (4, "2-4"), (14, "5-14"), (50, "15-50"), (200, "51-200"), (999, "201-999"), (1000, "1000")]


def count_coverage(coverage, record, scheduler):
    def add(key, value):
        coverage.setdefault(key, Counter())[value if isinstance(value, str) else json.dumps(value)] += 1

    for key, value in scheduler.config.items():
        if key == "trained_betas":
            add(key, "null" if value is None else "list")
        elif key == "num_train_timesteps":
            add(key, value if value in (100, 500, 1000) else "20-50")
        elif key not in UNCOUNTED:
            add(key, value)
    for key, value in record.get("given", {}).items():
        add(f"{key} (given)", value)
    if "eta" in record:
        add("eta", number(record["eta"]) if record["eta"] in (0, 0.25, 0.5, 1) else "other")
        add("use_clipped_model_output", record["use_clipped_model_output"])
    add("mu", "null" if record["mu"] is None else "number")
    add("loose", "some" if record["loose"] else "none")
    add("n", next(label for limit, label in STEP_BUCKETS if record["n"] <= limit))


def write_records(path, seed, started, coverage, redrawn, records):
    """Writes a file of records with its provenance, and prints its size and the reasons for redrawn configurations."""

    def compact(value):
        return json.dumps(value, separators=(",", ":"), allow_nan=False)

    header = {
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "mpmath": mpmath.__version__,
        "seed": seed,
        "redrawn": {"total": sum(redrawn.values()), **dict(sorted(redrawn.items()))},
    }
    lines = ",\n".join(compact(r) for r in records)
    ordered = {key: dict(sorted(values.items())) for key, values in sorted(coverage.items())}
    path.write_text(f'{{"generator":{compact(header)},\n"coverage":{compact(ordered)},\n"records":[\n{lines}\n]}}\n')
    print(f"{path.name}: {len(records)} records, {path.stat().st_size} bytes, {time.monotonic() - started:.0f} s")
    print(f"  redrawn: {json.dumps(header['redrawn'])}")


def spread(values):
    """The median and the maximum of the values as text, with the number of those that aren't finite."""
    finite = [v for v in values if math.isfinite(v)]
    lost = f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else ""
    return f"median {statistics.median(values):.1e} max {max(finite, default=math.nan):.1e}{lost}"


def allowed_deviation(name, scheduler):
    """The greatest allowed deviation of the double-precision reference from the exact result."""
    config = scheduler.config
    if config.get("thresholding"):
        return 1e-6
    if name == "DEISMultistepScheduler" and config.solver_order == 3:
        # The reference subtracts antiderivatives, and loses most digits if nodes are close.
        return 1e-3
    return 1e-7


def generate(key, seed, count, folder):
    name, make, draw, default_count = FILES[key]
    rng = random.Random(f"{seed}/{key}")
    records, coverage, redrawn, checks = [], {}, Counter(), []
    started = time.monotonic()
    while len(records) < (count or default_count):
        try:
            (record, gaps), scheduler = make(rng, name, draw)
        except Redraw as reason:
            redrawn[str(reason)] += 1
            continue
        except (ValueError, IndexError, RuntimeError, UnboundLocalError) as error:
            redrawn[f"raised {type(error).__name__}"] += 1
            continue
        records.append(record)
        count_coverage(coverage, record, scheduler)
        checks.append((gaps, allowed_deviation(name, scheduler), record, dict(scheduler.config)))

    write_records(folder / f"{key}.json", seed, started, coverage, redrawn, records)
    return check(checks)


def check(checks):
    """Prints the deviations of the reference from the exact recurrence. Returns the number of records beyond the limit."""
    groups = {}
    for gaps, _, _, config in checks:
        label = f"order {config['solver_order']}" if "solver_order" in config else "all"
        if config.get("thresholding"):
            label += ", thresholding"
        groups.setdefault(label, []).append(gaps)
    for label, members in sorted(groups.items()):
        parts = [f"{kind} {spread([gaps[kind] for gaps in members])}" for kind in members[0]]
        print(f"  {label}: {len(members)} records, " + ", ".join(parts))
    failures = 0
    for gaps, limit, record, config in checks:
        if not gaps["double"] <= limit:
            failures += 1
            plain = {k: v for k, v in config.items() if k != "trained_betas" and not k.startswith("_")}
            print(f"  BEYOND {limit:g}: {gaps['double']:.2e} n={record['n']} {plain}")
    return failures


def main(description, files, seed, generate):
    """The command line of a script that writes one file per key of `files`. `generate` returns a file's number of faults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=list(files), default=list(files), help="files to write")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--count", type=int, help="number of records per file; by default all")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)

    failures = sum(generate(key, arguments.seed, arguments.count, arguments.out) for key in arguments.only)
    if failures:
        sys.exit(f"{failures} records or values are not as they should be")


if __name__ == "__main__":
    main("Writes the golden vectors of the seed schedulers.", FILES, 20240607, generate)
