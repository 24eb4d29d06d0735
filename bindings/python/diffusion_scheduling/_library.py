# SPDX-License-Identifier: Apache-2.0

"""The shared library: its path, its structs and functions, and its errors as exceptions.

This file mirrors ``diffusion_scheduling.h``, the manual of the C library. All C functions of the package are declared here.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, TypeVar

C = TypeVar("C", bound="ctypes.Structure | ctypes._SimpleCData[Any]")

VERSION_MAJOR = 0
"""The major version of the header that this file mirrors."""

_NAMES = {
    "linux": f"libdiffusion_scheduling.so.{VERSION_MAJOR}",
    "darwin": "libdiffusion_scheduling.dylib",
    "win32": "diffusion_scheduling.dll",
}

LIBRARY = Path(__file__).parent / "lib" / _NAMES.get(sys.platform, _NAMES["linux"])
"""The path of the library in this package."""


# ---- Errors


class SchedulerError(Exception):
    """The library rejected a call. Nothing has changed.

    Each subclass is also a built-in exception: the one that diffusers raises for the error, if it raises any.
    """

    status: int
    """The number of the error's ``ds_status`` in the C library."""


class InvalidValueError(SchedulerError, ValueError):
    """A configuration key or an argument has a value that isn't allowed, or tensors don't match."""


class UnsupportedError(SchedulerError, NotImplementedError):
    """The scheduler, or one of its operations, isn't supported."""


class FileAccessError(SchedulerError, OSError):
    """A configuration file can't be read."""


class MalformedError(InvalidValueError, OSError):
    """The text isn't the JSON that diffusers writes."""


class TimestepError(SchedulerError, ValueError):
    """The call doesn't accept this timestep, or no timesteps have been set."""


class StepPastEndError(SchedulerError, IndexError):
    """All steps of the plan have been taken."""


class StateError(SchedulerError, ValueError):
    """The bytes are not a saved state, have been corrupted, or belong to another plan."""


class OutOfMemoryError(SchedulerError, MemoryError):
    """Memory is missing for a session's slots, a table of plans is full, or too many objects of the library exist."""


class KernelError(SchedulerError, RuntimeError):
    """The kernels refused a call, because of a fault in the library."""


OK = 0
INACCESSIBLE_FILE = 4
BUFFER_TOO_SMALL = 23

_STATUSES: dict[type[SchedulerError], list[int]] = {
    InvalidValueError: [1, 2, 9, 10, 11, 12, 17, 18, 19, 20, 21, 22],
    UnsupportedError: [3, 24],
    FileAccessError: [4],
    MalformedError: [5],
    TimestepError: [6, 7],
    StepPastEndError: [8],
    StateError: [13, 14],
    SchedulerError: [15, 16, 23],
    OutOfMemoryError: [25, 26],
    KernelError: [27],
}
EXCEPTIONS = {status: exception for exception, statuses in _STATUSES.items() for status in statuses}
"""The exception for each ``ds_status`` except ``DS_OK``."""

NAMES = {
    "NULL": "None",
    "conditional": "model_output",
    "converted": "out",
    "ds_scheduler_set_timesteps": "set_timesteps",
    "ds_session_reset": "set_timesteps, or reset on a session,",
    "n_multiprocessors": "multiprocessors",
    "n_threads_per_multiprocessor": "threads_per_multiprocessor",
    "pred_original_sample": "out",
    "prev_sample": "out",
}
"""Python's names for C's names in messages."""


# ---- Structs

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = 0, 1, 2, 3
CLAMP_NONE, CLAMP_RANGE, CLAMP_THRESHOLD = 0, 1, 2
NOISE_FACTOR_NONE, NOISE_FACTOR_ROOT, NOISE_FACTOR_EXPONENTIAL = 0, 1, 2
VARIANCE_PRESERVING, VARIANCE_EXPLODING, FLOW = 0, 1, 2
MAX_SLOTS, MAX_STORES, PREPARED_ROW_WORDS = 6, 2, 160


class Tensor(ctypes.Structure):
    """``ds_tensor``."""

    _fields_ = [("data", c_void_p), ("element_type", c_int), ("rank", c_size_t), ("shape", POINTER(c_int64))]


class PlanProperties(ctypes.Structure):
    """``ds_plan_properties``."""

    _fields_ = [
        ("n_steps", c_size_t),
        ("n_slots", c_size_t),
        ("warm_up", c_size_t),
        ("init_noise_sigma", c_double),
        ("clamp", c_int),
        ("clamp_range", c_double),
        ("threshold_ratio", c_double),
        ("threshold_maximum", c_double),
        ("learns_variance", c_bool),
        ("is_stochastic", c_bool),
        ("process", c_int),
    ]


class Combination(ctypes.Structure):
    """``ds_combination``: the coefficients of a sum of tensors."""

    _fields_ = [
        ("sample", c_double),
        ("model_output", c_double),
        ("noise", c_double),
        ("prediction", c_double),
        ("slots", c_double * MAX_SLOTS),
    ]


class Store(ctypes.Structure):
    """``ds_store``: the number of a slot, and its contents after a step as a combination."""

    _fields_ = [("slot", c_size_t), ("value", Combination)]


