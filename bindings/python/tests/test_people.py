# SPDX-License-Identifier: Apache-2.0

"""The drop-ins against the originals in uses beyond plain stepping: edits, copies, threads, subclasses, assigned tables."""

import copy
import inspect
import io
import json
import multiprocessing
import pickle
import re
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import diffusion_scheduling as ds  # noqa: E402
import diffusion_scheduling.diffusers as drop_ins  # noqa: E402
from conftest import run_in_threads  # noqa: E402
from diffusion_scheduling._description import DESCRIPTIONS  # noqa: E402
from people import COUNTED_ONLY, HIGHEST_ORDER, TREE, begin_at_first_stages, forget_noise, replace_trees, take_step  # noqa: E402

# test_lists_with_end.py tests the classes whose timesteps include the last step's target, test_calls.py those with other methods.
ALL = [name for name in drop_ins.__all__ if not (DESCRIPTIONS[name].lists_end or DESCRIPTIONS[name].calls)]
for each in ALL:
    getattr(diffusers, each)  # Imports its module.
replace_trees()
begin_at_first_stages()
COUNTING = [name for name in ALL if hasattr(getattr(diffusers, name), "step_index")]
LEVELLED = [name for name in COUNTING if "self.sigmas" in inspect.getsource(getattr(diffusers, name)) and name not in COUNTED_ONLY]


def draws_noise(name):
    """Whether a class's steps draw noise with the default options."""
    scheduler = getattr(ds, name)()
    scheduler.set_timesteps(4)
    return any("noise_draws" in row for each in json.loads(scheduler.plan_json())["evaluations"] for row in each["rows"])


DRAWING = [name for name in ALL if draws_noise(name)]
TRAINED = [name for name in ALL if hasattr(getattr(diffusers, name)(), "alphas_cumprod")]
PICKLED = [name for name in ALL if not hasattr(getattr(diffusers, name)(), "tau_func")]
"""The classes that can be pickled. The others' originals keep a local function."""
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "skip_prk_steps": True}
NO_VELOCITY = ("UnCLIPScheduler",)
"""The classes without velocity prediction."""
X = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))


def make(library, name, **config):
    cls = getattr(library, name)
    words = {each.key: each.words for each in getattr(drop_ins, name).description.parameters}
    foreign = {key for key in SD if words.get(key) is not None and key not in config and SD[key] not in words[key]}
    known = inspect.signature(getattr(diffusers, name)).parameters.keys() - foreign
    return cls(**{key: value for key, value in {**SD, **config}.items() if key in known})


def step(scheduler, x, t, **arguments):
    model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    return take_step(scheduler, torch.tanh(0.7 * model_input + 0.1), t, x, return_dict=False, **arguments)[0]


def run(scheduler, x=X, each=None):
    """Steps to the end. ``each(scheduler, index, x)`` is called before each step, and returns the scheduler and the sample."""
    torch.manual_seed(5)
    for index, t in enumerate(scheduler.timesteps):
        if each is not None:
            scheduler, x = each(scheduler, index, x)
        x = step(scheduler, x, t)
    return x


def alike(expected, found, tolerance=2e-5):
    """Asserts that two tensors are equal within `tolerance`, relative to max(1, the expected magnitude)."""
    assert expected.dtype == found.dtype and torch.isfinite(found).all()
    scale = max(expected.abs().max().item(), 1)
    assert (expected - found).abs().max().item() <= tolerance * scale


def agree(name, act, tolerance=2e-5, **config):
    """Asserts that an act ends with the same tensor on the original and on the drop-in."""
    alike(*(act(make(library, name, **config)) for library in (diffusers, drop_ins)), tolerance)


# ---- Configurations


