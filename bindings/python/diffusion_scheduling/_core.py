# SPDX-License-Identifier: Apache-2.0

"""The steps of a configuration's plan, for tensors of any kind.

A module provides the operations on tensors: ``_arrays`` for NumPy, ``_tensors`` for torch. A class's description selects its base.
In `Stateless`, steps depend only on their arguments. In `Ordered`, the steps of a run are taken in order.

All state is in attributes with diffusers' names: the tables, the index of the next step, and the tensors kept from earlier steps. A
step reads these attributes, runs one row of the plan on the caller's tensors, and updates the attributes. All other attributes are
caches.

The methods here are the plain version of steps. `_quick` has the usual step for tensors like the previous step's in C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref, c_uint, c_void_p, cast
from typing import Any, ClassVar

from . import _library
from ._description import Description
from ._handles import MOST_STEPS, Plan, StepRow
from ._library import MAX_SLOTS, MAX_STORES, Row, check, library

try:
    from ._quick import QuickStep
except ImportError:  # Interpreters without CPython's stable ABI can't load the module.
    QuickStep = None  # type: ignore[assignment, misc]

Tensor = Any
Options = tuple[Any, ...]
Results = tuple[tuple[Tensor, ...], Sequence[Tensor]]
"""A step's results, and the tensors that the step stores."""

_ROW_STEP: int = cast(library.ds_row_step, c_void_p).value  # type: ignore[assignment]
"""The address of the function."""

LONGEST_HISTORY = 4
"""The greatest length of a history if the configuration has no solver_order."""


def _plain_step(scheduler: Any, *arguments: Any) -> tuple[Tensor, ...]:
    results: tuple[Tensor, ...] = scheduler._step(*arguments)
    return results


class Cache:
    """Values derived from a scheduler's attributes. A copy of the scheduler derives them again."""

    quick: QuickStep | None = None
    """The usual step, for tensors like those of the last step by `Core._general_run`; None before, and without the module."""
    step: Callable[..., tuple[Tensor, ...]] = staticmethod(_plain_step)
    """Takes a step by `quick` or the scheduler's ``_step``. The arguments are the scheduler, and those of ``_step``."""
    watched: tuple[str, ...] = ()
    """The names of the watched attributes that the scheduler has."""
    seen: tuple[Any, ...] = ()
    """Their values at the time of planning."""
    counted: tuple[tuple[Any, int], ...] = ()
    """The values in `seen` that count the writes to them, with their counts at that time."""

    def __init__(self) -> None:
        self.plans: dict[Options, Plan] = {}
        """The plans for steps whose options differ from the plan's own, by these options."""

    def __copy__(self) -> Cache:
        return Cache()

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return Cache()

    def __reduce__(self) -> tuple[type[Cache], tuple[()]]:
        return Cache, ()


