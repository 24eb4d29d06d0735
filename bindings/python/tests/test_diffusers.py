# SPDX-License-Identifier: Apache-2.0

"""The drop-ins against diffusers' own classes. Some tests disable the originals' methods while a drop-in runs."""

import copy
import ctypes
import inspect
import pickle

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

import diffusion_scheduling as ds  # noqa: E402
import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from conformance.originals import disabled  # noqa: E402
from conftest import run_in_threads  # noqa: E402
from diffusion_scheduling import _core, _drop_ins, _library, _memory, _tensors  # noqa: E402
from diffusion_scheduling._description import DESCRIPTIONS  # noqa: E402
from people import HIGHEST_ORDER, begin_at_first_stages, replace_trees, take_step  # noqa: E402

# test_lists_with_end.py tests the classes whose timesteps include the last step's target, test_calls.py those with other methods.
ALL = [name for name in drop_ins.__all__ if not (DESCRIPTIONS[name].lists_end or DESCRIPTIONS[name].calls)]
for each in ALL:
    getattr(diffusers, each)  # Imports its module.
replace_trees()
begin_at_first_stages()
STATELESS = [name for name in ALL if getattr(drop_ins, name).description.is_stateless]
ORDERED = [name for name in ALL if name not in STATELESS]
PARTED = [name for name in ALL if hasattr(getattr(ds, name), "convert_model_output")]
SHAPE = (2, 3, 4, 4)
ANGLE = {"IPNDMScheduler": 5e-6}
"""The bound of timesteps computed with torch's sine, whose last bit may be off. An error of four units of β in the last place,
2⁻²³, is ς times larger in the angle, and runs of at most 7 steps have ς up to 9."""


def timestep_distance(original):
    """The bound of timesteps. Timesteps looked up at levels between those of the steps may be off by four units in the last place
    of a float32 logarithm."""
    is_between = hasattr(original, "sigmas_interpol") or hasattr(original, "mid_point_sigma")
    return 1e-3 if is_between else ANGLE.get(type(original).__name__, 0)


def make(name, **config):
    """The original and the drop-in, with the values of `config` that the class accepts."""
    original = getattr(diffusers, name)
    words = {each.key: each.words for each in getattr(drop_ins, name).description.parameters}
    config = {"noise_sampler_seed": 3, **config}
    known = {key for key in inspect.signature(original).parameters if words.get(key) is None or config.get(key) in words[key]}
    original = original(**{key: value for key, value in config.items() if key in known})
    return original, getattr(drop_ins, name).from_config(original.config)


def sample(dtype=torch.float32, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def scaled(scheduler, x, t):
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def step(scheduler, x, t, given=None, model=torch.tanh, **arguments):
    """A step, returned as a tuple. `given` has the values of `x` in another memory layout."""
    if "generator" in inspect.signature(scheduler.step).parameters and "variance_noise" not in arguments:
        arguments.setdefault("generator", torch.Generator().manual_seed(7))
    e = model(scaled(scheduler, x, t))
    return take_step(scheduler, e, t, x if given is None else given, return_dict=False, **arguments)


def run(scheduler, x, steps=6, model=torch.tanh, **arguments):
    scheduler.set_timesteps(steps)
    samples = [x]
    for t in scheduler.timesteps:
        samples.append(step(scheduler, samples[-1], t, model=model, **arguments)[0])
    return samples


@pytest.mark.parametrize("name", ALL)
def test_signatures_are_the_originals(name):
    original, drop_in = getattr(diffusers, name), getattr(drop_ins, name)
    for method in ("__init__", "step", "set_timesteps"):
        ours, theirs = (inspect.signature(getattr(each, method)) for each in (drop_in, original))
        assert ours == theirs, method
    assert pickle.loads(pickle.dumps(drop_in)) is drop_in


def test_samplers_of_a_pipeline_have_names(caplog):
    """A sampler's name takes a pipeline's scheduler, or its configuration, as the model."""
    original = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    for model in (original, original.config, drop_ins.EulerDiscreteScheduler.from_config(original.config)):
        if model is original.config:
            model = {**model, "_class_name": "EulerDiscreteScheduler"}
        scheduler = drop_ins.make_scheduler("DPM++ 2M Karras", model)
        assert type(scheduler) is drop_ins.DPMSolverMultistepScheduler and scheduler.config.beta_end == 0.012
        theirs = diffusers.DPMSolverMultistepScheduler.from_config(original.config, use_karras_sigmas=True)
        theirs.set_timesteps(5)
        scheduler.set_timesteps(5)
        assert (
            torch.allclose(scheduler.sigmas, theirs.sigmas, rtol=1e-6) and scheduler.timesteps.tolist() == theirs.timesteps.tolist()
        )
    # diffusers has no key for these levels.
    ancestral = drop_ins.make_scheduler("euler_ancestral sgm_uniform", original)
    ancestral.set_timesteps(4)
    table = original.sigmas.flip(0)[1:]
    expected = [float(torch.exp(torch.lerp(table[t].log(), table[t + 1].log(), part))) for t, part in ((249, 0.75), (499, 0.5))]
    assert ancestral.sigmas[2:4].tolist() == pytest.approx(expected[::-1], rel=1e-5)
    # diffusers reads the configuration too, and doesn't warn of our key.
    assert type(original.from_config(ancestral.config)) is type(original)
    assert ancestral.config.diffusion_scheduling_sigma_schedule == "sgm_uniform"
    assert not [
        each for each in caplog.records if "diffusion_scheduling" in each.getMessage() and "AncestralDiscrete" in each.getMessage()
    ]


@pytest.mark.parametrize("name", ALL)
def test_tuples_and_outputs_are_the_originals(name):
    found = []
    for scheduler in make(name):
        scheduler.set_timesteps(4)
        x, t = sample(), scheduler.timesteps[0]
        output = take_step(scheduler, scaled(scheduler, x, t), t, x)
        # One class returns tuples by default, and one also returns the values that its next steps need.
        kinds = len(output) if isinstance(output, tuple) else [key for key in output if key not in ("last_sample", "this_order")]
        found.append((type(output), kinds))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ALL)
