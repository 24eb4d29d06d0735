# SPDX-License-Identifier: Apache-2.0

"""The host's side of the kernels in ``_triton_kernels``: launches of steps on torch's tensors.

Triton is imported at the first step that needs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Sequence
from ctypes import byref, c_size_t, create_string_buffer
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from . import _library
from ._handles import Plan, StepRow
from ._library import check, library

RECORD_BYTES = 1024
TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""The element types of the kernels."""
DEVICES = {"cuda", "xpu"}
"""The types of device that Triton compiles for."""
SUMS = "float32", "float64"

X, E, U, V, Z, SLOT, Y, STORE, REPORT, INPUT, TENSORS = 0, 1, 2, 3, 4, 5, 11, 12, 14, 15, 16
"""The indices of the tensors in a launch, and their number. Six slots begin at SLOT, two stores at STORE."""
_REPORT_TERMS, _PREDICTION_TERMS = 0x3FF << 30, 7 << 40
_PREDICTION_USES = 0x8020080200
"""The bits of `Features.uses` for the coefficients in the report, for the coefficients in p, and for the coefficients of p."""

RECORD = np.dtype(
    [
        *((name, "<f8") for name in ("timestep", "input_scale", "clamp_range", "threshold_ratio", "threshold_maximum")),
        *((name, "<f8") for name in ("noise_offset", "noise_slope")),
        *((name, "<i4") for name in ("next", "clamp", "noise_factor", "n_noise_draws", "evaluation", "reads_noise")),
        *(("reads", "<i4", 6), ("stores", "<i4", 2), ("uses_prediction", "<i4"), ("reserved", "<i4", 3)),
        *(("prediction", "<f8", 4), ("outputs", "<f8", (4, 10))),
        *(("prediction_parts", "<f4", (4, 2)), ("output_parts", "<f4", (4, 10, 2)), ("padding", "<i4", 48)),
    ]
)
"""``ds_device_row`` as a NumPy type."""


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def kernels() -> Any:
    """The module with the kernels. Raises UnsupportedError if Triton isn't installed."""
    if not has_triton():
        raise _library.UnsupportedError("steps on devices need Triton, which isn't installed: pip install triton")
    from . import _triton_kernels

    return _triton_kernels


@functools.cache
def is_interpreted() -> bool:
    """Whether Triton interprets kernels on the host, because of TRITON_INTERPRET=1."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


# ---- Records


class Features(NamedTuple):
    """The features of a kernel that serves a set of records."""

    uses: int
    """Bit 10 k + i: output k of a record has a coefficient for term i; bit 40 + i: p has one. Terms: x, e, z, six slots, p."""
    reads: int
    """The most slots that a record reads."""
    slots: int
    """The highest slot number plus 1."""
    clamps: int
    """Bit 1: a record clamps to a range; bit 2: to a dynamic threshold."""
    scales_noise: bool
    draws_noise: bool
    scales_inputs: bool

    @classmethod
    def of(cls, records: Any) -> Features:
        """The features for an array of records."""
        outputs = (records["outputs"] != 0).any(axis=0).ravel()
        prediction = (records["prediction"] != 0).any(axis=0)[:3]
        bits = np.concatenate([outputs, prediction])
        clamps = {int(clamp) for clamp in records["clamp"]} - {0}
        return cls(
            uses=sum(1 << place for place in np.flatnonzero(bits).tolist()),
            reads=int((records["reads"] >= 0).sum(axis=1).max()),
            slots=1 + int(max(records["reads"].max(), records["stores"].max())),
            clamps=sum(1 << clamp for clamp in clamps),
            scales_noise=bool((records["noise_factor"] != 0).any()),
            draws_noise=bool((records["reads_noise"] != 0).any()),
            scales_inputs=bool((records["input_scale"] != 1).any()),
        )

    def united(self, other: Features) -> Features:
        """The features for the records of both."""
        return Features(
            uses=self.uses | other.uses,
            reads=max(self.reads, other.reads),
            slots=max(self.slots, other.slots),
            clamps=self.clamps | other.clamps,
            scales_noise=self.scales_noise or other.scales_noise,
            draws_noise=self.draws_noise or other.draws_noise,
            scales_inputs=self.scales_inputs or other.scales_inputs,
        )

    def uses_of(self, has_report: bool) -> int:
        """The bits of a step with or without a report. The bits of p's own terms are 0 if no output reads p."""
        uses = self.uses if has_report else self.uses & ~_REPORT_TERMS
        return uses if uses & _PREDICTION_USES else uses & ~_PREDICTION_TERMS


