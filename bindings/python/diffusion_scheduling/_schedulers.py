# SPDX-License-Identifier: Apache-2.0

"""The schedulers for NumPy arrays: their bases, and the construction of each class from its description."""

from __future__ import annotations

import collections
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_uint
from inspect import Parameter
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from . import _arrays, _library
from ._arrays import Array
from ._configuration import Configuration
from ._core import Core, Ordered, Stateless, parts
from ._description import DESCRIPTIONS, Description, function
from ._handles import Plan
from ._library import Row, library

S = TypeVar("S", bound="ArrayScheduler")

CONFIG_NAME = "scheduler_config.json"


def read_only(name: str, get: Callable[[Any], Any], instead: str) -> Any:
    """An attribute that can't be assigned. The error says what to do instead."""

    def refuse(self: Any, value: Any) -> None:
        raise AttributeError(f"{name} can't be assigned: {instead}")

    return property(get, refuse)


def whole_numbers(values: Sequence[float]) -> Array:
    """Timesteps as int64, like diffusers'; as float64 if one isn't a whole number."""
    array = np.array(values, np.float64)
    integers = array.astype(np.int64)
    return integers if np.array_equal(integers, array) else array


class ArrayScheduler(Core):
    """A configuration, a plan, and a run through it.

    Tensors are NumPy arrays [batch, channels, ...] of float16, float32 or float64, contiguous or not. Their types may differ, and
    their shapes are broadcast. An argument ``out`` receives the result, which is also returned; it may be the memory of an input.
    """

    config: Configuration = read_only("config", attrgetter("_config"), "make another scheduler with from_config(config, key=value)")
    """The configuration, by key or attribute."""
    timesteps: Array
    """The timesteps that the model gets; the training timesteps before any have been set."""
    sigmas: Array
    """The noise levels: step i goes from sigmas[i] to sigmas[i + 1]. float32, or float64 if diffusers' are."""
    init_noise_sigma: float
    """The standard deviation of the noise that a run starts with."""
    num_inference_steps: int | None = read_only("num_inference_steps", attrgetter("_step_count"), "call set_timesteps")
    """The number of steps that has been set; None before."""

    _tensors = _arrays
    _watched = "timesteps", "sigmas"
    _output: ClassVar[type[tuple[Any, ...]]]
    """The named tuple that ``step`` returns."""

    # ---- Configurations

    def _adopt(self, plan: Plan) -> None:
        """Initializes the scheduler with a configuration that the library has read."""
        defaults = plan.defaulted_keys
        self._config = Configuration({**plan.config, **({"_use_default_values": defaults} if defaults else {})})
        self._threads = c_uint(0)
        self._unset = (None,) * len(self.description.options)
        self._step_count: int | None = None
        self._adopt_plan(plan)
        self._read_timesteps()

    @classmethod
    def _from(cls: type[S], make: Callable[..., Plan], source: Any, return_unused_kwargs: bool, others: Mapping[str, Any]) -> Any:
        # Some keys have different names as arguments.
        names = {name for each in cls.description.parameters for name in (each.key, each.name)}
        overrides = {key: value for key, value in others.items() if key in names}
        scheduler = cls.__new__(cls)
        scheduler._adopt(make(*source, cls.description.class_name, overrides))
        if not return_unused_kwargs:
            return scheduler
        known = {"_class_name", "_use_default_values", *names}
        return scheduler, {key: value for key, value in {**scheduler.config, **others}.items() if key not in known}

    @classmethod
    def from_config(cls: type[S], config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Makes the scheduler from the configuration of any scheduler.

        Keys that this class doesn't know are kept, to convert the configuration back. Keys that were never set get this class's
        defaults.

        config                a dictionary, or the ``config`` of a scheduler, also of diffusers'
        kwargs                values that replace those of `config`; keys that the class doesn't know are ignored
        return_unused_kwargs  whether to return a pair: the scheduler, and the unused items of `config` and `kwargs`

        Raises InvalidValueError, a ValueError.
        """
        if not isinstance(config, Mapping):
            raise _library.InvalidValueError(
                f"config is a {type(config).__name__}, but must be a dictionary; from_pretrained reads files"
            )
        return cls._from(Plan.make, (config,), return_unused_kwargs, kwargs)

    @classmethod
    def from_pretrained(
        cls: type[S],
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Makes the scheduler from a ``scheduler_config.json``. Nothing is downloaded.

        pretrained_model_name_or_path  the file, its folder, or the folder that contains `subfolder` with the file
        kwargs, return_unused_kwargs   see from_config

        Raises FileAccessError or MalformedError (both are OSErrors), or InvalidValueError.
        """
        return cls._from(Plan.load, (pretrained_model_name_or_path, subfolder), return_unused_kwargs, kwargs)

    def save_config(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes ``scheduler_config.json`` to a folder. Makes the folder if it doesn't exist."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_NAME).write_text(self._plan.config_text, "utf-8")

    save_pretrained = save_config

    @property
    def unused_keys(self) -> list[str]:
        """The keys of the configuration that have no effect on this scheduler."""
        return self._plan.unused_keys

    @property
    def sampler_names(self) -> list[str]:
        """The names from which ``make_scheduler`` makes a scheduler like this one: AUTOMATIC1111's first, then ComfyUI's."""
        return self._plan.sampler_names

    def __len__(self) -> int:
        return self._plan.num_train_timesteps

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self._plan.config_text}"

    # ---- Plans

    def _set_timesteps(self, num_inference_steps: int | None, arguments: dict[str, Any]) -> None:
        """``set_timesteps``. Arguments that are None count as left out, except the nullable options."""
        nullable = self.description.nullable_options
        arguments = {name: value for name, value in arguments.items() if value is not None or name in nullable}
        lists = [name for name in ("timesteps", "sigmas") if name in arguments]
        if self.description.lists_end and {len(arguments[name]) - 1 for name in lists} == {num_inference_steps}:
            num_inference_steps = None
        if (num_inference_steps is None) == (not lists):
            raise _library.InvalidValueError("set_timesteps needs either num_inference_steps, or timesteps or sigmas")
        self._adopt_plan(self._plan.run(int(num_inference_steps or 0), arguments))
        self._read_timesteps()
        count = len(self.timesteps)
        self._step_count = count if num_inference_steps is None else min(int(num_inference_steps), count)

    def _read_timesteps(self) -> None:
        self.timesteps = whole_numbers(self._plan.timesteps)
        self.sigmas = np.array(self._plan.sigmas, self.description.sigma_type)
        # Arrays don't count the writes to them, so these can't be written to. Callers may assign others.
        self.timesteps.flags.writeable = self.sigmas.flags.writeable = False
        self.init_noise_sigma = self._plan.init_noise_sigma
        self._known_timesteps: list[float] = self.timesteps.tolist()
        self._look()

    def _renew(self) -> None:
        """Plans the timesteps and noise levels that a caller has assigned, if the steps depend on them."""
        plan, known, kind = self._plan, np.asarray(self.timesteps).tolist(), self.description.sigma_type
        levels = np.asarray(self.sigmas, kind)
        is_planned = known == plan.timesteps and np.array_equal(levels, np.array(plan.sigmas, kind))
        is_lenient = self.description.is_stateless
        if plan.request is not None and not is_planned and not (is_lenient and len(levels) <= len(known)):
            try:
                plan = plan.on_levels(known, levels.tolist()[: len(known) + 1])
            except _library.UnsupportedError:
                if not is_lenient:
                    raise _library.UnsupportedError(
                        "timesteps or sigmas have been assigned, but must be those that set_timesteps plans: "
                        f"{self.description.class_name} steps at no others"
                    ) from None
        self._known_timesteps = known
        self._adopt_plan(plan)
        self._look()

    @property
    def alphas_cumprod(self) -> Array:
        """The signal variances of the training, [num_train_timesteps]; float32, or float64 if diffusers computes them so."""
        table = np.array(self._plan.alphas_cumprod)
        rounded = table.astype(np.float32)
        return rounded if np.array_equal(rounded, table) else table

    @property
    def max_threads(self) -> int:
        """The most threads that a call may use; 0: as many as the OpenMP runtime would use. Results don't depend on this number."""
        return self._threads.value

    @max_threads.setter
    def max_threads(self, count: int) -> None:
        self._threads.value = count

    def row(self, index: int, age: int | None = None) -> Row:
        """The scalars of step `index`, for engines that keep their tensors elsewhere.

        age  the number of steps that the run has taken before this one; None: `index`, as in a run from the start

        Raises InvalidValueError if the plan has no such step, or TimestepError before timesteps are set (both are ValueErrors).
        """
        if index < 0 or (age is not None and age < 0):
            raise _library.InvalidValueError(f"index is {index} and age is {age}, but both must be at least 0")
        return self._current().row(index, index if age is None else age)

    def plan_properties(self) -> _library.PlanProperties:
        """The properties that all steps of the plan share.

        Raises TimestepError before timesteps are set, and UnsupportedError for assigned timesteps that the class can't step at.
        """
        return self._current().properties

    def plan_json(self) -> str:
        """The whole plan as JSON, which ``Session.from_plan`` reads. Errors as for ``plan_properties``."""
        return self._current().text

    def output_weights(self) -> list[list[float]]:
        """The weights of a model's outputs in each step, [steps][outputs]; empty for models that give one output.

        A step takes all outputs, one after another on the last axis, or model_output = sum of weight * output. Errors as for
        ``plan_properties``.
        """
        return [list(weights) for weights in self._current().output_weights]

    def index_for_timestep(self, timestep: float) -> int:
        """The index of the first step at a timestep. Raises TimestepError, a ValueError."""
        self._current()
        try:
            return self._known_timesteps.index(timestep)
        except ValueError:
            raise _library.TimestepError(f"timestep is {timestep}, but must be one of {self._known_timesteps}") from None

    # ---- Other operations

    def scale_model_input(self, sample: Array, timestep: float | None = None) -> Array:
        """The model's input at a timestep of the plan: input = input_scale * sample. The scale is 1 for most schedulers.

        If all input scales are 1, or before timesteps are set, the result is `sample` itself.

        Raises TimestepError for a timestep that isn't the next step's, StepPastEndError (an IndexError) after the last step, and
        InvalidValueError for an array of another type.
        """
        if self._plan.request is None or not self._plan.scales_inputs:
            return sample
        return self._scaled(sample, self._ready().input_scales[self._next_index(timestep)])

    def _next_index(self, timestep: Any) -> int:
        return self.index_for_timestep(timestep)

    def add_noise(
        self, original_samples: Array, noise: Array, timesteps: float | Sequence[float] | Array, *, out: Array | None = None
    ) -> Array:
        """Adds noise: result = signal_rate * original_samples + noise_rate * noise, with the rates of each batch item's timestep.

        timesteps  one for all items, or [batch]. They belong to the plan. Before timesteps are set, and always for schedulers that
                   step between training timesteps, such as DDIM, they are training timesteps. For the other schedulers, after
                   set_begin_index, all items get the noise level of the next step instead, as in diffusers.

        Raises TimestepError for an unknown timestep, and InvalidValueError for arrays that don't match. Both are ValueErrors.
        """
        if self._begin_index is None or self.description.adds_noise_at_training_levels:
            return self._noisy(library.ds_scheduler_add_noise, original_samples, noise, timesteps, out)
        index = self._begin_index if self._step_index is None else self._step_index
        signal, noisy = self._current().rates
        return self._mix(original_samples, noise, signal[index : index + 1], noisy[index : index + 1], out)

    def scale_noise(
        self, sample: Array, timestep: float | Sequence[float] | Array, noise: Array, *, out: Array | None = None
    ) -> Array:
        """`add_noise` with the name and the argument order of diffusers' flow-matching schedulers. Errors as for `add_noise`."""
        return self.add_noise(sample, noise, timestep, out=out)

    def _noisy(self, function: Any, first: Array, second: Array, timesteps: Any, out: Array | None) -> Array:
        """Two arrays, combined by a library function with the rates of timesteps: one for all, or one for each batch item."""
        plan, values = self._current(), _library.doubles(np.ravel(timesteps).tolist())
        made: Array = self._combined(
            first, second, out, lambda x, y, to: function(plan.value, x, y, values, len(values), to, self._threads)
        )
        return made


class StatelessScheduler(ArrayScheduler, Stateless):
    """Steps depend only on their arguments. Many threads may take them at once, at any training timesteps, in any order."""

    def row_at(self, timestep: float, **options: Any) -> Row:
        """The scalars of the step at a training timestep, for engines that keep their tensors elsewhere.

        options  run options of this step, by name; others are those of the run

        Raises TimestepError or InvalidValueError, which are ValueErrors.
        """
        return self._ready().row_at(float(timestep), tuple(options.pop(name, None) for name in self.description.option_names)).row


class OrderedScheduler(ArrayScheduler, Ordered):
    """The steps of a run are taken in order. A run may begin at any timestep of the plan: add noise, then step from there.

    Only one thread at a time may use a run. Give each sampling thread a scheduler, for example a copy.
    """

    _checks_timesteps = True

    def _set_timesteps(self, num_inference_steps: int | None, arguments: dict[str, Any]) -> None:
        super()._set_timesteps(num_inference_steps, arguments)
        self._begin_run()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Makes the run begin at step `begin_index`, whatever timestep its first step is given.

        Raises InvalidValueError, a ValueError, if the plan has no such step.
        """
        if self.num_inference_steps is None:
            raise _library.InvalidValueError("no timesteps have been set: call set_timesteps first")
        if not 0 <= begin_index < len(self.timesteps):
            raise _library.InvalidValueError(f"begin_index is {begin_index}, but must be from 0 to {len(self.timesteps) - 1}")
        self._begin_run()
        self._begin_index = begin_index

    def _next_index(self, timestep: Any) -> int:
        index = self._step_index
        if index is None:
            return self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index
        if index == len(self._known_timesteps):
            raise _library.StepPastEndError(f"all {index} steps have been taken: call set_timesteps again")
        if timestep != self._known_timesteps[index]:
            raise _library.TimestepError(f"timestep is {timestep}, but must be {self._known_timesteps[index]} at step {index}")
        return index


FINAL = "diffusion_scheduling_final_alpha_cumprod"
"""The key for the signal variance before timestep 0, in classes that have the key."""


def final_alpha_cumprod(self: ArrayScheduler) -> Any:
    """The signal variance before timestep 0."""
    given = self.config.get(FINAL)
    return np.float32(given or (1 if self.config["set_alpha_to_one"] else self.alphas_cumprod[0]))


def get_velocity(
    self: ArrayScheduler,
    sample: Array,
    noise: Array,
    timesteps: float | Sequence[float] | Array,
    *,
    out: Array | None = None,
) -> Array:
    """The training target of v_prediction models: v = signal_rate * noise - noise_rate * sample.

    Salimans and Ho 2022, arXiv:2202.00512, section 4. Timesteps and errors as for ``add_noise``.
    """
    return self._noisy(library.ds_scheduler_get_velocity, sample, noise, timesteps, out)


# ---- Classes


def _outputs(report: str | None) -> type[tuple[Any, ...]]:
    """The named tuple that ``step`` returns with this report."""
    name = "".join(word.capitalize() for word in (report or "scheduler").split("_")) + "Output"
    fields = ["prev_sample", *([report] if report else [])]
    made: type[tuple[Any, ...]] = collections.namedtuple(name, fields, module=MODULE)  # type: ignore[misc]
    made.__doc__ = "The results of ``step``: the next sample (the previous one on the way from data to noise, hence the name)" + (
        f", and {report}." if report else "."
    )
    return made


MODULE = __name__.replace("._", ".")
"""The public module of the classes."""

REPORTS = {each.report if each.returns_report else None for each in DESCRIPTIONS.values()}
OUTPUTS = {report: _outputs(report) for report in sorted(REPORTS, key=str)}
"""The named tuples that ``step`` returns, by the name of the report."""


def constructor_parameters(description: Description) -> list[Parameter]:
    """The constructor's parameters: diffusers' in their order, then the library's own, by keyword only."""
    return [
        Parameter(
            each.name, Parameter.KEYWORD_ONLY if each.override_name else Parameter.POSITIONAL_OR_KEYWORD, default=each.default,
            annotation=each.type,
        )
        for each in sorted(description.parameters, key=lambda each: each.override_name is not None)
    ]  # fmt: skip


def option_parameters(description: Description) -> list[Parameter]:
    """The parameters for the options of a run. None stands for the value that has been set, or for the default."""
    return [
        Parameter(each.key, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=each.type.removesuffix(" | None") + " | None")
        for each in description.options
    ]


def planning_parameters(description: Description) -> list[Parameter]:
    annotations = {
        "num_inference_steps": "int | None",
        "device": "object",
        "timesteps": "Sequence[float] | Array | None",
        "sigmas": "Sequence[float] | Array | None",
        "mu": "float | None",
    }
    kind = Parameter.POSITIONAL_OR_KEYWORD
    first = [Parameter(name, kind, default=None, annotation=annotation) for name, annotation in annotations.items()]
    nullable, defaults = description.nullable_options, {each.key: each.default for each in description.options}
    first.append(Parameter("sigma_schedule", Parameter.KEYWORD_ONLY, default=None, annotation="str | None"))
    return first + [
        each.replace(kind=Parameter.KEYWORD_ONLY, default=defaults[each.name] if each.name in nullable else None)
        for each in option_parameters(description)
    ]


def step_parameters(description: Description) -> list[Parameter]:
    first = [("model_output", "Array"), ("timestep", "float"), ("sample", "Array")]
    last = [
        ("generator", "Generator | Sequence[Generator] | None", None),
        ("variance_noise", "Array | None", None),
        ("return_dict", "bool", True),
        ("out", "Array | None", None),
    ]
    return [
        *(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation) for name, annotation in first),
        *option_parameters(description),
        *(Parameter(name, Parameter.KEYWORD_ONLY, default=value, annotation=annotation) for name, annotation, value in last),
    ]


