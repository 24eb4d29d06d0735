# SPDX-License-Identifier: Apache-2.0

"""A plan's steps as one torch operator: a function of tensors for torch.compile, autograd and vmap.

``diffusion_scheduling::step`` takes the key of a plan, the index and the age of a row, and tensors. It returns the next sample and
the row's stores. It doesn't write to its arguments, and its results share no memory with them. The library takes the steps on the
host, and `_on_device` takes them elsewhere.

Autocast doesn't affect a step: the results' types follow from the tensors' types, as in the drop-ins.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _handles, _launch, _library, _tensors
from ._configuration import Configuration
from ._core import Core
from ._handles import StepRow
from ._library import Combination, Row

SCHEMA = (
    "(str plan, int index, int age, Tensor model_output, Tensor sample, Tensor? noise, Tensor? unconditional, "
    "float guidance_scale, Tensor[] slots) -> Tensor[]"
)
"""The operator's arguments and results. `slots` are the slots that the row reads, in the row's order."""


class Arguments(NamedTuple):
    """The operator's arguments after `plan`, `index` and `age`."""

    model_output: Tensor
    sample: Tensor
    noise: Tensor | None
    unconditional: Tensor | None
    guidance_scale: float
    slots: Sequence[Tensor]

    @property
    def tensors(self) -> list[Tensor | None]:
        return [self.model_output, self.sample, self.noise, self.unconditional, *self.slots]

    def of(self, tensors: Sequence[Any]) -> Arguments:
        """These arguments with other tensors, in the order of the property `tensors`."""
        e, x, z, u, *slots = tensors
        return Arguments(e, x, z, u, self.guidance_scale, slots)


class Places(NamedTuple):
    """The slots of a row, for callers that keep the slots' tensors."""

    reads: tuple[int, ...]
    """The slots that the operator takes, in this order."""
    stores: tuple[int, ...]
    """The slots of the results after the next sample, in this order."""
    keeps: tuple[int, ...]
    """The slots that hold the step's own sample afterwards. The operator doesn't copy the sample."""
    reads_noise: bool