def test_a_configuration_may_be_edited_after_planning():
    def act(scheduler):
        scheduler.set_timesteps(10)
        scheduler.config.clip_sample = False
        return run(scheduler)

    agree("DDIMScheduler", act, clip_sample=True)


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_may_be_registered_anew_after_planning(name):
    def act(scheduler):
        scheduler.set_timesteps(10)
        torch.manual_seed(4)
        first = step(scheduler, X, scheduler.timesteps[0])
        scheduler.register_to_config(prediction_type="sample" if name in NO_VELOCITY else "v_prediction")
        scheduler.set_timesteps(10)
        scheduler.register_to_config(prediction_type="epsilon")
        return first + run(scheduler)

    agree(name, act, prediction_type="epsilon")


CONSTRUCTED = {"beta_end": 0.02, "beta_start": 0.002, "beta_schedule": "linear", "rescale_betas_zero_snr": True}
"""Keys from which the originals' constructors make their tables."""


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("key", CONSTRUCTED)
def test_keys_that_only_the_constructor_reads_may_be_edited_afterwards(name, key):
    def act(scheduler):
        scheduler.register_to_config(**{key: CONSTRUCTED[key]})
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree(name, act)


def test_other_keys_that_only_the_constructor_reads_may_be_edited_afterwards():
    def edited(**values):
        def act(scheduler):
            scheduler.register_to_config(**values)
            scheduler.set_timesteps(10)
            return run(scheduler)

        return act

    for name in (
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMScheduler",
        "DDIMInverseScheduler",
        "LCMScheduler",
        "PNDMScheduler",
        "TCDScheduler",
    ):
        agree(name, edited(set_alpha_to_one=False), set_alpha_to_one=True)
    agree("UniPCMultistepScheduler", edited(predict_x0=False, disable_corrector=[0, 1, 2]), final_sigmas_type="sigma_min")
    agree("FlowMatchEulerDiscreteScheduler", edited(shift=5.0), shift=2.0)
    agree("DPMSolverMultistepScheduler", edited(beta_schedule="squaredcos_cap_v2"), use_karras_sigmas=True)


