# SPDX-License-Identifier: Apache-2.0

"""Imports the scripts that record the golden vectors: they draw configurations and contain the exact recurrences."""

import sys
from pathlib import Path

# generate_classes imports generate by its name.
sys.path.append(str(Path(__file__).resolve().parents[3] / "Tests" / "Goldens"))

import generate  # noqa: E402
import generate_classes  # noqa: E402

__all__ = ["generate", "generate_classes"]