def test_runs_are_the_originals(name):
    original, drop_in = make(name, prediction_type="v_prediction")
    expected = run(original, sample())
    with disabled():
        found = run(drop_in, sample())
    assert isinstance(drop_in, getattr(diffusers, name))
    # EDM's timesteps are functions of noise levels. torch doesn't round these functions correctly.
    tolerance = 2.0**-22 if hasattr(original, "precondition_noise") else 0
    assert torch.allclose(original.timesteps, drop_in.timesteps, rtol=tolerance, atol=timestep_distance(original))
    assert original.timesteps.dtype == drop_in.timesteps.dtype
    assert drop_in.num_inference_steps == original.num_inference_steps
    # The original's float32 scalars cancel: its loops are off by up to some 2e-5.
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(expected, found))
    assert drop_in.config == original.config


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "model, x",
    [("half", "half"), ("half", "float"), ("float", "half"), ("bfloat16", "bfloat16"), ("double", "double"), ("float", "double")],
)
def test_types_are_the_originals(name, model, x):
    if drop_ins.__dict__[name].description.report in ("denoised", "pred_noised_sample") and model != x:
        pytest.skip("the original draws noise of the promoted type")
    original, drop_in = make(name)
    samples = getattr(sample(), x)()
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(5)
    # A run must begin with its plan if timesteps repeat, if steps have two evaluations, or if the first steps have special weights.
    begins = getattr(original, "order", 1) > 1 or hasattr(original, "get_lms_coefficient")
    t = original.timesteps[int(not begins and len(set(original.timesteps.tolist())) == len(original.timesteps))]
    expected, found = (step(s, samples, t, model=lambda x: getattr(torch.tanh(x), model)())[0] for s in (original, drop_in))
    assert found.dtype == expected.dtype
    assert torch.allclose(found.double(), expected.double(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ALL)
def test_layouts_are_the_originals(name):
    original, drop_in = make(name)
    expected = run(original, sample().to(memory_format=torch.channels_last))
    found = run(drop_in, sample().to(memory_format=torch.channels_last))
    assert torch.allclose(found[-1], expected[-1], rtol=1e-5, atol=1e-5)
    assert found[-1].is_contiguous(memory_format=torch.channels_last)
    permuted = sample(shape=(3, 4, 4, 2)).permute(3, 0, 1, 2)
    plain = run(drop_in, permuted.contiguous())
    assert torch.equal(run(drop_in, permuted)[-1], plain[-1])


def test_the_layout_may_change_within_a_run():
    _, drop_in = make("DEISMultistepScheduler", solver_order=3)
    expected = run(drop_in, sample())
    drop_in.set_timesteps(6)
    for index, (t, before, after) in enumerate(zip(drop_in.timesteps, expected, expected[1:])):
        before = before.to(memory_format=torch.channels_last if index % 2 == 0 else torch.contiguous_format)
        assert torch.equal(step(drop_in, before, t)[0], after)


def test_learned_variances_are_passed_over_in_any_layout():
    _, drop_in = make("DPMSolverMultistepScheduler", variance_type="learned_range")
    _, plain = make("DPMSolverMultistepScheduler")
    for form in (torch.contiguous_format, torch.channels_last):
        x = sample().to(memory_format=form)
        for scheduler in (drop_in, plain):
            scheduler.set_timesteps(3)
        both = torch.cat([x, x * 0 + 7], dim=1).to(memory_format=form)
        t = plain.timesteps[0]
        assert torch.equal(drop_in.step(both, t, x).prev_sample, plain.step(x, t, x).prev_sample)


TOKENS = "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"stochastic_sampling": True}, {"invert_sigmas": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_at_timesteps_of_their_own(config, dtype):
    original, drop_in = make(TOKENS, **config)
    x, generators = sample(shape=(2, 5, 3)), [torch.Generator().manual_seed(2) for _ in range(3)]
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(4)
    own = torch.tensor([[1000.0, 0.0, 600.0, 666.5, 3.0], [600.0, 1000.0, 1000.0, 0.5, 334.0]])
    by_torch = copy.deepcopy(drop_in)
    for t, told in zip(original.timesteps, (own, own * 0.5, own[:, :1], original.timesteps[3:].expand(2)[:, None])):
        arguments = {"per_token_timesteps": told, "return_dict": False}
        expected, found = (
            scheduler.step(0.3 * x.to(dtype), t, x.to(dtype), generator=generator, **arguments)[0]
            for scheduler, generator in zip((original, drop_in), generators)
        )
        assert expected.dtype == found.dtype == torch.float32 and drop_in.step_index == original.step_index
        assert torch.allclose(expected, found, rtol=1e-5, atol=1e-6)
        with_gradient = x.to(dtype).requires_grad_()
        again = by_torch.step(0.3 * x.to(dtype), t, with_gradient, generator=generators[2], **arguments)[0]
        assert torch.allclose(again, found, rtol=1e-5, atol=1e-6)
        again.sum().backward()
        assert with_gradient.grad.abs().min() > 0 or config == {"stochastic_sampling": True}
    with pytest.raises(IndexError):
        drop_in.step(x, 1.0, x, per_token_timesteps=own)


PARALLEL = [name for name in ALL if getattr(drop_ins, name).description.batch_step]


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("config", [{"clip_sample": False, "set_alpha_to_one": False}, {"thresholding": True}])
def test_batch_items_at_timesteps_of_their_own(name, config):
    original, drop_in = make(name, **config)
    x, t = sample(shape=(5, 3, 4, 6)), torch.tensor([1, 999, 500, 500, 3])
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(30)
    expected, found = (each.batch_step_no_noise(0.3 * x, t, x) for each in (original, drop_in))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    by_torch = drop_in.batch_step_no_noise(0.3 * x, t, x.clone().requires_grad_())
    assert torch.allclose(by_torch, found, rtol=1e-5, atol=1e-6)
    for item, timestep in enumerate(t):
        alone = drop_in.batch_step_no_noise(0.3 * x[item : item + 1], timestep, x[item : item + 1])
        assert torch.equal(alone, found[item : item + 1])
    together = drop_in.batch_step_no_noise(0.3 * x, t[2:3], x)
    assert torch.equal(together[2:4], found[2:4])
    # The original's coefficients are float32 tensors.
    narrow = [each.batch_step_no_noise(0.3 * x.half(), t, x.half()) for each in (original, drop_in)]
    assert [each.dtype for each in narrow] == [torch.float32, torch.float32]
    with pytest.raises(ValueError, match="the number of timesteps is 2"):
        drop_in.batch_step_no_noise(x, t[:2], x)
    with pytest.raises(ValueError, match="timestep is -1"):
        drop_in.batch_step_no_noise(x, -t, x)


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_steps_take_the_present_signal_variances_and_number_of_steps(name):
    original, drop_in = make(name)
    x, t, finals = sample(), torch.tensor([700, 10]), []
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(10)
        scheduler.batch_step_no_noise(x, t, x)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod / (3 - 2 * scheduler.alphas_cumprod)
        finals.append(scheduler.batch_step_no_noise(x, t, x))
        scheduler.num_inference_steps = 25
        finals[-1] = torch.cat([finals[-1], scheduler.batch_step_no_noise(x, t, x)])
    assert torch.allclose(*finals, rtol=1e-4, atol=1e-5)


LEARNED = [("DDPMScheduler", "learned"), ("DDPMScheduler", "learned_range"), ("UnCLIPScheduler", "learned_range")]


@pytest.mark.parametrize("name, variance_type", LEARNED)
def test_learned_variances(name, variance_type):
    original, drop_in = make(name, variance_type=variance_type)
    x = sample()
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(6)
    for index, t in enumerate(original.timesteps):
        variance = 3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(index))
        if variance_type == "learned_range":
            variance = variance - 1.5
        output = torch.cat([0.3 * x, variance], dim=1)
        options = {}
        if name == "UnCLIPScheduler" and index < 5:
            options["prev_timestep"] = int(original.timesteps[index + 1])

        def step(scheduler, output=output, t=t, x=x, index=index, options=options):
            return scheduler.step(output, t, x, generator=torch.Generator().manual_seed(index), **options).prev_sample

        expected, found = step(original), step(drop_in)
        # The original's coefficients are float32, and at the first timestep the signal is 5e-5 of the noise.
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3), f"step {index}"
        # The step by torch's operations, then the step with a half-precision model output.
        by_torch = step(drop_in, x=x.clone().requires_grad_())
        assert torch.allclose(by_torch, found, rtol=1e-5, atol=1e-6), f"step {index}"
        narrow = step(drop_in, output=output.bfloat16(), x=x)
        assert torch.allclose(narrow, found, rtol=0.05, atol=0.05), f"step {index}"
        x = found


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler", "UnCLIPScheduler"])
def test_a_variance_type_is_assigned_to_both_or_refused(name):
    """The originals read the configuration's value for the variance, and the attribute's to apply it."""
    original, drop_in = make(name)
    x, z, other = sample(), torch.randn(SHAPE), "learned_range" if name == "UnCLIPScheduler" else "fixed_large"
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(10)
    t = drop_in.timesteps[3]
    before = drop_in.step(torch.tanh(x), t, x, generator=torch.Generator().manual_seed(2)).prev_sample
    drop_in.variance_type = other
    for _ in range(2):
        with pytest.raises(_library.UnsupportedError, match=f"variance_type is '{other}', but must be .* like that of config"):
            drop_in.step(torch.tanh(x), t, x)
    drop_in.variance_type = original.variance_type
    assert torch.equal(drop_in.step(torch.tanh(x), t, x, generator=torch.Generator().manual_seed(2)).prev_sample, before)
    e = torch.cat([torch.tanh(x), torch.tanh(z)], 1) if other == "learned_range" else torch.tanh(x)
    found = []
    for scheduler in (original, drop_in):
        scheduler.variance_type = scheduler.config.variance_type = other
        found.append(scheduler.step(e, t, x, generator=torch.Generator().manual_seed(2)).prev_sample)
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, variance_type", LEARNED)
def test_a_missing_variance_is_told(name, variance_type):
    original, drop_in = make(name, variance_type=variance_type)
    x = sample()
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(6)
    with pytest.raises(TypeError):
        original.step(x, original.timesteps[0], x)
    for each in (x, x.clone().requires_grad_()):
        with pytest.raises(ValueError, match="twice those of the sample: the prediction and its variance"):
            drop_in.step(each, drop_in.timesteps[0], x)