def _constructor(description: Description) -> Any:
    signature = inspect.Signature(constructor_parameters(description))
    extra = {each.name for each in description.parameters if each.override_name}

    def __init__(self: ArrayScheduler, *arguments: Any, **keywords: Any) -> None:
        given = signature.bind(*arguments, **keywords).arguments
        overrides = {name: given.pop(name) for name in extra & given.keys()}
        self._adopt(Plan.make(given, description.class_name, overrides))

    own = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = inspect.Signature([own, *signature.parameters.values()])  # type: ignore[attr-defined]
    __init__.__doc__ = "\n".join(each.text for each in description.parameters)
    return __init__


PLANNING = """Plans a run and goes to its start.

num_inference_steps  the number of steps, spaced as the configuration says
timesteps            the timesteps of the steps instead, noisiest first (noisiest last for an inverse)
sigmas               the noise levels of the steps instead, in the same order
mu                   the exponent of dynamic shifting
sigma_schedule       the name of another spacing for the steps' noise levels, such as kl_optimal: docs/SCHEDULERS.md lists the names
device               ignored: arrays are on the host
{}
The scheduler's class decides which of the arguments it takes. Raises ValueError."""

STEP = """Takes the step from the sample at a timestep to the next sample. `{}` has the formula.

timestep        {}
{}generator       the source of the noise, if the step draws noise: one, or [batch]; None: a source with a random seed
variance_noise  the noise itself instead, shaped like the sample
return_dict     False: returns a plain tuple
out             the array to write the next sample to

Raises TimestepError, StepPastEndError (an IndexError) or InvalidValueError."""


