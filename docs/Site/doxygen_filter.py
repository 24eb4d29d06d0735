#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Doxygen's view of a C header: plain comments become documentation comments.

    python3 docs/Site/doxygen_filter.py HEADER > FILTERED

The Doxyfile's FILTER_PATTERNS name this filter. The headers keep plain comments, which read well in an editor. Their layout gives
the structure:

- A comment before a declaration documents it and the declarations on the lines that follow without a blank line.
- A comment behind a declaration, on the same line, documents that declaration.
- `/* ---- Title */` begins a section. A comment before a blank line belongs to the file.
- In a comment, indented lines are preformatted, and lines `name    text` with aligned texts are a list of definitions.
- Names of the header's functions, types and constants become links.
"""

from __future__ import annotations

import html
import re
import sys
import textwrap
from pathlib import Path

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
TERM = re.compile(r"(\S(?:.*?\S)?) {2,}(\S.*)$")
NAME = re.compile(r"\b(dsk?_[a-z]\w*|DSK?_[A-Z]\w*)(?:\.([a-z]\w*))?")
LABEL = re.compile(r"(?:Errors|Complexity|Exactness|Errors of [^:]*):")


def declared(code: str) -> set[str]:
    """The names that a header declares: functions, types, enumerators and macros."""
    functions = re.findall(r"\b(dsk?_\w+)\(", code)
    types = re.findall(r"^typedef (?:struct|enum) (\w+)", code, re.MULTILINE)
    enumerators = re.findall(r"\b(DSK?_\w+)\b", code)
    return {*functions, *types, *enumerators}


def rows_of(lines: list[str]) -> list[tuple[str, list[str]]] | None:
    """The names and texts of a list of definitions; None if the lines aren't one."""
    first = TERM.match(lines[0])
    if first is None or lines[0][0] == " ":
        return None
    column = first.start(2)
    rows: list[tuple[str, list[str]]] = []
    for line in lines:
        term = TERM.match(line)
        if term and not line.startswith(" ") and term.start(2) == column:
            rows.append((term[1], [term[2]]))
        elif line.startswith(" " * column):
            rows[-1][1].append(line.strip())
        else:
            return None
    return rows


