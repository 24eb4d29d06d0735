# SPDX-License-Identifier: Apache-2.0

"""The quick version of steps, in C, against the plain one."""

import sys

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import loop, noise, run_in_threads, step
from diffusion_scheduling import _core, _library
from diffusion_scheduling.schedulers import DDIMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler

if _core.QuickStep is None:
    pytest.skip("the module of quick steps hasn't been built", allow_module_level=True)


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 4, 6, 5)).astype(np.float32)


def states(scheduler):
    """The attributes that steps change."""
    names = ["_step_index", *scheduler.description.attributes.tensors]
    names += [each for each in (scheduler.description.attributes.history, scheduler.description.attributes.age) if each]
    return {name: getattr(scheduler, name, None) for name in names}


def are_equal(a, b):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(are_equal, a, b))
    return a is b or a == b


def overlapping(x):
    """Two arrays like `x` in the same memory, one of them an element further."""
    memory = np.zeros(x.size + 1, np.float32)
    return memory[1:].reshape(x.shape), memory[:-1].reshape(x.shape)


@pytest.fixture
def versions(monkeypatch):
    """Called, it yields True, then False while steps take the plain version."""

    def each():
        yield True
        with monkeypatch.context() as patch:
            patch.setattr(_core, "QuickStep", None)
            yield False

    return each


@pytest.fixture
def general_runs(monkeypatch):
    """The classes whose `_general_run` has been called, one for each call."""
    taken, general = [], _core.Core._general_run

    def counted(self, *arguments):
        taken.append(type(self).__name__)
        return general(self, *arguments)

    monkeypatch.setattr(_core.Core, "_general_run", counted)
    return taken


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_all_classes_give_the_same_as_the_plain_version(cls, dtype, x, versions):
    runs = []
    for is_quick in versions():
        scheduler, found = cls(), []
        scheduler.set_timesteps(7)
        sample = x.astype(dtype)
        for t in scheduler.timesteps:
            results = step(scheduler, sample, t)
            found.append((results, {name: list(v) if isinstance(v, list) else v for name, v in states(scheduler).items()}))
            with np.errstate(over="ignore"):  # Score SDE's levels are beyond float16.
                sample = results[0].astype(dtype)
        runs.append(found)
        assert is_quick or scheduler._cache.quick is None
    for (results, state), (expected, expected_state) in zip(*runs):
        assert are_equal(results, expected)
        assert state.keys() == expected_state.keys() and all(are_equal(state[name], expected_state[name]) for name in state)


def test_all_steps_of_a_form_but_the_first_are_quick(cls, x, general_runs):
    scheduler = cls()
    loop(scheduler, x)
    # The plain version sums several outputs of a model.
    assert len(general_runs) == (len(scheduler.timesteps) if scheduler.output_weights() else 1)


def test_an_array_of_another_form_takes_the_plain_version(x, general_runs):
    scheduler = DEISMultistepScheduler()
    samples = loop(scheduler, x, 9)
    scheduler.set_timesteps(9)
    general_runs.clear()

    class Derived(np.ndarray):
        pass

    forms = [
        lambda a: a,
        lambda a: np.asfortranarray(a),
        lambda a: a,
        lambda a: a.view(Derived),
        lambda a: a,
        lambda a: a.astype(">f4"),
        lambda a: a,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a,
    ]
    for t, before, after, form in zip(scheduler.timesteps, samples, samples[1:], forms):
        assert np.array_equal(step(scheduler, before, t, form(before))[0], after)
    # The first step, one of each other form, and one after a step whose elements had to be converted.
    assert len(general_runs) == 6


def test_read_only_arrays_are_read_but_never_written(x, general_runs):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    x.flags.writeable = False
    out = np.empty_like(x)
    expected = [scheduler.step(x, t, x)[0] for t in scheduler.timesteps]
    for t, each in zip(scheduler.timesteps, expected):
        assert scheduler.step(x, t, x, out=out)[0] is out and np.array_equal(out, each)
    assert len(general_runs) == 1
    out.flags.writeable = False
    with pytest.raises(ds.InvalidValueError, match="out is float32"):
        scheduler.step(x, 801, x, out=out)
    assert np.array_equal(out, expected[-1])


@pytest.mark.parametrize("index, age", [(0, 2), (1, 2), (4, 0), (4, 1)])
def test_the_index_and_the_age_of_a_run_may_be_assigned(index, age, x, versions):
    """Pipelines with a queue of samples assign them before each step."""
    found = []
    for _ in versions():
        scheduler = DEISMultistepScheduler(solver_order=3)
        loop(scheduler, x, 9)
        scheduler._step_index, scheduler.lower_order_nums = index, age
        found.append(step(scheduler, x, scheduler.timesteps[index])[0])
        found.append(step(scheduler, x, scheduler.timesteps[index + 1])[0])
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[3])


def test_options_choose_their_plans(x):
    expected = {}
    for quick in (False, True):
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(5)
        for _ in range(2 if quick else 1):
            for eta in (None, 0.0, 0.3, 1.0):
                found = scheduler.step(x, 601, x, eta=eta, variance_noise=noise(x))[0]
                assert np.array_equal(expected.setdefault(eta, found), found)
    assert not np.array_equal(expected[0.3], expected[1.0])


