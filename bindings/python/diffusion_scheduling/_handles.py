# SPDX-License-Identifier: Apache-2.0

"""Owners of the library's handles: configurations and plans of runs, without tensors.

An object frees its handle when it is deleted. The schedulers for NumPy and for torch are built on these classes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, byref, c_double, c_size_t, c_uint64
from typing import Any, TypeVar

from . import _configuration, _library
from ._description import DESCRIPTIONS, Description
from ._library import Combination, PlanProperties, PreparedRow, Row, check, library, written

P = TypeVar("P", bound="Plan")

MOST_STEPS = 2**63
"""Step counts from here on are refused in Python: ctypes would wrap a number of more than 64 bits around."""

MOST_PLANS = 32
"""The most plans that are cached for other objects."""

MOST_ROWS, MOST_OPTIONS = 1000, 100
"""The most rows of `row_at` that a plan caches for each set of options, and the most sets of options."""


class Handle:
    """A library handle that is freed with this object."""

    _free = staticmethod(library.ds_scheduler_free)

    def __init__(self, value: c_uint64) -> None:
        self.value = value.value

    def __del__(self) -> None:
        # There is no handle if the constructor raised. At the end of the process, the function may be gone.
        if "value" in self.__dict__ and self._free is not None:
            self._free(self.value)


class StepRow:
    """A row of a plan, and its effects on the caller's tensors."""

    __slots__ = (
        *("row", "prepared", "quick", "draws", "is_weighted", "reads", "sources"),
        *("stores", "targets", "drops", "keeps", "is_push", "on_devices"),
    )

    def __init__(self, row: Row) -> None:
        self.row = row
        self.prepared: PreparedRow | None = None
        """The row as the library takes it; None before the first step by the library."""
        self.quick: tuple[Any, ...] | None = None
        """For ``QuickStep``: the prepared row's address, the members that a step needs, and the owner of the memory."""
        self.draws: int = row.n_noise_draws
        """The number of tensors of noise that the step draws."""
        self.is_weighted = False
        """Whether the row takes a weighted sum of the model's outputs."""
        self.reads: list[int] = row.read
        """The slots that the row reads, in the order of summation."""
        self.sources: list[tuple[str, int | None]] = []
        """For each slot in `reads`, the attribute that holds its tensor, and the index if the attribute is a list."""
        self.stores: list[int] = [row.stores[place].slot for place in range(row.n_stores)]
        """The slots that the row stores."""
        self.targets: Sequence[tuple[str, int | None]] = ()
        """For each slot in `stores`, the attribute that receives its tensor. With an index, the tensor is appended to a list."""
        self.drops: Sequence[str] = ()
        """The attributes whose tensors aren't needed after the step."""
        self.keeps: Sequence[str] = ()
        """The attributes that hold the step's own sample afterwards. The row doesn't store it."""
        self.is_push = False
        """Whether the step only appends one tensor to the history, and counts it."""
        self.on_devices: dict[Any, Any] = {}
        """The row as a record for the kernels, and the record's features, by device."""

    def prepare(self, plan: Plan) -> PreparedRow:
        """Prepares the row for steps with the plan's clamp."""
        prepared = PreparedRow()
        check(library.ds_scheduler_prepare_row(plan.value, byref(self.row), byref(prepared)))
        parts = self.reads, self.stores, self.sources, self.draws, self.keeps, self.is_push, self.is_weighted
        # Several threads may prepare the row at once, so the tuple itself keeps its memory alive.
        self.prepared, self.quick = prepared, (addressof(prepared), *parts, prepared)
        return prepared

    def without_samples(self) -> list[int]:
        """Removes the stores of the unchanged sample from the row, and returns their slots."""
        row, places = self.row, range(self.row.n_stores)
        copies = [place for place in places if bytes(row.stores[place].value) == _SAMPLE]
        slots = [self.stores[place] for place in copies]
        self.stores = [slot for slot in self.stores if slot not in slots]
        for place, other in enumerate(each for each in places if each not in copies):
            row.stores[place] = row.stores[other]
        row.n_stores = len(self.stores)
        return slots


_SAMPLE = bytes(Combination(sample=1))


