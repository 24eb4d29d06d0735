#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks that every public symbol of the Swift library has a sentence.

    python3 docs/Site/check_comments.py SYMBOLS

SYMBOLS is the compiler's symbol graph. The comment of a protocol's requirement also counts for its implementations. Prints each
symbol without a comment with its place, and fails if there is one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    symbols = json.loads(Path(sys.argv[1]).read_text("utf-8"))["symbols"]
    faults = []
    for symbol in symbols:
        # Symbols without a place are the compiler's. Synthesized ones have comments where they are declared.
        if "location" not in symbol or "::SYNTHESIZED::" in symbol["identifier"]["precise"]:
            continue
        if not any(line["text"].strip() for line in symbol.get("docComment", {}).get("lines", [])):
            place = Path(unquote(urlsplit(symbol["location"]["uri"]).path)).relative_to(ROOT)
            line = symbol["location"]["position"]["line"] + 1
            faults.append((str(place), line, ".".join(symbol["pathComponents"])))
    for place, line, name in sorted(faults):
        print(f"{place}:{line}: {name} has no comment", file=sys.stderr)
    print(f"check_comments: {len(symbols)} symbols, {len(faults)} without a sentence")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