@pytest.mark.parametrize(
    "name",
    [
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMScheduler",
        "DDIMInverseScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ],
)
def test_the_length_of_the_training_may_be_edited(name):
    def act(scheduler):
        scheduler.register_to_config(num_train_timesteps=600)
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree(name, act)


def test_the_length_of_the_training_is_the_length_of_the_noise_levels():
    scheduler = make(drop_ins, "DEISMultistepScheduler")
    scheduler.register_to_config(num_train_timesteps=600)
    with pytest.raises(ValueError, match="list of 1000.*num_train_timesteps = 600"):
        scheduler.set_timesteps(10)


def test_pipelines_save_what_diffusers_alone_can_read(tmp_path):
    class Pipeline(diffusers.DiffusionPipeline):
        def __init__(self, scheduler):
            super().__init__()
            self.register_modules(scheduler=scheduler)

    for name in ALL:
        Pipeline(make(drop_ins, name)).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["diffusers", name]
        assert type(getattr(diffusers, name).from_pretrained(tmp_path / "scheduler")) is getattr(diffusers, name)


def test_a_configuration_of_another_meaning_is_told_once(caplog):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    diffusers.utils.logging.enable_propagation()
    for _ in range(2):
        drop_ins.DEISMultistepScheduler.from_config(config)
        drop_ins.DEISMultistepScheduler.from_config(diffusers.EulerDiscreteScheduler().config)
        drop_ins.UniPCMultistepScheduler.from_config(config, use_flow_sigmas=True, prediction_type="flow_prediction")
    diffusers.utils.logging.disable_propagation()
    messages = [record.getMessage() for record in caplog.records if "compatible" in record.getMessage()]
    assert len(set(messages)) == 1 and "FlowMatchEulerDiscreteScheduler" in messages[0] and "shift" in messages[0]


@pytest.mark.parametrize(
    "name, config",
    [
        ("DDIMScheduler", {"clip_sample": 0}),
        ("DEISMultistepScheduler", {"thresholding": None}),
        ("DDIMScheduler", {"steps_offset": True}),
    ],
)
def test_values_of_another_kind_mean_what_they_mean_in_python(name, config):
    def act(scheduler):
        scheduler.set_timesteps(6)
        return run(scheduler)

    agree(name, act, **config)


# ---- Copies


def through_dictionary(scheduler):
    state = copy.deepcopy(scheduler.__dict__)
    step(scheduler, X, scheduler.timesteps[0])  # The step must not change the copied state.
    scheduler.__dict__.update(state)
    return scheduler


def through_file(scheduler):
    file = io.BytesIO()
    torch.save(scheduler.__dict__, file)
    file.seek(0)
    scheduler.__dict__.update(torch.load(file, weights_only=False))
    return scheduler


WAYS = [through_dictionary, through_file, copy.copy, copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("way", WAYS, ids=["__dict__", "torch.save", "copy", "deepcopy", "pickle"])
def test_copies_go_on_from_where_they_were_made(name, way):
    def act(scheduler):
        scheduler.set_timesteps(7)
        torch.manual_seed(5)
        return run(scheduler, each=lambda scheduler, index, x: (way(scheduler) if index > 0 else scheduler, x))

    if way is through_dictionary and name in DRAWING:
        pytest.skip("the step in between draws noise")
    if way in (through_file, WAYS[-1]) and name not in PICKLED:
        pytest.skip("the original can't be pickled")
    agree(name, act)


# ---- Processes and threads

HALF = 5
"""The evaluations before a run moves to another process or thread. Heun's third step is then half done."""


def first_half(scheduler, x=X):
    """Plans, takes the first steps and returns the sample."""
    scheduler.set_timesteps(8)
    torch.manual_seed(5)
    for t in scheduler.timesteps[:HALF]:
        x = step(scheduler, x, t)
    return x


def second_half(scheduler, x, **arguments):
    torch.manual_seed(6)
    for t in scheduler.timesteps[HALF:]:
        x = step(scheduler, x, t, **arguments)
    return x


def answer(connection, work, arguments):
    """Sends a function's result, or the text of its error, from a child process."""
    try:
        torch.set_num_threads(1)  # A forked child doesn't inherit torch's threads.
        connection.send((work(*arguments), None))
    except BaseException:
        connection.send((None, traceback.format_exc()))


def in_child(method, work, *arguments):
    """The result of a function in a process that ``multiprocessing`` starts."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(theirs, work, arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        assert ours.poll(120), "the child process hangs"
        result, error = ours.recv()
    finally:
        child.kill()
        child.join()
    assert error is None, error
    return result


def finished(scheduler, x):
    """The last sample of a run, as an array, because pipes carry arrays by value."""
    return second_half(scheduler, x).numpy()


def all_finished(begun):
    return {name: finished(*each) for name, each in begun.items()}


@pytest.mark.parametrize("name", ALL)
def test_runs_are_continued_in_a_forked_process(name):
    def act(scheduler):
        x = first_half(scheduler)
        return torch.from_numpy(in_child("fork", finished, scheduler, x))

    agree(name, act)


def test_a_forked_process_leaves_large_tensors_of_its_parent_alone():
    scheduler = make(drop_ins, "DEISMultistepScheduler")
    x = first_half(scheduler, X.repeat(1, 1, 64, 64))
    expected = copy.deepcopy(scheduler.model_outputs)
    in_child("fork", finished, scheduler, x)
    assert all(map(torch.equal, scheduler.model_outputs, expected))


@pytest.fixture(scope="module")
def spawned():
    """The last samples of all classes' runs. One child process serves them all, because importing torch takes seconds."""
    begun = {name: make(drop_ins, name) for name in PICKLED}
    return in_child("spawn", all_finished, {name: (scheduler, first_half(scheduler)) for name, scheduler in begun.items()})


@pytest.mark.parametrize("name", PICKLED)
def test_runs_are_continued_in_a_spawned_process(name, spawned):
    original = make(diffusers, name)
    alike(second_half(original, first_half(original)), torch.from_numpy(spawned[name]))


@pytest.mark.parametrize("name", ALL)
def test_threads_continue_copies_of_a_run_on_samples_of_their_own(name):
    takes_generator = "generator" in inspect.signature(getattr(diffusers, name).step).parameters

    def continued(scheduler, x, slot):
        own = {"generator": torch.Generator().manual_seed(slot)} if takes_generator else {}
        copied = copy.deepcopy(scheduler)
        forget_noise(copied)
        if "noise_sampler_seed" in vars(copied):
            copied.noise_sampler_seed = slot
        return second_half(copied, x * (1 + slot / 8), **own)

    def one_after_the_other(scheduler):
        x = first_half(scheduler)
        return torch.cat([continued(scheduler, x, slot) for slot in range(4)])

    def at_once(scheduler):
        x, results = first_half(scheduler), [None] * 4
        start = threading.Barrier(4)

        def work(slot):
            start.wait()
            results[slot] = continued(scheduler, x, slot)

        run_in_threads(work, 4)
        return torch.cat(results)

    if TREE not in vars(
        sys.modules[getattr(diffusers, name).__module__]
    ):  # The originals with a Brownian tree use only a generator's seed.
        agree(name, one_after_the_other)
    for _ in range(5):
        assert torch.equal(at_once(make(drop_ins, name)), one_after_the_other(make(drop_ins, name)))


# ---- Subclasses


def guided(base):
    """A subclass that changes a step's model output and result."""

    class Guided(base):
        def step(self, model_output, timestep, sample, **kwargs):
            self.asked = [*getattr(self, "asked", []), float(timestep)]
            following, *rest = super().step(model_output=0.9 * model_output, timestep=timestep, sample=sample, **kwargs)
            return (0.98 * following, *rest)

    return Guided


def table(scheduler):
    """The table of a scheduler without noise levels."""
    return scheduler.alphas_cumprod if hasattr(scheduler, "alphas_cumprod") else scheduler.betas


def reading(base):
    """A subclass with an added key. Its steps depend on attributes of the base class."""

    class Reading(base):
        @diffusers.configuration_utils.register_to_config
        def __init__(self, rise=0.1, **kwargs):
            super().__init__(**kwargs)

        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.last = float(self.timesteps[-1])

        def step(self, model_output, timestep, sample, **kwargs):
            place = int(timestep) if hasattr(self, "alphas_cumprod") else self.step_index or 0
            levels = self.sigmas[self.step_index or 0] if hasattr(self, "sigmas") else table(self)[place]
            share = (timestep - self.last) / len(self.timesteps) / self.config.get("num_train_timesteps", 1)
            remembered = getattr(self, "lower_order_nums", 0) + min(len(getattr(self, "ets", [])), 4)
            factor = 1 + self.config.rise * (share + levels / (1 + levels)) + 0.01 * remembered
            return super().step(model_output=factor * model_output, timestep=timestep, sample=sample, **kwargs)

    return Reading


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("subclass", [guided, reading])
def test_subclasses_override_what_they_do_in_the_original(name, subclass):
    def act(scheduler):
        made = subclass(type(scheduler))(**{key: scheduler.config[key] for key in SD if key in scheduler.config})
        made.set_timesteps(7)
        return run(made)

    agree(name, act)


@pytest.mark.parametrize("name", ALL)
def test_subclasses_made_from_a_configuration_have_their_constructor_s_table(name):
    def act(scheduler):
        made = reading(type(scheduler)).from_config(scheduler.config, rise=0.2)
        made.set_timesteps(7)
        return run(made)

    agree(name, act)


PARTS = {
    "DDIMScheduler": "_get_variance",
    "DDPMScheduler": "previous_timestep",
    "DEISMultistepScheduler": "convert_model_output",
    "DPMSolverMultistepScheduler": "multistep_dpm_solver_second_order_update",
    "DPMSolverMultistepInverseScheduler": "dpm_solver_first_order_update",
    "DPMSolverSinglestepScheduler": "singlestep_dpm_solver_update",
    "EulerDiscreteScheduler": "_convert_to_karras",
    "FlowMatchEulerDiscreteScheduler": "time_shift",
    "LCMScheduler": "get_scalings_for_boundary_condition_discrete",
    "PNDMScheduler": "step_plms",
    "SASolverScheduler": "stochastic_adams_moulton_update",
    "UniPCMultistepScheduler": "convert_model_output",
}


@pytest.mark.parametrize("name", PARTS)
def test_overridden_parts_of_a_step_are_refused(name):
    part = PARTS[name]

    def override(self, *args, **kwargs):
        raise AssertionError("the part is called")

    base = getattr(drop_ins, name)
    subclass, patched = type("Damped", (base,), {part: override})(), base()
    setattr(patched, part, override)
    for scheduler, owner in ((subclass, "Damped"), (patched, name)):
        scheduler.set_timesteps(7)
        for _ in range(2):
            with pytest.raises(NotImplementedError, match=f"{owner} overrides {part}, which steps don't call.*diffusers.{name}"):
                scheduler.step(X, scheduler.timesteps[0], X)
    plain = base()
    plain.set_timesteps(7)
    step(plain, X, plain.timesteps[0])


# ---- Tables


# UnCLIP's original has another table for steps between neighbouring timesteps: docs/DIFFERENCES.md.
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "UnCLIPScheduler"])
def test_signal_variances_may_be_replaced_before_planning(name):
    def act(scheduler):
        scheduler.alphas_cumprod = scheduler.alphas_cumprod / (3 - 2 * scheduler.alphas_cumprod)
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree(name, act, 1e-4)


