#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes ``sigma_schedules.json``: the noise levels of named schedules, evaluated with NumPy and SciPy from the published formulas.

The file also holds levels computed by k-diffusion 0.1.1.post1, and tables of diffusers 0.42.1.

Usage::

    out/reference/bin/pip download --no-deps -d out/reference k-diffusion==0.1.1.post1
    out/reference/bin/python Tests/Goldens/generate_sigma_schedules.py

k-diffusion's wheel is imported without installing it: its dependencies take gigabytes, and the levels need only torch.
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import diffusers
import numpy as np
import scipy.stats

COUNTS = [1, 2, 3, 5, 10, 20, 37, 50]
ALIGNED = {
    "sd15": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    "svd": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}


def aligned(name):
    levels = np.log(ALIGNED[name])
    return lambda n, table: np.exp(np.interp(np.linspace(0, 10, n + 1), np.arange(11), levels))[:-1]


def quantiles(alpha, beta):
    return lambda n, table: at(
        table, scipy.stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), alpha, beta) * (len(table) - 1)
    )


def at(table, timesteps):
    if table[-1] == 1:
        return (timesteps + 1) / len(table)  # Flow matching's levels are the timesteps divided by their number.
    return np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))


def laplace(n, table):
    law = scipy.stats.laplace(0, 0.5)
    ends = law.cdf(np.log([table[-1], table[0]]))
    return np.exp(law.ppf(np.linspace(*ends, n)))


def linear_quadratic(n, table):
    if n == 1:
        return np.array([table[-1]])
    half, threshold = n // 2, 0.025
    line = np.arange(half) * threshold / half
    # A parabola through (half, threshold) with the line's slope, and through (n, 1).
    slope, length = threshold / half, n - half
    place = np.arange(half, n) - half
    curve = threshold + slope * place + (1 - threshold - slope * length) * (place / length) ** 2
    return table[-1] * (1 - np.concatenate([line, curve]))


def bong_tangent(n, table):
    if n == 1:
        return np.array([table[-1]])
    places = n + 2
    pivot = int(places * 0.6)

    def stage(length, pivot, start, end):
        values = np.arctan(-0.2 / (places / 40) * (np.arange(length) - pivot))
        return (values - values[-1]) / (values[0] - values[-1]) * (start - end) + end

    first, second = stage(pivot, pivot, 1.0, 0.5), stage(places - pivot, 0, 0.5, 0.0)
    return table[-1] * np.concatenate([first[:-1], second])[:-1]


SCHEDULES = {
    "karras": lambda n, table: np.linspace(table[-1] ** (1 / 7), table[0] ** (1 / 7), n) ** 7,
    "exponential": lambda n, table: np.exp(np.linspace(np.log(table[-1]), np.log(table[0]), n)),
    "vp": lambda n, table: np.sqrt(np.expm1(19.9 * np.linspace(1, 0.001, n) ** 2 / 2 + 0.1 * np.linspace(1, 0.001, n))),
    "laplace": laplace,
    "kl_optimal": lambda n, table: np.tan(np.linspace(np.arctan(table[-1]), np.arctan(table[0]), n)),
    "linear_quadratic": linear_quadratic,
    "bong_tangent": bong_tangent,
    "simple": lambda n, table: table[[-(1 + int(k * (len(table) / n))) for k in range(n)]],
    "normal": lambda n, table: at(table, np.linspace(len(table) - 1, 0, n)),
    "quadratic": lambda n, table: at(table, np.linspace(1, 0, n) ** 2 * (len(table) - 1)),
    "sgm_uniform": lambda n, table: at(table, np.linspace(len(table) - 1, 0, n + 1)[:-1]),
    "ddim_uniform": lambda n, table: table[1 :: len(table) // n][:n][::-1],
    "beta": quantiles(0.6, 0.6),
    "beta57": quantiles(0.5, 0.7),
    **{f"align_your_steps_{name}": aligned(name) for name in ALIGNED},
}


def k_diffusion(table):
    """The levels of k-diffusion's functions that take the least and the greatest level."""
    wheel = Path(__file__).parents[2] / "out/reference/k_diffusion-0.1.1.post1-py3-none-any.whl"
    package = ModuleType("k_diffusion")
    package.__path__ = [f"{wheel}/k_diffusion"]
    # The module imports these for its solvers. The levels don't need them.
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": MagicMock(), "torchdiffeq": MagicMock()})
    sampling = importlib.import_module("k_diffusion.sampling")
    ends = table[0], table[-1]
    functions = {
        "karras": lambda n: sampling.get_sigmas_karras(n, *ends),
        "exponential": lambda n: (
            sampling.get_sigmas_polyexponential(n, *ends) if n > 1 else sampling.get_sigmas_exponential(n, *ends)
        ),
        "vp": sampling.get_sigmas_vp,
    }
    # The level after the last step is 0.
    return {name: {str(n): function(n)[:-1].tolist() for n in COUNTS} for name, function in functions.items()}


def diffusers_tables():
    tables = diffusers.schedulers.AysSchedules
    return {
        f"align_your_steps_{name}": {"10": tables[f"StableDiffusion{key}Sigmas"][:10]}
        for name, key in (("sd15", ""), ("sdxl", "XL"), ("svd", "Video"))
    }


stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
alphas = diffusers.DEISMultistepScheduler(**stable).alphas_cumprod.numpy().astype(np.float32)
tables = {
    "scaled_linear": np.sqrt((1 - alphas) / alphas).astype(np.float64),
    "flow": np.arange(1, 1001) / 1000,
}
levels = {
    table: {name: {str(n): [float(level) for level in schedule(n, values)] for n in COUNTS} for name, schedule in SCHEDULES.items()}
    for table, values in tables.items()
}
levels["k-diffusion"] = k_diffusion(tables["scaled_linear"])
levels["diffusers"] = diffusers_tables()
path = Path(__file__).parent / "sigma_schedules.json"
path.write_text(json.dumps(levels, separators=(",", ":")).replace('},"', '},\n"') + "\n")
print(f"{path.name}: {path.stat().st_size} bytes")
