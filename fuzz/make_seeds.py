# SPDX-License-Identifier: Apache-2.0

"""Writes the fuzzers' seeds that the library itself produces: configurations, plans, sessions, noise sources, and random calls.

Usage: python3 fuzz/make_seeds.py out/lib/libdiffusion_scheduling.so
"""

import ctypes
import json
import pathlib
import random
import sys

library = ctypes.CDLL(sys.argv[1])
seeds = pathlib.Path(__file__).parent / "seeds"
Handle, Size = ctypes.c_uint64, ctypes.c_size_t


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int), ("rank", Size), ("shape", ctypes.POINTER(ctypes.c_int64))]


def check(status):
    if status != 0:
        library.ds_error_message.restype = ctypes.c_char_p
        sys.exit(library.ds_error_message().decode())


def text_of(function, handle):
    length = Size()
    check(function(handle, None, Size(0), ctypes.byref(length)))
    buffer = ctypes.create_string_buffer(length.value + 1)
    check(function(handle, buffer, Size(length.value + 1), None))
    return buffer.raw[: length.value]


def scheduler(text, steps):
    handle = Handle()
    check(library.ds_scheduler_create(text, Size(len(text)), None, None, ctypes.byref(handle)))
    check(library.ds_scheduler_set_timesteps(handle, Size(steps), None))
    return handle


def step(session, type_, size):
    shape = (ctypes.c_int64 * 1)(3)
    tensors = []
    for _ in range(3):
        memory = ctypes.create_string_buffer(3 * size)
        tensors.append((Tensor(ctypes.cast(memory, ctypes.c_void_p), type_, 1, shape), memory))
    e, x, z = (ctypes.byref(t[0]) for t in tensors)
    check(library.ds_session_step(session, e, x, z, x, None, 1))


# The plans of fuzz/targets/session.c, in its order.
configurations = [
    b'{"_class_name": "DEISMultistepScheduler", "solver_order": 3}',
    b'{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}',
    b'{"_class_name": "DDIMScheduler", "clip_sample": true}',
    b'{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned", "thresholding": true}',
    b'{"_class_name": "DPMSolverMultistepInverseScheduler", "solver_order": 2}',
    b'{"_class_name": "DEISMultistepScheduler", "solver_order": 1}',
    b'{"_class_name": "HeunDiscreteScheduler"}',
    b'{"_class_name": "UniPCMultistepScheduler", "solver_order": 3}',
    b'{"_class_name": "SASolverScheduler"}',
    b'{"_class_name": "PNDMScheduler", "skip_prk_steps": true}',
]
for number, text in enumerate(configurations):
    handle = scheduler(text, 5)
    (seeds / "configuration" / f"class-{number}.json").write_bytes(text_of(library.ds_scheduler_config_json, handle))
    (seeds / "plan" / f"class-{number}.json").write_bytes(text_of(library.ds_scheduler_plan_json, scheduler(text, 3)))
    for begin, steps, type_, size in [(0, 0, 0, 4), (0, 1, 0, 4), (0, 3, 1, 8), (2, 2, 2, 2), (0, 5, 3, 2)]:
        session, length = Handle(), Size()
        check(library.ds_session_create(handle, Size(begin), ctypes.byref(session)))
        for _ in range(steps):
            step(session, type_, size)
        check(library.ds_session_save(session, None, Size(0), ctypes.byref(length)))
        saved = ctypes.create_string_buffer(length.value)
        check(library.ds_session_save(session, saved, length, None))
        (seeds / "session" / f"plan-{number}-from-{begin}-after-{steps}").write_bytes(bytes([number | 16]) + saved.raw)
for kind in range(3):
    noise, length = Handle(), Size()
    check(library.ds_noise_create(kind, ctypes.c_uint64(7), ctypes.byref(noise)))
    check(library.ds_noise_save(noise, None, Size(0), ctypes.byref(length)))
    saved = ctypes.create_string_buffer(length.value)
    check(library.ds_noise_save(noise, saved, length, None))
    (seeds / "session" / f"noise-{kind}").write_bytes(bytes([len(configurations) | 16]) + saved.raw)
# A plan with features that the plans above lack: two stores in a row, a report, two evaluations in a step, noise in a store.
rows = [
    {
        "prediction": {"sample": 1.5, "model_output": -0.5},
        "next_sample": {"sample": 0.75, "model_output": 0.25, "prediction": 0.25},
        "stores": {"slot_0": {"sample": 1, "prediction": 0.5}, "slot_1": {"model_output": 1}},
    },
    {
        "prediction": {"sample": 1.25, "model_output": -0.25, "noise": 0.125},
        "next_sample": {"sample": 0.5, "noise": 0.25, "slot_0": -0.5, "slot_1": 0.375},
        "stores": {"slot_0": {"slot_0": 0.5, "noise": 0.25}, "slot_1": {"slot_0": 1, "slot_1": -1}},
        "report": {"prediction": 1, "slot_1": 0.5},
        "noise_draws": 2,
    },
]
learned = {"prediction": {"sample": 1.5, "model_output": -0.5}, "next_sample": {"prediction": 1, "noise": 0.5}, "noise_draws": 1}
factors = [{"exponential": {"offset": -0.5, "slope": 0.75}}, {"root": {}}]
plan = {
    **{"version": 1, "process": "variance_exploding", "init_noise_sigma": 8, "model_learns_variance": False},
    **{"clamp": {"range": {"limit": 2}}, "slots": 2, "warm_up": 0, "report": "pred_original_sample", "sigmas": [8, 4, 2, 1, 0]},
    "evaluations": [
        {"step": index // 2, "timestep": 4 - index, "input_scale": 0.5, "rows": [rows[index % 2]]} for index in range(4)
    ],
}
(seeds / "plan" / "two-stores.json").write_text(json.dumps(plan, indent=2) + "\n")
plan["model_learns_variance"], plan["slots"] = True, 0
for index, evaluation in enumerate(plan["evaluations"]):
    evaluation["rows"] = [{**learned, "noise_factor": factors[index % 2]}]
(seeds / "plan" / "learned-variances.json").write_text(json.dumps(plan, indent=2) + "\n")
random.seed(1)
for number in range(12):
    (seeds / "calls" / f"random-{number}").write_bytes(random.randbytes(40 * (number + 1)))
