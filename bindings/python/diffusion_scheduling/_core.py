# SPDX-License-Identifier: Apache-2.0

"""A configuration's plan and the steps through it, for tensors of any kind.

The operations on tensors are a module's: ``_arrays`` for NumPy, ``_tensors`` for torch. A class's description says which way of
stepping it has: steps that depend on nothing but their arguments (`Stateless`), or steps of a run in their order (`Ordered`).

A step has a quick way, for tensors as the step before had them, and a general one, which brings the tensors into the library's
form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref, c_size_t, c_uint, pointer
from typing import Any, ClassVar

from . import _library
from ._description import Description
from ._handles import Plan, Session
from ._library import Row, StepCall, StepTensors, check, library

Tensor = Any
Options = tuple[Any, ...]

_session_step = _library.unchecked("ds_session_step")
_row_step = _library.unchecked("ds_scheduler_row_step")

MOST_ROWS, MOST_OPTIONS = 1000, 100
"""How many rows a stateless scheduler keeps at most, and for how many options."""


def no_quick_step(*arguments: Any) -> None:
    """Placeholder until the first step: always takes the general path."""


def sample_argument(arguments: tuple[Any, ...], sample: Any) -> Any:
    """The sample: by keyword, or the last positional argument; diffusers once had timesteps before it."""
    if sample is None and not arguments:
        raise _library.InvalidValueError("sample is missing: pass it by keyword, or after the model output")
    return arguments[-1] if sample is None else sample


class Core:
    """What all schedulers have in common. A binding adds how it plans, and how it finds the step at a timestep."""

    description: ClassVar[Description]
    """What the library says about the class."""
    _tensors: Any
    """The module of the tensors' operations."""

    num_inference_steps: int | None
    config: Any
    _plan: Any = None
    """A ``Plan``; None before the first one is asked for."""
    _quick: Callable[..., Any] = staticmethod(no_quick_step)
    """Takes steps of tensors such as the step before had."""
    _threads = c_uint(0)
    _known_timesteps: list[Any] = []
    _unset: Options = ()
    """The options of a step for which the plan's hold."""

    # ---- Plans

    def _ready(self) -> Plan:
        """The plan, once timesteps have been set."""
        if self._plan is None or self.num_inference_steps is None:
            raise _library.TimestepError("no timesteps have been set: call set_timesteps first")
        plan: Plan = self._plan
        return plan

    def _read_plan(self) -> None:
        """Takes over what a new plan says."""
        self._quick = no_quick_step
        self._properties = self._plan.properties
        self._is_quiet = not self._properties.is_stochastic
        self._input_scales = self._plan.input_scales
        self._scales_inputs = any(scale != 1 for scale in self._input_scales)

    def _given(self, options: Options) -> dict[str, Any]:
        """Options by name; None stands for the plan's own."""
        return {name: value for name, value in zip(self.description.option_names, options) if value is not None}

    def _next_index(self, timestep: Any) -> int | None:
        """The step that comes next when a run is asked for a timestep; None if nothing is left to do there."""
        raise NotImplementedError

    # ---- Steps

    def _result_type(self, model_output: Tensor, sample: Tensor) -> Any:
        """The type of a next sample."""
        t, rule = self._tensors, self.description.result_type
        if rule == "converted":
            kept = "sample" if self.config["algorithm_type"].endswith("++") else "epsilon"
            if self.config["prediction_type"] == kept and (kept == "sample" or not self.config["thresholding"]):
                rule = "model_output"
        alone = {"model_output": model_output, "sample": sample}
        return t.common_type(alone[rule]) if rule in alone else t.common_type(model_output, sample)

    def _draw(self, count: int, generator: Any, noise: Tensor | None, model_output: Tensor, sample: Tensor) -> Tensor | None:
        """The noise of a step that draws `count` tensors of it, of which it reads the last."""
        if count == 0 or noise is not None:
            return noise if count else None
        for _ in range(count):
            noise = self._tensors.draw(generator, model_output, sample, self.description.result_type)
        return noise

    def _take(
        self,
        function: Callable[..., int],
        subject: tuple[Any, ...],
        slots: tuple[Any, ...],
        row: Any,
        model_output: Tensor,
        sample: Tensor,
        noise: Tensor | None,
        out: Tensor | None,
        dtype: Any,
        work: Any,
        layout: Any,
    ) -> tuple[Tensor, ...]:
        """Takes a step of any tensors that the library can reach, and makes the quick step for the next ones.

        function  its arguments are `subject`, model output, sample, noise, `slots`, next sample, report, threads
        row       the pointer among them to the step's row, if it has one
        dtype     of the results
        work      which the library computes in
        layout    likewise
        """
        t, has_report = self._tensors, self.description.returns_report
        model_type = model_output.dtype if model_output.dtype in t.ELEMENT_TYPES else work
        as_given = not layout and sample.dtype == dtype == work and model_output.dtype == model_type
        e, x = self._matched(model_output, sample)
        z = None if noise is None else t.contiguous(noise, work, layout, x.shape)
        e, x = t.contiguous(e, model_type, layout), t.contiguous(x, work, layout)
        tensors = StepTensors(x.shape, t.ELEMENT_TYPES[work], e.shape, t.ELEMENT_TYPES[model_type], z is not None)
        results = [t.result_arrays(x.shape, dtype, work, out)]
        tensors.model_output.data, tensors.sample.data, tensors.prev_sample.data = map(t.address, (e, x, results[0][1]))
        if z is not None:
            tensors.noise.data = t.address(z)
        if has_report:
            results.append(t.result_arrays(x.shape, dtype, work, None))
            tensors.pred_original_sample.data = t.address(results[1][1])
        te, tx, tz, ty, tp = tensors.references
        arguments = *subject, te, tx, tz, *slots, ty, tp if has_report else None, self._threads
        check(function(*arguments))
        call = StepCall(tensors, function, arguments, row)
        self._quick = t.quick_step(call, x, e, has_report) if as_given else no_quick_step
        return tuple(t.deliver(result, target, layout) for result, target in results)

    def _matched(self, model_output: Tensor, sample: Tensor) -> Sequence[Tensor]:
        """The two broadcast to one shape, unless the model output holds a variance besides."""
        if model_output.shape == sample.shape or self._properties.learns_variance:
            return model_output, sample
        pair: Sequence[Tensor] = self._tensors.broadcast(model_output, sample)
        return pair

    # ---- Beside the steps

    def _mix(
        self, first: Tensor, second: Tensor, first_rates: Sequence[float], second_rates: Sequence[float], out: Tensor | None = None
    ) -> Tensor:
        """first_rate * first + second_rate * second, with one rate for all or one for each batch item."""
        t = self._tensors
        a, b = t.as_given(first), t.as_given(second)
        dtype = t.common_type(a, b)
        work, layout = t.computing_type(dtype), t.layout(a, b)
        a, b = (t.contiguous(each, work, layout) for each in t.broadcast(a, b))
        result, target = t.result_arrays(a.shape, dtype, work, out)
        ta, tb, to = t.as_tensor(a), t.as_tensor(b), t.as_tensor(target)
        ra, rb = _library.doubles(first_rates), _library.doubles(second_rates)
        check(_library.mix(byref(ta), byref(tb), ra, rb, len(ra), byref(to), self._threads))
        return t.deliver(result, target, layout)

    def _scaled(self, sample: Tensor, index: int) -> Tensor:
        """The model's input at a step."""
        return self._mix(sample, sample, [self._input_scales[index]], [0.0])