@pytest.mark.parametrize(
    "name", ["CogVideoXDDIMScheduler", "DDIMScheduler", "DDPMScheduler", "LCMScheduler", "PNDMScheduler", "TCDScheduler"]
)
def test_noise_is_added_with_replaced_signal_variances(name):
    def act(scheduler):
        before = scheduler.add_noise(X, X.flip(1), torch.tensor([300]))
        scheduler.alphas_cumprod = scheduler.alphas_cumprod / (3 - 2 * scheduler.alphas_cumprod)
        after = scheduler.add_noise(X, X.flip(1), torch.tensor([300]))
        scheduler.alphas_cumprod *= 0.9
        return torch.cat([before, after, scheduler.add_noise(X, X.flip(1), torch.tensor([300]))])

    agree(name, act)


@pytest.mark.parametrize("name", LEVELLED)
@pytest.mark.parametrize("in_place", [False, True])
def test_noise_levels_may_be_changed_after_planning(name, in_place):
    def act(scheduler):
        scheduler.set_timesteps(8)
        if in_place:
            scheduler.sigmas[3:5] *= 1.01
        else:
            scheduler.sigmas = scheduler.sigmas * torch.linspace(1, 0.98, len(scheduler.sigmas))
        derive_levels(scheduler)
        return run(scheduler)

    agree(name, act)