class Plan(Handle):
    """A configuration and, if there is a request, the plan of a run. It never changes, so copies of a scheduler share it."""

    request: tuple[int, dict[str, Any]] | None = None
    """The number of steps (0 if the arguments determine it) and the arguments; None: no run is planned."""

    def __init__(self, value: c_uint64) -> None:
        super().__init__(value)
        self.rows_at: dict[tuple[Any, ...], dict[float, StepRow]] = {}
        """The rows that `row_at` has made, by options and timestep."""
        self.attribute_rows: dict[tuple[int, int, bool], StepRow] = {}
        """The rows that `attribute_row` has made, by its arguments."""

    @classmethod
    def make(cls: type[P], values: Mapping[str, Any], class_name: str, overrides: Mapping[str, Any] | None = None) -> P:
        """The configuration of a class with these values. `overrides` replace some of them."""
        raw = _configuration.text(values).encode()
        return cls._made(library.ds_scheduler_create, (raw, len(raw)), class_name, overrides)

    @classmethod
    def load(
        cls: type[P],
        path: str | os.PathLike[str],
        subfolder: str | None,
        class_name: str | None,
        overrides: Mapping[str, Any] | None = None,
    ) -> P:
        """The configuration in a file. `path` is the file or its folder. Without `class_name`, the file names the class."""
        where = os.fsencode(path), None if subfolder is None else os.fsencode(subfolder)
        return cls._made(library.ds_scheduler_load, where, class_name, overrides)

    @classmethod
    def named(cls: type[P], name: str, model: Any, overrides: Mapping[str, Any]) -> P:
        """The configuration for a sampler's name and a model; arguments as for ``make_scheduler``."""
        changes = _configuration.text(overrides).encode() if overrides else None
        base = None if model is None else cls._of_model(model)
        return cls(written(c_uint64, library.ds_scheduler_create_named, name.encode(), base.value if base else 0, changes))

    @classmethod
    def _of_model(cls: type[P], model: Any) -> P:
        """The configuration of a model, given as its scheduler, as a mapping, or as a path."""
        if isinstance(model, (str, os.PathLike)):
            return cls.load(model, None, None)
        config = getattr(model, "config", model)
        name = type(model).__name__
        if not isinstance(config, Mapping) or not (name in DESCRIPTIONS or "_class_name" in config):
            raise _library.InvalidValueError(
                f"model has the type {name} and no _class_name, but must be a scheduler, a configuration with it, or a path"
            )
        # A scheduler's own class decides, even if its configuration names another class.
        return cls.make(config, name if name in DESCRIPTIONS else config["_class_name"])

    @classmethod
    def _made(
        cls: type[P], function: Callable[..., int], source: Any, class_name: str | None, overrides: Mapping[str, Any] | None
    ) -> P:
        changes = _configuration.text(overrides).encode() if overrides else None
        return cls(written(c_uint64, function, *source, class_name and class_name.encode(), changes))

    @classmethod
    def of_run(
        cls, values: Mapping[str, Any] | str, class_name: str, count: int = 0, arguments: dict[str, Any] | None = None
    ) -> Plan:
        """The plan of a run of `count` steps; 0: the arguments determine the number.

        arguments  diffusers' arguments of set_timesteps, and the options of the run; None: nothing is planned
        """
        if not 0 <= count < MOST_STEPS:
            raise _library.InvalidValueError(f"number of steps is {count}, but must be at least 1")
        text = values if isinstance(values, str) else _configuration.text(values)
        if arguments is None:
            return _planned(text, class_name, 0, None)
        return _planned(text, class_name, count, _configuration.text(arguments))

    def run(self, count: int, arguments: dict[str, Any]) -> Plan:
        """The plan of another run with this configuration; arguments as for `of_run`."""
        return self.of_run(self.config_text, self.class_name, count, arguments)

    def again(self, arguments: dict[str, Any]) -> Plan:
        """The plan of this run with additional arguments, which take precedence."""
        assert self.request is not None
        return self.run(self.request[0], {**self.request[1], **arguments})

    def on_levels(self, timesteps: list[float], levels: list[float]) -> Plan:
        """The plan of a run with these timesteps and noise levels, and this plan's options. There is one more level."""
        assert self.request is not None
        options = {
            name: value for name, value in self.request[1].items() if name not in ("timesteps", "sigmas", "mu", "sigma_schedule")
        }
        return self.run(0, {**options, "timesteps": timesteps, "levels": levels})

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self

    def __reduce__(self) -> tuple[Callable[..., Plan], tuple[Any, ...]]:
        return _remade, (self.config_text, self.class_name, self.request)

    @functools.cached_property
    def description(self) -> Description:
        """The library's description of the class."""
        return DESCRIPTIONS[self.class_name]

    @functools.cached_property
    def class_name(self) -> str:
        name: str = self.config["_class_name"]
        return name

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The values of all parameters, and the keys kept for other classes."""
        config: dict[str, Any] = json.loads(self.config_text)
        return config

    @functools.cached_property
    def config_text(self) -> str:
        """The configuration as the text of a scheduler_config.json."""
        return _library.read_text(library.ds_scheduler_config_json, self.value)

    @property
    def defaulted_keys(self) -> list[str]:
        """The parameters that haven't been set."""
        keys: list[str] = json.loads(_library.read_text(library.ds_scheduler_defaulted_keys, self.value))
        return keys

    @property
    def unused_keys(self) -> list[str]:
        """The keys of the configuration that have no effect on this scheduler."""
        keys: list[str] = json.loads(_library.read_text(library.ds_scheduler_unused_keys, self.value))
        return keys

    @property
    def sampler_names(self) -> list[str]:
        """The sampler names that stand for this configuration."""
        names: list[str] = json.loads(_library.read_text(library.ds_scheduler_sampler_names, self.value))
        return names

    @property
    def text(self) -> str:
        """The whole plan as JSON."""
        return _library.read_text(library.ds_scheduler_plan_json, self.value)

    @property
    def num_train_timesteps(self) -> int:
        return written(c_size_t, library.ds_scheduler_num_train_timesteps, self.value).value

    @property
    def init_noise_sigma(self) -> float:
        return written(c_double, library.ds_scheduler_init_noise_sigma, self.value).value

    @property
    def alphas_cumprod(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_alphas_cumprod, self.value)

    @functools.cached_property
    def timesteps(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_timesteps, self.value)

    @functools.cached_property
    def listed_timesteps(self) -> list[float]:
        """The timesteps as diffusers lists them. Some classes also list the timestep that the last step leads to."""
        if self.request is None or not self.description.lists_end:
            return self.timesteps
        return [*self.timesteps, float(json.loads(self.text)["end_timestep"])]

    @functools.cached_property
    def sigmas(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_sigmas, self.value)

    @functools.cached_property
    def rates(self) -> tuple[list[float], list[float]]:
        """The signal rates and the noise rates of the plan's levels."""
        functions = library.ds_scheduler_signal_rates, library.ds_scheduler_noise_rates
        signal, noise = (_library.doubles_of(function, self.value) for function in functions)
        return signal, noise

    def rates_at(self, timesteps: Sequence[float]) -> tuple[list[float], list[float]]:
        """The signal rates and the noise rates of ``add_noise`` at timesteps.

        They are its results for the sample 1 with the noise 0, and for the sample 0 with the noise 1.
        """
        count = len(timesteps)
        given, ones, zeros = _library.doubles(timesteps), _library.doubles([1.0] * count), _library.doubles([0.0] * count)
        results = []
        for sample, noise in ((ones, zeros), (zeros, ones)):
            result = _library.doubles([0.0] * count)
            x, z, y = (_library.tensor(addressof(each), _library.FLOAT64, (count,)) for each in (sample, noise, result))
            check(library.ds_scheduler_add_noise(self.value, byref(x), byref(z), given, count, byref(y), 1))
            results.append(result[:])
        signal, noisy = results
        return signal, noisy

    @functools.cached_property
    def training_rates(self) -> tuple[list[float], list[float]]:
        """`rates_at` all training timesteps, for classes that add noise at these."""
        return self.rates_at(range(self.num_train_timesteps))

    @functools.cached_property
    def properties(self) -> PlanProperties:
        return written(PlanProperties, library.ds_scheduler_plan_properties, self.value)

    @functools.cached_property
    def warm_up(self) -> int:
        """Ages of at least this number have the same rows."""
        count: int = self.properties.warm_up
        return count

    @functools.cached_property
    def input_scales(self) -> list[float]:
        return _library.doubles_of(library.ds_scheduler_input_scales, self.value)

    @functools.cached_property
    def output_weights(self) -> list[list[float]]:
        """The weights of the model's outputs at each step; empty for models that give one output."""
        weights = _library.doubles_of(library.ds_scheduler_output_weights, self.value)
        count = len(weights) // max(self.properties.n_steps, 1)
        return [weights[start : start + count] for start in range(0, len(weights), count or 1)]

    @functools.cached_property
    def scales_inputs(self) -> bool:
        """Whether any input scale differs from 1."""
        return any(scale != 1 for scale in self.input_scales)

    def row(self, index: int, age: int) -> Row:
        """The scalars of step `index` in a run that has taken `age` steps before it."""
        return written(Row, library.ds_scheduler_row, self.value, index, age)

    def attribute_row(self, index: int, age: int, is_sampled: bool) -> StepRow:
        """The row of step `index` with the attributes of diffusers' objects as slots.

        is_sampled  whether noise comes from the original's Brownian motion. If the motion's increments overlap, steps with
                    independent noise need the plan's own row, and the attributes then hold the plan's slots.
        """
        motion = self.description.brownian_motion
        is_own = motion is not None and motion.overlaps and not is_sampled
        function = library.ds_scheduler_row if is_own else library.ds_scheduler_attribute_row

        def row_at(index: int, age: int) -> StepRow:
            return StepRow(written(Row, function, self.value, index, age))

        found, attributes = row_at(index, age), self.description.attributes
        names, history = attributes.tensors, attributes.history or ""

        def place(slot: int) -> tuple[str, int | None]:
            return (names[slot], None) if slot < len(names) else (history, len(names) - 1 - slot)

        if names:
            kept = found.without_samples()
            later = row_at(index + 1, age + 1).reads if index + 1 < len(self.timesteps) else ()
            found.keeps = [names[slot] for slot in kept]
            found.drops = [name for slot, name in enumerate(names) if slot not in (*found.stores, *kept, *later)]
        found.sources, found.targets = [place(slot) for slot in found.reads], [place(slot) for slot in found.stores]
        found.is_push = found.targets == [(history, -1)] and bool(attributes.age) and not names
        found.is_weighted = bool(self.output_weights)
        self.attribute_rows[index, age, is_sampled] = found
        return found

    def row_at(self, timestep: float, options: tuple[Any, ...]) -> StepRow:
        """The row of the step at a training timestep, for classes whose steps depend only on their arguments.

        options  the step's options; None: the run's option. For classes whose callers keep the tensors between steps, the last
                 element is the previous step's timestep; None: a first step.
        """
        known = self.description.options
        told = self.request[1] if self.request else {}
        told = {each.key: told.get(each.key) if value is None else value for each, value in zip(known, options)}
        told = {each.key: told[each.key] for each in known if told[each.key] not in (None, each.default)}
        if self.description.attributes.timestep:
            told[self.description.attributes.timestep] = options[-1]
        row = written(Row, library.ds_scheduler_row_at, self.value, timestep, _configuration.text(told).encode() if told else None)
        rows = self.rows_at.setdefault(options, {})
        if len(rows) >= MOST_ROWS or len(self.rows_at) > MOST_OPTIONS:
            self.rows_at.clear()
            rows = self.rows_at[options] = {}
        found = rows[timestep] = StepRow(row)
        return found


@functools.lru_cache(maxsize=MOST_PLANS)
def _planned(config_text: str, class_name: str, count: int, arguments_text: str | None) -> Plan:
    """The plan of a run. Plans are cached, because many objects ask for equal ones."""
    raw = config_text.encode()
    plan = Plan._made(library.ds_scheduler_create, (raw, len(raw)), class_name, None)
    if arguments_text is None:
        return plan
    arguments = json.loads(arguments_text)
    if "levels" in arguments:
        # Levels replace those of an existing plan, so a short run is planned first.
        shift = b'{"mu": 0}' if json.loads(config_text).get("use_dynamic_shifting") else None
        check(library.ds_scheduler_set_timesteps(plan.value, 4, shift))
    check(library.ds_scheduler_set_timesteps(plan.value, count, arguments_text.encode()))
    plan.request = count, arguments
    return plan


def _remade(config_text: str, class_name: str, request: tuple[int, dict[str, Any]] | None) -> Plan:
    if request is None:
        return Plan.make(json.loads(config_text), class_name)
    return Plan.of_run(config_text, class_name, *request)
