# SPDX-License-Identifier: Apache-2.0

"""Schedulers by sampler names, such as "DPM++ 2M Karras"."""

from __future__ import annotations

from typing import Any

from . import schedulers
from ._description import sampler_names
from ._handles import Plan

__all__ = ["make_scheduler", "sampler_names"]


def make_scheduler(name: str, model: Any = None, **kwargs: Any) -> Any:
    """Makes the scheduler for a sampler's name, on NumPy arrays.

        scheduler = make_scheduler("DPM++ 2M Karras", "sdxl/scheduler")

    name    a name of ``sampler_names()`` or of a class, optionally followed by a name of noise levels: "DPM++ 2M SDE Karras",
            "euler_ancestral sgm_uniform", "deis:tab3". Case, spaces and punctuation don't matter. Without a name of levels, the
            model's configuration decides.
    model   the model's scheduler (also diffusers'), its configuration, or the path of its file or folder; it tells how the model
            was trained. None: diffusers' defaults
    kwargs  values that replace those of the configuration

    Raises UnsupportedError if no scheduler implements the sampler, or if its scheduler doesn't support the model's training.
    Raises InvalidValueError, a ValueError, for other values that aren't allowed.
    """
    plan = Plan.named(name, model, kwargs)
    scheduler: Any = getattr(schedulers, plan.class_name).__new__(getattr(schedulers, plan.class_name))
    scheduler._adopt(plan)
    return scheduler
