# SPDX-License-Identifier: Apache-2.0

"""Schedulers by the names of samplers that people pass around."""

from __future__ import annotations

from typing import Any

from . import schedulers
from ._description import sampler_names
from ._handles import Plan

__all__ = ["make_scheduler", "sampler_names"]


def make_scheduler(name: str, model: Any = None, **kwargs: Any) -> Any:
    """Makes the scheduler of a sampler's name, for NumPy arrays.

        scheduler = make_scheduler("DPM++ 2M Karras", "sdxl/scheduler")

    name    one of ``sampler_names()`` or of a class, with the name of noise levels after it or without: "DPM++ 2M SDE Karras",
            "euler_ancestral sgm_uniform", "deis:tab3". Case, spaces and punctuation don't matter. Without the name of levels, they
            are the model's.
    model   a scheduler of the model's, also of diffusers', its configuration, or the path of its file or folder, which say what the
            model was trained with; None: diffusers' defaults
    kwargs  values that replace those of the configuration

    Raises UnsupportedError for a name without a scheduler, or with one that doesn't know the model's training, InvalidValueError.
    """
    plan = Plan.named(name, model, kwargs)
    scheduler: Any = getattr(schedulers, plan.class_name).__new__(getattr(schedulers, plan.class_name))
    scheduler._adopt(plan)
    return scheduler