def make_class(description: Description) -> type[ArrayScheduler]:
    """The scheduler class of a description."""
    names = description.option_names
    told = "".join(f"{each.text}\n" for each in description.options)
    when = "of the training" if description.is_stateless else "of the plan; a run may begin at any of them, and continues in order"
    slots = ", ()" if description.is_stateless else ""
    options = "".join(f"{name}, " for name in names)
    taken = f"self._cache.step(self, model_output, timestep, sample, ({options}), generator, variance_noise, out{slots})"
    asked = "".join(f"{name!r}: {name}, " for name in ["timesteps", "sigmas", "mu", "sigma_schedule", *names])
    output = OUTPUTS[description.report if description.returns_report else None]
    ends = [each.name for each in description.parameters if each.key == FINAL]
    constructor = _constructor(description)
    summary = (
        f"diffusers' {description.class_name}, on NumPy arrays.\n\n{constructor.__doc__}"
        "\n\nRaises InvalidValueError, a ValueError, for a value that isn't allowed, or that excludes another."
    )
    members = {
        "__doc__": summary,
        "__init__": constructor,
        "description": description,
        "_output": output,
        "_counter": description.attributes.age or "",
        "_history": description.attributes.history or "",
        "set_timesteps": function(
            "set_timesteps", planning_parameters(description), f"self._set_timesteps(num_inference_steps, {{{asked}}})",
            PLANNING.format(told), None,
        ),
        "step": function(
            "step", step_parameters(description),
            f"self._output._make({taken}) if return_dict else {taken}",
            STEP.format(description.class_name, when, told),
            f"{output.__name__} | tuple[Array, ...]",
        ),
        **({"get_velocity": get_velocity} if description.has_velocity else {}),
        **{
            name: read_only(name, final_alpha_cumprod, f"make another scheduler with from_config(config, {name}=value)")
            for name in ends
        },
        **parts(description),
    }  # fmt: skip
    base = StatelessScheduler if description.is_stateless else OrderedScheduler
    return type(description.class_name, (base,), {**members, "__module__": MODULE})
