# SPDX-License-Identifier: Apache-2.0

"""Fixtures and functions that the tests share."""

import os
import random
import sys
import threading
from pathlib import Path

# Tests interpret Triton's kernels on the host. Triton reads the variable at import.
os.environ.setdefault("TRITON_INTERPRET", "1")

import diffusion_scheduling as ds  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

CLASSES = [cls for cls in map(ds.schedulers.__dict__.get, ds.schedulers.__all__) if hasattr(cls, "description")]
STATELESS = [cls for cls in CLASSES if cls.description.is_stateless]
ORDERED = [cls for cls in CLASSES if not cls.description.is_stateless]
PARTED = [cls for cls in CLASSES if hasattr(cls, "convert_model_output")]
"""The classes with documented parts of a step, such as ``convert_model_output``."""


BUILT = pytest.mark.skipif(
    not (Path(ds.__file__).parent / "include").is_dir(), reason="make python hasn't put the library's files into the package"
)
"""Marks tests of the files that ``make python`` adds to the package."""


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.fixture(scope="session")
def seed():
    """The seed of random inputs, as in the Swift tests. DIFFUSION_SCHEDULING_TEST_SEED may hold another number, or ``random``."""
    text = os.environ.get("DIFFUSION_SCHEDULING_TEST_SEED", "20240607")
    return random.randrange(10**9) if text == "random" else int(text)


@pytest.fixture
def rng(seed):
    print(f"DIFFUSION_SCHEDULING_TEST_SEED={seed}")  # shown if the test fails
    return np.random.default_rng(seed)


def noise(x):
    """Fixed numbers that stand for noise."""
    return np.cos(np.arange(np.size(x))).reshape(np.shape(x)).astype(np.float32)


def run_in_threads(work, count):
    """Calls ``work(number)`` in `count` threads, which take turns as often as Python lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def step(scheduler, x, t, given=None, **arguments):
    """A step with a nonlinear model, returned as a tuple. `given` has the values of `x` in another memory layout."""
    e = np.tanh(scheduler.scale_model_input(x, t))
    arguments = {"variance_noise": None if "generator" in arguments else noise(x), "return_dict": False, **arguments}
    return scheduler.step(e, t, x if given is None else given, **arguments)


def loop(scheduler, x, steps=6, **arguments):
    """The samples of a run, the first one included."""
    scheduler.set_timesteps(steps)
    samples = [x]
    for t in scheduler.timesteps:
        samples.append(step(scheduler, samples[-1], t, **arguments)[0])
    return samples
