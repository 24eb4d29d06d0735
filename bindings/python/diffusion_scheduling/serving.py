# SPDX-License-Identifier: Apache-2.0

"""Serving: many requests, each a session on a plan, stepped one by one or many in one call.

    scheduler = DPMSolverMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    sessions = [Session(scheduler), None, Session(scheduler, begin_index=7)]   # a row of the batch each; None: the row is free
    timesteps = [0 if session is None else session.timestep for session in sessions]
    x = step_rows(sessions, model(x, timesteps), x)

A session keeps the plan that the scheduler had when it was made. Different sessions may step on different threads at once; the
library releases the interpreter's lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_bool, c_double, c_size_t, c_uint64
from typing import NamedTuple, NoReturn

import numpy as np

from . import _library
from ._arrays import ELEMENT_TYPES, Array, as_tensor, common_type, deliver, result_arrays
from ._handles import Handle
from ._library import check, library, written
from ._schedulers import ArrayScheduler


class Guidance(NamedTuple):
    """Guidance without a classifier: a step uses e = e_u + scale (e_c - e_u) of the outputs with and without the condition.

    Ho and Salimans 2022, arXiv:2207.12598, equation 6. With `rescale` in (0, 1] each batch item of e is scaled back to that share
    to the standard deviation of e_c (Lin et al. 2023, arXiv:2305.08891, section 3.4).
    """

    scale: float
    rescale: float = 0.0


def _argument(name: str, array: Array, shape: tuple[int, ...] | None = None) -> Array:
    """A contiguous array of a type that the library has, and of that shape if one is given."""
    array = np.asarray(array)
    common_type(array)
    if shape is not None and array.shape != shape:
        raise _library.InvalidValueError(f"{name} has the shape {list(array.shape)}, but must have {list(shape)}")
    return np.ascontiguousarray(array, array.dtype if array.dtype in ELEMENT_TYPES else np.float32)


def _check_index(begin_index: int) -> None:
    if begin_index < 0:
        raise _library.InvalidValueError(f"begin_index is {begin_index}, but must be at least 0")


class _Arguments:
    """The tensors of a step, and what keeps their memory."""

    def __init__(
        self, model_output: Array, sample: Array, unconditional: Array | None, noise: Array | None, out: Array | None
    ) -> None:
        self.sample = _argument("sample", sample)
        e = _argument("model_output", model_output)
        u = None if unconditional is None else _argument("unconditional", unconditional, e.shape)
        z = None if noise is None else _argument("noise", noise, self.sample.shape).astype(self.sample.dtype, copy=False)
        dtype = np.asarray(sample).dtype
        self.result, self.target = result_arrays(self.sample.shape, dtype, self.sample.dtype, out)
        self.arrays = e, u, self.sample, z, self.target
        self.tensors = [None if array is None else as_tensor(array) for array in self.arrays]
        self.references = [None if tensor is None else byref(tensor) for tensor in self.tensors]

    def deliver(self) -> Array:
        return deliver(self.result, self.target)


class Session(Handle):
    """One request on its way through a plan.

    scheduler    one whose timesteps have been set; with the options of the run
    begin_index  the first step to take; later ones than 0 are for image-to-image
    """

    max_threads = 0
    """The most threads that a step may use; 0: as many as the OpenMP runtime would."""
    _free = staticmethod(library.ds_session_free)

    def __init__(self, scheduler: ArrayScheduler, begin_index: int = 0) -> None:
        _check_index(begin_index)
        super().__init__(written(c_uint64, library.ds_session_create, scheduler._current().value, begin_index))

    @classmethod
    def _of(cls, handle: c_uint64, max_threads: int = 0) -> Session:
        session = cls.__new__(cls)
        Handle.__init__(session, handle)
        session.max_threads = max_threads
        return session

    @classmethod
    def from_plan(cls, plan_json: str, begin_index: int = 0) -> Session:
        """A session on the plan that a scheduler's ``plan_json`` described, here or elsewhere; for further ones ``copy`` it."""
        _check_index(begin_index)
        text = plan_json.encode()
        return cls._of(written(c_uint64, library.ds_session_create_on_plan, text, len(text), begin_index))

    def copy(self) -> Session:
        """A session that stands where this one does and goes its own way from there; the slots are shared until then."""
        return self._of(written(c_uint64, library.ds_session_copy, self.value), self.max_threads)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> Session:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session can't be pickled: save gives its state, and restore makes a session of that")

    def reset(self) -> None:
        """Goes back to the first step and forgets everything else, for another request."""
        check(library.ds_session_reset(self.value))

    @property
    def step_index(self) -> int:
        """The step that comes next, from 0; the number of steps after the last one."""
        return written(c_size_t, library.ds_session_step_index, self.value).value

    @property
    def timestep(self) -> float | None:
        """What the model is told at the next step; None after the last one."""
        try:
            return written(c_double, library.ds_session_timestep, self.value).value
        except _library.StepPastEndError:
            return None

    @property
    def needs_noise(self) -> bool:
        """Whether the next step adds noise; not so after the last one."""
        try:
            return written(c_bool, library.ds_session_needs_noise, self.value).value
        except _library.StepPastEndError:
            return False

    def save(self) -> bytes:
        """The state, to go on from in another process or on another machine: with a checksum, in the same form everywhere."""
        return _library.bytes_of(library.ds_session_save, self.value)

    def restore(self, state: bytes) -> Session:
        """A session on this one's plan that stands where the saved one stood.

        Raises StateError for bytes that are damaged, or were saved with another plan.
        """
        return self._of(written(c_uint64, library.ds_session_restore_like, self.value, state, len(state)), self.max_threads)

    def step(
        self,
        model_output: Array,
        sample: Array,
        *,
        unconditional: Array | None = None,
        guidance: Guidance | None = None,
        noise: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Takes the next step and returns the next sample.

        model_output   what the model said, of any of the types; under the condition, if the step is guided
        sample         decides the type and shape of the result
        unconditional  what the model said without the condition, where there is a guidance
        noise          standard normal numbers, shaped as the sample, where ``needs_noise`` says so

        Raises StepPastEndError (an IndexError), InvalidValueError; nothing has changed then.
        """
        arguments = _Arguments(model_output, sample, unconditional, noise, out)
        e, u, x, z, y = arguments.references
        if guidance is None:
            check(library.ds_session_step(self.value, e, x, z, y, None, self.max_threads))
        else:
            options = _library.Guidance(*guidance)
            check(library.ds_session_step_guided(self.value, e, u, byref(options), x, z, y, None, self.max_threads))
        return arguments.deliver()


def step_rows(
    sessions: Sequence[Session | None],
    model_output: Array,
    sample: Array,
    *,
    unconditional: Array | None = None,
    guidance: Sequence[Guidance | None] | None = None,
    noise: Array | None = None,
    out: Array | None = None,
    max_threads: int = 0,
) -> Array:
    """Takes the next step of many sessions at once: row i of the arrays belongs to ``sessions[i]``. Returns the next samples.

    Every row becomes, bit for bit, what it becomes alone, whatever plans, steps and solvers stand beside it.

    sessions             [rows], none twice; None where a row is free, which is then copied from the sample
    model_output         [rows, ...]; in guided rows what the model said under the condition
    unconditional        [rows, ...] what it said without, where a row is guided
    guidance             [rows], None where a row isn't guided
    sample, noise        [rows, ...]; the noise is read in the rows that need it

    Raises what ``Session.step`` raises, the message begins with the row; no session has changed then.
    """
    arguments = _Arguments(model_output, sample, unconditional, noise, out)
    count = len(sessions)
    if arguments.sample.shape[:1] != (count,):
        raise _library.InvalidValueError(
            f"sample has the shape {list(arguments.sample.shape)}, but must have [{count}, ...]: one row per session"
        )
    handles = (c_uint64 * count)(*(0 if session is None else session.value for session in sessions))
    options = None
    if guidance is not None:
        if len(guidance) != count:
            raise _library.InvalidValueError(f"guidance has {len(guidance)} elements, but must have {count}: one per session")
        options = (_library.Guidance * count)(*(_library.Guidance(*(each or (1.0, 0.0))) for each in guidance))
    e, u, x, z, y = arguments.references
    check(library.ds_sessions_step(handles, count, e, u, options, x, z, y, None, max_threads))
    if arguments.target is not arguments.sample:
        for row, session in enumerate(sessions):
            if session is None:
                arguments.target[row] = arguments.sample[row]
    return arguments.deliver()


__all__ = ["Guidance", "Session", "step_rows"]