class Core:
    """The base of all schedulers. A binding adds planning, and the lookup of the step at a timestep."""

    description: ClassVar[Description]
    """The library's description of the class."""
    _tensors: Any
    """The module with the operations on tensors."""

    config: Any
    timesteps: Any
    _plan: Plan = None  # type: ignore[assignment]
    """The last plan; None before the first one is made."""
    _cache: Cache = Cache()
    _threads = c_uint(0)
    _known_timesteps: list[Any] = []
    _step_index: int | None = None
    _begin_index: int | None = None
    _unset: Options = ()
    """The options of a step that leaves them all out. The plan's own options then apply."""
    _watched: ClassVar[Sequence[str]]
    """The names of the attributes that determine the plan."""

    # ---- Plans

    def _current(self) -> Plan:
        """The plan of the present attributes. Makes a new one if they have changed."""
        cache, state = self._cache, self.__dict__
        try:
            # Tuples compare identical objects as equal. Comparing two tables of several numbers raises an error.
            is_seen = bool(cache.watched) and tuple(state[name] for name in cache.watched) == cache.seen
            if is_seen and all(each._version == version for each, version in cache.counted):
                return self._plan
        except (KeyError, RuntimeError, TypeError, ValueError):
            pass
        self._renew()
        return self._plan

    def _look(self) -> None:
        """Remembers the attributes for which the plan has been made."""
        cache, names = self._cache, [name for name in self._watched if name in self.__dict__]
        cache.watched, cache.seen = tuple(names), tuple(self.__dict__[name] for name in names)
        cache.counted = tuple((each, each._version) for each in cache.seen if self._tensors.counts_writes(each))

    def _renew(self) -> None:
        """Makes the plan of the present attributes."""
        raise NotImplementedError

    def _ready(self) -> Plan:
        """The plan of the present attributes, or `_plan_without_timesteps` before timesteps have been set."""
        plan = self._current()
        return self._plan_without_timesteps() if plan.request is None else plan

    def _plan_without_timesteps(self) -> Plan:
        """The plan for steps before timesteps have been set. Raises TimestepError, except in some drop-ins."""
        raise _library.TimestepError("no timesteps have been set: call set_timesteps first")

    def _adopt_plan(self, plan: Plan) -> None:
        """Replaces the plan, and empties the cache."""
        self._plan = plan
        self._cache = Cache()

    def _given(self, options: Options) -> dict[str, Any]:
        """The options by name, without those that are None: the plan's own apply there."""
        return {name: value for name, value in zip(self.description.option_names, options) if value is not None}

    def _next_index(self, timestep: Any) -> int | None:
        """The index of the step to take at a timestep; None if the run has nothing to do there."""
        raise NotImplementedError

    # ---- Steps

    def _result_type(self, model_output: Tensor, sample: Tensor) -> Any:
        """The element type of the next sample."""
        t, rule = self._tensors, self.description.result_type
        if rule == "converted":
            config = self.config
            kept = "sample" if config.algorithm_type.endswith("++") else "epsilon"
            if config.prediction_type == kept and (kept == "sample" or not config.thresholding):
                rule = "model_output"
        alone = {"model_output": model_output, "sample": sample}
        if rule in alone:
            return t.common_type(alone[rule])
        common = t.common_type(model_output, sample)
        return t.at_least_float32(common) if rule == "at_least_float32" else common

    def _types(self, e: Tensor, x: Tensor, noise: Tensor | None) -> tuple[Any, Any]:
        """The element types of the next sample and of the report. The report's holds the types of the inputs."""
        if noise is not None and self.description.is_stateless and self.description.result_type == "promoted":
            common = self._tensors.common_type(self._tensors.as_given(noise), x, e)
            return common, common
        dtype, common = self._result_type(e, x), self._tensors.common_type(e, x)
        return dtype, dtype if self.description.result_type == "at_least_float32" else common

    def _draw(self, count: int, generator: Any, noise: Tensor | None, model_output: Tensor, sample: Tensor) -> Tensor | None:
        """The noise of a step. `count` tensors are drawn, as in diffusers, and the step reads the last one."""
        if count == 0 or noise is not None:
            return noise if count else None
        rule = self.description.noise_type
        like: tuple[Tensor, ...] = ()
        if rule in ("model_output", "at_least_float32"):
            like = (model_output,)
        elif rule == "sample":
            like = (sample,)
        elif rule == "promoted":
            like = model_output, sample
        for _ in range(count):
            noise = self._tensors.draw(generator, model_output, sample, like, widens=rule == "at_least_float32")
        return noise

    def _run(
        self, plan: Plan, row: StepRow, e: Tensor, x: Tensor, noise: Tensor | None, slots: Sequence[Tensor], out: Tensor | None
    ) -> Results:
        """Runs a row. Returns the step's results, and the tensors that the row stores.

        slots  the tensors that the row reads, in the order of ``row.reads``
        """
        quick = self._cache.quick
        made = quick and quick.run_row(row, e, x, noise, slots, out)
        return made or self._general_run(plan, row, e, x, noise, slots, out)

    def _general_run(
        self, plan: Plan, row: StepRow, e: Tensor, x: Tensor, noise: Tensor | None, slots: Sequence[Tensor], out: Tensor | None
    ) -> Results:
        """`_run` for all tensors that the library can reach. Prepares the quick version for later tensors like these."""
        t, has_report = self._tensors, self.description.returns_report
        e, x = t.as_given(e), t.as_given(x)
        dtype, common = self._types(e, x, noise)
        work, layout = t.computing_type(common), t.layout(e, x)
        model_type = e.dtype if e.dtype in t.ELEMENT_TYPES else work
        is_as_given = not layout and x.dtype == dtype == work and e.dtype == model_type
        e, x = self._matched(plan, e, x)
        # Callers may have replaced the kept tensors. Wrong shapes fail here, before the library reads memory.
        z, *kept = (None if each is None else t.contiguous(each, work, layout, x.shape) for each in (noise, *slots))
        e, x = t.contiguous(e, model_type, layout), t.contiguous(x, work, layout)
        results = [t.result_arrays(x.shape, dtype, work, out)]
        if has_report:
            results.append(t.result_arrays(x.shape, common, work, None))
        stored = [t.result_arrays(x.shape, work, work, None) for _ in row.stores]
        te, tx, ty, *tp = (t.as_tensor(each) for each in (e, x, *(target for _, target in results)))
        tz = None if z is None else t.as_tensor(z)
        # The library looks only at the slots that the row reads.
        read, stores = (_library.Tensor * MAX_SLOTS)(*[tx] * MAX_SLOTS), (_library.Tensor * MAX_STORES)()
        for slot, each in zip(row.reads, kept):
            read[slot] = t.as_tensor(each)
        for place, (_, target) in enumerate(stored):
            stores[place] = t.as_tensor(target)
        check(
            library.ds_row_step(
                byref(row.prepared or row.prepare(plan)), byref(te), byref(tx), tz and byref(tz),
                *((read, MAX_SLOTS) if kept else (None, 0)), stores if stored else None,
                byref(ty), byref(tp[0]) if tp else None, self._threads,
            )
        )  # fmt: skip
        self._prepare_quick_steps(e, x, is_as_given)
        return tuple(t.deliver(*each, layout) for each in results), [t.deliver(*each, layout) for each in stored]

    def _prepare_quick_steps(self, model_output: Tensor, sample: Tensor, is_as_given: bool) -> None:
        """Prepares the quick version of steps with the present plan and tensors like these, if there is one.

        is_as_given  whether the library takes the tensors without conversion
        """
        cache, plan, form, order = self._cache, self._plan, self._tensors.quick_form(sample), self._quick_order()
        cache.quick, cache.step = None, _plain_step
        if QuickStep is None or form is None or not is_as_given:
            return
        try:
            cache.quick = QuickStep(
                plan, plan.attribute_rows if order[0] else plan.rows_at, self._known_timesteps, cache.watched, cache.seen,
                cache.counted, self._unset, cache.plans, order, form, self._tensors.kept, _library.error,
                self.description.returns_report, self._threads, _ROW_STEP, model_output, sample,
            )  # fmt: skip
        except ValueError:  # The tensors are of a derived class, for example.
            return
        cache.step = cache.quick.step

    def _quick_order(self) -> tuple[bool, str | None, str | None, bool, bool, bool]:
        """The order for ``QuickStep``: how it finds the next step of a run."""
        return False, None, None, False, False, False

    def _matched(self, plan: Plan, model_output: Tensor, sample: Tensor) -> Sequence[Tensor]:
        """Model output and sample, broadcast to a common shape unless the plan learns variances.

        Raises InvalidValueError if the model output has an unexpected variance.
        """
        if model_output.shape == sample.shape or plan.properties.learns_variance:
            return model_output, sample
        if len(sample.shape) > 1 and tuple(model_output.shape[:2]) == (sample.shape[0], 2 * sample.shape[1]):
            raise _library.InvalidValueError(
                f"model_output has {model_output.shape[1]} channels, but must have {sample.shape[1]} like sample: "
                f"{self.description.class_name} takes no predicted variance here"
            )
        pair: Sequence[Tensor] = self._tensors.broadcast(model_output, sample)
        return pair

    def _weighted(self, weights: Sequence[float], model_outputs: Tensor, sample: Tensor) -> Tensor:
        """The weighted sum of a model's outputs, which follow one another on the last axis. Any other array is the sum already."""
        e, x, count = self._tensors.as_given(model_outputs), self._tensors.as_given(sample), len(weights)
        if not x.shape or not e.shape or e.shape[-1] != count * x.shape[-1]:
            return e
        weighted: Tensor = self._tensors.weighted(e.reshape(*e.shape[:-1], count, x.shape[-1]), weights)
        return weighted

    # ---- Other operations

    def _mix(
        self, first: Tensor, second: Tensor, first_rates: Sequence[float], second_rates: Sequence[float], out: Tensor | None = None
    ) -> Tensor:
        """first_rate * first + second_rate * second, with one rate for all or one for each batch item."""
        a, b, count = _library.doubles(first_rates), _library.doubles(second_rates), len(first_rates)
        return self._combined(first, second, out, lambda x, y, to: library.ds_combine_noise(x, y, a, b, count, to, self._threads))

    def _combined(self, first: Tensor, second: Tensor, out: Tensor | None, function: Callable[..., int]) -> Tensor:
        """The result of a library function that takes two tensors of one shape and a third for the result."""
        t = self._tensors
        a, b = t.as_given(first), t.as_given(second)
        dtype = t.common_type(a, b)
        work, layout = t.computing_type(dtype), t.layout(a, b)
        a, b = (t.contiguous(each, work, layout) for each in t.broadcast(a, b))
        result, target = t.result_arrays(a.shape, dtype, work, out)
        ta, tb, to = t.as_tensor(a), t.as_tensor(b), t.as_tensor(target)
        check(function(byref(ta), byref(tb), byref(to)))
        return t.deliver(result, target, layout)

    def _scaled(self, sample: Tensor, scale: float) -> Tensor:
        return self._mix(sample, sample, [scale], [0.0])


