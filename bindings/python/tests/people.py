# SPDX-License-Identifier: Apache-2.0

"""Acts: uses of a scheduler beyond plain stepping, for diffusers' classes on tensors and for ours on arrays."""

import copy
import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SHAPE = (3, 2, 2, 2)
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "skip_prk_steps": True,
}
OWN_CONFIG = {"ScoreSdeVeScheduler": {"sigma_max": 50.0}}
"""Further keys by class. With its default, the class makes samples that float16 doesn't hold."""
TREE = "BrownianTreeNoiseSampler"
HIGHEST_ORDER = {"CosineDPMSolverMultistepScheduler": 2}
"""The highest solver orders of the classes without order 3."""
END = 1 - 2.0**-11
"""The signal variance assigned to the level before timestep 0. float32 holds it exactly."""
WITH_END = "DDPMWuerstchenScheduler", "SCMScheduler"
"""The classes whose timesteps, in diffusers, include the last step's target."""
COUNTED_ONLY = ("PiflowScheduler",)
"""The classes that plan a number of steps only, although set_timesteps has arguments for lists. Steps of their originals lead to
the levels of a private table, whatever `sigmas` holds."""
UNSHORTENED = "CogVideoXDPMScheduler", "LCMScheduler", "PNDMScheduler", "SCMScheduler", "TCDScheduler"
"""The classes that refuse timesteps other than the planned ones."""


def make(cls, **config):
    """A scheduler with the keys of ``CONFIG``, ``OWN_CONFIG`` and `config` that its class has."""
    known = [key for key in inspect.signature(cls).parameters if (cls.__name__, key) != ("UnCLIPScheduler", "beta_schedule")]
    return cls(**{key: value for key, value in {**CONFIG, **OWN_CONFIG.get(cls.__name__, {}), **config}.items() if key in known})


def sample(items):
    """The first sample of a run: a float64 NumPy array, [items, 2, 2, 2]."""
    return (((37 * np.arange(np.prod(SHAPE)) + 11) % 128) / 32 - 2).reshape(SHAPE)[:items]


def model(x):
    """The test problem's model. Its output has the type of its input."""
    return 0.8 * x / (1 + 0.25 * x * x) - 0.1


def take_step(scheduler, e, t, x, **arguments):
    """A step. Some originals pass remembered values to ``step`` as arguments. Here the scheduler keeps them in attributes of the
    arguments' names. An original for several model outputs gets the same one several times."""
    if "n_grid" in scheduler.config and not hasattr(scheduler, "description"):
        e = sys.modules["torch"].cat([e] * scheduler.config["n_grid"], -1)
    steps = [each.step for each in type(scheduler).__mro__ if "step" in vars(each)]
    if any("dmd_noisy_tensor" in inspect.signature(each).parameters for each in steps) and not hasattr(scheduler, "description"):
        return take_video_step(scheduler, e, t, x, **arguments)
    if not any("timestep_back" in inspect.signature(each).parameters for each in steps):
        return scheduler.step(e, t, x, **arguments)
    state, timesteps = vars(scheduler), scheduler.timesteps
    has_begun = state.get("kept_for") is timesteps and (timesteps.device.type == "meta" or t != timesteps[0])
    kept = {name: state[name] if has_begun else None for name in ("old_pred_original_sample", "timestep_back")}
    results = scheduler.step(model_output=e, timestep=t, sample=x, **kept, **arguments)
    scheduler.old_pred_original_sample, scheduler.timestep_back, scheduler.kept_for = results[1], t, timesteps
    return results


