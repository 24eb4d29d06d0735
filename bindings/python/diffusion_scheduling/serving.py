# SPDX-License-Identifier: Apache-2.0

"""Serving: each request is a session on a plan. A call steps one session, or many.

    scheduler = DPMSolverMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    sessions = [Session(scheduler), None, Session(scheduler, begin_index=7)]   # one for each row of the batch; None: a free row
    timesteps = [0 if session is None else session.timestep for session in sessions]
    x = step_rows(sessions, model(x, timesteps), x)

A session keeps the plan that its scheduler had at creation. Different sessions may step on different threads at once: the
interpreter's lock is released during a call of the library.
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
    """Classifier-free guidance of a step, from the conditional model output e_c and the unconditional model output e_u.

        e = e_u + scale (e_c - e_u),  then for each batch item  e <- rescale e std(e_c) / std(e) + (1 - rescale) e

    Ho and Salimans 2022, arXiv:2207.12598, equation 6; Lin et al. 2023, arXiv:2305.08891, section 3.4. `rescale` is in [0, 1].
    """

    scale: float
    rescale: float = 0.0


def _argument(name: str, array: Array, shape: tuple[int, ...] | None = None) -> Array:
    """The array, contiguous and of one of the library's types. Raises InvalidValueError if its shape isn't `shape`."""
    array = np.asarray(array)
    common_type(array)
    if shape is not None and array.shape != shape:
        raise _library.InvalidValueError(f"{name} has the shape {list(array.shape)}, but must have {list(shape)}")
    return np.ascontiguousarray(array, array.dtype if array.dtype in ELEMENT_TYPES else np.float32)


def _check_index(begin_index: int) -> None:
    if begin_index < 0:
        raise _library.InvalidValueError(f"begin_index is {begin_index}, but must be at least 0")


class _Arguments:
    """The tensors of a step, and the arrays that own their memory."""

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

    scheduler    a scheduler whose timesteps and run options have been set
    begin_index  the first step to take; above 0 for image-to-image

    Raises TimestepError before timesteps are set, or InvalidValueError for begin_index (both are ValueErrors).
    """

    max_threads = 0
    """The most threads that a step may use; 0: as many as the OpenMP runtime would use."""
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
        """A session on the plan in a scheduler's ``plan_json()``, from any process. To make more, ``copy`` it.

        Raises MalformedError or InvalidValueError, which are ValueErrors.
        """
        _check_index(begin_index)
        text = plan_json.encode()
        return cls._of(written(c_uint64, library.ds_session_create_on_plan, text, len(text), begin_index))

    def copy(self) -> Session:
        """A second session in the same state. The two are independent, and share the slots until one of them steps."""
        return self._of(written(c_uint64, library.ds_session_copy, self.value), self.max_threads)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> Session:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session can't be pickled: save gives its state, and restore makes a session of that")

    def reset(self) -> None:
        """Returns to the first step and forgets everything else, for another request."""
        check(library.ds_session_reset(self.value))

    @property
    def step_index(self) -> int:
        """The index of the next step, from 0. After the last step, the number of steps."""
        return written(c_size_t, library.ds_session_step_index, self.value).value

    @property
    def timestep(self) -> float | None:
        """The timestep that the model gets at the next step; None after the last step."""
        try:
            return written(c_double, library.ds_session_timestep, self.value).value
        except _library.StepPastEndError:
            return None

    @property
    def needs_noise(self) -> bool:
        """Whether the next step adds noise; False after the last step."""
        try:
            return written(c_bool, library.ds_session_needs_noise, self.value).value
        except _library.StepPastEndError:
            return False

    def save(self) -> bytes:
        """The session's state with a checksum, to continue in any process. The format is the same on every machine."""
        return _library.bytes_of(library.ds_session_save, self.value)

    def restore(self, state: bytes) -> Session:
        """A session in a saved state, on this session's plan.

        Raises StateError, a ValueError, if the bytes are damaged or were saved with another plan.
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
        """Takes the next step and returns the next sample. The scheduler's class has the formula of the step.

        A guided step uses e = e_u + scale (e_c - e_u) with e_c = `model_output` and e_u = `unconditional`: see `Guidance`.

        model_output   the model's output, of any of the types; with the condition, if the step is guided
        sample         sets the type and the shape of the result
        unconditional  the model's output without the condition, if the step is guided
        guidance       None: the step isn't guided
        noise          standard normal numbers, shaped like the sample; needed if ``needs_noise``
        out            the array to write the next sample to; None: a new one

        Raises StepPastEndError (an IndexError) or InvalidValueError. After an error, nothing has changed.
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

    Every row gets the same bits as in a separate ``Session.step``, whatever the plans, steps and solvers of the other rows.

    sessions             [rows], each session at most once; None: a free row, which is copied from the sample
    model_output         [rows, ...]; with the condition in guided rows
    unconditional        [rows, ...] the model's output without the condition, read in guided rows
    guidance             [rows]; None: the row isn't guided
    sample, noise        [rows, ...]; the noise is read in the rows that need it

    Raises the errors of ``Session.step``, with the row at the start of the message. After an error, no session has changed.
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
