# SPDX-License-Identifier: Apache-2.0

"""Plans, steps, noise, memory and threads of the classes for NumPy arrays."""

import copy
import gc
import os

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import ORDERED, PARTED, STATELESS, loop, noise, run_in_threads, step
from diffusion_scheduling import _memory
from people import HIGHEST_ORDER


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 3, 4, 4)).astype(np.float32)


# ---- Plans


def test_timesteps_of_the_reference():
    expected = {
        ("DEISMultistepScheduler", "linspace"): [999, 799, 599, 400, 200],
        ("DEISMultistepScheduler", "leading"): [830, 664, 498, 332, 166],
        ("DPMSolverMultistepInverseScheduler", "trailing"): [199, 399, 599, 799, 999],
        ("DDIMScheduler", "leading"): [800, 600, 400, 200, 0],
        ("DDIMInverseScheduler", "leading"): [0, 200, 400, 600, 800],
    }
    for (name, spacing), timesteps in expected.items():
        scheduler = getattr(ds, name)(timestep_spacing=spacing)
        scheduler.set_timesteps(5)
        assert scheduler.timesteps.dtype == np.int64 and scheduler.timesteps.tolist() == timesteps
        assert scheduler.num_inference_steps == 5 and scheduler.init_noise_sigma == 1.0


def test_sigmas_are_one_more_than_timesteps(cls):
    scheduler = cls()
    assert len(scheduler.timesteps) == len(scheduler) == scheduler.config.get("num_train_timesteps", 1000)
    scheduler.set_timesteps(7)
    assert scheduler.sigmas.dtype == cls.description.sigma_type and len(scheduler.sigmas) == len(scheduler.timesteps) + 1
    assert scheduler.num_inference_steps == 7 - cls.description.counts_end


def test_plans_of_ones_own():
    scheduler = ds.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 100])
    assert scheduler.timesteps.tolist() == [900, 500, 100]
    scheduler.set_timesteps(sigmas=[10.0, 2.0, 0.5])
    assert np.allclose(scheduler.sigmas, [10.0, 2.0, 0.5, 0.0])
    with pytest.raises(ValueError):
        scheduler.set_timesteps(3, timesteps=[900, 500, 100])
    with pytest.raises(ValueError):
        scheduler.set_timesteps()


def test_mu_shifts_flow_sigmas():
    scheduler = ds.DEISMultistepScheduler(use_flow_sigmas=True, use_dynamic_shifting=True)
    scheduler.set_timesteps(5, mu=1.0)
    z = 1 - np.linspace(1, 1 / 1000, 6)
    z = (np.e * z / (1 + (np.e - 1) * z))[::-1][:-1]
    assert np.allclose(scheduler.sigmas[:-1], z, rtol=1e-6)
    with pytest.raises(ValueError, match="mu"):
        ds.DEISMultistepScheduler().set_timesteps(5, mu=1.0)


# ---- Steps


def test_outputs_have_names_and_tuples_their_lengths(cls, x):
    scheduler = cls()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[0]
    named = scheduler.step(x, t, x, variance_noise=x)
    scheduler.set_timesteps(4)
    plain = scheduler.step(x, t, x, return_dict=False, variance_noise=x)
    assert len(plain) == 1 + cls.description.returns_report and type(plain) is tuple
    assert np.array_equal(named.prev_sample, plain[0]) and np.array_equal(named[0], plain[0])
    if cls.description.returns_report:
        assert np.array_equal(getattr(named, cls.description.report), plain[1])


def test_a_step_is_the_sum_of_its_row(cls, x):
    scheduler = cls.from_config({"clip_sample": False})
    scheduler.set_timesteps(4)
    t, x = scheduler.timesteps[0], x.astype(np.float64)
    e, row = np.tanh(scheduler.scale_model_input(x, t)), scheduler.row(0)
    values = {"sample": x, "model_output": e, "noise": noise(x)}
    for name, combination in (("prediction", row.prediction), ("next_sample", row.next_sample)):
        values[name] = sum(getattr(combination, stream) * value for stream, value in [*values.items()])
    assert np.allclose(step(scheduler, x, t)[0], values["next_sample"], rtol=1e-6, atol=1e-6)