def derive_levels(scheduler):
    """Sets the original KDPM2's levels between those of its steps. The drop-in derives them whenever it needs them."""
    start, end = scheduler.sigmas[::2], scheduler.sigmas[1::2]
    if hasattr(scheduler, "sigmas_up"):
        scheduler.sigmas_interpol[::2], scheduler.sigmas_down[::2] = end, end * end / start
        scheduler.sigmas_up[::2] = end * (1 - (end / start) ** 2).sqrt()
    elif hasattr(scheduler, "sigmas_interpol"):
        scheduler.sigmas_interpol[1::2] = (start * end).sqrt()


@pytest.mark.parametrize(
    "name",
    [
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDIMScheduler",
        "DDIMInverseScheduler",
        "DDPMScheduler",
        "EulerDiscreteScheduler",
    ],
)
def test_the_number_of_steps_may_be_assigned(name):
    def act(scheduler):
        scheduler.set_timesteps(10)
        scheduler.num_inference_steps = 20
        return run(scheduler)

    agree(name, act)


@pytest.mark.parametrize("name", ["LCMScheduler", "PNDMScheduler", "TCDScheduler"])
def test_a_number_of_steps_that_rows_do_not_follow_is_refused(name):
    scheduler = make(drop_ins, name)
    scheduler.set_timesteps(4)
    scheduler.num_inference_steps = 2
    with pytest.raises(NotImplementedError, match="num_inference_steps is 2.*set_timesteps"):
        step(scheduler, X, scheduler.timesteps[0])


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
@pytest.mark.parametrize("final", [1.0, 0.9995])
def test_the_last_signal_variance_may_be_assigned(name, final):
    def act(scheduler):
        scheduler.final_alpha_cumprod = torch.tensor(final)
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree(name, act)


