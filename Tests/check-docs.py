#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks the documents against the repository.

    python3 Tests/check-docs.py

- Links between documents lead to files and headings that exist; links to the web are https.
- Commands `make X` in documents and in `make help` name targets of the Makefile.
- Paths of the repository exist: those in the code of documents, and the documents that source files name.
- The version number equals diffusion_scheduling.h's everywhere, and the release's date is the same everywhere.
- README.md has at most 160 lines.
- Swift code in the DocC catalogue's articles is code of Tests/DiffusionSchedulingTests/Articles, where it compiles and runs.

Prints a sentence for each fault, and fails if there is one. Needs Python 3.8 and git.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
HEADER = "Sources/CDiffusionScheduling/include/diffusion_scheduling.h"
README_LINES = 160
ARTICLE_TESTS = "Tests/DiffusionSchedulingTests/Articles"

FENCE = re.compile(r"^ *(```+|~~~+)")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
AUTOLINK = re.compile(r"<([a-z][a-z0-9+.-]*:[^>\s]*)>")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
PATH = re.compile(r"[\w.+-]+(?:/[\w.+-]*)+")
DOCUMENT = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[A-Z][A-Za-z_]*\.md\b")


class Document:
    """A Markdown file: its prose without code, its code, and the anchors of its headings."""

    def __init__(self, text: str) -> None:
        self.prose: list[tuple[int, str]] = []
        self.code: list[tuple[int, str]] = []
        self.anchors: set[str] = set()
        fence = None
        for number, line in enumerate(text.splitlines(), 1):
            mark = FENCE.match(line)
            if fence is None and mark:
                fence = mark[1]
            elif fence is not None and mark and mark[1].startswith(fence):
                fence = None
            elif fence is not None or (line.startswith("    ") and line.strip().startswith("make ")):
                self.code.append((number, line))
            else:
                self.code += [(number, match[2]) for match in CODE.finditer(line)]
                self.prose.append((number, CODE.sub("", line)))
                heading = HEADING.match(line)
                if heading:
                    self._add_anchor(heading[1])

    def _add_anchor(self, heading: str) -> None:
        """Adds the name that hosting sites give to a heading."""
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        anchor, repetition = name, 0
        while anchor in self.anchors:
            repetition += 1
            anchor = f"{name}-{repetition}"
        self.anchors.add(anchor)

    def links(self) -> list[tuple[int, str]]:
        return [
            (number, match[1])
            for number, line in self.prose
            for pattern in (LINK, REFERENCE, AUTOLINK)
            for match in pattern.finditer(line)
        ]


class Repository:
    def __init__(self) -> None:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
        self.files = {name for name in listed if name and (ROOT / name).exists()}
        self.folders = {str(folder) for name in self.files for folder in Path(name).parents if str(folder) != "."}
        self.top = {name for name in self.folders if "/" not in name}
        self.documents = {name: Document(self.text(name)) for name in sorted(self.files) if name.endswith(".md")}
        self.faults: list[str] = []

    def text(self, name: str) -> str:
        return (ROOT / name).read_text("utf-8")

    def has(self, path: str) -> bool:
        return path.rstrip("/") in self.files | self.folders

    def fault(self, place: str, sentence: str) -> None:
        self.faults.append(f"{place}: {sentence}")


def resolved(document: str, path: str) -> str:
    """A path relative to a document as a path from the root; it may lead out of the repository."""
    parts: list[str] = list(Path(document).parent.parts)
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


# ---- Links


def check_links(repository: Repository) -> None:
    for name, document in repository.documents.items():
        for number, link in document.links():
            place = f"{name}:{number}"
            if link.startswith("doc:"):  # DocC checks these: make docs.
                continue
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                parts = urlsplit(link)
                if parts.scheme != "https" or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc):
                    repository.fault(place, f"the link {link} isn't an https address")
                continue
            path, _, anchor = unquote(link).partition("#")
            target = resolved(name, path) if path else name
            if target and not repository.has(target):
                repository.fault(place, f"the link {link} leads to a file that doesn't exist")
            elif anchor and target not in repository.documents:
                repository.fault(place, f"the link {link} names a heading of something that isn't a document")
            elif anchor and anchor not in repository.documents[target].anchors:
                repository.fault(place, f"the link {link} names a heading that {target} doesn't have")