class Row(ctypes.Structure):
    """``ds_row``: the scalars of one step."""

    _fields_ = [
        ("n_reads", c_size_t),
        ("reads", c_size_t * MAX_SLOTS),
        ("prediction", Combination),
        ("next_sample", Combination),
        ("n_stores", c_size_t),
        ("stores", Store * MAX_STORES),
        ("report", Combination),
        ("n_noise_draws", c_size_t),
        ("noise_factor", c_int),
        ("noise_offset", c_double),
        ("noise_slope", c_double),
    ]

    @property
    def read(self) -> list[int]:
        """The slots that the row reads, in the order of summation."""
        return list(self.reads[: self.n_reads])

    @property
    def stored(self) -> dict[int, Combination]:
        """The combinations that the row stores, by slot."""
        return {store.slot: store.value for store in self.stores[: self.n_stores]}


class PreparedRow(ctypes.Structure):
    """``ds_prepared_row``: a row ready for any number of steps."""

    _fields_ = [("contents", c_uint64 * PREPARED_ROW_WORDS)]


class Guidance(ctypes.Structure):
    """``ds_guidance``."""

    _fields_ = [("scale", c_double), ("rescale", c_double)]


# ---- Functions

# A handle is a struct of one uint64. Every 64-bit ABI that Python supports passes the struct like its uint64.
_HANDLE, _HANDLE_OUT = c_uint64, POINTER(c_uint64)
_TENSOR, _DOUBLES, _SIZE_OUT = POINTER(Tensor), POINTER(c_double), POINTER(c_size_t)

