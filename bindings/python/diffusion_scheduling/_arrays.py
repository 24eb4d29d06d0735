# SPDX-License-Identifier: Apache-2.0

"""NumPy arrays as the tensors of the library: contiguous, of one shape and one element type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _library, _memory, _noise

Array = npt.NDArray[Any]

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

as_given = np.asarray


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


def at_least_float32(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that holds a type and float32."""
    return np.promote_types(dtype, np.float32)


def computing_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that the library computes a result of `dtype` in."""
    return dtype if dtype in ELEMENT_TYPES else np.dtype(np.float32)


def as_tensor(array: Array) -> _library.Tensor:
    """The library's view of a contiguous array."""
    return _library.tensor(address(array), ELEMENT_TYPES[array.dtype], array.shape)


def broadcast(first: Array, second: Array) -> Sequence[Array]:
    """The two in one shape."""
    return np.broadcast_arrays(first, second)


def layout(*arrays: Array) -> None:
    """The order of axes that arrays are stored in: NumPy's are brought into the usual one."""


def contiguous(array: Array, dtype: np.dtype[Any], layout: None = None, shape: tuple[int, ...] | None = None) -> Array:
    """The array as the library can read it, broadcast to `shape` if one is given."""
    return np.asarray(array if shape is None else np.broadcast_to(array, shape), dtype, order="C")


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


def deliver(result: Array, target: Array, layout: None = None) -> Array:
    """The array to return, once the other one has been written to."""
    if result is not target:
        np.copyto(result, target, casting="same_kind")
    return result


def address_if(
    array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], buffer: Any = c_char.from_buffer, addressof: Any = addressof
) -> int:
    """Where the elements of an array are that the library takes as it is. Raises TypeError or another error for others."""
    if array.dtype is dtype and array.shape == shape:
        # Fails for arrays that aren't contiguous or can't be written to.
        return addressof(buffer(array))  # type: ignore[no-any-return]
    raise TypeError


def maker(like: Array) -> Callable[[Array], tuple[Array, int]]:
    """A function that makes uninitialised contiguous arrays like its argument, which is like this one; and says where they are."""
    shape, dtype, empty = like.shape, like.dtype, np.empty if like.nbytes < _memory.SMALLEST else _memory.empty

    def make(like: Array, buffer: Any = c_char.from_buffer, addressof: Any = addressof) -> tuple[Array, int]:
        made = empty(shape, dtype)
        return made, addressof(buffer(made))

    return make


def counts_writes(value: Any) -> bool:
    """Whether a value has a count of the writes to it: arrays have none."""
    return False


def draw(generator: Any, model_output: Array, sample: Array, like: Sequence[Array], *, widens: bool) -> Array:
    """A step's noise, of the type that holds all of `like`, and float32 if it `widens`; float32 if these are none."""
    dtype = common_type(*map(np.asarray, like)) if like else np.dtype(np.float32)
    return _noise.draw(generator, np.shape(sample), at_least_float32(dtype) if widens else dtype)


def kept(array: Array) -> Array:
    """The array as a later step reads it, whatever becomes of its memory."""
    return np.array(array)


def place(array: Array) -> None:
    """The device of an array."""


def moved(array: Array, place: None) -> Array:
    """The array on a device."""
    return array
