# SPDX-License-Identifier: Apache-2.0

"""NumPy arrays as the tensors of the library: contiguous, of one shape and one element type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _library, _memory, _noise
from ._library import StepCall

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


def quick_step(call: StepCall, sample: Array, model_output: Array, has_report: bool) -> Callable[..., tuple[Array, ...] | None]:
    """A function that takes steps of arrays like these, which the library takes as they are, by nothing but the call.

    Its arguments are the call's subject, model output, sample, noise or None, and the array to write to or None. It returns what
    ``step`` returns as a tuple; or None where the arrays have another form, and then nothing has been done.
    """
    tensors, function, before, after = call
    te, tx, tz = tensors.model_output, tensors.sample, tensors.noise
    ty, tp = tensors.prev_sample, tensors.pred_original_sample
    has_noise = tensors.references[2] is not None
    shape, dtype, model_shape, model_dtype = sample.shape, sample.dtype, model_output.shape, model_output.dtype
    empty: Callable[..., Array] = np.empty if sample.nbytes < _memory.SMALLEST else _memory.empty
    # This fails for arrays that aren't contiguous or can't be written to.
    buffer = c_char.from_buffer
    # Threads may step with one stateless scheduler at once: one that finds the structs in use takes the general way.
    unused = [tensors]

    def take(subject: Any, e: Array, x: Array, z: Array | None, out: Array | None) -> tuple[Array, ...] | None:
        try:
            if (
                e.dtype is not model_dtype
                or x.dtype is not dtype
                or x.shape != shape
                or e.shape != model_shape
                or (z is None) is has_noise
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
            if has_report:
                p = empty(shape, dtype)
                p_data = addressof(buffer(p))
            unused.pop()
        except (AttributeError, TypeError, ValueError, BufferError, IndexError):
            return None
        te.data, tx.data, ty.data = e_data, x_data, y_data
        if has_noise:
            tz.data = z_data
        if has_report:
            tp.data = p_data
        status = function(*before, subject, *after)
        unused.append(tensors)
        if status:
            raise _library.error(status)
        return (y, p) if has_report else (y,)

    return take


def draw(generator: Any, model_output: Array, sample: Array, result_type: str) -> Array:
    """A step's noise, of the type that diffusers draws."""
    dtype = np.dtype(np.float32) if result_type == "converted" else common_type(np.asarray(model_output))
    return _noise.draw(generator, np.shape(sample), dtype)


def place(array: Array) -> None:
    """The device of an array."""


def moved(array: Array, place: None) -> Array:
    """The array on a device."""
    return array