_SIGNATURES: dict[str, list[Any]] = {
    "ds_class_description": [c_char_p, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_create": [c_char_p, c_size_t, c_char_p, c_char_p, _HANDLE_OUT],
    "ds_scheduler_load": [c_char_p, c_char_p, c_char_p, c_char_p, _HANDLE_OUT],
    "ds_scheduler_create_named": [c_char_p, _HANDLE, c_char_p, _HANDLE_OUT],
    "ds_scheduler_free": [_HANDLE],
    "ds_scheduler_class_name": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_config_json": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_defaulted_keys": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_unused_keys": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_sampler_names": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_num_train_timesteps": [_HANDLE, _SIZE_OUT],
    "ds_scheduler_alphas_cumprod": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_init_noise_sigma": [_HANDLE, _DOUBLES],
    "ds_scheduler_set_timesteps": [_HANDLE, c_size_t, c_char_p],
    "ds_scheduler_plan_properties": [_HANDLE, POINTER(PlanProperties)],
    "ds_scheduler_timesteps": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_sigmas": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_signal_rates": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_noise_rates": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_input_scales": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_output_weights": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_row": [_HANDLE, c_size_t, c_size_t, POINTER(Row)],
    "ds_scheduler_attribute_row": [_HANDLE, c_size_t, c_size_t, POINTER(Row)],
    "ds_scheduler_row_at": [_HANDLE, c_double, c_char_p, POINTER(Row)],
    "ds_scheduler_part_row": [_HANDLE, c_size_t, c_uint, POINTER(Row)],
    "ds_scheduler_prepare_row": [_HANDLE, POINTER(Row), POINTER(PreparedRow)],
    "ds_scheduler_device_table": [_HANDLE, c_size_t, c_void_p, c_size_t, _SIZE_OUT],
    "ds_scheduler_device_row": [_HANDLE, POINTER(Row), c_void_p],
    "ds_row_step": [*(POINTER(PreparedRow), _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_size_t, _TENSOR, _TENSOR, _TENSOR, c_uint)],
    "ds_scheduler_plan_json": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_session_create": [_HANDLE, c_size_t, _HANDLE_OUT],
    "ds_session_free": [_HANDLE],
    "ds_session_copy": [_HANDLE, _HANDLE_OUT],
    "ds_session_reset": [_HANDLE],
    "ds_session_step_index": [_HANDLE, _SIZE_OUT],
    "ds_session_timestep": [_HANDLE, _DOUBLES],
    "ds_session_needs_noise": [_HANDLE, POINTER(c_bool)],
    "ds_session_create_on_plan": [c_char_p, c_size_t, c_size_t, _HANDLE_OUT],
    "ds_session_restore_like": [_HANDLE, c_void_p, c_size_t, _HANDLE_OUT],
    "ds_session_step_guided": [_HANDLE, _TENSOR, _TENSOR, POINTER(Guidance), _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_uint],
    "ds_sessions_step": [_HANDLE_OUT, c_size_t, _TENSOR, _TENSOR, POINTER(Guidance), _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_uint],
    "ds_session_step": [_HANDLE, _TENSOR, _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_uint],
    "ds_session_save": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_session_restore": [_HANDLE, c_void_p, c_size_t, _HANDLE_OUT],
    "ds_combine_noise": [_TENSOR, _TENSOR, _DOUBLES, _DOUBLES, c_size_t, _TENSOR, c_uint],
    "ds_scheduler_add_noise": [_HANDLE, _TENSOR, _TENSOR, _DOUBLES, c_size_t, _TENSOR, c_uint],
    "ds_scheduler_get_velocity": [_HANDLE, _TENSOR, _TENSOR, _DOUBLES, c_size_t, _TENSOR, c_uint],
    "ds_rescale_noise_cfg": [_TENSOR, _TENSOR, c_double, _TENSOR, c_uint],
    "ds_noise_create": [c_int, c_uint64, _HANDLE_OUT],
    "ds_noise_create_torch_cuda": [c_uint64, c_uint64, c_uint, c_uint, _HANDLE_OUT],
    "ds_noise_free": [_HANDLE],
    "ds_noise_copy": [_HANDLE, _HANDLE_OUT],
    "ds_noise_fill": [_HANDLE, _TENSOR, c_uint],
    "ds_noise_save": [_HANDLE, c_void_p, c_size_t, _SIZE_OUT],
    "ds_noise_restore": [c_void_p, c_size_t, _HANDLE_OUT],
}


def _load() -> ctypes.CDLL:
    """Opens the library at the path ``DIFFUSION_SCHEDULING_LIBRARY``, or else the library in this package."""
    given = os.environ.get("DIFFUSION_SCHEDULING_LIBRARY")
    path = Path(given) if given else LIBRARY
    if not path.exists():
        raise ImportError(
            f"{path} is missing: run `make python` in the repository, or set DIFFUSION_SCHEDULING_LIBRARY to the library"
        )
    library = ctypes.CDLL(str(path))
    for name, argument_types in _SIGNATURES.items():
        getattr(library, name).argtypes = argument_types
    library.ds_version.restype = c_uint32
    library.ds_runtime_description.restype = c_char_p
    library.ds_status_message.argtypes, library.ds_status_message.restype = [c_int], c_char_p
    library.ds_error_message.restype = c_char_p
    library.ds_element_size.argtypes, library.ds_element_size.restype = [c_int], c_size_t
    for name in ("ds_supported_class_name", "ds_sampler_name"):
        function = getattr(library, name)
        function.argtypes, function.restype = [c_size_t], c_char_p
    if library.ds_version() // 10000 != VERSION_MAJOR:
        raise ImportError(f"{path} has the major version {library.ds_version() // 10000}, but must have {VERSION_MAJOR}")
    return library


library = _load()


def message(status: int, **names: str) -> str:
    """The library's message for the last failure, with Python's names.

    names  Python's names for this call's arguments, which take precedence over NAMES
    """
    text: str = (library.ds_error_message() or library.ds_status_message(status)).decode()
    if status == INACCESSIBLE_FILE:
        return text  # The operating system's message. Its path may contain any words.
    known = {**NAMES, **names}
    # Text in quotation marks comes from a configuration, and isn't renamed.
    return re.sub(r'"[^"]*"|\b[A-Za-z_]\w*', lambda word: known.get(word[0], word[0]), text)


def error(status: int, **names: str) -> SchedulerError:
    """The exception for a status other than ``DS_OK``, with the message of the last failure. `names` as for `message`."""
    exception = EXCEPTIONS.get(status, SchedulerError)(message(status, **names))
    exception.status = status
    return exception


def check(status: int, **names: str) -> None:
    """Raises the exception for a status other than ``DS_OK``. `names` as for `message`."""
    if status != OK:
        raise error(status, **names)


def written(kind: type[C], function: Callable[..., int], *arguments: Any) -> C:
    """Calls a library function, and returns the number, handle or struct that it writes through its last argument."""
    value = kind()
    check(function(*arguments, byref(value)))
    return value


def read_text(function: Callable[..., int], subject: int | bytes) -> str:
    """The text that a library function writes about a handle or a class name."""
    return bytes_of(function, subject, terminated=True).decode()


def bytes_of(function: Callable[..., int], handle: int | bytes, *, terminated: bool = False) -> bytes:
    """The bytes that a library function writes about a handle or a class name."""
    length = c_size_t()
    status = function(handle, None, 0, byref(length))
    if status not in (OK, BUFFER_TOO_SMALL):
        raise error(status)
    buffer = ctypes.create_string_buffer(length.value + terminated)
    check(function(handle, buffer, len(buffer), byref(length)))
    return buffer.raw[: length.value]


def doubles_of(function: Callable[..., int], handle: int) -> list[float]:
    """The numbers that a library function writes about a handle."""
    count = c_size_t()
    status = function(handle, None, 0, byref(count))
    if status not in (OK, BUFFER_TOO_SMALL):
        raise error(status)
    buffer = (c_double * count.value)()
    check(function(handle, buffer, count.value, byref(count)))
    return buffer[:]


def doubles(values: Sequence[float]) -> ctypes.Array[c_double]:
    """The values as a C array of doubles."""
    return (c_double * len(values))(*values)


def element_types() -> set[int]:
    """The element types that the loaded library supports."""
    return {number for number in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16) if library.ds_element_size(number)}


def tensor(address: int, element_type: int, shape: Sequence[int]) -> Tensor:
    """A ``ds_tensor`` of contiguous memory."""
    return Tensor(address, element_type, len(shape), (c_int64 * len(shape))(*shape))
