# SPDX-License-Identifier: Apache-2.0

"""NumPy arrays as the library's tensors: contiguous, with a common shape and element type.

``_tensors`` has the same functions for torch.
"""

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
"""The library's element type for each array type that it takes without conversion."""

as_given = np.asarray


def address(array: Array) -> int:
    """The address of a contiguous array's elements, in a third of the time that ``array.ctypes.data`` takes."""
    try:
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError, BufferError):  # The array is read-only or empty.
        return array.ctypes.data


def common_type(*arrays: Array) -> np.dtype[Any]:
    """The type that NumPy and torch promote the arrays' types to.

    Raises InvalidValueError unless all arrays are float16, float32 or float64.
    """
    dtype = np.result_type(*(array.dtype for array in arrays))
    if dtype.itemsize > 8 or any(array.dtype.kind != "f" for array in arrays):
        raise _library.InvalidValueError(
            f"arrays have the types {', '.join(array.dtype.name for array in arrays)}, but must have float16, float32 or float64"
        )
    return dtype


def at_least_float32(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that holds both `dtype` and float32."""
    return np.promote_types(dtype, np.float32)


def computing_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The array type in which the library computes a result of type `dtype`."""
    return dtype if dtype in ELEMENT_TYPES else np.dtype(np.float32)


def as_tensor(array: Array) -> _library.Tensor:
    """The library's view of a contiguous array."""
    return _library.tensor(address(array), ELEMENT_TYPES[array.dtype], array.shape)


def broadcast(first: Array, second: Array) -> Sequence[Array]:
    """Both arrays, broadcast to a common shape."""
    return np.broadcast_arrays(first, second)


def layout(*arrays: Array) -> None:
    """The memory layout to keep: None, because arrays are always converted to C order."""


def contiguous(array: Array, dtype: np.dtype[Any], layout: None = None, shape: tuple[int, ...] | None = None) -> Array:
    """The array in C order with type `dtype`, broadcast to `shape` if one is given."""
    return np.asarray(array if shape is None else np.broadcast_to(array, shape), dtype, order="C")


def result_arrays(shape: tuple[int, ...], dtype: np.dtype[Any], work: np.dtype[Any], out: Array | None) -> tuple[Array, Array]:
    """The array to return, and a contiguous array of type `work` to write to. One array serves as both if possible.

    Raises InvalidValueError if `out` has another shape or type, or is read-only.
    """
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
    """Returns `result`, with the contents of `target`, which the library has written."""
    if result is not target:
        np.copyto(result, target, casting="same_kind")
    return result


def quick_form(sample: Array) -> tuple[Any, ...]:
    """The form for ``QuickStep``: arrays' type, the buffer protocol, a call that makes an array like a sample, and no gradients."""
    make: Callable[..., Array] = _memory.empty if sample.nbytes >= _memory.SMALLEST else np.empty
    return np.ndarray, None, make, (sample.shape, sample.dtype), None


def weighted(array: Array, weights: Sequence[float]) -> Array:
    """The sum over the last axis but one with these weights, in float64. The result's type also holds float32."""
    total: Array = np.float64(0)  # type: ignore[assignment]
    for place, weight in enumerate(weights):
        total = total + weight * array[..., place, :].astype(np.float64)
    return total.astype(at_least_float32(common_type(array)))


def counts_writes(value: Any) -> bool:
    """Whether a value counts the writes to it. Arrays don't."""
    return False


def draw(generator: Any, model_output: Array, sample: Array, like: Sequence[Array], *, widens: bool) -> Array:
    """A step's noise. Its type holds the types of `like`, and float32 too if `widens`; without `like`, it is float32."""
    dtype = common_type(*map(np.asarray, like)) if like else np.dtype(np.float32)
    return _noise.draw(generator, np.shape(sample), at_least_float32(dtype) if widens else dtype)


def kept(array: Array) -> Array:
    """A copy for later steps, because the caller may overwrite the array."""
    return np.array(array)


def place(array: Array) -> None:
    """The device of an array: None, which stands for the host."""


def moved(array: Array, place: None) -> Array:
    """The array itself: all arrays are on the host."""
    return array
