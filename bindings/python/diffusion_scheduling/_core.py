# SPDX-License-Identifier: Apache-2.0

"""Steps through a configuration's plan, for tensors of any kind.

The operations on tensors are a module's: ``_arrays`` for NumPy, ``_tensors`` for torch. A class's description says which way of
stepping it has: steps that depend on nothing but their arguments (`Stateless`), or steps of a run in their order (`Ordered`).

All state is in attributes with diffusers' names: the tables, the step that comes next, and what earlier steps remember. A step
reads them, runs one row of the plan on the caller's tensors, and writes them. Everything else that an object holds is a cache.

A step has a quick way, for tensors as the step before had them, and a general one, which brings the tensors into the library's
form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref, c_size_t, c_uint
from operator import itemgetter
from typing import Any, ClassVar

from . import _library
from ._description import Description
from ._handles import MOST_STEPS, Plan, StepRow
from ._library import Row, StepTensors, check, library

Tensor = Any
Options = tuple[Any, ...]
Results = tuple[tuple[Tensor, ...], Sequence[Tensor]]
"""A step's results, and the tensors that it stores."""

_row_step = _library.unchecked("ds_row_step")
_SLOTS, _NO_SLOTS = c_size_t(_library.MAX_SLOTS), c_size_t(0)


LONGEST_HISTORY = 4
"""The length of a history whose scheduler has no order."""


def no_quick_step(*arguments: Any) -> None:
    """Placeholder until the first step: always takes the general path."""


class Cache:
    """Derived from a scheduler's attributes. A copy of the scheduler derives its own."""

    quick: Callable[..., Results | None] = staticmethod(no_quick_step)
    """Takes steps of tensors such as the step before had."""
    seen: tuple[Any, ...] = ()
    """The attributes that the plan follows from, as they were."""
    look: Callable[[dict[str, Any]], tuple[Any, ...]] = staticmethod(lambda state: (None,))
    """Finds them."""
    counted: Sequence[tuple[Any, int]] = ()
    """Those that count the writes to them, with their counts as they were."""

    def __init__(self) -> None:
        self.plans: dict[Options, Plan] = {}
        """The plan with the options of a step, where they aren't the plan's own."""

    def __copy__(self) -> Cache:
        return Cache()

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return Cache()

    def __reduce__(self) -> tuple[type[Cache], tuple[()]]:
        return Cache, ()


def _quick_step(
    t: Any, tensors: StepTensors, threads: c_uint, sample: Tensor, model_output: Tensor, has_report: bool
) -> Callable[..., Results | None]:
    """A function that takes steps of tensors like these, which the library takes as they are, by nothing but the call.

    It has the arguments and the result of ``Core._run``. None: the tensors have another form, and nothing has been done.
    """
    te, tx, tz, ty, tp = tensors.e, tensors.x, tensors.z, tensors.y, tensors.p
    view_e, view_x, view_z, view_y, view_p = tensors.views
    slot_views, store_views, slot_array, store_array = tensors.slots, tensors.stores, tensors.slot_array, tensors.store_array
    shape, dtype, model_shape, model_dtype = sample.shape, sample.dtype, model_output.shape, model_output.dtype
    find, new, function = t.address_if, t.maker(sample), _row_step
    # Threads may step with one stateless scheduler at once: one that finds the structs in use takes the general way.
    unused = [tensors]

    def take(
        plan: Plan, row: StepRow, e: Tensor, x: Tensor, z: Tensor | None, slots: Sequence[Tensor], out: Tensor | None
    ) -> Results | None:
        try:
            e_data, x_data = find(e, model_shape, model_dtype), find(x, shape, dtype)
            z_data = None if z is None else find(z, shape, dtype)
            y, y_data = new(x) if out is None else (out, find(out, shape, dtype))
            kept = [find(slot, shape, dtype) for slot in slots] if slots else ()
            unused.pop()
        except (AttributeError, TypeError, ValueError, BufferError, IndexError, RuntimeError):
            return None
        view_e.data, view_x.data, view_y.data = e_data, x_data, y_data
        for place, data in zip(row.reads, kept):
            slot_views[place].data = data
        stored = []
        for _, view in zip(row.stores, store_views):
            made, view.data = new(x)
            stored.append(made)
        results = (y,)
        if has_report:
            made, view_p.data = new(x)
            results = y, made  # type: ignore[assignment]
        if z is not None:
            view_z.data = z_data
        status = function(
            row.prepared or row.prepare(plan), te, tx, tz if z is not None else None, slot_array, _SLOTS,
            store_array if stored else None, ty, tp if has_report else None, threads,
        )  # fmt: skip
        unused.append(tensors)
        if status:
            raise _library.error(status)
        return results, stored

    return take


