# SPDX-License-Identifier: Apache-2.0

"""Configurations: the dictionary that ``scheduler.config`` is, and the text that the library reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn


class Configuration(dict[str, Any]):
    """A configuration: read by key or by attribute, never changed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def _refuse(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """Refuses to change the configuration, with a TypeError."""
        raise TypeError("a configuration can't be changed: make another scheduler with from_config(config, key=value)")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Configuration], tuple[dict[str, Any]]]:
        return Configuration, (dict(self),)


def _plain(value: Any) -> Any:
    """The list or number of an array or a tensor; of other objects a text, which the library refuses in words."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


TIMESTEPS = "num_train_timesteps"


def text(values: Mapping[str, Any], count: int = 1000) -> str:
    """The JSON of values, which may hold arrays, NumPy's numbers, infinities, and functions of timesteps.

    A function is written as the list of its values at the timesteps of the training, `count` where the values don't say how many.
    """
    count = values.get(TIMESTEPS, count)
    members = {key: [float(value(t)) for t in range(count)] if callable(value) else value for key, value in values.items()}
    return json.dumps(members, default=_plain)