def test_results_do_not_depend_on_the_form_of_the_arrays(cls, x):
    expected = loop(cls(), x)
    forms = {
        "every second element": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        "backwards": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
        "Fortran": np.asfortranarray,
        "read only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        "other byte order": lambda a: a.astype(">f4"),
    }
    for name, form in forms.items():
        scheduler = cls()
        scheduler.set_timesteps(6)
        for t, before, after in zip(scheduler.timesteps, expected, expected[1:]):
            result = step(scheduler, before, t, form(before))[0]
            assert np.array_equal(result, after), name
            assert result.flags.c_contiguous and result.dtype == np.float32


def test_models_may_answer_with_broadcastable_shapes(cls, x):
    a, b = cls(), cls()
    a.set_timesteps(5)
    b.set_timesteps(5)
    e = x[:, :1]
    t, z = a.timesteps[0], noise(x)
    found, expected = a.step(e, t, x, variance_noise=z), b.step(np.broadcast_to(e, x.shape), t, x, variance_noise=z)
    assert np.array_equal(found.prev_sample, expected.prev_sample)


@pytest.mark.parametrize(
    "model, sample, result",
    [("f2", "f2", "f2"), ("f2", "f4", "f4"), ("f4", "f2", "f4"), ("f8", "f4", "f8"), ("f8", "f8", "f8")],
)
def test_mixed_types_are_promoted(cls, x, model, sample, result):
    scheduler, exact = cls(), cls()
    scheduler.set_timesteps(4)
    exact.set_timesteps(4)
    y, z = x.astype(sample), x.astype(sample).astype("f8")
    least = "f4" if (cls.description.result_type, result) == ("at_least_float32", "f2") else result
    result = {"model_output": model, "sample": sample}.get(cls.description.result_type, least)
    for t in scheduler.timesteps[:3]:
        e, drawn = np.tanh(scheduler.scale_model_input(y, t)).astype(model), noise(x).astype(model)
        y = scheduler.step(e, t, y, variance_noise=drawn).prev_sample
        z = exact.step(e.astype("f8"), t, z, variance_noise=drawn.astype("f8")).prev_sample
        assert y.dtype == np.dtype(result)
        unit = {"f2": 2.0**-10, "f4": 2.0**-23, "f8": 2.0**-52}[result]
        assert np.allclose(y, z, rtol=0, atol=32 * unit * max(1, np.abs(z).max()))
        z = y.astype("f8")


def test_the_dpm_solvers_result_has_the_type_of_what_it_extrapolates(x):
    scheduler = ds.DPMSolverMultistepScheduler(prediction_type="sample")
    scheduler.set_timesteps(3)
    assert scheduler.step(x.astype("f2"), scheduler.timesteps[0], x).prev_sample.dtype == np.float16


def test_other_types_are_refused(cls, x):
    scheduler = cls()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="float16"):
        scheduler.step(x.astype(int), scheduler.timesteps[0], x)


def test_arrays_may_change_their_form_within_a_run(cls, x):
    expected = loop(cls(), x, 8)
    forms = [
        lambda a: a,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        lambda a: a,
    ]
    scheduler, out = cls(), np.empty_like(x)
    scheduler.set_timesteps(8)
    for index, (t, before, after) in enumerate(zip(scheduler.timesteps, expected, expected[1:])):
        result = step(scheduler, before, t, forms[index % 4](before), out=out if index in (0, 3, 7) else None)[0]
        assert np.array_equal(result, after)


def test_options_may_change_from_step_to_step(x):
    scheduler, z = ds.DDIMScheduler(), np.tanh(x)
    scheduler.set_timesteps(10)
    for t in (900, 517):
        for eta, clipped in ((0.0, False), (0.0, False), (0.5, False), (0.5, True), (0.9, True), (0.0, True), (0.0, False)):
            noise = {"eta": eta, "use_clipped_model_output": clipped, "variance_noise": z if eta else None}
            fresh = ds.DDIMScheduler()
            fresh.set_timesteps(10)
            expected, found = (s.step(np.tanh(x), t, x, return_dict=False, **noise) for s in (fresh, scheduler))
            assert all(np.array_equal(a, b) for a, b in zip(expected, found))


