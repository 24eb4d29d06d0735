# SPDX-License-Identifier: Apache-2.0

"""The drop-ins for diffusers' classes: their bases, and their construction from the originals and the library's descriptions."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils import logging
from torch import Tensor

from . import _launch, _library, _tensors
from ._core import Core, Options, Ordered, Results, Stateless, parts
from ._description import BrownianMotion, Description, Parameter, StepCall, function
from ._handles import Plan, StepRow
from ._tensors import is_beyond_reach, step_by_row

ENDS = "final_alpha_cumprod", "initial_alpha_cumprod", "one"
"""The attributes that hold the signal variance before timestep 0."""

TOKEN_TIMESTEPS = "per_token_timesteps"
"""The argument of ``step`` for tokens with separate timesteps."""

TREE = "BrownianTreeNoiseSampler"
"""The name of the class of Brownian motions, in the modules of the originals that have one."""

LARGEST = 1_000_000
"""The library refuses greater numbers. The originals may make tables of that length."""


def flat(timesteps: Any) -> Tensor:
    """Timesteps as a tensor [n]. A tensor stays on its device; numbers become a tensor on the host."""
    return (timesteps if isinstance(timesteps, Tensor) else torch.tensor(timesteps, device="cpu")).reshape(-1)


@functools.cache
def _warn_once(text: str) -> None:
    logging.get_logger("diffusers.diffusion_scheduling").warning(text)  # diffusers' verbosity applies.


class Configuration(FrozenDict):
    """A configuration that counts the assignments to its attributes. diffusers' configurations allow such assignments."""

    _version = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["_version"] = self._version + 1


