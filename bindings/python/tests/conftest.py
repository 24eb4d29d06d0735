# SPDX-License-Identifier: Apache-2.0

"""What the tests share."""

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


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


def loop(scheduler, x, steps=6, **arguments):
    """A run with a model that isn't linear; returns all samples."""
    scheduler.set_timesteps(steps)
    samples = [x]
    for t in scheduler.timesteps:
        samples.append(scheduler.step(np.tanh(samples[-1]), t, samples[-1], return_dict=False, **arguments)[0])
    return samples
