# SPDX-License-Identifier: Apache-2.0

"""The acts of people.py on the classes for NumPy, against diffusers' results recorded by Tests/Goldens/generate_people.py."""

import base64
import json
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import CLASSES
from people import ACTS, END, UNSHORTENED, cast, flattened, make, model, other_prediction, perform, sample

FILE = Path(__file__).resolve().parents[3] / "Tests/Goldens/people.json"
CASES = json.loads(FILE.read_text())["cases"]


def replaced_table(scheduler):
    """The keys that flatten a scheduler's table of signal variances and keep the variance before timestep 0."""
    table = scheduler.alphas_cumprod.astype(np.float64)
    flat = flattened(scheduler.alphas_cumprod).astype(np.float64)
    name = "initial_alpha_cumprod" if hasattr(scheduler, "initial_alpha_cumprod") else "final_alpha_cumprod"
    kept = {} if scheduler.config.get("set_alpha_to_one", True) else {name: table[0]}
    # The table already includes the shift.
    shift = {"snr_shift_scale": 1.0} if "snr_shift_scale" in scheduler.config else {}
    return {"trained_betas": 1 - flat / np.concatenate([[1], flat[:-1]]), **kept, **shift}


REFUSED = {
    "num_inference_steps assigned": (AttributeError, "set_timesteps", lambda scheduler: {}),
    "final_alpha_cumprod assigned": (AttributeError, "from_config", lambda scheduler: {"final_alpha_cumprod": END}),
    "initial_alpha_cumprod assigned": (AttributeError, "from_config", lambda scheduler: {"initial_alpha_cumprod": END}),
    "config edited": (TypeError, "from_config", lambda scheduler: {"clip_sample": False}),
    "config registered anew": (
        AttributeError,
        "register_to_config",
        lambda scheduler: {"prediction_type": other_prediction(scheduler)},
    ),
    "alphas_cumprod replaced before planning": (AttributeError, "alphas_cumprod", replaced_table),
    "alphas_cumprod replaced before add_noise": (AttributeError, "alphas_cumprod", replaced_table),
}
"""The acts that the classes for NumPy refuse: the error, a word of its message, and the keys for ``from_config`` instead."""

COUNTED = (
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
)
"""The classes whose originals use an assigned number of steps in the next step."""

ROUNDED = ("LTXEulerAncestralRFScheduler",)
"""The classes that always draw float32 noise. The recorded float64 runs draw float64 noise."""

UNENDED = "LCMScheduler", "TCDScheduler"
"""The classes without a step to the level before timestep 0."""


def step(scheduler, x, t):
    e = model(scheduler.scale_model_input(x, t))
    return scheduler.step(e, t, x, generator=ds.NoiseSource.torch_cpu(abs(int(t))), return_dict=False)[0]


def check(case, found):
    """Asserts that a sample is the recorded one within a tolerance relative to max(1, |x|)."""
    expected = np.frombuffer(base64.b64decode(case["final"]), "<f8")
    if ACTS[case["act"]].type == "float16":
        tolerance = 1e-2  # Ten units of float16. Both sides round three steps to float16.
    elif case["act"].startswith("alphas_cumprod replaced"):
        tolerance = 2e-5  # from_config multiplies the replaced table again in float32.
    elif case["class"] == "ScoreSdeVeScheduler":
        tolerance = 2.4e-6  # Steps square levels, the exponentials of float32 logarithms with an error of 1.2e-6.
    elif getattr(ds, case["class"]).description.result_type == "at_least_float32" or case["class"] in ROUNDED:
        tolerance = 1e-7  # One side's noise is float32: SCM's original draws it, and so does our LTX.
    elif getattr(ds, case["class"]).description.adds_noise_at_training_levels and case["class"] != "SASolverScheduler":
        tolerance = 1e-12  # Both sides step in float64 from equal float32 tables.
    elif case["class"] == "IPNDMScheduler":
        tolerance = 5e-6  # torch's sine may be off in its last bit. The levels' error is ten times larger.
    elif case["class"] == "SASolverScheduler":
        # A step with noise squares a quotient of levels. That doubles their error of 1.2e-7.
        tolerance = 2.4e-7
    else:
        tolerance = 2e-8  # torch's float32 root makes some noise levels differ in their last bit.
    # These originals keep returning half precision: docs/DIFFERENCES.md.
    stay = "HeliosScheduler", "SASolverScheduler", "UniPCMultistepScheduler"
    assert found.dtype == case["type"] or (case["class"] in stay and case["type"] == "float16")
    assert np.max(np.abs(found.ravel() - expected) / np.maximum(1, np.abs(expected))) <= tolerance


def test_every_act_is_recorded_and_every_class():
    assert {case["act"] for case in CASES} == set(ACTS)
    assert {case["class"] for case in CASES} == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['class']}-{case['act']}") for case in CASES])
def test_acts_end_where_the_recorded_ones_do(case):
    act = ACTS[case["act"]]
    scheduler, x = make(getattr(ds, case["class"]), **act.config), cast(sample(act.items), act.type)
    is_unread = case["act"] == "final_alpha_cumprod assigned" and case["class"] in UNENDED
    if case["act"] in REFUSED and not is_unread:
        error, word, keys = REFUSED[case["act"]]
        with pytest.raises(error, match=word):
            perform(act, scheduler, x, step)
        if case["act"] == "num_inference_steps assigned" and case["class"] in COUNTED:
            return
        scheduler = type(scheduler).from_config(scheduler.config, **keys(scheduler))
        act = act._replace(before=None, after=None)
    check(case, perform(act, scheduler, x, step))


@pytest.mark.parametrize("name, end", [("DDIMScheduler", "final"), ("PNDMScheduler", "final"), ("DDIMInverseScheduler", "initial")])
def test_the_signal_variance_before_timestep_0_may_be_read(name, end):
    for keys, expected in (
        ({"set_alpha_to_one": True}, lambda table: 1),
        ({"set_alpha_to_one": False}, lambda table: table[0]),
        ({f"{end}_alpha_cumprod": END}, lambda table: END),
    ):
        scheduler = make(getattr(ds, name), **keys)
        assert getattr(scheduler, f"{end}_alpha_cumprod") == expected(scheduler.alphas_cumprod)


@pytest.mark.parametrize("name", UNSHORTENED)
def test_timesteps_that_steps_do_not_follow_are_refused(name):
    with pytest.raises(ds.UnsupportedError, match=f"timesteps or sigmas have been assigned.*set_timesteps.*{name}"):
        perform(ACTS["timesteps shortened"], make(getattr(ds, name)), sample(1), step)


def test_a_configuration_may_not_be_assigned():
    scheduler = ds.DDIMScheduler()
    with pytest.raises(AttributeError, match="config can't be assigned.*from_config"):
        scheduler.config = {**scheduler.config, "prediction_type": "v_prediction"}