class TakenRow(StepRow):
    """A row of a plan in the operator's form."""

    __slots__ = "combinations", "guided", "is_affine", "places"

    def __init__(self, row: Row, clamp: int) -> None:
        super().__init__(row)
        keeps = self.without_samples()
        self.combinations: list[Combination] = [row.next_sample, *row.stored.values()]
        """The results' combinations."""
        uses_prediction = any(each.prediction for each in self.combinations)
        reads_noise = any(each.noise for each in self.combinations) or (uses_prediction and row.prediction.noise != 0)
        self.places = Places(tuple(self.reads), tuple(self.stores), tuple(keeps), reads_noise)
        self.is_affine = row.noise_factor == _library.NOISE_FACTOR_NONE and not (uses_prediction and clamp != _library.CLAMP_NONE)
        """Whether the results are sums of the arguments with constant coefficients."""
        self.guided: tuple[float, StepRow | None] | None = None
        """The last guidance scale, and its `guided_row`."""

    def transposed(self, stream: str | int, factor: float, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of an affine row's argument, in float32 or float64; None if no result with a gradient reads the argument.

        stream     the argument's member of combinations, or its slot
        factor     the argument's factor before the combination
        gradients  the gradients of the results
        """
        total: Tensor | None = None
        for combination, gradient in zip(self.combinations, gradients):
            if isinstance(stream, int):
                coefficient = combination.slots[stream]
            else:
                coefficient = getattr(combination, stream) + combination.prediction * getattr(self.row.prediction, stream)
            coefficient *= factor
            if gradient is None or coefficient == 0:
                continue
            wide = gradient.to(_tensors.at_least_float32(gradient.dtype))
            total = wide * coefficient if total is None else total.add(wide, alpha=coefficient)
        return total


def guided_row(row: Row, reads_noise: bool, scale: float) -> StepRow | None:
    """A row for a guided step. It takes the unconditional output in place of the noise, and the noise, if any, as its first slot.

    Its sums have the order and the coefficients of the library's guided steps. Returns None if a variance scales the noise, if the
    prediction reads the noise, or if no slot is free for the noise.
    """
    used = {*row.read, *row.stored}
    free = [slot for slot in range(_library.MAX_SLOTS) if slot not in used]
    if row.noise_factor != _library.NOISE_FACTOR_NONE or row.prediction.noise != 0 or (reads_noise and not free):
        return None
    made = Row.from_buffer_copy(row)
    if reads_noise:
        made.n_reads = row.n_reads + 1
        made.reads[: made.n_reads] = [free[0], *row.read]
    stored = [made.stores[place].value for place in range(made.n_stores)]
    for combination in (made.prediction, made.next_sample, made.report, *stored):
        if reads_noise:
            combination.slots[free[0]] = combination.noise
        combination.noise = (1 - scale) * combination.model_output
        combination.model_output = scale * combination.model_output
    return StepRow(made)


class Steps(Core):
    """The steps of a plan. The operator finds them by the plan's key."""

    _tensors = _tensors

    def __init__(self, plan: _handles.Plan) -> None:
        # As in the drop-ins, a class counts as stateless if its callers keep the tensors between steps.
        is_stateless = plan.description.is_stateless or plan.description.attributes.timestep is not None
        self.description = plan.description._replace(returns_report=False, is_stateless=is_stateless)  # type: ignore[misc]
        self.config = Configuration(plan.config)
        self._adopt_plan(plan)
        clamp, ages = plan.properties.clamp, plan.properties.warm_up + 1
        self.rows = [
            [TakenRow(plan.row(index, age), clamp) for age in range(min(index + 1, ages))] for index in range(len(plan.timesteps))
        ]
        """The rows of each evaluation, by age."""

    def row(self, index: int, age: int) -> TakenRow:
        """The row of a step. Raises InvalidValueError if the plan has no such step."""
        check_place(index, age, len(self.rows))
        rows = self.rows[index]
        return rows[min(age, len(rows) - 1)]

    # ---- Arguments

    def shape(self, e: Tensor, x: Tensor) -> Sequence[int]:
        """The shape of a step's results."""
        shape: Sequence[int] = x.shape
        if e.shape == shape:
            return shape
        if self._plan.properties.learns_variance:
            both = [extent * (1 + (axis == _axis(x))) for axis, extent in enumerate(shape)]
            if list(e.shape) != both:
                raise _library.InvalidValueError(
                    f"model_output has the shape {list(e.shape)}, but must have {list(shape)}, or {both} with a variance"
                )
            return shape
        try:
            shape = self._matched(self._plan, e, x)[1].shape
        except RuntimeError:
            raise _library.InvalidValueError(
                f"model_output has the shape {list(e.shape)}, but must be broadcastable with sample, {list(shape)}"
            ) from None
        return shape

    def checked(self, row: TakenRow, given: Arguments) -> Sequence[int]:
        """The shape of a step's results. Raises InvalidValueError for arguments that don't fit the row."""
        e, u, scale = given.model_output, given.unconditional, given.guidance_scale
        shape = self.shape(e, given.sample)
        if len(given.slots) != len(row.reads):
            raise _library.InvalidValueError(
                f"the number of slots is {len(given.slots)}, but must be {len(row.reads)}: those that the row reads"
            )
        if given.noise is None and row.places.reads_noise:
            raise _library.InvalidValueError("the step is stochastic, but noise is missing")
        if u is not None and (u.shape != e.shape or u.dtype != e.dtype):
            raise _library.InvalidValueError(f"unconditional is {_form(u)}, but must be like model_output, which is {_form(e)}")
        if u is not None and not math.isfinite(scale):
            raise _library.InvalidValueError(f"guidance_scale is {scale}, but must be finite")
        for place, each in enumerate((given.noise, *given.slots)):
            if each is not None and each.shape != shape and not _expands(each.shape, shape):
                name = f"slot {row.reads[place - 1]}" if place else "noise"
                raise _library.InvalidValueError(f"{name} has the shape {list(each.shape)}, but must have {list(shape)}")
        return shape

    def types(self, given: Arguments) -> tuple[torch.dtype, torch.dtype]:
        """The element types of the next sample and of the stores."""
        dtype, common = self._types(given.model_output, given.sample, given.noise)
        return dtype, _tensors.computing_type(common)

    def is_channels_last(self, given: Arguments) -> bool:
        """Whether the results are stored with channels last."""
        return _tensors.layout(given.model_output, given.sample)

    # ---- Results

    def by_library(self, row: TakenRow, given: Arguments) -> list[Tensor]:
        """The results by the library, on the host."""
        taken, e, z, slots = self._single(row, given)
        results, stored = self._run(self._plan, taken, e, given.sample, z, slots, None)
        if given.unconditional is None:
            return [*results, *stored]
        dtype, work = self.types(given)
        return [*(each.to(dtype) for each in results), *(each.to(work) for each in stored)]

    def by_kernel(self, row: TakenRow, given: Arguments) -> list[Tensor] | None:
        """The results by a kernel on the tensors' device; None if the kernels can't take these tensors."""
        taken, e, z, slots = self._single(row, given)
        x, (dtype, work) = given.sample, self.types(given)
        if not _launch.takes(e, x, *slots, *([] if z is None else [z])):
            return None
        made = _launch.step_by_record(taken, self._plan, e, x, z, slots, (dtype,), work)
        return None if made is None else [*made[0], *made[1]]

    def _single(self, row: TakenRow, given: Arguments) -> tuple[StepRow, Tensor, Tensor | None, Sequence[Tensor]]:
        """The step as one row, guided or not: the row, and the tensors that it takes as model output, as noise and as slots."""
        e, x, z, u, scale, slots = given
        if u is None:
            return row, e, z, slots
        guided = row.guided
        if guided is None or guided[0] != scale:
            guided = row.guided = scale, guided_row(row.row, row.places.reads_noise, scale)
        if guided[1] is None:
            return row, self._guided(given), z, slots
        slots = [z, *slots] if z is not None and row.places.reads_noise else slots
        return guided[1], e, self._prediction(u, x).to(self.types(given)[1]), slots

    def by_operations(self, row: TakenRow, given: Arguments) -> list[Tensor]:
        """The results by torch's operations. Gradients flow through them."""
        dtype, work = self.types(given)
        e = given.model_output if given.unconditional is None else self._guided(given)
        held = dict(zip(row.reads, given.slots))
        results, stored = _tensors.step_by_row(row.row, self._plan.properties, e, given.sample, given.noise, held, False)
        return [*(each.to(dtype) for each in results), *(each.to(work) for each in stored)]

    def _guided(self, given: Arguments) -> Tensor:
        """The guided model output, in float32 or float64. If there is a variance, it is the conditional output's."""
        e, x, scale = given.model_output, given.sample, given.guidance_scale
        work = _tensors.at_least_float32(_tensors.common_type(e, x))
        pair = (self._prediction(each, x).to(work) for each in (e, given.unconditional))
        guided = torch.add(next(pair) * scale, next(pair), alpha=1 - scale)
        return guided if guided.shape == e.shape else torch.cat([guided, e.chunk(2, _axis(x))[1].to(work)], _axis(x))

    def _prediction(self, e: Any, x: Tensor) -> Tensor:
        """A model output without its variance."""
        has_variance = self._plan.properties.learns_variance and e.shape != x.shape
        return e.chunk(2, _axis(x))[0] if has_variance else e


def _axis(x: Tensor) -> int:
    """The axis on which a variance follows the prediction."""
    return 1 if x.ndim > 1 else 0


def _form(tensor: Tensor) -> str:
    """The type and the shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _expands(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor can be expanded to a shape."""
    return len(shape) <= len(target) and all(own in (1, extent) for own, extent in zip(shape[::-1], target[::-1]))


def check_place(index: int, age: int, count: int) -> None:
    """Raises InvalidValueError if a plan of `count` evaluations has no such row."""
    if not 0 <= index < count:
        raise _library.InvalidValueError(f"index is {index}, but must be from 0 to {count - 1}")
    if age < 0:
        raise _library.InvalidValueError(f"age is {age}, but must be at least 0")


# ---- Plans by their keys

_alive: weakref.WeakValueDictionary[str, Steps] = weakref.WeakValueDictionary()
_adding = threading.Lock()


def added(plan: _handles.Plan) -> tuple[str, Steps]:
    """The key of a plan, and its steps. The operator finds the steps only while the caller keeps them.

    The key is a hash of the configuration and of all coefficients. Equal plans have equal keys in every process, so a loop is
    compiled once for all of them.
    """
    key = hashlib.sha256(f"{plan.config_text}\n{plan.text}".encode()).hexdigest()[:32]
    with _adding:
        steps = _alive.get(key)
        if steps is None:
            steps = _alive[key] = Steps(plan)
    return key, steps


def _found(plan: str, index: int, age: int) -> tuple[Steps, TakenRow]:
    """The steps of the plan with this key, and one of the plan's rows."""
    steps = _alive.get(plan)
    if steps is None:
        raise _library.InvalidValueError(
            f"plan is {plan!r}, but must be the key of a Plan that exists: keep the Plan, or make it again of an equal scheduler"
        )
    return steps, steps.row(index, age)


# ---- The operator


def _on_device(plan: str, index: int, age: int, *arguments: Any) -> list[Tensor]:
    """The step on devices that the library can't reach: by a kernel if one takes the tensors, else by torch's operations.

    The results have the shape of `checked`, the types of `types` and the memory layout of `is_channels_last`. They share no memory
    with the arguments.
    """
    steps, row = _found(plan, index, age)
    given = Arguments(*arguments)
    shape = steps.checked(row, given)
    order = torch.channels_last if steps.is_channels_last(given) else torch.contiguous_format
    results = steps.by_kernel(row, given)
    if results is None:
        results = steps.by_operations(row, given)
    return [each.expand(shape).contiguous(memory_format=order) for each in results]


def _on_host(plan: str, index: int, age: int, *arguments: Any) -> list[Tensor]:
    """The step on the host."""
    steps, row = _found(plan, index, age)
    given = Arguments(*arguments)
    steps.checked(row, given)
    return steps.by_library(row, given)


def _like(plan: str, index: int, age: int, *arguments: Any) -> list[Tensor]:
    """Uninitialised tensors like the results."""
    steps, row = _found(plan, index, age)
    given = Arguments(*arguments)
    shape = steps.checked(row, given)
    order = torch.channels_last if steps.is_channels_last(given) else torch.contiguous_format
    dtype, work = steps.types(given)
    kinds = [dtype, *[work] * len(row.stores)]
    return [torch.empty(shape, dtype=kind, device=given.sample.device, memory_format=order) for kind in kinds]


# ---- Gradients


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    """Keeps the arguments for the backward pass. For an affine row, their shapes and types are enough.

    The graph keeps the plan alive.
    """
    ctx.steps, ctx.row = _found(*inputs[:3])
    given = Arguments(*inputs[3:])
    ctx.set_materialize_grads(False)
    if ctx.row.is_affine:
        ctx.forms = given.of([None if each is None else (each.shape, each.dtype) for each in given.tensors])
    else:
        ctx.given = given.of([None] * len(given.tensors))
        ctx.save_for_backward(*given.tensors)


def _backward(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    needed = Arguments(*ctx.needs_input_grad[3:])
    own = _affine_gradients if ctx.row.is_affine else _recomputed_gradients
    made = own(ctx, needed, gradients)
    return None, None, None, *made[:4], None, made[4:]


def _affine_gradients(ctx: Any, needed: Arguments, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the arguments: the results' gradients, combined with the transposed coefficients."""
    row, forms = ctx.row, ctx.forms
    scale = 1.0 if forms.unconditional is None else forms.guidance_scale
    streams = [("model_output", scale), ("sample", 1.0), ("noise", 1.0), ("model_output", 1 - scale)]
    streams += [(slot, 1.0) for slot in row.reads]
    made: list[Tensor | None] = []
    for (stream, factor), form, is_needed in zip(streams, forms.tensors, needed.tensors):
        gradient = row.transposed(stream, factor, gradients) if is_needed else None
        if gradient is not None:
            shape, dtype = form
            if stream == "model_output" and shape != gradient.shape and ctx.steps._plan.properties.learns_variance:
                # The row doesn't read the variance.
                gradient = torch.cat([gradient, torch.zeros_like(gradient)], _axis(gradient))
            gradient = gradient.sum_to_size(shape).to(dtype)
        made.append(gradient)
    return made


def _recomputed_gradients(ctx: Any, needed: Arguments, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the arguments, by autograd through torch's operations."""
    saved, flags = list(ctx.saved_tensors), [bool(each) for each in needed.tensors]
    is_differentiated = torch.is_grad_enabled()  # The caller may want gradients of the gradients.
    with torch.enable_grad():
        if not is_differentiated:
            saved = [each if each is None else each.detach().requires_grad_(flag) for each, flag in zip(saved, flags)]
        given = ctx.given.of(saved)
        shape = ctx.steps.checked(ctx.row, given)
        results = [each.expand(shape) for each in ctx.steps.by_operations(ctx.row, given)]
    pairs = [pair for pair in zip(results, gradients) if pair[0].requires_grad and pair[1] is not None]
    if not pairs:
        return [None] * len(saved)
    sources = [each for each, flag in zip(saved, flags) if flag]
    roots, seeds = zip(*pairs)
    found = iter(torch.autograd.grad(roots, sources, seeds, create_graph=is_differentiated, allow_unused=True))
    return [next(found) if flag else None for flag in flags]


# ---- Batches


def _batched(info: Any, in_dims: tuple[Any, ...], plan: str, index: int, age: int, *arguments: Any) -> tuple[Any, Any]:
    """The rule for vmap: the steps of all batches are one step of more items."""
    steps, _ = _found(plan, index, age)
    given, dims = Arguments(*arguments), Arguments(*in_dims[3:])
    size = info.batch_size

    def moved(tensor: Tensor | None, dim: int | None) -> Any:
        if tensor is None:
            return None
        return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

    e, x, *others = (moved(*each) for each in zip(given.tensors, dims.tensors))
    items = (each.new_empty(each.shape[1:], device="meta") for each in (e, x))
    shape = steps.shape(*items)
    has_variance = steps._plan.properties.learns_variance

    def joined(tensor: Any, shape: Sequence[int]) -> Any:
        if tensor is None:
            return None
        own = tensor.shape[1:]
        tensor = tensor.reshape(size, *[1] * (len(shape) - len(own)), *own).expand(size, *shape)
        # A tensor of rank 0 or 1 is one item.
        return tensor.flatten(0, 1) if len(shape) > 1 else tensor.reshape(size, -1)

    outputs = e.shape[1:] if has_variance else shape
    u, *kept = others[1], others[0], *others[2:]
    e, u, x, z, *slots = (*(joined(each, outputs) for each in (e, u)), *(joined(each, shape) for each in (x, *kept)))
    results = step(plan, index, age, *given.of([e, x, z, u, *slots]))
    return [each.reshape(size, *shape) for each in results], [0] * len(results)


step = torch.library.custom_op("diffusion_scheduling::step", _on_device, mutates_args=(), schema=SCHEMA)
step.register_kernel("cpu", _on_host)
step.register_fake(_like)
step.register_autograd(_backward, setup_context=_keep)
step.register_vmap(_batched)
