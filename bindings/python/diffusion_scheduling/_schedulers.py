# SPDX-License-Identifier: Apache-2.0

"""The schedulers for NumPy arrays: what all of them have in common.

A step has a fast way, for arrays as the step before had them, and a general one, which brings the arrays into the form that
the library takes: contiguous, of one shape and one element type.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from ctypes import addressof, byref, c_char, c_uint
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from . import _configuration, _library, _memory
from ._configuration import Configuration
from ._handles import Plan, Session
from ._library import StepCall, StepTensors, check, library

Array = npt.NDArray[Any]
S = TypeVar("S", bound="Scheduler")
Options: TypeAlias = tuple[Any, ...]
QuickStep: TypeAlias = Callable[..., "tuple[Array, ...] | None"]

CONFIG_NAME = "scheduler_config.json"

ELEMENT_TYPES: dict[np.dtype[Any], int] = {
    np.dtype(name): number
    for name, number in {
        "float32": _library.FLOAT32,
        "float64": _library.FLOAT64,
        "float16": _library.FLOAT16,
    }.items()
    if number in _library.element_types()
}
"""The library's element types, by the types of the arrays that it takes as they are."""


class SchedulerOutput(NamedTuple):
    """What ``step`` returns."""

    prev_sample: Array
    """The next sample: the previous one on the way from data to noise."""


class DDIMSchedulerOutput(NamedTuple):
    """What ``step`` of the DDIM schedulers returns."""

    prev_sample: Array
    """The next sample: the previous one on the way from data to noise."""
    pred_original_sample: Array
    """The predicted clean sample, after clipping or thresholding."""


# ---- Arrays


def address(array: Array) -> int:
    """Where the elements of a contiguous array are; ``array.ctypes.data`` in a third of the time."""
    try:
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError, BufferError):  # It can't be written to, or has no elements.
        return array.ctypes.data


def common_type(*arrays: Array) -> np.dtype[Any]:
    """The type that NumPy and torch promote these to."""
    dtype = np.result_type(*(array.dtype for array in arrays))
    if dtype.itemsize > 8 or any(array.dtype.kind != "f" for array in arrays):
        raise _library.InvalidValueError(
            f"arrays have the types {', '.join(array.dtype.name for array in arrays)}, but must have float16, float32 or float64"
        )
    return dtype


def computing_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that the library computes a result of `dtype` in."""
    return dtype if dtype in ELEMENT_TYPES else np.dtype(np.float32)


def as_tensor(array: Array) -> _library.Tensor:
    """The library's view of a contiguous array."""
    return _library.tensor(address(array), ELEMENT_TYPES[array.dtype], array.shape)


def matched(model_output: Array, sample: Array, learns_variance: bool) -> tuple[Array, Array]:
    """The two broadcast to one shape, unless the model output holds a variance besides."""
    if model_output.shape == sample.shape or learns_variance:
        return model_output, sample
    e, x = np.broadcast_arrays(model_output, sample)
    return e, x


def result_arrays(shape: tuple[int, ...], dtype: np.dtype[Any], work: np.dtype[Any], out: Array | None) -> tuple[Array, Array]:
    """The array to return, and the contiguous one of the computing type to write to: the same where possible."""
    if out is None:
        result = _memory.empty(shape, dtype)
    elif out.shape == shape and out.dtype == dtype and out.flags.writeable:
        result = out
    else:
        raise _library.InvalidValueError(
            f"out is {out.dtype.name}{list(out.shape)}, but must be a writeable {dtype.name}{list(shape)}"
        )
    return result, result if work == dtype and result.flags.c_contiguous else _memory.empty(shape, work)


def deliver(result: Array, target: Array) -> Array:
    """The array to return, once the other one has been written to."""
    if result is not target:
        np.copyto(result, target, casting="same_kind")
    return result


def sample_argument(arguments: tuple[Any, ...], sample: Any) -> Any:
    """The sample: by keyword, or the last positional argument; diffusers once had timesteps before it."""
    if sample is None and not arguments:
        raise _library.InvalidValueError("sample is missing: pass it by keyword, or after the model output")
    return arguments[-1] if sample is None else sample


def whole_numbers(values: Sequence[float]) -> Array:
    """Timesteps as int64, as diffusers has them; as float64 where one isn't a whole number."""
    array = np.array(values, np.float64)
    integers = array.astype(np.int64)
    return integers if np.array_equal(integers, array) else array


