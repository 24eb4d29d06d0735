# SPDX-License-Identifier: Apache-2.0

"""Classes whose originals' pipelines call other methods than ``step`` at a timestep: runs against these calls."""

import inspect

import diffusion_scheduling as ds
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from diffusion_scheduling._description import DESCRIPTIONS  # noqa: E402

NAMES = [name for name, description in DESCRIPTIONS.items() if description.other_calls is not None]
SHAPE = (2, 3, 4, 4)


def model(x, level):
    """The test problem's model. Its output points to the data, as the original's steps expect."""
    return (0.5 * np.tanh(x / (1 + level)) - x) / (1 + level * level) ** 0.5


def pipeline(original, steps, seed):
    """The loop of diffusers' KarrasVePipeline, without the scaling of the network's input and output."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(SHAPE, generator=generator) * original.init_noise_sigma
    original.set_timesteps(steps)
    for t in original.timesteps:
        level = original.schedule[t]
        target = original.schedule[t - 1] if t > 0 else 0
        raised, raised_level = original.add_noise_to_input(sample, level, generator)
        e = torch.from_numpy(model(raised.numpy(), float(raised_level)))
        made = original.step(e, raised_level, target, raised)
        if target != 0:
            e = torch.from_numpy(model(made.prev_sample.numpy(), float(target)))
            made = original.step_correct(e, raised_level, target, raised, made.prev_sample, made.derivative)
        sample = made.prev_sample
    return sample.numpy()


@pytest.mark.parametrize("steps", [5, 12, 20])
@pytest.mark.parametrize("config", [{}, {"s_churn": 10.0, "s_noise": 1.0, "s_min": 0.0}, {"s_churn": 0.0}, {"sigma_max": 10.0}])
def test_a_seeded_run_is_the_pipeline_s(steps, config):
    expected = pipeline(diffusers.KarrasVeScheduler(**config), steps, seed=7)
    scheduler, source = ds.KarrasVeScheduler(**config), ds.NoiseSource.torch_cpu(7)
    scheduler.set_timesteps(steps)
    x = source.standard_normal(SHAPE, np.float32) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, float(t)), t, x, generator=source).prev_sample
    assert np.max(np.abs(x - expected)) <= 2e-4 * max(1, np.max(np.abs(expected)))


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_drop_in_and_it_says_so(name, tmp_path):
    stand_in = getattr(drop_ins, name)
    calls = [
        lambda: stand_in(),
        lambda: stand_in.from_config({}),
        lambda: stand_in.from_pretrained(tmp_path),
        lambda: drop_ins.make_scheduler(name),
    ]
    for call in calls:
        with pytest.raises(ds.UnsupportedError, match=rf"{name} has no drop-in: .*diffusers\.{name}.*diffusion_scheduling\.{name}"):
            call()
    assert name not in drop_ins.__all__ and inspect.isclass(stand_in) and not hasattr(stand_in, "_missing")
