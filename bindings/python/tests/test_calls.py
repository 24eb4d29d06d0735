# SPDX-License-Identifier: Apache-2.0

"""Classes that diffusers' pipelines step by other methods than ``step`` at a timestep: runs of drop-ins, and of NumPy's classes."""

import copy
import pickle

import diffusion_scheduling as ds
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from conformance.originals import disabled  # noqa: E402
from diffusion_scheduling import _core  # noqa: E402
from diffusion_scheduling._description import DESCRIPTIONS  # noqa: E402
from diffusion_scheduling.operators import Plan  # noqa: E402

NAMES = [name for name, description in DESCRIPTIONS.items() if description.calls]
SHAPE = (2, 3, 4, 4)


def model(x, level, power):
    """The test problem's model. Its output points to the data, divided by a power of the level where that is large."""
    return (0.5 * torch.tanh(x / (1 + level)) - x) / (1 + level * level) ** (power / 2)


def heun_run(scheduler, steps, generator, x, between):
    """The loop of diffusers' KarrasVePipeline, without the scaling of the network's input and output."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        scheduler = between(scheduler)
        level, target = scheduler.schedule[t], scheduler.schedule[t - 1] if t > 0 else 0
        raised, raised_level = scheduler.add_noise_to_input(x, level, generator)
        e = model(raised, float(raised_level), 1)
        made = scheduler.step(e, raised_level, target, raised)
        if target != 0:
            e = model(made.prev_sample, float(target), 1)
            made = scheduler.step_correct(e, raised_level, target, raised, made.prev_sample, made["derivative"])
        x = made.prev_sample
    return [x, made.derivative, made.pred_original_sample]


def corrected_run(scheduler, steps, generator, x, between):
    """The loop of diffusers' ScoreSdeVePipeline."""
    scheduler.set_timesteps(steps)
    scheduler.set_sigmas(steps)
    for i, t in enumerate(scheduler.timesteps):
        scheduler, level = between(scheduler), float(scheduler.sigmas[i])
        for _ in range(scheduler.config.correct_steps):
            x = scheduler.step_correct(model(x, level, 2), x, generator=generator).prev_sample
        made = scheduler.step_pred(model(x, level, 2), t, x, generator=generator)
        x = made.prev_sample
    return [x, made.prev_sample_mean]


RUNS = {"KarrasVeScheduler": heun_run, "ScoreSdeVeScheduler": corrected_run}
CONFIGS = {
    "KarrasVeScheduler": [{}, {"s_churn": 10.0, "s_noise": 1.0, "s_min": 0.0}, {"s_churn": 0.0}, {"sigma_max": 10.0}],
    "ScoreSdeVeScheduler": [{}, {"correct_steps": 3, "snr": 0.3}, {"correct_steps": 0}, {"sigma_max": 50.0, "sampling_eps": 0.01}],
}
CASES = [(name, config) for name in NAMES for config in CONFIGS[name]]


def run(library, name, config, steps, dtype=torch.float32, between=lambda scheduler: scheduler):
    """The results of a seeded run's last step, and the state in which the run leaves the generator."""
    generator, scheduler = torch.Generator().manual_seed(7), getattr(library, name)(**config)
    x = (torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma).to(dtype)
    return RUNS[name](scheduler, steps, generator, x, between), generator.get_state()


def are_close(found, expected, tolerance):
    return all(
        a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))
        for a, b in zip(found, expected, strict=True)
    )


