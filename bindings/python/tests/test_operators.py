# SPDX-License-Identifier: Apache-2.0

"""Plans' steps as a torch operator: bits, torch.compile, gradients, and torch's checks of operators."""

import contextlib
import copy
import gc
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest

torch = pytest.importorskip("torch")
testing = pytest.importorskip("torch._dynamo.testing")

from conftest import CLASSES  # noqa: E402
from diffusion_scheduling import _operators, _tensors  # noqa: E402
from diffusion_scheduling.operators import Plan  # noqa: E402
from people import OWN_CONFIG, take_step  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = torch.ops.diffusion_scheduling.step.default
SHAPE = (2, 3, 4, 4)
NAMES = [cls.__name__ for cls in CLASSES]
DRAWN = [cls.__name__ for cls in CLASSES if cls.description.brownian_motion is None and not cls.description.calls]
"""The classes whose drop-ins have plans, without a Brownian motion: their steps draw noise, if any, from a generator."""
LOOPS = ["EulerDiscreteScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "DPMSolverSDEScheduler", "DDIMScheduler"]
"""Classes with and without slots, with stores of two tensors, with noise, and with a clamp."""
GRADIENTS = {
    "affine": ("DEISMultistepScheduler", {"solver_order": 3}),
    "affine, of the prediction": ("DPMSolverMultistepScheduler", {}),
    "affine, two stores and noise": ("SASolverScheduler", {}),
    "affine, a variance is passed over": ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
    "clamped": ("DDIMScheduler", {"clip_sample_range": 2.0}),
    "thresholded": ("DDIMScheduler", {"clip_sample": False, "thresholding": True, "sample_max_value": 3.0}),
    "thresholded, with slots": ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 3.0}),
    "learned variance": ("DDPMScheduler", {"variance_type": "learned", "clip_sample": False}),
    "learned range, clamped": ("DDPMScheduler", {"variance_type": "learned_range"}),
}
TOLERANCE = {"rtol": 1e-13, "atol": 1e-13}
"""The bound of float64 gradients: sums of at most ten terms, added in different orders."""


def planned(name, steps=6, **config):
    scheduler = getattr(ds, name)(**OWN_CONFIG.get(name, {}), **config)
    scheduler.set_timesteps(steps)
    return Plan(scheduler), scheduler


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loop(plan, model=torch.tanh, begin=0):
    """A sampling loop that takes its noise as an argument."""

    def sample(x, noise):
        slots = plan.empty_slots()
        for index in range(begin, len(plan.timesteps)):
            e = model(x * plan.input_scales[index]) + 1e-4 * plan.timesteps[index]
            x, slots = plan.step(index, e, x, slots, noise[index], age=index - begin)
        return x

    return sample


def noises(plan, dtype=torch.float32):
    return [normal(seed=100 + index, dtype=dtype) for index in range(len(plan.timesteps))]


def arguments(name, config, dtype=torch.float64, is_guided=False, index=None):
    """The plan, the row and the operator's arguments of a step at full order. The tensors require gradients."""
    plan, _ = planned(name, **config)
    index = len(plan.timesteps) // 2 if index is None else index
    row, count = plan._steps.row(index, index), iter(range(100))

    def made(*shape):
        return normal(*(shape or (2, 3, 2, 2)), seed=next(count), dtype=dtype).requires_grad_()

    has_variance = "learned" in config.get("variance_type", "")
    e = made(2, 6, 2, 2) if has_variance else made()
    u = made(*e.shape) if is_guided else None
    if has_variance:
        # The variance stays away from 0, where the root has no derivative.
        e = torch.cat([e[:, :3], e[:, 3:].abs() + 0.1], 1).detach().requires_grad_()
    z = made() if row.places.reads_noise else None
    return plan, row, (plan.key, index, index, e, made(), z, u, 1.7 if is_guided else 1.0, [made() for _ in row.reads])


def flat(given):
    return [each for each in given if isinstance(each, torch.Tensor)] + given[-1]


def function(given):
    """The operator as a function of its tensors alone."""

    def of(*tensors):
        tensors = list(tensors)
        named = [tensors.pop(0) if isinstance(each, torch.Tensor) else each for each in given[:-1]]
        return tuple(OPERATOR(*named, tensors))

    return of


