# SPDX-License-Identifier: Apache-2.0

"""The scripts that record the golden vectors. They draw the configurations and have the exact recurrences."""

import sys
from pathlib import Path

# The second script imports the first one by its name.
sys.path.append(str(Path(__file__).resolve().parents[3] / "Tests" / "Goldens"))

import generate  # noqa: E402
import generate_classes  # noqa: E402

__all__ = ["generate", "generate_classes"]