# ---- Commands and paths


def targets_of(makefile: str) -> set[str]:
    targets: set[str] = set()
    for line in makefile.splitlines():
        match = re.match(r"([A-Za-z][\w ./-]*?)\s*:(?!=)(?!\s*[A-Z_]+\s*[+:?]?=)", line)
        if match:
            targets.update(match[1].split())
    return targets


def named_targets(text: str) -> list[str]:
    """The targets of all commands `make …` in a line of code."""
    names: list[str] = []
    for match in re.finditer(r"(?:^|[;&|(])\s*(?:sudo\s+|\w+=\S*\s+)*make((?:\s+[\w./=-]+)+)", text):
        words = match[1].split()
        if words[0] == "-C":  # In another folder, with a Makefile of its own.
            continue
        for word in words:
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            names.append(word)
    return names


def check_commands(repository: Repository) -> None:
    makefile = repository.text("Makefile")
    targets = targets_of(makefile)
    for name, document in repository.documents.items():
        for number, line in document.code:
            # In a table of commands, two spaces or # separate a command from its explanation.
            for target in named_targets(re.split(r"\s{2,}|\s#", line.strip())[0]):
                if target not in targets:
                    repository.fault(f"{name}:{number}", f"make {target} isn't a command: the Makefile has no such target")
    for number, line in enumerate(makefile.splitlines(), 1):
        if line.startswith('\t@echo "make '):
            for target in re.findall(r"\bmake ([a-z][a-z-]*)", line):
                if target not in targets:
                    repository.fault(f"Makefile:{number}", f"make help names {target}, which isn't a target")


def check_documents(repository: Repository, name: str, number: int, line: str) -> None:
    """Documents that a line names: from the root, from the file's folder, or by the end of a path."""
    for found in DOCUMENT.findall(line):
        path = found.removeprefix("root/")  # Scripts call the repository's folder $root.
        is_known = repository.has(path) or repository.has(resolved(name, path))
        if not is_known and not ("/" in path and any(each.endswith("/" + path) for each in repository.documents)):
            repository.fault(f"{name}:{number}", f"the document {path} doesn't exist")


def check_paths(repository: Repository) -> None:
    for name, document in repository.documents.items():
        for number, line in document.code:
            for path in PATH.findall(line):
                if path.split("/")[0] in repository.top and not repository.has(path):
                    repository.fault(f"{name}:{number}", f"the path {path} doesn't exist")
            check_documents(repository, name, number, line)
    this = str(Path(__file__).resolve().relative_to(ROOT))
    for name in sorted(repository.files - repository.documents.keys() - {this}):
        if not re.search(r"\.(swift|c|cpp|h|py|sh|toml|cff)$|(^|/)Makefile$|^NOTICE$", name):
            continue
        for number, line in enumerate(repository.text(name).splitlines(), 1):
            check_documents(repository, name, number, line)


# ---- The version


