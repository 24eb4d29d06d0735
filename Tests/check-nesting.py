#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Lists the blocks that are nested more than four levels deep.

    python3 Tests/check-nesting.py

Checks the Swift, C, C++ and Python files that git tracks or doesn't ignore.

- Swift, C and C++: a level is a block in braces that spans lines. A macro's text is checked by itself.
- Python: a level is a compound statement, such as if, for, with or def. An elif or else has the level of its if.

The body of the outermost function has level 0, and so has code outside functions. Functions, closures and types inside a function
are levels too; types and namespaces around functions aren't.

Prints the place and level of each block that is too deep, and fails if there is one.
"""

import ast
import pathlib
import re
import subprocess
import sys

from source_code import c_code, swift_code

LIMIT = 4

# The last of these words before a brace outside functions says what the brace opens.
DECLARATION = re.compile(
    r"(?<!\.)\b(?:(?P<type>struct|class|enum|union|protocol|extension|actor|namespace|extern)|func|init|subscript|var|let)\b"
)
STATEMENT = re.compile(r"\b(?:for|while|repeat|do|if|guard|switch|else)\b(?!:)")
DIRECTIVE = re.compile(
    r"^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|elseif|else|endif|define|undef|include|pragma|error|warning)\b((?:\\\n|[^\n])*)",
    re.MULTILINE,
)


def swift_kind(header):
    """What a brace outside functions opens: a type, a function or a block. `header` is the code between it and the last brace."""
    declarations = list(DECLARATION.finditer(header))
    if declarations:
        return "type" if declarations[-1]["type"] else "function"
    return "block" if STATEMENT.search(header) else "function"


def c_kind(header):
    header = header.split(";")[-1]
    if "(" not in header and any(match["type"] for match in DECLARATION.finditer(header)):
        return "type"
    return "block" if STATEMENT.search(header) else "function"


class Braces:
    """Collects the blocks of code without comments and strings that are too deep."""

    def __init__(self, kind_of):
        self.kind_of = kind_of
        self.header = ""
        self.open = []  # the kind and line of each open brace
        self.deep = []  # the line and level of each block that is too deep
        self.surplus = 0  # braces that close nothing

    def read(self, code, line):
        for part in re.split("([{}])", code):
            if part == "{":
                is_inside = any(kind != "type" for kind, _ in self.open)
                self.open.append(("block" if is_inside else self.kind_of(self.header), line))
            elif part == "}" and self.open:
                level = sum(kind == "block" for kind, _ in self.open)
                _, start = self.open.pop()
                if level > LIMIT and line > start:
                    self.deep.append((start, level))
            elif part == "}":
                self.surplus += 1
            self.header = "" if part in ("{", "}") else self.header + part
            line += part.count("\n")


def deep_braces(code, kind_of):
    """The lines and levels of the blocks that are too deep. Each branch of an #if begins with the braces open before the #if."""
    braces, outer, place = Braces(kind_of), [], 0
    for directive in DIRECTIVE.finditer(code):
        braces.read(code[place : directive.start()], code.count("\n", 0, place) + 1)
        name, place = directive[1], directive.end()
        if name == "define":
            macro = Braces(kind_of)
            macro.read(directive[2], code.count("\n", 0, directive.start()) + 1)
            braces.deep += macro.deep
        elif name in ("if", "ifdef", "ifndef"):
            outer.append(list(braces.open))
        elif name in ("elif", "elseif", "else"):
            braces.open = list(outer[-1])
        elif name == "endif":
            outer.pop()
    braces.read(code[place:], code.count("\n", 0, place) + 1)
    if braces.open or braces.surplus:
        raise SyntaxError("its braces don't match")
    return sorted(braces.deep)


def deep_statements(statements, level=0, is_inside=False):
    """The lines and levels of the compound statements that are too deep."""
    deep = []
    for statement in statements:
        parts = [statement, *getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
        bodies = [getattr(part, name, []) for part in parts for name in ("body", "orelse", "finalbody")]
        is_function = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
        if not is_inside and is_function:
            own = 0
        elif not is_inside and isinstance(statement, ast.ClassDef):
            own = level
        else:
            own = level + 1
        if own > LIMIT and any(bodies):
            deep.append((statement.lineno, own))
        for body in bodies:
            # An elif is an if in the other's else, in the same column.
            is_elif = isinstance(statement, ast.If) and len(body) == 1 and body[0].col_offset == statement.col_offset
            deep += deep_statements(body, own - 1 if is_elif else own, is_inside or is_function)
    return deep


def deep_blocks(path):
    text = path.read_text()
    if path.suffix == ".py":
        return deep_statements(ast.parse(text).body)
    return deep_braces(swift_code(text), swift_kind) if path.suffix == ".swift" else deep_braces(c_code(text), c_kind)


root = pathlib.Path(__file__).resolve().parent.parent
patterns = ["*.swift", "*.c", "*.h", "*.cpp", "*.hpp", "*.py"]
command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
paths = sorted({root / name for name in names if name and (root / name).is_file()})

faults = []
for path in paths:
    try:
        faults += [f"{path.relative_to(root)}:{line}: nested {level} levels deep" for line, level in deep_blocks(path)]
    except SyntaxError as error:
        faults.append(f"{path.relative_to(root)}: {error}")

print("\n".join(faults) if faults else f"check-nesting: {len(paths)} files, no block more than {LIMIT} levels deep")
sys.exit(1 if faults else 0)