def test_a_failed_step_changes_nothing():
    _, drop_in = make("DEISMultistepScheduler")
    drop_in.set_timesteps(5)
    with pytest.raises(RuntimeError):
        drop_in.step(sample(shape=(5, 7)), drop_in.timesteps[3], sample())
    assert drop_in.step_index is None


@pytest.mark.parametrize("version", ["plain", "quick"])
def test_no_copy_is_made_of_tensors_on_the_host(version, monkeypatch):
    _, drop_in = make("DEISMultistepScheduler")
    drop_in.set_timesteps(6)
    x, e = sample(), torch.tanh(sample())
    expected, seen = [], []
    views, take = ctypes.POINTER(_library.Tensor), _library.library["ds_row_step"]

    def recorded(row, e, x, *others):
        seen.append(tuple(ctypes.cast(each, views)[0].data for each in (e, x)))
        return take(row, e, x, *others)

    arguments = [*[ctypes.c_void_p] * 5, ctypes.c_size_t, *[ctypes.c_void_p] * 3, ctypes.c_uint]
    function = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(recorded)
    take.argtypes = arguments
    monkeypatch.setattr(_core.library, "ds_row_step", function)
    monkeypatch.setattr(_core, "_ROW_STEP", ctypes.cast(function, ctypes.c_void_p).value)
    if version == "plain":
        monkeypatch.setattr(_core, "QuickStep", None)
    for t in drop_in.timesteps[:4]:
        expected.append((e.data_ptr(), x.data_ptr()))
        x = drop_in.step(e, t, x).prev_sample
    assert seen == expected


@pytest.mark.parametrize(
    "name, config, arguments",
    [
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}, {}),
        ("DDIMScheduler", {}, {"eta": 0.7}),
        ("EulerAncestralDiscreteScheduler", {}, {}),
        ("EulerAncestralDiscreteScheduler", {}, {"steps": 1}),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_generators_draw_the_same_and_are_left_in_the_same_state(name, config, arguments, as_list):
    ends, rests = [], []
    for scheduler in make(name, **config):
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        ends.append(run(scheduler, sample(), generator=generators if as_list else generators[0], **arguments)[-1])
        rests.append(torch.cat([torch.rand(2, generator=generator) for generator in generators]))
    assert torch.allclose(*ends, rtol=1e-4, atol=1e-5)
    assert torch.equal(*rests)


@pytest.mark.parametrize("name", PARTED)
def test_timesteps_are_looked_up_as_leniently(name):
    config = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True} if "Inverse" not in name else {}
    original, drop_in = make(name, **config)
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(20)
    for timestep in (original.timesteps[0], original.timesteps[7], 1001, int(original.timesteps[3])):
        if hasattr(original, "index_for_timestep"):
            assert original.index_for_timestep(timestep) == drop_in.index_for_timestep(timestep)
        for scheduler in (original, drop_in):
            scheduler._step_index = None
            scheduler.step(sample(), timestep, sample())
        assert original.step_index == drop_in.step_index


@pytest.mark.parametrize("name", ORDERED)
def test_stepping_past_the_end_is_an_index_error(name):
    _, scheduler = make(name)
    x = run(scheduler, sample(), 5)[-1]
    with pytest.raises(IndexError):
        step(scheduler, x, scheduler.timesteps[-1])


def test_begin_indices_and_noise_are_the_originals():
    x, z = sample(), torch.tanh(sample()) * 2
    for name in ("DEISMultistepScheduler", "DPMSolverMultistepScheduler"):
        original, drop_in = make(name)
        results = []
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(10)
            found = [scheduler.add_noise(x, z, scheduler.timesteps[4:6])]
            scheduler.set_begin_index(3)
            found.append(scheduler.add_noise(x, z, scheduler.timesteps[3:4]))
            y = scheduler.step(found[1], scheduler.timesteps[3], x).prev_sample
            found += [y, scheduler.add_noise(x, z, scheduler.timesteps[5:6])]
            assert scheduler.step_index == 4 and scheduler.begin_index == 3
            results.append(found)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(*results))
    original, drop_in = make("DDIMScheduler")
    t = torch.tensor([10, 700])
    with disabled():
        found = drop_in.add_noise(x, z, t), drop_in.get_velocity(x, z, t)
    assert torch.allclose(found[0], original.add_noise(x, z, t), atol=1e-6)
    assert torch.allclose(found[1], original.get_velocity(x, z, t), atol=1e-6)


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"shift": 3.0, "use_dynamic_shifting": True}])
def test_noise_of_flow_matching_is_the_originals_before_timesteps_are_set(config):
    x, z = sample(), torch.tanh(sample()) * 2
    original, drop_in = make("FlowMatchEulerDiscreteScheduler", **config)
    assert drop_in.num_inference_steps is None
    for indices in ([0, 999], [314, 315], [500]):
        t = original.timesteps[indices]
        with disabled():
            found = drop_in.scale_noise(x, t, z)
        assert torch.allclose(found, original.scale_noise(x, t, z), atol=1e-6)


