# SPDX-License-Identifier: Apache-2.0

"""Disables diffusers' own scheduler code, so that a passing check proves the drop-ins don't call it."""

from __future__ import annotations

import contextlib
import inspect
import unittest.mock
from collections.abc import Iterator
from typing import Any

import diffusion_scheduling.diffusers as drop_ins
from diffusion_scheduling._description import DESCRIPTIONS

METHODS = ("step", "convert_model_output", "index_for_timestep", "add_noise", "get_velocity", "scale_model_input")
PARTS = ("_update", "_convert_to_", "_sigma_to_t", "_threshold_sample", "_init_step_index")


def _refuse(name: str) -> Any:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError(f"{name} of diffusers was called")

    return refuse


@contextlib.contextmanager
def disabled() -> Iterator[int]:
    """Makes the originals' methods for steps, conversions, updates and noise raise. Yields the number of disabled methods.

    The originals' ``set_timesteps`` still works. Drop-ins take attributes without a counterpart in a plan from it, but no timesteps
    and no noise levels. Drop-ins that step by other methods than ``step`` only have these; everything else is the original's.
    """
    with contextlib.ExitStack() as stack:
        count = 0
        for name in drop_ins.__all__:
            ancestors = getattr(drop_ins, name).__mro__[1:]
            (base,) = [ancestor for ancestor in ancestors if ancestor.__name__ == name]
            # Drop-ins run the original's constructor, so the methods it calls stay enabled.
            made_with = inspect.getsource(base.__init__)
            calls = {call.name for call in DESCRIPTIONS[name].calls}
            for method in list(vars(base)):
                if f"self.{method}(" in made_with:
                    continue
                if method in (calls or METHODS) or (not calls and any(part in method for part in PARTS)):
                    stack.enter_context(unittest.mock.patch.object(base, method, _refuse(f"{name}.{method}")))
                    count += 1
        yield count
