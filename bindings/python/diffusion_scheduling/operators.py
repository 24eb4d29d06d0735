# SPDX-License-Identifier: Apache-2.0

"""Steps for torch.compile and autograd: functions of tensors, without the state of the scheduler classes.

    import torch
    from diffusion_scheduling import DEISMultistepScheduler
    from diffusion_scheduling.operators import Plan

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    plan = Plan(scheduler)

    @torch.compile(fullgraph=True)
    def sample(x):
        slots = plan.empty_slots()
        for index, timestep in enumerate(plan.timesteps):
            model_output = model(x * plan.input_scales[index], timestep)
            x, slots = plan.step(index, model_output, x, slots)
        return x

A step is one operator, ``torch.ops.diffusion_scheduling.step``. The library runs it on the host, a Triton kernel on CUDA and XPU,
and torch's operations elsewhere. Steps have gradients, and gradients of gradients. This module needs torch, but not diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

if not hasattr(torch.library, "register_vmap"):
    raise ImportError(f"torch is {torch.__version__}, but must be 2.5 or later: operators are registered by torch.library")

from . import _library, _operators
from ._core import Core
from ._schedulers import whole_numbers

if TYPE_CHECKING:
    from torch import Tensor


class Plan:
    """A scheduler's plan at the time of construction. It never changes: a compiler sees its numbers as constants.

    scheduler  a scheduler of this package, on NumPy arrays or a drop-in, whose timesteps have been set
    options    run options that replace the scheduler's, such as ``eta``

    The operator finds a plan only while a ``Plan`` of it exists. Before a process runs an exported program, it must make a Plan
    from an equal scheduler.

    Raises InvalidValueError for the arguments, or TimestepError before timesteps are set (both are ValueErrors).
    """

    key: str
    """The operator's argument for the plan. Equal plans have equal keys."""
    timesteps: tuple[float, ...]
    """The timestep that the model gets at each step; integers if all are whole numbers."""
    input_scales: tuple[float, ...]
    """The input scale of each step: the model's input is the sample times this number."""
    init_noise_sigma: float
    """The standard deviation of the noise that a run starts with."""
    slot_count: int
    """The number of slots that steps store and read."""

    def __init__(self, scheduler: Any, **options: Any) -> None:
        if not isinstance(scheduler, Core):
            raise _library.InvalidValueError(
                f"scheduler is a {type(scheduler).__name__}, but must be a scheduler of diffusion_scheduling or of "
                "diffusion_scheduling.diffusers"
            )
        plan = scheduler._ready()
        self._take(plan.again(options) if options else plan)

    def _take(self, plan: Any) -> None:
        self.key, self._steps = _operators.added(plan)
        self._places = tuple(tuple(row.places for row in rows) for rows in self._steps.rows)
        self.timesteps = tuple(whole_numbers(plan.timesteps).tolist())
        self.input_scales = tuple(plan.input_scales)
        self.init_noise_sigma, self.slot_count = plan.init_noise_sigma, plan.properties.n_slots

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self

    def __reduce__(self) -> tuple[Callable[..., Plan], tuple[Any, ...]]:
        return _remade, (self._steps._plan,)

    def __repr__(self) -> str:
        return f"Plan({self._steps.description.class_name}, {len(self.timesteps)} steps)"

    def _places_of(self, index: int, age: int | None) -> _operators.Places:
        age = index if age is None else age
        _operators.check_place(index, age, len(self._places))
        rows = self._places[index]
        return rows[min(age, len(rows) - 1)]

    def empty_slots(self) -> list[Tensor | None]:
        """The slots before the first step."""
        return [None] * self.slot_count

    def needs_noise(self, index: int, age: int | None = None) -> bool:
        """Whether a step reads noise. Arguments and errors as for ``step``."""
        return self._places_of(index, age).reads_noise

    def step(
        self,
        index: int,
        model_output: Tensor,
        sample: Tensor,
        slots: Sequence[Tensor | None] = (),
        noise: Tensor | None = None,
        *,
        unconditional: Tensor | None = None,
        guidance_scale: float = 1.0,
        age: int | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Takes a step. Returns the next sample, and the slots after the step. The scheduler's class has the formula.

        index           the step; a compiled function has separate code for each index
        model_output    the model's output at ``timesteps[index]``; with the condition, if the step is guided
        sample          sets the shape of the results, with broadcasting; the results' types are those of the scheduler's ``step``
        slots           the slots that the previous step returned; empty before the first step
        noise           standard normal numbers, shaped like the sample; read if ``needs_noise``
        unconditional   the model's output without the condition. The model output of the step is then
                        e = unconditional + guidance_scale (model_output - unconditional), with the variance of model_output.
        age             the number of steps that the run has taken before this one; None: `index`, as in a run from the first step

        Raises InvalidValueError, a ValueError, or UnsupportedError for tensors with forward-mode tangents.
        """
        places = self._places_of(index, age)
        held = list(slots) if len(slots) else self.empty_slots()
        if len(held) != self.slot_count:
            raise _library.InvalidValueError(f"the number of slots is {len(held)}, but must be {self.slot_count}, or 0 at first")
        if not torch.compiler.is_compiling() and _has_tangents([model_output, sample, noise, unconditional, *held]):
            raise _library.UnsupportedError("a tensor has a tangent, but forward-mode derivatives of steps aren't supported")
        read: list[Tensor] = []
        for slot in places.reads:
            tensor = held[slot]
            if tensor is None:
                raise _library.InvalidValueError(
                    f"slot {slot} is None, but step {index} reads it: hand over the slots of the step before, and as age how many "
                    "steps have been taken"
                )
            read.append(tensor)
        results = torch.ops.diffusion_scheduling.step(
            self.key,
            index,
            index if age is None else age,
            model_output,
            sample,
            noise if places.reads_noise else None,
            unconditional,
            guidance_scale,
            read,
        )
        for slot, stored in zip(places.stores, results[1:]):
            held[slot] = stored
        for slot in places.keeps:
            held[slot] = sample
        return results[0], held


def _has_tangents(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a tensor has a forward-mode tangent. torch would take the derivative of the operator for zero."""
    return forward_ad._current_level >= 0 and any(
        each is not None and forward_ad.unpack_dual(each).tangent is not None for each in tensors
    )


def _remade(plan: Any) -> Plan:
    made = Plan.__new__(Plan)
    made._take(plan)
    return made


__all__ = ["Plan"]
