# SPDX-License-Identifier: Apache-2.0

"""Diffusion schedulers with diffusers' configuration files, noise levels and solvers. Most steps are one pass over memory.

    import numpy as np
    from diffusion_scheduling import DEISMultistepScheduler

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    x = np.random.default_rng(0).standard_normal((1, 4, 64, 64), np.float32) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample

The classes here take NumPy arrays. ``diffusion_scheduling.diffusers`` has drop-in replacements for diffusers' own classes.
"""

from . import _library, schedulers
from ._configuration import Configuration
from ._development import get_cmake_dir, get_include, get_lib_dir, get_library, get_pkgconfig_dir
from ._library import (
    FileAccessError,
    InvalidValueError,
    KernelError,
    MalformedError,
    OutOfMemoryError,
    SchedulerError,
    StateError,
    StepPastEndError,
    TimestepError,
    UnsupportedError,
)
from ._noise import NoiseSource
from .guidance import rescale_noise_cfg
from .samplers import make_scheduler, sampler_names
from .schedulers import *  # noqa: F403
from .serving import Guidance, Session, step_rows

__version__ = "0.1.0"


def runtime_description() -> str:
    """The OpenMP runtime that provides the threads, as a sentence."""
    text: bytes = _library.library.ds_runtime_description()
    return text.decode()


__all__ = [
    "Configuration",
    "FileAccessError",
    "Guidance",
    "InvalidValueError",
    "KernelError",
    "MalformedError",
    "OutOfMemoryError",
    "NoiseSource",
    "SchedulerError",
    "Session",
    "StateError",
    "StepPastEndError",
    "TimestepError",
    "UnsupportedError",
    "get_cmake_dir",
    "get_include",
    "get_lib_dir",
    "get_library",
    "get_pkgconfig_dir",
    "make_scheduler",
    "rescale_noise_cfg",
    "runtime_description",
    "sampler_names",
    "step_rows",
]
__all__ += schedulers.__all__