def test_the_parts_of_a_step_are_the_originals():
    original, drop_in = make("DEISMultistepScheduler", solver_order=3, lower_order_final=False)
    names = ["deis_first_order_update", "multistep_deis_second_order_update", "multistep_deis_third_order_update"]
    x = sample(torch.float64)
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(8)
        scheduler.set_begin_index(0)
    original.sigmas = drop_in.sigmas.double()
    outputs = [[], []]
    for index, t in enumerate(original.timesteps[:5]):
        e, order = torch.tanh(x), min(index + 1, 3)
        if index == 0:
            original._init_step_index(t)
            drop_in._init_step_index(t)
        found = []
        for scheduler, list_ in zip((original, drop_in), outputs):
            list_.append(scheduler.convert_model_output(e, sample=x))
            found.append(getattr(scheduler, names[order - 1])(list_[-1] if order == 1 else list_, sample=x))
        assert torch.allclose(outputs[0][-1], outputs[1][-1], atol=1e-9) and torch.allclose(*found, atol=1e-6)
        following = original.step(e, t, x).prev_sample
        assert torch.allclose(following, drop_in.step(e, t, x).prev_sample, atol=1e-6)
        x = following


def test_a_shift_stays_for_later_runs():
    config = {"use_flow_sigmas": True, "use_dynamic_shifting": True, "prediction_type": "flow_prediction"}
    original, drop_in = make("DEISMultistepScheduler", **config)
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(5, mu=0.8)
        scheduler.set_timesteps(7)
    assert torch.allclose(original.sigmas, drop_in.sigmas, rtol=2e-7, atol=0)


