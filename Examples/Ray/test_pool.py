# SPDX-License-Identifier: Apache-2.0

"""The pool without Ray: joining, leaving, saving, restoring, and rows beside any others."""

import dataclasses
import pickle
import random

import numpy as np
import pytest
from alone import run_alone
from diffusion_scheduling import Guidance, SchedulerError, Session, StateError
from network import DigitNetwork
from pool import Request, RowPool, planned


@pytest.fixture(scope="module")
def model():
    return DigitNetwork.of_the_demo()


REQUESTS = [
    Request("a", "Euler a", 7, seed=1),
    Request("b", "DPM++ 2M Karras", 9, seed=2, digit=3, guidance=Guidance(3)),
    Request("c", "DPM++ 2M SDE", 6, seed=3, digit=7),
    Request("d", "UniPC", 8, seed=4, digit=0, guidance=Guidance(6, rescale=0.7)),
    Request("e", "Heun", 5, seed=5),
    Request("f", "DEIS rho3Kutta", 4, seed=6, digit=9, guidance=Guidance(1.5)),
]


def finish(pool, pictures):
    while any(pool.runs):
        pictures |= pool.tick().pictures
    return pictures


def test_requests_that_join_at_any_time_have_the_bits_of_each_alone(model):
    alone = {request.name: run_alone(model, request)[0].tobytes() for request in REQUESTS}
    draw = random.Random(0)
    for _ in range(4):
        pool, waiting, pictures = RowPool(model, 3, every=4), draw.sample(REQUESTS, len(REQUESTS)), {}
        while waiting:
            free = pool.runs.count(None)
            pictures |= pool.tick([waiting.pop() for _ in range(min(draw.randint(0, free), len(waiting)))]).pictures
        assert {name: picture.tobytes() for name, picture in finish(pool, pictures).items()} == alone


def test_a_checkpoint_goes_on_in_another_pool(model):
    for request in REQUESTS:
        picture, steps = run_alone(model, request)
        for step in range(steps):
            pool = RowPool(model, 1, every=1)
            pool.join(request)
            for _ in range(step):
                pool.tick()
            checkpoint = pickle.loads(pickle.dumps(pool.leave(request.name)))
            assert checkpoint.step == step and not any(pool.runs)
            other = RowPool(model, 2, every=100)
            other.tick([REQUESTS[0] if request is not REQUESTS[0] else REQUESTS[1]])
            other.join(checkpoint)
            assert finish(other, {})[request.name].tobytes() == picture.tobytes(), (request, step)


def test_checkpoints_stay_as_they_are_while_the_request_goes_on(model):
    pool, saved = RowPool(model, 2, every=2), []
    pool.join(REQUESTS[0])
    while any(pool.runs):
        saved += pool.tick().checkpoints
    assert [checkpoint.step for checkpoint in saved] == [2, 4, 6]
    picture = run_alone(model, REQUESTS[0])[0]
    for checkpoint in saved:
        pool.join(checkpoint)
        assert np.array_equal(finish(pool, {})["a"], picture)


def test_the_network_answers_a_row_alike_in_any_batch(model):
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((9, *model.shape)).astype(np.float32)
    timesteps, digits = draw.uniform(0, 999, 9), [None, 1, 2, None, 4, 5, 6, None, 8]
    outputs = model(inputs, timesteps, digits)
    for order in [[0], [8, 3], [4, 4, 4, 1], [*range(9)][::-1]]:
        again = model(inputs[order], timesteps[order], [digits[row] for row in order])
        assert again.tobytes() == outputs[order].tobytes()
    other = pickle.loads(pickle.dumps(model))
    assert other(inputs, timesteps, digits).tobytes() == outputs.tobytes()


def test_what_cannot_join_is_refused_with_a_sentence_and_the_others_go_on(model):
    pool = RowPool(model, 3, every=4)
    wrong = [
        Request("x", "DPM adaptive", 9, 0),
        Request("y", "DDIM", 0, 0),
        Request("z", "DDIM", 9, 0, guidance=Guidance(2, rescale=1.5)),
    ]
    reply = pool.tick([*wrong, REQUESTS[0], REQUESTS[0]])
    assert reply.refused.keys() == {"x", "y", "z", "a"} and all(reply.refused.values())
    assert reply.refused["a"] == "a is here already"
    assert [run and run.request.name for run in pool.runs] == ["a", None, None]
    assert pool.tick(REQUESTS[1:4]).refused == {"d": "d can't join: all 3 rows are taken"}
    with pytest.raises(KeyError):
        pool.leave("d")
    with pytest.raises(ValueError, match="digit is 10, but must be from 0 to 9"):
        Request("x", "DDIM", 9, 0, digit=10)
    for rows, every in [(0, 1), (1, 0)]:
        with pytest.raises(ValueError, match="must be at least 1"):
            RowPool(model, rows, every)


def test_damaged_and_foreign_sessions_are_refused(model):
    pool = RowPool(model, 1, every=4)
    pool.join(REQUESTS[1])
    pool.tick()
    checkpoint = pool.leave("b")
    damaged = checkpoint.session[:40] + bytes([checkpoint.session[40] ^ 1]) + checkpoint.session[41:]
    with pytest.raises(StateError, match="checksum"):
        pool.join(dataclasses.replace(checkpoint, session=damaged))
    # A library whose plan differs in a bit would act like a request for another plan.
    other = dataclasses.replace(checkpoint.request, steps=10)
    with pytest.raises(SchedulerError, match="must equal the saved session's in every bit"):
        pool.join(dataclasses.replace(checkpoint, request=other))
    scheduler = planned(model.config, checkpoint.request)
    with pytest.raises(ValueError, match="b has taken all of its steps"):
        pool.join(dataclasses.replace(checkpoint, session=Session(scheduler, begin_index=9).save()))
    assert not any(pool.runs)
