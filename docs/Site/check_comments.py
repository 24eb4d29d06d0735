#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks the comments of the Swift library's public symbols.

    python3 docs/Site/check_comments.py SYMBOLS

SYMBOLS is the symbol graph that the compiler makes. A requirement's comment counts for what implements it without a comment.

- Every symbol has a comment.
- The comment of one that throws has a `- Throws:` item.
- The comment of one that computes has a formula, or names in double backticks a symbol that has one. A symbol computes if it is a
  function that returns numbers, levels, sums of tensors or elements, or that changes a tensor in place.
- Comments of schedulers and of the cases of FORMULAS have a formula and a source: a paper or a program. A case's source may be in
  the comment of its enumeration.

A formula is a line with an equals sign between spaces, outside of code. Prints each fault with its place. Fails if there is one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent

FUNCTIONS = {"swift.func", "swift.func.op", "swift.method", "swift.type.method"}
NUMBERS = {"Combination", "Double", "Element", "Float", "MultistepUpdate", "NoiseLevel", "SchedulerOutput"}
"""The results of functions that compute."""
TENSORS = {"Double", "Element", "Float", "MutableSpan"}
"""The types of arguments that functions compute in place."""
FORMULAS = {"BetaSchedule", "EDMSigmaSchedule", "NoiseProcess", "SigmaSchedule", "TimestepSpacing"}
"""Enumerations whose cases are formulas of the literature."""

FORMULA = re.compile(r" = ")
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:|\b(?:k-diffusion|ComfyUI|RES4LYF)\b")


class Symbol:
    """A declaration with its comment."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.path: list[str] = node["pathComponents"]
        self.name = ".".join(self.path)
        self.kind: str = node["kind"]["identifier"]
        self.fragments: list[dict[str, str]] = node["declarationFragments"]
        self.signature: dict[str, Any] = node.get("functionSignature", {})
        self.comment = "\n".join(line["text"] for line in node.get("docComment", {}).get("lines", []))
        self.place, self.line = "", 0
        if "location" in node:
            self.place = unquote(urlsplit(node["location"]["uri"]).path).removeprefix(f"{ROOT}/")
            self.line = node["location"]["position"]["line"] + 1

    @property
    def prose(self) -> str:
        """The comment without blocks of code."""
        return re.sub(r"```.*?```", "", self.comment, flags=re.DOTALL)

    @property
    def nested(self) -> Iterator[tuple[dict[str, str], int]]:
        """The parts of the declaration, and the parentheses that each is in."""
        depth = 0
        for fragment in self.fragments:
            yield fragment, depth
            depth += fragment["spelling"].count("(") - fragment["spelling"].count(")")

    @property
    def throws(self) -> bool:
        """Whether it throws itself, rather than a closure among its parameters."""
        return any(fragment["spelling"] == "throws" and depth == 0 for fragment, depth in self.nested)

    @property
    def computes(self) -> bool:
        if self.kind not in FUNCTIONS:
            return False
        return bool(types(self.signature.get("returns", [])) & NUMBERS) or bool(self.changed & TENSORS)

    @property
    def changed(self) -> set[str]:
        """The types of its arguments that it changes in place."""
        found, is_changed = set(), False
        for fragment, depth in self.nested:
            if fragment["kind"] == "externalParam":
                is_changed = False
            elif fragment["spelling"] == "inout" and depth == 1:
                is_changed = True
            elif is_changed and fragment["kind"] == "typeIdentifier":
                found.add(fragment["spelling"])
        return found

    @property
    def is_scheduler(self) -> bool:
        return self.kind == "swift.typealias" and self.name.endswith("Scheduler")


def types(fragments: list[dict[str, str]]) -> set[str]:
    return {each["spelling"] for each in fragments if each["kind"] == "typeIdentifier"}


class Checker:
    def __init__(self, symbols: list[Symbol]) -> None:
        self.symbols = symbols
        self.by_path: dict[str, list[Symbol]] = {}
        for symbol in symbols:
            for start in range(len(symbol.path)):
                self.by_path.setdefault("/".join(symbol.path[start:]), []).append(symbol)

    def has_formula(self, symbol: Symbol) -> bool:
        if FORMULA.search(symbol.prose):
            return True
        # Symbols that throw the same have other formulas.
        prose = re.sub(r"- Throws:.*?(?=\n *- |\n\n|\Z)", "", symbol.prose, flags=re.DOTALL)
        links = (re.sub(r"-\w+$", "", link) for link in re.findall(r"``([^`]+)``", prose))
        return any(FORMULA.search(each.prose) for link in links for each in self.by_path.get(link, []))

    def has_source(self, symbol: Symbol) -> bool:
        """Whether its comment or that of its type has a source."""
        owners = self.by_path.get("/".join(symbol.path[:-1]), [])
        return any(SOURCE.search(each.prose) for each in [symbol, *owners])

    def faults(self, symbol: Symbol) -> Iterator[str]:
        if not symbol.comment.strip():
            yield "has no comment"
            return
        if symbol.throws and "- Throws:" not in symbol.comment:
            yield "throws, but its comment doesn't say what"
        is_known = symbol.is_scheduler or (symbol.kind == "swift.enum.case" and symbol.path[-2] in FORMULAS)
        if (is_known or symbol.computes) and not self.has_formula(symbol):
            yield "computes, but its comment has no formula"
        if is_known and not self.has_source(symbol):
            yield "comes from a paper or a program, but its comment doesn't name one"


def main() -> int:
    nodes = json.loads(Path(sys.argv[1]).read_text("utf-8"))["symbols"]
    # Symbols without a place are the compiler's, and synthesized ones have their comments where they are declared.
    declared = [Symbol(node) for node in nodes if "location" in node and "::SYNTHESIZED::" not in node["identifier"]["precise"]]
    checker = Checker(declared)
    faults = sorted((each.place, each.line, each.name, fault) for each in declared for fault in checker.faults(each))
    for place, line, name, fault in faults:
        print(f"{place}:{line}: {name} {fault}", file=sys.stderr)
    print(f"check_comments: {len(declared)} symbols, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
