# SPDX-License-Identifier: Apache-2.0

"""The library's descriptions of its classes, and methods with the described signatures."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from . import _library
from ._library import library


class Parameter(NamedTuple):
    """A key of a configuration, or an option of a run."""

    key: str
    """The key in files. It is also the argument's name, unless there is an `override_name`."""
    type: str
    """The type's name in Python."""
    default: Any
    summary: str
    words: list[str] | None = None
    """The allowed words; None: other values are allowed too."""
    override_name: str | None = None
    """The argument's name, if diffusers doesn't know the key."""
    timestep_offset: int | None = None
    """If the option is left out, diffusers' step uses its timestep plus this number; None: `default`."""

    @property
    def name(self) -> str:
        """The argument's name."""
        return self.override_name or self.key

    @property
    def text(self) -> str:
        """A line about the parameter."""
        return f"{self.name}: {self.summary}" + (f" One of {', '.join(self.words)}." if self.words else "")


class Attributes(NamedTuple):
    """The attributes in which an object keeps tensors between steps."""

    tensors: list[str]
    history: str | None
    """The attribute with a list of tensors, newest last."""
    age: str | None
    """The attribute with the number of steps that the run remembers."""
    timestep: str | None
    """The argument for the previous step's timestep, if steps also take the kept tensors as arguments."""


class BatchStep(NamedTuple):
    """A method of the original that steps each batch item at a separate timestep."""

    name: str
    option: str
    """The boolean option that selects the method's rows."""


class BrownianMotion(NamedTuple):
    """A Brownian motion over the noise levels. Its increments are the noise of the original's steps."""

    seed: str | None
    """The parameter with the motion's seed; None: the generator's seed."""
    range: list[str]
    """The parameters with the motion's ends; empty: the least positive and the greatest level of the run."""
    overlaps: bool
    """Whether a step of two evaluations first reads the increment to its middle, and then the increment of the whole step."""


class StepArguments(NamedTuple):
    """The names of arguments of the original's ``step`` for values that other classes hold or draw themselves."""

    noise: str
    step_index: str
    """The argument for the step's index in its run."""
    timesteps: list[str]
    sigmas: list[str]


class StepCall(NamedTuple):
    """A method by which diffusers' pipelines step on noise levels of their own: a row of a plan on these levels."""

    name: str
    evaluation: int
    """The index of the row, and its age."""
    level_arguments: list[str]
    """The arguments for the levels, before a 0; empty: there are none."""
    level_table: str | None
    """The attribute in which ``timestep`` looks up the levels. None, and no arguments: the level is the ratio of two norms."""
    sample: str
    """The argument for the sample."""
    noise_type: str | None
    """The element type of the noise that the method draws; None: it draws none."""
    results: list[str]
    tuple_results: list[str]
    """The results in a plain tuple."""


class Description(NamedTuple):
    """A class of the library: the members of ``ds_class_description``."""

    class_name: str
    compatible_class_names: list[str]
    parameters: list[Parameter]
    options: list[Parameter]
    attributes: Attributes
    report: str
    returns_report: bool
    result_type: str
    noise_type: str
    update_names: list[str]
    timestep_type: str | None
    sigma_type: str
    lists_end: bool
    counts_end: bool
    brownian_motion: BrownianMotion | None
    is_stateless: bool
    batch_step: BatchStep | None
    step_arguments: StepArguments | None
    calls: list[StepCall]
    """The methods by which diffusers' pipelines step, if they don't call ``step`` at a timestep of the run."""
    has_velocity: bool
    adds_noise_at_training_levels: bool

    @property
    def option_names(self) -> list[str]:
        return [option.key for option in self.options]

    @property
    def nullable_options(self) -> set[str]:
        """The options for which None is a meaningful value: allowed, and not the default."""
        return {each.key for each in self.options if each.type.endswith("| None") and each.default is not None}


def _parameters(members: list[dict[str, Any]]) -> list[Parameter]:
    found = []
    for member in members:
        if member["type"].startswith("float") and isinstance(member["default"], int):
            member["default"] = float(member["default"])  # JSON writes 1.0 as 1.
        found.append(Parameter(**member))
    return found


def describe(class_name: str) -> Description:
    """The description of a class, without the members that this version of the package doesn't know."""
    members = json.loads(_library.read_text(library.ds_class_description, class_name.encode()))
    known = {field: members[field] for field in Description._fields}
    lists = {name: _parameters(known[name]) for name in ("parameters", "options")}
    made = {
        "attributes": Attributes(**known["attributes"]),
        "batch_step": known["batch_step"] and BatchStep(**known["batch_step"]),
        "brownian_motion": known["brownian_motion"] and BrownianMotion(**known["brownian_motion"]),
        "step_arguments": known["step_arguments"] and StepArguments(**known["step_arguments"]),
        "calls": [StepCall(**each) for each in known["calls"]],
    }
    return Description(**{**known, **lists, **made})


def _names(at: Callable[[int], bytes | None]) -> list[str]:
    """The names that a library function returns by index."""
    names: list[str] = []
    while name := at(len(names)):
        names.append(name.decode())
    return names


def sampler_names() -> list[str]:
    """The sampler names that ``make_scheduler`` takes besides class names: AUTOMATIC1111's, ComfyUI's and others."""
    return _names(library.ds_sampler_name)


DESCRIPTIONS = {name: describe(name) for name in _names(library.ds_supported_class_name)}
"""The descriptions of all classes, by name."""


def function(
    name: str, parameters: list[inspect.Parameter], body: str, documentation: str, returns: Any = inspect.Signature.empty
) -> Callable[..., Any]:
    """Makes a method with these parameters after ``self``. It returns the value of `body`, an expression of the parameters.

    The method is compiled from text, like the methods of data classes. A method that took ``*arguments`` and sorted them out would
    take longer than a small step.
    """
    defaults = {f"default_{each.name}": each.default for each in parameters if each.default is not each.empty}
    arguments = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for each in parameters:
        default = each.empty if each.default is each.empty else _Text(f"default_{each.name}")
        arguments.append(each.replace(annotation=each.empty, default=default))
    scope: dict[str, Any] = {}
    exec(f"def {name}{inspect.Signature(arguments)}:\n    return {body}", defaults, scope)
    made: Callable[..., Any] = scope[name]
    made.__doc__ = documentation
    made.__annotations__ = {each.name: each.annotation for each in parameters if each.annotation is not each.empty}
    if returns is not inspect.Signature.empty:
        made.__annotations__["return"] = returns
    return made


class _Text(str):
    """A string that a signature shows without quotation marks."""

    __repr__ = str.__str__
