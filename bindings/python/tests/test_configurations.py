# SPDX-License-Identifier: Apache-2.0

"""Constructors, configurations, files and copies."""

import copy
import inspect
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import BUILT, CLASSES, loop, step


def test_signatures_are_the_descriptions(cls):
    parameters = inspect.signature(cls).parameters
    described = cls.description.parameters
    assert list(parameters) == [each.key for each in described if not each.override_name] + [
        each.override_name for each in described if each.override_name
    ]
    config = cls().config
    for each in described:
        assert parameters[each.name].default == each.default, each.name
        assert each.override_name or config[each.key] == each.default, each.key
        assert each.summary in cls.__doc__
    assert set(config["_use_default_values"]) == {each.key for each in described if not each.override_name}
    step = inspect.signature(cls.step).parameters
    assert list(step)[1:4] == ["model_output", "timestep", "sample"] and set(cls.description.option_names) <= set(step)


def test_a_value_may_be_given_by_position_or_by_name(cls):
    first = cls.description.parameters[0]
    by_position, by_name = cls(2 * first.default), cls(**{first.name: 2 * first.default})
    for scheduler in (by_position, by_name):
        assert first.key not in scheduler.config.get("_use_default_values", [])
    assert by_position.config == by_name.config


def test_values_are_kept_and_read_by_key_and_attribute():
    scheduler = ds.DEISMultistepScheduler(500, solver_order=3, trained_betas=np.linspace(0.001, 0.1, 500))
    assert scheduler.config.solver_order == scheduler.config["solver_order"] == 3
    assert len(scheduler) == scheduler.config.num_train_timesteps == 500
    assert "solver_order" not in scheduler.config["_use_default_values"]
    assert "num_train_timesteps" not in scheduler.config["_use_default_values"]


def test_configurations_cannot_be_changed(cls):
    config = cls().config
    with pytest.raises(TypeError):
        config["num_train_timesteps"] = 1
    with pytest.raises(TypeError):
        config.update(num_train_timesteps=1)
    with pytest.raises(TypeError):
        config.num_train_timesteps = 1


def test_unknown_arguments_and_values_are_refused():
    with pytest.raises(TypeError):
        ds.DEISMultistepScheduler(nonsense=1)
    with pytest.raises(ValueError, match="solver_order"):
        ds.DEISMultistepScheduler(solver_order=7)
    with pytest.raises(ds.InvalidValueError) as caught:
        ds.DDIMScheduler(beta_schedule="cubic")
    assert caught.value.status == 1


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
    first = cls.description.parameters[0]
    key, value = ("num_train_timesteps", 900) if "num_train_timesteps" in cls().config else (first.key, 2 * first.default)
    scheduler = cls(**{key: value})
    scheduler.save_pretrained(tmp_path / "model" / "scheduler")
    for again in (
        cls.from_pretrained(tmp_path / "model", subfolder="scheduler"),
        cls.from_pretrained(tmp_path / "model" / "scheduler"),
        cls.from_pretrained(tmp_path / "model" / "scheduler" / "scheduler_config.json"),
    ):
        assert {k: v for k, v in again.config.items() if k[0] != "_"} == {k: v for k, v in scheduler.config.items() if k[0] != "_"}
    other = value - 1 if isinstance(value, int) else 0.75 * value
    assert cls.from_pretrained(tmp_path / "model", "scheduler", **{key: other}).config[key] == other


def test_infinities_come_back(tmp_path):
    ds.DPMSolverMultistepScheduler().save_config(tmp_path)
    assert "-Infinity" in (tmp_path / "scheduler_config.json").read_text()
    assert ds.DPMSolverMultistepScheduler.from_pretrained(tmp_path).config.lambda_min_clipped == -math.inf


def test_missing_and_damaged_files_are_told(tmp_path):
    with pytest.raises(ds.FileAccessError):
        ds.DDIMScheduler.from_pretrained(tmp_path)
    for text in ("{", "[" * 100_000, '{"a":' * 100_000):
        (tmp_path / "scheduler_config.json").write_text(text)
        with pytest.raises(ds.MalformedError) as caught:
            ds.DDIMScheduler.from_pretrained(tmp_path)
        assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


def test_a_byte_order_mark_is_read_or_refused_in_words(tmp_path):
    (tmp_path / "scheduler_config.json").write_bytes(b"\xef\xbb\xbf" + b'{"beta_end": 0.012}')
    try:
        assert ds.DDIMScheduler.from_pretrained(tmp_path).config.beta_end == 0.012
    except ds.MalformedError as error:
        assert "byte order mark" in str(error)


def test_what_nobody_had_set_in_a_file_gets_the_classs_default(tmp_path):
    (tmp_path / "scheduler_config.json").write_text(
        '{"beta_end": 0.012, "timestep_spacing": "trailing", "_use_default_values": ["timestep_spacing"]}'
    )
    for cls, spacing in ((ds.DDIMScheduler, "leading"), (ds.DEISMultistepScheduler, "linspace")):
        scheduler, unused = cls.from_pretrained(tmp_path, return_unused_kwargs=True, nonsense=1)
        assert scheduler.config.timestep_spacing == spacing and scheduler.config.beta_end == 0.012
        assert "timestep_spacing" in scheduler.config["_use_default_values"]
        assert "beta_end" not in scheduler.config["_use_default_values"] and unused == {"nonsense": 1}