class Stateless(Core):
    """Steps that depend on nothing but their arguments. Threads may take them at once, at any timestep of the training."""

    _number: Callable[..., float] = staticmethod(float)
    """The number that a timestep is."""
    _planned_rows: tuple[Plan | None, str] = None, ""
    """The plan and the request that the rows belong to: rows of an equal plan stay."""

    def _read_plan(self) -> None:
        super()._read_plan()
        planned = self._plan, self._plan.request_text
        if planned != self._planned_rows:
            self._planned_rows = planned
            self._rows: dict[Options, dict[float, tuple[Row, int]]] = {}

    def _row(self, timestep: float, options: Options) -> tuple[Row, int]:
        """The row of the step at a timestep, and how many tensors of noise it draws. Rows are kept."""
        plan = self._ready()
        assert plan.request is not None
        told = {**plan.request[1], **self._given(options)}
        told = {each.key: told[each.key] for each in self.description.options if told.get(each.key, each.default) != each.default}
        row = plan.row_at(timestep, told)
        rows = self._rows.setdefault(options, {})
        if len(rows) >= MOST_ROWS or len(self._rows) > MOST_OPTIONS:
            self._rows.clear()
            rows = self._rows[options] = {}
        found = rows[timestep] = row, row.n_noise_draws
        return found

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        options: Options,
        generator: Any,
        noise: Tensor | None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The next sample, and the report."""
        try:
            timestep = self._number(timestep)  # Floats are quicker to look up than NumPy's numbers.
        except TypeError:
            timestep = float(timestep.item())  # An array [1].
        try:
            row, draws = self._rows[options][timestep]
        except (KeyError, AttributeError):
            row, draws = self._row(timestep, options)
        if draws:
            if generator is not None and noise is not None:
                raise _library.InvalidValueError("generator and variance_noise are both given, but at most one may be")
            noise = self._draw(draws, generator, noise, model_output, sample)
        else:
            noise = None
        result: tuple[Tensor, ...] | None = self._quick(row, model_output, sample, noise, out)
        if result is not None:
            return result
        t = self._tensors
        e, x = t.as_given(model_output), t.as_given(sample)
        dtype = self._result_type(e, x)
        if noise is not None:
            dtype = t.common_type(t.as_given(noise), x, e)
        return self._general_step(row, e, x, noise, out, dtype)

    def _general_step(
        self, row: Row, e: Tensor, x: Tensor, noise: Tensor | None, out: Tensor | None, dtype: Any
    ) -> tuple[Tensor, ...]:
        work, layout, place = self._tensors.computing_type(dtype), self._tensors.layout(e, x), pointer(row)
        subject, slots = (self._plan.argument, place), (None, c_size_t(0))
        return self._take(_row_step, subject, slots, place, e, x, noise, out, dtype, work, layout)


class Ordered(Core):
    """Steps of a run in their order: a session counts them, and keeps in slots what later steps read.

    A run may begin at any step of the plan, which is how a picture is changed rather than made (image to image). It is one thread's
    at a time; threads that sample at once have a scheduler each, a copy for instance.
    """

    _session: Session | None = None
    _index: int | None = None
    _begin_index: int | None = None
    _work: Any = None
    """The type of the session's slots."""
    _layout: Any = None
    """That of the session's slots."""
    _session_options: Options = ()
    """The options that the session's plan was made with."""
    _is_plain = False
    """Whether the next step may be tried by the quick way at once: there is a session, on the plan itself, and no noise."""
    _is_lenient = False
    """Whether a run that has begun passes over the timesteps that it is asked for."""
    _upcoming: list[Any] = []
    """The known timesteps and, for the end of the run, None."""

    # ---- Plans

    def _read_plan(self) -> None:
        super()._read_plan()
        self._begin_index = None
        self._plans: dict[Options, Any] = {self._unset: self._plan}
        self._draws: dict[Any, int] = {}
        self._restart()

    def _restart(self) -> None:
        """Goes to before the first step, with empty slots."""
        self._session = self._index = self._work = None
        self._quick, self._is_plain = no_quick_step, False
        self._session_options = self._unset

    def _plan_with(self, options: Options) -> Plan:
        """The plan with the options of a step, where they aren't the plan's own."""
        plan: Plan | None = self._plans.get(options)
        if plan is None:
            if self._properties.n_slots:
                raise _library.InvalidValueError(
                    f"the options of a step are {self._given(options)}, but must be those of the run: set_timesteps takes them"
                )
            plan = self._plans[options] = self._plan.again(self._given(options))
        return plan

    # ---- Runs

    @property
    def step_index(self) -> int | None:
        """The step that comes next; None before the first one."""
        return self._index

    @property
    def begin_index(self) -> int | None:
        """Where ``set_begin_index`` makes the run begin."""
        return self._begin_index

    def _session_at(self, index: int, options: Options) -> Session:
        """The session whose next step is that one."""
        if self._session is not None and options == self._session_options:
            return self._session
        return Session.begin(self._plan_with(options), index)

    def _draw_count(self, index: int, options: Options) -> int:
        """How many tensors of noise a step draws."""
        key = index, options
        if key not in self._draws:
            plan = self._plan_with(options)
            self._draws[key] = plan.row(index, index).n_noise_draws if plan.properties.is_stochastic else 0
        return self._draws[key]

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        options: Options,
        generator: Any,
        noise: Tensor | None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The next sample, and the report if diffusers' step returns it."""
        if (
            self._is_plain and options == self._unset and (self._is_lenient or timestep == self._upcoming[self._index])  # type: ignore[index]
        ):
            quick: tuple[Tensor, ...] | None = self._quick(None, model_output, sample, None, out)
            if quick is not None:
                self._index += 1  # type: ignore[operator]
                return quick
        self._ready()
        index, t = self._next_index(timestep), self._tensors
        if index is None:
            return (sample,)
        draws = 0 if self._is_quiet and options == self._unset else self._draw_count(index, options)
        noise = self._draw(draws, generator, noise, model_output, sample)
        if self._session is not None and options == self._session_options:
            result: tuple[Tensor, ...] | None = self._quick(None, model_output, sample, noise, out)
            if result is not None:
                self._index = index + 1
                return result
        e, x = t.as_given(model_output), t.as_given(sample)
        result = self._general_step(index, options, e, x, noise, out, self._result_type(e, x))
        self._index = index + 1
        return result

    def _general_step(
        self, index: int, options: Options, e: Tensor, x: Tensor, noise: Tensor | None, out: Tensor | None, dtype: Any
    ) -> tuple[Tensor, ...]:
        t, session = self._tensors, self._session_at(index, options)
        # A run's slots have the type and the layout that it began with.
        begins = self._work is None
        work = t.computing_type(t.common_type(e, x)) if begins else self._work
        layout = t.layout(e, x) if begins else self._layout
        result = self._take(_session_step, (session.argument,), (), None, e, x, noise, out, dtype, work, layout)
        self._session, self._session_options, self._work, self._layout = session, options, work, layout
        self._is_plain = self._is_quiet and options == self._unset
        return result

    # ---- The parts of a step that diffusers documents

    def _part(
        self,
        order: int,
        model_outputs: Sequence[Tensor],
        arguments: tuple[Any, ...],
        sample: Tensor | None,
        noise: Tensor | None,
        out: Tensor | None,
    ) -> Tensor:
        """The conversion of a model output at the step that comes next (order 0), or its update of an order from converted ones."""
        plan, t, row = self._ready(), self._tensors, Row()
        check(library.ds_scheduler_part_row(plan.value, self._index or self._begin_index or 0, order, byref(row)))
        if len(model_outputs) < order:
            raise _library.InvalidValueError(f"the number of model outputs is {len(model_outputs)}, but must be at least {order}")
        x = t.as_given(sample_argument(arguments, sample))
        newest, *older = (t.as_given(output) for output in reversed(model_outputs[-max(order, 1) :]))
        dtype = t.common_type(newest, *older, x)
        work, device = t.computing_type(dtype), t.place(x)
        e, x = (t.contiguous(each, work) for each in self._matched(newest, x))
        kept = [t.contiguous(each, work, None, x.shape) for each in (*older, *([] if noise is None else [noise]))]
        result, target = t.result_arrays(x.shape, dtype, work, out)
        te, tx, ty, *others = map(t.as_tensor, (e, x, target, *kept))
        tz = None if noise is None else byref(others.pop())
        slots = (_library.Tensor * len(others))(*others)
        check(
            library.ds_scheduler_row_step(
                plan.value, byref(row), byref(te), byref(tx), tz, slots, len(slots), byref(ty), None, self._threads
            )
        )
        return t.moved(t.deliver(result, target), device)


