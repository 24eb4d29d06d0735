# SPDX-License-Identifier: Apache-2.0

"""Compiles kernels for sm_90 without a device, and counts their loads and stores. test_torch.py runs this file as a program."""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import diffusion_scheduling as ds
import triton
from diffusion_scheduling import _launch
from diffusion_scheduling import _triton_kernels as kernels
from triton import language
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BLOCK = 512
"""Four elements for each of 128 threads. A thread loads 16 bytes of a float32 stream at once, and 8 bytes of a bfloat16 stream."""


def compiled(features, tensors, is_batch):
    """The PTX of a step. `tensors` are the pointers' types; None for an absent tensor."""
    names = kernels.step_kernel.arg_names
    signature = {
        "table": "*fp64",
        "tensors": tuple(each or "constexpr" for each in tensors),
        "item_strides": ("i32",) * len(tensors),
        "strides": ("constexpr",) * len(tensors),
        **dict.fromkeys(["slot_stride", "n", "max_blocks"], "i32"),
    }
    if is_batch:
        signature |= {"rows": "*i32", "counters": "*i32", "timesteps": "*fp32", "input_scales": "*fp32"}
    signature = {name: signature.get(name, "constexpr") for name in names}
    values = {name: None for name in names if signature[name] == "constexpr"} | {
        "USES": features.uses_of(False),
        "READS": features.reads,
        "CLAMPS": features.clamps,
        "SCALES_NOISE": features.scales_noise,
        "EXACT": not is_batch,
        "SUMS": kernels.TWO_PARTS,
        "NOISE_TYPE": language.float32,
        "CUDA": True,
        "LARGE": False,
        "BLOCK": BLOCK,
    }
    constants = {(names.index(name),): value for name, value in values.items()}
    constants |= {(names.index("tensors"), place): None for place, each in enumerate(tensors) if each is None}
    constants |= {(names.index("strides"), place): None for place in range(len(tensors))}
    aligned = [(names.index(name),) for name in ("table", "n", "slot_stride")]
    aligned += [(names.index("tensors"), place) for place, each in enumerate(tensors) if each]
    aligned += [(names.index("item_strides"), place) for place in range(len(tensors))]
    source = ASTSource(kernels.step_kernel, signature, constants, {key: [["tt.divisibility", 16]] for key in aligned})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": False})
    return made.asm["ptx"]


def main():
    for name, options in {
        "DEISMultistepScheduler": {"solver_order": 3},
        "UniPCMultistepScheduler": {"solver_order": 2},
        "EulerDiscreteScheduler": {},
    }.items():
        scheduler = getattr(ds, name)(**options)
        scheduler.set_timesteps(8)
        plan = scheduler._ready()
        records = _launch.table_of(plan, 0)
        for pointer, vector in (("*fp32", "v4.b32"), ("*bf16", "v2.b32")):
            record = _launch.record_of(plan, plan.row(5, 5))
            reads, stores = int((record["reads"] >= 0).sum()), int((record["stores"] >= 0).sum())
            # Every row here reads x and e.
            own = [pointer, pointer, None, None, None, *[pointer] * reads, *[None] * (6 - reads), pointer]
            own += [*[pointer] * stores, *[None] * (2 - stores), None, None]
            batch = [pointer, pointer, None, None, None, pointer, *[None] * 5, pointer, *[None] * 4]
            for kind, tensors in (("row", own), ("batch", batch)):
                features = _launch.Features.of(record if kind == "row" else records)
                ptx = compiled(features, tensors, kind == "batch")
                loads, stored = (Counter(re.findall(rf"\b{word}\.global[\w.:]*\.(v\d\.b\d+)", ptx)) for word in ("ld", "st"))
                text = f"{name}, {pointer}, {kind}: loads {dict(loads)}, stores {dict(stored)}"
                print(text)
                assert loads == {vector: 2 + reads} and stored == {vector: 1 + stores}, text
                assert not re.search(r"\bcall", ptx), text
                # All other loads are scalars: the record's coefficients and a batch's state.
                scalars = len(re.findall(r"\bld\.global[\w.:]*\.b(?:32|64)", ptx)) - sum(loads.values())
                assert scalars <= 2 * int(features.uses_of(False)).bit_count() + 8, f"{text}, {scalars} scalars"


if __name__ == "__main__":
    main()