def check_version(repository: Repository) -> None:
    header = dict(re.findall(r"#define DS_VERSION_(MAJOR|MINOR|PATCH) (\d+)", repository.text(HEADER)))
    version = ".".join(header[part] for part in ("MAJOR", "MINOR", "PATCH"))

    def expect(name: str, pattern: str, expected: str = version, is_needed: bool = True) -> None:
        found = re.findall(pattern, repository.text(name), re.MULTILINE)
        if is_needed and not found:
            repository.fault(name, f"the version {expected} of {HEADER} is missing")
        for each in found:
            if each != expected:
                repository.fault(name, f"the version is {each}, but {HEADER} has {expected}")

    project = repository.text("bindings/python/pyproject.toml")
    is_dynamic = re.search(r"^dynamic = .*\"version\"", project, re.MULTILINE) is not None
    expect("bindings/python/pyproject.toml", r"^version = \"(.*?)\"", is_needed=not is_dynamic)
    expect("bindings/python/diffusion_scheduling/__init__.py", r"^__version__ = \"(.*?)\"", is_needed=False)
    expect("bindings/python/diffusion_scheduling/_library.py", r"^VERSION_MAJOR = (\d+)$", header["MAJOR"], is_needed=False)
    for crate in ("diffusion-scheduling-sys", "diffusion-scheduling"):
        expect(f"bindings/rust/{crate}/Cargo.toml", r"^version = \"(.*?)\"")
    expect("bindings/rust/diffusion-scheduling/Cargo.toml", r"^diffusion-scheduling-sys = .*\bversion = \"(.*?)\"")
    for part, number in header.items():
        expect("bindings/rust/diffusion-scheduling-sys/src/lib.rs", rf"const DS_VERSION_{part}: u32 = (\d+);", number)
        expect("Sources/CKernels/include/CKernels.h", rf"#define DSK_VERSION_{part} (\d+)", number)
    expect("CITATION.cff", r"^version: \"?(.*?)\"?$")
    dependency = r"from: \"(.*?)\""
    expect("README.md", dependency)
    for name in repository.documents:
        expect(name, dependency, is_needed=False)
    expect("Examples/Consumer/Package.swift", dependency)
    expect("Tests/check-consumer.sh", r"tag (\d+\.\d+\.\d+)$")

    releases = re.findall(r"^## \[(\d[^\]]*)\](?: - (.*))?$", repository.text("CHANGELOG.md"), re.MULTILINE)
    if not releases:
        repository.fault("CHANGELOG.md", f"there is no heading ## [{version}] - year-month-day")
        return
    newest, date = releases[0]
    if newest != version:
        repository.fault("CHANGELOG.md", f"the newest version is {newest}, but {HEADER} has {version}")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        repository.fault("CHANGELOG.md", f"version {newest} has no date: it must be followed by - year-month-day")
    cited = re.findall(r"^date-released: \"?(.*?)\"?$", repository.text("CITATION.cff"), re.MULTILINE)
    if cited != [date]:
        repository.fault("CITATION.cff", f"date-released is {', '.join(cited) or 'missing'}, but CHANGELOG.md has {date}")


def check_length(repository: Repository) -> None:
    count = len(repository.text("README.md").splitlines())
    if count > README_LINES:
        repository.fault("README.md", f"it has {count} lines, but may have {README_LINES} at most")


# ---- The articles' code


def check_articles(repository: Repository) -> None:
    code = [
        repository.text(name) for name in sorted(repository.files) if name.startswith(ARTICLE_TESTS) and name.endswith(".swift")
    ]
    articles = [name for name in repository.documents if re.search(r"\.docc/Articles/[^/]*\.md$", name)]
    if not code or not articles:
        repository.fault(ARTICLE_TESTS, "there is no code, or there are no articles, to compare")
    for name in articles:
        text = repository.text(name)
        for block in re.finditer(r"^```swift\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if not any(block[1] in each for each in code):
                number = text.count("\n", 0, block.start()) + 1
                repository.fault(f"{name}:{number}", f"the code isn't part of any file in {ARTICLE_TESTS}")


def main() -> int:
    repository = Repository()
    for check in (check_links, check_commands, check_paths, check_version, check_length, check_articles):
        check(repository)
    for fault in repository.faults:
        print(fault, file=sys.stderr)
    print(f"check-docs: {len(repository.documents)} documents, {len(repository.faults)} faults")
    return 1 if repository.faults else 0


if __name__ == "__main__":
    sys.exit(main())