def test_deis_may_end_without_noise():
    for scheduler in (
        ds.DEISMultistepScheduler.from_config({}, final_sigmas_type="zero"),
        ds.DEISMultistepScheduler(final_sigmas_type="zero"),
    ):
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] == 0
        assert scheduler.config.diffusion_scheduling_final_sigmas_type == "zero"


def test_noise_levels_have_names():
    for cls in (ds.EulerDiscreteScheduler, ds.DEISMultistepScheduler, ds.FlowMatchEulerDiscreteScheduler):
        scheduler = cls()
        scheduler.set_timesteps(8, sigma_schedule="kl_optimal")
        levels = np.asarray(scheduler.sigmas, float)
        angles = np.arctan(levels[:8])
        assert len(scheduler.timesteps) == 8
        np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-4)
        with pytest.raises(ValueError, match="bong_tangent"):
            scheduler.set_timesteps(8, sigma_schedule="best")
        with pytest.raises(ValueError, match="left out where timesteps or sigmas are given"):
            scheduler.set_timesteps(sigmas=[1.0, 0.5], sigma_schedule="karras")


def test_samplers_have_names():
    model = ds.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for base in (model, model.config, dict(model.config)):
        scheduler = ds.make_scheduler("DPM++ 2M Karras", base, solver_order=3)
        assert type(scheduler) is ds.DPMSolverMultistepScheduler and scheduler.config.use_karras_sigmas
        assert scheduler.config.beta_end == 0.012 and scheduler.config.solver_order == 3
    assert ds.make_scheduler("dpmpp_2m karras").sampler_names[0] == "DPM++ 2M Karras"
    assert ds.make_scheduler("deis:tab3").config.diffusion_scheduling_method == "t_ab"
    scheduler.set_timesteps(4)
    scheduler.step(np.ones((1, 2), np.float32), scheduler.timesteps[0], np.ones((1, 2), np.float32))
    assert {"DPM++ 2M", "euler_ancestral", "DEIS tAB3"} <= set(ds.sampler_names())
    for name in ds.sampler_names():
        assert name in ds.make_scheduler(name).sampler_names
    with pytest.raises(ds.UnsupportedError, match="nearest is DPM.. 2M"):
        ds.make_scheduler("res_multistep")
    with pytest.raises(ValueError, match="its scheduler chooses its levels itself"):
        ds.make_scheduler("LCM Karras")
    with pytest.raises(ValueError, match="_class_name"):
        ds.make_scheduler("Euler", {"beta_end": 0.012})
    with pytest.raises(ValueError, match="model has the type int"):
        ds.make_scheduler("Euler", 5)


def test_a_sampler_is_for_the_model_of_a_file(tmp_path):
    ds.EulerDiscreteScheduler(beta_end=0.012).save_pretrained(tmp_path)
    for path in (tmp_path, str(tmp_path), tmp_path / "scheduler_config.json"):
        assert ds.make_scheduler("DDIM", path).config.beta_end == 0.012
    with pytest.raises(ds.FileAccessError):
        ds.make_scheduler("DDIM", tmp_path / "none")


def test_deis_has_the_methods_of_its_paper():
    lists = {}
    for method in (None, "rho_ab", "t_ab", "rho_rk"):
        scheduler = ds.DEISMultistepScheduler(solver_order=4, method=method)
        samples = loop(scheduler, np.ones((1, 4), np.float32), steps=3)
        lists[method] = list(scheduler.timesteps)
        assert len(samples) == len(lists[method]) + 1
    assert lists["t_ab"] == lists["rho_ab"] == lists[None] and lists["rho_rk"][::4] == lists[None] and len(lists["rho_rk"]) == 12
    with pytest.raises(ValueError, match="rho_ab, t_ab, rho_rk, or null"):
        ds.DEISMultistepScheduler(method="euler")


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_go_their_own_way_from_where_the_original_stands(cls, rng, make_copy):
    scheduler = cls()
    samples = loop(scheduler, rng.standard_normal((2, 3, 4, 4)).astype(np.float32))
    scheduler.set_timesteps(6)
    steps = list(zip(scheduler.timesteps, samples, samples[1:]))
    for t, sample, _ in steps[:3]:
        step(scheduler, sample, t)
    other = make_copy(scheduler)
    for each in (other, scheduler):
        for t, sample, following in steps[3:]:
            assert np.array_equal(step(each, sample, t)[0], following)
    assert other.config == scheduler.config and other.num_inference_steps == scheduler.num_inference_steps


@pytest.mark.parametrize("kind", CLASSES, ids=lambda cls: cls.__name__)
def test_classes_and_outputs_are_importable_by_name(kind):
    scheduler = kind()
    scheduler.set_timesteps(5)
    x = np.zeros(4, np.float32)
    output = scheduler.step(x, scheduler.timesteps[0], x, variance_noise=x)
    assert getattr(ds, kind.__name__) is kind and pickle.loads(pickle.dumps(kind)) is kind
    assert type(pickle.loads(pickle.dumps(output))) is type(output)


@BUILT
@pytest.mark.parametrize("name", ["make_stubs.py", "make_scheduler_table.py"])
def test_made_files_are_up_to_date(name):
    script = Path(__file__).resolve().parents[1] / name
    if not script.exists():
        pytest.skip("the script is only in the repository")
    environment = os.environ | {"PYTHONPATH": str(Path(ds.__file__).parents[1])}
    run = subprocess.run([sys.executable, script, "--check"], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