def test_the_first_signal_variance_of_the_inverse_may_be_assigned():
    def act(scheduler):
        scheduler.initial_alpha_cumprod = torch.tensor(0.9995)
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree("DDIMInverseScheduler", act)


def test_the_last_signal_variance_of_ddpm_is_one():
    scheduler = make(drop_ins, "DDPMScheduler")
    scheduler.set_timesteps(4)
    step(scheduler, X, scheduler.timesteps[0])
    scheduler.one = torch.tensor(0.75)
    with pytest.raises(NotImplementedError, match="one is 0.75.*must be 1"):
        step(scheduler, X, scheduler.timesteps[1])


@pytest.mark.parametrize("name, value", [("sigma_min", 0.1), ("sigma_max", 0.8), ("_shift", 3.0)])
@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"shift": 2.0}])
def test_what_flow_matching_spaces_its_levels_by_may_be_assigned(name, value, config):
    def act(scheduler):
        setattr(scheduler, name, value)
        scheduler.set_timesteps(10)
        return run(scheduler)

    agree("FlowMatchEulerDiscreteScheduler", act, **config)


@pytest.mark.parametrize("attributes", [{"predict_x0": False}, {"disable_corrector": [0, 1, 2]}])
def test_what_unipc_keeps_of_its_configuration_may_be_assigned(attributes):
    def before(scheduler):
        vars(scheduler).update(attributes)
        scheduler.set_timesteps(10)
        return run(scheduler)

    def after(scheduler):
        scheduler.set_timesteps(10)
        x = step(scheduler, X, scheduler.timesteps[0])
        scheduler.set_timesteps(10)
        vars(scheduler).update(attributes)
        return run(scheduler, x)

    for act in (before, after):
        agree("UniPCMultistepScheduler", act, final_sigmas_type="sigma_min")


# ---- Remembered tensors


@pytest.mark.parametrize("name", COUNTING)
def test_a_step_index_may_be_set_before_each_step(name):
    def act(scheduler):
        def each(scheduler, index, x):
            scheduler._step_index = None
            scheduler._step_index = index
            return scheduler, x

        scheduler.set_timesteps(8)
        return run(scheduler, each=each)

    agree(name, act)


def rearranged(scheduler, change):
    """Applies `change` to the scheduler's remembered tensors, in attributes and in lists."""
    for key, value in list(vars(scheduler).items()):
        if isinstance(value, torch.Tensor) and value.ndim == 4:
            setattr(scheduler, key, change(value))
        if isinstance(value, list):
            setattr(scheduler, key, [change(each) if isinstance(each, torch.Tensor) and each.ndim == 4 else each for each in value])
    forget_noise(scheduler)