def table_of(plan: Plan, first_record: int) -> Any:
    """All records of a plan, for a table in which `first_record` records come before them."""
    length = c_size_t()
    status = library.ds_scheduler_device_table(plan.value, first_record, None, 0, byref(length))
    if status not in (_library.OK, _library.BUFFER_TOO_SMALL):
        raise _library.error(status)
    buffer = create_string_buffer(length.value)
    check(library.ds_scheduler_device_table(plan.value, first_record, buffer, length.value, byref(length)))
    return np.frombuffer(buffer.raw, RECORD)


def record_of(plan: Plan, row: _library.Row) -> Any:
    """The record of a row whose slots are the caller's tensors."""
    buffer = create_string_buffer(RECORD_BYTES)
    check(library.ds_scheduler_device_row(plan.value, byref(row), buffer))
    return np.frombuffer(buffer.raw, RECORD)


def uploaded(records: Any, device: torch.device) -> Tensor:
    """The records on a device, as [records, 128] doubles."""
    doubles = np.ascontiguousarray(records).view(np.float64).reshape(-1, RECORD_BYTES // 8)
    return torch.from_numpy(doubles.copy()).to(device, non_blocking=True)


# ---- Launches


def kind_of_sums(sums: str, types: set[torch.dtype], scales_noise: bool) -> int:
    """The number of the kernels' kind of sums for tensors of these types."""
    module = kernels()
    if torch.float64 in types:
        kind = module.DOUBLE
    elif sums == "float32":
        kind = module.TWO_PARTS
    else:
        # As on the host, sums are in float32 if all types are half types.
        kind = module.SINGLE if torch.float32 not in types and not scales_noise else module.SHORTENED
    return int(kind)


def arranged(
    tensors: Sequence[Tensor | None], shape: Sequence[int], in_order: bool
) -> tuple[tuple[int, ...], tuple[int, ...] | None, tuple[Any, ...]]:
    """The memory layout of tensors [items, ...]: the items' strides, the sizes of the other axes, and these axes' strides.

    The last axis comes first. Neighbouring axes are joined if all tensors store them without a gap. The sizes are None if one axis
    without gaps is left.

    in_order  whether elements are numbered by their indices, rather than by their order in memory
    """
    given = [tensor for tensor in tensors if tensor is not None]
    strides = [tuple(tensor.stride()) for tensor in given]
    axes = [axis for axis in range(1, len(shape)) if shape[axis] != 1]
    if not in_order:
        axes.sort(key=lambda axis: -strides[0][axis])  # Stable: axes with equal strides keep their order.
    joined: list[tuple[int, list[int]]] = []
    for axis in reversed(axes):
        own = [stride[axis] for stride in strides]
        if joined:
            size, inner = joined[-1]
            if all(outer == size * each for outer, each in zip(own, inner)):
                joined[-1] = size * shape[axis], inner
                continue
        joined.append((shape[axis], own))
    items = iter(stride[0] for stride in strides)
    item_strides = tuple(0 if tensor is None else next(items) for tensor in tensors)
    if not joined or (len(joined) == 1 and all(stride == 1 for stride in joined[0][1])):
        return item_strides, None, (None,) * len(tensors)
    places = iter(range(len(given)))
    by_tensor = tuple(
        None if tensor is None else tuple(inner[place] for _, inner in joined)
        for tensor, place in ((tensor, -1 if tensor is None else next(places)) for tensor in tensors)
    )
    return item_strides, tuple(size for size, _ in joined), by_tensor


@functools.cache
def greatest_blocks(device: torch.device) -> int:
    """The most blocks of 256 threads that torch's random kernels launch on a CUDA device. For other devices, an A100's number."""
    if device.type != "cuda":
        return 108 * 8
    properties = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count * (properties.max_threads_per_multi_processor // 256))


def block_size(n: int) -> int:
    """The elements of an item that one block of 128 threads takes. Interpreted blocks take all, up to 65,536."""
    if is_interpreted():
        return min(max(16, 1 << (n - 1).bit_length()), 2**16)
    return 512 if n < 2**18 else 1024


class Workspace:
    """Memory of the search for dynamic thresholds. All of it except the thresholds is zero before and after each step."""

    def __init__(self, items: int, device: torch.device) -> None:
        words = kernels().BINS // 2
        memory = torch.zeros(items * (words + 6), dtype=torch.int64, device=device)
        parts = memory.split([items * words, items * 4, items, items])
        self.histograms, self.counters = parts[0].view(torch.int32), parts[3].view(torch.int32)
        self.states, self.thresholds = parts[1], parts[2].view(torch.float64)


class Launch:
    """The launches of a step, for tensors of given types, sizes and strides."""

    def __init__(
        self,
        tensors: Sequence[Tensor | None],
        shape: Sequence[int],
        features: Features,
        sums: str,
        *,
        is_batch: bool,
        draws: torch.dtype | None = None,
        slot_stride: int = 0,
    ) -> None:
        """
        tensors   the step's tensors in the order of `step_kernel`, expanded to `shape`, [items, ...]
        is_batch  whether the features cover several records
        draws     the type to which the kernel rounds the noise that it draws; None: it doesn't draw noise
        """
        module, device = kernels(), next(tensor.device for tensor in tensors if tensor is not None)
        self.items, self.n = int(shape[0]), int(np.prod(shape[1:], dtype=np.int64))
        self.slot_stride, self.greatest_blocks = slot_stride, greatest_blocks(device)
        self.item_strides, self.sizes, self.strides = arranged(tensors, shape, draws is not None)
        self.uses = features.uses_of(tensors[REPORT] is not None)
        uses_prediction = bool(self.uses & _PREDICTION_USES)
        types = {tensor.dtype for tensor in tensors if tensor is not None} | ({draws} if draws else set())
        kind = kind_of_sums(sums, types, features.scales_noise)
        is_large = max(1, self.n + self._reach()) >= 2**31 - 65536
        block = block_size(self.n)
        self.grid = max(1, -(-self.n // block)), self.items
        common = {"EXACT": not is_batch, "SUMS": kind, "LARGE": is_large, "BLOCK": block, "num_warps": 4, "enable_fp_fusion": False}
        self.options = {
            **common,
            "USES": self.uses,
            "READS": features.reads,
            "CLAMPS": features.clamps if uses_prediction else 0,
            "SCALES_NOISE": features.scales_noise,
            "NOISE_TYPE": _triton_type(draws or torch.float32),
            "CUDA": device.type == "cuda" and torch.version.hip is None,
        }
        self.levels: list[dict[str, Any]] = []
        if features.clamps & 4 and uses_prediction:
            count = 4 if kind == module.DOUBLE else 2
            self.levels = [
                {**common, "USES": self.uses, "SHIFT": 16 * (count - 1 - level), "IS_FIRST": level == 0, "CHUNK": 4096}
                for level in range(count)
            ]

    def _reach(self) -> int:
        """The greatest offset of an element within its item."""
        if self.sizes is None:
            return 0
        reaches = [sum(abs(s) * (size - 1) for s, size in zip(each, self.sizes)) for each in self.strides if each is not None]
        return max(reaches, default=0)

    def __call__(
        self,
        table: Tensor,
        tensors: tuple[Tensor | None, ...],
        state: tuple[Tensor | None, ...],
        workspace: Workspace | None,
        scale: Tensor | None,
    ) -> None:
        """Launches the kernels of a step.

        state  the items' record numbers, counters, timesteps, input scales, seeds and offsets; None: absent
        scale  the guidance scale: one, or [items]; None: no guidance
        """
        if self.items == 0:
            return
        module, rows = kernels(), state[0]
        scale_stride = 0 if scale is None or scale.ndim == 0 else scale.stride(0)
        thresholds = None
        if workspace is not None and self.levels:
            thresholds = workspace.thresholds
            for level in self.levels:
                module.threshold_kernel[self.grid](
                    table, rows, workspace.counters, workspace.states, workspace.histograms, thresholds, scale,
                    scale_stride, tensors, self.item_strides, self.sizes, self.strides, self.n, **level,
                )  # fmt: skip
        module.step_kernel[self.grid](
            table, *state, thresholds, scale, scale_stride, tensors, self.item_strides, self.sizes, self.strides,
            self.slot_stride, self.n, self.greatest_blocks, **self.options,
        )  # fmt: skip


def _triton_type(dtype: torch.dtype) -> Any:
    from triton import language

    names = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
    return getattr(language, names[dtype])


# ---- Steps of one row, with tensors of the caller's


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels can step these tensors: all on one device that Triton compiles for, without gradients or transforms."""
    device, has_gradients = tensors[0].device, torch.is_grad_enabled()
    return (
        device.type in DEVICES
        and has_triton()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and all(
            type(each) in (Tensor, Parameter)
            and each.device == device
            and each.dtype in TYPES
            and each.layout is torch.strided
            and not each.is_neg()
            and not (has_gradients and each.requires_grad)
            and not torch._C._functorch.is_functorch_wrapped_tensor(each)
            for each in tensors
        )
    )


MOST_LAUNCHES = 1024
_launches: dict[Any, Launch] = {}
"""The launches of single rows, by features, device, and the tensors' shapes, strides and types."""


def step_by_record(
    row: StepRow,
    plan: Plan,
    model_output: Tensor,
    sample: Tensor,
    noise: Tensor | None,
    slots: Sequence[Tensor],
    result_types: Sequence[torch.dtype],
    stored_type: torch.dtype,
) -> tuple[tuple[Tensor, ...], list[Tensor]] | None:
    """Takes a step. Returns the results and the row's stores; None if noise or a variance is missing.

    slots         the tensors that the row reads, in the order of ``row.reads``
    result_types  the type of the next sample and, if the report is wanted, the report's type
    """
    device = sample.device
    held = row.on_devices.get(device)
    if held is None:
        record = record_of(plan, row.row)
        held = row.on_devices[device] = uploaded(record, device), Features.of(record)
    record, features = held
    e, x, variance, axis = model_output, sample, None, 1 if sample.ndim > 1 else 0
    if plan.properties.learns_variance and e.ndim == x.ndim and e.shape[axis] == 2 * x.shape[axis]:
        e, variance = e.chunk(2, axis)
    if e.shape != x.shape:
        e, x = torch.broadcast_tensors(e, x)
    if (features.draws_noise and noise is None) or (features.scales_noise and variance is None):
        return None
    noise = noise if features.draws_noise else None
    read = [each if each.shape == x.shape else each.expand(x.shape) for each in slots]
    noise = noise if noise is None or noise.shape == x.shape else noise.expand(x.shape)
    results = tuple(torch.empty_like(x, dtype=dtype) for dtype in result_types)
    stored = [torch.empty_like(x, dtype=stored_type) for _ in row.stores]
    tensors: list[Tensor | None] = [None] * TENSORS
    tensors[X], tensors[E], tensors[Z], tensors[Y] = x, e, noise, results[0]
    tensors[V] = variance if features.scales_noise else None
    tensors[SLOT : SLOT + len(read)] = read
    tensors[STORE : STORE + len(stored)] = stored
    tensors[REPORT] = results[1] if len(results) > 1 else None
    key = features, device, tuple(None if each is None else (each.shape, each.stride(), each.dtype) for each in tensors)
    launch = _launches.get(key)
    if launch is None:
        # Only thresholds depend on the items. Without them, all elements are one item.
        whole = features.clamps & 4 == 0 or x.ndim < 2
        shaped = [each if each is None or not whole else each[None] for each in tensors]
        if len(_launches) >= MOST_LAUNCHES:
            _launches.clear()
        launch = _launches[key] = Launch(shaped, (1, *x.shape) if whole else x.shape, features, SUMS[0], is_batch=False)
    with on(device):
        workspace = Workspace(launch.items, device) if launch.levels else None
        launch(record, tuple(tensors), (None,) * 6, workspace, None)
    return results, stored


def on(device: torch.device) -> Any:
    """A context that launches on a device."""
    return getattr(torch, device.type).device(device) if device.type in ("cuda", "xpu") else contextlib.nullcontext()
