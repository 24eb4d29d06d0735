# SPDX-License-Identifier: Apache-2.0

"""What the drop-ins for diffusers' classes have in common, and how each is made of the original and the library's description."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from . import _configuration, _library, _tensors
from ._core import Core, Options, Ordered, Stateless, no_quick_step, parts
from ._description import Description, function
from ._handles import Plan, Session
from ._library import Row
from ._tensors import is_beyond_reach, step_by_row

LARGEST = 1_000_000
"""The library has no use for a number above; the originals may make a table of that length."""


def flat(timesteps: Any) -> Tensor:
    """Timesteps as a tensor [n], where they are; numbers on the host."""
    return (timesteps if isinstance(timesteps, Tensor) else torch.tensor(timesteps, device="cpu")).reshape(-1)


class DropIn(Core):
    """What all drop-ins have in common. The original's class comes after it, and its constructor is used as it is."""

    _index: int | None
    num_inference_steps: int | None = None
    timesteps: Tensor
    sigmas: Tensor
    betas: Tensor
    _shift: float
    """The shift of flow matching, which set_shift changes while the configuration stays; other originals have none."""
    sigma_min: float
    sigma_max: float

    _tensors = _tensors
    _original: ClassVar[type[Any]]
    _output: ClassVar[type[Any]]
    """What ``step`` returns."""
    _steps_unplanned = False
    """Whether the original steps through all timesteps of the training where none have been set."""
    _is_made = False
    """Whether the constructor has ended."""
    _plan_text = ""
    _planned_timesteps: Tensor | None = None
    """The tensor that `timesteps` was when the plan was made."""

    # ---- Configurations

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """The original's reading of a file. Of one that it can't read the library says why, or what it holds."""
        try:
            return super()._dict_from_json_file(json_file)  # type: ignore[misc]
        except (RecursionError, ValueError):
            return Plan.load(json_file, None, cls.description.class_name).config

    def _planned(self) -> Plan:
        """The plan of the configuration as it is now, which a caller may have changed."""
        # Values may have been set as attributes, which is what dynamic shifting does. Which keys nobody has set doesn't matter: all
        # have values here.
        values = {key: getattr(self.config, key, value) for key, value in self.config.items() if not key.startswith("_")}
        if "_shift" in self.__dict__:
            values["shift"] = self._shift
        if values.get("beta_end", 0) >= 1 and values.get("trained_betas") is None:
            # The original lets signal variances turn negative, at the end of a range that nothing is left of anyway.
            values["trained_betas"] = self.betas.clamp(max=1 - 2.0**-24).tolist()
        variance = values.get("variance_type")
        if variance is not None and not str(variance).startswith(("fixed", "learned")):
            values["variance_type"] = "fixed_small"  # As which the originals take any other word.
        text = _configuration.text(values)
        if self._plan is None or text != self._plan_text:
            self._plan, self._plan_text, self._quick = Plan.make(values, self.description.class_name), text, no_quick_step
        plan: Plan = self._plan
        return plan

    # ---- Plans

    def _only_defaults(self, given: dict[str, tuple[Any, Any]]) -> None:
        """Refuses arguments of the original's that the library has no use for, where they say something."""
        for name, (value, default) in given.items():
            if value is not default and value != default and value != self.config.get(name, default):
                raise _library.UnsupportedError(f"{name} is {value}, but must be left out: it isn't supported")

    def _set_timesteps(
        self, num_inference_steps: int | None, device: str | torch.device | None, arguments: dict[str, Any], given: dict[str, Any]
    ) -> None:
        """``set_timesteps``; arguments that are None count as left out.

        given  the arguments by the original's names
        """
        arguments = {name: value for name, value in arguments.items() if value is not None}
        lists = [name for name in ("timesteps", "sigmas") if name in arguments]
        # Flow matching may be given the number of its levels too, and UniPC a number that it doesn't read.
        is_counted = "_shift" in self.__dict__ and {len(arguments[name]) for name in lists} == {num_inference_steps}
        if is_counted or self.config.get("use_flow_sigmas") and "sigmas" in lists:
            num_inference_steps = None
        if (num_inference_steps is None) == (not lists):
            raise _library.InvalidValueError("set_timesteps needs exactly one of num_inference_steps and timesteps or sigmas")
        if arguments.get("mu") is not None:
            arguments["mu"] = float(arguments["mu"])
        count = 0 if num_inference_steps is None else int(num_inference_steps)
        if count and "_shift" in self.__dict__ and self._shift != self.config["shift"]:
            # As in the original, set_shift's value shifts a range that the constructor's value has shifted before.
            evenly = torch.linspace(self.sigma_max, self.sigma_min, count, dtype=torch.float64, device="cpu")
            arguments["sigmas"] = evenly.tolist()
            count = 0
        try:
            self._ask(device, count, arguments)
        except _library.InvalidValueError:
            # Originals whose constructors set timesteps can be made of what they can't step with.
            if self._is_made:
                raise
        else:
            self._leave_out_repetitions(device)
        planned = "timesteps", "sigmas", "num_inference_steps"
        ours = {name: value for name, value in self.__dict__.items() if name in planned}
        with contextlib.suppress(Exception):
            # The original may fail on what the library can plan. It sets attributes that only it knows, such as prk_timesteps, and
            # the configuration's flow_shift where mu is given.
            self._original.set_timesteps(self, **given)
        if self._plan is not None:
            self.__dict__.update(ours)

    def _leave_out_repetitions(self, device: str | torch.device | None) -> None:
        """Plans an inversion that doesn't ask the model at a timestep again.

        The original keeps the noise levels of the steps that it leaves out, and so ends some levels early.
        """
        known = self._known_timesteps
        unique = list(dict.fromkeys(known))
        # On the other grids timesteps aren't whole until they are cast, after the original has looked for repetitions.
        is_cast = any(self.config.get(f"use_{name}_sigmas") for name in ("exponential", "beta", "flow"))
        if len(unique) == len(known) or known[0] >= known[-1] or is_cast:
            return
        if self.config.get("use_karras_sigmas"):
            self._ask(device, 0, {"sigmas": [float(self.sigmas[known.index(t)]) for t in unique]})
        else:
            self._ask(device, 0, {"timesteps": unique})

    def _ask(self, device: str | torch.device | None, count: int, arguments: dict[str, Any]) -> None:
        plan = self._planned()
        plan.ask(count, arguments)
        # As in the originals: whole numbers but for the schedulers that scale the model's input, or are made for flows.
        is_whole = plan.properties.process == _library.VARIANCE_PRESERVING or self.config.get("use_flow_sigmas")
        dtype, timesteps = torch.int64 if is_whole else torch.float32, plan.timesteps
        # On the host unless a device is named, whatever torch's default device is: as the original.
        table = torch.tensor(timesteps, dtype=torch.float64, device="cpu").to(dtype)
        self._known_timesteps = table.tolist()
        self.timesteps = self._planned_timesteps = table.to(device or "cpu")
        self.num_inference_steps = min(count or len(timesteps), len(timesteps))
        self._read_plan()

    def _ready(self) -> Plan:
        if self.num_inference_steps is not None or not self._steps_unplanned:
            return super()._ready()
        if self._plan is None or self._plan.request is None:
            self._ask(None, int(self.config.num_train_timesteps), {})
            self.num_inference_steps = None
        plan: Plan = self._plan
        return plan

    def _value(self, timestep: Any) -> float:
        """The number that a timestep is. One of this scheduler's own needn't be read back from a device."""
        if not isinstance(timestep, Tensor):
            return timestep
        planned = self._planned_timesteps
        if (
            timestep.is_cpu
            or planned is None
            or timestep.device != planned.device
            or timestep.dtype != planned.dtype
            or timestep.untyped_storage().data_ptr() != planned.untyped_storage().data_ptr()
        ):
            return timestep.item()
        return self._known_timesteps[timestep.storage_offset()]

    # ---- Beside the steps

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
        """What `_mix` computes, by torch's operations."""
        a, b = (rates.reshape(-1, *[1] * (first.ndim - 1)) for rates in (first_rates, second_rates))
        return (a * first.to(a.dtype) + b * second.to(b.dtype)).to(_tensors.common_type(first, second))

    def _mix_at(self, sample: Tensor, noise: Tensor, timesteps: Any, *, is_velocity: bool) -> Tensor:
        """Sample and noise with the rates of timesteps of the training; the velocity has them the other way round."""
        timesteps = flat(timesteps)
        signal, noisy = (self._plan or self._planned()).training_rates
        count = len(signal)
        pair = (noise, sample) if is_velocity else (sample, noise)
        sign = -1 if is_velocity else 1
        if timesteps.is_cpu and not is_beyond_reach(sample, noise):
            indices = [int(t) for t in timesteps.tolist()]
            for index in indices:
                if not -count <= index < count:
                    raise _library.TimestepError(f"timesteps contain {index}, but must be from 0 to {count - 1}")
            return self._mix(*pair, [signal[t] for t in indices], [sign * noisy[t] for t in indices])
        # The rates are looked up where the timesteps are.
        work = torch.promote_types(_tensors.common_type(sample, noise), torch.float32)
        a, b = (torch.tensor(rates, dtype=work, device=sample.device)[timesteps.to(sample.device)] for rates in (signal, noisy))
        return self._sum(*pair, a, sign * b)

    # ---- Copies: each makes its own plan, which holds no memory of this one's.

    _transient = ("_quick", "_properties", "_plan", "_plans", "_rows", "_planned_rows", "_session")

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in self._transient}
        return {**state, "_request": None if self._plan is None else self._plan.request}

    def __setstate__(self, state: dict[str, Any]) -> None:
        request = state.pop("_request")
        self.__dict__.update(state)
        if request is not None:
            self._planned().ask(*request)
            self._read_plan()
            self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