class DropIn(Core):
    """The base of all drop-ins. The original's class is the second base of each, and its constructor makes the object."""

    num_inference_steps: int | None = None
    timesteps: Tensor
    sigmas: Tensor
    betas: Tensor
    alphas_cumprod: Tensor
    dt: float | None
    _internal_dict: Any
    _shift: float
    """The shift of flow matching. set_shift changes it without changing the configuration. Other originals don't have it."""
    sigma_min: float
    sigma_max: float

    _tensors = _tensors
    _original: ClassVar[type[Any]]
    _output: ClassVar[type[Any]]
    """The class of the results of ``step``."""
    _steps_unplanned = False
    """Whether the original steps through all training timesteps if none have been set."""
    _has_sigmas = False
    """Whether the original has noise levels besides its timesteps."""
    _spans_by_count = False
    """Whether the number of steps determines the span of a step. Otherwise a step leads to the next timestep of the list."""
    _takes_counted_lists = False
    """Whether the original accepts a number of steps beside lists of that length."""
    _needs_count = False
    """Whether the original requires a number of steps, even beside a list, where it doesn't read the number."""
    _fixed: ClassVar[Sequence[str]]
    """The keys that only the original's constructor reads."""
    _kept: ClassVar[Mapping[str, str]]
    """The attributes that the original's steps read in place of such keys, with the keys."""
    _doubled: ClassVar[Sequence[str]] = ()
    """The keys that the original's steps read from attributes, too. Both must be the same for its steps to make sense."""
    _made: Mapping[str, Any] | None = None
    """The configuration at the end of the constructor; None before."""
    _made_span: tuple[float, ...] = ()
    """`_span` at the end of the constructor."""
    _parts: ClassVar[Mapping[str, Any]]
    """The methods that the original's methods call and the drop-in's don't, with the drop-in's method of that name or None."""
    _request: tuple[int, dict[str, Any]] | None = None
    """The request of the present plan."""
    _trained: Tensor | None = None
    """The signal variances that the constructor made; None: it made none."""
    _rounded_levels: Tensor | None = None
    """The original's noise levels. Their last bits may differ from the plan's."""
    _unreached = 0
    """The number of the original's levels after a run's last level; no step reaches them. −1: the original has no level for the
    run's last timestep, and a step there leads nowhere."""
    _own_timesteps: Tensor | None = None
    """The attribute `timesteps` while it holds the plan's timesteps. Its elements are looked up without reading them."""

    # ---- Configurations

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """Reads a file like the original. If the original can't, the library reads the file, or raises an error with the reason."""
        try:
            return super()._dict_from_json_file(json_file)  # type: ignore[misc]
        except (RecursionError, ValueError):
            return Plan.load(json_file, None, cls.description.class_name).config

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """``from_config`` of the original, which also takes the library's own keys.

        It warns if the configuration belongs to an incompatible class.
        """
        own = {each.key: kwargs.pop(each.key) for each in cls.description.parameters if each.override_name and each.key in kwargs}
        if own and isinstance(config, Mapping):
            config = {**config, **own}
        source = config.get("_class_name") if isinstance(config, Mapping) else None
        known = [cls.description.class_name, *cls.description.compatible_class_names]
        made = super().from_config(config, return_unused_kwargs, **kwargs)  # type: ignore[misc]
        scheduler = made[0] if return_unused_kwargs else made
        if isinstance(source, str) and source not in known and not scheduler.config.get("use_flow_sigmas"):
            unused = Plan.make(dict(config), cls.description.class_name).unused_keys
            _warn_once(
                f"The configuration is one of {source}, which {cls.__name__} isn't compatible with"
                + (f"; it has no use for {', '.join(unused)}." if unused else ".")
            )
        return made

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """``extract_init_dict`` of the original, without its warning about the library's own keys."""
        own = {each.key for each in cls.description.parameters if each.override_name}
        others = {key: value for key, value in config_dict.items() if key not in own}
        init, unused, hidden = super().extract_init_dict(others, **kwargs)  # type: ignore[misc]
        return init, unused, {**hidden, **{key: value for key, value in config_dict.items() if key in own}}

    def register_to_config(self, **values: Any) -> None:
        super().register_to_config(**values)  # type: ignore[misc]
        self._internal_dict = Configuration(self._internal_dict)

    def _values(self, *, reads_table: bool = True) -> dict[str, Any]:
        """The present values of the configuration, with the caller's changes.

        reads_table  whether the signal variances in `alphas_cumprod` count too
        """
        # Values may have been set as attributes. All parameters have values here, so the defaulted keys don't matter.
        config, state, made = self._internal_dict, self.__dict__, self._made or {}
        values = {key: getattr(config, key, value) for key, value in config.items() if not key.startswith("_")}
        values.update((key, made[key]) for key in self._fixed if key in made)
        for key in self._doubled:
            if state.get(key) not in (made.get(key, state.get(key)), values[key]):
                raise _library.UnsupportedError(
                    f"{key} is {state[key]!r}, but must be {values[key]!r} like that of config: assign config.{key}, too"
                )
        held = ((key, state[name]) for name, key in self._kept.items() if name in state)
        values.update((key, each.item() if isinstance(each, Tensor) and each.numel() == 1 else each) for key, each in held)
        for each in self.description.parameters:
            if each.key in values and each.type == "bool":
                values[each.key] = bool(values[each.key])
            elif isinstance(values.get(each.key), bool) and each.type == "int":
                values[each.key] = int(values[each.key])
        variance = values.get("variance_type")
        if variance is not None and not str(variance).startswith(("fixed", "learned")):
            values["variance_type"] = "fixed_small"  # The originals treat any other word so.
        is_own = self._trained is None or (
            all(values[key] == made[key] for key in ("num_train_timesteps", "beta_schedule"))
            and torch.equal(self.alphas_cumprod.cpu(), self._trained)
        )
        if reads_table and not is_own:
            table = self.alphas_cumprod.double().cpu()
            if not self._has_sigmas:
                table = table[: values["num_train_timesteps"]]
            betas = (1 - table / torch.cat([torch.ones(1, dtype=table.dtype), table[:-1]])).tolist()
            values[next(each.key for each in self.description.parameters if each.name == "trained_betas")] = betas
            values.pop("rescale_betas_zero_snr", None)
            if "snr_shift_scale" in values:
                values["snr_shift_scale"] = 1.0  # The table is shifted already.
        elif values.get("beta_end", 0) >= 1 and values.get("trained_betas") is None:
            # The original allows betas of 1 and more at the noisy end, where hardly any signal is left. They are limited here.
            values["trained_betas"] = self.betas.clamp(max=1 - 2.0**-24).tolist()
        for name in state.keys() & ENDS:
            final = float(state[name])
            if name == "one" and final != 1:
                raise _library.UnsupportedError(f"one is {final}, but must be 1: the last step leads to the clean sample")
            values["set_alpha_to_one"] = final == 1
            if final not in (1.0, float(self.alphas_cumprod[0])):
                values["diffusion_scheduling_final_alpha_cumprod"] = final
        return values

    # ---- Plans

    def _renew(self) -> None:
        if not isinstance(self._internal_dict, Configuration):
            attributes = vars(self._internal_dict)
            self._internal_dict = Configuration(self._internal_dict)
            self._internal_dict.__dict__.update(attributes)
        # The constructor's noise levels don't follow later changes of the signal variances.
        values, name = self._values(reads_table=self._request is not None or not self._has_sigmas), self.description.class_name
        request, steps = self._request, self.num_inference_steps
        if self._spans_by_count and steps is not None and (request is None or request[0]):
            request = steps, {} if request is None else request[1]
        if request is None:
            self._adopt_plan(Plan.of_run(values, name))
            self._look()
            return
        plan = Plan.of_run(values, name, *request)
        if (
            not self.description.is_stateless
            and not self._has_sigmas
            and steps != min(request[0] or len(plan.timesteps), len(plan.timesteps))
        ):
            raise _library.UnsupportedError(
                f"num_inference_steps is {steps}, but must be as it was set: call set_timesteps({steps})"
            )
        self._known_timesteps, self._own_timesteps = self._tables_of(plan)[0].tolist(), None
        if self._tables_differ(plan):
            self._known_timesteps = self.timesteps.tolist()
            plan = self._plan_of_tables(plan)
        else:
            self._own_timesteps = self.timesteps
        self._adopt_plan(plan)
        self._look()

    def _tables_of(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """The timesteps and the noise levels of a plan, in the original's form."""
        name = self.description.timestep_type
        if name is None:
            # Timesteps are whole numbers for variance-preserving plans with a table of the training, and with use_flow_sigmas.
            is_trained = plan.properties.process == _library.VARIANCE_PRESERVING and "alphas_cumprod" in self.__dict__
            is_whole = is_trained or self.config.get("use_flow_sigmas")
            name = "int64" if is_whole else "float32"
        # As in the original, tables are on the host unless a device is named, whatever torch's default device is.
        timesteps = torch.tensor(plan.listed_timesteps, dtype=torch.float64, device="cpu").to(getattr(torch, name))
        levels = (plan.sigmas + [0.0] * self._unreached)[: len(plan.sigmas) + self._unreached]
        return timesteps, torch.tensor(levels, dtype=getattr(torch, self.description.sigma_type), device="cpu")

    def _tables_differ(self, plan: Plan) -> bool:
        """Whether a caller has replaced the plan's tables."""
        timesteps, sigmas = self._tables_of(plan)
        own = self.__dict__.get("sigmas")
        return not _are_equal(self.timesteps, timesteps) or (own is not None and not _are_equal(own, sigmas))

    def _plan_of_tables(self, plan: Plan) -> Plan:
        """The plan of the tables that have replaced those of `plan`."""
        known, levels = list(self._known_timesteps), self.__dict__.get("sigmas")
        if levels is None:
            return plan.run(0, {"timesteps": known})
        if len(levels) <= len(known):
            raise _library.InvalidValueError(
                f"the number of sigmas is {len(levels)}, but must be at least {len(known) + 1}: one more than there are timesteps"
            )
        return plan.on_levels(known, levels.double().tolist()[: len(known) + 1])

    def _only_defaults(self, given: dict[str, tuple[Any, Any]]) -> None:
        """Raises UnsupportedError if an unsupported argument differs from its default and from the configuration."""
        for name, (value, default) in given.items():
            if value is not default and value != default and value != self.config.get(name, default):
                raise _library.UnsupportedError(f"{name} is {value}, but must be left out: it isn't supported")

    def _only_its_own(self, timestep: Any, index: tuple[str, int], tables: dict[str, tuple[Tensor | None, str]]) -> None:
        """Raises UnsupportedError for tables other than the run's. Beside tables, raises TimestepError for another step's index.

        index   the name and the value of the argument for the index
        tables  the values of the arguments for tables and the attributes' names, by the arguments' names
        """
        for name, (table, attribute) in tables.items():
            own = getattr(self, attribute)
            if table is not None and table is not own and not _are_equal(table, own):
                raise _library.UnsupportedError(f"{name} has other values than {attribute}: assign them to {attribute}")
        if all(table is None for table, _ in tables.values()):
            return
        name, place = index
        value, known = float(self._value(timestep)), self._known_timesteps
        if value in known and known.index(value) != place:
            raise _library.TimestepError(f"{name} is {place}, but must be {known.index(value)}, the place of {value} in timesteps")

    def _set_timesteps(
        self, num_inference_steps: int | None, device: str | torch.device | None, arguments: dict[str, Any], given: dict[str, Any]
    ) -> None:
        """``set_timesteps``. Arguments that are None count as left out, except the nullable options that the original has.

        given  the arguments by the original's names
        """
        told = self.description.nullable_options & given.keys()
        arguments = {name: value for name, value in arguments.items() if value is not None or name in told}
        lists = [name for name in ("timesteps", "sigmas") if name in arguments]
        # Beside a list, some classes accept its number of levels, and classes that list the end accept the number of steps. Others
        # require a number that they don't read.
        has_end = self.description.lists_end
        counted = {len(arguments[name]) - has_end for name in lists}
        is_counted = (self._takes_counted_lists or has_end) and counted == {num_inference_steps}
        if is_counted or (self._needs_count or self.config.get("use_flow_sigmas")) and "sigmas" in lists:
            num_inference_steps = None
        if (num_inference_steps is None) == (not lists):
            raise _library.InvalidValueError("set_timesteps needs exactly one of num_inference_steps and timesteps or sigmas")
        if arguments.get("mu") is not None:
            arguments["mu"] = float(arguments["mu"])
        count = 0 if num_inference_steps is None else int(num_inference_steps)
        if count and "_shift" in self.__dict__ and self._span() != self._made_span:
            # As in the original, the value of set_shift shifts a range that the constructor's value has already shifted.
            evenly = torch.linspace(self.sigma_max, self.sigma_min, count, dtype=torch.float64, device="cpu")
            arguments["sigmas"] = evenly.tolist()
            count = 0
        try:
            plan = self._without_repetitions(Plan.of_run(self._values(), self.description.class_name, count, arguments))
        except _library.InvalidValueError:
            # Originals whose constructors set timesteps accept configurations with which they can't step.
            if self._made is not None:
                raise
            plan = None
        steps = None
        try:
            # The original sets attributes that only it knows, such as prk_timesteps, and with mu the configuration's flow_shift. It
            # may fail on a run that the library can plan.
            self._original.set_timesteps(self, **given)
            if self._has_sigmas:
                is_ended = bool(self.sigmas[-1] == 0)
                beyond = len(self.sigmas) - len(self.timesteps) - 1
                self._unreached = beyond if is_ended or beyond < 0 else 0
                self._rounded_levels = self.sigmas
                # The original's number may count levels. A step of these classes doesn't read it.
                steps = self.num_inference_steps if self.description.is_stateless else None
        except Exception as error:
            if plan is None and isinstance(error, ValueError):
                raise  # Neither can plan the run. The original's error says why.
        if plan is not None:
            if steps is None:
                steps = min(count or len(plan.timesteps), len(plan.timesteps)) + min(self._unreached, 0)
            self._set_tables(plan, device, steps)
        elif self._has_sigmas:
            self.__dict__.setdefault("sigmas", torch.zeros(0))  # The originals' constructors move sigmas to the host.

    def _span(self) -> tuple[float, ...]:
        """The values that determine flow matching's range of noise levels; empty for originals without such a range."""
        if "sigma_min" not in self.__dict__:
            return ()
        return self._shift, self.sigma_min, self.sigma_max, self.config.num_train_timesteps

    def _set_tables(self, plan: Plan, device: str | torch.device | None, count: int | None) -> None:
        """Adopts a plan, and sets the attributes to the plan's tables."""
        table, levels = self._tables_of(plan)
        if self._has_sigmas:
            self.sigmas = levels
        self.timesteps = self._own_timesteps = table.to(device or "cpu")
        self._known_timesteps = table.tolist()
        self.num_inference_steps, self._request = count, plan.request
        self._adopt_plan(plan)
        self._look()

    def _without_repetitions(self, plan: Plan) -> Plan:
        """The plan without repeated timesteps, if it is an inversion's.

        The original keeps the noise levels of the steps that it leaves out, so its run ends some levels early.
        """
        known = self._tables_of(plan)[0].tolist()
        unique = list(dict.fromkeys(known))
        # On the other grids, the original casts timesteps to whole numbers only after it has looked for repetitions.
        is_cast = any(self.config.get(f"use_{name}_sigmas") for name in ("exponential", "beta", "flow"))
        if len(unique) == len(known) or plan.sigmas[0] >= plan.sigmas[-1] or is_cast:
            return plan
        if self.config.get("use_karras_sigmas"):
            return plan.run(0, {"sigmas": [plan.sigmas[known.index(t)] for t in unique]})
        return plan.run(0, {"timesteps": unique})

    def _ready(self) -> Plan:
        plan = self._current()
        return self._plan_without_timesteps() if self.num_inference_steps is None else plan

    def _plan_without_timesteps(self) -> Plan:
        if not self._steps_unplanned:
            return super()._plan_without_timesteps()
        plan = self._plan
        if plan.request is None:
            plan = Plan.of_run(self._values(), self.description.class_name, int(self.config.num_train_timesteps), {})
            if self._has_sigmas and len(self.sigmas) > len(self.timesteps) and self._tables_differ(plan):
                # The constructor's tables are of another run, for example with one level more than there are training timesteps.
                self._known_timesteps, self._request = self.timesteps.tolist(), plan.request
                plan = self._plan_of_tables(plan)
                self._adopt_plan(plan)
                self._look()
            else:
                self._set_tables(plan, None, None)
        return plan

    def _value(self, timestep: Any) -> float:
        """A timestep as a number. An element of the scheduler's own timesteps isn't read back from its device."""
        if not isinstance(timestep, Tensor):
            return timestep
        if timestep.is_cpu and timestep.ndim == 0:
            return timestep.item()  # The usual case.
        if timestep.numel() > 1:
            # The tensor has a timestep for each batch item. Expanded tensors repeat one element.
            if any(timestep.stride()) and bool((timestep != timestep[0]).any()):
                raise _library.UnsupportedError(f"timestep is {timestep.tolist()}, but must be the same for all batch items")
            timestep = timestep[0]
        own = self._own_timesteps
        if (
            timestep.is_cpu
            or own is None
            or timestep.device != own.device
            or timestep.dtype != own.dtype
            or timestep.untyped_storage().data_ptr() != own.untyped_storage().data_ptr()
        ):
            return timestep.item()
        return self._known_timesteps[timestep.storage_offset()]

    def _whole(self, number: Any) -> int | None:
        """A whole number, or a tensor with one, as an int; None stays None."""
        return None if number is None else int(self._value(number))

    def _real(self, number: Any) -> float | None:
        """A number, or a tensor with one, as a float; None stays None."""
        if type(number) is float:
            return number
        return None if number is None else float(self._value(number))

    # ---- Steps

    def _general_run(
        self, plan: Plan, row: StepRow, e: Tensor, x: Tensor, noise: Tensor | None, slots: Sequence[Tensor], out: None
    ) -> Results:
        for name, each in ("model_output", e), ("sample", x):
            if not isinstance(each, Tensor):
                raise TypeError(f"{name} is a {type(each).__name__}, but must be a torch.Tensor")
        overridden = _overridden(type(self)) or self._parts.keys() & self.__dict__.keys()  # type: ignore[arg-type]
        if overridden:
            raise _library.UnsupportedError(
                f"{type(self).__name__} overrides {', '.join(sorted(overridden))}, which steps don't call: override step and "
                f"set_timesteps, or derive from diffusers.{self._original.__name__}"
            )
        if not is_beyond_reach(e, x, *slots):
            return super()._general_run(plan, row, e, x, noise, slots, out)
        dtype, common = self._types(e, x, noise)
        if _launch.takes(e, x, *slots, *([] if noise is None else [noise])):
            types = (dtype, common) if self.description.returns_report else (dtype,)
            made = _launch.step_by_record(row, plan, e, x, noise, slots, types, _tensors.computing_type(common))
            if made is not None:
                return made
        by_number = dict(zip(row.reads, slots))
        results, stored = step_by_row(row.row, plan.properties, e, x, noise, by_number, self.description.returns_report)
        work = _tensors.computing_type(common)
        return tuple(each.to(kind) for each, kind in zip(results, (dtype, common))), [each.to(work) for each in stored]

    # ---- Other operations

    def _mix(
        self, first: Tensor, second: Tensor, first_rates: Sequence[float], second_rates: Sequence[float], out: None = None
    ) -> Tensor:
        first, second = torch.broadcast_tensors(first, second)
        count = len(first_rates)
        if count > 1 and first.shape[0] == 1:
            first, second = first.expand(count, *first.shape[1:]), second.expand(count, *first.shape[1:])
        if is_beyond_reach(first, second):
            work = torch.promote_types(_tensors.common_type(first, second), torch.float32)
            rates = (torch.tensor(each, dtype=work, device=first.device) for each in (first_rates, second_rates))
            return self._sum(first, second, *rates)
        return super()._mix(first, second, first_rates, second_rates)

    def _sum(self, first: Tensor, second: Tensor, first_rates: Tensor, second_rates: Tensor) -> Tensor:
        """`_mix` by torch's operations, with the rates as tensors."""
        a, b = (rates.reshape(-1, *[1] * (first.ndim - 1)) for rates in (first_rates, second_rates))
        return (a * first.to(a.dtype) + b * second.to(b.dtype)).to(_tensors.common_type(first, second))

    def _mix_at(self, sample: Tensor, noise: Tensor, timesteps: Any, *, is_velocity: bool) -> Tensor:
        """Sample and noise, mixed with the rates of training timesteps.

        The mixture is signal_rate * sample + noise_rate * noise, or signal_rate * noise - noise_rate * sample if `is_velocity`.
        """
        timesteps = flat(timesteps)
        if self.description.timestep_type not in (None, "int64"):
            signal, noisy = self._current().rates_at(timesteps.tolist())
            return self._mix(sample, noise, signal, noisy)
        signal, noisy = self._current().training_rates
        count = len(signal)
        pair = (noise, sample) if is_velocity else (sample, noise)
        sign = -1 if is_velocity else 1
        if timesteps.is_cpu and not is_beyond_reach(sample, noise):
            indices = [int(t) for t in timesteps.tolist()]
            for index in indices:
                if not -count <= index < count:
                    raise _library.TimestepError(f"timesteps contain {index}, but must be from 0 to {count - 1}")
            return self._mix(*pair, [signal[t] for t in indices], [sign * noisy[t] for t in indices])
        # The rates are looked up on the sample's device, so that no timestep is read back.
        work = torch.promote_types(_tensors.common_type(sample, noise), torch.float32)
        a, b = (torch.tensor(rates, dtype=work, device=sample.device)[timesteps.to(sample.device)] for rates in (signal, noisy))
        return self._sum(*pair, a, sign * b)


@functools.lru_cache
def _overridden(cls: Any) -> list[str]:
    """The methods in `_parts` that a class derived from a drop-in overrides."""
    ahead = cls.__mro__[: cls.__mro__.index(cls._original)]
    return [name for name, part in cls._parts.items() if any(vars(each).get(name, part) is not part for each in ahead)]


def _are_equal(own: Any, table: Tensor) -> bool:
    return isinstance(own, Tensor) and own.shape == table.shape and torch.equal(own.to("cpu", table.dtype), table)


class StatelessDropIn(DropIn, Stateless):
    """The drop-ins whose steps depend only on their arguments."""

    def _number(self, timestep: Any) -> float:
        if self.description.timestep_type not in (None, "int64"):
            return float(self._value(timestep))
        # Negative timesteps count from the end of the training.
        value = int(self._value(timestep))
        return float(value if value >= 0 else value + int(self.config.num_train_timesteps))

    def _plan_of_tables(self, plan: Plan) -> Plan:
        return plan if self._spans_by_count else super()._plan_of_tables(plan)

    def _batch_step(self, model_output: Tensor, timesteps: Any, sample: Tensor, options: Options) -> Tensor:
        """The next samples of batch items at separate timesteps, [batch] or [1]. The timesteps are read back from their device.

        The samples' type also holds float32: the original's coefficients are float32 tensors, with one element for each item.
        """
        plan, numbers = self._ready(), [float(t) for t in flat(timesteps).tolist()]
        if self.num_inference_steps not in (None, len(plan.timesteps)):
            # The caller has assigned another number, which determines the span of steps.
            plan = plan.run(int(self.num_inference_steps), {})
        count = max(len(numbers), len(model_output), len(sample))
        e, x = (each.to(_tensors.at_least_float32(each.dtype)).expand(count, *each.shape[1:]) for each in (model_output, sample))
        if len(numbers) not in (1, count):
            raise _library.InvalidValueError(f"the number of timesteps is {len(numbers)}, but must be 1 or the batch's, {count}")
        made: list[Tensor] = []
        end = 0
        for timestep, items in itertools.groupby(numbers if len(numbers) == count else numbers * count):
            start, end = end, end + len(list(items))
            row = plan.rows_at.get(options, {}).get(timestep) or plan.row_at(timestep, options)
            made += self._run(plan, row, e[start:end], x[start:end], None, (), None)[0][:1]
        return torch.cat(made)


class CountedDropIn(StatelessDropIn):
    """The stateless drop-ins that also count their steps, for callers that read the originals' attributes."""

    def _set_tables(self, plan: Plan, device: str | torch.device | None, count: int | None) -> None:
        super()._set_tables(plan, device, count)
        self._step_index = self._begin_index = None

    def _counted(self, results: tuple[Tensor, ...], timestep: Any) -> tuple[Tensor, ...]:
        """The results of the step at a timestep. Counts the step."""
        index = self._begin_index if self._step_index is None else self._step_index
        if index is None:
            # Callers may have rounded the timestep to float32. A run that begins outside its plan is counted from 0.
            value = self._number(timestep)
            known = (i for i, each in enumerate(self._known_timesteps) if math.isclose(each, value, rel_tol=2.0**-22))
            index = next(known, 0)
        self._step_index = index + 1
        return results


class OrderedDropIn(DropIn, Ordered):
    """The drop-ins that count their steps in the originals' attributes."""

    _takes_first: ClassVar[bool]
    """Whether the original begins at the first of several evaluations at one timestep."""
    _knows_timesteps: ClassVar[bool]
    """Whether the original refuses a timestep that isn't in the run."""
    _repeated: float | None = None
    """The first timestep of a run, if the evaluation before also has this timestep, but can't begin a run."""

    def _set_tables(self, plan: Plan, device: str | torch.device | None, count: int | None) -> None:
        super()._set_tables(plan, device, count)
        self._begin_run()

    def _begin_run(self) -> None:
        state, history = self.__dict__, self._history
        # The original's set_timesteps has made the list with its greatest length.
        length = len(state.get(history) or ())
        super()._begin_run()
        if history and length and not state[history]:
            state[history] = [None] * length
            self._longest = self._oldest = length
        self._repeated = None

    def _remember(self, row: StepRow, stored: Sequence[Tensor], sample: Tensor) -> None:
        super()._remember(row, stored, sample)
        if not self._counter and "dt" in self.__dict__:
            # Like the kept tensors, dt shows that the next evaluation belongs to the step that has begun.
            levels, index = self._plan.sigmas, self._step_index or 0
            self.dt = levels[index + 1] - levels[index] if row.keeps else None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The index of the step at a timestep, as in the original: usually the second of several, and the last if there is none."""
        known = self._known_timesteps if schedule_timesteps is None else schedule_timesteps.tolist()
        value = self._value(timestep)
        indices = [index for index, candidate in enumerate(known) if candidate == value]
        if not indices and self._knows_timesteps:
            raise _library.TimestepError(f"timestep is {value}, but must be one of timesteps")
        is_second = len(indices) > 1 and not self._takes_first
        return indices[is_second] if indices else len(known) - 1

    def _init_step_index(self, timestep: Any) -> None:
        """Goes to the step at which a run begins."""
        if self._begin_index is not None:
            self._step_index = self._begin_index
            return
        index, known = self.index_for_timestep(timestep), self._known_timesteps
        if index > 1 and known[index] == known[index - 1] and self.__dict__.get(self._history) == []:
            # The run begins at the second evaluation with this timestep. A caller that also counts the first evaluation passes the
            # timestep twice, and the second call has nothing to do.
            self._repeated = known[index]
        self._step_index = index

    def _next_index(self, timestep: Any) -> int | None:
        index = self._step_index
        if self._repeated is None and index is not None and index + 1 < len(self._known_timesteps):
            return index  # The usual case.
        if self._repeated is not None and self.__dict__[self._history]:
            repeated, self._repeated = self._repeated, None
            if self._value(timestep) == repeated:
                return None
        if self._step_index is None:
            self._init_step_index(timestep)
        index = self._step_index
        assert index is not None
        count = len(self._known_timesteps) - self._lists_end
        if index >= count:
            raise _library.StepPastEndError(f"all {count} steps have been taken: call set_timesteps again")
        return index

    def _token_step(self, model_output: Tensor, timestep: Any, sample: Tensor, timesteps: Tensor, generator: Any) -> tuple[Tensor]:
        """A step of tokens at separate timesteps, [batch, tokens] or [batch, 1]. The timesteps are read back from their device.

        Each token goes to the greatest noise level of the run below its own. As in the original, the model output is the velocity
        towards the data unless the step draws noise, and the result's type also holds float32.
        """
        plan, index = self._ready(), self._next_index(timestep)
        draws = self._remembered(plan, index or 0)[0].draws
        e, x = (each.to(_tensors.at_least_float32(each.dtype)) for each in (model_output if draws else -model_output, sample))
        noise = self._draw(draws, generator, None, model_output, sample)
        count = float(self.config.num_train_timesteps)
        own, items = (timesteps / count).expand(x.shape[:2]).unique(return_inverse=True)
        levels = self.sigmas.to(own.device)
        below = torch.where(levels < (own - 1e-6)[:, None], levels, 0).amax(1)
        result = x.to(e.dtype, copy=True)
        for item, (level, target) in enumerate(zip(own.tolist(), below.tolist())):
            if level == 0:
                continue  # These tokens are clean.
            tokens, chosen = plan.on_levels([level * count], [level, target]), items.to(x.device) == item
            row = tokens.attribute_row(0, 0, False)
            result[chosen] = self._run(tokens, row, e[chosen], x[chosen], None if noise is None else noise[chosen], (), None)[0][0]
        self._step_index = (index or 0) + 1
        return (result,)


class SampledDropIn(OrderedDropIn):
    """The drop-ins whose noise comes from one Brownian motion over the noise levels."""

    order: int
    noise_sampler: Any
    mid_point_sigma: Tensor | None
    _motion: ClassVar[BrownianMotion]
    _is_sampled = True

    def _begin_run(self) -> None:
        super()._begin_run()
        self.noise_sampler = None
        if self._motion.overlaps:
            self.mid_point_sigma = None

    def _draw(self, count: int, generator: Any, noise: Tensor | None, model_output: Tensor, sample: Tensor) -> Tensor | None:
        if count == 0:
            return None
        motion = self._motion
        levels, index = self._motion_levels(), self._step_index or 0
        start = index - index % self.order
        source, target = levels[start], levels[start + 1]
        if source <= target:
            # The originals divide by a deviation of 0 here, or recurse without end. The noise vanishes in such a step.
            return super()._draw(count, generator, noise, model_output, sample)
        if self.noise_sampler is None:
            self.noise_sampler = self._make_motion(levels, generator, model_output, sample)
        if motion.overlaps:
            # The first evaluation of a step reads the increment to its middle, and the second the increment of the whole step.
            source, target, is_first = -source.log(), -target.log(), index == start
            if is_first:
                target = source + (target - source) * 0.5
            source, target = (-source).exp(), (-target).exp()
            self.mid_point_sigma = target if is_first else None
        increment: Tensor = self.noise_sampler(source, target).to(model_output.device)
        return increment

    def _motion_levels(self) -> Tensor:
        """The levels with the original's rounding, because a level's last bit changes an increment by a thousandth."""
        levels, theirs = self.sigmas, self._rounded_levels
        if (
            theirs is not None
            and theirs.is_cpu
            and theirs.shape == levels.shape
            and torch.allclose(theirs, levels, rtol=2.0**-21, atol=0)
        ):
            return theirs
        return levels

    def _make_motion(self, levels: Tensor, generator: Any, model_output: Tensor, sample: Tensor) -> Any:
        """The original's Brownian motion."""
        motion = self._motion
        if motion.seed is not None:
            seed = getattr(self, motion.seed)
        elif isinstance(generator, list):
            seed = [each.initial_seed() for each in generator]
        else:
            seed = None if generator is None else generator.initial_seed()
        ends = [self.config[key] for key in motion.range] or [levels[levels > 0].min().item(), levels.max().item()]
        if self.description.noise_type == "promoted":
            sample = sample.to(_tensors.common_type(model_output, sample))
        return vars(sys.modules[self._original.__module__])[TREE](sample, *ends, seed)


class CalledDropIn(DropIn):
    """The drop-ins that pipelines step by other methods than ``step`` at a timestep. All but these methods is the originals'."""

    _calls: ClassVar[Mapping[str, tuple[StepCall, type[Any]]]]
    """The methods by name, and the classes of their results."""
    _most_plans = 64
    """The number of levels whose plans are kept."""

    def _renew(self) -> None:
        self._internal_dict = Configuration(self._internal_dict)
        self._adopt_plan(Plan.of_run(self._values(), self.description.class_name, 1, {}))
        self._look()

    def _current(self) -> Plan:
        name = self.description.class_name
        raise _library.UnsupportedError(
            f"{name} steps by {' and '.join(self._calls)}, with noise levels of the caller's, and has no plan: "
            f"make plans from diffusion_scheduling.{name}"
        )

    def _plan_on(self, levels: tuple[float, ...]) -> Plan:
        """The plan of evaluations at these levels; the last level isn't evaluated."""
        base, plans = super()._current(), self._cache.plans
        if levels not in plans:
            if len(plans) == self._most_plans:
                plans.clear()
            plans[levels] = base.on_levels(list(levels[:-1]), list(levels))
        return plans[levels]

    def _levels_at(self, table: str, timestep: Any) -> tuple[float, float]:
        """The level at a share `timestep` of a table, and the one below it."""
        # Like the original's, the product is a float32 number, and its rounding decides.
        levels, share = getattr(self, table), torch.tensor(self._value(timestep), dtype=torch.float32, device="cpu")
        product = float(share * (len(self.timesteps) - 1))
        if not -1 < product < len(levels):
            raise _library.TimestepError(f"timestep is {float(share)}, but must be from 0 to 1")
        place = int(product)
        return float(levels[place]), float(levels[place - 1]) if place else 0.0

    def _call(self, name: str, given: dict[str, Any]) -> Any:
        """A step by the method of that name.

        given  the arguments by name
        """
        call, output = self._calls[name]
        e, x, noise = given["model_output"], given[call.sample], None
        if call.noise_type is not None:
            noise = _tensors.draw(given["generator"], e, x, (x,) if call.noise_type == "sample" else (), widens=False)
        levels: tuple[float, ...] = 1.0, 1.0
        if call.level_arguments:
            levels = *(float(self._value(given[argument])) for argument in call.level_arguments), 0.0
        elif call.level_table is not None:
            levels = self._levels_at(call.level_table, given["timestep"])
        elif noise is not None:
            # A row at the ratio of the norms is one at level 1, with scaled tensors. Thus no number is read back from a device.
            ratio = _mean_norm(noise) / _mean_norm(e)
            e, noise = ratio**2 * e.to(ratio.dtype), ratio * noise
        plan, place = self._plan_on(levels), (call.evaluation, call.evaluation, False)
        row = plan.attribute_rows.get(place) or plan.attribute_row(*place)
        results, stored = self._run(plan, row, e, x, noise, [given[source] for source, _ in row.sources], None)
        found = {**given, "prev_sample": results[0], self.description.report: results[1]}
        found.update((target, tensor) for (target, _), tensor in zip(row.targets, stored))
        if not given["return_dict"]:
            return tuple(found[result] for result in call.tuple_results)
        return output(**{result: found[result] for result in call.results})


def _mean_norm(tensor: Tensor) -> Tensor:
    """The mean of the batch items' Euclidean norms. Its type also holds float32."""
    return torch.linalg.vector_norm(tensor.to(_tensors.at_least_float32(tensor.dtype)).flatten(1), dim=1).mean()


# ---- Methods that only some originals have


def scale_model_input(self: Any, sample: Tensor, timestep: Any = None, *others: Any, **named: Any) -> Tensor:
    """The model's input at a timestep: the sample times the input scale. If all input scales are 1, `sample` itself.

    Like most originals, it ignores other arguments, such as a generator.
    """
    if self.num_inference_steps is None and not self._steps_unplanned:
        return sample
    plan = self._ready()
    if not plan.scales_inputs:
        return sample
    if self._step_index is None:
        self._init_step_index(timestep)
    scaled: Tensor = self._scaled(sample, plan.input_scales[self._step_index])
    return scaled


def add_noise(self: Any, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """signal_rate * original_samples + noise_rate * noise, with the rates at the timesteps, [batch] or [1].

    After ``set_begin_index``, the next step's rates are used instead, except for classes that add noise at training timesteps.
    """
    if self.description.adds_noise_at_training_levels:
        mixed: Tensor = self._mix_at(original_samples, noise, timesteps, is_velocity=False)
        return mixed
    plan, values = self._current(), flat(timesteps)
    if self.num_inference_steps is None and not hasattr(self, "betas"):
        # Timesteps of flow matching are real numbers.
        rates, positions = plan.rates_at(values.tolist()), list(range(len(values)))
    elif self.num_inference_steps is None:
        rates, most = plan.training_rates, plan.num_train_timesteps - 1
        positions = [min(max(int(t), 0), most) for t in values.tolist()]
    elif self._begin_index is None:
        rates, positions = plan.rates, [self.index_for_timestep(t) for t in values]
    else:
        rates, positions = plan.rates, [self._begin_index if self._step_index is None else self._step_index] * len(values)
    signal, noisy = ([each[position] for position in positions] for each in rates)
    mixed = self._mix(original_samples, noise, signal, noisy)
    return mixed


def scale_noise(self: Any, sample: Tensor, timestep: Tensor, noise: Tensor | None = None) -> Tensor:
    """`add_noise` with the name and the argument order of flow-matching schedulers."""
    return add_noise(self, sample, noise, timestep)


def get_velocity(self: Any, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """signal_rate * noise - noise_rate * sample at training timesteps, [batch] or [1]."""
    velocity: Tensor = self._mix_at(sample, noise, timesteps, is_velocity=True)
    return velocity


# ---- Classes


def _constructor(original: type[Any], class_name: str, module: str) -> Any:
    def check(*args: Any, **kwargs: Any) -> None:
        """Raises the library's error if it refuses the values."""
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        Plan.make({key: value for key, value in given.items() if key != "kwargs"}, class_name)

    @functools.wraps(original.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(isinstance(value, int) and value > LARGEST for value in (*args, *kwargs.values())):
            check(*args, **kwargs)  # The original may make a table of that length.
        try:
            original.__init__(self, *args, **kwargs)
        except NotImplementedError:
            check(*args, **kwargs)  # The library's message names the allowed values.
            raise
        if "alphas_cumprod" in self.__dict__:
            self._trained = self.alphas_cumprod.clone()
        if type(self).__module__ == module:
            # Pipelines write the module's name to their files, and diffusers must be able to read these without this package.
            self.__module__ = original.__module__
        if "_shift" in self.__dict__:
            self._made_span = self._span()
        self._made = dict(self._internal_dict)

    return __init__


def _output_class(original: type[Any]) -> type[Any]:
    """The class of the results of the original's ``step``: its module's own class, or else diffusers' common one."""
    module = sys.modules[original.__module__]
    outputs = [each for name, each in vars(module).items() if name.endswith("Output")]
    own = [each for each in outputs if getattr(each, "__module__", None) == module.__name__]
    return own[0] if own else SchedulerOutput


def _parameters(original: type[Any], method: str) -> tuple[list[inspect.Parameter], Any]:
    """The parameters of an original's method after ``self``, and its return annotation."""
    signature = inspect.signature(getattr(original, method))
    return [each for each in signature.parameters.values() if each.name != "self"], signature.return_annotation


def _later_source(original: type[Any]) -> str:
    """The source of an original without its constructor."""
    return inspect.getsource(original).replace(inspect.getsource(original.__init__), "")


def _fixed_keys(original: type[Any]) -> set[str]:
    """The keys that only the original's constructor reads."""
    return inspect.signature(original).parameters.keys() - set(re.findall(r"self\.config\.(\w+)", _later_source(original)))


def make_called_class(original: type[Any], description: Description, module: str) -> type[Any]:
    """The drop-in for an original that pipelines step by other methods than ``step`` at a timestep, with their signatures."""
    outputs = [each for name, each in vars(sys.modules[original.__module__]).items() if name.endswith("Output")]
    methods, calls = {}, {}
    for call in description.calls:
        parameters, returned = _parameters(original, call.name)
        given = "".join(f"{each.name!r}: {each.name}, " for each in parameters)
        body, documentation = f"self._call({call.name!r}, {{{given}}})", f"``{call.name}`` of the original, by the library."
        methods[call.name] = function(call.name, parameters, body, documentation, returned)
        calls[call.name] = call, next(each for each in outputs if getattr(each, "__annotations__", {}).keys() == {*call.results})
    members = {
        "__doc__": f"``diffusers.{description.class_name}``, with steps by the library.",
        "__module__": module,
        "__init__": _constructor(original, description.class_name, module),
        "description": description._replace(returns_report=True),
        **methods,
        "_original": original,
        "_watched": ("_internal_dict",),
        "_fixed": _fixed_keys(original),
        "_kept": {},
        "_parts": {},
        "_calls": calls,
    }
    return type(description.class_name, (CalledDropIn, original), members)


def make_class(original: type[Any], description: Description, module: str) -> type[Any]:
    """The drop-in for an original, with the signatures of its ``step`` and ``set_timesteps``."""
    if description.calls:
        return make_called_class(original, description, module)
    output, attributes = _output_class(original), description.attributes
    # A step depends only on its arguments if its caller keeps the tensors between steps.
    is_stateless = description.is_stateless or attributes.timestep is not None
    description = description._replace(returns_report=description.report in output.__annotations__, is_stateless=is_stateless)
    names = description.option_names

    def remade(name: str, known: set[str], body: str) -> Any:
        parameters, returned = _parameters(original, name)
        # Originals that take any keywords ignore unknown ones.
        unknown = [each for each in parameters if each.name not in known and each.kind != each.VAR_KEYWORD]
        given = {each.name for each in parameters}
        # Arguments that the original lacks are None.
        for each in known - given:
            body = body.replace(f"<{each}>", "None")
        for each in known:
            body = body.replace(f"<{each}>", each)
        if unknown:
            pairs = "".join(f"{each.name!r}: ({each.name}, default_{each.name}), " for each in unknown)
            body = f"self._only_defaults({{{pairs}}}) or ({body})"
        return function(name, parameters, body, f"``{name}`` of the original, by the library.", returned), given

    step_names = inspect.signature(original.step).parameters

    def told_as(option: Parameter) -> str:
        """The expression for a step's option. Numbers may be tensors, and their defaults may follow from the timestep."""
        given = f"<{option.key}>"
        if option.key in step_names and option.type == "float | None":
            return f"self._real({given})"
        if option.key not in step_names or not option.type.startswith("int"):
            return given
        if option.timestep_offset is not None:
            given = f"({given} if {given} is not None else self._number(timestep) + {option.timestep_offset})"
        return f"self._whole({given})"

    told = "".join(f"{told_as(option)}, " for option in description.options)
    output_given, slots_given = "model_output", ", ()" if is_stateless else ""
    known = {"model_output", "timestep", "sample", "generator", "variance_noise", "return_dict", *names}
    if attributes.timestep is not None:
        # Without the tensors, the step is a first one.
        known |= {*attributes.tensors, attributes.timestep}
        missing = " or ".join(f"<{name}> is None" for name in (*attributes.tensors, attributes.timestep))
        told += f"None if {missing} else self._number(<{attributes.timestep}>), "
        slots_given = f", ({''.join(f'<{name}>, ' for name in attributes.tensors)})"
    generator_given, noise_given, guard = "<generator>", "<variance_noise>", ""
    handed = description.step_arguments
    if handed is not None:
        lists = {**dict.fromkeys(handed.timesteps, "timesteps"), **dict.fromkeys(handed.sigmas, "sigmas")}
        known |= {handed.noise, handed.step_index, *lists}
        # Pipelines also pass a generator, from which a step with given noise doesn't draw.
        noise_given, generator_given = f"<{handed.noise}>", f"(<generator> if <{handed.noise}> is None else None)"
        pairs = "".join(f"{name!r}: (<{name}>, {attribute!r}), " for name, attribute in lists.items())
        guard = f"self._only_its_own(timestep, ({handed.step_index!r}, <{handed.step_index}>), {{{pairs}}}) or "
    if f"takes_{description.report}" in names:
        # The original's step also takes its own report as an argument, in place of the model output.
        known.add(description.report)
        told = told.replace(f"<takes_{description.report}>", f"None if <{description.report}> is None else True")
        output_given = f"(model_output if <{description.report}> is None else <{description.report}>)"
    base: type[DropIn] = OrderedDropIn if description.brownian_motion is None else SampledDropIn
    if description.is_stateless:
        base = CountedDropIn if "_step_index" in inspect.getsource(original.step) else StatelessDropIn
    arguments = f"{output_given}, timestep, sample, ({told}), {generator_given}, {noise_given}, None{slots_given}"
    taken = f"self._cache.step(self, {arguments})"
    if base is CountedDropIn:
        taken = f"self._counted({taken}, timestep)"
    if TOKEN_TIMESTEPS in step_names:
        known.add(TOKEN_TIMESTEPS)
        told_tokens = f"model_output, timestep, sample, {TOKEN_TIMESTEPS}, <generator>"
        taken = f"({taken} if {TOKEN_TIMESTEPS} is None else self._token_step({told_tokens}))"
    step, given = remade("step", known, f"{guard}(self._output(*{taken}) if return_dict else {taken})")
    batch_steps = {}
    if description.batch_step is not None:
        name, option = description.batch_step
        told = "".join("True, " if each == option else f"<{each}>, " for each in names)
        known = {"model_output", "timesteps", "sample", *names}
        batch_steps[name], _ = remade(name, known, f"self._batch_step(model_output, timesteps, sample, ({told}))")
    asked = "".join(f"{name!r}: <{name}>, " for name in ["timesteps", "sigmas", "mu", *names])
    known = {"num_inference_steps", "device", "timesteps", "sigmas", "mu", *names}
    planning = [each for each in inspect.signature(original.set_timesteps).parameters.values() if each.kind != each.VAR_KEYWORD]
    given_pairs = "".join(f"{each.name!r}: {each.name}, " for each in planning if each.name != "self")
    body = f"self._set_timesteps(<num_inference_steps>, <device>, {{{asked}}}, {{{given_pairs}}})"
    set_timesteps, _ = remade("set_timesteps", known, body)
    noising = (add_noise, scale_noise) if handed is None else ()  # The original's takes its tables as arguments.
    optional: dict[str, Any] = {each.__name__: each for each in (scale_model_input, *noising)}
    if description.has_velocity:
        optional["get_velocity"] = get_velocity
    source, later, fixed = inspect.getsource(original), _later_source(original), _fixed_keys(original)
    kept = {name: name.removeprefix("_") for name in re.findall(r"self\.(\w+)", later) if name.removeprefix("_") in fixed}
    doubled = [
        name
        for name in inspect.signature(original).parameters
        if {f"self.{name}", f"self.config.{name}"} <= {*re.findall(r"self\.[\w.]+", later)}
    ]
    called = [name for name in re.findall(r"self\.(\w+)\(", later) if hasattr(original, name) and not hasattr(base, name)]
    has_sigmas = "self.sigmas" in source
    spans_by_count = (
        description.is_stateless and not has_sigmas and "timesteps" not in inspect.signature(original.set_timesteps).parameters
    )
    looking_up = "> 1"
    for name in ("index_for_timestep", "_step_index_for"):
        if hasattr(original, name):
            looking_up = inspect.getsource(getattr(original, name))
    # The attributes that steps read besides the kept tensors. After planning, noise levels don't follow the signal variances.
    tables = ["timesteps", "sigmas", "_shift"] if has_sigmas else ["alphas_cumprod", *ENDS]
    if not (has_sigmas or spans_by_count):
        tables.append("timesteps")
    ours = parts(description)
    members = {
        "__doc__": f"``diffusers.{description.class_name}``, computed by the library.",
        "__module__": module,
        "__init__": _constructor(original, description.class_name, module),
        "description": description,
        "step": step,
        "set_timesteps": set_timesteps,
        **batch_steps,
        "_original": original,
        "_steps_unplanned": "self.timesteps =" in inspect.getsource(original.__init__)
        and "num_inference_steps is None" not in inspect.getsource(original.step),
        "_lists_end": description.lists_end,
        "_motion": description.brownian_motion,
        "_takes_first": "> 1" not in looking_up,
        "_knows_timesteps": re.search(r"(== 0|not indices\.numel\(\)):\s+raise ", looking_up) is not None,
        "_counter": description.attributes.age or "",
        "_history": description.attributes.history or "",
        "_watched": ("_internal_dict", "num_inference_steps", *tables, *kept, *doubled),
        "_fixed": fixed,
        "_kept": kept,
        "_parts": {**dict.fromkeys(called), **ours},
        "_doubled": doubled,
        "_has_sigmas": has_sigmas,
        "_takes_counted_lists": "!= num_inference_steps" in inspect.getsource(original.set_timesteps),
        "_needs_count": all(each.default is each.empty for each in planning if each.name == "num_inference_steps"),
        "_spans_by_count": spans_by_count,
        "_output": output,
        "_unset": tuple(each.default if each.key in given else None for each in description.options),
        **{name: method for name, method in optional.items() if hasattr(original, name)},
        **ours,
    }
    return type(description.class_name, (base, original), members)
