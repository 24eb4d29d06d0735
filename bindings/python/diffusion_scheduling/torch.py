# SPDX-License-Identifier: Apache-2.0

"""Steps of batches on devices: one kernel launch per step, without waiting for the device.

    from diffusion_scheduling import DEISMultistepScheduler
    from diffusion_scheduling.torch import DeviceBatch, PlanTable

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    batch = DeviceBatch(PlanTable([scheduler], "cuda"), (4, 4, 64, 64))
    batch.begin(0)  # The other three places are free.
    for _ in range(20):
        sample = batch.step(model(batch.model_input(sample), batch.timesteps), sample, out=sample)

A table on the device has the rows of all plans as records. For each batch item, the device also has the number of the item's
record. A step reads this number, and replaces it by the number of the next record. So each item has a separate plan and timestep,
and one step captured in a CUDA graph can be replayed for all steps of all requests. The kernels are written in Triton;
docs/DEVICES.md states their error bounds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _launch, _library
from ._handles import Plan
from ._launch import Features, Launch, Workspace

MOST_SCALES = 64
"""The most guidance scales that a batch keeps on its device, of those given as numbers."""


class _Entry:
    """A plan of a table."""

    def __init__(self, plan: Plan, first: int, records: Any) -> None:
        self.plan, self.first, self.records = plan, first, records
        self.count = len(plan.timesteps)

    @functools.cached_property
    def starts(self) -> list[int]:
        """The evaluations at which a run may begin: the first evaluation of each step."""
        steps = [evaluation["step"] for evaluation in json.loads(self.plan.text)["evaluations"]]
        return [i for i, step in enumerate(steps) if i == 0 or step > steps[i - 1]]

    def place(self, index: int) -> int:
        """The index, among this plan's records, of the record for a run that begins at evaluation `index`."""
        return int(np.argmax(self.records["evaluation"] == index))  # The record of age 0 comes first.


