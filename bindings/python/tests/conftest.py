# SPDX-License-Identifier: Apache-2.0

"""What the tests share."""

import os
import random

import diffusion_scheduling as ds
import numpy as np
import pytest

CLASSES = [
    ds.DEISMultistepScheduler,
    ds.DPMSolverMultistepScheduler,
    ds.DPMSolverMultistepInverseScheduler,
    ds.DDIMScheduler,
    ds.DDIMInverseScheduler,
]


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.fixture(scope="session")
def seed():
    """As in the Swift tests: fixed, unless the variable holds another number, or ``random`` for another one in every run."""
    text = os.environ.get("DIFFUSION_SCHEDULING_TEST_SEED", "20240607")
    return random.randrange(10**9) if text == "random" else int(text)


@pytest.fixture
def rng(seed):
    print(f"DIFFUSION_SCHEDULING_TEST_SEED={seed}")  # shown if the test fails
    return np.random.default_rng(seed)


def loop(scheduler, x, steps=6, **arguments):
    """A run with a model that isn't linear; returns all samples."""
    scheduler.set_timesteps(steps)
    samples = [x]
    for t in scheduler.timesteps:
        samples.append(scheduler.step(np.tanh(samples[-1]), t, samples[-1], return_dict=False, **arguments)[0])
    return samples