def plain(plan, row, given):
    """A step's formula in torch's operations."""
    e, x, z, u, scale, slots = given[3:]
    if u is not None:
        count = x.shape[1]
        e = torch.cat([u[:, :count] + scale * (e[:, :count] - u[:, :count]), e[:, count:]], 1)
    properties = plan._steps._plan.properties
    results, stored = _tensors.step_by_row(row.row, properties, e, x, z, dict(zip(row.reads, slots)), False)
    return [*results, *stored]


# ---- Bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("name", NAMES)
def test_runs_are_those_of_sessions(name, is_guided, dtype):
    plan, scheduler = planned(name)
    session, slots = ds.Session(scheduler), plan.empty_slots()
    x = normal(dtype=dtype)
    assert plan.timesteps == tuple(scheduler._plan.timesteps) and plan.init_noise_sigma == scheduler.init_noise_sigma
    for index in range(len(plan.timesteps)):
        e, u, z = x.tanh(), x.sin() / 2, normal(seed=index + 1, dtype=dtype)
        named = {"unconditional": u, "guidance_scale": 7.5} if is_guided else {}
        theirs = {"unconditional": u.numpy(), "guidance": ds.Guidance(7.5)} if is_guided else {}
        assert plan.needs_noise(index) == session.needs_noise
        expected = session.step(e.numpy(), x.numpy(), noise=z.numpy(), **theirs)
        x, slots = plan.step(index, e, x, slots, z, **named)
        if x.dtype != dtype:
            # One class's results are at least float32. The session's result is the plan's, rounded once.
            assert scheduler.description.result_type == "at_least_float32" and x.dtype == torch.float32
            assert np.allclose(x.numpy(), expected, rtol=2.0**-10, atol=2.0**-24)
            x = torch.from_numpy(expected)
        assert np.array_equal(x.numpy(), expected, equal_nan=True), index  # Levels of 10,000 overflow float16.


@pytest.mark.parametrize("begin", [1, 3])
@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"])
def test_runs_may_begin_later(name, begin):
    plan, scheduler = planned(name, 5)
    session, x = ds.Session(scheduler, begin), normal()
    found = loop(plan, begin=begin)(x, [None] * 5)
    for index in range(begin, 5):
        e = torch.tanh(x * plan.input_scales[index]) + 1e-4 * plan.timesteps[index]
        x = torch.from_numpy(session.step(e.numpy(), x.numpy()))
    assert torch.equal(found, x)


def test_guided_steps_with_a_learned_variance():
    """No row takes an unconditional output if a variance scales the noise, so the guided output is rounded before the step."""
    plan, scheduler = planned("DDPMScheduler", variance_type="learned_range")
    session, x = ds.Session(scheduler), normal()
    for index in range(len(plan.timesteps)):
        e, u, z = (normal(2, 6, 4, 4, seed=3 * index), normal(2, 6, 4, 4, seed=3 * index + 1), normal(seed=3 * index + 2))
        expected = session.step(e.numpy(), x.numpy(), unconditional=u.numpy(), guidance=ds.Guidance(3.0), noise=z.numpy())
        x, _ = plan.step(index, e, x, noise=z, unconditional=u, guidance_scale=3.0)
        assert np.allclose(x.numpy(), expected, rtol=2.0**-20, atol=2.0**-20)
        x = torch.from_numpy(expected)


PAIRS = [
    ("half", "half"),
    ("bfloat16", "bfloat16"),
    ("half", "float"),
    ("float", "half"),
    ("bfloat16", "float"),
    ("float", "double"),
]


@pytest.mark.parametrize("model, x", PAIRS)
@pytest.mark.parametrize("name", DRAWN)
def test_types_are_those_of_the_drop_ins(name, model, x):
    drop_ins = pytest.importorskip("diffusion_scheduling.diffusers")
    scheduler = getattr(drop_ins, name)()
    scheduler.set_timesteps(5)
    plan = Plan(scheduler)
    z = normal(seed=5, dtype=torch.promote_types(getattr(torch, model), getattr(torch, x)))
    scheduler._draw = lambda count, *others: z if count else None
    # Drop-ins that keep tensors in diffusers' attributes round them.
    is_exact = not scheduler.description.attributes.tensors
    epsilon = max(torch.finfo(getattr(torch, each)).eps for each in (model, x))
    sample, slots = getattr(normal(), x)(), plan.empty_slots()
    timesteps = scheduler.timesteps[: len(plan.timesteps)]
    for index, t in enumerate(timesteps):
        e = getattr(sample.double().tanh(), model)()
        own = {"prev_timestep": timesteps[index + 1] if index < 4 else None} if name == "UnCLIPScheduler" else {}
        expected = take_step(scheduler, e, t, sample, return_dict=False, **own)[0]
        found, slots = plan.step(index, e, sample, slots, z)
        assert found.dtype == expected.dtype
        error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
        assert error <= (0 if is_exact or index == 0 else 16 * epsilon), index
        sample = getattr(expected, x)()