def take_video_step(scheduler, e, t, x, generator=None, **arguments):
    """A step of an original that takes noise and tables as arguments. Its tensors have five dimensions, so they are reshaped."""
    torch = sys.modules["torch"]
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    table = scheduler.timesteps
    tables = {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": table, "all_timesteps": table}
    e, noise, own = (each.reshape(len(each), -1, 1, 1, 1) for each in (e, noise, x))
    place = int(torch.argmin(abs(table - t)))
    results = scheduler.step(e, t, own, cur_sampling_step=place, dmd_noisy_tensor=noise, **tables, **arguments)
    if isinstance(results, tuple):
        return (results[0].reshape(x.shape), *results[1:])
    results.prev_sample = results.prev_sample.reshape(x.shape)
    return results


def cast(x, name):
    """The array or tensor, converted to the type of the name."""
    return x.astype(name) if isinstance(x, np.ndarray) else x.to(getattr(sys.modules["torch"], name))


class Motion:
    """Replaces the Brownian motion from which some of diffusers' classes draw noise.

    The increments over the steps of a run are independent. A generator with the seed draws them; torch's own if the seed is None.
    An increment that begins where the previous one began, and goes further, combines the previous one with a new one.
    """

    def __init__(self, x, sigma_min, sigma_max, seed=None):
        self.x, self.seed, self.before = x, seed, None

    def __call__(self, sigma, sigma_next):
        torch = sys.modules["torch"]
        generator = None if self.seed is None or not self.x.is_cpu else torch.Generator("cpu").manual_seed(self.seed)
        increment = torch.randn(self.x.shape, generator=generator, dtype=self.x.dtype, device=self.x.device)
        if self.before is not None and self.before[0] == sigma:
            _, middle, first = self.before
            share = (sigma - middle) / (sigma - sigma_next)
            increment = share.sqrt() * first + (1 - share).sqrt() * increment
        self.before = sigma, sigma_next, increment
        return increment


def replace_trees():
    """Makes diffusers' classes draw their noise from ``Motion``, which other classes can reproduce."""
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.schedulers.") and TREE in vars(module):
            setattr(module, TREE, Motion)


def begin_at_first_stages():
    """Makes diffusers' classes with stages plan the first stage if the caller names none, as ours do."""
    for module in [module for name, module in sys.modules.items() if name.startswith("diffusers.schedulers.")]:
        for cls in [each for each in vars(module).values() if "set_timesteps" in getattr(each, "__dict__", {})]:
            if takes("stage_index")(cls) and not hasattr(cls.set_timesteps, "__wrapped__"):
                cls.set_timesteps = with_a_stage(cls.set_timesteps)


def with_a_stage(set_timesteps):
    @functools.wraps(set_timesteps)
    def from_a_stage(self, num_inference_steps, stage_index=None, *others, **named):
        return set_timesteps(self, num_inference_steps, stage_index or 0, *others, **named)

    return from_a_stage


def forget_noise(scheduler):
    """Makes one of diffusers' schedulers drop its source of noise, which has a fixed shape and type."""
    if "noise_sampler" in vars(scheduler):
        scheduler.noise_sampler = None


def change_noise(scheduler, change):
    """Applies `change` to the tensors of a scheduler's source of noise."""
    motion = vars(scheduler).get("noise_sampler")
    if motion is not None:
        motion.x = change(motion.x)
        if motion.before is not None:
            *levels, increment = motion.before
            motion.before = *levels, change(increment)


def flattened(table):
    """A more steeply falling table of signal variances."""
    return table / (3 - 2 * table)


# ---- Ends


def run(scheduler, x, step, each):
    """Steps to the end. ``each(scheduler, index, x, step)`` is called before a step, and returns the scheduler and the sample."""
    # The timesteps of NumPy's classes don't include the last step's target.
    has_end = type(scheduler).__name__ in WITH_END and not isinstance(scheduler.timesteps, np.ndarray)
    for index, t in enumerate(scheduler.timesteps[:-1] if has_end else scheduler.timesteps):
        if each is not None:
            scheduler, x = each(scheduler, index, x, step)
        x = step(scheduler, x, t)
    return x


def noisy(scheduler, x, step, each):
    return scheduler.add_noise(x, 0.5 - x * x, scheduler.timesteps[2:3])


# ---- Changes before or after planning


def edit(scheduler):
    scheduler.config.clip_sample = False


def other_prediction(scheduler):
    """A prediction type of the class other than its default."""
    return "sample" if type(scheduler).__name__ == "UnCLIPScheduler" else "v_prediction"


def register(scheduler):
    scheduler.register_to_config(prediction_type=other_prediction(scheduler))


def replace_signal_variances(scheduler):
    scheduler.alphas_cumprod = flattened(scheduler.alphas_cumprod)


def replace_signal_variances_in_use(scheduler):
    noisy(scheduler, scheduler.alphas_cumprod[:8].reshape(1, 2, 2, 2), None, None)
    replace_signal_variances(scheduler)


def replace_noise_levels(scheduler):
    scheduler.sigmas = scheduler.sigmas / (1 + 0.01 * scheduler.sigmas)


def shorten_timesteps(scheduler):
    scheduler.timesteps = scheduler.timesteps[1:]


def assign_number_of_steps(scheduler):
    scheduler.num_inference_steps = 20


def assign_end(name):
    def before(scheduler):
        table = scheduler.alphas_cumprod
        setattr(scheduler, name, END * table[0] / table[0])  # A tensor or a NumPy number, like the table's elements.

    return before


# ---- Changes before a step


def set_index(scheduler, index, x, step):
    scheduler._step_index = None
    scheduler._step_index = index
    return scheduler, x


def copied(way):
    def each(scheduler, index, x, step):
        return way(scheduler) if index else scheduler, x

    return each


def through_dictionary(scheduler, index, x, step):
    if index:
        state = copy.deepcopy(scheduler.__dict__)
        step(scheduler, x, scheduler.timesteps[index])  # The step must not change the copied state.
        scheduler.__dict__.update(state)
    return scheduler, x


def rearranged(items):
    """Halfway, selects these items of the batch, and of the tensors that the scheduler remembers in attributes and in lists."""

    def changed(value):
        return value[items] if getattr(value, "ndim", 0) == 4 else value

    def each(scheduler, index, x, step):
        if index != 3:
            return scheduler, x
        for name, value in list(vars(scheduler).items()):
            setattr(scheduler, name, [changed(element) for element in value] if isinstance(value, list) else changed(value))
        change_noise(scheduler, changed)
        return scheduler, x[items]

    return each


def half_begun(scheduler, index, x, step):
    if index == 3:
        change_noise(scheduler, lambda each: cast(each, "float32"))
    return scheduler, cast(x, "float32") if index == 3 else x


# ---- Acts


class Act(NamedTuple):
    """A run, and the changes made to the scheduler during it."""

    applies: Callable[[Any], bool]
    """Selects the originals that the act applies to."""
    before: Callable[[Any], None] | None = None
    after: Callable[[Any], None] | None = None
    """Changes to the scheduler before and after planning."""
    each: Callable[..., Any] | None = None
    """A change before each step, called by ``run``."""
    plan: dict[str, Any] = {"num_inference_steps": 6}
    config: dict[str, Any] = {}
    items: int = 1
    type: str = "float64"
    finish: Callable[..., Any] = run


def has(*names):
    return lambda scheduler: all(hasattr(scheduler, name) for name in names)


def takes(name):
    return lambda scheduler: (
        name in inspect.signature(scheduler.set_timesteps).parameters and type(scheduler).__name__ not in COUNTED_ONLY
    )


def remembers(scheduler):
    return any(hasattr(scheduler, name) for name in ("model_outputs", "ets", "prev_derivative", "sample", "derivatives"))


def any_class(scheduler):
    return True


ACTS = {
    "a plain run": Act(any_class),
    "config edited": Act(lambda scheduler: "clip_sample" in scheduler.config, after=edit, config={"clip_sample": True}),
    "config registered anew": Act(
        lambda scheduler: scheduler.config.get("prediction_type", "trigflow") != "trigflow", after=register
    ),
    # UnCLIP's original has another table for steps between neighbouring timesteps: docs/DIFFERENCES.md.
    "alphas_cumprod replaced before planning": Act(
        lambda scheduler: has("alphas_cumprod")(scheduler) and type(scheduler).__name__ != "UnCLIPScheduler",
        before=replace_signal_variances,
    ),
    "alphas_cumprod replaced before add_noise": Act(
        lambda scheduler: has("alphas_cumprod", "add_noise")(scheduler) and not hasattr(scheduler, "sigmas"),
        after=replace_signal_variances_in_use,
        finish=noisy,
    ),
    "sigmas replaced": Act(
        lambda scheduler: has("sigmas")(scheduler) and type(scheduler).__name__ not in COUNTED_ONLY, after=replace_noise_levels
    ),
    # If steps have two evaluations, the shortened run would begin at the second evaluation of a step.
    "timesteps shortened": Act(
        lambda scheduler: getattr(scheduler, "order", 1) == 1 and type(scheduler).__name__ not in UNSHORTENED,
        after=shorten_timesteps,
    ),
    "num_inference_steps assigned": Act(has("num_inference_steps"), after=assign_number_of_steps),
    "final_alpha_cumprod assigned": Act(has("final_alpha_cumprod"), before=assign_end("final_alpha_cumprod")),
    "initial_alpha_cumprod assigned": Act(has("initial_alpha_cumprod"), before=assign_end("initial_alpha_cumprod")),
    "_step_index set": Act(has("step_index"), each=set_index),
    "copy": Act(any_class, each=copied(copy.copy)),
    "deepcopy": Act(any_class, each=copied(copy.deepcopy)),
    # SASolver's original keeps a local function, which can't be pickled.
    "pickle": Act(
        lambda scheduler: "tau_func" not in scheduler.config, each=copied(lambda scheduler: pickle.loads(pickle.dumps(scheduler)))
    ),
    "__dict__": Act(any_class, each=through_dictionary),
    "batch permuted": Act(remembers, each=rearranged([2, 0, 1]), items=3),
    "batch repeated": Act(remembers, each=rearranged([0, 1, 0, 1]), items=2),
    "batch split": Act(remembers, each=rearranged([1]), items=2),
    "half begun": Act(any_class, each=half_begun, type="float16"),
    "timesteps chosen": Act(takes("timesteps"), plan={"timesteps": [951, 703, 502, 281, 87, 3]}),
    "sigmas chosen": Act(
        lambda scheduler: takes("sigmas")(scheduler) and "interpolation_type" in scheduler.config,
        plan={"sigmas": np.array([12, 5, 2, 0.75, 0.125, 0])},
    ),
    "sigmas of a flow chosen": Act(
        lambda scheduler: (
            takes("sigmas")(scheduler) and not {"interpolation_type", "sigma_data", "stages"} & scheduler.config.keys()
        ),
        plan={"sigmas": np.array([1, 0.75, 0.5, 0.25, 0.125])},
        config={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
}


PLANS = {
    ("SCMScheduler", "num_inference_steps"): {"num_inference_steps": 6, "intermediate_timesteps": None},
    ("SCMScheduler", "timesteps"): {
        **{"num_inference_steps": 5, "timesteps": [1.5, 1.25, 0.9, 0.5, 0.2, 0]},
        **{"max_timesteps": None, "intermediate_timesteps": None},
    },
    ("LTXEulerAncestralRFScheduler", "sigmas"): {"sigmas": [1, 0.75, 0.5, 0.25, 0.125, 0]},
    ("LTXEulerAncestralRFScheduler", "timesteps"): {"timesteps": [1, 0.875, 0.5, 0.25, 0.125, 0]},
    ("MiniMaxH3Scheduler", "num_inference_steps"): {"num_inference_steps": 7},
    ("MiniMaxH3Scheduler", "sigmas"): {"sigmas": [1, 0.75, 0.5, 0.25, 0.125, 0]},
    ("DDPMWuerstchenScheduler", "timesteps"): {"timesteps": [1, 0.8, 0.5, 0.3, 0.1, 0]},
    ("CMStochasticIterativeScheduler", "timesteps"): {"timesteps": [35, 27, 16, 9, 3, 0]},
}
"""Some classes' plans in place of an act's, by the class and the act's first argument."""


def perform(act, scheduler, x, step):
    """The last sample of an act. ``step(scheduler, x, t)`` takes one step."""
    if act.before is not None:
        act.before(scheduler)
    scheduler.set_timesteps(**PLANS.get((type(scheduler).__name__, next(iter(act.plan))), act.plan))
    if act.after is not None:
        act.after(scheduler)
    return act.finish(scheduler, x, step, act.each)
