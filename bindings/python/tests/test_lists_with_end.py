# SPDX-License-Identifier: Apache-2.0

"""Drop-ins against originals whose timesteps include the last step's target."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import diffusion_scheduling.diffusers as drop_ins  # noqa: E402

ALL = [name for name in drop_ins.__all__ if getattr(drop_ins, name).description.lists_end]
STATELESS = [name for name in ALL if getattr(drop_ins, name).description.is_stateless]
X = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(3))
EVEN = {"SCMScheduler": {"intermediate_timesteps": None}}
"""Arguments that ``set_timesteps`` needs besides the number of steps."""
LISTS = {
    "SCMScheduler": {
        **{"num_inference_steps": 3, "timesteps": [1.5, 1.0, 0.5, 0.1]},
        **{"max_timesteps": None, "intermediate_timesteps": None},
    },
    "DDPMWuerstchenScheduler": {"timesteps": [1.0, 0.7, 0.3, 0.1]},
}


def plan(scheduler, steps=6):
    scheduler.set_timesteps(steps, **EVEN.get(type(scheduler).__name__, {}))


def step(scheduler, x, t, model=torch.tanh, seed=7, **arguments):
    """A step, returned as a tuple. Its timestep has the shape that pipelines pass."""
    told = t.expand(x.shape[0]) if type(scheduler).__name__ in STATELESS else t
    generator = torch.Generator(x.device if x.device.type != "meta" else "cpu").manual_seed(seed)
    return scheduler.step(model(x), told, x, generator=generator, return_dict=False, **arguments)


def run(scheduler, x=X, each=None, **arguments):
    for index, t in enumerate(scheduler.timesteps[:-1]):
        scheduler = scheduler if each is None or index == 0 else each(scheduler)
        x = step(scheduler, x, t, seed=index, **arguments)[0]
    return x


def pair(name):
    return getattr(diffusers, name)(), getattr(drop_ins, name)()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("is_list", [False, True])
def test_runs_are_the_originals(name, is_list):
    original, drop_in = pair(name)
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(**LISTS[name]) if is_list else plan(scheduler)
    assert torch.equal(original.timesteps, drop_in.timesteps) and original.timesteps.dtype == drop_in.timesteps.dtype
    assert drop_in.num_inference_steps == getattr(original, "num_inference_steps", len(original.timesteps) - 1)
    assert torch.allclose(run(original), run(drop_in), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "model, x", [("half", "half"), ("half", "float"), ("float", "half"), ("double", "double"), ("float", "double")]
)
def test_types_are_the_originals(name, model, x):
    found = []
    for scheduler in pair(name):
        plan(scheduler)
        found.append(step(scheduler, getattr(X, x)(), scheduler.timesteps[0], lambda x: getattr(torch.tanh(x), model)())[0])
    assert found[0].dtype == found[1].dtype and torch.allclose(*(each.double() for each in found), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_copies_go_on_from_where_they_were_made(name, way):
    original, drop_in = pair(name)
    for scheduler in (original, drop_in):
        plan(scheduler)
    assert torch.allclose(run(original), run(drop_in, each=way), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_no_step_begins_at_the_end(name):
    for scheduler in pair(name):
        plan(scheduler)
        x = run(scheduler)
        with pytest.raises((IndexError, ValueError)):
            step(scheduler, x, scheduler.timesteps[-1])


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_read_back_from_a_device(name):
    drop_in = pair(name)[1]
    drop_in.set_timesteps(5, device="meta", **EVEN.get(name, {}))
    if hasattr(drop_in, "set_begin_index"):
        drop_in.set_begin_index(0)
    assert run(drop_in, X.to("meta")).device.type == "meta"


@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_through_steps(name):
    gradients = []
    for scheduler in pair(name):
        plan(scheduler)
        x = X.clone().requires_grad_()
        step(scheduler, x, scheduler.timesteps[0])[0].square().sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", STATELESS)
def test_the_items_of_a_batch_are_at_one_timestep(name):
    drop_in = pair(name)[1]
    plan(drop_in)
    with pytest.raises(NotImplementedError, match="same for all batch items"):
        drop_in.step(X, torch.tensor([0.5, 0.25]), X)
    # add_noise takes a time for each item.
    noisy = [each.add_noise(X, X.flip(1), torch.tensor([0.25, 0.9])) for each in pair(name)]
    assert torch.allclose(*noisy, atol=1e-6)


def test_an_angle_that_is_none_is_left_out_of_the_run():
    for given in ({}, {"intermediate_timesteps": None}, {"intermediate_timesteps": 1.0}):
        found = []
        for scheduler in pair("SCMScheduler"):
            scheduler.set_timesteps(2, **given)
            found.append(scheduler.timesteps)
        assert torch.equal(*found)