def _no_quick_step(*arguments: Any) -> None:
    """Placeholder until the first step: always takes the general path."""


def quick_step(call: StepCall, options: Options, sample: Array, model_output: Array, has_clean: bool) -> QuickStep:
    """A function that takes steps of arrays like these, which the library takes as they are, by nothing but the call.

    It is given options, timestep, model output, sample, noise or None, and the array to write to or None. It returns what
    ``step`` returns as a tuple; or None where the options are others or the arrays of another form, and then nothing has been
    done.
    """
    tensors, function, arguments, at = call
    te, tx, tz = tensors.model_output, tensors.sample, tensors.noise
    ty, tp = tensors.prev_sample, tensors.pred_original_sample
    has_noise = tensors.references[2] is not None
    shape, dtype, model_shape, model_dtype = sample.shape, sample.dtype, model_output.shape, model_output.dtype
    empty: Callable[..., Array] = np.empty if sample.nbytes < _memory.SMALLEST else _memory.empty
    # This fails for arrays that aren't contiguous or can't be written to.
    buffer = c_char.from_buffer
    # Threads may step with one DDIM scheduler at once: one that finds the structs in use takes the general way.
    unused = [tensors]

    def take(given: Options, timestep: float, e: Array, x: Array, z: Array | None, out: Array | None) -> tuple[Array, ...] | None:
        try:
            if (
                e.dtype is not model_dtype
                or x.dtype is not dtype
                or x.shape != shape
                or e.shape != model_shape
                or (z is None) is has_noise
                or given != options
            ):
                return None
            x_data = addressof(buffer(x))
            if out is None:
                y = empty(shape, dtype)
                y_data = addressof(buffer(y))
            elif out is x:
                y, y_data = x, x_data
            elif out.dtype is dtype and out.shape == shape:
                y = out
                y_data = addressof(buffer(y))
            else:
                return None
            e_data = addressof(buffer(e))
            if z is not None:
                z = z if z.dtype is dtype else z.astype(dtype)
                if z.shape != shape:
                    return None
                z_data = addressof(buffer(z))
            if has_clean:
                p = empty(shape, dtype)
                p_data = addressof(buffer(p))
            unused.pop()
        except (AttributeError, TypeError, ValueError, BufferError, IndexError):
            return None
        te.data, tx.data, ty.data = e_data, x_data, y_data
        if has_noise:
            tz.data = z_data
        if has_clean:
            tp.data = p_data
        if at is not None:
            at.value = timestep
        status = function(*arguments)
        unused.append(tensors)
        if status:
            raise _library.error(status)
        return (y, p) if has_clean else (y,)

    return take