class Header:
    """A header's text, and the names that its comments may link to."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = declared(COMMENT.sub("", text))
        self.members: dict[str, dict[str, str]] = {}
        self.hidden: set[str] = set()

    # ---- The text of a comment

    def prose(self, text: str) -> str:
        """A paragraph in Doxygen's markup: special characters are escaped, and names become links."""
        parts = []
        for index, part in enumerate(text.split("`")):
            linked, place = [], 0
            for match in NAME.finditer(part):
                linked += [self.plain(part[place : match.start()]), self.link(match)]
                place = match.end()
            shown = "".join([*linked, self.plain(part[place:])])
            # Doxygen has no links in code.
            parts.append(f"<code>{shown}</code>" if index % 2 and "@link" not in shown else shown)
        return "".join(parts)

    @staticmethod
    def plain(text: str) -> str:
        escaped = re.sub(r"([@\\#%$])", r"\\\1", html.escape(text, quote=False))
        return re.sub(r"et al\.\s", "et al.&nbsp;", escaped)  # A full stop and a space would end the brief description.

    def link(self, name: re.Match[str]) -> str:
        """A link to a name, or to a struct's member."""
        target = f"{name[1]}::{name[2]}" if name[2] else name[1]
        return f"@link {target} {name[0]}\\endlink" if name[1] in self.names else name[0]

    def definitions(self, rows: list[tuple[str, list[str]]]) -> str:
        shown = (f"<dt>{self.prose(term)}</dt><dd>{self.prose(' '.join(text))}</dd>" for term, text in rows)
        return f"<dl>{''.join(shown)}</dl>"

    def paragraph(self, lines: list[str]) -> str:
        if all(line.startswith("  ") for line in lines):
            return "@verbatim\n" + textwrap.dedent("\n".join(lines)) + "\n@endverbatim"
        rows = rows_of(lines)
        if rows:
            return self.definitions(rows)
        # Errors and complexity get paragraphs of their own. A table in the middle of a paragraph stays preformatted.
        blocks: list[list[str]] = []
        kinds: list[bool] = []
        for line in lines:
            is_table = line.startswith("  ")
            if not blocks or kinds[-1] != is_table or LABEL.match(line):
                blocks.append([])
                kinds.append(is_table)
            blocks[-1].append(line)
        if len(blocks) > 1:
            return "\n\n".join(self.paragraph(block) for block in blocks)
        text = self.prose("\n".join(lines))
        label = LABEL.match(text)
        return f"<b>{label[0]}</b>{text[label.end() :]}" if label else text

    def paragraphs(self, comment: str) -> list[list[str]]:
        """A comment's lines without its frame, split into paragraphs at empty lines."""
        lines = [re.sub(r"^\s*\*(?: |$)", "", line).rstrip() for line in comment[2:-2].split("\n")]
        lines[0] = lines[0].lstrip()
        paragraphs: list[list[str]] = [[]]
        for line in lines:
            if line:
                paragraphs[-1].append(line)
            elif paragraphs[-1]:
                paragraphs.append([])
        return [each for each in paragraphs if each]

    def body(self, comment: str) -> str:
        """A comment's text in Doxygen's markup."""
        return "\n\n".join(self.paragraph(each) for each in self.paragraphs(comment))

    # ---- The comments of a header

    def filtered(self) -> str:
        out: list[str] = []
        place, in_section = 0, False
        for match in COMMENT.finditer(self.text):
            before, after, comment = self.text[place : match.start()], self.text[match.end() :], match[0]
            out.append(self.repeated(before, out))
            place = match.end()
            section = re.match(r"/\* ---- (.*?)(?:\.\s(.*))?\s*\*/$", comment, re.DOTALL)
            line = before.split("\n")[-1]
            if section:
                more = self.body(f"/* {section[2]} */") if section[2] else ""
                out.append(("/** @} */\n" if in_section else "") + f"/** @name {section[1]}\n{more}\n*/\n/** @{{ */")
                in_section = True
            elif line.strip():
                out.append(f"/**< {self.body(comment)} */")
            elif line or "SPDX-License-Identifier" in comment:
                out.append(comment)  # An indented comment is about several members, and stays plain.
            elif after.startswith(("\n\n", "\n#ifndef")):
                out.append(f"/** @file\n{self.body(comment)}\n*/")
            else:
                out.append(self.before_declaration(comment, after))
        rest = self.repeated(self.text[place:], out)
        if in_section:  # The last section ends before the guards.
            rest = rest.replace("\n#ifdef __cplusplus\n}", "\n/** @} */\n#ifdef __cplusplus\n}", 1)
        return self.with_members("".join([*out, rest]))

    def before_declaration(self, comment: str, after: str) -> str:
        """The documentation of a declaration. Definitions of a struct's members are kept for the members."""
        struct = re.match(r"\ntypedef struct (\w+) {", after)
        if struct is None:
            return f"/** {self.body(comment)} */"
        shown = []
        for paragraph in self.paragraphs(comment):
            rows = rows_of(paragraph)
            if rows:
                self.members[struct[1]] = {name: self.prose(" ".join(text)) for term, text in rows for name in term.split(", ")}
            else:
                shown.append(self.paragraph(paragraph))
        text = "\n\n".join(shown)
        if "members are for the library alone" in " ".join(comment.split()).replace(" * ", " "):
            self.hidden.add(struct[1])
        return f"/** {text} */"

    def with_members(self, text: str) -> str:
        """The header with each member's definition behind the member, and without the bodies that only the library uses."""

        def replaced(match: re.Match[str]) -> str:
            name, body = match[1], match[2]
            if name in self.hidden:
                body = f"\n    /** @cond */{body}\n    /** @endcond */"
            for member, meaning in self.members.get(name, {}).items():
                body = re.sub(
                    rf"(?m)^( +[^;/]*\b{member}(?:\[\w+\])*;)$", lambda found, to=meaning: f"{found[1]} /**< {to} */", body
                )
            return f"typedef struct {name} {{{body}\n}} {name};"

        return re.sub(r"typedef struct (\w+) \{(.*?)\n\} \1;", replaced, text, flags=re.DOTALL)

    @staticmethod
    def repeated(code: str, out: list[str]) -> str:
        """The code with the last comment repeated before each declaration that follows the first one without a blank line."""
        if not out or not re.match(r"/\*\* (?!@(?:file|name|\}|\{))", out[-1]):
            return code
        declarations = re.match(r"\n(?:[a-z][^;{}]*;\n){2,}|\n(?:#define .*\n){2,}", code)
        if declarations is None:
            return code
        lines = re.split(r"(?<=;\n)|(?<=[^;]\n)(?=#)", declarations[0])
        return lines[0] + "".join(f"{out[-1]}\n{line}" for line in lines[1:] if line) + code[declarations.end() :]


def main() -> int:
    sys.stdout.write(Header(Path(sys.argv[1]).read_text("utf-8")).filtered())
    return 0


if __name__ == "__main__":
    sys.exit(main())
