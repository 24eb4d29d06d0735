# SPDX-License-Identifier: Apache-2.0

"""The binding's functions, statuses and structs against the header, and the paths for compilers."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import diffusion_scheduling as ds
import numpy as np
import pytest
from conftest import BUILT
from diffusion_scheduling import _library

HEADER = Path(__file__).resolve().parents[3] / "Sources/CDiffusionScheduling/include/diffusion_scheduling.h"


@pytest.fixture(scope="module")
def header():
    return HEADER.read_text()


def test_every_status_has_an_exception(header):
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    members = re.search(r"enum ds_status \{(.*?)\} ds_status;", code, re.S).group(1)
    statuses = {
        name.strip(): int(number) for name, number in (member.split("=") for member in members.split(",") if member.strip())
    }
    assert statuses["DS_OK"] == _library.OK and statuses["DS_BUFFER_TOO_SMALL"] == _library.BUFFER_TOO_SMALL
    missing = {name: number for name, number in statuses.items() if number != _library.OK and number not in _library.EXCEPTIONS}
    assert not missing, "_library.EXCEPTIONS lacks them"
    assert set(_library.EXCEPTIONS) <= set(statuses.values())


def test_exceptions_have_the_status_and_are_built_in_ones_too():
    error = _library.error(26)
    assert isinstance(error, _library.OutOfMemoryError) and isinstance(error, MemoryError) and error.status == 26
    assert isinstance(_library.error(27), _library.KernelError) and isinstance(_library.error(27), RuntimeError)
    assert isinstance(_library.error(8), IndexError) and isinstance(_library.error(1), ValueError)


def test_every_function_is_declared_with_as_many_arguments(header):
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    declared = {
        name: 0 if arguments.strip() == "void" else arguments.count(",") + 1
        for name, arguments in re.findall(r"ds_status (ds_\w+)\(([^)]*)\);", code)
    }
    mirrored = {name: len(types) for name, types in _library._SIGNATURES.items()}
    unused = {"ds_scheduler_scale_model_input", "ds_session_step_with_input"}
    assert {name: count for name, count in declared.items() if name not in unused} == mirrored


@pytest.mark.parametrize(
    "name, struct",
    [
        ("ds_plan_properties", _library.PlanProperties),
        ("ds_tensor", _library.Tensor),
        ("ds_combination", _library.Combination),
        ("ds_store", _library.Store),
        ("ds_row", _library.Row),
        ("ds_guidance", _library.Guidance),
    ],
)
def test_structs_have_the_fields_of_the_header(header, name, struct):
    body = re.search(rf"typedef struct {name} \{{(.*?)\n\}}", header, re.S).group(1)
    fields = re.findall(r"^    [\w ]+?[ *](\w+)(?:\[\w+\])?;", body, re.M)
    assert fields == [field for field, _ in struct._fields_]


def test_a_combination_is_ten_doubles(header):
    assert ctypes.sizeof(_library.Combination) == 8 * (4 + _library.MAX_SLOTS)
    assert f"DS_MAX_SLOTS = {_library.MAX_SLOTS}," in header and f"DS_MAX_STORES = {_library.MAX_STORES}," in header


def test_element_types_have_sizes():
    assert _library.element_types() >= {_library.FLOAT32, _library.FLOAT64}


def test_messages_have_pythons_names():
    scheduler, x = ds.DEISMultistepScheduler(), np.zeros((2, 3), np.float32)
    with pytest.raises(ds.TimestepError, match="no timesteps have been set: call set_timesteps first"):
        ds.Session(scheduler)
    scheduler.set_timesteps(2)
    session = ds.Session(scheduler)
    with pytest.raises(ds.SchedulerError, match="unconditional is None"):
        session.step(x, x, guidance=ds.Guidance(2.0))
    memory = np.zeros(7, np.float32)
    with pytest.raises(ds.InvalidValueError, match="out overlaps sample"):
        session.step(x, memory[:6].reshape(2, 3), out=memory[1:].reshape(2, 3))
    with pytest.raises(ds.InvalidValueError, match="model_output has the shape"):
        session.step(x[:1], x, unconditional=x[:1], guidance=ds.Guidance(2.0))
    session.step(x, session.step(x, x))
    with pytest.raises(ds.StepPastEndError, match="all 2 steps have been taken: call set_timesteps, or reset on a session,"):
        session.step(x, x)
    with pytest.raises(ds.InvalidValueError, match="^noise_pred_text has the shape .* like noise_cfg"):
        ds.rescale_noise_cfg(x, x[:1], 0.5)
    with pytest.raises(ds.InvalidValueError, match="^multiprocessors is 0"):
        ds.NoiseSource.torch_cuda(0, multiprocessors=0, threads_per_multiprocessor=2048)
    with pytest.raises(ds.InvalidValueError, match="dtype is int32, but must be float32 or float64"):
        ds.NoiseSource.numpy(0).standard_normal(3, np.int32)


def test_messages_quote_configurations_word_for_word():
    with pytest.raises(ds.InvalidValueError, match='^beta_schedule is "conditional NULL", but must be'):
        ds.DDIMScheduler(beta_schedule="conditional NULL")


# ---- Paths for compilers


@BUILT
def test_the_package_has_what_a_compiler_needs(header):
    assert (Path(ds.get_include()) / "diffusion_scheduling.h").read_text() == header
    assert Path(ds.get_library()).parent == Path(ds.get_lib_dir())
    assert Path(ds.get_library()).read_bytes()[:4] == b"\x7fELF"
    assert (Path(ds.get_lib_dir()) / "libdiffusion_scheduling.so").read_text() == f"INPUT({Path(ds.get_library()).name})\n"
    assert (Path(ds.get_cmake_dir()) / "DiffusionSchedulingConfig.cmake").is_file()
    assert f"Version: {ds.__version__}\n" in (Path(ds.get_pkgconfig_dir()) / "diffusion_scheduling.pc").read_text()


@BUILT
def test_the_package_names_its_own_library_whichever_is_loaded(tmp_path):
    other = tmp_path / "other.so"
    other.write_bytes(Path(ds.get_library()).read_bytes())
    program = "import diffusion_scheduling as ds; print(ds.get_library())"
    environment = {"DIFFUSION_SCHEDULING_LIBRARY": str(other), "PYTHONPATH": str(Path(ds.__file__).parents[1])}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ds.get_library()


def test_missing_files_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("diffusion_scheduling._development.LIBRARY", tmp_path / "lib" / "libdiffusion_scheduling.so.0")
    for function in (ds.get_include, ds.get_lib_dir, ds.get_library, ds.get_cmake_dir, ds.get_pkgconfig_dir):
        with pytest.raises(FileNotFoundError, match="is missing: install the wheel, or run `make python`"):
            function()