@pytest.mark.parametrize("name", LOOPS)
def test_results_do_not_depend_on_the_form_of_the_tensors(name):
    plan, _ = planned(name)
    expected = loop(plan)(normal(), noises(plan))
    forms = [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x.mT.contiguous().mT,
    ]
    for form in forms:
        found = loop(plan)(form(normal()), [form(each) for each in noises(plan)])
        assert torch.equal(found, expected)
    assert loop(plan)(forms[0](normal()), noises(plan)).is_contiguous(memory_format=torch.channels_last)
    # A model's output may have one channel. A tensor may have one dimension, or be empty.
    x, e = normal(), normal(2, 1, 4, 4, seed=1)
    z = normal(seed=2)
    assert torch.equal(plan.step(0, e, x, noise=z)[0], plan.step(0, e.expand(SHAPE).contiguous(), x, noise=z)[0])
    assert torch.equal(
        plan.step(0, e[0, 0, 0], x[0, 0, 0], noise=z[0, 0, 0])[0],
        plan.step(0, e[:1, :, :1], x[:1, :1, :1], noise=z[:1, :1, :1])[0][0, 0, 0],
    )
    assert plan.step(0, x[:0], x[:0], noise=z[:0])[0].shape == (0, *SHAPE[1:])


def test_options_of_a_run():
    scheduler = ds.DDIMScheduler()
    scheduler.set_timesteps(4)
    plan = Plan(scheduler, eta=1.0)
    scheduler.set_timesteps(4, eta=1.0)
    assert plan.key == Plan(scheduler).key and plan.needs_noise(0)


# ---- torch.compile


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_whole_loop_is_one_graph(name, backend):
    torch._dynamo.reset()
    plan, _ = planned(name)
    weight = torch.tensor(0.7, requires_grad=True)
    found = []
    for made in (lambda function: function, torch.compile(fullgraph=True, backend=backend)):
        x = made(loop(plan, lambda x: torch.tanh(weight * x)))(normal(), noises(plan))
        found.append((x, *torch.autograd.grad(x.square().mean(), weight)))
    assert all(map(torch.equal, *found))


def test_equal_plans_are_compiled_once():
    torch._dynamo.reset()
    counter = testing.CompileCounter()

    @torch.compile(fullgraph=True, backend=counter)
    def sample(plan, x):
        return loop(plan)(x, [None] * len(plan.timesteps))

    for steps, count in ((4, 1), (5, 2), (5, 2), (4, 2), (6, 3)):
        plan, _ = planned("DEISMultistepScheduler", steps)
        assert torch.equal(sample(plan, normal()), loop(plan)(normal(), [None] * steps))
        assert counter.frame_count == count


def test_shapes_may_be_dynamic():
    torch._dynamo.reset()
    plan, _ = planned("DEISMultistepScheduler")
    counter = testing.CompileCounterWithBackend("aot_eager")

    def step(x, scale):
        return plan.step(0, x.tanh(), x, unconditional=x.sin(), guidance_scale=scale)[0]

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for shapes in ([SHAPE, (5, 4, 8, 7), (3, 6, 5, 9)], [(5, 2), (4, 3), (7, 6)]):
        counts = []
        for shape in shapes:
            x = normal(*shape)
            found, expected = compiled(x, 2.0), step(x, 2.0)
            assert torch.equal(found, expected) and found.stride() == expected.stride()
            counts.append(counter.frame_count)
        # The compiler may compile again for the second shape, but not for the third.
        assert counts[2] == counts[1]
    last = normal().to(memory_format=torch.channels_last)
    assert torch.equal(compiled(last, 2.0), step(last, 2.0)) and compiled(last, 2.0).stride() == last.stride()
    assert torch.equal(compiled(normal(), 3.0), step(normal(), 3.0))