def test_options_of_the_run_hold_for_steps_that_say_nothing(x):
    told, asked = ds.DDIMScheduler(), ds.DDIMScheduler()
    told.set_timesteps(10, eta=0.5)
    asked.set_timesteps(10)
    assert told.plan_properties().is_stochastic and not asked.plan_properties().is_stochastic
    for t in told.timesteps:
        assert np.array_equal(step(told, x, t)[0], step(asked, x, t, eta=0.5)[0])
        assert np.array_equal(step(told, x, t, eta=0.0)[0], step(asked, x, t)[0])
    with pytest.raises(ds.InvalidValueError, match="eta"):
        told.set_timesteps(10, eta=2.0)
    with pytest.raises(TypeError):
        told.set_timesteps(10, s_churn=2.0)


@pytest.mark.parametrize("kind", ORDERED)
def test_options_of_a_step_make_another_plan(kind, x):
    options = {each.key: each.default for each in kind.description.options if each.type == "float"}
    for name, default in options.items():
        told, asked = kind(), kind()
        value = {"s_churn": 5.0, "s_noise": 1.1}.get(name)
        if value is None:
            continue
        told.set_timesteps(6, **{name: value})
        asked.set_timesteps(6)
        y = x
        for index, t in enumerate(told.timesteps):
            expected = step(told, y, t)[0]
            assert np.array_equal(step(asked, y, t, **{name: value})[0], expected) and asked.step_index == index + 1
            y = expected


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_row_at_any_timestep_is_that_of_the_step(x, eta):
    z = np.tanh(x)
    ddim, inverse = ds.DDIMScheduler(clip_sample=False), ds.DDIMInverseScheduler(clip_sample=False)
    for scheduler in (ddim, inverse):
        scheduler.set_timesteps(10)
    for t in (900, 517, 3):
        row = ddim.row_at(t, eta=eta)
        following, clean = ddim.step(np.tanh(x), t, x, eta, variance_noise=z if eta else None, return_dict=False)
        p = row.prediction.sample * x + row.prediction.model_output * np.tanh(x)
        y = sum(a * b for a, b in zip((row.next_sample.sample, row.next_sample.model_output), (x, np.tanh(x))))
        y = y + row.next_sample.noise * z + row.next_sample.prediction * p
        assert np.allclose(clean, p, rtol=1e-5, atol=1e-5) and np.allclose(following, y, rtol=1e-5, atol=1e-5)
        # The step from timestep 3 ends at the clean sample and adds no noise.
        assert bool(row.next_sample.noise) == (eta > 0 and t > 100)
    assert ddim.row(0, 0).next_sample.sample == ddim.row_at(900).next_sample.sample
    row, following = inverse.row_at(517).next_sample, inverse.step(np.tanh(x), 517, x).prev_sample
    assert np.allclose(following, row.sample * x + row.model_output * np.tanh(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ds.TimestepError):
        ddim.row_at(1000)


def test_out_is_written_and_returned(cls, x):
    expected = loop(cls(), x)
    for out in (np.empty_like(x), np.empty((2, 3, 4, 8), np.float32)[..., ::2]):
        scheduler = cls()
        scheduler.set_timesteps(6)
        for t, before, after in zip(scheduler.timesteps, expected, expected[1:]):
            assert step(scheduler, before, t, out=out)[0] is out
            assert np.array_equal(out, after)


def test_a_run_in_place_gives_the_same(cls, x):
    expected = loop(cls(), x)
    scheduler, y = cls(), x.copy()
    scheduler.set_timesteps(6)
    for t, after in zip(scheduler.timesteps, expected[1:]):
        step(scheduler, y, t, out=y)
        assert np.array_equal(y, after)


def test_out_of_another_form_is_refused(cls, x):
    scheduler = cls()
    scheduler.set_timesteps(5)
    for out in (np.empty(5, np.float32), np.empty(x.shape, np.float64), np.broadcast_to(np.float32(0), x.shape)):
        with pytest.raises(ValueError, match="out"):
            step(scheduler, x, scheduler.timesteps[0], out=out)


def test_empty_and_plain_tensors_work(cls):
    for shape in ((0,), (2, 0, 4), (5,), ()):
        sample = loop(cls(), np.ones(shape, np.float32), 5)[-1]
        assert sample.shape == shape and np.isfinite(sample).all()


@pytest.mark.parametrize("kind", ORDERED)
def test_runs_keep_their_order(kind, x):
    scheduler = kind()
    with pytest.raises(ds.TimestepError):
        scheduler.step(x, 999, x)
    scheduler.set_timesteps(4 + kind.description.counts_end)
    with pytest.raises(ds.TimestepError):
        scheduler.step(x, 7, x)
    assert scheduler.step_index is None
    first, second, third, last = scheduler.timesteps[:4]
    if len(set(scheduler.timesteps)) < len(scheduler.timesteps) or len(scheduler.timesteps) > 4:
        return  # Repeated timesteps have an order that depends on the class, and no run begins at a step's second evaluation.
    scheduler.step(x, second, x)
    assert scheduler.step_index == 2
    with pytest.raises(ds.TimestepError):
        scheduler.step(x, last, x)
    scheduler.step(x, third, x)
    scheduler.step(x, float(last), x)
    if len(scheduler.timesteps) == 4:
        with pytest.raises(IndexError):
            scheduler.step(x, last, x)


@pytest.mark.parametrize("kind", ORDERED)
def test_a_failed_step_changes_nothing(kind, x):
    expected = loop(kind(), x, 4)
    scheduler = kind()
    scheduler.set_timesteps(4)
    for t, before, after in zip(scheduler.timesteps, expected, expected[1:]):
        with pytest.raises(ValueError):
            scheduler.step(np.ones((2, 3, 5, 5), np.float32), t, before)
        assert np.array_equal(step(scheduler, before, t)[0], after)


def test_a_begin_index_is_where_a_run_begins(x):
    scheduler = ds.DEISMultistepScheduler()
    with pytest.raises(ValueError):
        scheduler.set_begin_index(0)
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(2)
    assert scheduler.begin_index == 2
    scheduler.step(x, scheduler.timesteps[2], x)
    assert scheduler.step_index == 3
    with pytest.raises(ValueError):
        scheduler.set_begin_index(5)


def test_repeated_timesteps_skip_no_noise_level(x):
    scheduler = ds.DEISMultistepScheduler(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True)
    samples = loop(scheduler, x, 20)
    assert len(set(scheduler.timesteps.tolist())) < 20
    assert scheduler.step_index == 20 and np.isfinite(samples[-1]).all()


@pytest.mark.parametrize("kind", STATELESS)
def test_stateless_schedulers_step_anywhere_in_the_training(kind, x):
    if kind.description.timestep_type is not None:
        pytest.skip("its timesteps are times")
    scheduler = kind()
    with pytest.raises(ds.SchedulerError):
        scheduler.step(x, 500, x)
    scheduler.set_timesteps(10)
    scheduler.step(x, 517, x)
    for timestep in (-1, 1000, 3.5):
        with pytest.raises(ValueError):
            scheduler.step(x, timestep, x)


def test_learned_variances_are_passed_over(x):
    plain, learned = ds.DPMSolverMultistepScheduler(), ds.DPMSolverMultistepScheduler(variance_type="learned_range")
    for scheduler in (plain, learned):
        scheduler.set_timesteps(4)
    y = x
    for t in plain.timesteps:
        e = np.tanh(y)
        both = np.concatenate([e, np.full_like(e, 7)], axis=1)
        expected = plain.step(e, t, y).prev_sample
        assert np.array_equal(learned.step(both, t, y).prev_sample, expected)
        y = expected


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_learned_variances(x, variance_type):
    learned, fixed = ds.DDPMScheduler(variance_type=variance_type), ds.DDPMScheduler()
    for scheduler in (learned, fixed):
        scheduler.set_timesteps(4)
    noise, nothing, variance = np.cos(x), np.zeros_like(x), np.sin(3 * x)
    for index, t in enumerate(learned.timesteps):
        row = learned.row(index, index)
        mean = fixed.step(np.tanh(x), t, x, variance_noise=nothing).prev_sample
        deviation = (
            np.sqrt(variance.clip(0)) if variance_type == "learned" else np.exp(row.noise_offset + row.noise_slope * variance)
        )
        found = learned.step(np.concatenate([np.tanh(x), variance], axis=1), t, x, variance_noise=noise).prev_sample
        assert np.allclose(found, mean + (t > 0) * deviation * noise, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="twice those of the sample: the prediction and its variance"):
        learned.step(np.tanh(x), learned.timesteps[0], x, variance_noise=noise)


# ---- Noise


def test_generators_draw_what_a_stochastic_step_needs(x):
    make = lambda: ds.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")  # noqa: E731
    a = loop(make(), x, generator=np.random.default_rng(5))[-1]
    b = loop(make(), x, generator=np.random.default_rng(5))[-1]
    c = loop(make(), x, generator=np.random.default_rng(6))[-1]
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    noise = np.random.default_rng(5).standard_normal(x.shape, np.float32)
    one, two = make(), make()
    one.set_timesteps(3)
    two.set_timesteps(3)
    t = one.timesteps[0]
    drawn = one.step(x, t, x, generator=np.random.default_rng(5)).prev_sample
    assert np.array_equal(drawn, two.step(x, t, x, variance_noise=noise).prev_sample)


def test_a_list_of_generators_draws_for_each_item(x):
    scheduler = ds.DDIMScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[1]
    result = scheduler.step(x, t, x, eta=1.0, generator=[ds.NoiseSource.torch_cpu(1), ds.NoiseSource.torch_cpu(2)]).prev_sample
    for item, seed in enumerate((1, 2)):
        alone = scheduler.step(x[item : item + 1], t, x[item : item + 1], eta=1.0, generator=ds.NoiseSource.torch_cpu(seed))
        assert np.array_equal(result[item : item + 1], alone.prev_sample)
    with pytest.raises(ValueError):
        scheduler.step(x, t, x, eta=1.0, generator=[ds.NoiseSource.torch_cpu(seed) for seed in range(3)])
    with pytest.raises(ValueError):
        scheduler.step(x, t, x, eta=1.0, generator=ds.NoiseSource.torch_cpu(1), variance_noise=x)


def test_noise_sources_agree_with_numpys_and_can_be_copied():
    import pickle

    source = ds.NoiseSource.numpy(7)
    assert np.array_equal(source.standard_normal((3, 4), np.float64), np.random.RandomState(7).standard_normal((3, 4)))
    others = [source.copy(), copy.deepcopy(source), pickle.loads(pickle.dumps(source))]
    expected = source.standard_normal(5)
    for other in others:
        assert np.array_equal(other.standard_normal(5), expected)


def test_the_inverse_has_no_use_for_noise(x):
    a = loop(ds.DPMSolverMultistepInverseScheduler(algorithm_type="sde-dpmsolver++"), x)[-1]
    b = loop(ds.DPMSolverMultistepInverseScheduler(algorithm_type="dpmsolver++"), x)[-1]
    assert np.array_equal(a, b)


def test_a_timestep_may_be_an_array_of_one_number(x):
    scheduler = ds.DDIMScheduler()
    scheduler.set_timesteps(10)
    expected = scheduler.step(x, 600, x).prev_sample
    assert np.array_equal(scheduler.step(x, np.array([600]), x).prev_sample, expected)


# ---- The parts of a step


@pytest.mark.parametrize("kind", PARTED)
def test_the_parts_make_the_step(kind, x):
    solver = "deis" if kind is ds.DEISMultistepScheduler else "dpm_solver"
    names = (f"{solver}_first_order_update", f"multistep_{solver}_second_order_update", f"multistep_{solver}_third_order_update")
    highest = HIGHEST_ORDER.get(kind.__name__, 3)
    scheduler = kind(solver_order=highest, lower_order_final=False, prediction_type="v_prediction")
    scheduler.set_timesteps(16)
    y, outputs = x.astype(np.float64), []
    for index, t in enumerate(scheduler.timesteps[:6]):
        e = np.tanh(y)
        outputs.append(scheduler.convert_model_output(e, sample=y))
        order, z = min(index + 1, highest), noise(y) if scheduler.plan_properties().is_stochastic else None
        parts = getattr(scheduler, names[order - 1])(outputs[-1] if order == 1 else outputs, sample=y, noise=z)
        y = scheduler.step(e, t, y, variance_noise=z).prev_sample
        assert np.allclose(parts, y, rtol=1e-11, atol=1e-11), index


# ---- Added noise, scaled inputs and guidance


def test_adding_noise(x, rng):
    z = rng.standard_normal(x.shape).astype(np.float32)
    scheduler = ds.DEISMultistepScheduler()
    alpha = scheduler.alphas_cumprod.astype(float)
    expected = lambda t: np.sqrt(alpha[t]) * x + np.sqrt(1 - alpha[t]) * z  # noqa: E731
    assert np.allclose(scheduler.add_noise(x, z, [300]), expected(300), atol=1e-6)
    scheduler.set_timesteps(10)
    t = int(scheduler.timesteps[4])
    assert np.allclose(scheduler.add_noise(x, z, t), expected(t), atol=1e-6)
    mixed = scheduler.add_noise(x, z, scheduler.timesteps[[4, 7]])
    assert np.allclose(mixed[1], expected(int(scheduler.timesteps[7]))[1], atol=1e-6)
    with pytest.raises(ValueError):
        scheduler.add_noise(x, z, [t + 1])
    ddim = ds.DDIMScheduler()
    assert np.allclose(ddim.add_noise(x, z, [300, 300]), expected(300), atol=1e-6)
    velocity = np.sqrt(alpha[300]) * z - np.sqrt(1 - alpha[300]) * x
    assert np.allclose(ddim.get_velocity(x, z, [300]), velocity, atol=1e-6)
    out = np.empty_like(x)
    assert ddim.add_noise(x, z, [300], out=out) is out


def test_adding_noise_in_float16_keeps_the_noise():
    scheduler = ds.DEISMultistepScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(10)
    x, z = np.zeros((1, 3, 2, 2), np.float16), np.ones((1, 3, 2, 2), np.float16)
    noisy = scheduler.add_noise(x, z, scheduler.timesteps[:1])
    assert noisy.dtype == np.float16 and np.all(noisy == 1)


def test_inputs_are_scaled_as_the_plan_says(cls, x):
    scheduler = cls()
    assert scheduler.scale_model_input(x, 500) is x
    scheduler.set_timesteps(5)
    scale = scheduler._plan.input_scales[0]
    found = scheduler.scale_model_input(x, scheduler.timesteps[0])
    assert found is x if scale == 1 else np.allclose(found, scale * x, rtol=1e-6)


def test_noise_is_added_alike_by_both_names(cls, x):
    scheduler = cls()
    scheduler.set_timesteps(5)
    t, z = scheduler.timesteps[2], noise(x)
    assert np.array_equal(scheduler.add_noise(x, z, t), scheduler.scale_noise(x, t, z))


def test_rescaled_guidance_keeps_the_contrast(x, rng):
    guided = (5 * rng.standard_normal(x.shape)).astype(np.float32)
    result = ds.rescale_noise_cfg(guided, x, 1.0)
    assert np.allclose(result.std(axis=(1, 2, 3)), x.std(axis=(1, 2, 3)), rtol=1e-5)
    assert np.array_equal(ds.rescale_noise_cfg(guided, x, 0.0), guided)


# ---- Memory and threads


def test_recycled_memory_is_never_somebodys(rng):
    size = (1, 4, 512, 512)
    assert np.prod(size) * 4 >= _memory.SMALLEST
    scheduler = ds.DDIMScheduler(clip_sample=False)
    x = rng.standard_normal(size).astype(np.float32)
    kept, copies, views = [], [], []
    for sample in loop_outputs(scheduler, x, 12):
        kept.append(sample)
        copies.append(sample.copy())
        views.append(sample[0, 1:, ::7])
    for held, copied, view in zip(kept, copies, views):
        assert np.array_equal(held, copied)
        assert np.array_equal(view, copied[0, 1:, ::7])
    # A view alone also holds the memory.
    del kept, held, sample
    gc.collect()
    for _ in loop_outputs(scheduler, x, 6):
        pass
    for copied, view in zip(copies, views):
        assert np.array_equal(view, copied[0, 1:, ::7])


def loop_outputs(scheduler, x, steps):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(x * np.float32(0.5), t, x, return_dict=False)[0]
        yield x


def test_memory_is_recycled_once_nobody_holds_it():
    addresses = set()
    scheduler = ds.DEISMultistepScheduler()
    x = np.ones((1, 4, 512, 512), np.float32)
    scheduler.set_timesteps(30)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x, return_dict=False)[0]
        addresses.add(x.ctypes.data)
    assert len(addresses) <= 3


