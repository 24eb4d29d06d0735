#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Renders the Python reference with pdoc, and checks that every public name has a sentence, its errors and its formula.

    DIFFUSION_SCHEDULING_LIBRARY=… PYTHONPATH=bindings/python python3 docs/Site/python_reference.py FOLDER

The classes on arrays are made from the library's descriptions, so the package is imported with the library that the variable names.
The drop-ins would need diffusers and torch, so their page is made from the module's source and the names in the descriptions. The
modules on tensors are imported with a stand-in for torch. check_docstrings.py has the rules for errors and formulas. Prints a
sentence for each fault, and fails if there is one.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import check_docstrings
import diffusion_scheduling
import diffusion_scheduling.schedulers as schedulers
import jinja2
import numpy
import pdoc
import pdoc.doc
import pdoc.render
from diffusion_scheduling import _core, _noise, _schedulers
from diffusion_scheduling._description import DESCRIPTIONS
from doxygen_filter import rows_of
from formulas import formula_text

PACKAGE = Path(diffusion_scheduling.__file__).parent
MODULES = [
    "diffusion_scheduling",
    *(
        f"diffusion_scheduling.{name}"
        for name in ("schedulers", "samplers", "serving", "guidance", "diffusers", "torch", "operators")
    ),
]
BASES = [_schedulers.ArrayScheduler, _schedulers.StatelessScheduler, _schedulers.OrderedScheduler]


def add_bases() -> None:
    """Adds the classes' private bases to the reference, to show the inherited members."""
    for base in BASES:
        setattr(schedulers, base.__name__, base)
        shared = [parent for parent in base.__mro__ if parent.__module__ == _core.__name__]  # Shared with the drop-ins.
        for parent in shared:
            for name in vars(parent).keys() - vars(base).keys():
                if not name.startswith("_"):
                    setattr(base, name, vars(parent)[name])
    schedulers.__all__[:0] = [base.__name__ for base in BASES]
    package = diffusion_scheduling
    package.__all__ = [name for name in package.__all__ if name not in schedulers.__all__]  # Shown once, in `schedulers`.


def add_formulas() -> None:
    """Adds the formulas and their papers to the classes' docstrings, behind the first paragraph."""
    for name in DESCRIPTIONS:
        scheduler = getattr(schedulers, name)
        first, others = scheduler.__doc__.split("\n\n", 1)
        scheduler.__doc__ = f"{first}\n\n{formula_text(name)}\n{others}"


def name_types() -> None:
    """Lets pdoc resolve annotations: sets the module of methods compiled from text, and adds the names that they use."""
    for name in DESCRIPTIONS:
        for method in vars(getattr(schedulers, name)).values():
            if isinstance(method, types.FunctionType):
                method.__module__ = schedulers.__name__
    array = numpy.ndarray  # Without the element type, which is Any in the sources.
    for module in (_schedulers, _noise, *(sys.modules[name] for name in MODULES if name in sys.modules)):
        if "Array" in vars(module):
            module.Array = array  # type: ignore[attr-defined]
    named = {name: getattr(_schedulers, name) for name in ("Any", "Array", "Sequence")}
    vars(schedulers).update(named, Tensor=array, Generator=_noise.Generator, SchedulerMixin=_schedulers.ArrayScheduler)


def drop_ins() -> types.ModuleType:
    """A module like ``diffusion_scheduling.diffusers``, made without diffusers and torch."""
    path = PACKAGE / "diffusers.py"
    tree = ast.parse(path.read_text("utf-8"))
    module = types.ModuleType("diffusion_scheduling.diffusers", ast.get_docstring(tree))
    module.__spec__ = ModuleSpec(module.__name__, None)
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    scope: dict[str, Any] = {"Any": Any, "__name__": module.__name__}
    exec(compile(ast.Module(functions, []), str(path), "exec"), scope)  # Their bodies aren't run.
    for each in functions:
        setattr(module, each.name, scope[each.name])
    for name in DESCRIPTIONS:
        text = (
            f"The drop-in for ``diffusers.{name}``, with its constructor, arguments and results. "
            f"`diffusion_scheduling.schedulers.{name}` explains the parameters and the options of a run.\n\n{formula_text(name)}\n"
            "Raises the errors of the original, and those of `diffusion_scheduling.schedulers`."
        )
        setattr(module, name, type(name, (), {"__doc__": text, "__module__": module.__name__}))
    module.__dict__["Any"] = Any
    module.__dict__["__all__"] = [*DESCRIPTIONS, *(each.name for each in functions)]
    return module


