# SPDX-License-Identifier: Apache-2.0

"""The device kernels, interpreted on the host, against the library's host steps and against sums in float64."""

import contextlib
import inspect
import itertools
import math
import os
import subprocess
import sys
from ctypes import byref, c_uint64
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import diffusion_scheduling as ds  # noqa: E402
from conftest import CLASSES  # noqa: E402
from diffusion_scheduling import _launch, _library  # noqa: E402
from diffusion_scheduling.torch import DeviceBatch, PlanTable  # noqa: E402
from people import OWN_CONFIG  # noqa: E402

if not _launch.is_interpreted():
    pytest.skip("TRITON_INTERPRET is 0", allow_module_level=True)

SINGLE = 2.0**-24
UNITS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: SINGLE, torch.float64: 2.0**-53}
"""Half a unit in the last place of 1, by type."""
TYPES = {
    torch.float16: _library.FLOAT16,
    torch.bfloat16: _library.BFLOAT16,
    torch.float32: _library.FLOAT32,
    torch.float64: _library.FLOAT64,
}
ROOT = Path(__file__).parents[3]
SIZES = [1, 63, 64, 65, 16384, 16385]


def scheduler(cls=ds.DEISMultistepScheduler, steps=5, **config):
    """A planned scheduler of the class, with the values of `config` that the class accepts."""
    known, config = {each.key for each in cls.description.parameters}, {**OWN_CONFIG.get(cls.__name__, {}), **config}
    made = cls(**{key: value for key, value in config.items() if key in known})
    made.set_timesteps(steps)
    return made


