# SPDX-License-Identifier: Apache-2.0

"""Code without its comments and the contents of its strings, for the scripts that search sources. Line numbers don't change."""

import re

SWIFT_LINE_COMMENT = re.compile(r"//[^\n]*")
SWIFT_COMMENT_MARK = re.compile(r"/\*|\*/")
SWIFT_STRING = re.compile(r'(#*)("""|")')
C_TOKEN = re.compile(
    r"""(?P<number>\b\d[\w.']*)|//(?:\\\n|[^\n])*|/\*.*?\*/|\bR"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"|"""
    r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)


def newlines(text):
    return "\n" * text.count("\n")


def end_of_swift_comment(text, start):
    """The place after the comment that starts there. Block comments nest."""
    line_comment = SWIFT_LINE_COMMENT.match(text, start)
    if line_comment:
        return line_comment.end()
    depth = 0
    for match in SWIFT_COMMENT_MARK.finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def swift_code(text):
    """Swift code. Interpolations are code as well."""
    out, place = [], 0
    # A stack: the closing mark of each open string, and "(" for each open interpolation and each parenthesis inside one.
    nesting = []
    while place < len(text):
        string = nesting[-1] if nesting and nesting[-1] != "(" else ""
        escape = "\\" + string.strip('"')
        if string and text.startswith(string, place):
            place += len(nesting.pop())
        elif string and text.startswith(escape + "(", place):
            nesting.append("(")
            place += len(escape) + 1
        elif string:
            end = place + (len(escape) + 1 if text.startswith(escape, place) else 1)
            out.append(newlines(text[place:end]) or " ")
            place = end
        elif text.startswith(("//", "/*"), place):
            end = end_of_swift_comment(text, place)
            out.append(newlines(text[place:end]))
            place = end
        elif match := SWIFT_STRING.match(text, place):
            nesting.append(match[2] + match[1])
            place = match.end()
        else:
            if nesting and text[place] == "(":
                nesting.append("(")
            elif nesting and text[place] == ")":
                nesting.pop()
            out.append(text[place])
            place += 1
    return "".join(out)


def c_code(text):
    """C and C++ code."""
    return C_TOKEN.sub(lambda match: match["number"] or newlines(match[0]) or " ", text)