@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"shift_terminal": 0.02}, {"use_dynamic_shifting": True}])
@pytest.mark.parametrize("asked", [{"num_inference_steps": 7}, {"sigmas": [1.0, 0.6, 0.3]}])
def test_a_shift_that_is_set_is_the_originals(config, asked):
    original, drop_in = make("FlowMatchEulerDiscreteScheduler", shift=3.0, **config)
    for shift in (5.0, 0.5, 3.0):
        for scheduler in (original, drop_in):
            scheduler.set_shift(shift)
            scheduler.set_timesteps(**asked, mu=1.1 if "use_dynamic_shifting" in config else None)
        assert drop_in.shift == shift and drop_in.config.shift == 3.0
        for found in (drop_in, copy.deepcopy(drop_in)):
            assert torch.allclose(original.sigmas, found.sigmas, atol=1e-6)
            assert torch.allclose(original.timesteps, found.timesteps, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("outputs", [2, 10])
def test_a_model_may_give_several_outputs(dtype, outputs):
    x = torch.tanh(sample()).to(dtype)
    generator = torch.Generator().manual_seed(7)
    for count in (1, 4):
        original, drop_in = make("PiflowScheduler", n_grid=outputs)
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(count)
        assert torch.equal(original.timesteps, drop_in.timesteps) and torch.equal(original.sigmas, drop_in.sigmas)
        second = copy.deepcopy(drop_in)  # The pipeline steps its sound by a copy.
        expected = found = sound = x
        for t in original.timesteps:
            e = torch.randn(*x.shape[:-1], outputs * x.shape[-1], generator=generator, dtype=torch.float64).to(dtype)
            expected = original.step(e, t, expected, return_dict=False)[0]
            found = drop_in.step(e, t, found).prev_sample
            sound = second.step(e, t, sound, return_dict=False)[0]
            assert found.dtype == expected.dtype == dtype
            assert torch.allclose(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=max(2e-4, 4 * torch.finfo(dtype).eps))
            assert torch.equal(found, sound) and original.step_index == drop_in.step_index
            expected = found  # Both go on from the same sample.


def test_several_outputs_have_gradients_and_may_be_summed_before():
    x, scheduler = torch.tanh(sample()), make("PiflowScheduler", n_grid=3)[1]
    scheduler.set_timesteps(4)
    e = torch.randn(*x.shape[:-1], 3 * x.shape[-1], requires_grad=True)
    found = scheduler.step(e, scheduler.timesteps[0], x).prev_sample
    found.sum().backward()
    weights = scheduler._plan.output_weights[0]
    total = sum(w * each for w, each in zip(weights, e.detach().double().split(x.shape[-1], -1)))
    again = copy.deepcopy(scheduler)
    again.set_timesteps(4)
    assert torch.allclose(again.step(total.float(), again.timesteps[0], x).prev_sample, found, rtol=1e-6, atol=1e-6)
    for weight, gradient in zip(weights, e.grad.split(x.shape[-1], -1)):
        expected = (scheduler.sigmas[1] - scheduler.sigmas[0]).item() * weight
        assert torch.allclose(gradient, torch.full_like(gradient, expected), rtol=1e-5, atol=1e-7)


def test_lists_of_levels_are_refused_where_the_original_refuses_them():
    for scheduler in make("PiflowScheduler"):
        for given in ({"sigmas": [1.0, 0.5]}, {"timesteps": [1000.0]}, {"num_inference_steps": 4, "mu": 1.0}, {}):
            with pytest.raises(ValueError):
                scheduler.set_timesteps(**given)
        scheduler.set_timesteps(2)
        with pytest.raises(ValueError):
            scheduler.step(sample(), 517.0, sample())
    wide = np.concatenate([sample().numpy()] * 10, -1)
    with pytest.raises(TypeError, match="model_output is a ndarray"):
        scheduler.step(wide, scheduler.timesteps[0], sample())


def test_a_step_may_lead_to_any_timestep():
    x, e = sample(), torch.tanh(sample())
    for shift in (1.0, 5.0):
        original, drop_in = make("FlowMapEulerDiscreteScheduler", shift=shift)
        assert torch.equal(original.timesteps, drop_in.timesteps) and original.sigmas.dtype == drop_in.sigmas.dtype
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(5)
        assert torch.equal(original.timesteps, drop_in.timesteps) and torch.equal(original.sigmas, drop_in.sigmas)
        first, second, *_, last = original.timesteps
        nothing, half = torch.zeros(()), torch.full((2,), 500.0, dtype=torch.float64)
        pairs = [(first, last), (first, 0.0), (second.float(), nothing), (last, second), (half, 125.0), (first.expand(2), half)]
        for t, r in [*pairs, (first, first), (second, None), (last, None)]:
            expected, found = (s.step(e, t, x, r_timestep=r, return_dict=False)[0] for s in (original, drop_in))
            assert torch.allclose(expected, found, rtol=1e-6, atol=1e-6), (t, r)
            assert original.step_index == drop_in.step_index
        for index, t in ((2, first), (None, second), (None, 0.5)):
            for scheduler in (original, drop_in):
                scheduler.set_timesteps(5)
                if index is not None:
                    scheduler.set_begin_index(index)
                assert scheduler.step_index is None and scheduler.begin_index == index
                scheduler.step(e, t, x, r_timestep=0.0)
            assert original.step_index == drop_in.step_index
        for scheduler in (original, drop_in):
            with pytest.raises(ValueError):
                scheduler.step(e, 517.0, x)
            for given in ({}, {"num_inference_steps": 2, "sigmas": [0.5]}, {"sigmas": [0.5], "timesteps": [700.0, 5.0]}):
                with pytest.raises(ValueError):
                    scheduler.set_timesteps(**given)
            scheduler.set_timesteps(2, sigmas=[0.9, 0.5])
        assert torch.equal(original.sigmas, drop_in.sigmas)
        assert torch.allclose(*(s.scale_noise(x, half, e) for s in (original, drop_in)), rtol=1e-6, atol=1e-6)


def test_levels_that_coincide_are_the_originals():
    original, drop_in = make("MiniMaxH3Scheduler")
    for shift in (12.0, 3.0, 2e6, 1e12):
        for scheduler in (original, drop_in):
            scheduler.set_shift(shift)
            scheduler.set_timesteps(40)
        assert torch.equal(original.timesteps, drop_in.timesteps) and torch.equal(original.sigmas, drop_in.sigmas)
        assert drop_in.num_inference_steps == original.num_inference_steps == len(drop_in.timesteps)
        for t in original.timesteps:
            assert original.index_for_timestep(t) == drop_in.index_for_timestep(t)
    drop_in.set_shift(12.0)
    for scheduler in (original, drop_in):
        with pytest.raises(ValueError):
            scheduler.step(sample(), 0.123, sample())
        for levels in ([0.9, 0.5], [0.5, 0.9, 0.0], [0.0]):
            with pytest.raises(ValueError):
                scheduler.set_timesteps(sigmas=levels)
        with pytest.raises(ValueError):
            scheduler.set_timesteps(1)


STAGES = [
    ({}, {"stage_index": 0}),
    ({}, {"stage_index": 2}),
    ({"use_flow_sigmas": False}, {"stage_index": 1}),
    ({"use_dynamic_shifting": True}, {"stage_index": 1, "mu": 1.2}),
    ({"scheduler_type": "euler", "shift": 3.0}, {"stage_index": 1}),
    ({"scheduler_type": "dmd"}, {"stage_index": 1}),
    ({"scheduler_type": "dmd"}, {"stage_index": 2, "is_amplify_first_chunk": True}),
    (
        {"stages": 1, "use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"sigmas": np.linspace(0.999, 0, 6)[:-1], "mu": 2.5},
    ),
]


@pytest.mark.parametrize(("config", "asked"), STAGES)
def test_stages_are_the_originals(config, asked):
    """A pyramid's pipeline plans stage after stage on one scheduler, and reads the constructor's attributes of the stages."""
    original, drop_in = make("HeliosScheduler", **config)
    for name in ("start_sigmas", "ori_start_sigmas", "end_sigmas", "timestep_ratios", "sigma_min", "sigma_max"):
        assert getattr(original, name) == getattr(drop_in, name)
    x = y = sample().double().unsqueeze(2)
    for given in ({**asked, "stage_index": 0}, asked):
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(5, **given)
        for ours, theirs in ((drop_in.timesteps, original.timesteps), (drop_in.sigmas, original.sigmas)):
            assert ours.dtype == theirs.dtype and torch.allclose(ours, theirs, rtol=1e-14, atol=0)
        if config.get("scheduler_type") == "dmd":
            continue
        for t, own in zip(original.timesteps, drop_in.timesteps):
            x = original.step(torch.tanh(x), t, x).prev_sample
            y = drop_in.step(torch.tanh(y), own, y).prev_sample
        assert torch.allclose(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_distilled_stages_are_the_originals(first):
    """A pipeline passes the noise from the start of the stage, the scheduler's own tables and a generator to each step."""
    original, drop_in = make("HeliosDMDScheduler")
    x = y = sample().unsqueeze(2)
    for stage in range(3):
        start = x.clone()
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(2, stage, is_amplify_first_chunk=first)
        for i, (t, own) in enumerate(zip(original.timesteps, drop_in.timesteps)):
            results = []
            for each, value, z in ((original, t, x), (drop_in, own, y)):
                tables = {"dmd_sigmas": each.sigmas, "dmd_timesteps": each.timesteps, "all_timesteps": each.timesteps}
                told = {"generator": torch.Generator(), "cur_sampling_step": i, "dmd_noisy_tensor": start, **tables}
                results.append(each.step(torch.tanh(z), value, z, **told).prev_sample)
            x, y = results
            assert torch.allclose(x, y, rtol=1e-6, atol=1e-6)
        assert len(drop_in.timesteps) == (4 if first else 2) and drop_in.step_index is original.step_index is None
    noisy = [each.add_noise(x, start, t[None], each.sigmas, each.timesteps) for each in (original, drop_in)]
    assert torch.equal(*noisy)


def test_what_distilled_steps_are_handed_is_the_schedulers_own():
    _, drop_in = make("HeliosDMDScheduler")
    drop_in.set_timesteps(3)
    x, t = sample().unsqueeze(2), drop_in.timesteps
    told = {"cur_sampling_step": 1, "dmd_noisy_tensor": x}
    expected = drop_in.step(x, t[1], x, **told, dmd_sigmas=drop_in.sigmas.clone(), all_timesteps=t.clone()).prev_sample
    assert torch.equal(drop_in.step(x, t[1], x, **told).prev_sample, expected)
    with pytest.raises(ds.UnsupportedError, match="dmd_sigmas has other values than sigmas: assign them to sigmas"):
        drop_in.step(x, t[1], x, **told, dmd_sigmas=0.9 * drop_in.sigmas)
    with pytest.raises(ds.TimestepError, match="cur_sampling_step is 2, but must be 1"):
        drop_in.step(x, t[1], x, cur_sampling_step=2, dmd_noisy_tensor=x, all_timesteps=t)
    drop_in.sigmas = 0.9 * drop_in.sigmas
    assert not torch.allclose(drop_in.step(x, t[1], x, **told, dmd_sigmas=drop_in.sigmas).prev_sample, expected)


def test_noise_is_added_at_times_out_of_the_run():
    original, drop_in = make("MiniMaxH3Scheduler")
    x, z = sample(), torch.tanh(sample())
    for time in (0.0, 0.3, 1.0, torch.tensor([0.25, 0.75])):
        expected, found = (scheduler.scale_noise(x, time, z) for scheduler in (original, drop_in))
        assert torch.allclose(expected, found, rtol=1e-6, atol=1e-6) and expected.dtype == found.dtype


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ],
)
def test_levels_of_a_flow_may_be_given_with_their_number(name, config):
    for scheduler in (pair := make(name, **config)):
        scheduler.set_timesteps(3, sigmas=np.array([1.0, 0.6, 0.3]))
    original, drop_in = pair
    assert torch.allclose(original.sigmas, drop_in.sigmas, atol=1e-6) and drop_in.num_inference_steps == 3
    assert torch.allclose(original.timesteps, drop_in.timesteps)
    if name == "FlowMatchEulerDiscreteScheduler":
        for scheduler in pair:
            with pytest.raises(ValueError, match="num_inference_steps"):
                scheduler.set_timesteps(4, sigmas=[1.0, 0.6, 0.3])


def test_repeated_timesteps_of_the_inverse_are_left_out():
    for config in ({}, {"use_karras_sigmas": True}):
        original, drop_in = make("DPMSolverMultistepInverseScheduler", **config)
        for scheduler in (original, drop_in):
            scheduler.set_timesteps(100 if config else 1000)
        assert torch.equal(original.timesteps, drop_in.timesteps)
        assert len(drop_in.sigmas) == drop_in.num_inference_steps + 1
        assert torch.isfinite(run(drop_in, sample(), 100)[-1]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_go_their_own_way_from_where_the_original_stands(name, make_copy):
    _, drop_in = make(name)
    if make_copy is not copy.deepcopy and hasattr(drop_in, "tau_func"):
        pytest.skip("the original's own function can't be pickled")
    samples = run(drop_in, sample())
    drop_in.set_timesteps(6)
    steps = list(zip(drop_in.timesteps, samples, samples[1:]))
    for t, before, _ in steps[:3]:
        step(drop_in, before, t)
    for each in (make_copy(drop_in), drop_in):
        for t, before, after in steps[3:]:
            assert torch.equal(step(each, before, t)[0], after)
    make_copy(getattr(drop_ins, name)()).set_timesteps(4)


# ---- Other devices, where torch's operations run the plan


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("thresholding", [False, True])
def test_the_plan_by_torchs_operations_gives_the_same(name, thresholding, monkeypatch):
    if name == "HeliosScheduler" and thresholding:
        pytest.skip("the original has the key, but not the method")
    _, drop_in = make(name, thresholding=thresholding, solver_order=HIGHEST_ORDER.get(name, 3))
    arguments = {"eta": 0.5, "variance_noise": sample()} if name == "DDIMScheduler" else {}
    expected = run(drop_in, sample(), **arguments)
    monkeypatch.setattr(_drop_ins, "is_beyond_reach", lambda *tensors: True)
    monkeypatch.setattr(_core.library, "ds_row_step", None)
    found = run(drop_in, sample(), **arguments)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(expected, found))


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_read_back_from_a_device(name):
    """Runs on the meta device. Its tensors have no values, so reading one fails."""
    _, drop_in = make(name)
    drop_in.set_timesteps(5, device="meta")
    if hasattr(drop_in, "set_begin_index"):
        drop_in.set_begin_index(0)
    x = torch.empty(SHAPE, device="meta", dtype=torch.float16)
    # DDIM's steps may also begin at timesteps outside the plan; the other classes take an unknown timestep for the last one. A
    # stateless class with noise levels has no next level for it.
    outside = [517, 3] if name in STATELESS and not hasattr(drop_in, "sigmas") else []
    for t in [*drop_in.timesteps, *outside]:
        x = take_step(drop_in, scaled(drop_in, x, t), t, x, return_dict=False)[0]
        assert x.device.type == "meta" and x.dtype == torch.float16


@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_through_steps(name):
    if name == "IPNDMScheduler":
        pytest.skip("the original's first step divides by 1e-8, which enlarges the rounding errors of its gradients")
    original, drop_in = make(name)
    gradients = []
    for scheduler in (original, drop_in):
        x = sample().requires_grad_()
        run(scheduler, x, 4)[-1].square().sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, arguments", [("DDIMScheduler", {}), ("DDIMScheduler", {"eta": 0.6}), ("DDIMInverseScheduler", {})])
@pytest.mark.parametrize("timestep", [700, 517, 3])
def test_steps_outside_of_the_plan_are_the_originals(name, arguments, timestep):
    original, drop_in = make(name)
    if arguments:
        arguments = {**arguments, "variance_noise": torch.tanh(sample()) * 2}
    results, gradients = [], []
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(10)
        x = sample().requires_grad_()
        with torch.no_grad():
            results.append(scheduler.step(torch.tanh(x), timestep, x, return_dict=False, **arguments))
        following, clean = scheduler.step(torch.tanh(x), timestep, x, return_dict=False, **arguments)
        (following.square().sum() + clean.sum()).backward()
        gradients.append(x.grad)
        results.append((following, clean))
    expected, expected_again, found, found_again = results
    for a, b in zip((*expected, *expected_again), (*found, *found_again)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)


class Elsewhere(torch.Tensor):
    """A tensor that claims not to be on the host."""

    is_cpu = False


def test_timesteps_on_a_device_are_looked_up_only_where_they_are_the_plans():
    _, drop_in = make("DDIMScheduler")
    drop_in.set_timesteps(5)
    planned = drop_in.timesteps.tolist()
    assert [drop_in._value(t.as_subclass(Elsewhere)) for t in drop_in.timesteps[1:]] == planned[1:]
    drop_in.timesteps = drop_in.timesteps + 1
    assert [drop_in._value(t.as_subclass(Elsewhere)) for t in drop_in.timesteps] == [t + 1 for t in planned]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 256, 512)])
