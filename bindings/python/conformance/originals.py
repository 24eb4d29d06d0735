# SPDX-License-Identifier: Apache-2.0

"""Takes diffusers' own scheduler code out of use, so that what passes has passed without it."""

from __future__ import annotations

import contextlib
import inspect
import unittest.mock
from collections.abc import Iterator
from typing import Any

import diffusion_scheduling.diffusers as drop_ins

METHODS = ("step", "convert_model_output", "index_for_timestep", "add_noise", "get_velocity", "scale_model_input")
PARTS = ("_update", "_convert_to_", "_sigma_to_t", "_threshold_sample", "_init_step_index")


def _refuse(name: str) -> Any:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError(f"{name} of diffusers was called")

    return refuse


@contextlib.contextmanager
def disabled() -> Iterator[int]:
    """Makes the originals' methods raise: steps, conversions, updates and noise. Yields how many there are.

    Their ``set_timesteps`` runs: the drop-ins take attributes from it that have no counterpart in a plan, but neither timesteps nor
    noise levels.
    """
    with contextlib.ExitStack() as stack:
        count = 0
        for name in drop_ins.__all__:
            ancestors = getattr(drop_ins, name).__mro__[1:]
            (base,) = [ancestor for ancestor in ancestors if ancestor.__name__ == name]
            # Constructors are the originals'.
            made_with = inspect.getsource(base.__init__)
            for method in list(vars(base)):
                if f"self.{method}(" in made_with:
                    continue
                if method in METHODS or any(part in method for part in PARTS):
                    stack.enter_context(unittest.mock.patch.object(base, method, _refuse(f"{name}.{method}")))
                    count += 1
        yield count
