# SPDX-License-Identifier: Apache-2.0

"""torch's tensors as the library's, and torch's operations for rows of tensors that the library can't reach."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, _memory
from ._library import Combination, PlanProperties, Row

ELEMENT_TYPES: dict[torch.dtype, int] = {
    dtype: number
    for dtype, number in {
        torch.float32: _library.FLOAT32,
        torch.float64: _library.FLOAT64,
        torch.float16: _library.FLOAT16,
        torch.bfloat16: _library.BFLOAT16,
    }.items()
    if number in _library.element_types()
}
"""The library's element type for each tensor type that it takes without conversion."""


def as_given(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor


def address(tensor: Tensor) -> int:
    """The address of a contiguous tensor's elements."""
    return tensor.data_ptr()


def common_type(*tensors: Tensor) -> torch.dtype:
    """The type that torch promotes the tensors' types to; its default type if they are integers or booleans."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type that holds both `dtype` and float32."""
    return torch.promote_types(dtype, torch.float32)


def computing_type(dtype: torch.dtype) -> torch.dtype:
    """The tensor type in which the library computes a result of type `dtype`."""
    return dtype if dtype in ELEMENT_TYPES else torch.float32


def as_tensor(tensor: Tensor) -> _library.Tensor:
    """The library's view of a contiguous tensor on the host."""
    return _library.tensor(tensor.data_ptr(), ELEMENT_TYPES[tensor.dtype], tensor.shape)


def broadcast(first: Tensor, second: Tensor) -> Sequence[Tensor]:
    """Both tensors, broadcast to a common shape."""
    pair: Sequence[Tensor] = torch.broadcast_tensors(first, second)
    return pair


def layout(*tensors: Tensor) -> bool:
    """Whether all tensors have one shape of four axes, and are stored with channels last."""
    # A model output with a variance has another shape. The library needs the variance after the prediction, on axis 1.
    # Shapes are compared one by one, because those of torch.compile's tensors can't be hashed.
    shape = tensors[0].shape
    return all(
        tensor.shape == shape
        and tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
        for tensor in tensors
    )


def contiguous(tensor: Tensor, dtype: torch.dtype, channels_last: bool | None = None, shape: Sequence[int] | None = None) -> Tensor:
    """The tensor on the host, contiguous and of type `dtype`, expanded to `shape` if one is given. Copies only if needed."""
    tensor = tensor if shape is None else tensor.expand(shape)
    tensor = tensor.permute(0, 2, 3, 1) if channels_last else tensor
    return tensor.detach().resolve_neg().to("cpu", dtype).contiguous()


def result_arrays(shape: Sequence[int], dtype: torch.dtype, work: torch.dtype, out: None) -> tuple[torch.dtype, Tensor]:
    """The result's type, and an uninitialised contiguous tensor on the host to write to, in recycled memory if it is large."""
    count = math.prod(shape) * work.itemsize
    if count < _memory.SMALLEST:
        return dtype, torch.empty(shape, dtype=work, device="cpu")
    storage = torch.from_numpy(_memory.empty_bytes(count)).untyped_storage()
    return dtype, torch.empty(0, dtype=work, device="cpu").set_(storage, 0, tuple(shape))


def deliver(dtype: torch.dtype, target: Tensor, channels_last: bool | None = None) -> Tensor:
    """The result of type `dtype`, in the inputs' memory layout, from the tensor that the library has written."""
    return (target.permute(0, 3, 1, 2) if channels_last else target).to(dtype)


@functools.cache
def _randn_tensor() -> Callable[..., Tensor]:
    """diffusers' ``randn_tensor``, imported at the first use. Nothing else in this module needs diffusers."""
    from diffusers.utils.torch_utils import randn_tensor

    return randn_tensor


def weighted(tensor: Tensor, weights: Sequence[float]) -> Tensor:
    """The sum over the last axis but one with these weights, on the host in float64. The result's type also holds float32."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"model_output is a {type(tensor).__name__}, but must be a torch.Tensor")
    dtype = at_least_float32(common_type(tensor))
    work = torch.float64 if tensor.is_cpu else dtype  # Some devices don't have float64.
    total: Tensor | float = 0.0
    for weight, each in zip(weights, tensor.unbind(-2)):
        total = total + weight * each.to(work)
    assert isinstance(total, Tensor)
    return total.to(dtype)


def draw(generator: Any, model_output: Tensor, sample: Tensor, like: Sequence[Tensor], *, widens: bool) -> Tensor:
    """A step's noise. Its type holds the types of `like`, and float32 too if `widens`; without `like`, it is float32."""
    dtype = common_type(*like) if like else torch.float32
    dtype = at_least_float32(dtype) if widens else dtype
    return _randn_tensor()(sample.shape, generator=generator, device=model_output.device, dtype=dtype)


def kept(tensor: Tensor) -> Tensor:
    """The tensor itself: as in diffusers, later steps read the caller's tensor."""
    return tensor


def place(tensor: Tensor) -> torch.device:
    """The device of a tensor."""
    return tensor.device


def moved(tensor: Tensor, place: torch.device) -> Tensor:
    """The tensor, moved to a device."""
    return tensor.to(place)


def is_beyond_reach(*tensors: Tensor) -> bool:
    """Whether the library can't reach one of the tensors: it isn't on the host, needs gradients, or is a torch.func wrapper."""
    return any(
        not each.is_cpu or (each.requires_grad and torch.is_grad_enabled()) or torch._C._functorch.is_functorch_wrapped_tensor(each)
        for each in tensors
    )


_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
"""DLPack's functions for views of tensors; None if torch doesn't have them yet."""


def quick_form(sample: Tensor) -> tuple[Any, ...] | None:
    """The form for ``QuickStep``: tensors' type, DLPack's functions, a call that makes a tensor like a sample, and gradients' mode.

    None if torch doesn't have the functions.
    """
    if _EXCHANGE is None:
        return None
    if sample.nbytes >= _memory.SMALLEST:
        return Tensor, _EXCHANGE, _empty, (sample.shape, sample.dtype), torch.is_grad_enabled
    return Tensor, _EXCHANGE, torch.empty_like, (torch.empty_like(sample),), torch.is_grad_enabled


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return result_arrays(shape, dtype, dtype, None)[1]


def counts_writes(value: Any) -> bool:
    """Whether a value counts the writes to it. Tensors made in inference mode don't."""
    return not value.is_inference() if isinstance(value, Tensor) else hasattr(value, "_version")


# ---- Rows by torch's operations


def combine(combination: Combination, tensors: dict[str, Tensor | None], slots: dict[int, Tensor], order: Sequence[int]) -> Tensor:
    """The sum of tensors with a combination's coefficients, in the library's order of summation.

    order  the slots that the row reads, in the order of summation
    """
    terms = [(getattr(combination, name), tensors.get(name)) for name in ("sample", "model_output", "noise")]
    terms += [(combination.slots[slot], slots.get(slot)) for slot in order]
    terms.append((combination.prediction, tensors.get("prediction")))
    total: Tensor | None = None
    for coefficient, tensor in terms:
        if coefficient == 0:
            continue
        if tensor is None:
            raise _library.InvalidValueError("the step is stochastic, but noise is missing")
        total = tensor * coefficient if total is None else total.add(tensor, alpha=coefficient)
    if total is None:
        sample = tensors["sample"]
        assert sample is not None
        return torch.zeros_like(sample)
    return total


def clamped(prediction: Tensor, properties: PlanProperties) -> Tensor:
    """The predicted clean sample after the plan's clamp."""
    if properties.clamp == _library.CLAMP_RANGE:
        return prediction.clamp(-properties.clamp_range, properties.clamp_range)
    if properties.clamp == _library.CLAMP_THRESHOLD:
        items = prediction.flatten(1) if prediction.ndim > 1 else prediction[None]
        limit = torch.quantile(items.abs(), properties.threshold_ratio, dim=1, keepdim=True)
        limit = limit.clamp(min=1).clamp(max=properties.threshold_maximum)
        return (items.clamp(-limit, limit) / limit).reshape(prediction.shape)
    return prediction


def noise_factor(row: Row, model_output: Tensor, variance: Tensor | None) -> Tensor:
    """The factor of each element of a row's noise. Raises InvalidValueError if the model output has no variance."""
    if variance is None:
        count = model_output.numel()
        raise _library.InvalidValueError(
            f"model_output has {count} elements, but must have {2 * count}, "
            "twice those of the sample: the prediction and its variance"
        )
    if row.noise_factor == _library.NOISE_FACTOR_ROOT:
        return variance.clamp(min=0).sqrt()
    return (variance * row.noise_slope + row.noise_offset).exp()


def step_by_row(
    row: Row,
    properties: PlanProperties,
    model_output: Tensor,
    sample: Tensor,
    noise: Tensor | None,
    slots: dict[int, Tensor],
    has_report: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Takes a step. Returns the next sample, with the report if `has_report`, and the tensors that the row stores.

    All results are float32 or float64.

    slots  the tensors of the slots, by number
    """
    axis = 1 if sample.ndim > 1 else 0
    variance, work = None, torch.promote_types(common_type(model_output, sample), torch.float32)
    if properties.learns_variance and model_output.shape[axis] == 2 * sample.shape[axis]:
        model_output, variance = model_output.chunk(2, axis)
    e, x = torch.broadcast_tensors(model_output.to(work), sample.to(work))
    z = None if noise is None else noise.to(work)
    if row.noise_factor != _library.NOISE_FACTOR_NONE and z is not None:
        z = z * noise_factor(row, e, None if variance is None else variance.to(work))
    tensors = {"sample": x, "model_output": e, "noise": z}
    slots = {slot: tensor.to(x.device, work) for slot, tensor in slots.items()}
    stored, order = row.stored, row.read
    if any(combination.prediction for combination in (row.next_sample, row.report, *stored.values())):
        tensors["prediction"] = clamped(combine(row.prediction, tensors, {}, ()), properties)
    wanted = (row.next_sample, row.report) if has_report else (row.next_sample,)
    results = [combine(combination, tensors, slots, order) for combination in wanted]
    return results, [combine(combination, tensors, slots, order) for combination in stored.values()]
