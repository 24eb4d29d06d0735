#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Draws the benchmarks' results: ``plot.py [--bench out/bench.json] [--out out/bench]``.

steps.svg    each scheduler's share of the bare loop's bandwidth, by size, from bench.json
compare.svg  the rivals' times as multiples of this library's, by size, from compare.json

A picture whose file is missing is left out. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402

INK, GRID = "#222222", "#dddddd"


def size_text(elements: float) -> str:
    for unit, scale in (("M", 2**20), ("K", 2**10)):
        if elements >= scale:
            return f"{elements / scale:g} {unit}"
    return f"{elements:g}"


def style(axes: Any, sizes: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def draw_steps(results: dict[str, Any], path: Path) -> None:
    """Draws the steps in place: a column for each element type, a row for each number of threads, a line for each scheduler."""
    rows = [row for row in results["steps"] if row["form"] == "in place" and "comparison" not in row]
    if not rows:
        print(f"left out: {path.name}, because the results contain no step in place")
        return
    types = list(dict.fromkeys(row["elementType"] for row in rows))
    thread_counts = sorted({row["threads"] for row in rows})
    sizes = sorted({row["elements"] for row in rows})
    names = list(dict.fromkeys(f"{row['scheduler']} {row['order']}" for row in rows))
    shape = len(thread_counts), len(types)
    figure, panels = plt.subplots(*shape, figsize=(3.8 * shape[1], 3.2 * shape[0] + 0.8), sharex=True, sharey=True, squeeze=False)
    labels: dict[str, Any] = {}
    for threads, line_of_panels in zip(thread_counts, panels):
        for element_type, axes in zip(types, line_of_panels):
            lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
            for row in rows:
                if (row["threads"], row["elementType"]) == (threads, element_type):
                    share = row["bare"]["lowerDecile"] / row["step"]["lowerDecile"]
                    lines[f"{row['scheduler']} {row['order']}"].append((row["elements"], share))
            for name, points in lines.items():
                (line,) = axes.plot(
                    *zip(*sorted(points)), color=f"C{names.index(name) % 10}", marker="o", markersize=3, linewidth=1.2
                )
                labels.setdefault(name, line)
            axes.axhline(1, color=INK, linewidth=0.8)
            axes.set_title(f"{element_type}, {threads} thread{'s' if threads > 1 else ''}")
            style(axes, sizes)
    panels[0][0].set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("elements")
    figure.supylabel("share of the bare loop's bandwidth", fontsize=9)
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    caption(figure, results, "steps in place")
    save(figure, path)


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    """Draws a panel for each rival, with a line for each scheduler."""
    # Only rows in float32 have NumPy as a contestant.
    rows = [row for row in results["rows"] if row["kind"] == "step" and "NumPy" in row["contestants"]]
    rivals = [name for name in ("diffusers", "torch.compile", "NumPy") if any(name in row["contestants"] for row in rows)]
    figure, panels = plt.subplots(1, len(rivals), figsize=(4.6 * len(rivals), 4.2), sharey=True, squeeze=False)
    labels: dict[str, Any] = {}
    names = list(dict.fromkeys(row["scheduler"] for row in rows))
    for axes, rival in zip(panels[0], rivals):
        for name in names:
            points = sorted(
                (row["elements"], row["contestants"][rival]["ratio"])
                for row in rows
                if row["scheduler"] == name and rival in row["contestants"]
            )
            if points:
                (line,) = axes.plot(*zip(*points), color=f"C{names.index(name)}", marker="o", markersize=3, linewidth=1.2)
                labels.setdefault(name, line)
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.set_yscale("log")
        axes.set_title(rival)
        axes.set_xlabel("elements")
        style(axes, sorted({row["elements"] for row in rows}))
    panels[0][0].set_ylabel("time of a step, as a multiple of this library's")
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    caption(figure, results, "float32")
    save(figure, path)


def caption(figure: Any, results: dict[str, Any], text: str) -> None:
    machine = results["machine"]
    quick = "; A QUICK RUN, NOT FOR FIGURES" if results["isQuick"] else ""
    figure.suptitle(f"{machine['processor']}, {machine['threads']} threads; {text}{quick}", fontsize=9, color=INK)


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"written: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="out/bench.json", type=Path, help="the results of make bench")
    parser.add_argument("--out", default="out/bench", type=Path, help="the folder of compare.json and the pictures")
    arguments = parser.parse_args()
    plt.rcParams.update({"figure.constrained_layout.use": True, "svg.hashsalt": "benchmarks", "font.size": 9})
    for source, draw, name in (
        (arguments.bench, draw_steps, "steps.svg"),
        (arguments.out / "compare.json", draw_comparison, "compare.svg"),
    ):
        if not source.exists():
            print(f"left out: {name}, because there is no {source}")
            continue
        draw(json.loads(source.read_text()), arguments.out / name)


if __name__ == "__main__":
    main()