def test_tensors_on_the_host_stay_there_whatever_the_default_device_is(name, shape):
    _, drop_in = make(name)
    x = sample(shape=shape) * 0.1
    expected = run(drop_in, x, 5)
    with torch.device("meta"):
        found = run(drop_in, x, 5)
        # One class's add_noise takes levels as arguments.
        noises = hasattr(drop_in, "add_noise") and "sigmas" not in inspect.signature(drop_in.add_noise).parameters
        noisy = drop_in.add_noise(x, x, drop_in.timesteps[:1]) if noises else x
    assert drop_in.timesteps.is_cpu and noisy.is_cpu
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


# ---- The quick version of steps, for tensors of the previous step's form


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_quick_version_of_steps_is_the_plain_one(name, dtype, monkeypatch):
    runs = []
    for is_quick in (True, False):
        with monkeypatch.context() as patch:
            if not is_quick:
                patch.setattr(_core, "QuickStep", None)
            _, drop_in = make(name)
            torch.manual_seed(3)
            runs.append((drop_in, run(drop_in, sample(dtype), 8)))
            assert (drop_in._cache.quick is not None) == (is_quick and runs[0][1][1].dtype == dtype)
    (quick, samples), (plain, expected) = runs
    assert all(torch.equal(a, b) for a, b in zip(samples, expected))
    held = vars(quick)
    assert all(are_equal(held[name], value) for name, value in vars(plain).items() if isinstance(value, (torch.Tensor, int, list)))


def are_equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return len(a) == len(b) and all(map(are_equal, a, b)) if isinstance(a, list) else a == b


