# SPDX-License-Identifier: Apache-2.0

"""Whole runs against recorded runs of diffusers. Tests/Goldens/generate_classes.py describes the records and the test problem."""

import base64
import json
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "Tests/Goldens"
SHAPE = (2, 3, 2, 2)
J = np.arange(np.prod(SHAPE)).reshape(SHAPE)
TOLERANCE = 1e-4
"""The bound of a last sample, relative to max(1, |x|). Ten times the error of diffusers' own float32 run is added. The records'
levels are torch's float32 numbers, some of which differ from ours in the last bit."""


def records():
    files = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    every = [record for file in files for record in file.get("records", []) if "request" in record]
    return {name: [record for record in every if record["class"] == name] for name in {record["class"] for record in every}}


RECORDS = records()
assert RECORDS, f"no records in {FOLDER}"


def request_of(record):
    return {"num_inference_steps" if key == "n" else key: value for key, value in record["request"].items()}


def noise(index):
    return ((53 * (index + 1) * (J + 1) + 29 * index + 7) % 256) / 64 - 2


def numbers(record, name):
    return np.frombuffer(base64.b64decode(record[name]), "<f8").reshape(SHAPE)


def finish(scheduler, record, convert=lambda array: array):
    """The last sample of a run. `convert` makes arrays of another library from NumPy's."""
    scheduler.set_timesteps(**request_of(record))
    # The model gets the reference's timesteps. Between ancestral KDPM2's levels they have lost digits.
    timesteps, begin = record["timesteps"][: len(scheduler.timesteps)], record["begin_index"]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    x = numbers(record, "initial") if begin else record.get("init_noise_sigma", 1) * (((37 * J + 11) % 128) / 32 - 2)
    x, count = convert(x), scheduler.config.get("num_train_timesteps", 1000)
    accepted = scheduler.description.option_names
    options = {key: value for key, value in record["options"].items() if key in accepted}
    for index in range(begin, len(timesteps)):
        t = scheduler.timesteps[index]
        e = np.asarray(scheduler.scale_model_input(x, t), np.float64)
        e = 0.8 * e / (1 + 0.25 * e * e) + 0.3 * (timesteps[index] / count) - 0.1
        if scheduler.config.get("variance_type") in ("learned", "learned_range"):
            e = np.concatenate([e, np.full_like(e, 0.5)], axis=1)
        if "n_grid" in scheduler.config:
            e = np.concatenate([(1 + k / 8) * e for k in range(scheduler.config["n_grid"])], axis=-1)
        e = convert(e)
        x = scheduler.step(e, t, x, **options, variance_noise=noise(index)).prev_sample
    return np.asarray(x)


def differs_on_purpose(record, config):
    """Whether the run differs on purpose. Our LCM adds no noise after the last step, our PNDM takes each step once in a run that
    begins at a later step, and inverted levels refuse a sigma_max above 1."""
    request = record["request"].keys()
    return (
        {"timesteps", "strength"} <= request
        or ("skip_prk_steps" in config and record["begin_index"] > 0)
        or (config.get("invert_sigmas") and config.get("sigma_max", 0) > 1)
    )


def is_another_run(scheduler, record):
    """Whether a timestep is rounded to a neighbour of the record's, or diffusers has more timesteps than requested."""
    scheduler.set_timesteps(**request_of(record))
    if len(scheduler.timesteps) < len(record["timesteps"]):
        return True
    distances = np.abs(scheduler.timesteps - np.array(record["timesteps"]))
    assert np.max(distances) <= 1, record
    return np.max(distances) == 1


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_runs_end_where_the_recorded_ones_do(name):
    if not hasattr(ds, name):
        pytest.skip("the library doesn't have the class")
    for record in RECORDS[name]:
        config = {**json.loads(record["config_text"]), **record.get("given", {})}
        if record["loose"] or differs_on_purpose(record, config):
            continue
        if is_another_run(getattr(ds, name).from_config(config), record):
            continue
        found, expected = finish(getattr(ds, name).from_config(config), record), numbers(record, "final_exact")
        scale = np.maximum(1, np.abs(expected))
        allowed = TOLERANCE + 10 * np.nan_to_num(np.max(np.abs(numbers(record, "final_float32") - expected) / scale))
        assert np.max(np.abs(found - expected) / scale) <= allowed, record