class Core:
    """What all schedulers have in common. A binding adds how it plans, and how it finds the step at a timestep."""

    description: ClassVar[Description]
    """What the library says about the class."""
    _tensors: Any
    """The module of the tensors' operations."""

    config: Any
    timesteps: Any
    _plan: Plan = None  # type: ignore[assignment]
    """The last plan; None before the first one is asked for."""
    _cache: Cache = Cache()
    _threads = c_uint(0)
    _known_timesteps: Sequence[Any] = ()
    _step_index: int | None = None
    _begin_index: int | None = None
    _unset: Options = ()
    """The options of a step for which the plan's hold."""
    _watched: ClassVar[Sequence[str]]
    """The attributes that a plan follows from."""

    # ---- Plans

    def _current(self) -> Plan:
        """The plan of the attributes as they are."""
        cache = self._cache
        try:
            # Objects that are the same one count as equal at once; tables of several numbers are neither equal nor unequal.
            if cache.look(self.__dict__) == cache.seen:
                for watched, version in cache.counted:
                    if watched._version != version:
                        break
                else:
                    return self._plan
        except (KeyError, RuntimeError, TypeError, ValueError):
            pass
        self._renew()
        return self._plan

    def _look(self) -> None:
        """Remembers the attributes that the plan has been made for."""
        cache, names = self._cache, [name for name in self._watched if name in self.__dict__]
        cache.look, found = itemgetter(*names), [self.__dict__[name] for name in names]
        cache.seen = tuple(found)
        cache.counted = [(each, each._version) for each in found if self._tensors.counts_writes(each)]

    def _renew(self) -> None:
        """Makes the plan of the attributes as they are."""
        raise NotImplementedError

    def _ready(self) -> Plan:
        """The plan of the attributes as they are, once timesteps have been set."""
        plan = self._current()
        return self._plan_without_timesteps() if plan.request is None else plan

    def _plan_without_timesteps(self) -> Plan:
        """The plan of a scheduler whose timesteps nobody has set."""
        raise _library.TimestepError("no timesteps have been set: call set_timesteps first")

    def _adopt_plan(self, plan: Plan) -> None:
        """Takes over a new plan."""
        self._plan = plan
        self._cache = Cache()

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
        """The type of a next sample, and the one that holds all that it is made of, which is the report's."""
        if noise is not None and self.description.is_stateless and self.description.result_type == "promoted":
            common = self._tensors.common_type(self._tensors.as_given(noise), x, e)
            return common, common
        dtype, common = self._result_type(e, x), self._tensors.common_type(e, x)
        return dtype, dtype if self.description.result_type == "at_least_float32" else common

    def _draw(self, count: int, generator: Any, noise: Tensor | None, model_output: Tensor, sample: Tensor) -> Tensor | None:
        """The noise of a step that draws `count` tensors of it, of which it reads the last."""
        if count == 0 or noise is not None:
            return noise if count else None
        rule = self.description.noise_type
        own = {
            "model_output": (model_output,),
            "at_least_float32": (model_output,),
            "sample": (sample,),
            "promoted": (model_output, sample),
            "float32": (),
        }
        for _ in range(count):
            noise = self._tensors.draw(generator, model_output, sample, own[rule], widens=rule == "at_least_float32")
        return noise

    def _run(
        self, plan: Plan, row: StepRow, e: Tensor, x: Tensor, noise: Tensor | None, slots: Sequence[Tensor], out: Tensor | None
    ) -> Results:
        """Runs a row: the results of the step, and the tensors that the row stores.

        slots  the tensors that the row reads, in the order of ``row.reads``
        """
        cache = self._cache
        results = cache.quick(plan, row, e, x, noise, slots, out)
        if results is not None:
            return results
        e, x = self._tensors.as_given(e), self._tensors.as_given(x)
        return self._general_run(plan, row, e, x, noise, slots, out)

    def _general_run(
        self, plan: Plan, row: StepRow, e: Tensor, x: Tensor, noise: Tensor | None, slots: Sequence[Tensor], out: Tensor | None
    ) -> Results:
        """`_run` for all tensors that the library can reach; makes the quick step for the next ones like these."""
        t, has_report = self._tensors, self.description.returns_report
        dtype, common = self._types(e, x, noise)
        work, layout = t.computing_type(common), t.layout(e, x)
        model_type = e.dtype if e.dtype in t.ELEMENT_TYPES else work
        as_given = not layout and x.dtype == dtype == work and e.dtype == model_type
        e, x = self._matched(plan, e, x)
        # Callers may have replaced remembered tensors: a wrong shape is refused here, before the library reads memory.
        z, *kept = (None if each is None else t.contiguous(each, work, layout, x.shape) for each in (noise, *slots))
        e, x = t.contiguous(e, model_type, layout), t.contiguous(x, work, layout)
        tensors = StepTensors(x.shape, t.ELEMENT_TYPES[work], e.shape, t.ELEMENT_TYPES[model_type])
        results = [t.result_arrays(x.shape, dtype, work, out)]
        if has_report:
            results.append(t.result_arrays(x.shape, common, work, None))
        stored = [t.result_arrays(x.shape, work, work, None) for _ in row.stores]
        tensors.model_output.data, tensors.sample.data = t.address(e), t.address(x)
        if z is not None:
            tensors.noise.data = t.address(z)
        for view, (_, target) in zip((tensors.prev_sample, tensors.pred_original_sample), results):
            view.data = t.address(target)
        for slot, each in zip(row.reads, kept):
            tensors.slots[slot].data = t.address(each)
        for view, (_, target) in zip(tensors.stores, stored):
            view.data = t.address(target)
        check(
            _row_step(
                row.prepared or row.prepare(plan), tensors.e, tensors.x, None if z is None else tensors.z,
                *((tensors.slot_array, _SLOTS) if kept else (None, _NO_SLOTS)), tensors.store_array if stored else None,
                tensors.y, tensors.p if has_report else None, self._threads,
            )
        )  # fmt: skip
        self._cache.quick = _quick_step(t, tensors, self._threads, x, e, has_report) if as_given else no_quick_step
        return tuple(t.deliver(*each, layout) for each in results), [t.deliver(*each, layout) for each in stored]

    def _matched(self, plan: Plan, model_output: Tensor, sample: Tensor) -> Sequence[Tensor]:
        """The two broadcast to one shape, unless the model output holds a variance besides."""
        if model_output.shape == sample.shape or plan.properties.learns_variance:
            return model_output, sample
        if len(sample.shape) > 1 and tuple(model_output.shape[:2]) == (sample.shape[0], 2 * sample.shape[1]):
            raise _library.InvalidValueError(
                f"model_output has {model_output.shape[1]} channels, but must have {sample.shape[1]} like sample: "
                f"{self.description.class_name} takes no predicted variance here"
            )
        pair: Sequence[Tensor] = self._tensors.broadcast(model_output, sample)
        return pair

    # ---- Beside the steps

    def _mix(
        self, first: Tensor, second: Tensor, first_rates: Sequence[float], second_rates: Sequence[float], out: Tensor | None = None
    ) -> Tensor:
        """first_rate * first + second_rate * second, with one rate for all or one for each batch item."""
        a, b, count = _library.doubles(first_rates), _library.doubles(second_rates), len(first_rates)
        return self._combined(first, second, out, lambda x, y, to: library.ds_combine_noise(x, y, a, b, count, to, self._threads))

    def _combined(self, first: Tensor, second: Tensor, out: Tensor | None, function: Callable[..., int]) -> Tensor:
        """The result of a function of the library that takes two tensors of one shape and one for the result."""
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
    """Steps that depend on nothing but their arguments. Threads may take them at once, at any timestep of the training."""

    _number: Callable[..., float] = staticmethod(float)
    """The number that a timestep is."""

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
        """The next sample, and the report.

        slots  the tensors that callers keep
        """
        try:
            timestep = self._number(timestep)  # Floats are quicker to look up than NumPy's numbers.
        except TypeError:
            timestep = float(timestep.item())  # An array [1].
        plan = self._ready()
        try:
            row = plan.rows_at[options][timestep]
        except KeyError:
            row = plan.row_at(timestep, options)
        if row.draws:
            if generator is not None and noise is not None:
                raise _library.InvalidValueError("generator and variance_noise are both given, but at most one may be")
            noise = self._draw(row.draws, generator, noise, model_output, sample)
        else:
            noise = None
        return self._run(plan, row, model_output, sample, noise, slots and [slots[slot] for slot in row.reads], out)[0]


