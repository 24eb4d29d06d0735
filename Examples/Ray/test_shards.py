# SPDX-License-Identifier: Apache-2.0

"""Compares latents in parts with whole latents."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from diffusion_scheduling import DDPMScheduler, DPMSolverMultistepScheduler, Guidance, NoiseSource, Session, make_scheduler
from shards import guided, part_of_noise, thresholded

sys.path.append(str(Path(__file__).parents[1] / "Plans"))
from plan import Plan, step

CUTS = [0, 1000, 1800, 4096]
PARTS = [slice(*ends) for ends in zip(CUTS, CUTS[1:], strict=False)]


def on_devices(work):
    """Runs work(part, all_gather) for each part on a thread of its own, and concatenates the results."""
    barrier, arrays, results = threading.Barrier(len(PARTS)), [None] * len(PARTS), [None] * len(PARTS)

    def device(number):
        def all_gather(array):
            arrays[number] = array
            barrier.wait(10)
            gathered = list(arrays)
            barrier.wait(10)
            return gathered

        results[number] = work(PARTS[number], all_gather)

    threads = [threading.Thread(target=device, args=[number]) for number in range(len(PARTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result is not None for result in results)
    return np.concatenate(results)


def tensors(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, CUTS[-1]), np.float32)


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "UniPC", "DPM++ 2M SDE", "Euler a", "DDIM", "LCM", "Heun", "deis"])
def test_parts_step_as_the_whole_does(sampler):
    scheduler = make_scheduler(sampler)
    scheduler.set_timesteps(6)
    whole, parts = Session(scheduler), [Session(scheduler) for _ in PARTS]
    x, y = tensors(1)[0], tensors(1)[0]
    while whole.timestep is not None:
        c, u, z = tensors(3, whole.step_index)
        guidance = {"unconditional": u, "guidance": Guidance(5)}
        x = whole.step(c, x, **guidance, noise=z)
        y = np.concatenate(
            [s.step(c[p], y[p], unconditional=u[p], guidance=Guidance(5), noise=z[p]) for s, p in zip(parts, PARTS, strict=True)]
        )
        assert np.array_equal(x, y)


def test_learned_variances_go_with_their_part():
    scheduler = DDPMScheduler(variance_type="learned_range")
    scheduler.set_timesteps(6)
    whole, parts = Session(scheduler), [Session(scheduler), Session(scheduler)]
    x = y = tensors(1).reshape(1, 4, 32, 32)
    while whole.timestep is not None:
        z, e, v = tensors(3, whole.step_index).reshape(3, 1, 4, 32, 32)
        e = np.concatenate([e, 0.3 * v], axis=1)
        x = whole.step(e, x, noise=z)
        cuts = zip(parts, [slice(0, 20), slice(20, 32)], strict=True)
        y = np.concatenate([session.step(e[..., cut], y[..., cut], noise=z[..., cut]) for session, cut in cuts], axis=-1)
        assert np.array_equal(x, y)


def test_rescaled_guidance_shares_moments():
    scheduler = make_scheduler("DPM++ 2M")
    scheduler.set_timesteps(6)
    x, c, u = tensors(3)
    guidance = Guidance(7.5, rescale=0.7)
    expected = Session(scheduler).step(c, x, unconditional=u, guidance=guidance)
    e = on_devices(lambda part, gather: guided(c[part], u[part], guidance, lambda sums: np.sum(gather(sums), axis=0)))
    assert np.allclose(Session(scheduler).step(e, x), expected, rtol=1e-5, atol=1e-5)
    alone = [Session(scheduler).step(c[p], x[p], unconditional=u[p], guidance=guidance) for p in PARTS]
    assert not np.allclose(np.concatenate(alone), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.995, 0.9, 0.0, 1.0])
def test_a_threshold_shares_its_quantile(ratio):
    scheduler = DPMSolverMultistepScheduler(thresholding=True, sample_max_value=40.0, dynamic_thresholding_ratio=ratio)
    scheduler.set_timesteps(6)
    plan, whole = Plan(scheduler.plan_json()), Session(scheduler)
    slots = {part.start: {} for part in PARTS}
    x = tensors(1)[0]
    for index in range(6):
        e = tensors(1, index)[0] * np.linspace(0.1, 3, CUTS[-1], dtype=np.float32)
        expected = whole.step(e[None], x[None])[0]

        def work(part, gather, x=x, e=e, index=index):
            def clamp(prediction, how):
                return thresholded(prediction, how, CUTS[-1], gather)

            # Rank 2, because learned variances lie on axis 1.
            made = step(plan, index, index, x[None, part], e[None, part], None, slots[part.start], clamp)[0]
            return made.astype(np.float32)

        assert np.allclose(on_devices(work), expected, rtol=1e-4, atol=1e-4), index
        x = expected


@pytest.mark.parametrize("make", [NoiseSource.torch_cpu, NoiseSource.numpy])
@pytest.mark.parametrize("count", [16, 1000, 4096, 4099])
def test_parts_of_noise_are_those_of_one_call(make, count):
    one = make(3)
    whole, after = one.standard_normal(count), one.standard_normal(64)
    for piece in (16, 64, 2**16):
        for start, stop in [(0, count), (count // 3, count // 2), (count - 5, count), (7, 7)]:
            source = make(3)
            assert np.array_equal(part_of_noise(source, count, start, stop, piece), whole[start:stop])
            assert np.array_equal(source.standard_normal(64), after)


def test_parts_of_cuda_noise_begin_at_an_offset():
    # A device with one block of 256 threads, which makes 1,024 numbers per round.
    def source(offset):
        return NoiseSource.torch_cuda(3, offset, multiprocessors=1, threads_per_multiprocessor=256)

    whole = source(8).standard_normal(4000)
    for turn in range(4):
        part = whole[1024 * turn : 1024 * (turn + 1)]
        assert np.array_equal(source(8 + 4 * turn).standard_normal(part.size), part)
