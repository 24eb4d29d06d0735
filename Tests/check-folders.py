#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Checks the references between the folders of Sources/DiffusionScheduling against the table `allowed`.

    python3 Tests/check-folders.py

A folder refers to another one if its code, outside comments and strings, names a type that the other declares at the top level.
Prints each reference that isn't allowed with its place, and fails if there are any.
"""

import pathlib
import re
import sys

from source_code import swift_code

root = pathlib.Path(__file__).resolve().parent.parent
sources = root / "Sources" / "DiffusionScheduling"

# The folders that each folder may name, besides itself and the basic types in the top folder.
allowed = {
    "Schedules": set(),
    "Configuration": {"Schedules"},
    "Rows": set(),
    "Kernels": {"Rows"},
    "Noise": {"Kernels"},
    "Plan": {"Configuration", "Kernels", "Rows", "Schedules"},
    "Solvers": {"Configuration", "Kernels", "Noise", "Plan", "Rows", "Schedules"},
}
# The top folder's files that may name every folder; its other files may name none.
above = {"Sampler.swift", "SamplerModel.swift", "SamplerNames.swift", "SchedulerCatalog.swift"}
# The only folder that calls C.
importer = "Kernels"
# Wrappers of C functions that take no tensors. Any code that computes scalars may name them.
everywhere = {"FloatingPointEnvironment"}

declaration = re.compile(
    r"^(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|private|fileprivate|final|indirect|nonisolated)\s+)*"
    r"(struct|class|enum|protocol|actor|typealias)\s+(\w+)",
    re.MULTILINE,
)


# DocC catalogues hold examples, which aren't part of the library.
paths = [path for path in sorted(sources.rglob("*.swift")) if not any(".docc" in each for each in path.parts)]
files = {path: swift_code(path.read_text()) for path in paths}


def folder_of(path):
    return path.parent.relative_to(sources).parts[0] if path.parent != sources else path.name if path.name in above else ""


homes, faults = {}, []
for path, code in files.items():
    for match in declaration.finditer(code):
        name, folder = match[2], folder_of(path)
        if homes.setdefault(name, folder) != folder:
            faults.append(f"{path.relative_to(root)}: {name} is declared in {homes[name] or 'the top folder'} too")
    if folder_of(path) not in allowed and folder_of(path) not in above and folder_of(path):
        faults.append(f"{path.relative_to(root)}: the folder is not in the table of {pathlib.Path(__file__).name}")

word = re.compile(r"\b[A-Z]\w*\b")
for path, code in files.items():
    folder = folder_of(path)
    for number, line in enumerate(code.split("\n"), 1):
        place = f"{path.relative_to(root)}:{number}"
        if re.search(r"\bimport\s+(CKernels|DeviceKernels)\b", line) and folder != importer:
            faults.append(f"{place}: only {importer} imports C")
        if folder in above or folder not in allowed:
            continue
        for name in sorted(set(word.findall(line))):
            home = homes.get(name, "")
            if home and home != folder and home not in allowed[folder] and name not in everywhere:
                faults.append(f"{place}: {folder} names {name} of {home}")

print("\n".join(faults) if faults else f"check-folders: {len(files)} files, {len(homes)} types, each where it may be named")
sys.exit(1 if faults else 0)