def test_all_classes_have_a_run():
    assert NAMES == list(RUNS) and set(NAMES) <= set(drop_ins.__all__)


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("name, config", CASES)
def test_a_run_is_the_original_s(name, config, steps):
    """Also in the state of the generator, and without calling the original's steps.

    The reference is the original's float64 run: its float32 differences lose digits where a step leads to a much smaller level.
    """
    exact, _ = run(diffusers, name, config, steps, torch.float64)
    theirs, state = run(diffusers, name, config, steps)
    with disabled():
        found, found_state = run(drop_ins, name, config, steps)
    assert torch.equal(state, found_state)
    for own, their, true in zip(found, theirs, exact, strict=True):
        error, their_error = (float((each - true).abs().max()) for each in (own, their))
        assert own.dtype == their.dtype and error <= 1e-5 * max(1.0, float(true.abs().max())) + their_error


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("name", NAMES)
def test_results_have_the_original_s_types(name, dtype, tolerance):
    config = {"sigma_max": 10.0}
    assert are_close(run(drop_ins, name, config, 6, dtype)[0], run(diffusers, name, config, 6, dtype)[0], tolerance)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
@pytest.mark.parametrize("name", NAMES)
def test_copies_go_on(name, copied):
    expected, _ = run(drop_ins, name, {}, 5)
    found, _ = run(drop_ins, name, {}, 5, between=copied)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_a_configuration_edited_in_mid_run_is_followed():
    def edited(scheduler):
        scheduler.register_to_config(snr=scheduler.config.snr + 0.05)
        return scheduler

    found, expected = (run(each, "ScoreSdeVeScheduler", {}, 5, between=edited)[0] for each in (drop_ins, diffusers))
    assert are_close(found, expected, 1e-5)


def test_replaced_tables_are_followed():
    def replaced(scheduler):
        scheduler.discrete_sigmas = scheduler.discrete_sigmas * 1.01
        return scheduler

    found, expected = (run(each, "ScoreSdeVeScheduler", {}, 5, between=replaced)[0] for each in (drop_ins, diffusers))
    assert are_close(found, expected, 1e-5)


@pytest.mark.parametrize("name, call", [(name, call.name) for name in NAMES for call in DESCRIPTIONS[name].calls])
def test_tuples_and_gradients_are_the_original_s(name, call):
    """Gradients also flow through the norms."""
    results = []
    for library in (diffusers, drop_ins):
        scheduler, leaves = getattr(library, name)(sigma_max=10.0), []
        scheduler.set_timesteps(4)
        for seed in range(4):
            values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            leaves.append(values.requires_grad_())
        e, x, raised, derivative = leaves
        arguments = {
            "step": (e, 3.0, 2.0, raised),
            "step_correct": (e, 3.0, 2.0, raised, x, derivative) if name == "KarrasVeScheduler" else (e, x),
            "step_pred": (e, torch.tensor(0.75), x),
        }[call]
        torch.manual_seed(5)
        made = getattr(scheduler, call)(*arguments, return_dict=False)
        given = [each for each in arguments if isinstance(each, torch.Tensor) and each.requires_grad]
        gradients = torch.autograd.grad(sum((each**2).sum() for each in made), given, allow_unused=True)
        results.append((made, gradients))
    (expected, gradients), (found, found_gradients) = results
    assert type(found) is type(expected) and are_close(found, expected, 1e-5)
    # The original's gradients also pass through terms that cancel.
    for own, their, leaf in zip(found_gradients, gradients, given, strict=True):
        own, their = (torch.zeros_like(leaf) if each is None else each for each in (own, their))
        assert torch.allclose(own, their, rtol=1e-5, atol=1e-5)


def test_corrections_read_nothing_back():
    """On devices, a step that measures norms waits for none of them. The meta device has no values to read."""
    scheduler = drop_ins.ScoreSdeVeScheduler()
    x = torch.zeros(SHAPE, device="meta")
    assert scheduler.step_correct(x, x).prev_sample.device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_files_are_the_original_s(name, tmp_path):
    scheduler = getattr(drop_ins, name)(sigma_max=20.0)
    scheduler.save_pretrained(tmp_path)
    saved = getattr(diffusers, name).from_pretrained(tmp_path).config
    assert {key: saved[key] for key in scheduler.config if not key.startswith("_")} == {
        key: value for key, value in scheduler.config.items() if not key.startswith("_")
    }
    made = drop_ins.make_scheduler(name)
    assert type(made) is getattr(drop_ins, name) and isinstance(made, getattr(diffusers, name))


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_refused(name):
    scheduler = getattr(drop_ins, name)()
    scheduler.set_timesteps(4)
    for take in (Plan, ds.Session):
        with pytest.raises(ds.UnsupportedError, match=rf"{name} steps by step.*diffusion_scheduling\.{name}"):
            take(scheduler)


