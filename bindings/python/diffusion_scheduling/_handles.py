# SPDX-License-Identifier: Apache-2.0

"""Owners of the library's handles: what a scheduler and a run through its plan are, without tensors.

An object frees its handle when it goes. The schedulers of NumPy and those of torch are built on these.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_double, c_size_t, c_uint64
from typing import Any, TypeVar

from . import _configuration, _library
from ._library import PlanProperties, Row, check, library

P = TypeVar("P", bound="Plan")

MOST_STEPS = 2**63
"""Numbers from here on would arrive in C as others."""


class Handle:
    """A handle of the library's, freed with this object."""

    _free = staticmethod(library.ds_scheduler_free)

    def __init__(self, value: c_uint64) -> None:
        self.argument = value
        """For functions without argument types, see ``_library.unchecked``."""
        self.value = value.value

    def __del__(self) -> None:
        # A constructor that raised has left no handle; at the end of the process the function may be gone.
        if "value" in self.__dict__ and self._free is not None:
            self._free(self.value)


class Plan(Handle):
    """A configuration and, once timesteps have been set, a plan."""

    request: tuple[int, dict[str, Any]] | None = None
    """The planning call, so that a copy of the scheduler can make it again."""
    request_text = ""
    """The same to compare with."""

    @classmethod
    def make(cls: type[P], values: Mapping[str, Any], class_name: str, overrides: Mapping[str, Any] | None = None) -> P:
        """The scheduler of a class with these values; `overrides` replace some of them."""
        raw = _configuration.text(values).encode()
        return cls._made(library.ds_scheduler_create, (raw, len(raw)), class_name, overrides)

    @classmethod
    def load(
        cls: type[P],
        path: str | os.PathLike[str],
        subfolder: str | None,
        class_name: str,
        overrides: Mapping[str, Any] | None = None,
    ) -> P:
        """The scheduler of a class with the values of a file, or of the file in a folder."""
        where = os.fsencode(path), None if subfolder is None else os.fsencode(subfolder)
        return cls._made(library.ds_scheduler_load, where, class_name, overrides)

    @classmethod
    def _made(cls: type[P], function: Callable[..., int], source: Any, class_name: str, overrides: Mapping[str, Any] | None) -> P:
        handle = c_uint64()
        changes = _configuration.text(overrides).encode() if overrides else None
        check(function(*source, class_name.encode(), changes, byref(handle)))
        return cls(handle)

    def ask(self, count: int, arguments: dict[str, Any]) -> None:
        """Plans a run of `count` steps, 0 where the arguments say how many; they are diffusers' and the run's options."""
        if not 0 <= count < MOST_STEPS:
            raise _library.InvalidValueError(f"number of steps is {count}, but must be at least 1")
        text = _configuration.text(arguments)
        check(library.ds_scheduler_set_timesteps(self.value, count, text.encode()))
        self.request, self.request_text = (count, arguments), f"{count} {text}"

    def again(self, arguments: dict[str, Any]) -> Plan:
        """Another plan of the same configuration and request, with these arguments besides."""
        assert self.request is not None
        config = self.config
        other = Plan.make(config, config["_class_name"])
        other.ask(self.request[0], {**self.request[1], **arguments})
        return other

    @property
    def config(self) -> dict[str, Any]:
        """All parameters and the kept keys."""
        config: dict[str, Any] = json.loads(self.config_text)
        return config

    @property
    def config_text(self) -> str:
        """The text of a scheduler_config.json."""
        return _library.text_of(library.ds_scheduler_config_json, self.value)

    @property
    def defaulted_keys(self) -> list[str]:
        """The parameters that nobody has set."""
        keys: list[str] = json.loads(_library.text_of(library.ds_scheduler_defaulted_keys, self.value))
        return keys

    @property
    def unused_keys(self) -> list[str]:
        """The keys of the configuration that have no effect on this scheduler."""
        keys: list[str] = json.loads(_library.text_of(library.ds_scheduler_unused_keys, self.value))
        return keys

    @property
    def text(self) -> str:
        """The whole plan as JSON."""
        return _library.text_of(library.ds_scheduler_plan_json, self.value)

    @property
    def num_train_timesteps(self) -> int:
        count = c_size_t()
        check(library.ds_scheduler_num_train_timesteps(self.value, byref(count)))
        return count.value

    @property
    def init_noise_sigma(self) -> float:
        sigma = c_double()
        check(library.ds_scheduler_init_noise_sigma(self.value, byref(sigma)))
        return sigma.value

    @property
    def alphas_cumprod(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_alphas_cumprod, self.value)

    @property
    def timesteps(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_timesteps, self.value)

    @property
    def sigmas(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_sigmas, self.value)

    @property
    def rates(self) -> tuple[list[float], list[float]]:
        """The signal rates and the noise rates of the plan's levels."""
        functions = library.ds_scheduler_signal_rates, library.ds_scheduler_noise_rates
        signal, noise = (_library.doubles_of(function, self.value) for function in functions)
        return signal, noise

    def rates_at(self, timesteps: Sequence[float]) -> tuple[list[float], list[float]]:
        """The signal rates and the noise rates that noise is added with at timesteps: what becomes of a 1 without noise, and of
        the noise 1 without a signal."""
        count = len(timesteps)
        given, ones, zeros = _library.doubles(timesteps), _library.doubles([1.0] * count), _library.doubles([0.0] * count)
        results = []
        for sample, noise in ((ones, zeros), (zeros, ones)):
            result = _library.doubles([0.0] * count)
            x, z, y = (_library.tensor(_library.address_of(each), _library.FLOAT64, (count,)) for each in (sample, noise, result))
            check(library.ds_scheduler_add_noise(self.value, byref(x), byref(z), given, count, byref(y), 1))
            results.append(result[:])
        signal, noisy = results
        return signal, noisy

    @functools.cached_property
    def training_rates(self) -> tuple[list[float], list[float]]:
        """`rates_at` all timesteps of the training, where noise is added at those."""
        return self.rates_at(range(self.num_train_timesteps))

    @property
    def properties(self) -> PlanProperties:
        properties = PlanProperties()
        check(library.ds_scheduler_plan_properties(self.value, byref(properties)))
        return properties

    @property
    def input_scales(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_input_scales, self.value)

    def begins_at(self, index: int) -> bool:
        """Whether a run may begin at an evaluation: not at the later ones of a step."""
        try:
            Session.begin(self, index)
        except _library.InvalidValueError:
            return False
        return True

    def row(self, index: int, age: int) -> Row:
        """The scalars of step `index` in a run that has taken `age` steps before."""
        row = Row()
        check(library.ds_scheduler_row(self.value, index, age, byref(row)))
        return row

    def row_at(self, timestep: float, options: dict[str, Any]) -> Row:
        """The scalars of the step at any timestep of the training, where steps depend on nothing but their arguments."""
        row = Row()
        arguments = _configuration.text(options).encode() if options else None
        check(library.ds_scheduler_row_at(self.value, timestep, arguments, byref(row)))
        return row


class Session(Handle):
    """One request's way through a plan."""

    _free = staticmethod(library.ds_session_free)

    @classmethod
    def begin(cls, plan: Plan, index: int) -> Session:
        """A session whose first step is the one of that index."""
        handle = c_uint64()
        check(library.ds_session_create(plan.value, index, byref(handle)))
        return cls(handle)

    @classmethod
    def restore(cls, plan: Plan, state: bytes) -> Session:
        """A session that stands where the saved one stood."""
        handle = c_uint64()
        check(library.ds_session_restore(plan.value, state, len(state), byref(handle)))
        return cls(handle)

    def save(self) -> bytes:
        """The state, in the same form on every machine."""
        return _library.bytes_of(library.ds_session_save, self.value)