def test_a_forked_process_leaves_large_arrays_of_its_parent_alone(rng):
    x = rng.standard_normal((1, 4, 256, 256)).astype(np.float32)
    scheduler = ds.DEISMultistepScheduler()
    scheduler.max_threads = 1
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps[:4]:
        x = step(scheduler, x, t)[0]
    expected = copy.deepcopy(scheduler.model_outputs)
    child = os.fork()
    if child == 0:
        try:
            for t in scheduler.timesteps[4:]:
                x = step(scheduler, x, t)[0]
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert all(map(np.array_equal, scheduler.model_outputs, expected))


def test_schedulers_run_on_threads_of_their_own(cls, x):
    expected = loop(cls(), x, 30)[-1]
    results = [None] * 4

    def work(slot):
        results[slot] = loop(cls(), x, 30)[-1]

    run_in_threads(work, 4)
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.parametrize("kind", STATELESS)
def test_threads_may_share_a_stateless_scheduler(kind, x):
    scheduler = kind()
    scheduler.set_timesteps(20)
    inputs = [(x * np.float32(1 + i / 8), t.item()) for i, t in enumerate(scheduler.timesteps[:8])]
    expected = [step(scheduler, sample, t) for sample, t in inputs]
    faults = []

    def work(slot):
        sample, t = inputs[slot]
        for _ in range(300):
            found = step(scheduler, sample, t)
            if not all(np.array_equal(a, b) for a, b in zip(expected[slot], found)):
                faults.append(slot)

    run_in_threads(work, len(inputs))
    assert not faults