def test_the_quick_version_takes_the_usual_steps(monkeypatch):
    for name in ("DEISMultistepScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"):
        _, drop_in = make(name)
        expected = run(drop_in, sample(), 8)
        drop_in.set_timesteps(8)
        taken = []
        general = type(drop_in)._general_run

        def counted(self, *arguments):
            taken.append(self.__class__.__name__)
            return general(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(type(drop_in), "_general_run", counted)
            for t, before, after in zip(drop_in.timesteps, expected, expected[1:]):
                step(drop_in, before, t)
        assert len(taken) == 1


def test_a_pending_negation_of_a_single_element_is_seen():
    _, drop_in = make("DDIMScheduler")
    drop_in.set_timesteps(5)
    x = torch.tensor([[3.0 + 2.0j]])
    for _ in range(2):
        found = drop_in.step(x.conj().imag, 601, x.imag).prev_sample
        assert torch.equal(found, drop_in.step(torch.tensor([[-2.0]]), 601, torch.tensor([[2.0]])).prev_sample)


def test_a_torch_without_views_of_tensors_has_no_quick_version(monkeypatch):
    _, drop_in = make("DEISMultistepScheduler")
    expected = run(drop_in, sample())
    monkeypatch.setattr(_tensors, "_EXCHANGE", None)
    assert all(torch.equal(a, b) for a, b in zip(run(drop_in, sample()), expected)) and drop_in._cache.quick is None


@pytest.mark.parametrize("attribute", ["config", "timesteps", "table"])
def test_the_quick_version_sees_changes(attribute):
    """The steps after a change are those of a scheduler that is changed before its first step."""
    found = []
    for steps_before in (0, 3):
        _, drop_in = make("DDIMScheduler")
        drop_in.set_timesteps(10)
        x = sample()
        for t in drop_in.timesteps[:steps_before]:
            step(drop_in, x, t)
        if attribute == "config":
            drop_in.config.prediction_type = "v_prediction"
        elif attribute == "timesteps":
            drop_in.num_inference_steps = 20
        else:
            drop_in.alphas_cumprod.mul_(0.5)
        found.append(step(drop_in, x, 501)[0])
    assert torch.equal(*found)
    _, drop_in = make("DDIMScheduler")
    drop_in.set_timesteps(10)
    assert not torch.equal(found[0], step(drop_in, x, 501)[0])


@pytest.mark.parametrize("name", ALL)
def test_tensors_may_change_their_form_within_a_run(name):
    _, drop_in = make(name)
    expected = run(drop_in, sample(), 8)
    drop_in.set_timesteps(8)
    forms = [
        lambda t: t,
        lambda t: torch.repeat_interleave(t, 2, dim=-1)[..., ::2],
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t,
        lambda t: t.clone().requires_grad_(),
    ]
    with torch.no_grad():
        for index, (t, before, after) in enumerate(zip(drop_in.timesteps, expected, expected[1:])):
            assert torch.equal(step(drop_in, before, t, forms[index % len(forms)](before))[0], after)


def test_options_may_change_from_step_to_step():
    original, drop_in = make("DDIMScheduler")
    x, z = sample(), torch.tanh(sample())
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(10)
    for t in (900, 517):
        for eta, clipped in ((0.0, False), (0.0, False), (0.5, False), (0.5, True), (0.9, True), (0.0, True), (0.0, False)):
            arguments = {"eta": eta, "use_clipped_model_output": clipped, "variance_noise": z if eta else None}
            expected, found = (s.step(torch.tanh(x), t, x, return_dict=False, **arguments) for s in (original, drop_in))
            assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(expected, found))


def test_threads_may_share_a_ddim_scheduler():
    _, drop_in = make("DDIMScheduler")
    drop_in.set_timesteps(20)
    inputs = [(sample() * (1 + i / 8), int(t)) for i, t in enumerate(drop_in.timesteps[:6])]
    expected = [drop_in.step(torch.tanh(x), t, x, return_dict=False) for x, t in inputs]
    faults = []

    def work(slot):
        x, t = inputs[slot]
        e = torch.tanh(x)
        for _ in range(200):
            found = drop_in.step(e, t, x, return_dict=False)
            if not all(torch.equal(a, b) for a, b in zip(expected[slot], found)):
                faults.append(slot)

    run_in_threads(work, len(inputs))
    assert not faults


def test_noise_of_another_type_is_rounded():
    _, drop_in = make("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++")
    drop_in.set_timesteps(4)
    x, z = sample().half(), torch.tanh(sample())
    steps = []
    for noise in (z, z.half()):
        drop_in.set_timesteps(4)
        y = x
        for t in drop_in.timesteps:
            y = drop_in.step(torch.tanh(y), t, y, variance_noise=noise).prev_sample
        steps.append(y)
    assert torch.equal(*steps) and steps[0].dtype == torch.float16


# ---- Memory


@pytest.mark.parametrize("name", ALL)
def test_recycled_memory_is_never_somebodys(name):
    _, drop_in = make(name)
    x = sample(shape=(1, 4, 256, 512)) * 0.1
    assert x.nbytes >= _memory.SMALLEST
    kept = run(drop_in, x, 10)
    copies, views = [each.clone() for each in kept], [each[0, 1:, ::7] for each in kept]
    arrays = [each.numpy()[..., ::3] for each in kept]
    run(drop_in, x, 10)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies))
    del kept
    run(drop_in, x * 2, 10)
    assert all(torch.equal(a, b[0, 1:, ::7]) for a, b in zip(views, copies))
    assert all(np.array_equal(a, b.numpy()[..., ::3]) for a, b in zip(arrays, copies))


def test_memory_is_recycled_once_nobody_holds_it():
    _, drop_in = make("DDIMScheduler")
    drop_in.set_timesteps(20)
    x, addresses = sample(shape=(1, 4, 256, 512)), set()
    for t in drop_in.timesteps:
        x = drop_in.step(x, t, x, return_dict=False)[0]
        addresses.add(x.data_ptr())
    assert len(addresses) <= 4


@pytest.mark.parametrize("name", ALL)
def test_steps_without_a_plan_are_taken_where_the_original_takes_them(name):
    original, drop_in = make(name)
    is_planned = getattr(original, "num_inference_steps", None) is not None
    x = sample()
    try:
        expected = original.step(scaled(original, x, 1), 1, x)
    except (ValueError, TypeError, AttributeError, IndexError):
        return
    assert drop_in.step(scaled(drop_in, x, 1), 1, x).prev_sample.shape == expected.prev_sample.shape
    assert is_planned or drop_in.num_inference_steps == original.num_inference_steps


def test_steps_without_a_plan_are_those_of_the_constructor_s_tables():
    x = sample()
    for index in (0, 1, 700, 1000):
        original, drop_in = make("EDMEulerScheduler", sigma_schedule="exponential")
        t = original.timesteps[index]
        expected, found = (each.step(torch.tanh(scaled(each, x, t)), t, x) for each in (original, drop_in))
        assert torch.allclose(expected.prev_sample, found.prev_sample, rtol=1e-6, atol=1e-6)
        assert drop_in.num_inference_steps is None and torch.equal(original.sigmas, drop_in.sigmas)