def _element(value: Any, place: int | None) -> Any:
    """An attribute, or one of its elements; None where there isn't any."""
    if place is None:
        return value
    return value[place] if -place <= len(value) else None


class Ordered(Core):
    """Steps of a run in their order. Attributes count them and keep what later steps read.

    A run may begin at any step of the plan, which is how a picture is changed rather than made (image to image). It is one thread's
    at a time; threads that sample at once have a scheduler each, a copy for instance.
    """

    _counter: ClassVar[str] = ""
    """The attribute that counts the steps that a run remembers; where there is none, the tensors of the list count."""
    _history: ClassVar[str] = ""
    """The attribute that holds a list of tensors."""
    _is_sampled: ClassVar[bool] = False
    """Whether noise comes from one Brownian motion over the noise levels."""
    _longest, _oldest = LONGEST_HISTORY, MOST_STEPS
    """The greatest length of the list, and the greatest count."""

    # ---- Attributes

    def _begin_run(self) -> None:
        """Goes to before the first step, with nothing remembered."""
        state, attributes = self.__dict__, self.description.attributes
        state["_step_index"] = state["_begin_index"] = None
        # diffusers has a number in the place of a sum that is yet to begin.
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
        """The number of steps that a run remembers, where no attribute counts them."""
        if not self._history:
            return plan.properties.warm_up
        return sum(each is not None for each in self.__dict__[self._history])

    def _look_back(self, plan: Plan) -> None:
        """Makes the history as long as a plan's rows reach back, where nothing else is in its slots."""
        if self._history and not self.description.attributes.tensors:
            self._longest = max(self._longest, plan.properties.n_slots + 1)

    def _remembered(self, plan: Plan, index: int) -> tuple[StepRow, Sequence[Tensor]]:
        """The row of a step, and the tensors that it reads."""
        state, counter = self.__dict__, self._counter
        remembered = state[counter] if counter else self._age(plan)
        row = plan.attribute_rows.get((index, remembered, self._is_sampled))
        if row is not None:
            depth = row.depth
            if depth is not None:
                # The usual case: all that is read are the newest elements of a list.
                slots = state[self._history][: -depth - 1 : -1] if depth else ()
                if len(slots) == depth and not (slots and slots[-1] is None):
                    return row, slots
        age = min(remembered, index)
        while True:
            wanted = index, age, self._is_sampled
            row = plan.attribute_rows.get(wanted) or plan.attribute_row(*wanted)
            slots = [_element(state[name], place) for name, place in row.sources]
            if not any(each is None or isinstance(each, int) for each in slots):
                return row, slots
            if age == 0:
                raise _library.InvalidValueError(
                    f"step {index} belongs to an evaluation of the model before it, so that no run may begin there"
                )
            age -= 1  # As many steps are remembered as there are tensors of them.

    def _remember(self, row: StepRow, stored: Sequence[Tensor], sample: Tensor) -> None:
        """Keeps what a step has stored, and the sample where later steps read that."""
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
        """The step that comes next; None before the first one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where ``set_begin_index`` makes the run begin."""
        return self._begin_index

    def _plan_with(self, plan: Plan, options: Options) -> Plan:
        """The plan with the options of a step, where they aren't the plan's own."""
        if options == self._unset:
            return plan
        plans = self._cache.plans
        if options not in plans:
            # Attributes, unlike slots, hold tensors with a meaning of their own, which doesn't depend on the options.
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
        plan = self._ready()
        if options != self._unset:
            plan = self._plan_with(plan, options)
        before = self._step_index
        try:
            index = self._next_index(timestep)
            if index is None:
                return (sample,)
            row, slots = self._remembered(plan, index)
            noise = self._draw(row.draws, generator, noise, model_output, sample) if row.draws else None
            if row.keeps:
                sample = self._tensors.kept(sample)  # The step may be in place.
            results, stored = self._run(plan, row, model_output, sample, noise, slots, out)
        except BaseException:
            self._step_index = before
            raise
        if row.is_push:
            # The usual case of `_remember`.
            state = self.__dict__
            held = state[self._history]
            held.append(stored[0])
            if len(held) > self._longest:
                del held[0]
            if state[self._counter] < self._oldest:
                state[self._counter] += 1
        elif row.changes:
            self._remember(row, stored, sample)
        self._step_index = index + 1
        return results

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
        plan, t = self._ready(), self._tensors
        row = _library.written(Row, library.ds_scheduler_part_row, plan.value, self._step_index or self._begin_index or 0, order)
        if len(model_outputs) < order:
            raise _library.InvalidValueError(f"the number of model outputs is {len(model_outputs)}, but must be at least {order}")
        if sample is None and not arguments:
            raise _library.InvalidValueError("sample is missing: pass it by keyword, or after the model output")
        # By keyword, or the last positional argument: diffusers once had timesteps before it.
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
        check(library.ds_row_step(prepared, byref(te), byref(tx), tz, slots, len(slots), None, byref(ty), None, self._threads))
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


def parts(description: Description) -> dict[str, Callable[..., Tensor]]:
    """The parts of a step that diffusers documents for a class, by name."""
    names = description.update_names
    if not names:
        return {}
    return {"convert_model_output": convert_model_output, **{name: _update(name, i + 1) for i, name in enumerate(names)}}
