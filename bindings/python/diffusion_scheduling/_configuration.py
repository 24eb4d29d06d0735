# SPDX-License-Identifier: Apache-2.0

"""Configurations: what a constructor was given, and the dictionary that ``scheduler.config`` is."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

Constructor = TypeVar("Constructor", bound=Callable[..., None])


class Configuration(dict[str, Any]):
    """A configuration: read by key or by attribute, never changed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def _refuse(self, *arguments: Any, **keywords: Any) -> NoReturn:
        raise TypeError("a configuration can't be changed: make another scheduler with from_config(config, key=value)")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Configuration], tuple[dict[str, Any]]]:
        return Configuration, (dict(self),)


def text(values: dict[str, Any]) -> str:
    """The JSON of values, which may hold NumPy's arrays and numbers, and infinities."""
    return json.dumps(values, default=lambda value: value.tolist())


def takes_configuration(initialise: Constructor) -> Constructor:
    """Makes a constructor whose parameters are the keys of a configuration.

    The values that are given become the configuration; the library fills in the others, and `initialise` itself has nothing
    left to do. Its signature is what people and ``from_config`` read.
    """
    signature = inspect.signature(initialise)

    @functools.wraps(initialise)
    def constructor(self: Any, *arguments: Any, **keywords: Any) -> None:
        given = dict(signature.bind(self, *arguments, **keywords).arguments)
        given.pop("self")
        others = given.pop("others", {})
        if "set_alpha_to_zero" in others:
            given["set_alpha_to_one"] = others["set_alpha_to_zero"]
        self._configure(text(given), given.keys(), {})

    return cast(Constructor, constructor)


def parameters(cls: type) -> list[str]:
    """The keys that a class takes, in the order of its constructor."""
    found = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return [each.name for each in found if each.name != "self" and each.kind is not each.VAR_KEYWORD]