def test_results_do_not_depend_on_threads(cls, rng):
    x = rng.standard_normal((2, 4, 128, 128)).astype(np.float32)
    scheduler = cls()
    scheduler.max_threads = 1
    assert np.array_equal(loop(scheduler, x, 5)[-1], loop(cls(), x, 5)[-1])


# ---- The caller's tables


def test_tables_may_be_replaced_but_not_written_to(x):
    scheduler, other = ds.EulerDiscreteScheduler(), ds.EulerDiscreteScheduler()
    for each in (scheduler, other):
        each.set_timesteps(4)
    with pytest.raises(ValueError, match="read-only"):
        scheduler.sigmas[1] = 3
    assert np.array_equal(loop_on(scheduler, x), loop_on(other, x))
    scheduler.set_timesteps(4)
    scheduler.sigmas = scheduler.sigmas * np.linspace(1, 0.9, 5, dtype=np.float32)
    assert np.allclose(scheduler.add_noise(x, x, scheduler.timesteps[2]), x + scheduler.sigmas[2] * x, rtol=1e-6)
    assert not np.array_equal(loop_on(scheduler, x), loop_on(other, x))
    session, y = ds.Session(scheduler), x
    for _ in scheduler.timesteps:
        y = session.step(np.tanh(y), y)
    assert np.array_equal(y, loop_on(scheduler, x))


