# SPDX-License-Identifier: Apache-2.0

"""Constructors, configurations, files and copies."""

import copy
import inspect
import math
import pickle

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import loop


def test_defaults_are_the_librarys(cls):
    parameters = inspect.signature(cls.__init__).parameters
    config = cls().config
    for name, parameter in parameters.items():
        if name not in ("self", "others"):
            assert config[name] == parameter.default, name


def test_values_are_kept_and_read_by_key_and_attribute():
    scheduler = ds.DEISMultistepScheduler(500, solver_order=3, trained_betas=np.linspace(0.001, 0.1, 500))
    assert scheduler.config.solver_order == scheduler.config["solver_order"] == 3
    assert len(scheduler) == scheduler.config.num_train_timesteps == 500
    assert "solver_order" not in scheduler.config["_use_default_values"]
    assert "num_train_timesteps" not in scheduler.config["_use_default_values"]


def test_configurations_cannot_be_changed(cls):
    config = cls().config
    with pytest.raises(TypeError):
        config["beta_start"] = 1
    with pytest.raises(TypeError):
        config.update(beta_start=1)
    with pytest.raises(TypeError):
        config.beta_start = 1


def test_unknown_arguments_and_values_are_refused():
    with pytest.raises(TypeError):
        ds.DEISMultistepScheduler(nonsense=1)
    with pytest.raises(ValueError, match="solver_order"):
        ds.DEISMultistepScheduler(solver_order=7)
    with pytest.raises(ds.InvalidValueError) as caught:
        ds.DDIMScheduler(beta_schedule="cubic")
    assert caught.value.status == 1


def test_the_inverse_takes_an_old_name_and_passes_over_others():
    assert ds.DDIMInverseScheduler(set_alpha_to_zero=False, thresholding=True).config.set_alpha_to_one is False


def test_what_nobody_set_gets_the_other_classs_default():
    ddim = ds.DDIMScheduler(beta_start=0.00085)
    deis = ds.DEISMultistepScheduler.from_config(ddim.config)
    assert deis.config.beta_start == 0.00085
    assert deis.config.timestep_spacing == "linspace"
    back = ds.DDIMScheduler.from_config(ds.DEISMultistepScheduler.from_config(dict(ddim.config)).config)
    assert back.config.beta_start == 0.00085


def test_foreign_keys_are_kept_for_the_way_back():
    deis, unused = ds.DEISMultistepScheduler.from_config(
        {"clip_sample": False, "sigma_max": 80.0, "beta_end": 0.012}, return_unused_kwargs=True, solver_order=3, nonsense=1
    )
    assert deis.config.clip_sample is False and deis.config.solver_order == 3
    assert unused == {"clip_sample": False, "sigma_max": 80.0, "nonsense": 1}
    assert ds.DDIMScheduler.from_config(deis.config).config.clip_sample is False


def test_files_come_back(cls, tmp_path):
    scheduler = cls(beta_schedule="scaled_linear", beta_end=0.012)
    scheduler.save_pretrained(tmp_path / "model" / "scheduler")
    for again in (
        cls.from_pretrained(tmp_path / "model", subfolder="scheduler"),
        cls.from_pretrained(tmp_path / "model" / "scheduler"),
        cls.from_pretrained(tmp_path / "model" / "scheduler" / "scheduler_config.json"),
    ):
        assert {k: v for k, v in again.config.items() if k[0] != "_"} == {k: v for k, v in scheduler.config.items() if k[0] != "_"}
    assert cls.from_pretrained(tmp_path / "model", "scheduler", beta_end=0.02).config.beta_end == 0.02


def test_infinities_come_back(tmp_path):
    ds.DPMSolverMultistepScheduler().save_config(tmp_path)
    assert "-Infinity" in (tmp_path / "scheduler_config.json").read_text()
    assert ds.DPMSolverMultistepScheduler.from_pretrained(tmp_path).config.lambda_min_clipped == -math.inf


def test_missing_and_damaged_files_are_told(tmp_path):
    with pytest.raises(OSError):
        ds.DDIMScheduler.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(OSError):
        ds.DDIMScheduler.from_pretrained(tmp_path)


def test_deis_may_end_without_noise():
    scheduler = ds.DEISMultistepScheduler.from_config({}, final_sigmas_type="zero")
    scheduler.set_timesteps(5)
    assert scheduler.sigmas[-1] == 0
    assert scheduler.config.diffusion_scheduling_final_sigmas_type == "zero"


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_go_their_own_way_from_where_the_original_stands(cls, rng, make_copy):
    scheduler = cls()
    x = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    samples = loop(scheduler, x)
    scheduler.set_timesteps(6)
    for t, sample in list(zip(scheduler.timesteps, samples))[:3]:
        scheduler.step(np.tanh(sample), t, sample)
    other = make_copy(scheduler)
    for each in (other, scheduler):
        for t, sample, following in list(zip(scheduler.timesteps, samples, samples[1:]))[3:]:
            assert np.array_equal(each.step(np.tanh(sample), t, sample).prev_sample, following)
    assert other.config == scheduler.config
