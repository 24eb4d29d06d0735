# SPDX-License-Identifier: Apache-2.0

"""The script that records the golden vectors, which draws the configurations and has the exact recurrences."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "Tests" / "Goldens" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_goldens", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _load()
