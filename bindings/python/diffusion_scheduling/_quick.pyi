# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Sequence
from ctypes import c_uint
from typing import Any

from ._handles import Plan, StepRow

class QuickStep:
    def __init__(
        self,
        plan: Plan,
        rows: dict[Any, Any],
        timesteps: list[Any],
        watched: tuple[str, ...],
        seen: tuple[Any, ...],
        counted: tuple[tuple[Any, int], ...],
        unset: tuple[Any, ...],
        plans: dict[tuple[Any, ...], Plan],
        order: tuple[bool, str | None, str | None, bool, bool, bool],
        form: tuple[type[Any], Any, Callable[..., Any], tuple[Any, ...], Callable[[], bool] | None],
        keep: Callable[[Any], Any],
        make_error: Callable[[int], Exception],
        has_report: bool,
        max_threads: c_uint,
        row_step: int,
        model_output: Any,
        sample: Any,
        /,
    ) -> None: ...
    def step(
        self,
        scheduler: Any,
        model_output: Any,
        timestep: Any,
        sample: Any,
        options: tuple[Any, ...],
        generator: Any,
        noise: Any,
        out: Any,
        /,
        *slots: Sequence[Any],
    ) -> tuple[Any, ...]: ...
    def run_row(
        self, row: StepRow, model_output: Any, sample: Any, noise: Any, slots: Sequence[Any], out: Any, /
    ) -> tuple[tuple[Any, ...], Sequence[Any]] | None: ...