def test_inductor_compiles_a_loop():
    torch._dynamo.reset()
    plan, _ = planned("UniPCMultistepScheduler", 3)
    x = normal()
    compiled = torch.compile(loop(plan, lambda x: x * 0.5), fullgraph=True)
    # The compiler may fuse the model's product with its sum, but not the steps.
    assert torch.allclose(compiled(x, [None] * 3), loop(plan, lambda x: x * 0.5)(x, [None] * 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_strict", [False, True])
def test_exported_programs(is_strict):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.plan, _ = planned("DEISMultistepScheduler", 3)

        def forward(self, x):
            return loop(self.plan)(x, [None] * 3)

    model, file = Model(), io.BytesIO()
    sizes = {"x": {0: torch.export.Dim("batch", min=2, max=9)}}
    torch.export.save(torch.export.export(model, (normal(),), strict=is_strict, dynamic_shapes=sizes), file)
    file.seek(0)
    program = torch.export.load(file).module()
    x = normal(7, 3, 4, 4)
    expected = model(x)
    assert torch.equal(program(x), expected)
    del model
    gc.collect()
    with pytest.raises(ValueError, match="must be the key of a Plan that exists"):
        program(x)
    kept, _ = planned("DEISMultistepScheduler", 3)
    assert torch.equal(program(x), expected)


# ---- Gradients


@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_the_formula(name, is_guided):
    plan, row, given = arguments(*GRADIENTS[name], is_guided=is_guided)
    assert row.is_affine == name.startswith("affine")
    tensors, found, expected = flat(given), OPERATOR(*given), plain(plan, row, given)
    assert len(found) == len(expected)
    seeds = [normal(*each.shape, seed=50 + place, dtype=torch.float64) for place, each in enumerate(found)]
    # Gradients of each result alone, then of all results together.
    for places in (*([place] for place in range(len(found))), range(len(found))):
        ours, theirs = (
            torch.autograd.grad(
                [each[i] for i in places], tensors, [seeds[i] for i in places], retain_graph=True, allow_unused=True
            )
            for each in (found, expected)
        )
        for a, b in zip(ours, theirs):
            a, b = (torch.zeros(()) if each is None else each for each in (a, b))
            assert torch.allclose(a, b.to(a), **TOLERANCE)
    assert torch.autograd.gradcheck(function(given), tensors)
    assert torch.autograd.gradgradcheck(function(given), tensors)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_every_class(name):
    plan, _ = planned(name)
    x, noise = normal(dtype=torch.float64).requires_grad_(), noises(plan, torch.float64)
    rows, slots, y = plan._steps.rows, {}, x
    for index, z in enumerate(noise):
        row = rows[index][min(index, len(rows[index]) - 1)]
        e = torch.tanh(y * plan.input_scales[index]) + 1e-4 * plan.timesteps[index]
        results = plain(
            plan,
            row,
            (None, None, None, e, y, z if row.places.reads_noise else None, None, 1.0, [slots[slot] for slot in row.reads]),
        )
        slots.update(zip(row.stores, results[1:]))
        slots.update((slot, y) for slot in row.places.keeps)
        y = results[0]
    found = loop(plan)(x, noise)
    assert torch.allclose(found, y, rtol=1e-10, atol=1e-10)
    seed = normal(seed=9, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(each, x, seed)[0] for each in (found, y))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max())


def test_gradients_have_the_types_and_shapes_of_the_tensors():
    plan, _ = planned("DEISMultistepScheduler")
    e = normal(2, 1, 4, 4, dtype=torch.bfloat16).requires_grad_()
    x = normal(seed=1).requires_grad_()
    y, _ = plan.step(0, e, x)
    y.sum().backward()
    row = plan._steps.row(0, 0)
    (of_e,), (of_x,) = ([row.transposed(stream, 1.0, [torch.ones(())])] for stream in ("model_output", "sample"))
    assert e.grad.dtype == torch.bfloat16 and torch.equal(e.grad, (3 * of_e).bfloat16().expand(e.shape))
    assert torch.equal(x.grad, of_x.expand(SHAPE))


def test_a_graph_keeps_its_plan():
    plan, _ = planned("DEISMultistepScheduler", 7)
    x = normal().requires_grad_()
    y, _ = plan.step(0, x.tanh(), x)
    del plan
    gc.collect()
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_forward_mode_is_refused():
    plan, _ = planned("DEISMultistepScheduler")
    with pytest.raises(NotImplementedError, match="a tensor has a tangent, but forward-mode derivatives"):
        torch.func.jvp(lambda x: plan.step(0, x, x)[0], (normal(),), (normal(),))


# ---- torch's checks of operators


@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", GRADIENTS)
def test_torch_accepts_the_operator(name, dtype, is_guided):
    plan, _, given = arguments(*GRADIENTS[name], dtype=dtype, is_guided=is_guided)
    if dtype == torch.bfloat16:
        # bfloat16 gradients are left out: recomputed ones and a graph's are rounded at different places.
        given = tuple(each.detach() if isinstance(each, torch.Tensor) else each for each in given[:-1]) + (
            [each.detach() for each in given[-1]],
        )
    torch.library.opcheck(OPERATOR, given)


@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_steps_of_devices(name, is_guided):
    """The step of other devices, run on the host."""
    plan, _, given = arguments(*GRADIENTS[name], dtype=torch.float32, is_guided=is_guided)
    expected = OPERATOR(*given)
    with _operators.step.set_kernel_enabled("cpu", enabled=False):
        found = OPERATOR(*given)
        torch.library.opcheck(OPERATOR, given)
        last = tuple(
            each.detach().to(memory_format=torch.channels_last) if isinstance(each, torch.Tensor) else each for each in given
        )
        with torch._subclasses.FakeTensorMode() as mode:
            fake = [mode.from_tensor(each) if isinstance(each, torch.Tensor) else each for each in last[:-1]]
            likes = OPERATOR(*fake, [mode.from_tensor(each) for each in last[-1]])
        assert [each.stride() for each in OPERATOR(*last)] == [each.stride() for each in likes]
    assert [each.dtype for each in found] == [each.dtype for each in expected]
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-4) for a, b in zip(found, expected))


