#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Renders the repository's documents and the start page of the site.

    python3 docs/Site/pages.py SITE

A document's page has the document's path, below SITE/pages. Links to other documents become links to their pages, and links to
other files become links to the repository on the web. Needs markdown-it-py and Pygments.
"""

from __future__ import annotations

import html
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/diffusion-scheduling/diffusion-scheduling/blob/main/"
# Documents without a page: those that DocC renders, and those of tests and data.
LEFT_OUT = re.compile(r"\.docc/|^Tests/|/Data/")

GROUPS = {
    "The library": [
        ("docs/SCHEDULERS.md", "All schedulers", "sources, orders, evaluations, noise; samplers by name; noise levels by name"),
        ("docs/DIFFERENCES.md", "Differences from diffusers", "each different result, and the reason"),
        ("docs/PLAN.md", "The plan's JSON", "a scheduler as a table of scalars, for any device"),
        ("docs/DEVICES.md", "Devices", "a batch at mixed timesteps by one launch a step: Triton, CUDA, OpenCL"),
        ("docs/NOISE.md", "Noise", "the numbers of torch and NumPy from the same seeds"),
        ("docs/PERFORMANCE.md", "Performance", "measurements, and the commands that print them"),
        ("docs/TRUST.md", "Trust", "the promises, the check of each, and the last results"),
    ],
    "Languages": [
        ("docs/SWIFT.md", "Swift", "the package in a page"),
        ("docs/C.md", "C and C++", "building, linking, CMake"),
        ("docs/PYTHON.md", "Python", "NumPy arrays, and drop-ins for diffusers' pipelines"),
        ("docs/RUST.md", "Rust", "two crates"),
    ],
    "Serving": [
        ("docs/SERVING.md", "Many requests", "sessions, batches of rows at different steps, guidance"),
        ("docs/CLUSTER.md", "Many machines", "checkpoints, versions, one latent on many devices"),
    ],
    "The project": [
        ("README.md", "README", "the project in two pages"),
        ("Examples/README.md", "Examples", "programs to run"),
        ("docs/ARCHITECTURE.md", "Architecture", "how a configuration and a tensor pass through the library"),
        ("CONTRIBUTING.md", "Contributing", "building, testing, adding a scheduler"),
        ("SECURITY.md", "Security and limits", "input that may be hostile"),
        ("docs/VERSIONING.md", "Versions", "the promise of a version number"),
        ("CHANGELOG.md", "Changes", "release by release"),
    ],
}

REFERENCES = [
    (
        "swift/documentation/diffusionscheduling/",
        "Swift",
        "Every type and function, with articles: add a scheduler, run a plan elsewhere, serve many requests",
    ),
    ("c/index.html", "C", "The headers: schedulers and sessions, the kernels alone, and the table for devices"),
    ("python/diffusion_scheduling.html", "Python", "Classes on NumPy arrays, sessions, noise, and the drop-ins for diffusers"),
]


def page(title: str, body: str, depth: int, *, is_wide: bool = False) -> str:
    up = "../" * depth
    references = " ".join(f'<a href="{up}{path}">{name}</a>' for path, name, _ in REFERENCES)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="stylesheet" href="{up}style.css">
</head>
<body{' class="wide"' if is_wide else ""}>
<nav><a href="{up}index.html">DiffusionScheduling</a> {references} <a href="{up}pages/docs/SCHEDULERS.html">Schedulers</a></nav>
<main>
{body}
</main>
</body>
</html>
"""


def anchor(heading: str, taken: set[str]) -> str:
    """The name that hosting sites give to a heading."""
    name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    made, repetition = name, 0
    while made in taken:
        repetition += 1
        made = f"{name}-{repetition}"
    taken.add(made)
    return made


def coloured(code: str, language: str, _: str) -> str:
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


class Document:
    """A document of the repository as a page. `names` are the documents that have pages."""

    def __init__(self, name: str, names: set[str]) -> None:
        self.name, self.names = name, names
        markdown = MarkdownIt("commonmark", {"html": False, "highlight": coloured}).enable("table")
        self.tokens = markdown.parse((ROOT / name).read_text("utf-8"))
        self.title = name
        self.pictures: list[str] = []
        """The pictures' paths in the repository."""
        self._walk(self.tokens)
        self.body = markdown.renderer.render(self.tokens, markdown.options, {})

    def _walk(self, tokens: Sequence[Token]) -> None:
        taken: set[str] = set()
        for index, token in enumerate(tokens):
            if token.type == "heading_open":
                text = "".join(each.content for each in tokens[index + 1].children or [] if each.type in ("text", "code_inline"))
                token.attrSet("id", anchor(text, taken))
                if token.tag == "h1":
                    self.title = text
            for child in token.children or []:
                if child.type == "link_open":
                    child.attrSet("href", self.resolved(str(child.attrGet("href"))))
                elif child.type == "image":
                    self.pictures.append(posixpath.join(posixpath.dirname(self.name), str(child.attrGet("src"))))

    def resolved(self, link: str) -> str:
        """The address on the document's page for a link in the document."""
        if re.match(r"[a-z][a-z0-9+.-]*:|#", link):
            return link
        path, _, heading = unquote(link).partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(self.name), path))
        heading = f"#{heading}" if heading else ""
        if target not in self.names:
            return REPOSITORY + target + heading
        return posixpath.relpath(shown_at(target), posixpath.dirname(shown_at(self.name))) + heading


def shown_at(name: str) -> str:
    return "pages/" + re.sub(r"\.md$", ".html", name)


def start(site: Path) -> str:
    """The start page: a description of the library, the references and the documents."""
    documents = "".join(
        f"<section><h2>{group}</h2><ul>"
        + "".join(f'<li><a href="{shown_at(name)}">{title}</a>: {text}</li>' for name, title, text in entries)
        + "</ul></section>"
        for group, entries in GROUPS.items()
    )
    references = "".join(f'<li><a href="{path}"><b>{name}</b> {text}</a></li>' for path, name, text in REFERENCES)
    return page(
        "DiffusionScheduling",
        f"""<h1>DiffusionScheduling</h1>
<p>The schedulers of diffusion models for inference engines, as a native library for Swift, C, Python and Rust. A scheduler
is compiled once into a plan, a table of scalars. One fused kernel executes any row of it.</p>
<h2>Reference</h2>
<ul class="references">{references}</ul>
<p>Begin with the <a href="swift/tutorials/diffusionscheduling-tutorials/">tutorial</a>, or look a class up among
<a href="{shown_at("docs/SCHEDULERS.md")}">all schedulers</a>.</p>
<div class="groups">{documents}</div>""",
        0,
    )


def main() -> int:
    site = Path(sys.argv[1])
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    names = {name for name in listed.stdout.decode().splitlines() if not LEFT_OUT.search(name)}
    for name in sorted(names):
        path, document = site / shown_at(name), Document(name, names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(document.title, document.body, shown_at(name).count("/"), is_wide="<table>" in document.body), "utf-8")
        for picture in document.pictures:
            shutil.copy(ROOT / picture, site / shown_at(picture))
    (site / "index.html").write_text(start(site), "utf-8")
    shutil.copy(HERE / "style.css", site / "style.css")
    print(f"pages: {len(names)} documents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