def test_what_steps_refuse():
    scheduler, x = drop_ins.ScoreSdeVeScheduler(), torch.zeros(SHAPE)
    for timestep in (1.5, -0.5, float("inf"), float("nan")):
        with pytest.raises(ds.TimestepError, match=rf"timestep is {timestep}, but must be from 0 to 1"):
            scheduler.step_pred(x, timestep, x)
    with pytest.raises(ds.UnsupportedError, match="must be the same for all batch items"):
        scheduler.step_pred(x, torch.tensor([0.5, 1.0]), x)
    with pytest.raises(TypeError, match="model_output is a ndarray"):
        drop_ins.KarrasVeScheduler().step(x.numpy(), 3.0, 2.0, x)


@pytest.mark.parametrize("steps", [5, 12, 20])
@pytest.mark.parametrize("config", CONFIGS["KarrasVeScheduler"])
def test_numpy_s_seeded_run_is_the_pipeline_s(steps, config):
    expected = run(diffusers, "KarrasVeScheduler", config, steps)[0][0].numpy()
    scheduler, source = ds.KarrasVeScheduler(**config), ds.NoiseSource.torch_cpu(7)
    scheduler.set_timesteps(steps)
    x = source.standard_normal(SHAPE, np.float32) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(torch.from_numpy(x), float(t), 1).numpy(), t, x, generator=source).prev_sample
    assert np.max(np.abs(x - expected)) <= 2e-4 * max(1, np.max(np.abs(expected)))


def test_numpy_s_correction_is_that_of_average_norms():
    """A correction whose measured norms have the ratio of the level is NumPy's."""
    scheduler, original = ds.ScoreSdeVeScheduler(), drop_ins.ScoreSdeVeScheduler()
    scheduler.set_timesteps(5)
    t, level = scheduler.timesteps[2], float(scheduler.sigmas[2])
    e, x = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    e = e * (z.flatten(1).norm(dim=1).mean() / e.flatten(1).norm(dim=1).mean() / level)
    measured = original.step_correct(e, x, generator=torch.Generator().manual_seed(3)).prev_sample
    average = scheduler.step(e.numpy(), t, x.numpy(), variance_noise=z.numpy()).prev_sample
    assert np.allclose(measured.numpy(), average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_planned_once(name, monkeypatch):
    renewed, scheduler = [], getattr(drop_ins, name)()
    renew = type(scheduler)._renew
    monkeypatch.setattr(type(scheduler), "_renew", lambda self: renewed.append(self) or renew(self))
    for _ in range(2):
        RUNS[name](scheduler, 4, torch.Generator().manual_seed(0), torch.ones(SHAPE), lambda scheduler: scheduler)
    assert len(renewed) == 1
    scheduler.config.sigma_max = 9.0
    RUNS[name](scheduler, 4, torch.Generator().manual_seed(0), torch.ones(SHAPE), lambda scheduler: scheduler)
    assert len(renewed) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_version_of_rows_is_the_plain_one(name, monkeypatch):
    runs = []
    for quick in (_core.QuickStep, None):
        monkeypatch.setattr(_core, "QuickStep", quick)
        generator = torch.Generator().manual_seed(3)
        runs.append(RUNS[name](getattr(drop_ins, name)(), 5, generator, 9 * torch.ones(SHAPE), lambda scheduler: scheduler))
    assert all(torch.equal(a, b) for a, b in zip(*runs))
