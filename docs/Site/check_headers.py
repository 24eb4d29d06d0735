#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks the comments of the C headers' functions.

    python3 docs/Site/check_headers.py HEADER…

- One that returns a status names its errors: `Errors:`, followed by a status, by `as` and another function, or by `those of`. The
  title of its section may name them, or a comment before: `Errors of this function and of the following, down to LAST`.
- One that returns a pointer says what NULL means, or that it is never NULL.
- One that takes a tensor, or a place for numbers, has a formula, or names a function or type that has one.

A formula is a line with ` = ` or ` <- `. Prints each fault with its place, and fails if there is one. Doxygen checks that there are
comments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from doxygen_filter import COMMENT, NAME

FUNCTION = re.compile(r"^((?:const )?\w+ \*?)(dsk?_\w+)\(([^;{}]*)\);", re.MULTILINE)
TYPE = re.compile(r"^typedef (?:struct|enum) (\w+)", re.MULTILINE)
ERRORS = re.compile(r"Errors(?: of [^:]*)?: (?:also )?(?:DSK?_[A-Z]|as (?:for )?dsk?_|those of)")
RANGE = re.compile(r"of the following, down to (dsk?_\w+)")
FORMULA = re.compile(r" (?:=|<-) ")
COMPUTED = re.compile(
    r"const ds_tensor \*|\bdsk_item \*|dsk_moments \*|uint32_t out\b|\b(?:void|float|double) \*(?:out|buffer|sigma)\b"
)
"""The parameters of functions that compute."""


class Header:
    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text("utf-8")
        code = COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), self.text)
        comments = list(COMMENT.finditer(self.text))
        self.functions = list(FUNCTION.finditer(code))
        self.comments: dict[str, str] = {}
        """The comment that documents each function and type."""
        self.titles: dict[str, str] = {}
        """The title of each function's section."""
        for declared in [*self.functions, *TYPE.finditer(code)]:
            name = declared[2] if declared.re is FUNCTION else declared[1]
            before = [each for each in comments if each.end() <= declared.start()]
            titles = [each[0] for each in before if each[0].startswith("/* ----")]
            self.titles[name] = plain(titles[-1]) if titles else ""
            # Declarations without a blank line between share the comment before the first one.
            if before and "\n\n" not in code[before[-1].end() : declared.start()]:
                self.comments[name] = plain(before[-1][0])
            end = self.text.find("\n}", declared.end()) if declared.re is TYPE else -1
            if end > 0:
                self.comments[name] = self.comments.get(name, "") + self.text[declared.end() : end]

    def has_errors(self, name: str) -> bool:
        if ERRORS.search(self.comments.get(name, "")) or ERRORS.search(self.titles[name]):
            return True
        names = [each[2] for each in self.functions]
        for first, last in ((each, RANGE.search(self.comments.get(each, ""))) for each in names):
            if last and names.index(first) <= names.index(name) <= names.index(last[1]):
                return True
        return False

    def faults(self, comments: dict[str, str]) -> Iterator[str]:
        """The faults; `comments` are those of all headers."""
        for function in self.functions:
            result, name, parameters = function.groups()
            place = f"{self.path}:{self.text.count(chr(10), 0, function.start()) + 1}: {name}"
            if result.strip().endswith("_status") and not self.has_errors(name):
                yield f"{place} returns a status, but its comment names no errors"
            if result.endswith("*") and "NULL" not in self.comments.get(name, ""):
                yield f"{place} returns a pointer, but its comment doesn't say when it is NULL"
            if COMPUTED.search(parameters) and not has_formula(name, comments):
                yield f"{place} computes, but its comment has no formula"


def has_formula(name: str, comments: dict[str, str]) -> bool:
    # Functions with the same errors have other formulas.
    comment = re.sub(r"Errors.*?(?:\. |$)", "", comments.get(name, ""))
    return any(FORMULA.search(each) for each in [comment, *(comments.get(named[1], "") for named in NAME.finditer(comment))])


def plain(comment: str) -> str:
    """A comment's text, in one line."""
    return " ".join(re.sub(r"\n\s*\*", "\n", comment).split())


def main() -> int:
    headers = [Header(Path(each)) for each in sys.argv[1:]]
    comments = {name: comment for header in headers for name, comment in header.comments.items()}
    faults = [fault for header in headers for fault in header.faults(comments)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"check_headers: {sum(len(header.functions) for header in headers)} functions, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