def convert_model_output(
    self: Any, model_output: Tensor, *args: Any, sample: Tensor | None = None, out: Tensor | None = None, **others: Any
) -> Tensor:
    """The quantity that the solver extrapolates, from a model output at the step that comes next: the predicted noise, or the
    predicted clean sample for algorithms whose names end in ++; thresholded if so configured."""
    return self._part(0, [model_output], args, sample, None, out)


def _update(name: str, order: int) -> Callable[..., Tensor]:
    def update(
        self: Any,
        model_output_list: Any,
        *args: Any,
        sample: Tensor | None = None,
        noise: Tensor | None = None,
        out: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        return self._part(order, [model_output_list] if order == 1 else model_output_list, args, sample, noise, out)

    update.__name__ = update.__qualname__ = name
    counted = (
        "the converted output of the step" if order == 1 else f"the last {order} converted outputs, the newest that of the step"
    )
    update.__doc__ = f"The next sample by an update of order {order}, from {counted} that comes next."
    return update


_NAMES = ["{}_first_order_update", "multistep_{}_second_order_update", "multistep_{}_third_order_update"]
_SOLVERS = {
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpm_solver",
    "DPMSolverMultistepInverseScheduler": "dpm_solver",
}


def parts(class_name: str) -> dict[str, Callable[..., Tensor]]:
    """The parts of a step that diffusers documents for a class, by name."""
    if class_name not in _SOLVERS:
        return {}
    names = [name.format(_SOLVERS[class_name]) for name in _NAMES]
    return {"convert_model_output": convert_model_output, **{name: _update(name, i + 1) for i, name in enumerate(names)}}
