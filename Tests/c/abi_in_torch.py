# SPDX-License-Identifier: Apache-2.0

"""The C library shares torch's OpenMP runtime in a process with torch, and doesn't start a second one.

python3 abi_in_torch.py libdiffusion_scheduling.so
"""

import ctypes
import os
import sys

import torch

before = torch.randn(1 << 20).mul_(2).sum()  # torch's own threads are running


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("element_type", ctypes.c_int),
        ("rank", ctypes.c_size_t),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    ]

    @classmethod
    def of(cls, tensor):
        shape = (ctypes.c_int64 * tensor.dim())(*tensor.shape)
        return cls(tensor.data_ptr(), 0, tensor.dim(), shape)


library = ctypes.CDLL(sys.argv[1])
library.ds_runtime_description.restype = ctypes.c_char_p
library.ds_error_message.restype = ctypes.c_char_p


def call(name, *arguments):
    if getattr(library, name)(*arguments) != 0:
        raise RuntimeError(library.ds_error_message().decode())


def runtimes():
    with open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[5].strip() for line in maps if line.count(" ") >= 5 and "/" in line}
    return sorted(file for file in files if any(word in os.path.basename(file) for word in ("gomp", "libomp", "iomp")))


runtimes_before, threads_before = runtimes(), len(os.listdir("/proc/self/task"))

# A run on a tensor large enough for threads.
json = b'{"_class_name": "DEISMultistepScheduler"}'
scheduler, session = ctypes.c_uint64(), ctypes.c_uint64()
call("ds_scheduler_create", json, ctypes.c_size_t(len(json)), None, None, ctypes.byref(scheduler))
call("ds_scheduler_set_timesteps", scheduler, ctypes.c_size_t(10), None)
call("ds_session_create", scheduler, ctypes.c_size_t(0), ctypes.byref(session))
sample, output = torch.randn(4, 4, 256, 256), torch.randn(4, 4, 256, 256)
x, e = Tensor.of(sample), Tensor.of(output)
for _ in range(10):
    call("ds_session_step", session, ctypes.byref(e), ctypes.byref(x), None, ctypes.byref(x), None, ctypes.c_uint(0))
assert bool(sample.isfinite().all())

description = library.ds_runtime_description().decode()
print(description)
print("before:", runtimes_before, "after:", runtimes(), "threads:", threads_before, len(os.listdir("/proc/self/task")))
assert description.startswith("the process's"), description
assert len(runtimes()) == 1 and runtimes() == runtimes_before, runtimes()
assert len(os.listdir("/proc/self/task")) == threads_before