def loop_on(scheduler, x):
    """The last sample of a run on the current tables."""
    scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        x = scheduler.step(np.tanh(x), t, x).prev_sample
    return x


def test_a_request_does_not_change_with_the_callers_array(x):
    levels = np.array([10.0, 4.0, 1.0, 0.0])
    scheduler = ds.EulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=levels)
    expected = scheduler.step(x, scheduler.timesteps[0], x, s_churn=0.5, variance_noise=x).prev_sample
    scheduler.set_timesteps(sigmas=levels.copy())
    levels[0] = 11
    assert np.array_equal(scheduler.step(x, scheduler.timesteps[0], x, s_churn=0.5, variance_noise=x).prev_sample, expected)


def test_several_outputs_are_summed_with_the_plans_weights(x):
    scheduler = ds.PiflowScheduler(n_grid=3)
    with pytest.raises(ds.TimestepError):
        scheduler.output_weights()
    scheduler.set_timesteps(4)
    weights, e = scheduler.output_weights(), [np.tanh(x + k) for k in range(3)]
    assert np.shape(weights) == (4, 3) and np.allclose(np.sum(weights, axis=1), 1, rtol=1e-15)
    expected = scheduler.step(sum(w * each for w, each in zip(weights[0], e)), scheduler.timesteps[0], x).prev_sample
    scheduler.set_begin_index(0)
    weights[0][0] = 7.0  # The plan keeps its own.
    assert np.allclose(scheduler.step(np.concatenate(e, -1), scheduler.timesteps[0], x).prev_sample, expected, rtol=1e-6, atol=1e-6)
    scheduler = ds.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    assert scheduler.output_weights() == []
