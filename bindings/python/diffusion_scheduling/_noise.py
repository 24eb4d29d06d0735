# SPDX-License-Identifier: Apache-2.0

"""Seeded sources of standard normal numbers that match torch's and NumPy's, number by number."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_uint64
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _library
from ._handles import Handle
from ._library import check, library, written

TORCH_CPU, TORCH_CUDA, NUMPY = 0, 1, 2


class NoiseSource(Handle):
    """A seeded generator of standard normal numbers.

    With uniform numbers u and v in (0, 1), and x and y in [-1, 1),

        r = sqrt(-2 ln u)                           torch: r cos(2 pi v), r sin(2 pi v)
        s = x^2 + y^2 < 1, f = sqrt(-2 ln s / s)    NumPy: y f, x f

    are pairs of normal numbers (Box and Muller 1958, doi:10.1214/aoms/1177706645; Marsaglia and Bray 1964, doi:10.1137/1006063).

    One call of `standard_normal` corresponds to one call of ``torch.randn`` or ``RandomState.standard_normal`` with the same shape.
    `torch_cpu`, `torch_cuda` and `numpy` make sources.
    """

    _free = staticmethod(library.ds_noise_free)

    @classmethod
    def _make(cls, kind: int, seed: int) -> NoiseSource:
        return cls(written(c_uint64, library.ds_noise_create, kind, seed % 2**64))

    @classmethod
    def torch_cpu(cls, seed: int) -> NoiseSource:
        """The numbers of ``torch.randn`` on a CPU after ``torch.manual_seed(seed)``, bit for bit; float32 and float64.

        Raises OutOfMemoryError if 4,194,304 sources exist.
        """
        return cls._make(TORCH_CPU, seed)

    @classmethod
    def numpy(cls, seed: int) -> NoiseSource:
        """The numbers of ``numpy.random.RandomState(seed).standard_normal``, bit for bit; float32 is rounded from float64.

        seed  below 2^32; another seed raises InvalidValueError
        """
        return cls._make(NUMPY, seed)

    @classmethod
    def torch_cuda(
        cls, seed: int, offset: int = 0, multiprocessors: int | None = None, threads_per_multiprocessor: int = 2048
    ) -> NoiseSource:
        """The numbers of ``torch.randn`` on CUDA, float32, within 2^-20 of the radius.

        offset                      ``Generator.get_offset()``, a multiple of 4
        multiprocessors             the device's number of multiprocessors; None: an A100's
        threads_per_multiprocessor  the most threads that a multiprocessor runs

        Raises InvalidValueError.
        """
        if multiprocessors is None:
            if offset == 0:
                return cls._make(TORCH_CUDA, seed)
            multiprocessors = 108
        numbers = seed % 2**64, offset, multiprocessors, threads_per_multiprocessor
        return cls(written(c_uint64, library.ds_noise_create_torch_cuda, *numbers))

    def standard_normal(
        self, size: int | Sequence[int] = (), dtype: npt.DTypeLike = np.float32, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """The next numbers of the `NoiseSource`, in a new array of shape `size` or in the array `out`.

        Raises InvalidValueError for a type that the source doesn't have, and unless `out` is contiguous and writeable.
        """
        if out is None:
            out = np.empty(size, dtype)
        elif not out.flags.c_contiguous or not out.flags.writeable:
            raise _library.InvalidValueError("out must be contiguous and writeable")
        element_type = {"float32": _library.FLOAT32, "float64": _library.FLOAT64}.get(out.dtype.name)
        if element_type is None:
            raise _library.InvalidValueError(f"dtype is {out.dtype.name}, but must be float32 or float64")
        target = _library.tensor(out.ctypes.data, element_type, out.shape)
        check(library.ds_noise_fill(self.value, byref(target), 0))
        return out

    def copy(self) -> NoiseSource:
        """A second source in the same state: it gives the same numbers from here on."""
        return type(self)(written(c_uint64, library.ds_noise_copy, self.value))

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return _restore, (_library.bytes_of(library.ds_noise_save, self.value),)


def _restore(state: bytes) -> NoiseSource:
    buffer = ctypes.create_string_buffer(state, len(state))
    return NoiseSource(written(c_uint64, library.ds_noise_restore, buffer, len(state)))


Generator = NoiseSource | np.random.Generator | np.random.RandomState


def draw(generator: Generator | Sequence[Generator] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Standard normal numbers, drawn as in diffusers: from one generator, or from a list with a generator for each batch item."""
    if isinstance(generator, (list, tuple)):
        if len(generator) == 1:
            return draw(generator[0], shape, dtype)
        if len(generator) != shape[0]:
            raise _library.InvalidValueError(f"generator has {len(generator)} elements, but must have 1 or {shape[0]}")
        return np.concatenate([draw(each, (1, *shape[1:]), dtype) for each in generator])
    drawn_type = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    if isinstance(generator, np.random.RandomState):
        noise = generator.standard_normal(shape)
    else:
        source: Any = np.random.default_rng() if generator is None else generator
        noise = source.standard_normal(shape, drawn_type)
    return np.asarray(noise, dtype)