def normal(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(autouse=True)
def patched_once(monkeypatch):
    """Makes the interpreter replace Triton's functions once per launch instead of at each function call. Interpreted steps then
    take a third of the time."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    own, seen = getattr(interpreter, "_patch_lang", None), set()
    if own is None:
        return

    class Scope:
        """The replacements of a launch. The interpreter restores them, but not those made by calls inside the launch."""

        def __init__(self, scope):
            self.scope = scope

        def restore(self):
            seen.clear()
            self.scope.restore()

    def patch(function):
        # The replaced functions depend on the module of the called function alone.
        module = id(function.__globals__)
        if module in seen:
            return None
        seen.add(module)
        return Scope(own(function))

    monkeypatch.setattr(interpreter, "_patch_lang", patch)


# ---- The host


def view(tensor):
    return _library.tensor(tensor.data_ptr(), TYPES[tensor.dtype], tensor.shape)


def host_step(sessions, e, x, z=None, u=None, scales=None, report=False):
    """The next samples of sessions, and the reports on request, by the library on the host. None is a free place. All tensors
    are contiguous."""
    y, p = torch.empty_like(x), torch.empty_like(x) if report else None
    handles = (c_uint64 * len(sessions))(*(0 if each is None else each.value for each in sessions))
    options = None if scales is None else (_library.Guidance * len(sessions))(*(_library.Guidance(s, 0) for s in scales))
    views = [None if each is None else view(each) for each in (e, u, x, z, y, p)]
    e, u, vx, z, vy, vp = (None if each is None else byref(each) for each in views)
    _library.check(_library.library.ds_sessions_step(handles, len(sessions), e, u, options, vx, z, vy, vp, 0))
    for item, session in enumerate(sessions):
        if session is None:
            y[item] = x[item]
    return (y, p) if report else y


def ended(sessions):
    """The sessions, with None in place of each finished one."""
    return [None if each is None or each.timestep is None else each for each in sessions]


class Pair:
    """A batch on the interpreted device, and sessions on the host for the same requests."""

    def __init__(self, schedulers, starts, shape, dtype=torch.float32, **options):
        """
        starts  each item's scheduler, by number, and first evaluation; None: the place is free
        """
        self.table = PlanTable(schedulers, "cpu")
        options = {"draws_noise": False, "sums": "float64", **options}
        self.batch = DeviceBatch(self.table, (len(starts), *shape), dtype, **options)
        self.sessions = []
        for item, start in enumerate(starts):
            if start is not None:
                self.batch.begin(item, *start)
            self.sessions.append(None if start is None else ds.Session(schedulers[start[0]], start[1]))

    def step(self, e, x, z=None, u=None, scales=None, **given):
        """Steps both. Returns the next samples of the device and of the host."""
        self.sessions = ended(self.sessions)
        told = [0.0 if each is None else each.timestep for each in self.sessions]
        assert self.batch.timesteps.tolist() == [float(np.float32(each)) for each in told]
        z = z if self.table.features.draws_noise else None
        scale = {} if u is None else {"unconditional": u, "guidance_scale": torch.tensor(scales, dtype=torch.float64)}
        expected = host_step(self.sessions, e, x, z, u, scales)
        found = self.batch.step(e, x, noise=z, **scale, **given)
        assert not self.batch._counters.any()
        return found, expected


def equal(found, expected):
    """Whether two tensors have equal bits, except that any NaN equals any other."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    a, b = (each.contiguous().view(kinds[each.element_size()]) for each in (found, expected))
    return bool(((a == b) | (found.isnan() & expected.isnan())).all())


def run(pair, x, steps, e_type=None, doubles=False, **given):
    """Takes steps on both sides, and asserts equal results."""
    for number in range(steps):
        e = torch.tanh(pair.batch.model_input(x)).to(e_type or x.dtype)
        e = torch.cat([e, 0.5 * e.flip(0)], 1) if doubles else e
        found, expected = pair.step(e, x, normal(x.shape, 100 + number, x.dtype), **given)
        assert equal(found, expected), f"step {number}: {(found - expected).abs().max().item()}"
        x = found
    return x


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_the_hosts_bits(cls):
    """A batch with items of two plans and a free place, 65 elements each, in float32, float16 and float64."""
    first, second = scheduler(cls), scheduler(ds.UniPCMultistepScheduler, 4)
    begin = PlanTable([first], "cpu")._entries[0].starts[-2]
    for dtype, steps in ((torch.float32, 7), (torch.float16, 2), (torch.float64, 2)):
        pair = Pair([first, second], [(0, 0), None, (1, 1), (0, begin)], (5, 13), dtype)
        run(pair, normal((4, 5, 13), 1, dtype), steps)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("cls, steps", [("DEISMultistepScheduler", 3), ("EulerAncestralDiscreteScheduler", 2)])
def test_every_size_has_the_hosts_bits(cls, steps, n):
    pair = Pair([scheduler(getattr(ds, cls), 4)], [(0, 0), (0, 1)], (n,))
    run(pair, normal((2, n), n), steps)


@pytest.mark.parametrize("model, sample", list(itertools.product(TYPES, repeat=2)))
def test_mixed_types_have_the_hosts_bits(model, sample):
    pair = Pair([scheduler(), scheduler(ds.DDPMScheduler)], [(0, 0), (1, 1), (0, 2)], (7, 9), sample)
    run(pair, normal((3, 7, 9), 3, sample), 4, model)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scales", [[7.3, 1.0, 0.0], [1.1, -2.0, 3.0]])
def test_guided_steps_have_the_hosts_bits(dtype, scales):
    """A scale of 1 makes the unconditional output's coefficient 0, so the step must not read that output."""
    pair = Pair([scheduler(), scheduler(ds.DDIMScheduler)], [(0, 0), (1, 1), (0, 2)], (6, 11), dtype)
    x = normal((3, 6, 11), 5, dtype)
    for number in range(4):
        e, u = torch.tanh(x), torch.cos(x)
        if scales[1] == 1:
            u[1] = math.nan
        found, expected = pair.step(e, x, None, u, scales)
        assert equal(found, expected)
        x = found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cls", ["DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("clamp", [{"clip_sample": True, "clip_sample_range": 0.7}, {"thresholding": True, "clip_sample": False}])
def test_clamped_steps_have_the_hosts_bits(dtype, cls, clamp):
    """One of the items has no clamp. One workspace serves all steps, and each step leaves it zeroed."""
    own = scheduler(getattr(ds, cls), 4, **clamp, dynamic_thresholding_ratio=0.93, sample_max_value=2.5)
    pair = Pair([own, scheduler(ds.EulerDiscreteScheduler)], [(0, 0), (1, 0), (0, 1), None], (3, 37), dtype)
    run(pair, 2 * normal((4, 3, 37), 7, dtype), 3)
    workspace = pair.batch._workspace
    assert workspace is None or not (workspace.histograms.any() or workspace.states.any() or workspace.counters.any())


@pytest.mark.parametrize("n", [1, 2, 64, 65, 16385])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.995, 1.0])
def test_thresholds_are_exact_order_statistics(n, ratio):
    """The inputs lie in one histogram bin, in neighbouring bins or far apart; others are equal, NaN or infinite."""
    own = scheduler(ds.DDPMScheduler, 3, thresholding=True, clip_sample=False, prediction_type="sample",
                    dynamic_thresholding_ratio=ratio, sample_max_value=1e9)  # fmt: skip
    spread = torch.exp(20 * normal((n,), 1))
    kinds = [1 + 1e-5 * normal((n,), 2), 3 * normal((n,), 3), spread, torch.full((n,), -2.5), 4 * normal((n,), 4).round()]
    kinds += [spread.masked_fill(torch.arange(n) == n // 2, value) for value in (math.nan, math.inf)]
    pair = Pair([own], [(0, 0)] * len(kinds), (n,))
    e = torch.stack(kinds)
    found, expected = pair.step(e, normal(e.shape, 5), normal(e.shape, 6))
    assert equal(found, expected)
    limits, below = pair.batch._workspace.thresholds, torch.quantile(e[:5].abs(), ratio, 1)
    assert torch.allclose(limits[:5].float(), below.clamp(1, 1e9), rtol=2**-22)
    assert limits[5].isnan()


def test_thresholds_of_float64_and_of_guided_steps_are_the_hosts():
    own = scheduler(ds.DEISMultistepScheduler, 4, thresholding=True, sample_max_value=50)
    for dtype in (torch.float64, torch.float32):
        pair = Pair([own], [(0, 0), (0, 1)], (301,), dtype)
        x = normal((2, 301), 4, dtype)
        for _ in range(2):
            found, expected = pair.step(torch.tanh(x), x, None, torch.cos(x), [4.5, 2.0])
            assert equal(found, expected)
            x = found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_learned_variances_have_the_hosts_bits(kind, dtype):
    own = scheduler(ds.DDPMScheduler, 4, variance_type=kind)
    pair = Pair([own], [(0, 0), (0, 2), None], (2, 31), dtype)
    run(pair, normal((3, 2, 31), 8, dtype), 4, doubles=True)
    with pytest.raises(ds.InvalidValueError, match="twice as many on axis 1: the prediction and its variance"):
        pair.batch.step(normal((3, 2, 31)), normal((3, 2, 31)), noise=normal((3, 2, 31)))


def test_steps_may_be_in_place_and_write_reports_and_inputs():
    own = scheduler(ds.EulerDiscreteScheduler, 4), scheduler(ds.DPMSolverMultistepScheduler, 4)
    pair = Pair(own, [(0, 0), (1, 0), None], (4, 17))
    x = normal((3, 4, 17))
    for _ in range(5):
        e, z = torch.tanh(x), normal(x.shape, 9)
        pair.sessions = ended(pair.sessions)
        expected, wanted = host_step(pair.sessions, e, x, z, report=True)
        report, following = torch.full_like(x, math.nan), torch.empty_like(x, dtype=torch.bfloat16)
        address = x.data_ptr()
        found = pair.batch.step(e, x, out=x, report=report, model_input=following)
        assert found is x and x.data_ptr() == address and equal(found, expected)
        for item, session in enumerate(pair.sessions):
            assert session is None or equal(report[item], wanted[item])
        scales = pair.batch.input_scales
        assert torch.allclose(following.float(), (x * scales[:, None, None]).bfloat16().float(), rtol=2**-7)
        assert torch.equal(pair.batch.model_input(x), (x * scales[:, None, None]))


FORMS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "items apart": lambda t: t.repeat_interleave(2, 0)[::2],
    "axes apart": lambda t: t.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strides_change_nothing(memory_format):
    """Each tensor in each form, with the other tensors contiguous, in steps with clamps, stores and a report."""
    own = scheduler(ds.DPMSolverMultistepScheduler, 4, algorithm_type="sde-dpmsolver++", thresholding=True)
    shape = (3, 5, 7)
    inputs = [normal((2, *shape), seed) for seed in range(3)]

    def results(e, x, z, y=None):
        pair = Pair([own], [(0, 0), (0, 1)], shape, memory_format=memory_format)
        report = torch.empty_like(inputs[0])
        first = pair.batch.step(e, x, noise=z, report=report, **({} if y is None else {"out": y}))
        return first, report, pair.batch.slots, pair.batch.step(e, first, noise=z)

    expected = results(*inputs)
    for name, form in FORMS.items():
        for place in range(4):
            given = [form(each) if place in (number, 3) else each for number, each in enumerate(inputs)]
            found = results(*given, form(torch.zeros_like(inputs[0])) if place == 3 else None)
            assert all(torch.equal(a, b) for a, b in zip(found, expected)), (name, place)
            if name == "channels last" and place == 3:
                sizes = _launch.arranged([*given, found[0]], (2, *shape), False)[1]
                assert sizes is None, "tensors that all have their channels last need no places"
    # A model's output may have one channel, broadcast to all.
    narrow = inputs[0][:, :1].expand(2, *shape)
    assert torch.equal(results(narrow, *inputs[1:])[0], results(narrow.contiguous(), *inputs[1:])[0])


def test_tensors_without_a_coefficient_are_not_read():
    """Infinities and NaN in the slots before the first step, and in noise that a step doesn't use, must not reach the samples."""
    own = scheduler(ds.DEISMultistepScheduler, 4, solver_order=3), scheduler(ds.EulerAncestralDiscreteScheduler, 3)
    for sums in _launch.SUMS:
        pair = Pair(own, [(0, 0), (1, 0)], (33,), sums=sums)
        pair.batch.slots.fill_(math.nan)
        x = normal((2, 33))
        for number in range(3):
            z = normal((2, 33), number)
            z[0] = math.inf
            if number == 2:
                z[1] = math.nan
            x = pair.batch.step(torch.tanh(x), x, noise=z)
            assert x.isfinite().all()


def test_blocks_of_an_item_go_on_together(monkeypatch):
    """Each item has eight blocks. The last block to finish advances the item."""
    monkeypatch.setattr(_launch, "block_size", lambda n: 128)
    own = scheduler(ds.DEISMultistepScheduler, 3, thresholding=True), scheduler(ds.DDPMScheduler, 3)
    pair = Pair(own, [(0, 0), (1, 1), None], (1000,))
    run(pair, normal((3, 1000), 2), 4)
    assert pair.batch.rows.tolist() == [0, 0, 0] and pair.batch.timesteps.tolist() == [0, 0, 0]


# ---- Sums in float32


def magnitudes(record, tensors):
    """The sum of the terms' magnitudes, the number of terms and the coefficient of p, for each output; then p's sum and number."""
    places = ["x", "e", "z", *(("slot", int(slot)) for slot in record["reads"])]
    columns = [None if place not in tensors else tensors[place].double().abs() for place in places]

    def total(coefficients):
        terms = [abs(c) * t for c, t in zip(coefficients.tolist(), columns) if c]
        return (sum(terms) if terms else torch.zeros(()), len(terms))

    p, n_p = total(record["prediction"][:3])
    return [(*total(row[:9]), abs(float(row[9]))) for row in record["outputs"]], p, n_p


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_sums_in_two_parts_are_within_their_bound(cls, dtype):
    """Every class has its own run. The oracle is the sum in float64 with the plan's coefficients.

    Let u be half a unit in the last place of 1 in float32, and S the sum of n terms' magnitudes. The sum is within 2 n u S: each
    term takes two products and two sums, or two fused ones, and a coefficient's two parts are within 2^-48 of it. The error of p
    is multiplied by the coefficient of p. Half types round the result once more. The factor 1.001 covers products of these errors.
    """
    own = scheduler(cls, 4)
    batch = DeviceBatch(table := PlanTable([own], "cpu"), (1, 65), dtype, draws_noise=False)
    batch.begin(0)
    records, x = table._entries[0].records, normal((1, 65), 4, dtype)
    for number in range(len(own.timesteps) - own.description.lists_end):
        record = records[int(batch.rows[0])]
        e, z = torch.tanh(x), normal(x.shape, number, dtype)
        tensors = {"x": x, "e": e, "z": z} | {("slot", k): slot.clone() for k, slot in enumerate(batch.slots)}
        found = batch.step(e, x, noise=z)
        sums, p_magnitude, n_p = magnitudes(record, tensors)
        p = exact(record, "prediction", tensors, None)
        if record["clamp"] == 1:
            p = p.clamp(-record["clamp_range"], record["clamp_range"])
        checked = [(0, found)] + [(1 + k, batch.slots[slot]) for k, slot in enumerate(record["stores"]) if slot >= 0]
        unit = UNITS[torch.float64] if dtype is torch.float64 else SINGLE
        for output, result in checked:
            expected = exact(record, output, tensors, p)
            magnitude, n, factor = sums[output]
            error = 2 * (n + 1) * unit * (magnitude + factor * p.abs()) + factor * 2 * n_p * unit * p_magnitude
            bound = (error + (UNITS[dtype] if dtype.itemsize == 2 else 0) * expected.abs()) * 1.001 + 2.0**-149
            bound = bound + (2.0**-25 if dtype is torch.float16 else 0)  # Denormal float16 numbers are 2^-24 apart.
            assert bool(((result.double() - expected).abs() <= bound).all()), (number, output)
        x = found


def exact(record, output, tensors, p):
    """An output of a record in float64."""
    if output == "prediction":
        coefficients, names = record["prediction"][:3].tolist(), ["x", "e", "z"]
    else:
        coefficients = record["outputs"][output].tolist()
        names = ["x", "e", "z", *(("slot", int(slot)) for slot in record["reads"]), "p"]
    every = {**tensors, "p": p}
    terms = [c * every[name].double() for c, name in zip(coefficients, names) if c]
    return sum(terms) if terms else torch.zeros_like(tensors["x"], dtype=torch.float64)


def test_sums_in_two_parts_of_guided_clamped_and_learned_steps_are_near_the_hosts():
    """Thresholds and noise factors are continuous functions of sums, so errors are within 2^-19 of the greatest number."""
    clamp = {"thresholding": True, "clip_sample": False, "variance_type": "learned_range"}
    own = scheduler(ds.DDPMScheduler, 4, **clamp), scheduler(ds.DDPMScheduler, 4, variance_type="learned")
    pair = Pair(own, [(0, 0), (1, 0), (0, 1)], (2, 40), sums="float32")
    x = normal((3, 2, 40))
    for number in range(4):
        e = torch.tanh(torch.cat([x, x.flip(0)], 1))
        found, expected = pair.step(e, x, normal(x.shape, number), torch.cos(torch.cat([x, x], 1)), [3.0, 2.0, 1.0])
        assert torch.allclose(found, expected, rtol=0, atol=2.0**-19 * float(expected.abs().max()))
        x = found


# ---- Noise


@pytest.mark.parametrize("n, blocks", [(1, 864), (64, 864), (1000, 864), (3000, 1), (5000, 2)])
def test_drawn_noise_is_that_of_torch_on_cuda(monkeypatch, n, blocks):
    """Each item draws by its own seed and offset, and the offset advances like torch's, even if a thread draws several numbers."""
    monkeypatch.setattr(_launch, "greatest_blocks", lambda device: blocks)
    own = scheduler(ds.EulerAncestralDiscreteScheduler, 4)
    table = PlanTable([own], "cpu")
    given = DeviceBatch(table, (2, n), draws_noise=False)
    drawn = DeviceBatch(table, (2, n))
    seeds, offsets = [7, 2**64 - 3], [0, 48]
    for item in range(2):
        given.begin(item, 0, item)
        drawn.begin(item, 0, item, seed=seeds[item], offset=offsets[item])
    sources = [ds.NoiseSource.torch_cuda(seed, offset, blocks, 256) for seed, offset in zip(seeds, offsets)]
    rounds = -(-n // (4 * 256 * min(-(-n // 256), blocks)))
    x = 0 * normal((2, n))
    for number in range(2):
        z = torch.stack([torch.from_numpy(source.standard_normal((n,))) for source in sources])
        found, expected = drawn.step(x, x), given.step(x, x, noise=z)
        # The bound is 2^-20 of a radius of at most 6.8, times the coefficient of noise, estimated from the greatest result.
        assert torch.allclose(found, expected, rtol=0, atol=2.0**-20 * 6.8 * float(expected.abs().max() / z.abs().max()))
        assert drawn.offsets.tolist() == [offset + 4 * rounds * (number + 1) for offset in offsets]
    with pytest.raises(ds.InvalidValueError, match="seed is missing: the plan draws noise"):
        drawn.begin(0)
    with pytest.raises(ds.InvalidValueError, match="offset is 3, but must be a multiple of 4"):
        drawn.begin(0, seed=1, offset=3)
    with pytest.raises(ds.InvalidValueError, match="noise is missing: a plan of the table draws some"):
        given.step(x, x)


def test_drawn_noise_follows_the_order_of_elements():
    """The numbers of torch.randn follow the elements' indices, in any memory format."""
    table = PlanTable([scheduler(ds.EulerAncestralDiscreteScheduler, 4)], "cpu")
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batch = DeviceBatch(table, (2, 3, 5, 7), memory_format=memory_format)
        batch.begin(0, seed=3)
        batch.begin(1, seed=4)
        x = normal((2, 3, 5, 7)).contiguous(memory_format=memory_format)
        results.append(batch.step(x, x))
    assert torch.equal(*results)


# ---- Tables


def test_tables_grow_within_their_capacity_and_features():
    deis, euler = scheduler(steps=4, solver_order=3), scheduler(ds.EulerDiscreteScheduler, 4)
    table = PlanTable([deis], "cpu", capacity=64)
    batch = DeviceBatch(table, (2, 9))
    longer = scheduler(steps=6)
    assert table.add(longer) == 1 and len(table) == 2 and table.evaluations(1) == 6
    assert table.init_noise_sigma(1) == longer.init_noise_sigma
    session = ds.Session(longer)
    batch.begin(1, 1)
    x = normal((2, 9))
    for _ in range(6):
        expected = session.step(torch.tanh(x)[1].numpy(), x[1].numpy())
        x = batch.step(torch.tanh(x), x)
        assert np.allclose(x[1], expected, rtol=1e-5, atol=1e-5)
    assert batch.rows.tolist() == [0, 0]
    with pytest.raises(ds.UnsupportedError, match="the plan needs more uses, clamps"):
        table.add(scheduler(ds.DDIMScheduler, 4))
    with pytest.raises(ds.OutOfMemoryError, match="the table has room for 64 records, but would have"):
        table.add(scheduler(steps=50))
    with pytest.raises(ds.InvalidValueError, match="capacity is 3, but must be at least"):
        PlanTable([euler], "cpu", capacity=3)


def test_bad_calls_say_what_is_allowed():
    table = PlanTable([scheduler(), scheduler(ds.HeunDiscreteScheduler)], "cpu")
    batch = DeviceBatch(table, (2, 3, 4))
    x = normal((2, 3, 4))
    for call, text in {
        lambda: PlanTable([], "cpu"): "schedulers is empty",
        lambda: PlanTable([3], "cpu"): "schedulers contain a int, but must contain schedulers",
        lambda: PlanTable([scheduler()], "meta"): "device is meta, but must be cuda or xpu",
        lambda: DeviceBatch(table, (2, 3), torch.int32): "dtype is torch.int32, but must be one of",
        lambda: DeviceBatch(table, (2, 3), sums="double"): "sums is 'double', but must be one of float32, float64",
        lambda: DeviceBatch(table, ()): "shape is empty",
        lambda: batch.begin(2): "item is 2, but must be from 0 to 1",
        lambda: batch.free(-1): "item is -1, but must be from 0 to 1",
        lambda: batch.begin(0, 2): "plan is 2, but must be from 0 to 1",
        lambda: batch.begin(0, 0, 5): "index is 5, but must be from 0 to 4",
        lambda: batch.begin(0, 1, 1): r"index is 1, but must be the first evaluation of a step: one of \[0, 2, 4",
        lambda: batch.step(x[:1], x): r"model_output has the shape \[1, 3, 4\], but must have \[2, 3, 4\]",
        lambda: batch.step(x, x[..., :2]): r"sample has the shape \[2, 3, 2\], but must have \[2, 3, 4\]",
        lambda: batch.step(x.int(), x): "model_output has the type torch.int32, but must have a floating-point type",
        lambda: batch.step(x.to("meta"), x): "model_output is on meta, but must be on cpu",
        lambda: batch.step(x, x, out=x[:1].expand(2, 3, 4)): "out repeats elements along an axis, but must have memory for each",
        lambda: batch.step(x, x, unconditional=x): "unconditional and guidance_scale must both be given, or neither",
        lambda: batch.step(x, x, unconditional=x, guidance_scale=torch.ones(3)): r"\[3\], but must have \[2\]",
    }.items():
        with pytest.raises(ds.InvalidValueError, match=text):
            call()
    assert batch.rows.tolist() == [0, 0]


def test_the_pages_lines_step_two_requests(monkeypatch):
    """Runs the lines of docs/DEVICES.md, with a stand-in for the CUDA graph that calls the step."""
    page = (ROOT / "docs/DEVICES.md").read_text()
    lines = page.split("```python\n", 1)[1].split("```", 1)[0]
    scope = {"device": "cpu", "model": lambda x, t: torch.tanh(x) * (t < 2000).view(-1, 1, 1, 1)}

    class Graph:
        def replay(self):
            scope["step"]()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    torch.manual_seed(0)
    exec(lines, scope)
    torch.manual_seed(0)
    starts = torch.randn(2, 4, 64, 64)
    for place, number, scheduler, begin in ((0, 0, scope["fast"], 0), (5, 1, scope["fine"], 12)):
        session, x = ds.Session(scheduler, begin), starts[number].numpy()
        while session.timestep is not None:
            x = session.step(np.tanh(x), x)
        assert np.allclose(scope["sample"][place], x, rtol=0, atol=1e-3)
    assert scope["batch"].rows.tolist() == [0] * 8 and not scope["sample"][[1, 2, 3, 4, 6, 7]].any()


# ---- Drop-ins


@pytest.fixture
def drop_ins(monkeypatch):
    """The drop-ins' module, with steps by the interpreted kernels."""
    pytest.importorskip("diffusers")
    import diffusion_scheduling.diffusers as module
    from diffusion_scheduling import _drop_ins

    monkeypatch.setattr(_launch, "DEVICES", _launch.DEVICES | {"cpu"})
    monkeypatch.setattr(_drop_ins, "is_beyond_reach", lambda *tensors: True)
    return module


def drop_in_run(drop_in, kernel, monkeypatch, dtype, form=lambda t: t):
    """The samples and reports of a run, with or without the kernel."""
    calls, own = [], _launch.step_by_record

    def step_by_record(*arguments):
        made = own(*arguments) if kernel else None
        calls.append(made)
        return made

    with monkeypatch.context() as context:
        context.setattr(_launch, "step_by_record", step_by_record)
        drop_in.set_timesteps(4)
        x, found = form(normal((2, 3, 4, 5), 1, dtype)), []
        for t in drop_in.timesteps[: len(drop_in.timesteps) - drop_in.description.lists_end]:
            e = torch.tanh(drop_in.scale_model_input(x, t) if hasattr(drop_in, "scale_model_input") else x)
            named = inspect.signature(drop_in.step).parameters
            generator = {"generator": torch.Generator().manual_seed(5)} if "generator" in named else {}
            results = drop_in.step(e, t, x, return_dict=False, **generator)
            found += results
            x = results[0]
    assert calls and all(made is not None for made in calls) == kernel
    return found


SKIPPED = {
    "CogVideoXDPMScheduler": "its callers keep what steps remember",
    "DPMSolverSDEScheduler": "its noise is one Brownian motion",
    "CosineDPMSolverMultistepScheduler": "its noise is one Brownian motion",
}


@pytest.mark.parametrize(
    "cls",
    [cls for cls in CLASSES if cls.__name__ not in SKIPPED and not cls.description.calls],
    ids=lambda cls: cls.__name__,
)
def test_drop_ins_step_by_the_kernel(drop_ins, monkeypatch, cls):
    """Results have the types of torch's operations, and agree to a few units in the last place of the greatest terms."""
    made = getattr(drop_ins, cls.__name__)
    for dtype in (torch.float32, torch.bfloat16):
        expected = drop_in_run(made(), False, monkeypatch, dtype)
        found = drop_in_run(made(), True, monkeypatch, dtype)
        greatest = max(float(each.abs().max()) for each in expected)
        # A step's terms can be some thousand times greater than its result.
        tolerance = greatest * (2.0**-12 if dtype is torch.float32 else 2.0**-3)
        for a, b in zip(found, expected):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert torch.allclose(a.float(), b.float(), rtol=0, atol=tolerance)


def test_drop_ins_keep_strides_and_thresholds(drop_ins, monkeypatch):
    made = drop_ins.DPMSolverMultistepScheduler(thresholding=True)
    expected = drop_in_run(made, False, monkeypatch, torch.float32)
    found = drop_in_run(made, True, monkeypatch, torch.float32, FORMS["channels last"])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(found, expected))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"])
def test_the_operator_steps_by_the_kernel(drop_ins, name, guided):
    """Results on a device have the host's types, and agree to a few units in the last place of the greatest terms."""
    from diffusion_scheduling import _operators

    key, steps = _operators.added(scheduler(getattr(ds, name), 4)._ready())
    x, e, u, z = (normal((2, 3, 5), seed) for seed in range(4))
    held = {slot: normal((2, 3, 5), 9 + slot) for slot in range(_library.MAX_SLOTS)}
    row = steps.row(2, 2)
    given = e, x, z if row.places.reads_noise else None, u if guided else None, 7.5, [held[slot] for slot in row.reads]
    assert steps.by_kernel(row, _operators.Arguments(*given)) is not None
    expected, found = (step(key, 2, 2, *given) for step in (_operators._on_host, _operators._on_device))
    assert len(expected) == len(found)
    for a, b in zip(expected, found):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=2.0**-16 * float(a.abs().max()))


def test_drop_ins_leave_gradients_and_transforms_to_torch(drop_ins):
    x = normal((2, 3))
    assert _launch.takes(x, x.half()) and not _launch.takes(x, x.int()) and not _launch.takes(x, x.to_sparse())
    assert not _launch.takes(x.clone().requires_grad_(), x) and not _launch.takes(x.to("meta"), x)
    with torch.no_grad():
        assert _launch.takes(x.clone().requires_grad_(), x)
    seen = []
    torch.func.vmap(lambda row: seen.append(_launch.takes(row)) or row)(x)
    with torch.autograd.forward_ad.dual_level():
        seen.append(_launch.takes(x))
    assert seen == [False, False]
    deis = drop_ins.DEISMultistepScheduler()
    deis.set_timesteps(3)
    x = x.clone().requires_grad_()
    y = deis.step(torch.tanh(x), deis.timesteps[0], x).prev_sample
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


# ---- Compiled code


def test_compiled_code_has_the_streams_of_the_row_and_no_calls():
    """Another process compiles PTX for sm_90, without a device. In this process kernels are interpreted."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).parent / "ptx.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
