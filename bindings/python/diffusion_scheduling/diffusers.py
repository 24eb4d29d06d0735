# SPDX-License-Identifier: Apache-2.0

"""Drop-in replacements for diffusers' schedulers: the same classes, with the work done by the library.

    from diffusion_scheduling.diffusers import DEISMultistepScheduler
    pipe.scheduler = DEISMultistepScheduler.from_config(pipe.scheduler.config)

Each class derives from the original of its name, so that pipelines accept it, and takes from it what has to do with
configurations: the constructor, loading, saving and the hub. Timesteps, noise levels, conversions, steps and noise addition
are the library's.

Tensors in the host's memory are read and written where they are. Tensors on other devices, and those that need gradients, go
through the same plan with torch's own operations; what a step needs to know is known on the host, so nothing is read back.

Threads may take steps with one DDIM scheduler at once. The others count the steps of a run, which is one thread's at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from ctypes import byref, c_uint
from functools import partial
from typing import Any, TypeAlias

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddim_inverse import DDIMSchedulerOutput as DDIMInverseSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from . import _configuration, _library, _memory
from ._handles import Plan, Session
from ._library import Combination, PlanProperties, Row, StepCall, StepTensors, check, library
from ._schedulers import Options, _no_quick_step, sample_argument

Generators: TypeAlias = "torch.Generator | list[torch.Generator] | None"

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
"""The library's element types, by those of the tensors that it takes as they are."""

ALL_THREADS = c_uint(0)

QuickStep: TypeAlias = "Callable[..., tuple[Tensor, ...] | None]"


# ---- Tensors


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous tensor on the host; a large one in memory that has been used before."""
    count = math.prod(shape) * dtype.itemsize
    if count < _memory.SMALLEST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    storage = torch.from_numpy(_memory.empty_bytes(count)).untyped_storage()
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, tuple(shape))


def flat(timesteps: Any) -> Tensor:
    """Timesteps as a tensor [n], where they are; numbers on the host."""
    return (timesteps if isinstance(timesteps, Tensor) else torch.tensor(timesteps, device="cpu")).reshape(-1)


def computing_type(dtype: torch.dtype) -> torch.dtype:
    """The type that the library computes a result of `dtype` in."""
    return dtype if dtype in ELEMENT_TYPES else torch.float32


def as_tensor(tensor: Tensor) -> _library.Tensor:
    """The library's view of a contiguous tensor on the host."""
    return _library.tensor(tensor.data_ptr(), ELEMENT_TYPES[tensor.dtype], tensor.shape)