class StatelessDropIn(DropIn, Stateless):
    """The drop-ins whose steps depend on nothing but their arguments."""

    def _number(self, timestep: Any) -> float:
        # Negative timesteps count from the training's end.
        value = int(self._value(timestep))
        return float(value if value >= 0 else value + int(self.config.num_train_timesteps))

    def _general_step(self, row: Row, e: Tensor, x: Tensor, noise: Tensor | None, out: None, dtype: Any) -> tuple[Tensor, ...]:
        if not is_beyond_reach(e, x):
            return super()._general_step(row, e, x, noise, out, dtype)
        results, _ = step_by_row(row, self._properties, e, x, noise, {}, self.description.returns_report)
        return tuple(result.to(dtype) for result in results)


class OrderedDropIn(DropIn, Ordered):
    """The drop-ins that count their steps, as the originals do, in the attributes that the originals have."""

    _is_lenient = True
    _slots: dict[int, Tensor] | None = None
    """The tensors that steps have stored, where torch's operations take the steps; else the session has them."""
    _age: int = 0
    """How many steps torch's operations have taken."""
    _repeated: float | None = None
    """The timestep that a run has begun with, where the evaluation before has it too but no run can begin there."""

    def _read_plan(self) -> None:
        super()._read_plan()
        self.sigmas = torch.tensor(self._plan.sigmas, dtype=torch.float32, device="cpu")
        if "model_outputs" in self.__dict__:
            self.model_outputs = [None] * self.config.solver_order
            self.lower_order_nums = 0

    def _restart(self) -> None:
        super()._restart()
        self._slots, self._age, self._repeated = None, 0, None

    @property
    def _step_index(self) -> int | None:
        return self._index

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        """Goes to a step, or to before the first one, with empty slots."""
        self._restart()
        self._index = index

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The step at a timestep, as leniently as the original looks it up: of several the second, of none the last."""
        known = self._known_timesteps if schedule_timesteps is None else schedule_timesteps.tolist()
        value = self._value(timestep)
        indices = [index for index, candidate in enumerate(known) if candidate == value]
        return indices[1] if len(indices) > 1 else indices[0] if indices else len(known) - 1

    def _init_step_index(self, timestep: Any) -> None:
        self._step_index = self._first_index(timestep)

    def _first_index(self, timestep: Any) -> int:
        """The step that a run begins with."""
        if self._begin_index is not None:
            return self._begin_index
        index, known = self.index_for_timestep(timestep), self._known_timesteps
        if index > 1 and known[index] == known[index - 1] and not self._plan.begins_at(index - 1):
            self._repeated = known[index]
        return index

    def _next_index(self, timestep: Any) -> int | None:
        if self._repeated is not None and (self._session is not None or self._slots is not None):
            # The run has begun after an evaluation that its caller counts: PNDM's second one, which belongs to the first step.
            repeated, self._repeated = self._repeated, None
            if self._value(timestep) == repeated:
                return None
        index = self._first_index(timestep) if self._index is None else self._index
        if index >= len(self._known_timesteps):
            raise _library.StepPastEndError(f"all {len(self._known_timesteps)} steps have been taken: call set_timesteps again")
        return index

    def _general_step(
        self, index: int, options: Options, e: Tensor, x: Tensor, noise: Tensor | None, out: None, dtype: Any
    ) -> tuple[Tensor, ...]:
        if self._session is None and (self._slots is not None or is_beyond_reach(e, x)):
            row, slots = self._plan_with(options).row(index, self._age), self._slots or {}
            results, self._slots = step_by_row(row, self._properties, e, x, noise, slots, self.description.returns_report)
            self._age += 1
            return tuple(result.to(dtype) for result in results)
        if is_beyond_reach(e, x):
            raise _library.InvalidValueError(
                "the tensors have changed device or need gradients since the first step, but must stay as they were"
            )
        result: tuple[Tensor, ...] = super()._general_step(index, options, e, x, noise, out, dtype)
        self._is_plain = self._is_plain and self._repeated is None
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_saved": None if self._session is None else self._session.save()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        super().__setstate__(state)
        if saved is not None:
            self._session = Session.restore(self._plan_with(self._session_options), saved)


# ---- Methods for the classes whose originals have them


def scale_model_input(self: Any, sample: Tensor, timestep: Any = None) -> Tensor:
    """The model's input at a timestep: most schedulers' models are asked with the sample as it is."""
    if self.num_inference_steps is None and not self._steps_unplanned:
        return sample
    self._ready()
    if not self._scales_inputs:
        return sample
    self._index = self._next_index(timestep)
    scaled: Tensor = self._scaled(sample, self._index)
    return scaled


def add_noise(self: Any, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The samples with as much noise as there is at the timesteps, [batch] or [1].

    Where ``set_begin_index`` has been called, at the step that comes next instead; not so for classes that add noise at timesteps
    of the training.
    """
    if self.description.adds_noise_at_training_levels:
        mixed: Tensor = self._mix_at(original_samples, noise, timesteps, is_velocity=False)
        return mixed
    plan, values = self._plan or self._planned(), flat(timesteps)
    if self.num_inference_steps is None and not hasattr(self, "betas"):
        # Timesteps of flow matching are real numbers.
        rates, positions = plan.rates_at(values.tolist()), list(range(len(values)))
    elif self.num_inference_steps is None:
        rates, most = plan.training_rates, plan.num_train_timesteps - 1
        positions = [min(max(int(t), 0), most) for t in values.tolist()]
    elif self._begin_index is None:
        rates, positions = plan.rates, [self.index_for_timestep(t) for t in values]
    else:
        rates, positions = plan.rates, [self._begin_index if self._index is None else self._index] * len(values)
    signal, noisy = ([each[position] for position in positions] for each in rates)
    mixed = self._mix(original_samples, noise, signal, noisy)
    return mixed


