# SPDX-License-Identifier: Apache-2.0

"""Configurations: the dictionary ``scheduler.config``, and its JSON for the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn


class Configuration(dict[str, Any]):
    """A read-only configuration, with values by key or by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def _refuse(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """Raises TypeError: a configuration never changes."""
        raise TypeError("a configuration can't be changed: make another scheduler with from_config(config, key=value)")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Configuration], tuple[dict[str, Any]]]:
        return Configuration, (dict(self),)


def _plain(value: Any) -> Any:
    """An array or a tensor as a list or a number. Other objects become their repr, which the library's error then shows."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


TIMESTEPS = "num_train_timesteps"


def text(values: Mapping[str, Any], count: int = 1000) -> str:
    """The values as JSON. A value may be an array, a NumPy number, an infinity or a function of the timestep.

    A function becomes the list of its results at the training timesteps: num_train_timesteps of `values`, or else `count`.
    """
    count = values.get(TIMESTEPS, count)
    members = {key: [float(value(t)) for t in range(count)] if callable(value) else value for key, value in values.items()}
    return json.dumps(members, default=_plain)