class Stateless(Core):
    """Steps that depend only on their arguments. Several threads may take them at once, at any training timesteps."""

    _number: Callable[..., float] = staticmethod(float)
    """Converts a timestep to a number."""

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        options: Options,
        generator: Any,
        noise: Tensor | None,
        out: Tensor | None = None,
        slots: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        """The next sample, and the report if diffusers' step returns it.

        slots  the tensors that the caller keeps between steps
        """
        try:
            timestep = self._number(timestep)
        except TypeError:
            timestep = float(timestep.item())  # An array [1].
        plan = self._ready()
        row = plan.rows_at.get(options, {}).get(timestep) or plan.row_at(timestep, options)
        if row.draws:
            if generator is not None and noise is not None:
                raise _library.InvalidValueError("generator and variance_noise are both given, but at most one may be")
            noise = self._draw(row.draws, generator, noise, model_output, sample)
        else:
            noise = None
        slots = slots and [slots[slot] for slot in row.reads]
        return self._general_run(plan, row, model_output, sample, noise, slots, out)[0]


class Ordered(Core):
    """The steps of a run, taken in order. Attributes count the steps, and keep the tensors that later steps read.

    A run may begin at any step of the plan, for example to change a picture (image-to-image). Only one thread at a time may use a
    run: give each sampling thread a scheduler, for example a copy.
    """

    _counter: ClassVar[str] = ""
    """The attribute that counts the steps that a run remembers; empty: `_age` counts them."""
    _history: ClassVar[str] = ""
    """The attribute with a list of kept tensors, newest last; empty: there is none."""
    _lists_end: ClassVar[bool] = False
    """Whether the last element of `_known_timesteps` is only the end of the run."""
    _checks_timesteps: ClassVar[bool] = False
    """Whether a step's timestep must be the next one of the run."""
    _is_sampled: ClassVar[bool] = False
    """Whether the noise of a run comes from one Brownian motion over the noise levels."""
    _longest, _oldest = LONGEST_HISTORY, MOST_STEPS
    """The greatest length of the history, and the greatest count."""

    # ---- Attributes

    def _begin_run(self) -> None:
        """Returns to the state before the first step: no step is remembered."""
        state, attributes = self.__dict__, self.description.attributes
        state["_step_index"] = state["_begin_index"] = None
        # In diffusers' objects, a sum that has no terms yet is the number 0. It stays.
        state.update({name: None for name in attributes.tensors if not isinstance(state.get(name), int)})
        order = self.config.get("solver_order", 0)
        if attributes.history:
            state[attributes.history] = [None] * order
        self._longest, self._oldest = order or LONGEST_HISTORY, order or MOST_STEPS
        if self._plan is not None:
            self._look_back(self._plan)
        if attributes.age:
            state[attributes.age] = 0

    def _age(self, plan: Plan) -> int:
        """The number of steps that a run remembers, if no attribute counts them."""
        if not self._history:
            return plan.warm_up
        return sum(each is not None for each in self.__dict__[self._history])

    def _look_back(self, plan: Plan) -> None:
        """Lengthens the history to the reach of a plan's rows, if the history has all of the slots."""
        if self._history and not self.description.attributes.tensors:
            self._longest = max(self._longest, plan.properties.n_slots + 1)

    def _remembered(self, plan: Plan, index: int) -> tuple[StepRow, Sequence[Tensor]]:
        """The row of a step, and the tensors that the row reads."""
        state, counter = self.__dict__, self._counter
        age = min(state[counter] if counter else self._age(plan), index)
        while True:
            wanted = index, age, self._is_sampled
            row = plan.attribute_rows.get(wanted) or plan.attribute_row(*wanted)
            slots: list[Tensor] = []
            for name, place in row.sources:
                held = state[name]
                slot = held if place is None else held[place] if -place <= len(held) else None
                if slot is None or isinstance(slot, int):
                    break
                slots.append(slot)
            else:
                return row, slots
            if age == 0:
                raise _library.InvalidValueError(
                    f"step {index} belongs to an evaluation of the model before it, so that no run may begin there"
                )
            age -= 1  # A tensor of this age is missing: fewer steps are remembered.

    def _remember(self, row: StepRow, stored: Sequence[Tensor], sample: Tensor) -> None:
        """Keeps the tensors that a step has stored, and the step's sample if later steps read it."""
        state, counter = self.__dict__, self._counter
        for (name, place), tensor in zip(row.targets, stored):
            if place is None:
                state[name] = tensor
            else:
                held = state[name]
                held.append(tensor)
                if len(held) > self._longest:
                    del held[0]
        for name in row.keeps:
            state[name] = sample
        for name in row.drops:
            state[name] = None
        if counter and state[counter] < self._oldest:
            state[counter] += 1

    # ---- Runs

    @property
    def step_index(self) -> int | None:
        """The index of the next step; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The index that ``set_begin_index`` has set; None: the timestep of the first step decides."""
        return self._begin_index

    def _plan_with(self, plan: Plan, options: Options) -> Plan:
        """The plan, or one like it with a step's own options."""
        if options == self._unset:
            return plan
        plans = self._cache.plans
        if options not in plans:
            # Unlike slots, the attributes' tensors mean the same whatever the options are, so both plans can read them.
            plans[options] = plan.again(self._given(options))
            self._look_back(plans[options])
        return plans[options]

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
        plan, before = self._plan_with(self._ready(), options), self._step_index
        try:
            index = self._next_index(timestep)
            if index is None:
                return (sample,)
            row, slots = self._remembered(plan, index)
            if plan.output_weights:
                model_output = self._weighted(plan.output_weights[index], model_output, sample)
            noise = self._draw(row.draws, generator, noise, model_output, sample)
            if row.keeps:
                sample = self._tensors.kept(sample)  # The step may overwrite the sample.
            results, stored = self._general_run(plan, row, model_output, sample, noise, slots, out)
        except BaseException:
            self._step_index = before
            raise
        self._remember(row, stored, sample)
        self._step_index = index + 1
        return results

    def _quick_order(self) -> tuple[bool, str | None, str | None, bool, bool, bool]:
        return True, self._counter or None, self._history or None, self._is_sampled, self._lists_end, self._checks_timesteps

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
        """A part of the next step: the converted model output (order 0), or an update of this order from converted outputs."""
        plan, t = self._ready(), self._tensors
        row = _library.written(Row, library.ds_scheduler_part_row, plan.value, self._step_index or self._begin_index or 0, order)
        if len(model_outputs) < order:
            raise _library.InvalidValueError(f"the number of model outputs is {len(model_outputs)}, but must be at least {order}")
        if sample is None and not arguments:
            raise _library.InvalidValueError("sample is missing: pass it by keyword, or after the model output")
        # The sample is a keyword or the last positional argument. Older versions of diffusers have timesteps before it.
        x = t.as_given(arguments[-1] if sample is None else sample)
        newest, *older = (t.as_given(output) for output in reversed(model_outputs[-max(order, 1) :]))
        dtype = t.common_type(newest, *older, x)
        work, device = t.computing_type(dtype), t.place(x)
        e, x = (t.contiguous(each, work) for each in self._matched(plan, newest, x))
        kept = [t.contiguous(each, work, None, x.shape) for each in (*older, *([] if noise is None else [noise]))]
        result, target = t.result_arrays(x.shape, dtype, work, out)
        te, tx, ty, *others = map(t.as_tensor, (e, x, target, *kept))
        tz = None if noise is None else byref(others.pop())
        slots = (_library.Tensor * len(others))(*others)
        prepared = StepRow(row).prepare(plan)
        check(
            library.ds_row_step(byref(prepared), byref(te), byref(tx), tz, slots, len(slots), None, byref(ty), None, self._threads)
        )
        return t.moved(t.deliver(result, target), device)