class Scheduler:
    """A configuration, a plan, and a run through it.

    Tensors are NumPy arrays [batch, channels, ...] of float16, float32 or float64, contiguous or not; types may be mixed and
    shapes broadcast. Where there is an argument ``out``, the result is written there, which may be the memory of an input, and
    returned.
    """

    order = 1
    """How often the model is asked at each step."""
    config: Configuration
    """The configuration, by key or attribute."""
    timesteps: Array
    """What the model is told at each step, [num_inference_steps]; before they have been set those of the training."""
    sigmas: Array
    """The noise levels that the steps lead between, [num_inference_steps + 1], float32."""
    init_noise_sigma: float
    """The standard deviation of the noise that a run starts with."""
    num_inference_steps: int | None
    """The number of steps that has been set."""

    _plan: Plan
    _quick: QuickStep = staticmethod(_no_quick_step)
    """Takes steps of arrays such as the step before had."""
    _learns_variance = False
    """Whether a model output may hold a variance besides the prediction."""
    _extra_keys: Mapping[str, str] = {}
    """Overrides that diffusers has no key for, and what they are called in configuration files."""

    # ---- Configurations

    def _configure(self, text: str, given: Collection[str], overrides: Mapping[str, Any]) -> None:
        """Makes the scheduler of a configuration, in which `given` are the keys that somebody has set."""
        self._plan = Plan(text, type(self).__name__, overrides)
        values = self._plan.config
        names = _configuration.parameters(type(self))
        defaults = [name for name in names if name not in given and name not in overrides]
        if defaults:
            values["_use_default_values"] = defaults
        self.config = Configuration(values)
        self._threads = c_uint(0)
        self.num_inference_steps = None
        self._read_plan()

    @classmethod
    def from_config(cls: type[S], config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Makes the scheduler from another one's configuration.

        Keys that the class doesn't know are kept for the way back; keys that nobody had set get this class's defaults.

        config                a dictionary, or the ``config`` of any scheduler, also of diffusers'
        kwargs                values that replace those of `config`; those that the class doesn't know are passed over
        return_unused_kwargs  whether to return a pair, with what wasn't used of both
        """
        if not isinstance(config, Mapping):
            raise _library.InvalidValueError(
                f"config is a {type(config).__name__}, but must be a dictionary; from_pretrained reads files"
            )
        values = dict(config)
        known = {*_configuration.parameters(cls), *cls._extra_keys}
        given = values.keys() - set(values.get("_use_default_values", ()))
        scheduler = cls.__new__(cls)
        scheduler._configure(_configuration.text(values), given, {key: value for key, value in kwargs.items() if key in known})
        if not return_unused_kwargs:
            return scheduler
        own = {"_class_name", "_use_default_values"}
        return scheduler, {key: value for key, value in {**values, **kwargs}.items() if key not in known | own}

    @classmethod
    def from_pretrained(
        cls: type[S],
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Makes the scheduler that a ``scheduler_config.json`` describes; nothing is downloaded.

        pretrained_model_name_or_path  the file, or the folder with it, or with the subfolder with it
        kwargs, return_unused_kwargs   see from_config

        Raises FileAccessError, an OSError.
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            inner = path / (subfolder or "") / CONFIG_NAME
            path = inner if inner.exists() else path / CONFIG_NAME
        try:
            values = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise _library.FileAccessError(f"{path}: {error}") from None
        return cls.from_config(values, return_unused_kwargs, **kwargs)

    def save_config(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes ``scheduler_config.json`` to a folder, which is made if there is none."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_NAME).write_text(self._plan.config_text, "utf-8")

    save_pretrained = save_config

    @property
    def unused_keys(self) -> list[str]:
        """The keys of the configuration that have no effect on this scheduler."""
        return self._plan.unused_keys

    def __len__(self) -> int:
        return self._plan.num_train_timesteps

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self._plan.config_text}"

    # ---- Plans

    def _set(self, name: str, *arguments: Any) -> None:
        """Plans by the method of that name of ``Plan``."""
        self._plan.ask(name, *arguments)
        self._read_plan()
        self.num_inference_steps = len(self.timesteps)

    def _read_plan(self) -> None:
        self.timesteps = whole_numbers(self._plan.timesteps)
        self.sigmas = np.array(self._plan.sigmas, np.float32)
        self.init_noise_sigma = self._plan.init_noise_sigma
        self._known_timesteps: list[float] = self.timesteps.tolist()

    @property
    def alphas_cumprod(self) -> Array:
        """The signal variances of the training, [num_train_timesteps], float32."""
        return np.array(self._plan.alphas_cumprod, np.float32)

    @property
    def max_threads(self) -> int:
        """The most threads that a call may use; 0: as many as the OpenMP runtime would. Results don't depend on it."""
        return self._threads.value

    @max_threads.setter
    def max_threads(self, count: int) -> None:
        self._threads.value = count

    def row(self, index: int, age: int | None = None) -> _library.Row:
        """The scalars of step `index`, for engines whose tensors live elsewhere.

        age  how many steps the run has taken before; None: as in a run from the start

        Raises InvalidValueError, a ValueError, where there is no such step.
        """
        if index < 0 or (age is not None and age < 0):
            raise _library.InvalidValueError(f"index = {index}, age = {age}: allowed is at least 0")
        return self._plan.row(index, index if age is None else age)

    @property
    def plan_properties(self) -> _library.PlanProperties:
        """Properties of the whole plan."""
        return self._plan.properties

    @property
    def plan_json(self) -> str:
        """The whole plan as JSON."""
        return self._plan.text

    # ---- Steps

    def _take(
        self,
        make_call: Callable[[StepTensors], StepCall],
        options: Options,
        timestep: float,
        model_output: Array,
        sample: Array,
        noise: Array | None,
        out: Array | None,
        dtype: np.dtype[Any],
        work: np.dtype[Any],
        has_clean: bool,
    ) -> tuple[Array, ...]:
        """Takes a step of any arrays, and makes the quick step for the next ones.

        make_call  makes the call of the step with these tensors, of the scheduler's own and `options`
        dtype      of the results
        work       which the library computes in
        has_clean  whether the predicted clean sample is a result, too
        """
        e, x = np.asarray(model_output), np.asarray(sample)
        model_type = e.dtype if e.dtype in ELEMENT_TYPES else work
        as_given = x.dtype == dtype == work and e.dtype == model_type
        e, x = matched(e, x, self._learns_variance)
        e, x = np.asarray(e, model_type, order="C"), np.asarray(x, work, order="C")
        z = None if noise is None else np.asarray(np.broadcast_to(noise, x.shape), work, order="C")
        tensors = StepTensors(x.shape, ELEMENT_TYPES[work], e.shape, ELEMENT_TYPES[model_type], z is not None)
        results = [result_arrays(x.shape, dtype, work, out)]
        tensors.model_output.data, tensors.sample.data, tensors.prev_sample.data = address(e), address(x), address(results[0][1])
        if z is not None:
            tensors.noise.data = address(z)
        if has_clean:
            results.append(result_arrays(x.shape, dtype, work, None))
            tensors.pred_original_sample.data = address(results[1][1])
        call = make_call(tensors)
        if call.timestep is not None:
            call.timestep.value = timestep
        check(call.function(*call.arguments))
        self._quick = quick_step(call, options, x, e, has_clean) if as_given else _no_quick_step
        return tuple(deliver(result, target) for result, target in results)

    # ---- Beside the steps

    def scale_model_input(self, sample: Array, *args: Any, **kwargs: Any) -> Array:
        """The sample: these models are asked with the sample as it is."""
        return sample

    def _mix(self, first: Array, second: Array, rates: tuple[Sequence[float], Sequence[float]], out: Array | None) -> Array:
        """rates[0] * first + rates[1] * second, with one rate for all or one for each batch item."""
        dtype = common_type(np.asarray(first), np.asarray(second))
        work = computing_type(dtype)
        a, b = (np.asarray(each, work, order="C") for each in np.broadcast_arrays(first, second))
        result, target = result_arrays(a.shape, dtype, work, out)
        ta, tb, to = as_tensor(a), as_tensor(b), as_tensor(target)
        ra, rb = (_library.doubles(each) for each in rates)
        check(library.ds_add_noise_at(byref(ta), byref(tb), ra, rb, len(ra), byref(to), self.max_threads))
        return deliver(result, target)

    def _mix_by_training(
        self, function: Callable[..., int], first: Array, second: Array, timesteps: Any, out: Array | None
    ) -> Array:
        """As `_mix`, with the rates at timesteps of the training: one for all, or one for each batch item."""
        dtype = common_type(np.asarray(first), np.asarray(second))
        work = computing_type(dtype)
        a, b = (np.asarray(each, work, order="C") for each in np.broadcast_arrays(first, second))
        result, target = result_arrays(a.shape, dtype, work, out)
        ta, tb, to = as_tensor(a), as_tensor(b), as_tensor(target)
        values = _library.doubles(np.ravel(timesteps).tolist())
        check(function(self._plan.value, byref(ta), byref(tb), values, len(values), byref(to), self.max_threads))
        return deliver(result, target)

    # ---- Copies

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self._plan.config_text,
            "defaults": self.config.get("_use_default_values", []),
            "request": self._plan.request,
            "max_threads": self.max_threads,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        text = state["config"]
        self._configure(text, json.loads(text).keys() - set(state["defaults"]), {})
        self.max_threads = state["max_threads"]
        if state["request"] is not None:
            name, arguments = state["request"]
            self._set(name, *arguments)


class MultistepScheduler(Scheduler):
    """What the multistep schedulers have in common: a run that keeps model outputs in slots and counts its steps.

    The steps of a run are taken in their order. A run may begin at any timestep of the plan, which is how a picture is changed
    rather than made (image to image): ``add_noise`` at that timestep, then step from there.

    A run is one thread's at a time; threads that sample at once have a scheduler each, a copy for instance.
    """

    # ---- Plans

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        mu: float | None = None,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
    ) -> None:
        """Plans a run and goes to its start. One of these says which:

        num_inference_steps  so many steps, spaced as the configuration says
        timesteps            these, noisiest first (the other way round for the inverse)
        sigmas               these noise levels, likewise, without the one after the last step

        mu      by how much to shift flow sigmas, by e^mu, with ``use_dynamic_shifting``
        device  passed over: arrays are the host's

        Raises ValueError.
        """
        if sum(choice is not None for choice in (num_inference_steps, timesteps, sigmas)) != 1:
            raise _library.InvalidValueError("set_timesteps needs exactly one of num_inference_steps, timesteps and sigmas")
        if num_inference_steps is not None:
            self._set("set_steps", int(num_inference_steps), None if mu is None else float(mu))
        elif mu is not None:
            raise _library.InvalidValueError(f"mu is {mu}, but must be left out without num_inference_steps")
        elif timesteps is not None:
            self._set("set_custom_timesteps", [float(t) for t in timesteps])
        elif sigmas is not None:
            self._set("set_custom_sigmas", [float(s) for s in sigmas])

    def _read_plan(self) -> None:
        super()._read_plan()
        self._begin_index: int | None = None
        self._restart()

    # ---- Runs

    def _restart(self) -> None:
        """Goes to the start of the run, with empty slots."""
        self._session: Session | None = None
        self._index: int | None = None
        self._expected: float | None = None
        self._quick = _no_quick_step
        self._work: np.dtype[Any] | None = None

    @property
    def step_index(self) -> int | None:
        """The step that comes next; None before the first one."""
        return self._index

    @property
    def begin_index(self) -> int | None:
        """Where ``set_begin_index`` makes the run begin."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Makes the run begin at this step, whatever timestep its first step is given.

        Raises ValueError where there is no such step.
        """
        if not 0 <= begin_index < (self.num_inference_steps or 0):
            if self.num_inference_steps is None:
                raise _library.InvalidValueError("no timesteps have been set: call set_timesteps first")
            raise _library.InvalidValueError(f"begin_index is {begin_index}, but must be from 0 to {self.num_inference_steps - 1}")
        self._begin_index = begin_index
        self._restart()

    def index_for_timestep(self, timestep: float) -> int:
        """The first step at a timestep. Raises TimestepError, a ValueError."""
        try:
            return self._known_timesteps.index(timestep)
        except ValueError:
            raise _library.TimestepError(f"timestep is {timestep}, but must be one of {self._known_timesteps}") from None

    def _session_at(self, timestep: float) -> tuple[Session, int]:
        """The session that takes the step from a timestep, and the index of that step."""
        if self._session is not None and self._index is not None:
            if timestep != self._expected and self._expected is not None:
                raise _library.TimestepError(f"timestep is {timestep}, but must be {self._expected} at step {self._index}")
            return self._session, self._index
        if self.num_inference_steps is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index
        return Session.begin(self._plan, index), index

    @property
    def _learns_variance(self) -> bool:  # type: ignore[override]
        return self.config.get("variance_type") in ("learned", "learned_range")

    def _next_session(self) -> Session:
        """A session whose next step is this run's."""
        if self._session is not None:
            return self._session
        if self.num_inference_steps is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        return Session.begin(self._plan, self._begin_index or 0)

    def _result_type(self, model_output: Array, sample: Array) -> np.dtype[Any]:
        """The type of a next sample."""
        return common_type(model_output, sample)

    def _step(
        self, model_output: Array, timestep: float, sample: Array, noise: Array | None = None, out: Array | None = None
    ) -> tuple[Array, ...]:
        """The next sample, as a tuple."""
        if timestep == self._expected:
            result = self._quick((), timestep, model_output, sample, noise, out)
            if result is not None:
                self._advance()
                return result
        session, index = self._session_at(timestep)
        e, x = np.asarray(model_output), np.asarray(sample)
        dtype = self._result_type(e, x)
        # A run's slots have the type that it began with.
        work = self._work or computing_type(common_type(e, x))
        make_call = partial(session.step, threads=self._threads)
        result = self._take(make_call, (), timestep, e, x, noise, out, dtype, work, False)
        self._session, self._index, self._work = session, index, work
        self._advance()
        return result

    def _advance(self) -> None:
        """The step has been taken."""
        index = self._index = self._index + 1  # type: ignore[operator]
        known = self._known_timesteps
        self._expected = known[index] if index < len(known) else None

    # ---- The parts of a step

    def _convert(self, model_output: Array, arguments: tuple[Any, ...], sample: Array | None, out: Array | None) -> Array:
        session = self._next_session()
        e, x = np.asarray(model_output), np.asarray(sample_argument(arguments, sample))
        dtype = common_type(e, x)
        work = computing_type(dtype)
        e, x = matched(e, x, self._learns_variance)
        e, x = np.asarray(e, work, order="C"), np.asarray(x, work, order="C")
        result, target = result_arrays(x.shape, dtype, work, out)
        te, tx, ty = as_tensor(e), as_tensor(x), as_tensor(target)
        check(library.ds_session_convert_model_output(session.value, byref(te), byref(tx), byref(ty), self.max_threads))
        return deliver(result, target)

    def _update(
        self,
        order: int,
        model_outputs: Sequence[Array],
        arguments: tuple[Any, ...],
        sample: Array | None,
        noise: Array | None,
        out: Array | None,
    ) -> Array:
        session = self._next_session()
        x = np.asarray(sample_argument(arguments, sample))
        outputs = [np.asarray(output) for output in model_outputs[-order:]]
        dtype = common_type(*outputs, x)
        work = computing_type(dtype)
        x = np.asarray(x, work, order="C")
        outputs = [np.asarray(np.broadcast_to(output, x.shape), work, order="C") for output in outputs]
        result, target = result_arrays(x.shape, dtype, work, out)
        tensors = (_library.Tensor * len(outputs))(*[as_tensor(output) for output in outputs])
        tx, ty = as_tensor(x), as_tensor(target)
        z = None if noise is None else np.asarray(np.broadcast_to(noise, x.shape), work, order="C")
        tz = None if z is None else byref(as_tensor(z))
        check(library.ds_session_update(session.value, order, tensors, len(outputs), byref(tx), tz, byref(ty), self.max_threads))
        return deliver(result, target)

    # ---- Beside the steps

    def add_noise(
        self,
        original_samples: Array,
        noise: Array,
        timesteps: float | Sequence[float] | Array,
        *,
        out: Array | None = None,
    ) -> Array:
        """signal_rate * original_samples + noise_rate * noise, with the rates of each batch item's timestep.

        timesteps  one for all, or [batch]: of the plan, or of the training where there is none. Where set_begin_index has been
                   called, all items get the level of the step that comes next instead, as in diffusers.

        Raises TimestepError, a ValueError, for a timestep that there isn't.
        """
        if self.num_inference_steps is None:
            return self._mix_by_training(library.ds_scheduler_add_noise, original_samples, noise, timesteps, out)
        values = np.ravel(timesteps).tolist()
        if self._begin_index is None:
            indices = [self.index_for_timestep(t) for t in values]
        else:
            indices = [self._begin_index if self._index is None else self._index] * len(values)
        signal, noisy = self._plan.signal_rates, self._plan.noise_rates
        rates = [signal[i] for i in indices], [noisy[i] for i in indices]
        return self._mix(original_samples, noise, rates, out)

    # ---- Copies

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["session"] = (self._session.save(), self._index, self._work) if self._session is not None else None
        state["begin_index"] = self._begin_index
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin_index = state["begin_index"]
        if state["session"] is not None:
            saved, index, self._work = state["session"]
            self._session, self._index = Session.restore(self._plan, saved), index - 1
            self._advance()


