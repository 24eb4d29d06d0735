# SPDX-License-Identifier: Apache-2.0

"""Checks the docstrings of the Python package for errors, formulas and sources; docs/Site/python_reference.py asks it.

- The docstring of a function, method or property that raises says `raises` or `errors as for`; for a constructor, its class's does.
  A function raises if its body has a `raise`, hands a parameter to a function of CHECKING, or calls a private function that does
  either. The body of a `try` with handlers doesn't count. Methods compiled from text, of classes made of descriptions, raise.
- A function that takes an array or a tensor and returns one has a formula, or names in backticks something that has one.
- A class made of a description has a formula, and a paper.

A formula is a line with an equals sign between spaces.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMULA = re.compile(r" = ")
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}")
TENSOR = re.compile(r"\b(?:Array|NDArray|Tensor|ndarray)\b")
RAISES = re.compile(r"\b[Rr]aises\b|\b[Ee]rrors as for\b")
CHECKING = {"check", "written", "read_text", "bytes_of", "doubles_of"}
"""Functions of _library that raise the exception of a status."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class Package:
    """The functions of a package's sources."""

    def __init__(self, folder: Path) -> None:
        self.at: dict[tuple[str, int], Definition] = {}
        """Each definition, by its file's name and the line where it begins with its decorators."""
        self.private: dict[str, list[Definition]] = {}
        """The functions that only the package calls: those with an underscore, and those of modules with one."""
        for path in sorted(folder.glob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, Definition):
                    self.at[path.name, min(each.lineno for each in (node, *node.decorator_list))] = node
                    is_private = node.name.startswith("_") and not node.name.startswith("__")
                    if is_private or (path.name.startswith("_") and node in tree.body and node.name not in CHECKING):
                        self.private.setdefault(node.name, []).append(node)

    def definition(self, function: Any) -> Definition | None:
        """The definition of a function; None for one that isn't defined in a file of the package."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        return self.at.get((Path(code.co_filename).name, code.co_firstlineno)) if code else None

    def raises(self, node: Definition, seen: frozenset[str] = frozenset()) -> bool:
        parameters = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
        for each in statements(node):
            if isinstance(each, ast.Raise):
                return True
            if not isinstance(each, ast.Call):
                continue
            name = getattr(each.func, "attr", getattr(each.func, "id", ""))
            if name in CHECKING and any(isinstance(part, ast.Name) and part.id in parameters for part in ast.walk(each)):
                return True
            if name not in seen and any(self.raises(callee, seen | {name}) for callee in self.private.get(name, [])):
                return True
        return False


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a body, without those of a `try` that catches errors."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Try) and each.handlers:
            for handler in each.handlers:
                yield from statements(handler)
            continue
        yield each
        yield from statements(each)


def computes(function: Any) -> bool:
    annotations = {name: str(each) for name, each in getattr(function, "__annotations__", {}).items()}
    result = annotations.pop("return", "")
    return bool(TENSOR.search(result)) and any(TENSOR.search(each) for each in annotations.values())


def faults(package: Package, docs: list[tuple[str, Any, str]], made: set[str]) -> Iterator[str]:
    """The faults of documented names.

    docs  the full name, what it names (a function, class or property), and the docstring of each
    made  the full names of the classes that are made of descriptions
    """

    def has_formula(text: str) -> bool:
        # Functions with the same errors have other formulas.
        told = re.sub(r"[^.]*\b[Ee]rrors\b[^.]*", "", text)
        ends = tuple(f".{named}" for named in re.findall(r"`+([\w.]+)`+", told))
        return any(FORMULA.search(each) for each in [text, *(other for name, _, other in docs if name.endswith(ends))])

    for name, subject, text in docs:
        if inspect.isclass(subject):
            function = vars(subject).get("__init__")
        else:
            function = subject.fget if isinstance(subject, property) else subject
        definition = package.definition(function) if callable(function) else None
        is_compiled = getattr(getattr(function, "__code__", None), "co_filename", "") == "<string>"
        if (is_compiled or (definition is not None and package.raises(definition))) and not RAISES.search(text):
            yield f"{name} raises, but its docstring doesn't say what"
        if inspect.isfunction(inspect.unwrap(subject)) and computes(subject) and not has_formula(text):
            yield f"{name} computes, but its docstring has no formula"
        if name in made and not FORMULA.search(text):
            yield f"{name} computes, but its docstring has no formula"
        if name in made and not SOURCE.search(text):
            yield f"{name} comes from a paper, but its docstring doesn't name one"