def test_a_refused_step_changes_nothing(x):
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    samples = loop(scheduler, x)
    scheduler.set_timesteps(6)
    t = scheduler.timesteps
    for index in range(3):
        step(scheduler, samples[index], t[index])
    before = {name: list(v) if isinstance(v, list) else v for name, v in states(scheduler).items()}
    first, second = overlapping(x)
    with pytest.raises(ds.InvalidValueError, match="overlap"):
        scheduler.step(x, t[3], first, variance_noise=x, out=second)
    with pytest.raises(ds.TimestepError, match=f"must be {t[3]}"):
        step(scheduler, samples[3], t[2])
    with pytest.raises(ValueError):
        scheduler.step(x[:1, :3], t[3], x)
    assert all(are_equal(before[name], value) for name, value in states(scheduler).items())
    assert np.array_equal(step(scheduler, samples[3], t[3])[0], samples[4])


def test_an_interruption_is_not_taken_for_an_answer(x):
    class Interrupting:
        def __eq__(self, other):
            raise KeyboardInterrupt

        __ne__ = __eq__
        __hash__ = None

    scheduler = DEISMultistepScheduler()
    samples = loop(scheduler, x)
    scheduler.set_timesteps(6)
    for index in range(3):
        step(scheduler, samples[index], scheduler.timesteps[index])
    with pytest.raises(KeyboardInterrupt):
        step(scheduler, samples[3], Interrupting())
    assert scheduler.step_index == 3
    assert np.array_equal(step(scheduler, samples[3], scheduler.timesteps[3])[0], samples[4])


def test_threads_may_take_the_first_steps_of_a_plan(x):
    """Each of them may make and prepare the same rows at the same time."""
    timesteps, e = [int(t) for t in np.linspace(990, 10, 12)], np.tanh(x)
    model = DDIMScheduler()
    model.set_timesteps(12)
    expected = [model.step(e, t, x)[0] for t in timesteps]
    faults = []
    for _ in range(10):
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(12)
        scheduler._plan.rows_at.clear()  # Equal plans are shared, and have their rows already.
        scheduler.step(e, 999, x)  # Prepares the quick steps.

        def work(shift, scheduler=scheduler):
            for place in range(len(timesteps)):
                index = (place + shift % 2) % len(timesteps)
                if not np.array_equal(scheduler.step(e, timesteps[index], x)[0], expected[index]):
                    faults.append(timesteps[index])

        run_in_threads(work, 6)
    assert not faults


def test_a_run_that_has_ended_is_told(x):
    scheduler = DEISMultistepScheduler()
    samples = loop(scheduler, x)
    with pytest.raises(ds.StepPastEndError, match="all 6 steps"):
        step(scheduler, samples[-1], scheduler.timesteps[-1])


def test_references_are_neither_lost_nor_kept(cls, x):
    scheduler = cls()
    z, e = noise(x), np.tanh(x)

    def run():
        scheduler.set_timesteps(6)
        for t in scheduler.timesteps:
            scheduler.step(e, t, x, variance_noise=z)
        bad = np.zeros((3, 3), np.float32)
        for t in (scheduler.timesteps[-1], "no timestep"):
            with pytest.raises((ValueError, IndexError, TypeError)):
                scheduler.step(bad, t, x, variance_noise=z)
        scheduler.set_timesteps(6)

    objects = [x, z, e, None, True, (), scheduler, scheduler.config, np.ndarray, np.empty]
    for _ in range(10):
        run()
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(50):
        run()
    after = [sys.getrefcount(each) for each in objects]
    # Python's own caches change the counts of None and the like by a few.
    assert all(abs(a - b) < 50 for a, b in zip(after, before)), list(zip(before, after))


def test_the_type_refuses_what_it_cannot_step(x):
    scheduler = DEISMultistepScheduler()
    loop(scheduler, x)
    quick = scheduler._cache.quick
    with pytest.raises(TypeError):
        _core.QuickStep()
    with pytest.raises(TypeError):
        _core.QuickStep(plan=scheduler._plan)
    for method in (quick.step, quick.run_row):
        with pytest.raises(TypeError, match="arguments"):
            method(scheduler)
    for bad in (x.astype(np.int32), x[..., ::2], [1.0], x.astype(">f4")):
        for pair in ((bad, x), (x, bad)):
            with pytest.raises(ValueError, match="doesn't take model_output or sample"):
                _core.QuickStep(*quick_arguments(scheduler, *pair))


def quick_arguments(scheduler, model_output, sample):
    order, form = (False, None, None, False, False, False), (np.ndarray, None, np.empty, (), None)
    return (
        scheduler._plan, {}, [], (), (), (), (), {}, order, form, np.array, _library.error, False, scheduler._threads,
        _core._ROW_STEP, model_output, sample,
    )  # fmt: skip


def test_a_status_is_the_library_s_error(x, versions):
    errors = []
    first, second = overlapping(x)
    for _ in versions():
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(5)
        scheduler.step(x, 601, x)
        with pytest.raises(ds.InvalidValueError) as refused:
            scheduler.step(x, 601, first, out=second)
        errors.append(refused.value)
    assert str(errors[0]) == str(errors[1]) and errors[0].status == errors[1].status
