# SPDX-License-Identifier: Apache-2.0

"""Sessions, guided steps, and batched steps of many sessions."""

import copy
import pickle

import diffusion_scheduling as ds
import numpy as np
import pytest
from diffusion_scheduling import Guidance, Session, step_rows


def planned(cls=ds.DPMSolverMultistepScheduler, steps=6, **config):
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def test_sessions_do_what_the_scheduler_does(rng):
    scheduler = planned(ds.DEISMultistepScheduler, solver_order=3)
    session = Session(scheduler)
    x = y = rng.standard_normal((2, 3, 4)).astype(np.float32)
    for t in scheduler.timesteps:
        assert session.timestep == t and not session.needs_noise
        e = rng.standard_normal(x.shape).astype(np.float32)
        x = scheduler.step(e, t, x).prev_sample
        y = session.step(e, y)
        assert np.array_equal(x, y)
    assert session.timestep is None and session.step_index == 6 and not session.needs_noise
    with pytest.raises(IndexError):
        session.step(e, y)
    session.reset()
    assert session.step_index == 0


def test_saved_copied_and_exported_sessions_go_on_alike(rng):
    scheduler = planned(solver_order=3)
    session = Session(scheduler)
    x = rng.standard_normal((2, 5)).astype(np.float32)
    outputs = rng.standard_normal((6, 2, 5)).astype(np.float16)
    for e in outputs[:3]:
        x = session.step(e, x)
    others = [session.copy(), session.restore(session.save()), Session.from_plan(scheduler.plan_json()).restore(session.save())]
    for e in outputs[3:]:
        results = [each.step(e, x) for each in [session, *others]]
        assert all(np.array_equal(result, results[0]) for result in results)
        x = results[0]
    with pytest.raises(ds.StateError):
        Session(planned(steps=7)).restore(session.save())
    with pytest.raises(ds.InvalidValueError):
        Session.from_plan("{}")


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guided_steps_equal_the_separate_passes(rng, rescale):
    scheduler = planned(solver_order=2)
    guided, plain = Session(scheduler), Session(scheduler)
    x = y = rng.standard_normal((3, 40))
    while guided.timestep is not None:
        c, u = rng.standard_normal((2, 3, 40))
        e = u + 5 * (c - u)
        e *= rescale * c.std(axis=1, keepdims=True) / e.std(axis=1, keepdims=True) + 1 - rescale
        x = guided.step(c, x, unconditional=u, guidance=Guidance(5, rescale))
        y = plain.step(e, y)
        assert np.allclose(x, y, rtol=1e-12, atol=1e-12)


def test_rows_are_what_they_are_alone(rng):
    schedulers = [planned(steps=5), planned(ds.DEISMultistepScheduler, 4, thresholding=True), planned(ds.DDIMScheduler, 7)]
    sessions = [Session(schedulers[0]), None, Session(schedulers[1], 1), Session(schedulers[2], 2), Session(schedulers[0], 3)]
    alone = [session and session.copy() for session in sessions]
    guidance = [None, None, Guidance(4), None, Guidance(3, 0.5)]
    x = rng.standard_normal((5, 2, 9)).astype(np.float32)
    for _ in range(2):
        e, u = rng.standard_normal((2, 5, 2, 9)).astype(np.float32)
        y = step_rows(sessions, e, x, unconditional=u, guidance=guidance)
        for row, session in enumerate(alone):
            if session is None:
                expected = x[row]
            elif guidance[row] is None:
                expected = session.step(e[row][None], x[row][None])[0]
            else:
                expected = session.step(e[row][None], x[row][None], unconditional=u[row][None], guidance=guidance[row])[0]
            assert np.array_equal(y[row], expected), row
        x = y
    assert [session and session.step_index for session in sessions] == [2, None, 3, 4, 5]


def test_stochastic_rows_need_noise(rng):
    scheduler = planned(algorithm_type="sde-dpmsolver++")
    session = Session(scheduler)
    x, e, z = rng.standard_normal((3, 1, 8)).astype(np.float32)
    assert session.needs_noise
    with pytest.raises(ds.InvalidValueError, match="row 0"):
        step_rows([session], e, x)
    other = session.copy()
    assert np.array_equal(step_rows([session], e, x, noise=z), other.step(e, x, noise=z))


def test_in_place_and_not_contiguous(rng):
    scheduler = planned()
    first, second = Session(scheduler), Session(scheduler)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    e = rng.standard_normal((6, 4)).astype(np.float32).T
    expected = first.step(e, x)
    assert second.step(e, x, out=x) is x and np.array_equal(x, expected)


def test_bad_calls_change_nothing(rng):
    session = Session(planned())
    x = rng.standard_normal((2, 4)).astype(np.float32)
    for arguments, keywords in [
        ((x[:1], x), {}),
        ((x, x), {"noise": x[:1]}),
        ((x, x), {"unconditional": x[:1], "guidance": Guidance(2)}),
        ((x, x), {"guidance": Guidance(2)}),
        ((x, x), {"unconditional": x, "guidance": Guidance(float("nan"))}),
        ((x, x), {"unconditional": x, "guidance": Guidance(2, 1.5)}),
        ((x.astype(np.int32), x), {}),
        ((x, x), {"out": np.empty((2, 5), np.float32)}),
    ]:
        with pytest.raises(ds.SchedulerError):
            session.step(*arguments, **keywords)
    for sessions, keywords in [([session], {}), ([session, session], {}), ([session, None], {"guidance": [None]})]:
        with pytest.raises(ds.InvalidValueError):
            step_rows(sessions, x, x, **keywords)
    with pytest.raises(ds.InvalidValueError):
        Session(planned(), -1)
    with pytest.raises(ds.InvalidValueError):
        Session(planned(), 7)
    with pytest.raises(ds.TimestepError):
        Session(ds.DDIMScheduler())
    assert session.step_index == 0


def test_deep_copies_of_sessions_go_their_own_way(rng):
    session, x = Session(planned(ds.DEISMultistepScheduler)), rng.standard_normal((2, 3, 4)).astype(np.float32)
    y = session.step(x, x)
    other = copy.deepcopy(session)
    expected = session.step(y, y)
    del session
    assert np.array_equal(other.step(y, y), expected)


def test_sessions_are_not_pickled():
    with pytest.raises(TypeError, match="can't be pickled: save"):
        pickle.dumps(Session(planned()))