def on_host(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor that the library can read: the tensor itself where it is one."""
    return tensor.detach().to("cpu", dtype).contiguous()


def is_beyond_reach(*tensors: Tensor) -> bool:
    """Whether the library can't work on these: they are on other devices, or need gradients."""
    return any(not tensor.is_cpu or (tensor.requires_grad and torch.is_grad_enabled()) for tensor in tensors)


def matched(model_output: Tensor, sample: Tensor, learns_variance: bool) -> tuple[Tensor, Tensor]:
    """The two broadcast to one shape, unless the model output holds a variance besides."""
    if model_output.shape == sample.shape or learns_variance:
        return model_output, sample
    e, x = torch.broadcast_tensors(model_output, sample)
    return e, x


class Layout:
    """An order of axes in which dense tensors are contiguous with the batch first: that of channels-last pictures, or none."""

    def __init__(self, *tensors: Tensor) -> None:
        # A variance beside the prediction has to lie behind it, on axis 1.
        self.is_channels_last = len({tensor.shape for tensor in tensors}) == 1 and all(
            tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
            for tensor in tensors
        )

    def unfolded(self, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1) if self.is_channels_last else tensor

    def folded(self, tensor: Tensor) -> Tensor:
        return tensor.permute(0, 3, 1, 2) if self.is_channels_last else tensor


# ---- Steps with torch's operations


def combine(combination: Combination, tensors: dict[str, Tensor | None], slots: dict[int, Tensor]) -> Tensor:
    """The sum of tensors with a combination's coefficients, in the order of summation of plans.

    slots  by their numbers, in the order in which they were stored
    """
    terms = [(getattr(combination, name), tensors.get(name)) for name in ("sample", "model_output", "noise")]
    terms += [(combination.slots[slot], tensor) for slot, tensor in reversed(slots.items())]
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
    """The predicted clean sample after the clamp of a plan."""
    if properties.clamp == _library.CLAMP_RANGE:
        return prediction.clamp(-properties.clamp_range, properties.clamp_range)
    if properties.clamp == _library.CLAMP_THRESHOLD:
        items = prediction.flatten(1) if prediction.ndim > 1 else prediction[None]
        limit = torch.quantile(items.abs(), properties.threshold_ratio, dim=1, keepdim=True)
        limit = limit.clamp(min=1).clamp(max=properties.threshold_maximum)
        return (items.clamp(-limit, limit) / limit).reshape(prediction.shape)
    return prediction


def step_by_row(
    row: Row,
    properties: PlanProperties,
    model_output: Tensor,
    sample: Tensor,
    noise: Tensor | None,
    slots: dict[int, Tensor],
    has_report: bool,
) -> tuple[Tensor, Tensor | None]:
    """The next sample, and what the step reports if that is wanted, both in float32 or float64.

    slots  what earlier steps stored, by slot, in the order in which it was stored; becomes what is stored after the step
    """
    channels = sample.shape[1] if sample.ndim > 1 else sample.shape[0]
    axis = 1 if sample.ndim > 1 else 0
    if properties.learns_variance and model_output.shape[axis] == 2 * channels:
        model_output = model_output.narrow(axis, 0, channels)
    work = torch.promote_types(torch.promote_types(model_output.dtype, sample.dtype), torch.float32)
    e, x = torch.broadcast_tensors(model_output.to(work), sample.to(work))
    tensors = {"sample": x, "model_output": e, "noise": None if noise is None else noise.to(work)}
    stored = row.stored
    if any(combination.prediction for combination in (row.next_sample, row.report, *stored.values())):
        tensors["prediction"] = clamped(combine(row.prediction, tensors, {}), properties)
    next_sample = combine(row.next_sample, tensors, slots)
    report = combine(row.report, tensors, slots) if has_report else None
    # All stores read the slots as they were.
    values = {slot: combine(combination, tensors, slots) for slot, combination in stored.items()}
    for slot, value in values.items():
        slots.pop(slot, None)
        slots[slot] = value
    return next_sample, report


# ---- Steps by the library


def quick_step(call: StepCall, options: Options, sample: Tensor, model_output: Tensor, has_clean: bool) -> QuickStep:
    """A function that takes steps of tensors like these, which the library takes as they are, by nothing but the call.

    It is given options, timestep, model output, sample, and noise or None. It returns what ``step`` returns as a tuple; or None
    where the options are others or the tensors of another form, and then nothing has been done.
    """
    tensors, function, arguments, at = call
    te, tx, tz = tensors.model_output, tensors.sample, tensors.noise
    ty, tp = tensors.prev_sample, tensors.pred_original_sample
    has_noise = tensors.references[2] is not None
    shape, dtype, model_shape, model_dtype = sample.shape, sample.dtype, model_output.shape, model_output.dtype
    needs_gradients = torch.is_grad_enabled
    is_small = sample.nbytes < _memory.SMALLEST
    like: Callable[[Tensor], Tensor] = torch.empty_like if is_small else lambda sample: empty(shape, dtype)
    # Threads may step with one DDIM scheduler at once: one that finds the structs in use takes the general way.
    unused = [tensors]

    def take(given: Options, timestep: Any, e: Tensor, x: Tensor, z: Tensor | None) -> tuple[Tensor, ...] | None:
        if (
            e.dtype is not model_dtype
            or x.dtype is not dtype
            or x.shape != shape
            or e.shape != model_shape
            or not x.is_cpu
            or not e.is_cpu
            or not x.is_contiguous()
            or not e.is_contiguous()
            or (z is None) is has_noise
            or given != options
            or (needs_gradients() and (x.requires_grad or e.requires_grad))
        ):
            return None
        if z is not None:
            z = z if z.dtype is dtype else z.to(dtype)
            if z.shape != shape or not z.is_cpu or not z.is_contiguous():
                return None
        y = like(x)
        p = like(x) if has_clean else None
        try:
            unused.pop()
        except IndexError:
            return None
        te.data, tx.data, ty.data = e.data_ptr(), x.data_ptr(), y.data_ptr()
        if z is not None:
            tz.data = z.data_ptr()
        if p is not None:
            tp.data = p.data_ptr()
        if at is not None:
            at.value = timestep
        status = function(*arguments)
        unused.append(tensors)
        if status:
            raise _library.error(status)
        return (y,) if p is None else (y, p)

    return take


class _DropIn:
    """What all drop-ins have in common. The original's class comes after it, and its constructor is used as it is."""

    config: Any
    timesteps: Tensor
    sigmas: Tensor
    num_inference_steps: int | None
    betas: Tensor

    _plan: Any = None
    """A ``Plan``; None before the first one is asked for."""
    _plan_text = ""
    _quick: QuickStep = staticmethod(_no_quick_step)
    """Takes steps of tensors such as the step before had."""
    _known_timesteps: list[int] = []
    _planned_timesteps: Tensor | None = None
    """The tensor that `timesteps` was when the plan was made."""

    def _planned(self) -> Plan:
        """The plan of the configuration as it is now, which a caller may have changed."""
        # The constructor's parameters, and the keys of other schedulers and of ours that have an effect. Values may have been
        # set as attributes, which is what dynamic shifting does.
        keys = {*_configuration.parameters(type(self)), "sigma_min", "sigma_max"}
        values = {
            key: getattr(self.config, key, value)
            for key, value in self.config.items()
            if key in keys or key.startswith("diffusion_scheduling_")
        }
        if values.get("beta_end", 0) >= 1 and values.get("trained_betas") is None:
            # The original lets signal variances turn negative, at the end of a range that nothing is left of anyway.
            schedule = self.betas.clamp(max=1 - 2.0**-24)
            values = {**values, "trained_betas": schedule.tolist()}
        text = _configuration.text(values)
        if self._plan is None or text != self._plan_text:
            self._plan, self._plan_text, self._quick = Plan(text, type(self).__name__), text, _no_quick_step
        return self._plan

    def _set(self, device: str | torch.device | None, name: str, *arguments: Any) -> None:
        """Plans by the method of that name of ``Plan``."""
        plan = self._planned()
        plan.ask(name, *arguments)
        self._read_plan(device)

    def _read_plan(self, device: str | torch.device | None) -> None:
        plan = self._plan
        assert plan is not None
        self._known_timesteps = [int(t) for t in plan.timesteps]
        # On the host unless a device is named, whatever torch's default device is: as the original.
        self.timesteps = self._planned_timesteps = torch.tensor(self._known_timesteps, dtype=torch.int64, device=device or "cpu")
        self.num_inference_steps = len(self._known_timesteps)
        self._properties = plan.properties
        self._quick = _no_quick_step

    def _value(self, timestep: Any) -> float:
        """The number that a timestep is. One of this scheduler's own needn't be read back from a device."""
        if not isinstance(timestep, Tensor):
            return timestep
        planned = self._planned_timesteps
        if (
            timestep.is_cpu
            or planned is None
            or timestep.device != planned.device
            or timestep.dtype != planned.dtype
            or timestep.untyped_storage().data_ptr() != planned.untyped_storage().data_ptr()
        ):
            return timestep.item()
        return self._known_timesteps[timestep.storage_offset()]

    def _take(
        self,
        make_call: Callable[[StepTensors], StepCall],
        options: Options,
        timestep: Any,
        model_output: Tensor,
        sample: Tensor,
        noise: Tensor | None,
        dtype: torch.dtype,
        work: torch.dtype,
        layout: Layout,
        has_clean: bool,
    ) -> tuple[Tensor, ...]:
        """Takes a step of any tensors on the host, and makes the quick step for the next ones.

        make_call            makes the call of the step with these tensors, of the scheduler's own and `options`
        model_output, sample  matched
        dtype                of the results
        work                 which the library computes in
        layout               which it computes in
        has_clean            whether the predicted clean sample is a result, too
        """
        model_type = model_output.dtype if model_output.dtype in ELEMENT_TYPES else work
        as_given = sample.dtype == dtype == work and model_output.dtype == model_type and not layout.is_channels_last
        e, x = on_host(layout.unfolded(model_output), model_type), on_host(layout.unfolded(sample), work)
        z = None if noise is None else on_host(layout.unfolded(noise.expand(sample.shape)), work)
        tensors = StepTensors(x.shape, ELEMENT_TYPES[work], e.shape, ELEMENT_TYPES[model_type], z is not None)
        results = [empty(x.shape, work) for _ in range(1 + has_clean)]
        tensors.model_output.data, tensors.sample.data, tensors.prev_sample.data = e.data_ptr(), x.data_ptr(), results[0].data_ptr()
        if z is not None:
            tensors.noise.data = z.data_ptr()
        if has_clean:
            tensors.pred_original_sample.data = results[1].data_ptr()
        call = make_call(tensors)
        if call.timestep is not None:
            call.timestep.value = timestep
        check(call.function(*call.arguments))
        self._quick = quick_step(call, options, x, e, has_clean) if as_given else _no_quick_step
        return tuple(layout.folded(result).to(dtype) for result in results)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample: these models are asked with the sample as it is."""
        return sample

    def _mix(self, first: Tensor, second: Tensor, first_rates: list[float], second_rates: list[float]) -> Tensor:
        """first_rate * first + second_rate * second, with one rate for all or one for each batch item."""
        dtype = torch.promote_types(first.dtype, second.dtype)
        first, second = torch.broadcast_tensors(first, second)
        count = len(first_rates)
        if count > 1 and first.shape[0] == 1:
            first, second = first.expand(count, *first.shape[1:]), second.expand(count, *first.shape[1:])
        if is_beyond_reach(first, second):
            work = torch.promote_types(dtype, torch.float32)
            a, b = (
                torch.tensor(rates, dtype=work, device=first.device).reshape(-1, *[1] * (first.ndim - 1))
                for rates in (first_rates, second_rates)
            )
            return (a * first.to(work) + b * second.to(work)).to(dtype)
        work = computing_type(dtype)
        first, second = on_host(first, work), on_host(second, work)
        result = empty(first.shape, work)
        t1, t2, to = as_tensor(first), as_tensor(second), as_tensor(result)
        rates = _library.doubles(first_rates), _library.doubles(second_rates)
        check(library.ds_add_noise_at(byref(t1), byref(t2), *rates, count, byref(to), 0))
        return result.to(dtype)

    # A copy makes its own plan, which holds no memory of this one's.

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_quick", None)
        state.pop("_properties", None)
        plan = state.pop("_plan", None)
        state["_request"] = plan.request if plan is not None else None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        request = state.pop("_request")
        self.__dict__.update(state)
        if self.__dict__.pop("_plan_text", "") and request is not None:
            plan = self._planned()
            plan.ask(request[0], *request[1])
            self._properties = plan.properties

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


class _Multistep(_DropIn):
    """The drop-ins that keep model outputs in slots and count their steps."""

    _session: Session | None = None
    _next: int | None = None
    _slots: dict[int, Tensor] | None = None
    """What steps have stored, the latest last, where torch's operations take the steps; else the session has it."""
    _age: int = 0
    """How many steps torch's operations have taken."""
    _work: torch.dtype | None = None
    """The type of the session's slots."""
    _begin_index: int | None = None
    _layout: Layout
    """That of the session's slots."""

    # ---- Plans

    def _read_plan(self, device: str | torch.device | None) -> None:
        super()._read_plan(device)
        assert self._plan is not None
        self.sigmas = torch.tensor(self._plan.sigmas, dtype=torch.float32, device="cpu")
        self.model_outputs = [None] * self.config.solver_order
        self.lower_order_nums = 0
        self._begin_index = None
        self._step_index = None

    # ---- Runs

    @property
    def step_index(self) -> int | None:
        """The step that comes next; None before the first one."""
        return self._next

    @property
    def _step_index(self) -> int | None:
        return self._next

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        """Goes to a step, or to before the first one, with empty slots."""
        self._next, self._session, self._work, self._quick = index, None, None, _no_quick_step
        self._slots, self._age = None, 0

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The step at a timestep, as leniently as the original looks it up: of several the second, of none the last."""
        known = self._known_timesteps if schedule_timesteps is None else schedule_timesteps.tolist()
        value = self._value(timestep)
        indices = [index for index, candidate in enumerate(known) if candidate == value]
        return indices[1] if len(indices) > 1 else indices[0] if indices else len(known) - 1

    def _first_index(self, timestep: Any) -> int:
        """The step that a run begins with."""
        return self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index

    def _init_step_index(self, timestep: Any) -> None:
        self._step_index = self._first_index(timestep)

    def _result_type(self, model_output: Tensor, sample: Tensor) -> torch.dtype:
        """The type of a next sample."""
        return torch.promote_types(model_output.dtype, sample.dtype)

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """The next sample, as a tuple."""
        result = self._quick((), timestep, model_output, sample, noise)
        if result is not None:
            self._next += 1  # type: ignore[operator]
            return result
        if self.num_inference_steps is None or self._plan is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        index = self._first_index(timestep) if self._next is None else self._next
        if index >= self.num_inference_steps:
            raise _library.StepPastEndError(f"all {self.num_inference_steps} steps have been taken: call set_timesteps again")
        dtype = self._result_type(model_output, sample)
        if self._session is None and (self._slots is not None or is_beyond_reach(model_output, sample)):
            # A copy, so that a step that fails changes nothing.
            slots = dict(self._slots or {})
            row = self._plan.row(index, self._age)
            prev_sample, _ = step_by_row(row, self._properties, model_output, sample, noise, slots, False)
            self._slots, self._age, self._next = slots, self._age + 1, index + 1
            return (prev_sample.to(dtype),)
        if is_beyond_reach(model_output, sample):
            raise _library.InvalidValueError(
                "the tensors have changed device or need gradients since the first step, but must stay as they were"
            )
        session = self._session or Session.begin(self._plan, index)
        # A run's slots have the type and the layout that it began with.
        work = self._work or computing_type(torch.promote_types(model_output.dtype, sample.dtype))
        e, x = matched(model_output, sample, self._properties.learns_variance)
        layout = Layout(e, x) if self._session is None else self._layout
        make_call = partial(session.step, threads=ALL_THREADS)
        result = self._take(make_call, (), timestep, e, x, noise, dtype, work, layout, False)
        self._session, self._next, self._work, self._layout = session, index + 1, work, layout
        return result

    # ---- The parts of a step: by way of the host wherever the tensors are, and without gradients

    def _next_session(self) -> Session:
        """A session whose next step is this run's."""
        if self._session is not None:
            return self._session
        if self._plan is None or self.num_inference_steps is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        return Session.begin(self._plan, self._next or self._begin_index or 0)

    def _convert(self, model_output: Tensor, args: tuple[Any, ...], sample: Tensor | None) -> Tensor:
        sample = sample_argument(args, sample)
        dtype = torch.promote_types(model_output.dtype, sample.dtype)
        work = computing_type(dtype)
        session = self._next_session()
        e, x = matched(model_output, sample, self._properties.learns_variance)
        e, x = on_host(e, work), on_host(x, work)
        result = empty(x.shape, work)
        te, tx, to = as_tensor(e), as_tensor(x), as_tensor(result)
        check(library.ds_session_convert_model_output(session.value, byref(te), byref(tx), byref(to), 0))
        return result.to(sample.device, dtype)

    def _update(
        self, order: int, model_outputs: Sequence[Tensor], args: tuple[Any, ...], sample: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        sample = sample_argument(args, sample)
        dtype = torch.promote_types(model_outputs[-1].dtype, sample.dtype)
        work = computing_type(dtype)
        session = self._next_session()
        x = on_host(sample, work)
        outputs = [on_host(output.expand(sample.shape), work) for output in model_outputs[-order:]]
        z = None if noise is None else on_host(noise.expand(sample.shape), work)
        result = empty(x.shape, work)
        tensors = (_library.Tensor * len(outputs))(*[as_tensor(output) for output in outputs])
        tx, to = as_tensor(x), as_tensor(result)
        tz = None if z is None else byref(as_tensor(z))
        check(library.ds_session_update(session.value, order, tensors, len(outputs), byref(tx), tz, byref(to), 0))
        return result.to(sample.device, dtype)

    # ---- Beside the steps

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The samples with as much noise as there is at the timesteps, [batch] or [1].

        Where ``set_begin_index`` has been called, at the step that comes next instead.
        """
        plan = self._plan or self._planned()
        values = flat(timesteps)
        if self.num_inference_steps is None:
            table = self._training_rates(plan)
            positions = [min(max(int(t), 0), len(table[0]) - 1) for t in values.tolist()]
        else:
            table = plan.signal_rates, plan.noise_rates
            if self._begin_index is None:
                positions = [self.index_for_timestep(t) for t in values]
            else:
                positions = [self._begin_index if self._next is None else self._next] * len(values)
        signal, noisy = ([rates[position] for position in positions] for rates in table)
        return self._mix(original_samples, noise, signal, noisy)

    def _training_rates(self, plan: Plan) -> tuple[list[float], list[float]]:
        """The signal and noise rates of the training, by timestep."""
        count = plan.num_train_timesteps
        if self.config.get("use_flow_sigmas"):
            return [1 - t / count for t in range(count)], [t / count for t in range(count)]
        alphas = plan.alphas_cumprod
        return [a**0.5 for a in alphas], [(1 - a) ** 0.5 for a in alphas]

    # ---- Copies

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        session = state.pop("_session", None)
        state["_saved"] = session.save() if session is not None else None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        super().__setstate__(state)
        if saved is not None:
            assert self._plan is not None
            self._session = Session.restore(self._plan, saved)


class DEISMultistepScheduler(_Multistep, diffusers.DEISMultistepScheduler):
    """``diffusers.DEISMultistepScheduler``, by the library."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None, mu: float | None = None) -> None:
        """Plans a run of so many steps, with flow sigmas shifted by e^mu, which stays for later runs as in the original."""
        _set_shifted(self, num_inference_steps, device, mu)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """Takes the step from the sample at a timestep to the next sample."""
        result = self._step(model_output, timestep, sample)
        return SchedulerOutput(prev_sample=result[0]) if return_dict else result

    def convert_model_output(self, model_output: Tensor, *args: Any, sample: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The noise that a model output predicts at the step that comes next."""
        return self._convert(model_output, args, sample)

    def deis_first_order_update(self, model_output: Tensor, *args: Any, sample: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The next sample by an update of order 1."""
        return self._update(1, [model_output], args, sample, None)

    def multistep_deis_second_order_update(
        self, model_output_list: Sequence[Tensor], *args: Any, sample: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The next sample by an update of order 2, from converted outputs, the newest last."""
        return self._update(2, model_output_list, args, sample, None)

    def multistep_deis_third_order_update(
        self, model_output_list: Sequence[Tensor], *args: Any, sample: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The next sample by an update of order 3, from converted outputs, the newest last."""
        return self._update(3, model_output_list, args, sample, None)


class _DPMSolver(_Multistep):
    """The methods that the DPM-Solver and its inverse have in common."""

    _is_stochastic = False

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """Takes the step from the sample at a timestep to the next sample."""
        noise = None
        if self._is_stochastic:
            noise = variance_noise
            if noise is None:
                noise = randn_tensor(sample.shape, generator=generator, device=model_output.device, dtype=torch.float32)
        result = self._step(model_output, timestep, sample, noise)
        return SchedulerOutput(prev_sample=result[0]) if return_dict else result

    def convert_model_output(self, model_output: Tensor, *args: Any, sample: Tensor | None = None, **kwargs: Any) -> Tensor:
        """What the solver extrapolates, of a model output at the step that comes next."""
        return self._convert(model_output, args, sample)

    def dpm_solver_first_order_update(
        self, model_output: Tensor, *args: Any, sample: Tensor | None = None, noise: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The next sample by an update of order 1."""
        return self._update(1, [model_output], args, sample, noise)

    def multistep_dpm_solver_second_order_update(
        self,
        model_output_list: Sequence[Tensor],
        *args: Any,
        sample: Tensor | None = None,
        noise: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The next sample by an update of order 2, from converted outputs, the newest last."""
        return self._update(2, model_output_list, args, sample, noise)

    def multistep_dpm_solver_third_order_update(
        self,
        model_output_list: Sequence[Tensor],
        *args: Any,
        sample: Tensor | None = None,
        noise: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The next sample by an update of order 3, from converted outputs, the newest last."""
        return self._update(3, model_output_list, args, sample, noise)


class DPMSolverMultistepScheduler(_DPMSolver, diffusers.DPMSolverMultistepScheduler):
    """``diffusers.DPMSolverMultistepScheduler``, by the library."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        mu: float | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Plans a run of so many steps, or over these timesteps; `mu` as for DEIS."""
        if (num_inference_steps is None) == (timesteps is None):
            raise _library.InvalidValueError("set_timesteps needs exactly one of num_inference_steps and timesteps")
        if timesteps is not None:
            self._set(device, "set_custom_timesteps", [int(t) for t in timesteps])
        else:
            _set_shifted(self, num_inference_steps, device, mu)

    def _read_plan(self, device: str | torch.device | None) -> None:
        super()._read_plan(device)
        self._is_stochastic = self.config.algorithm_type.startswith("sde")

    def _result_type(self, model_output: Tensor, sample: Tensor) -> torch.dtype:
        # The original casts to the type of the converted output, which is the model's own where nothing is converted.
        kept = "sample" if self.config.algorithm_type.endswith("++") else "epsilon"
        if self.config.prediction_type == kept and (kept == "sample" or not self.config.thresholding):
            return model_output.dtype
        return torch.promote_types(model_output.dtype, sample.dtype)


class DPMSolverMultistepInverseScheduler(_DPMSolver, diffusers.DPMSolverMultistepInverseScheduler):
    """``diffusers.DPMSolverMultistepInverseScheduler``, by the library; without noise where that draws it and gives NaN."""

    def set_timesteps(self, num_inference_steps: int | None = None, device: str | torch.device | None = None) -> None:
        """Plans a run of so many steps, less those that would ask the model at a timestep again."""
        _set_shifted(self, num_inference_steps, device, None)
        # On the other grids timesteps aren't whole until they are cast, after the original has looked for repetitions.
        if any(self.config.get(f"use_{name}_sigmas") for name in ("exponential", "beta", "flow")):
            return
        unique = list(dict.fromkeys(self._known_timesteps))
        if len(unique) < len(self._known_timesteps):
            # The original keeps the noise levels of the steps that it leaves out, and so ends some levels early.
            if self.config.use_karras_sigmas:
                levels = [float(self.sigmas[self._known_timesteps.index(t)]) for t in unique]
                self._set(device, "set_custom_sigmas", levels)
            else:
                self._set(device, "set_custom_timesteps", unique)


def _set_shifted(scheduler: _Multistep, count: int | None, device: str | torch.device | None, mu: float | None) -> None:
    if count is None:
        raise _library.InvalidValueError("set_timesteps needs num_inference_steps")
    scheduler._set(device, "set_steps", int(count), None if mu is None else float(mu))
    if mu is not None:
        scheduler.config.flow_shift = math.exp(mu)


class _DDIM(_DropIn):
    """The drop-ins whose steps depend on nothing but their arguments."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Plans a run of so many steps."""
        self._set(device, "set_steps", int(num_inference_steps), None)

    def _timestep(self, timestep: Any) -> int:
        """A timestep of the training; negative ones count from its end."""
        value = int(self._value(timestep))
        return value if value >= 0 else value + int(self.config.num_train_timesteps)

    def _step(
        self, timestep: Any, options: Options, model_output: Tensor, sample: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The next sample and the predicted clean one.

        options  what the step depends on besides, as `_call` takes it
        """
        value = self._timestep(timestep)
        result = self._quick(options, value, model_output, sample, noise)
        if result is not None:
            return result
        if self._plan is None or self.num_inference_steps is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        dtype = torch.promote_types(model_output.dtype, sample.dtype)
        if noise is not None:
            dtype = torch.promote_types(dtype, noise.dtype)
        if is_beyond_reach(model_output, sample):
            row = self._row(value, options)
            prev_sample, clean = step_by_row(row, self._properties, model_output, sample, noise, {}, True)
            assert clean is not None
            return prev_sample.to(dtype), clean.to(dtype)
        e, x = matched(model_output, sample, False)
        make_call = partial(self._call, options)
        return self._take(make_call, options, value, e, x, noise, dtype, computing_type(dtype), Layout(e, x), True)

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        """The call of a step with these tensors and options."""
        raise NotImplementedError

    def _row(self, timestep: int, options: Options) -> Row:
        """The scalars of that step."""
        raise NotImplementedError


class DDIMScheduler(_DDIM, diffusers.DDIMScheduler):
    """``diffusers.DDIMScheduler``, by the library."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """Takes the step from the sample at a timestep of the training to the next sample."""
        noise = None
        if eta > 0:
            if generator is not None and variance_noise is not None:
                raise _library.InvalidValueError("generator and variance_noise are both given, but at most one may be")
            noise = variance_noise
            if noise is None:
                noise = randn_tensor(model_output.shape, generator=generator, device=model_output.device, dtype=model_output.dtype)
        result = self._step(timestep, (eta, use_clipped_model_output), model_output, sample, noise)
        return DDIMSchedulerOutput(prev_sample=result[0], pred_original_sample=result[1]) if return_dict else result

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        eta, use_clipped_model_output = options
        return self._plan.ddim_step(tensors, float(eta), bool(use_clipped_model_output), ALL_THREADS)

    def _row(self, timestep: int, options: Options) -> Row:
        eta, use_clipped_model_output = options
        return self._plan.ddim_row(timestep, float(eta), bool(use_clipped_model_output))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha) * original_samples + sqrt(1 - alpha) * noise with alpha = alphas_cumprod[t], t of [batch] or [1]."""
        return self._mix_at(original_samples, noise, timesteps, is_velocity=False)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha) * noise - sqrt(1 - alpha) * sample with alpha = alphas_cumprod[t], t of [batch] or [1]."""
        return self._mix_at(sample, noise, timesteps, is_velocity=True)

    def _mix_at(self, sample: Tensor, noise: Tensor, timesteps: Tensor, *, is_velocity: bool) -> Tensor:
        timesteps = flat(timesteps)
        plan = self._plan or self._planned()
        if not timesteps.is_cpu or is_beyond_reach(sample, noise):
            # The rates are looked up where the timesteps are.
            dtype = torch.promote_types(sample.dtype, noise.dtype)
            work = torch.promote_types(dtype, torch.float32)
            table = torch.tensor(plan.alphas_cumprod, dtype=work, device=sample.device)
            alpha = table[timesteps.to(sample.device)].reshape(-1, *[1] * (sample.ndim - 1))
            x, z = sample.to(work), noise.to(work)
            mixed = alpha.sqrt() * z - (1 - alpha).sqrt() * x if is_velocity else alpha.sqrt() * x + (1 - alpha).sqrt() * z
            return mixed.to(dtype)
        alphas = plan.alphas_cumprod
        chosen = [alphas[t] for t in timesteps.tolist()]
        signal, noisy = [a**0.5 for a in chosen], [(1 - a) ** 0.5 for a in chosen]
        if is_velocity:
            return self._mix(sample, noise, [-rate for rate in noisy], signal)
        return self._mix(sample, noise, signal, noisy)


class DDIMInverseScheduler(_DDIM, diffusers.DDIMInverseScheduler):
    """``diffusers.DDIMInverseScheduler``, by the library."""

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMInverseSchedulerOutput | tuple[Tensor, ...]:
        """Takes the step to a timestep of the training from the sample ``num_train_timesteps // num_inference_steps`` below."""
        result = self._step(timestep, (), model_output, sample, None)
        return DDIMInverseSchedulerOutput(prev_sample=result[0], pred_original_sample=result[1]) if return_dict else result

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        return self._plan.ddim_inverse_step(tensors, ALL_THREADS)

    def _row(self, timestep: int, options: Options) -> Row:
        return self._plan.ddim_inverse_row(timestep)


__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
]