class PlanTable:
    """The rows of one or more plans, in a device's memory.

    schedulers  schedulers of any classes whose timesteps have been set: on NumPy arrays, or drop-ins. The index in this list is the
                plan's number.
    device      the device of the batches
    capacity    the most records that the table can hold; None: the number of these plans' records. A plan's number of records is
                about its number of steps times its order.

    Raises UnsupportedError if Triton isn't installed, InvalidValueError for the arguments, and TimestepError for a scheduler whose
    timesteps haven't been set.
    """

    def __init__(self, schedulers: Sequence[Any], device: torch.device | str = "cuda", capacity: int | None = None) -> None:
        if not schedulers:
            raise _library.InvalidValueError("schedulers is empty, but must have at least one scheduler")
        self.device = torch.empty(0, device=device).device
        """The device, with its index."""
        _launch.kernels()
        if self.device.type not in _launch.DEVICES and not (self.device.type == "cpu" and _launch.is_interpreted()):
            raise _library.InvalidValueError(f"device is {self.device.type}, but must be {' or '.join(sorted(_launch.DEVICES))}")
        self._entries: list[_Entry] = []
        made: list[Any] = []
        for scheduler in schedulers:
            entry = self._entry(scheduler, sum(len(records) for records in made))
            self._entries.append(entry)
            made.append(entry.records)
        joined = np.concatenate(made)
        self.features = Features.of(joined)
        """The features that the kernels are compiled with."""
        count = len(joined) if capacity is None else capacity
        if count < len(joined):
            raise _library.InvalidValueError(f"capacity is {count}, but must be at least {len(joined)}, the schedulers' records")
        self.records = torch.zeros(count, _launch.RECORD_BYTES // 8, dtype=torch.float64, device=self.device)
        """[capacity, 128] records: see device_table.h"""
        self.records[: len(joined)].copy_(_launch.uploaded(joined, self.device))

    def _entry(self, scheduler: Any, first: int) -> _Entry:
        ready = getattr(scheduler, "_ready", None)
        if ready is None:
            raise _library.InvalidValueError(
                f"schedulers contain a {type(scheduler).__name__}, but must contain schedulers of diffusion_scheduling"
            )
        plan: Plan = ready()
        return _Entry(plan, first, _launch.table_of(plan, first))

    def add(self, scheduler: Any) -> int:
        """Appends the plan of one more scheduler, and returns the plan's number. Captured graphs serve this plan too.

        Raises UnsupportedError if the plan needs a feature without which the kernels have been compiled, because no scheduler of
        the constructor needed it. Raises OutOfMemoryError if the table is full.
        """
        first = sum(len(entry.records) for entry in self._entries)
        entry = self._entry(scheduler, first)
        features = Features.of(entry.records)
        if self.features.united(features) != self.features:
            lacking = [
                name for name, own, new in zip(Features._fields, self.features, self.features.united(features)) if own != new
            ]
            raise _library.UnsupportedError(
                f"the plan needs more {', '.join(lacking)} than the table's kernels have: give such a scheduler to the constructor"
            )
        count = first + len(entry.records)
        if count > len(self.records):
            raise _library.OutOfMemoryError(f"the table has room for {len(self.records)} records, but would have {count}")
        self.records[first:count].copy_(_launch.uploaded(entry.records, self.device))
        self._entries.append(entry)
        return len(self._entries) - 1

    def __len__(self) -> int:
        """The number of plans."""
        return len(self._entries)

    def _known(self, plan: int) -> _Entry:
        if not 0 <= plan < len(self._entries):
            raise _library.InvalidValueError(f"plan is {plan}, but must be from 0 to {len(self._entries) - 1}")
        return self._entries[plan]

    def evaluations(self, plan: int = 0) -> int:
        """The number of model evaluations in a run of a plan. Each evaluation takes one ``step`` of the batch.

        Raises InvalidValueError, a ValueError, for a number that no plan has.
        """
        return self._known(plan).count

    def init_noise_sigma(self, plan: int = 0) -> float:
        """The standard deviation of the noise that a run starts with. Errors as for ``evaluations``."""
        return self._known(plan).plan.init_noise_sigma

    def record(self, plan: int = 0, index: int = 0) -> int:
        """The number of the record for a run that begins at evaluation `index`.

        Raises InvalidValueError if the plan has no such evaluation, or a run can't begin there.
        """
        entry = self._known(plan)
        if not 0 <= index < entry.count:
            raise _library.InvalidValueError(f"index is {index}, but must be from 0 to {entry.count - 1}")
        if index and index not in entry.starts:
            raise _library.InvalidValueError(f"index is {index}, but must be the first evaluation of a step: one of {entry.starts}")
        return entry.first + entry.place(index)


class DeviceBatch:
    """A batch of requests on a device, each at a separate step.

    Besides its arguments, a step uses only tensors of this object and of its table. Their addresses never change.

    table            the plans
    shape            of the samples, [items, ...]
    dtype            of the slots, and of the noise that the kernel draws; usually the samples' type
    sums             "float32": sums with coefficients in two parts; "float64": the same bits as the library's steps on the host
    timestep_dtype   of `timesteps`
    memory_format    of the slots; steps take longer if the samples have another format
    draws_noise      whether steps without given noise draw noise from the items' seeds

    Raises InvalidValueError, a ValueError.
    """

    def __init__(
        self,
        table: PlanTable,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        sums: str = "float32",
        timestep_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        draws_noise: bool = True,
    ) -> None:
        if dtype not in _launch.TYPES:
            names = ", ".join(sorted(str(each) for each in _launch.TYPES))
            raise _library.InvalidValueError(f"dtype is {dtype}, but must be one of {names}")
        if sums not in _launch.SUMS:
            raise _library.InvalidValueError(f"sums is {sums!r}, but must be one of {', '.join(_launch.SUMS)}")
        if len(shape) == 0:
            raise _library.InvalidValueError("shape is empty, but must begin with the number of items")
        self.table, self.shape, self.dtype, self.sums = table, torch.Size(shape), dtype, sums
        self.draws_noise = draws_noise and table.features.draws_noise
        """Whether the kernel draws noise that isn't given."""
        device, n = table.device, self.shape[0]
        self.rows = torch.zeros(n, dtype=torch.int32, device=device)
        """[items] the numbers of the items' records; 0: a free place."""
        self.timesteps = torch.zeros(n, dtype=timestep_dtype, device=device)
        """[items] the timesteps that the model gets; 0 in free places."""
        self.input_scales = torch.ones(n, dtype=torch.promote_types(dtype, torch.float32), device=device)
        """[items] the factors from samples to model inputs; 1 in free places."""
        self.seeds, self.offsets = (torch.zeros(n, dtype=torch.int64, device=device) for _ in range(2))
        """[items] the seeds and offsets of the items' generators, as in torch's generators on CUDA."""
        slots = [torch.zeros(self.shape, dtype=dtype, device=device).to(memory_format=memory_format)]
        self.slots = slots[0].new_empty((max(1, table.features.slots), *self.shape))
        """[slots, items, ...] the tensors that rows store for later steps."""
        if slots[0].numel() and not slots[0].is_contiguous():
            size = slots[0].numel()
            self.slots = self.slots.as_strided(self.slots.shape, (size, *slots[0].stride()))
        self.slots.zero_()
        self._counters = torch.zeros(n, dtype=torch.int32, device=device)
        self._workspace = Workspace(n, device) if table.features.clamps & 4 else None
        self._scales: dict[float, Tensor] = {}
        self._launches: dict[Any, Launch] = {}

    def begin(self, item: int, plan: int = 0, index: int = 0, *, seed: int | None = None, offset: int = 0) -> None:
        """Begins a run at a place of the batch.

        item          the place; a run that is there ends
        plan          the plan's number in the table
        index         the first evaluation; above 0 for image-to-image
        seed, offset  of the ``torch.Generator("cuda")`` that draws the run's noise; `offset` is its ``get_offset()``

        Raises InvalidValueError, a ValueError.
        """
        self._check_item(item)
        record = self.table.record(plan, index)
        entry = self.table._known(plan)
        own = entry.records[record - entry.first]
        if self.draws_noise and seed is None and bool((entry.records["reads_noise"] != 0).any()):
            raise _library.InvalidValueError("seed is missing: the plan draws noise; with draws_noise=False steps are given it")
        if offset < 0 or offset % 4:
            raise _library.InvalidValueError(f"offset is {offset}, but must be a multiple of 4, and at least 0")
        self._set(item, record, float(own["timestep"]), float(own["input_scale"]))
        if self.draws_noise:
            number = (seed or 0) % 2**64
            self.seeds[item].fill_(number - 2**64 if number >= 2**63 else number)
            self.offsets[item].fill_(offset)

    def free(self, item: int) -> None:
        """Frees a place of the batch: steps leave its sample unchanged. A run that ends frees its place itself.

        Raises InvalidValueError, a ValueError, for a place that the batch doesn't have.
        """
        self._check_item(item)
        self._set(item, 0, 0.0, 1.0)

    def _check_item(self, item: int) -> None:
        if not 0 <= item < self.shape[0]:
            raise _library.InvalidValueError(f"item is {item}, but must be from 0 to {self.shape[0] - 1}")

    def _set(self, item: int, record: int, timestep: float, scale: float) -> None:
        self.rows[item].fill_(record)
        self.timesteps[item].fill_(timestep)
        self.input_scales[item].fill_(scale)

    def model_input(self, sample: Tensor, out: Tensor | None = None) -> Tensor:
        """The model's input: input = input_scale * sample for each item.

        Without `out`, and if all scales of all plans are 1, the result is `sample` itself.
        """
        if out is None and not self.table.features.scales_inputs:
            return sample
        scaled = sample.to(self.input_scales.dtype) * self.input_scales.view(-1, *[1] * (sample.ndim - 1))
        return scaled.to(sample.dtype) if out is None else out.copy_(scaled)

    def step(
        self,
        model_output: Tensor,
        sample: Tensor,
        *,
        unconditional: Tensor | None = None,
        guidance_scale: Tensor | float | None = None,
        noise: Tensor | None = None,
        out: Tensor | None = None,
        report: Tensor | None = None,
        model_input: Tensor | None = None,
    ) -> Tensor:
        """Takes the next step of every item, and returns the next samples. The schedulers' classes have the formulas.

        All tensors are [items, ...], of any floating-point types and strides.

        model_output    the model's output; with the condition, if steps are guided; axis 1 may hold a variance after the prediction
        sample          the items' samples; those in free places stay unchanged
        unconditional   the model's output without the condition
        guidance_scale  one number, or a tensor [items] on the device; an item with the scale 1 isn't guided. The others have the
                        model output e = unconditional + guidance_scale (model_output - unconditional).
        noise           standard normal numbers; None: drawn from the items' seeds, if a plan needs noise
        out             the tensor to write to and return, which may be `sample`; None: a new one like the sample
        report          the tensor to write the plan's report to, usually the predicted clean sample
        model_input     the tensor to write the model's next input to: the next sample times the next input scale

        Raises InvalidValueError, a ValueError.
        """
        if (unconditional is None) != (guidance_scale is None):
            raise _library.InvalidValueError("unconditional and guidance_scale must both be given, or neither")
        features = self.table.features
        if features.draws_noise and noise is None and not self.draws_noise:
            raise _library.InvalidValueError("noise is missing: a plan of the table draws some, and draws_noise is False")
        out = torch.empty_like(sample) if out is None else out
        scale = None if guidance_scale is None else self._scale(guidance_scale)
        given = model_output, sample, unconditional, noise, out, report, model_input
        key = tuple(None if each is None else (each.shape, each.stride(), each.dtype, each.device) for each in given)
        launch = self._launches.get(key)
        tensors = self._tensors(*given)
        if launch is None:
            self._check(tensors, model_output)
            is_drawn = self.draws_noise and noise is None
            launch = self._launches[key] = Launch(
                tensors, self.shape, features, self.sums, is_batch=True, draws=self.dtype if is_drawn else None,
                slot_stride=self.slots.stride(0),
            )  # fmt: skip
        generators = (self.seeds, self.offsets) if self.draws_noise else (None, None)
        state = (self.rows, self._counters, self.timesteps, self.input_scales, *generators)
        with _launch.on(self.table.device):
            launch(self.table.records, tensors, state, self._workspace, scale)
        return out

    def _tensors(
        self, e: Tensor, x: Tensor, u: Tensor | None, z: Tensor | None, y: Tensor, report: Tensor | None, model_input: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The tensors of a launch."""
        variance = None
        if e.ndim > 1 and len(self.shape) == e.ndim and e.shape[1] == 2 * self.shape[1]:
            # An item's prediction and variance follow one another on axis 1.
            e, variance = e.chunk(2, 1)
            u = None if u is None else u.chunk(2, 1)[0]
        z = z if self.table.features.draws_noise else None
        variance = variance if self.table.features.scales_noise else None
        return x, e, u, variance, z, self.slots[0], None, None, None, None, None, y, None, None, report, model_input

    def _check(self, tensors: Sequence[Tensor | None], model_output: Tensor) -> None:
        """Raises InvalidValueError for tensors that the kernels can't read or write."""
        names = {
            _launch.E: "model_output",
            _launch.X: "sample",
            _launch.U: "unconditional",
            _launch.Z: "noise",
            _launch.Y: "out",
            _launch.REPORT: "report",
            _launch.INPUT: "model_input",
        }
        for place, name in names.items():
            tensor = tensors[place]
            if tensor is None:
                continue
            if tensor.shape != self.shape:
                found = list(model_output.shape) if place == _launch.E else list(tensor.shape)
                raise _library.InvalidValueError(f"{name} has the shape {found}, but must have {list(self.shape)}")
            if tensor.dtype not in _launch.TYPES:
                raise _library.InvalidValueError(f"{name} has the type {tensor.dtype}, but must have a floating-point type")
            if tensor.device != self.table.device:
                raise _library.InvalidValueError(f"{name} is on {tensor.device}, but must be on {self.table.device}")
            repeated = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape))
            if repeated and place >= _launch.Y:
                raise _library.InvalidValueError(f"{name} repeats elements along an axis, but must have memory for each")
        if self.table.features.scales_noise and tensors[_launch.V] is None:
            raise _library.InvalidValueError(
                f"model_output has the shape {list(model_output.shape)}, but must have twice as many on axis 1: "
                "the prediction and its variance"
            )

    def _scale(self, scale: Tensor | float) -> Tensor:
        """The guidance scale on the device: one number, or [items]."""
        if isinstance(scale, Tensor):
            if scale.device != self.table.device:
                raise _library.InvalidValueError(f"guidance_scale is on {scale.device}, but must be on {self.table.device}")
            if scale.numel() == 1:
                return scale.reshape(())
            if scale.shape != self.shape[:1]:
                found = list(scale.shape)
                raise _library.InvalidValueError(f"guidance_scale has the shape {found}, but must have {list(self.shape[:1])}")
            return scale
        made = self._scales.get(float(scale))
        if made is None:
            if len(self._scales) == MOST_SCALES:
                self._scales.clear()
            made = self._scales[float(scale)] = torch.full((), float(scale), dtype=torch.float64, device=self.table.device)
        return made


__all__ = ["DeviceBatch", "PlanTable"]