@pytest.mark.parametrize("churn", [0.0, 4.0])
@pytest.mark.parametrize("model", ["float32", "bfloat16"])
def test_a_step_may_be_given_the_prediction_that_it_reports(churn, model):
    """Cosmos 1.0's pipeline passes a prediction, because it guides predicted clean samples."""
    found = []
    for scheduler in make("EDMEulerScheduler", final_sigmas_type="sigma_min"):
        scheduler.set_timesteps(sigmas=torch.linspace(0, 1, 6, dtype=torch.float64))
        x = sample() * scheduler.config.sigma_max
        for t in scheduler.timesteps:
            e = torch.tanh(scaled(scheduler, x, t)).to(getattr(torch, model))
            p = scheduler.step(e, t, x, return_dict=False)[1]
            assert p.dtype == torch.float32
            scheduler._step_index -= 1
            guided, generator = p + 2 * torch.sin(p), torch.Generator().manual_seed(2)
            x, again = scheduler.step(
                guided, t, x, s_churn=churn, generator=generator, return_dict=False, pred_original_sample=guided
            )
            assert torch.equal(again, guided)
        found.append(x)
    # The bound is one bfloat16 unit of a model's output, because the model's inputs differ by a rounding.
    assert torch.allclose(*found, rtol=0, atol=0.05 if model == "bfloat16" else 1e-5)


# ---- Attributes, and files and values at which the originals fail


@pytest.mark.parametrize("name", ALL)
def test_attributes_of_planning_are_the_originals(name):
    original, drop_in = make(name)
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(7)
    assert not {key for key in vars(original)} - set(dir(drop_in))
    for key, value in vars(original).items():
        # Our tables are rounded once. The original rounds after each operation.
        if isinstance(value, torch.Tensor):
            distance = 1e-7 + (timestep_distance(original) if key == "timesteps" else ANGLE.get(name, 0))
            assert torch.allclose(getattr(drop_in, key), value, rtol=2e-7, atol=distance, equal_nan=True), key
        elif isinstance(value, np.ndarray):
            assert np.array_equal(getattr(drop_in, key), value), key


def test_runge_kutta_steps_of_pndm_are_the_originals():
    finals = []
    for scheduler in make("PNDMScheduler"):
        scheduler.set_timesteps(10)
        x = sample()
        for t in scheduler.prk_timesteps:
            x = scheduler.step_prk(torch.tanh(x), t, x).prev_sample
        for t in scheduler.plms_timesteps:
            x = scheduler.step_plms(torch.tanh(x), t, x).prev_sample
        finals.append(x)
    assert torch.equal(*finals)


def test_integer_tensors_become_floating_point_ones():
    x, found = torch.arange(8).reshape(1, 2, 2, 2), []
    for scheduler in make("DDIMScheduler", clip_sample=False):
        scheduler.set_timesteps(10)
        found.append(scheduler.step(x, 500, x).prev_sample)
    assert found[1].dtype == found[0].dtype == torch.float32 and torch.allclose(*found, atol=1e-5)
    # The original converts the rates to integers.
    assert scheduler.add_noise(x, torch.ones_like(x), torch.tensor([500])).dtype == torch.float32


def test_noise_at_timesteps_beyond_the_training_is_refused_in_words():
    _, drop_in = make("DDIMScheduler")
    with pytest.raises(ds.TimestepError, match="timesteps contain 1000, but must be from 0 to 999"):
        drop_in.add_noise(sample(), sample(), torch.tensor([1000]))


def test_pndm_may_begin_where_its_timestep_repeats():
    # Image to image with 10 steps and a strength of 0.9 begins there.
    _, drop_in = make("PNDMScheduler", skip_prk_steps=True)
    drop_in.set_timesteps(10)
    x, expected = sample(), sample()
    for t in drop_in.timesteps[1:]:
        x = drop_in.step(torch.tanh(x), t, x).prev_sample
    drop_in.set_timesteps(10)
    for t in drop_in.timesteps[2:]:
        expected = drop_in.step(torch.tanh(expected), t, expected).prev_sample
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_planning_passes_over_the_keys_of_other_classes(name, recwarn):
    config = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
    drop_in = getattr(drop_ins, name).from_config(config)
    drop_in.set_timesteps(4)
    # diffusers warns if a key of the configuration is read as an attribute of the scheduler.
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_heun_may_begin_at_any_of_its_steps():
    finals = []
    for scheduler in make("HeunDiscreteScheduler"):
        scheduler.set_timesteps(6)
        x = scheduler.add_noise(sample(), sample(), scheduler.timesteps[4:5])
        for t in scheduler.timesteps[4:]:
            x = step(scheduler, x, t)[0]
        finals.append(x)
    assert torch.allclose(*finals, rtol=1e-4, atol=1e-5)


def test_constructors_take_tables_that_nothing_can_be_planned_with():
    original, drop_in = make("HeunDiscreteScheduler", trained_betas=[0.1, 0.3])
    assert torch.equal(original.betas, drop_in.betas)
    with pytest.raises(ValueError, match="trained_betas is a list of 2, but must be a list of num_train_timesteps = 1000 numbers"):
        drop_in.set_timesteps(5)


def test_unknown_variances_are_the_least():
    finals = [run(scheduler, sample())[-1] for scheduler in make("DDPMScheduler", variance_type="other")]
    assert torch.allclose(*finals, rtol=1e-4, atol=1e-4)


def test_files_that_the_original_cannot_read_are_told_in_words(tmp_path):
    for text in ("[" * 100_000, '{"a":' * 100_000):
        (tmp_path / "scheduler_config.json").write_text(text)
        with pytest.raises(ds.MalformedError):
            drop_ins.DDIMScheduler.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_bytes(b"\xef\xbb\xbf" + b'{"beta_end": 0.012}')
    try:
        assert drop_ins.DDIMScheduler.from_pretrained(tmp_path).config.beta_end == 0.012
    except ds.MalformedError as error:
        assert "byte order mark" in str(error)


@pytest.mark.parametrize("key", ["solver_order", "num_train_timesteps"])
@pytest.mark.parametrize("name", PARTED)
def test_numbers_that_no_table_has_room_for_are_refused_in_words(name, key):
    with pytest.raises(ds.InvalidValueError, match=key):
        getattr(drop_ins, name)(**{key: 10**12})
    with pytest.raises(ds.InvalidValueError, match=key):
        getattr(drop_ins, name).from_config({key: 10**12})


def test_arguments_that_the_library_has_no_use_for_are_refused():
    _, drop_in = make("FlowMatchEulerDiscreteScheduler")
    drop_in.set_timesteps(4)
    with pytest.raises(ds.UnsupportedError, match="s_churn"):
        drop_in.step(sample(), drop_in.timesteps[0], sample(), s_churn=1.5)


@pytest.mark.parametrize("method", ["rho_ab", "t_ab", "rho_rk"])
def test_deis_has_the_methods_of_its_paper_in_files(method, tmp_path):
    _, plain = make("DEISMultistepScheduler", solver_order=3)
    drop_in = type(plain).from_config(plain.config, diffusion_scheduling_method=method)
    drop_in.save_pretrained(tmp_path)
    results = []
    for each in (drop_in, type(plain).from_pretrained(tmp_path), ds.DEISMultistepScheduler.from_pretrained(tmp_path)):
        as_given = torch.Tensor.numpy if each.__class__ is ds.DEISMultistepScheduler else torch.clone
        each.set_timesteps(5)
        x = sample()
        for t in each.timesteps:
            x = torch.as_tensor(each.step(as_given(torch.tanh(x)), int(t), as_given(x)).prev_sample)
        results.append(x)
    assert len(drop_in.timesteps) == (15 if method == "rho_rk" else 5)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], run(plain, sample(), 5)[-1])
