# SPDX-License-Identifier: Apache-2.0

"""Drop-ins with noise from their originals' Brownian motions, made by torchsde."""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("torchsde")

import diffusion_scheduling as ds  # noqa: E402
import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from people import TREE, model  # noqa: E402

NAME = "DPMSolverSDEScheduler"
COSINE = "CosineDPMSolverMultistepScheduler"
X = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def trees(monkeypatch):
    """Restores the original's motion, which another test module may have replaced."""
    module = sys.modules[getattr(diffusers, NAME).__module__]
    spec = importlib.util.find_spec(module.__name__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    for each in (module, sys.modules[getattr(diffusers, COSINE).__module__]):
        monkeypatch.setattr(each, TREE, getattr(anew, TREE))


def final(library, *, count=8, split=None, **config):
    scheduler = getattr(library, NAME)(**config)
    scheduler.set_timesteps(count)
    torch.manual_seed(5)
    x = X * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        scheduler = copy.copy(scheduler) if index == split else scheduler
        x = scheduler.step(model(scheduler.scale_model_input(x, t)), t, x, s_noise=1.003).prev_sample
    return x


@pytest.mark.parametrize("seed", [0, [1, 2, 3], None])
@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True, "prediction_type": "v_prediction"}])
def test_seeds_give_the_originals_pictures(seed, config):
    expected, found = (final(library, noise_sampler_seed=seed, **config) for library in (diffusers, drop_ins))
    # A few float32 steps, with a model that doesn't enlarge differences.
    assert torch.allclose(expected, found, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def generators(seeds):
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made if len(made) > 1 else made[0]


def final_cosine(library, seeds, dtype=torch.float32, **config):
    scheduler = getattr(library, COSINE)(**config)
    scheduler.set_timesteps(8)
    torch.manual_seed(5)
    x = (X * scheduler.init_noise_sigma).to(dtype)
    for t in scheduler.timesteps:
        output = torch.tanh(scheduler.scale_model_input(x, t))
        x = scheduler.step(output, t, x, generator=generators(seeds) if seeds else None).prev_sample
    return x


@pytest.mark.filterwarnings("ignore:Should have t")
@pytest.mark.parametrize("seeds", [[9], [1, 2, 3], None])
@pytest.mark.parametrize("config", [{}, {"sigma_min": 0.02, "sigma_max": 80.0, "solver_order": 1}])
def test_generators_seeds_give_the_originals_pictures(seeds, config):
    expected, found = (final_cosine(library, seeds, **config) for library in (diffusers, drop_ins))
    # Eight steps in float32, then in float16 with a unit of 2^-11. Each step rounds two or three times.
    assert torch.allclose(expected, found, rtol=1e-5, atol=1e-5)
    expected, found = (final_cosine(library, seeds, torch.float16, **config) for library in (diffusers, drop_ins))
    assert expected.dtype == found.dtype and torch.allclose(expected, found, rtol=0, atol=24 * 2**-11 * X.abs().max().item())


@pytest.mark.filterwarnings("ignore:Should have t")
def test_a_step_between_equal_levels_needs_no_increment():
    with pytest.raises(RecursionError):
        final_cosine(diffusers, [9], final_sigmas_type="sigma_min")
    assert final_cosine(drop_ins, [9], final_sigmas_type="sigma_min").isfinite().all()


def test_a_copy_in_the_middle_of_a_step_goes_on_with_its_noise():
    assert torch.equal(final(drop_ins, noise_sampler_seed=7, split=3), final(drop_ins, noise_sampler_seed=7))


def test_a_source_of_the_callers_is_asked_as_the_original_asks_it():
    asked = []
    for library in (diffusers, drop_ins):
        scheduler = getattr(library, NAME)()
        scheduler.set_timesteps(6)
        scheduler.noise_sampler = lambda *levels: asked.append(levels) or torch.zeros_like(X)
        for t in scheduler.timesteps:
            scheduler.step(X, t, X)
    assert len(asked) == 20 and asked[:10] == asked[10:]


def test_numpys_class_needs_no_motion_and_has_its_law():
    """Both noises of a step are standard normal. Their correlation is that of their intervals."""
    scheduler, rng = ds.DPMSolverSDEScheduler(), np.random.default_rng(8)
    scheduler.set_timesteps(6)
    zeros, (source, target) = np.zeros((1, 1, 256, 256)), scheduler.sigmas[:2].astype(float)
    middle, ratio = np.sqrt(source * target), target / source
    x = zeros
    parts = []
    for index, t in enumerate(scheduler.timesteps[:2]):
        parts.append(x := scheduler.step(zeros, t, x, generator=rng).prev_sample)
        assert (scheduler.sample is None) == (index == 1)
    first = parts[0] / (middle * np.sqrt(1 - ratio))
    second = (parts[1] - (1 - ratio**2) * parts[0]) / (target * np.sqrt(1 - ratio**2))
    found = np.mean(first * first), np.mean(second * second), np.mean(first * second)
    expected = 1, 1, np.sqrt((source - middle) / (source - target))
    # Five standard deviations of a mean of 65,536 products, each with a variance of at most 2.
    assert np.allclose(found, expected, rtol=0, atol=5 * np.sqrt(2 / x.size))


def test_without_torchsde_the_class_says_so_when_it_is_used():
    program = f"""
import sys
sys.modules["torchsde"] = None
import diffusion_scheduling, diffusion_scheduling.diffusers as drop_ins
diffusion_scheduling.{NAME}().set_timesteps(4)
drop_ins.EulerDiscreteScheduler().set_timesteps(4)
try:
    drop_ins.{NAME}()
except ImportError as error:
    assert "torchsde" in str(error)
    print("refused")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(ds.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.stdout == "refused\n", run.stderr
