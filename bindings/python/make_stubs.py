#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes ``schedulers.pyi`` and ``diffusers.pyi``, the types of the classes made at import, for type checkers and editors.

``make python`` runs this script, and the wheel contains the files. With ``--check``, it writes nothing, and fails if a file is out
of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from diffusion_scheduling import _core, _schedulers
from diffusion_scheduling._description import DESCRIPTIONS, Description

PACKAGE = Path(_schedulers.__file__).parent

HEAD = "# Made by make_stubs.py.\n\n"
IMPORTS = """from collections.abc import Sequence
from typing import Any, NamedTuple

from ._arrays import Array
from ._noise import Generator
from ._schedulers import OrderedScheduler, StatelessScheduler

"""

DROP_INS = HEAD + "from typing import Any\n\nimport diffusers\n\n"
MAKE = "def make_scheduler(name: str, model: Any = ..., **kwargs: Any) -> Any: ...\n"


def annotation(text: str) -> str:
    """The Python annotation of a type in a description. A class of another library becomes Any."""
    words = text.replace("list[float]", "Sequence[float] | Array").split(" | ")
    return " | ".join("Any" if word.endswith("Mixin") else word for word in words)


def parameter(each: inspect.Parameter) -> str:
    default = "" if each.default is each.empty else " = ..."
    return f"{each.name}: {annotation(each.annotation)}{default}"


def method(name: str, parameters: Iterable[inspect.Parameter], returns: str) -> str:
    texts, is_keyword = ["self"], False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not is_keyword:
            texts.append("*")
            is_keyword = True
        texts.append(parameter(each))
    return f"    def {name}({', '.join(texts)}) -> {returns}: ...\n"


def part(name: str, made: Callable[..., object]) -> str:
    first = next(each for each in inspect.signature(made).parameters if each != "self")
    rest = "*args: Any, sample: Array | None = ..., out: Array | None = ..., **others: Any"
    return f"    def {name}(self, {first}: Any, {rest}) -> Array: ...\n"


def array_class(description: Description) -> str:
    name = description.class_name
    output = _schedulers.OUTPUTS[description.report if description.returns_report else None].__name__
    base = "StatelessScheduler" if description.is_stateless else "OrderedScheduler"
    velocity = "    def get_velocity(self, sample: Array, noise: Array, timesteps: Any, *, out: Array | None = ...) -> Array: ...\n"
    return (
        f"class {name}({base}):\n"
        + method("__init__", _schedulers.constructor_parameters(description), "None")
        + method("set_timesteps", _schedulers.planning_parameters(description), "None")
        + method("step", _schedulers.step_parameters(description), f"{output} | tuple[Array, ...]")
        + (velocity if description.has_velocity else "")
        + "".join(part(name, made) for name, made in _core.parts(description).items())
    )


def output_class(report: str | None) -> str:
    fields = "".join(f"    {name}: Array\n" for name in ["prev_sample", *([report] if report else [])])
    return f"class {_schedulers.OUTPUTS[report].__name__}(NamedTuple):\n{fields}"


def stubs() -> dict[Path, str]:
    """The stub files' texts, by path."""
    outputs = [output_class(report) for report in _schedulers.OUTPUTS]
    names = [each.__name__ for each in _schedulers.OUTPUTS.values()]
    arrays = HEAD + IMPORTS + "\n".join([*outputs, *map(array_class, DESCRIPTIONS.values())])
    classes = "".join(f"class {name}(diffusers.{name}): ...\n" for name in DESCRIPTIONS)
    return {
        PACKAGE / "schedulers.pyi": f"{arrays}\n__all__ = {[*names, *DESCRIPTIONS]!r}\n",
        PACKAGE / "diffusers.pyi": f"{DROP_INS}{classes}\n{MAKE}\n__all__ = {list(DESCRIPTIONS)!r}\n",
    }


def main() -> int:
    stale = [path for path, text in stubs().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path} is out of date: run `make python`")
        return int(bool(stale))
    for path, text in stubs().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
