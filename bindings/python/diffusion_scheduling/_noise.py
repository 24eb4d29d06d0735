# SPDX-License-Identifier: Apache-2.0

"""Seeded sources of standard normal numbers that agree, number by number, with those of torch and of NumPy."""

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
    """Standard normal numbers of a seed.

    One call of `standard_normal` stands for one call of ``torch.randn`` or ``RandomState.standard_normal`` of the same shape.
    Make one with `torch_cpu`, `torch_cuda` or `numpy`.
    """

    _free = staticmethod(library.ds_noise_free)

    @classmethod
    def _make(cls, kind: int, seed: int) -> NoiseSource:
        return cls(written(c_uint64, library.ds_noise_create, kind, seed % 2**64))

    @classmethod
    def torch_cpu(cls, seed: int) -> NoiseSource:
        """``torch.randn`` on a CPU after ``torch.manual_seed(seed)``, every bit; float32 and float64."""
        return cls._make(TORCH_CPU, seed)

    @classmethod
    def numpy(cls, seed: int) -> NoiseSource:
        """``numpy.random.RandomState(seed).standard_normal``, every bit; `seed` is less than 2^32."""
        return cls._make(NUMPY, seed)

    @classmethod
    def torch_cuda(
        cls, seed: int, offset: int = 0, multiprocessors: int | None = None, threads_per_multiprocessor: int = 2048
    ) -> NoiseSource:
        """``torch.randn`` on CUDA, float32, within 2^-20 of the radius.

        offset                      ``Generator.get_offset()``, a multiple of 4
        multiprocessors             of the device; None: those of an A100
        threads_per_multiprocessor  the most that one of them runs
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
        """The next numbers, as an array of shape `size` or in the contiguous array `out`."""
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
        """A second source that gives the same numbers from here on."""
        return type(self)(written(c_uint64, library.ds_noise_copy, self.value))

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return _restore, (_library.bytes_of(library.ds_noise_save, self.value),)


def _restore(state: bytes) -> NoiseSource:
    buffer = ctypes.create_string_buffer(state, len(state))
    return NoiseSource(written(c_uint64, library.ds_noise_restore, buffer, len(state)))


Generator = NoiseSource | np.random.Generator | np.random.RandomState


def draw(generator: Generator | Sequence[Generator] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Standard normal numbers, drawn as diffusers draws them: a list of generators draws each batch item from one of its own."""
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
