# SPDX-License-Identifier: Apache-2.0

"""Owners of the library's handles: what a scheduler and a run through its plan are, without tensors.

An object frees its handle when it goes. The schedulers of NumPy and those of torch are built on these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ctypes import byref, c_bool, c_double, c_size_t, c_uint, c_uint64
from typing import Any

from . import _configuration, _library
from ._library import PlanProperties, Row, StepCall, StepTensors, check, library

_session_step = _library.unchecked("ds_session_step")
_ddim_step = _library.unchecked("ds_ddim_step")
_ddim_inverse_step = _library.unchecked("ds_ddim_inverse_step")


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
    """A configuration and, once timesteps have been set, a plan.

    text        the JSON of a configuration
    class_name  the class that is wanted; None: the one that the text names
    overrides   values that replace those of the text
    """

    def __init__(self, text: str, class_name: str | None = None, overrides: Mapping[str, Any] | None = None) -> None:
        handle = c_uint64()
        raw = text.encode()
        check(
            library.ds_scheduler_create(
                raw,
                len(raw),
                class_name.encode() if class_name is not None else None,
                _configuration.text(dict(overrides)).encode() if overrides else None,
                byref(handle),
            )
        )
        super().__init__(handle)

    # Each planning call is kept, so that a copy of the scheduler can make it again.
    request: tuple[str, tuple[Any, ...]] | None = None

    def ask(self, name: str, *arguments: Any) -> None:
        """Calls the planning method of that name."""
        getattr(self, name)(*arguments)
        self.request = name, arguments

    def set_steps(self, count: int, mu: float | None) -> None:
        """Plans `count` steps, with flow sigmas shifted by e^mu."""
        if count < 0:
            raise _library.InvalidValueError(f"number of steps is {count}, but must be at least 1")
        check(library.ds_scheduler_set_timesteps(self.value, count, None if mu is None else byref(c_double(mu))))

    def set_custom_timesteps(self, timesteps: Sequence[float]) -> None:
        check(library.ds_scheduler_set_custom_timesteps(self.value, _library.doubles(timesteps), len(timesteps)))

    def set_custom_sigmas(self, sigmas: Sequence[float]) -> None:
        check(library.ds_scheduler_set_custom_sigmas(self.value, _library.doubles(sigmas), len(sigmas)))

    def set_ddim_steps(self, count: int, eta: float, use_clipped_model_output: bool) -> None:
        check(library.ds_ddim_set_timesteps(self.value, count, eta, use_clipped_model_output))

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
    def signal_rates(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_signal_rates, self.value)

    @property
    def noise_rates(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_noise_rates, self.value)

    @property
    def properties(self) -> PlanProperties:
        properties = PlanProperties()
        check(library.ds_scheduler_plan_properties(self.value, byref(properties)))
        return properties

    @property
    def input_scales(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_input_scales, self.value)

    def row(self, index: int, age: int) -> Row:
        """The scalars of step `index` in a run that has taken `age` steps before."""
        row = Row()
        check(library.ds_scheduler_row(self.value, index, age, byref(row)))
        return row

    def ddim_row(self, timestep: float, eta: float, use_clipped_model_output: bool) -> Row:
        """The scalars of DDIM's step from any timestep of the training."""
        row = Row()
        check(library.ds_ddim_row(self.value, timestep, eta, use_clipped_model_output, byref(row)))
        return row

    def ddim_inverse_row(self, timestep: float) -> Row:
        """The scalars of the inverse's step to any timestep of the training."""
        row = Row()
        check(library.ds_ddim_inverse_row(self.value, timestep, byref(row)))
        return row

    def ddim_step(self, tensors: StepTensors, eta: float, use_clipped_model_output: bool, threads: c_uint) -> StepCall:
        """DDIM's step."""
        timestep = c_double()
        arguments = self.argument, timestep, c_double(eta), c_bool(use_clipped_model_output), *tensors.references, threads
        return StepCall(tensors, _ddim_step, arguments, timestep)

    def ddim_inverse_step(self, tensors: StepTensors, threads: c_uint) -> StepCall:
        """The inverse's step."""
        timestep = c_double()
        e, x, _, y, p = tensors.references
        return StepCall(tensors, _ddim_inverse_step, (self.argument, timestep, e, x, y, p, threads), timestep)


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

    def step(self, tensors: StepTensors, threads: c_uint) -> StepCall:
        """The next step."""
        e, x, z, y, _ = tensors.references
        return StepCall(tensors, _session_step, (self.argument, e, x, z, y, None, threads), None)

    def save(self) -> bytes:
        """The state, in the same form on every machine."""
        return _library.bytes_of(library.ds_session_save, self.value)
