# SPDX-License-Identifier: Apache-2.0

"""Drop-ins whose callers keep the values that steps remember, and pass them to the next step."""

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from conftest import run_in_threads  # noqa: E402

NAMES = [name for name in drop_ins.__all__ if getattr(drop_ins, name).description.attributes.timestep]
X = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
OLD = torch.tanh(X.flip(1))


def make(library, name, count=10):
    scheduler = getattr(library, name)(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(count)
    return scheduler


def step(scheduler, old, timestep, back, **arguments):
    generator = torch.Generator().manual_seed(5)
    results = scheduler.step(torch.tanh(X), old, timestep, back, X, generator=generator, **arguments)
    return results, generator.get_state()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("timestep, back", [(700, 800), (517, 901), (517, 300), (20, 120), (999, 999), (torch.tensor(400), 500)])
@pytest.mark.parametrize("has_old", [True, False])
def test_steps_follow_nothing_but_their_arguments(name, timestep, back, has_old):
    old, back = (OLD, back) if has_old else (None, back if timestep == 517 else None)
    if has_old and timestep == back:
        pytest.skip("the original divides by the difference of equal levels")
    (expected, state), (found, found_state) = (step(make(each, name), old, timestep, back) for each in (diffusers, drop_ins))
    assert type(found) is type(expected) is tuple and len(found) == 2
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) and a.dtype == b.dtype for a, b in zip(expected, found))
    assert torch.equal(state, found_state)


@pytest.mark.parametrize("name", NAMES)
def test_equal_levels_extrapolate_nothing(name):
    (following, _), _ = step(make(drop_ins, name), OLD, 500, 500)
    generator = torch.Generator().manual_seed(5)
    torch.randn(X.shape, generator=generator)
    first, _ = make(drop_ins, name).step(torch.tanh(X), None, 500, None, X, generator=generator)
    assert torch.equal(following, first)


@pytest.mark.parametrize("name", NAMES)
def test_a_first_step_is_one_without_a_timestep_before_it(name):
    scheduler = make(drop_ins, name)
    (found, _), (expected, _) = step(scheduler, OLD, 500, None), step(scheduler, None, 500, None)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_returned_on_request(name):
    results = [step(make(each, name), OLD, 700, 800, return_dict=True)[0] for each in (diffusers, drop_ins)]
    assert type(results[0]) is type(results[1])
    assert torch.allclose(results[0].prev_sample, results[1].prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_noise_has_the_type_of_the_sample(name):
    x = X.to(torch.bfloat16)
    results = []
    for library in (diffusers, drop_ins):
        generator = torch.Generator().manual_seed(5)
        results.append(make(library, name).step(torch.tanh(X), OLD, 700, 800, x, generator=generator)[0])
    assert results[0].dtype == results[1].dtype == torch.float32
    # The original rounds the terms of sample and noise to bfloat16, some units of 2⁻⁹ each. Other noise would be off by 0.5.
    assert torch.allclose(*results, atol=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_threads_step_at_once(name):
    scheduler = make(drop_ins, name)
    inputs = [(OLD * factor, 900 - 10 * place, 910 - 10 * place) for place, factor in enumerate((1.0, 0.5, -1.0, 2.0))]
    expected = [step(scheduler, *each)[0][0] for each in inputs]
    faults = []

    def work(place):
        for _ in range(50):
            if not torch.equal(step(scheduler, *inputs[place])[0][0], expected[place]):
                faults.append(place)

    run_in_threads(work, len(inputs))
    assert not faults
