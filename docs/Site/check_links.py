#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks the links of a built site.

    python3 docs/Site/check_links.py SITE [--base PATH]

Each link of a page into the site must lead to a file, and its fragment to an id on that page. DocC's pages are JSON files, which a
script draws: each of their references and pictures must lead to a file. PATH is the path that the site is made for, by default /.
Prints a sentence for each dead link and for each part of the site without pages, and fails if there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PARTS = "swift/documentation", "swift/tutorials", "c", "python", "pages"


class Page(HTMLParser):
    """The links of a page, and the anchors that links to it may name."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name in ("href", "src") and not (tag == "base" or tag == "link" and ("rel", "search") in attributes):
                self.links.append(value)
            elif name == "srcset":
                self.links += [each.split()[0] for each in value.split(",")]
            elif name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)


class Site:
    def __init__(self, root: Path, base: str) -> None:
        self.root, self.base = root, base
        self.faults: list[str] = []
        self.count = 0
        self.page = cache(lambda path: Page(path.read_text("utf-8", "replace")))

    def target(self, source: Path, link: str) -> Path | None:
        """The file that a link leads to; None for a link that leaves the site."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return None
        path = unquote(parts.path)
        if path.startswith(self.base):
            file = self.root / path[len(self.base) :]
        elif path.startswith("/"):
            file = Path("/outside") / path
        else:
            file = source.parent / path if path else source
        return file / "index.html" if file.is_dir() else file

    def check(self, source: Path, link: str) -> None:
        target = self.target(source, link)
        if target is None:
            return
        self.count += 1
        name = source.relative_to(self.root)
        if not target.exists():
            self.faults.append(f"{name}: the link {link} leads to nothing")
            return
        fragment = unquote(urlsplit(link).fragment)
        is_drawn = (self.root / "swift") in target.parents
        if fragment and target.suffix == ".html" and not is_drawn and fragment not in self.page(target).anchors:
            self.faults.append(f"{name}: the link {link} names a place that the page doesn't have")

    def check_pages(self) -> None:
        for path in sorted(self.root.rglob("*.html")):
            for link in self.page(path).links:
                self.check(path, link)

    def check_drawn(self) -> None:
        swift = self.base + "swift"
        for path in sorted((self.root / "swift" / "data").rglob("*.json")):
            page = json.loads(path.read_text("utf-8"))
            # A chapter is a heading in the table of tutorials, without a page of its own.
            for chapter in page.get("hierarchy", {}).get("modules") or []:
                page["references"].pop(chapter["reference"], None)
            for link in drawn_links(page):
                self.check(path, link if "://" in link else swift + ("" if link.startswith("/") else "/") + link)

    def check_parts(self) -> None:
        for part in PARTS:
            if not any((self.root / part).rglob("*.html")):
                self.faults.append(f"{part}: there are no pages")


def drawn_links(value: Any) -> Iterator[str]:
    """The addresses of references and pictures in a page's JSON."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "url" and isinstance(each, str) and each:
                yield each
            else:
                yield from drawn_links(each)
    elif isinstance(value, list):
        for each in value:
            yield from drawn_links(each)


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the links of a built site.")
    parser.add_argument("site", type=Path)
    parser.add_argument("--base", default="/", help="the path that the site is served at")
    arguments = parser.parse_args()
    base = "/" + arguments.base.strip("/") + "/" if arguments.base.strip("/") else "/"
    site = Site(arguments.site.resolve(), base)
    site.check_parts()
    site.check_pages()
    site.check_drawn()
    for fault in site.faults:
        print(fault, file=sys.stderr)
    print(f"check_links: {site.count} links, {len(site.faults)} dead")
    return 1 if site.faults else 0


if __name__ == "__main__":
    sys.exit(main())