CHANGES = {
    "permuted": lambda tensor: tensor[[2, 0, 1]],
    "repeated": lambda tensor: tensor.repeat(2, 1, 1, 1),
    "split": lambda tensor: tensor[1:],
    "to double": lambda tensor: tensor.double(),
}


@pytest.mark.parametrize("name", [name for name in ALL if name not in DRAWING])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("when", [3, 4])
def test_batches_may_be_changed_half_way_with_their_history(name, change, when):
    def each(scheduler, index, x):
        if index != when:
            return scheduler, x
        rearranged(scheduler, change)
        return scheduler, change(x)

    def act(scheduler):
        scheduler.set_timesteps(8)
        return run(scheduler, torch.cat([X, X.flip(1), X.flip(2)]), each).float()

    agree(name, act)


@pytest.mark.parametrize("name", ALL)
def test_half_begun_is_continued_in_float32(name):
    def each(scheduler, index, x):
        if index == 4:
            forget_noise(scheduler)
        return scheduler, x.float() if index == 4 else x

    def act(scheduler):
        scheduler.set_timesteps(8)
        return run(scheduler, X.half(), each).float()  # UniPC's original stays in half precision.

    agree(name, act, 1e-2)


@pytest.mark.parametrize("name", [name for name in ALL if hasattr(getattr(drop_ins, name)(), "model_outputs")])
def test_the_history_is_what_the_original_shows(name):
    schedulers = [make(library, name, solver_order=HIGHEST_ORDER.get(name, 3)) for library in (diffusers, drop_ins)]
    samples = [X, X]
    for scheduler in schedulers:
        scheduler.set_timesteps(6)
    for t in schedulers[0].timesteps:
        for index, scheduler in enumerate(schedulers):
            torch.manual_seed(4)
            samples[index] = step(scheduler, samples[index], t)
        expected, found = (scheduler.model_outputs for scheduler in schedulers)
        assert len({getattr(scheduler, "lower_order_nums", None) for scheduler in schedulers}) == 1
        assert [each is None for each in expected] == [each is None for each in found]
        for a, b in zip(expected, found):
            assert a is None or torch.allclose(a, b, rtol=1e-4, atol=1e-4 * a.abs().max().item())


def test_other_state_is_what_the_original_shows():
    names = "DPMSolverSDE", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "PNDM"
    for name in (f"{each}Scheduler" for each in names):
        keys = ["prev_derivative", "sample", "dt", "counter", "ets", "cur_sample", "mid_point_sigma"]
        if name.startswith("KDPM2"):
            keys.remove("dt")  # No step reads it.
        schedulers = [make(library, name) for library in (diffusers, drop_ins)]
        samples = [X, X]
        for scheduler in schedulers:
            scheduler.set_timesteps(5)
        # After the last step, the original keeps values that no step reads.
        for t in schedulers[0].timesteps[:-1]:
            for index, scheduler in enumerate(schedulers):
                torch.manual_seed(4)
                samples[index] = step(scheduler, samples[index], t)
            expected, found = map(vars, schedulers)
            for key in keys:
                a, b = expected.get(key), found.get(key)
                assert (a is None) == (b is None), (name, key)
                if isinstance(a, list):
                    assert (
                        len(a[-3:]) == len(b[-3:]) and all(map(torch.equal, a[-1:], b[-1:])) or torch.allclose(a[-1], b[-1], 1e-4)
                    )
                elif a is not None:
                    assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b, dtype=torch.as_tensor(a).dtype), 1e-4, 1e-4), key
            assert getattr(schedulers[0], "state_in_first_order", 0) == getattr(schedulers[1], "state_in_first_order", 0)