@pytest.mark.parametrize("name", ["affine", "thresholded", "learned variance"])
def test_vmap(name):
    plan, row, given = arguments(*GRADIENTS[name])
    key, index, age, e, x, z, _, _, slots = given
    assert not slots or name == "affine"

    def step(e, x):
        return plan.step(index, e, x, slots + [None] * (plan.slot_count - len(slots)), z)[0]

    many = torch.stack([e, e / 2, e / 3])
    assert torch.equal(torch.vmap(step, (0, None))(many, x), torch.stack([step(each, x) for each in many]))
    both = torch.stack([many, 2 * many], 3)
    found = torch.vmap(torch.vmap(step, (2, None), 1), (0, None))(both, x)
    assert torch.equal(found, torch.stack([torch.stack([step(each, x) for each in part.unbind(2)], 1) for part in both]))
    if name != "learned variance":
        plan, _ = planned(*GRADIENTS[name][:1], **GRADIENTS[name][1])
        flat = normal(5, 7)
        for rows in (flat, flat[:, 0]):
            assert torch.equal(
                torch.vmap(lambda x: plan.step(0, x.tanh(), x)[0])(rows), torch.stack([plan.step(0, x.tanh(), x)[0] for x in rows])
            )


def test_contexts_change_nothing():
    plan, _ = planned("DEISMultistepScheduler")
    x = normal()
    expected, slots = plan.step(0, x.tanh(), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plan.step(0, x.tanh(), x)[0], expected)
    with torch.inference_mode():
        assert torch.equal(plan.step(0, x.tanh(), x)[0], expected)
    meta, _ = plan.step(0, x.to("meta"), x.to("meta"))
    assert meta.device.type == "meta" and meta.shape == x.shape
    # Steps don't write to their arguments, so slots can be used again.
    first, _ = plan.step(1, x.tanh(), expected, slots)
    second, _ = plan.step(1, x.tanh(), expected, slots)
    assert torch.equal(first, second) and torch.equal(x, normal())


def test_plans_are_shared():
    plan, _ = planned("DEISMultistepScheduler")
    again, _ = planned("DEISMultistepScheduler")
    other, _ = planned("DEISMultistepScheduler", solver_order=3)
    assert plan.key == again.key != other.key and plan._steps is again._steps
    assert copy.deepcopy(plan) is plan and copy.copy(plan) is plan
    assert pickle.loads(pickle.dumps(plan)).key == plan.key
    assert repr(plan) == "Plan(DEISMultistepScheduler, 6 steps)"


# ---- Errors