def convert_model_output(
    self: Any, model_output: Tensor, *args: Any, sample: Tensor | None = None, out: Tensor | None = None, **others: Any
) -> Tensor:
    """Converts the next step's model output to the quantity that the solver extrapolates.

    With the predicted clean sample p, and the rates A and S of a sample A data + S noise, the quantity is m = p for algorithms
    whose names end in ++, and m = (sample - A p) / S, the predicted noise, for the others. The configuration may threshold p.

    Raises TimestepError before timesteps are set, and InvalidValueError for arrays that don't match, or without a sample.
    """
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
        "the step's converted model output" if order == 1 else f"the last {order} converted model outputs, the step's own included"
    )
    update.__doc__ = (
        f"The next step's result by an update of order {order}, from {counted}:\n\n"
        "    result = a sample + sum of b[k] m[k] + c noise\n\n"
        "m are the converted model outputs, newest first; a, b and c are the solver's weights.\n\n"
        "Raises TimestepError before timesteps are set, and InvalidValueError for too few model outputs, for a step with fewer "
        "steps before it, and for arrays that don't match."
    )
    return update


def parts(description: Description) -> dict[str, Callable[..., Tensor]]:
    """The parts of a step that diffusers documents for a class, by name."""
    names = description.update_names
    if not names:
        return {}
    return {"convert_model_output": convert_model_output, **{name: _update(name, i + 1) for i, name in enumerate(names)}}