def test_a_history_of_another_shape_is_refused_or_broadcast():
    for history, works in ((torch.cat([X, X]), False), (X[..., :3], False), (X[:, :, :1], True)):
        scheduler = make(drop_ins, "DEISMultistepScheduler", solver_order=2)
        scheduler.set_timesteps(6)
        x = step(scheduler, X, scheduler.timesteps[0])
        scheduler.model_outputs[-1] = history
        if works:
            assert step(scheduler, x, scheduler.timesteps[1]).shape == X.shape
        else:
            with pytest.raises(RuntimeError):
                step(scheduler, x, scheduler.timesteps[1])
            assert scheduler._step_index == 1 and scheduler.model_outputs[-1] is history


# ---- Gradients and transforms


@pytest.mark.parametrize("name", ALL)
def test_gradients_may_begin_half_way(name):
    def act(scheduler):
        scheduler.set_timesteps(6)
        torch.manual_seed(5)
        x = X.clone()
        for index, t in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(index >= 4):
                if index == 4:
                    leaf = x = torch.nn.Parameter(x)
                x = step(scheduler, x, t)
        x.square().sum().backward()
        return leaf.grad

    agree(name, act)


@pytest.mark.parametrize("name", ALL)
def test_inference_mode_may_be_left_and_entered(name):
    def act(scheduler):
        scheduler.set_timesteps(6)
        torch.manual_seed(5)
        x = X
        for index, t in enumerate(scheduler.timesteps):
            with torch.inference_mode(index % 2 == 0), torch.no_grad():
                x = step(scheduler, x, t).clone()
        return x.clone()

    agree(name, act)


def test_noise_is_added_under_vmap():
    def act(scheduler):
        return torch.func.vmap(scheduler.add_noise)(
            X[None].repeat(2, 1, 1, 1, 1), X[None].repeat(2, 1, 1, 1, 1), torch.tensor([[3], [500]])
        )

    agree("DDIMScheduler", act)


# ---- Pipelines


def uses_in_pipelines():
    """The attributes of schedulers that diffusers' own pipelines use, with the number of uses."""
    folder = Path(diffusers.__file__).parent
    files = [folder / "training_utils.py", *(folder / "pipelines").rglob("*.py"), *(folder / "modular_pipelines").rglob("*.py")]
    return Counter(name for file in files for name in re.findall(r"\bscheduler\.([A-Za-z_]\w*)", file.read_text()))


@pytest.mark.parametrize("name", ALL)
def test_what_pipelines_use_is_there(name):
    original, drop_in = make(diffusers, name), make(drop_ins, name)
    uses = uses_in_pipelines()
    assert sum(uses.values()) > 4000
    for scheduler in (original, drop_in):
        scheduler.set_timesteps(4)
    covered = [use for use in uses if hasattr(drop_in, use)]
    assert set(covered) >= {use for use in uses if hasattr(original, use)}
    print(f"{name}: {len(covered)} of {len(uses)} names, {sum(uses[use] for use in covered)} of {sum(uses.values())} uses")


# ---- Error messages


def test_errors_name_what_is_wrong():
    scheduler = make(drop_ins, "DDIMScheduler")
    scheduler.set_timesteps(5)
    array = np.ones((1, 4, 8, 8), np.float32)
    with pytest.raises(TypeError, match="model_output is a ndarray, but must be a torch.Tensor"):
        scheduler.step(array, scheduler.timesteps[0], X)
    with pytest.raises(ValueError, match="8 channels, but must have 4 like sample.*variance"):
        scheduler.step(torch.cat([X, X], 1), scheduler.timesteps[0], X)
    with pytest.raises(ValueError, match="timesteps contain 1000, but must be from 0 to 999"):
        scheduler.add_noise(X, X, torch.tensor([1000]))
    with pytest.raises(ValueError, match="cosine.*squaredcos_cap_v2"):
        make(drop_ins, "DDIMScheduler", beta_schedule="cosine")
    heun = make(drop_ins, "HeunDiscreteScheduler")
    heun.set_timesteps(5)
    heun._step_index = 3
    with pytest.raises(ValueError, match="step 3 belongs to an evaluation of the model before it"):
        heun.step(X, heun.timesteps[3], X)
