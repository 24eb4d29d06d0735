# SPDX-License-Identifier: Apache-2.0

"""Recycled memory for large arrays.

The operating system maps fresh memory page by page, at the first touch. For large tensors, that takes longer than a step. So the
memory of a large array that has become unreachable is kept for the next array of that size.

Each array has a separate memory map, with one base array over it. Every view refers to the base array, whether the view is NumPy's,
torch's or a memoryview. When the last view is gone, the base array is deleted, and only then the map returns here. Memory that is
still referenced is never reused.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1 << 20
"""The fewest bytes of an array whose memory is kept. For smaller ones, the allocator's lists are as quick, with warm pages."""

KEPT = 8
"""The most maps that wait for an array. A loop alternates between two or three; the others serve the other tensors of a step."""

_waiting: deque[mmap.mmap] = deque(maxlen=KEPT)


def _take(count: int) -> mmap.mmap | None:
    """Removes and returns a waiting map of `count` bytes, preferably the one that was in use last; None if there is none."""
    for _ in range(len(_waiting)):
        # Another thread may take the last map in the meantime. A pop is atomic.
        try:
            memory = _waiting.pop()
        except IndexError:
            return None
        if len(memory) == count:
            return memory
        _waiting.appendleft(memory)
    return None


def empty_bytes(count: int) -> npt.NDArray[np.uint8]:
    """An array of `count` uninitialised bytes that starts at a page boundary; `count` is at least 1."""
    # Private: a forked process must not share the memory with its parent.
    memory = _take(count) or mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    # The base of a NumPy view is this array, also for a view of a view. torch keeps a reference to the array that it gets.
    weakref.finalize(array, _waiting.append, memory).atexit = False
    return array


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An uninitialised contiguous array, in recycled memory if it is large."""
    count = dtype.itemsize
    for extent in shape:
        count *= extent
    if count < SMALLEST:
        return np.empty(shape, dtype)
    return empty_bytes(count).view(dtype).reshape(shape)
