#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Draws random comments from the sources, for a reader to judge their English.

    python3 Tests/draw-comments.py [SEED [COUNT]]

A comment is a block of comment lines or a documentation text. A seed draws the same comments from the same sources.
"""

import ast
import pathlib
import random
import re
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent


def lines_of(text, mark):
    """Blocks of lines that begin with a mark: the number of the first line, and the text."""
    block, first = [], 0
    for number, line in enumerate([*text.split("\n"), ""], 1):
        match = re.match(rf"\s*{mark}(?: |$)(.*)", line)
        if match:
            first = first if block else number
            block.append(match[1])
        elif block:
            yield first, "\n".join(block)
            block = []


def comments_of(path):
    text = path.read_text()
    if path.suffix == ".swift":
        yield from lines_of(text, "///?")
    elif path.suffix in {".c", ".h", ".cpp", ".hpp"}:
        for match in re.finditer(r"/\*(.*?)\*/", text, re.DOTALL):
            yield text.count("\n", 0, match.start()) + 1, re.sub(r"^ ?\*? ?", "", match[1].strip(), flags=re.MULTILINE)
        yield from lines_of(text, "//")
    elif path.suffix == ".rs":
        yield from lines_of(text, "//[/!]?")
    elif path.suffix == ".py":
        yield from lines_of(text, "#")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield node.lineno, node.value.value.strip()
    else:
        yield from lines_of(text, "#")


def main(seed="1", count="20"):
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    kinds = {".swift", ".c", ".h", ".cpp", ".hpp", ".rs", ".py", ".sh"}
    found = [
        (name, line, comment)
        for name in sorted(names)
        if pathlib.Path(name).suffix in kinds or pathlib.Path(name).name == "Makefile"
        for line, comment in comments_of(root / name)
        if "SPDX-License-Identifier" not in comment and len(comment.split()) > 3
    ]
    for name, line, comment in random.Random(seed).sample(found, min(int(count), len(found))):
        print(f"{name}:{line}\n    " + comment.replace("\n", "\n    ") + "\n")
    print(f"{count} of {len(found)} comments, seed {seed}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
