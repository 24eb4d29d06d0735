#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles Sources/DeviceKernels/device_kernels.h as CUDA C++ with NVRTC, without a device, and reads the PTX.

    python3 Tests/compile-cuda.py LIBRARY

LIBRARY is the path of libnvrtc.so. The text compiles without a message for compute capabilities 7.5 and 9.0, with every element
type, mixed types, and both kinds of sums. Its PTX calls no function and keeps no array in local memory. A step reads and writes
vectors. With float32 sums nothing is computed in float64. Prints a line for each compilation, and fails at the first fault.
"""

import ctypes
import re
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "Sources" / "DeviceKernels"
NAMES = ("float32", "float64", "float16", "bfloat16")
# Types of samples and model outputs, and further macros. CASES combines them with both kinds of sums, but float64 tensors only with
# float64 sums.
TYPES = [
    (0, 0, ""),
    (2, 2, ""),
    (3, 3, ""),
    (0, 2, "-DDS_MODEL_INPUT_TYPE=2"),
    (0, 3, "-DDS_SLOT_TYPE=3"),
    (0, 0, "-DDS_TIMESTEP=long"),
]
CASES = [(*types, False) for types in TYPES] + [(*types, True) for types in [*TYPES, (1, 1, "")]]
KERNELS = ("ds_device_input", "ds_device_step", "ds_device_threshold")


class Compiler:
    def __init__(self, path):
        try:
            self.library = ctypes.CDLL(path)
        except OSError as error:
            sys.exit(f"{path} can't be loaded: {error}")
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        return "" if status == 0 else f"{name}: {self.library.nvrtcGetErrorString(status).decode()}"

    def text(self, name, program):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{name}", program, buffer)
        return buffer.value.decode()

    def compile(self, source, options):
        """Returns the PTX and the compiler's messages."""
        program = ctypes.c_void_p()
        error = self.call("nvrtcCreateProgram", ctypes.byref(program), source, b"device_kernels.cu", 0, None, None)
        if error:
            sys.exit(error)
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        error = self.call("nvrtcCompileProgram", program, len(options), encoded)
        ptx = "" if error else self.text("PTX", program)
        messages = "\n".join(filter(None, (error, self.text("ProgramLog", program).strip())))
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx, messages


def fault(ptx, messages, has_float64_sums):
    """A sentence on the first fault of a compilation, or None."""
    if messages:
        return messages
    bodies = dict(re.findall(r"\.entry (\w+)\(.*?\)\s*(?:\.\w+[^\n]*\n)*\{(.*?)\n\}", ptx, re.S))
    if tuple(sorted(bodies)) != KERNELS:
        return f"the kernels are {sorted(bodies)}, expected {KERNELS}"
    calls = re.findall(r"\n\s*(?:\S+ )?call[. ][^\n]*|\.extern [^\n]*|\b(?:vprintf|malloc|free)\b", ptx)
    if calls:
        return f"the PTX has calls: {calls[0].strip()}"
    doubles = [line.strip() for line in ptx.splitlines() if ".f64" in line and not re.match(r"\s*(?:\.reg|ld|mov)", line)]
    if doubles and not has_float64_sums:
        return f"float64 arithmetic in a build with float32 sums: {doubles[0]}"
    for kind in ("ld", "st"):
        vectors = re.findall(rf"\b{kind}\.global\.v[24]\S*", bodies["ds_device_step"])
        if not vectors:
            return f"the step has no vector {kind}"
    if ".local " in ptx:
        return "arrays lie in local memory, not in registers"
    return None


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python3 Tests/compile-cuda.py LIBRARY")
    compiler = Compiler(sys.argv[1])
    source = b"".join((SOURCES / name).read_bytes() for name in ("include/device_table.h", "device_kernels.h"))
    for target in ("compute_75", "sm_90"):
        for sample, model_output, more, has_float64_sums in CASES:
            options = [f"-DDS_SAMPLE_TYPE={sample}", f"-DDS_MODEL_OUTPUT_TYPE={model_output}", *more.split()]
            options += ["-DDS_FLOAT64_SUMS"] * has_float64_sums
            ptx, messages = compiler.compile(source, [f"--gpu-architecture={target}", "--std=c++17", *options])
            error = fault(ptx, messages, has_float64_sums)
            types = f"{NAMES[sample]} with {NAMES[model_output]}, {'float64' if has_float64_sums else 'float32'} sums"
            if error:
                sys.exit(f"{target}, {types}, {' '.join(options)}: {error}")
            print(f"{target}, {types}: {len(ptx.splitlines())} lines of PTX")
    _, messages = compiler.compile(source, ["-DDS_SAMPLE_TYPE=1"])
    if "float64 tensors need DS_FLOAT64_SUMS" not in messages:
        sys.exit(f"float64 tensors without DS_FLOAT64_SUMS: expected a sentence, got {messages!r}")


if __name__ == "__main__":
    main()