def scale_noise(self: Any, sample: Tensor, timestep: Tensor, noise: Tensor | None = None) -> Tensor:
    """`add_noise` with the name and the order of arguments that flow-matching schedulers have."""
    return add_noise(self, sample, noise, timestep)


def get_velocity(self: Any, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """signal_rate * noise - noise_rate * sample at timesteps of the training, [batch] or [1]."""
    velocity: Tensor = self._mix_at(sample, noise, timesteps, is_velocity=True)
    return velocity


# ---- Classes


def _constructor(original: type[Any], class_name: str) -> Any:
    @functools.wraps(original.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(isinstance(value, int) and value > LARGEST for value in (*args, *kwargs.values())):
            # The original may make a table of so many elements. The library refuses the number in words.
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            Plan.make({key: value for key, value in given.items() if key != "kwargs"}, class_name)
        original.__init__(self, *args, **kwargs)
        self._is_made = True

    return __init__


def _output_class(original: type[Any]) -> type[Any]:
    """The class of what the original's ``step`` returns: the one of its module, if that has one."""
    module = sys.modules[original.__module__]
    outputs = [each for name, each in vars(module).items() if name.endswith("Output")]
    own = [each for each in outputs if getattr(each, "__module__", None) == module.__name__]
    return own[0] if own else SchedulerOutput


def make_class(original: type[Any], description: Description, module: str) -> type[Any]:
    """The drop-in for an original, with the signatures of its ``step`` and ``set_timesteps``."""
    output = _output_class(original)
    description = description._replace(returns_report=description.report in output.__annotations__)
    names = description.option_names

    def remade(name: str, known: set[str], body: str) -> Any:
        method = inspect.signature(getattr(original, name))
        parameters = [each for each in method.parameters.values() if each.name != "self"]
        unknown = [each for each in parameters if each.name not in known]
        given = {each.name for each in parameters}
        # Arguments that the original doesn't have are None.
        for each in known - given:
            body = body.replace(f"<{each}>", "None")
        for each in known:
            body = body.replace(f"<{each}>", each)
        if unknown:
            pairs = "".join(f"{each.name!r}: ({each.name}, default_{each.name}), " for each in unknown)
            body = f"self._only_defaults({{{pairs}}}) or ({body})"
        return function(name, parameters, body, f"``{name}`` of the original, by the library.", method.return_annotation), given

    told = "".join(f"<{name}>, " for name in names)
    arguments = f"model_output, timestep, sample, ({told}), <generator>, <variance_noise>"
    known = {"model_output", "timestep", "sample", "generator", "variance_noise", "return_dict", *names}
    step, given = remade("step", known, f"self._output(*self._step({arguments})) if return_dict else self._step({arguments})")
    asked = "".join(f"{name!r}: <{name}>, " for name in ["timesteps", "sigmas", "mu", *names])
    known = {"num_inference_steps", "device", "timesteps", "sigmas", "mu", *names}
    given_pairs = "".join(f"{name!r}: {name}, " for name in inspect.signature(original.set_timesteps).parameters if name != "self")
    body = f"self._set_timesteps(<num_inference_steps>, <device>, {{{asked}}}, {{{given_pairs}}})"
    set_timesteps, _ = remade("set_timesteps", known, body)
    optional: dict[str, Any] = {each.__name__: each for each in (scale_model_input, add_noise, scale_noise)}
    if description.has_velocity:
        optional["get_velocity"] = get_velocity
    members = {
        "__doc__": f"``diffusers.{description.class_name}``, by the library.",
        "__module__": module,
        "__init__": _constructor(original, description.class_name),
        "description": description,
        "step": step,
        "set_timesteps": set_timesteps,
        "_original": original,
        "_steps_unplanned": "num_inference_steps is None" not in inspect.getsource(original.step),
        "_output": output,
        "_unset": tuple(each.default if each.key in given else None for each in description.options),
        **{name: method for name, method in optional.items() if hasattr(original, name)},
        **parts(description.class_name),
    }
    base = StatelessDropIn if description.is_stateless else OrderedDropIn
    return type(description.class_name, (base, original), members)