def test_errors_say_what_is_allowed():
    plan, _ = planned("DEISMultistepScheduler", 4)
    noisy, _ = planned("EulerAncestralDiscreteScheduler", 4)
    learned, _ = planned("DDPMScheduler", variance_type="learned")
    x, narrow = normal(), normal(2, 3, 4, 3)
    cases = {
        "index is 4, but must be from 0 to 3": lambda: plan.step(4, x, x),
        "index is -1, but must be from 0 to 3": lambda: plan.step(-1, x, x),
        "age is -1, but must be at least 0": lambda: plan.step(0, x, x, age=-1),
        "the number of slots is 2, but must be 1, or 0 at first": lambda: plan.step(0, x, x, [x, x]),
        "slot 0 is None, but step 1 reads it: hand over the slots of the step before": lambda: plan.step(1, x, x),
        "model_output has the shape [2, 3, 4, 3], but must be broadcastable with sample, [2, 3, 4, 4]": lambda: plan.step(
            0, narrow, x
        ),
        "slot 0 has the shape [2, 3, 4, 3], but must have [2, 3, 4, 4]": lambda: plan.step(1, x, x, [narrow]),
        "the step is stochastic, but noise is missing": lambda: noisy.step(0, x, x),
        "noise has the shape [2, 3, 4, 3], but must have [2, 3, 4, 4]": lambda: noisy.step(0, x, x, noise=narrow),
        "unconditional is float16[2, 3, 4, 4], but must be like model_output, which is float32[2, 3, 4, 4]": lambda: plan.step(
            0, x, x, unconditional=x.half()
        ),
        "guidance_scale is nan, but must be finite": lambda: plan.step(0, x, x, unconditional=x, guidance_scale=float("nan")),
        "model_output has 6 channels, but must have 3": lambda: plan.step(0, normal(2, 6, 4, 4), x),
        "but must have [2, 3, 4, 4], or [2, 6, 4, 4] with a variance": lambda: learned.step(0, normal(2, 5, 4, 4), x, noise=x),
        "model_output has 96 elements, but must have 192": lambda: learned.step(0, x, x, noise=x),
        "scheduler is a int, but must be a scheduler of diffusion_scheduling": lambda: Plan(3),
        "no timesteps have been set": lambda: Plan(ds.DEISMultistepScheduler()),
        "the number of slots is 0, but must be 1: those that the row reads": lambda: OPERATOR(
            plan.key, 1, 1, x, x, None, None, 1.0, []
        ),
    }
    for words, call in cases.items():
        for is_device in (False, True):
            kernels = _operators.step.set_kernel_enabled("cpu", enabled=False) if is_device else contextlib.nullcontext()
            with kernels, pytest.raises(ds.SchedulerError, match=re.escape(words)) as caught:
                call()
            assert isinstance(caught.value, ValueError), words


def test_freed_plans_are_named():
    plan, _ = planned("DEISMultistepScheduler", 9)
    key, x = plan.key, normal()
    OPERATOR(key, 0, 0, x, x, None, None, 1.0, [])
    del plan
    gc.collect()
    with pytest.raises(ds.InvalidValueError, match=f"plan is '{key}', but must be the key of a Plan that exists: keep the Plan"):
        OPERATOR(key, 0, 0, x, x, None, None, 1.0, [])


# ---- The package


def test_no_need_of_diffusers():
    program = "import sys; sys.modules['diffusers'] = None; import diffusion_scheduling.operators"
    environment = os.environ | {"PYTHONPATH": str(Path(ds.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_the_documented_loop(tmp_path, monkeypatch):
    """Runs the lines of docs/PYTHON.md, compiled without machine code."""
    torch._dynamo.reset()
    page = (ROOT / "docs/PYTHON.md").read_text()
    (section,) = re.findall(r"^## torch\.compile and gradients\n(.*?)^## ", page, re.S | re.M)
    (lines,) = re.findall(r"```python\n(.*?)```", section, re.S)
    ds.DEISMultistepScheduler(solver_order=3).save_pretrained(tmp_path / "model" / "scheduler")
    monkeypatch.chdir(tmp_path)
    program = {"model": lambda x, t: torch.tanh(x) + 1e-4 * t}
    exec(lines.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"'), program)
    assert program["x"].isfinite().all()
    x = program["x"].detach()
    assert torch.equal(program["sample"](x), program["sample"].__wrapped__(x))
