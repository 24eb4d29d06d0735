# SPDX-License-Identifier: Apache-2.0

"""Fresh arrays whose memory has been used before.

The operating system hands out memory page by page, at the first touch, which for large tensors costs more than a step does.
So memory of a large array that nobody can reach any more is kept for the next one of that size.

What tells when that is: each array is made on a memory map of its own, through an object of which every view holds a
reference, be it NumPy's, torch's or a memoryview. When the last view goes, so does the object, and only then does the map
come back here. An array that somebody still holds is never touched.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1 << 20
"""Bytes from which on memory is kept; below, the allocator's own lists are as quick and the pages are warm."""

KEPT = 8
"""How many maps wait for an array at most. A loop alternates between two or three; more are for the other tensors of a step."""

_waiting: deque[mmap.mmap] = deque(maxlen=KEPT)


def _take(count: int) -> mmap.mmap | None:
    """A waiting map of `count` bytes, which nobody else gets then: the one that was in use last, if possible."""
    for _ in range(len(_waiting)):
        # Another thread may have taken the last one in between; taking one is atomic.
        try:
            memory = _waiting.pop()
        except IndexError:
            return None
        if len(memory) == count:
            return memory
        _waiting.appendleft(memory)
    return None


def empty_bytes(count: int) -> npt.NDArray[np.uint8]:
    """An array of `count` uninitialised bytes, at least one, at the start of a page."""
    # Private: a forked process must not share the memory with its parent.
    memory = _take(count) or mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    # NumPy makes views refer to this array itself, however many lie between, and torch keeps the one that it was given.
    weakref.finalize(array, _waiting.append, memory).atexit = False
    return array


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An uninitialised contiguous array."""
    count = dtype.itemsize
    for extent in shape:
        count *= extent
    if count < SMALLEST:
        return np.empty(shape, dtype)
    return empty_bytes(count).view(dtype).reshape(shape)