class DDIMBase(Scheduler):
    """What DDIM and its inverse have in common: steps that depend on nothing but their arguments. Threads may take them at once."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        timesteps: Sequence[float] | Array | None = None,
    ) -> None:
        """Plans a run. One of these says which:

        num_inference_steps  so many steps, spaced as the configuration says
        timesteps            these, whole numbers, noisiest first (the other way round for the inverse)

        device  passed over: arrays are the host's

        Raises ValueError.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise _library.InvalidValueError("set_timesteps needs exactly one of num_inference_steps and timesteps")
        if num_inference_steps is not None:
            self._set("set_steps", int(num_inference_steps), None)
        elif timesteps is not None:
            self._set("set_custom_timesteps", [float(t) for t in timesteps])

    def _step(
        self,
        timestep: float,
        options: Options,
        model_output: Array,
        sample: Array,
        noise: Array | None,
        out: Array | None,
    ) -> tuple[Array, ...]:
        """The next sample and the predicted clean one.

        options  what the step depends on besides, as `_call` takes it
        """
        result = self._quick(options, timestep, model_output, sample, noise, out)
        if result is not None:
            return result
        e, x = np.asarray(model_output), np.asarray(sample)
        dtype = common_type(e, x) if noise is None else common_type(e, x, np.asarray(noise))
        work = computing_type(dtype)
        return self._take(partial(self._call, options), options, timestep, e, x, noise, out, dtype, work, True)

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        """The call of a step with these tensors and options."""
        raise NotImplementedError