class StandIn:
    """A stand-in for torch or a name in it. Types are classes, because annotations combine them with |."""

    TYPES = "Tensor", "dtype", "device", "memory_format"

    def __init__(self, path: str) -> None:
        self.path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {"__module__": self.path}) if name in self.TYPES else StandIn(f"{self.path}.{name}")
        setattr(self, name, found)
        return found

    def __call__(self, *arguments: Any, **named: Any) -> StandIn:
        return self

    def __repr__(self) -> str:
        return self.path


def import_modules_on_tensors() -> None:
    """Imports the modules on tensors with a stand-in for torch."""
    torch = StandIn("torch")
    stand_ins: dict[str, Any] = {"torch": torch, "torch.autograd": torch.autograd, "torch.nn": torch.nn}
    sys.modules.update(stand_ins)
    for name in ("torch", "operators"):
        importlib.import_module(f"diffusion_scheduling.{name}")
    vars(sys.modules["diffusion_scheduling.operators"])["Tensor"] = torch.Tensor  # Imported for type checkers only.


def public(member: pdoc.doc.Doc[Any]) -> Iterator[pdoc.doc.Doc[Any]]:
    """A member and its public members, as the reference shows them."""
    yield member
    if isinstance(member, pdoc.doc.Class):
        for each in member.own_members:
            if not each.name.startswith("_"):
                yield from public(each)


def lead_to_bases(folder: Path) -> None:
    """Redirects links to inherited members to the bases. pdoc links to the class that a docstring names."""
    page = folder / "diffusion_scheduling/schedulers.html"
    text = page.read_text("utf-8")
    anchors = set(re.findall(r'id="([^"]*)"', text))

    def led(match: re.Match[str]) -> str:
        found = (f"{base.__name__}.{match[2]}" for base in BASES)
        return (
            match[0]
            if f"{match[1]}.{match[2]}" in anchors
            else f'href="#{next((each for each in found if each in anchors), match[1])}"'
        )

    page.write_text(re.sub(r'href="#(\w+)\.(\w+)"', led, text), "utf-8")


def with_lists(docstring: str) -> str:
    """A docstring with its aligned names and texts, written as in the C headers, as a Markdown list."""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        rows = rows_of(paragraph.split("\n"))
        paragraphs.append("\n".join(f"- **{term}**: {' '.join(text)}" for term, text in rows) if rows else paragraph)
    return "\n\n".join(paragraphs)


def subject(doc: pdoc.doc.Doc[Any]) -> Any:
    """What a docstring is about: a class, a function, a property, or a value."""
    parts = doc.qualname.split(".")
    owner = sys.modules[doc.modulename]
    for part in parts[:-1]:
        owner = getattr(owner, part)
    found = inspect.getattr_static(owner, parts[-1], doc.obj)
    return getattr(found, "__func__", found)


def faults() -> list[str]:
    found, docs = [], []
    for name in MODULES:
        module = pdoc.doc.Module(sys.modules[name])
        if not module.docstring:
            found.append(f"{name} has no docstring")
        for member in module.members.values():
            if not member.name.startswith("_") and not isinstance(member, pdoc.doc.Module):
                docs += [(each.fullname, subject(each), each.docstring) for each in public(member)]
    found += [f"{name} has no docstring" for name, _, text in docs if not text.strip()]
    made = {
        f"{module}.{name}"
        for module in ("diffusion_scheduling.schedulers", "diffusion_scheduling.diffusers")
        for name in DESCRIPTIONS
    }
    return found + sorted(set(check_docstrings.faults(check_docstrings.Package(PACKAGE), docs, made)))


def main() -> int:
    folder = Path(sys.argv[1])
    add_bases()
    add_formulas()
    import_modules_on_tensors()
    name_types()
    sys.modules["diffusion_scheduling.diffusers"] = diffusion_scheduling.diffusers = drop_ins()  # type: ignore[attr-defined]
    shown = pdoc.render.env.filters["to_markdown"]
    pdoc.render.env.filters["to_markdown"] = jinja2.pass_context(lambda context, text: shown(context, with_lists(text)))
    pdoc.render.configure(
        template_directory=Path(__file__).parent / "pdoc",
        docformat="markdown",
        show_source=False,
        search=True,
        footer_text=f"diffusion-scheduling {diffusion_scheduling.__version__}",
    )
    with warnings.catch_warnings(record=True) as caught:  # Annotations that pdoc can't read.
        warnings.simplefilter("always")
        pdoc.pdoc(*MODULES, output_directory=folder)
    lead_to_bases(folder)
    complaints = sorted({str(each.message).splitlines()[0] for each in caught})
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    found = faults()
    for fault in found:
        print(fault, file=sys.stderr)
    print(f"python_reference: {len(MODULES)} modules, {len(found)} faults")
    return 1 if found or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
