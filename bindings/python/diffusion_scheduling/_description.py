# SPDX-License-Identifier: Apache-2.0

"""The library's descriptions of its classes, and functions with the signatures that follow from them."""

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
    """The key in files, and the argument's name where diffusers knows it."""
    type: str
    """Python's name of the type."""
    default: Any
    summary: str
    words: list[str] | None = None
    """The allowed values, where they are words."""
    override_name: str | None = None
    """The argument's name, where diffusers doesn't know the key."""
    timestep_offset: int | None = None
    """The number that diffusers' step adds to its timestep where the option is left out; None where it doesn't."""

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
    """A list of tensors, the newest last."""
    age: str | None
    """The number of steps that the run remembers."""
    timestep: str | None
    """The argument for the timestep of the step before, if callers keep the tensors and steps take them as arguments, too."""


class BatchStep(NamedTuple):
    """A method of the original's that steps batch items at timesteps of their own."""

    name: str
    option: str
    """The option that makes a step one of the method's."""


class BrownianMotion(NamedTuple):
    """A motion over the noise levels whose increments are the noise of the original's steps."""

    seed: str | None
    """The parameter that holds its seed; None: a generator's seed."""
    range: list[str]
    """The parameters that hold its ends; empty: the least and the greatest level of the run."""
    overlaps: bool
    """Whether a step of two evaluations reads the increment to its middle, and then that of the whole step."""


class StepArguments(NamedTuple):
    """Arguments by which the original's ``step`` is handed what most classes hold or draw themselves."""

    noise: str
    step_index: str
    """The place of the step in its run."""
    timesteps: list[str]
    sigmas: list[str]


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
    other_calls: str | None
    """The calls by which the originals' pipelines step, where these aren't ``step`` at a timestep; None: they are."""
    has_velocity: bool
    adds_noise_at_training_levels: bool

    @property
    def option_names(self) -> list[str]:
        return [option.key for option in self.options]

    @property
    def nullable_options(self) -> set[str]:
        """The options for which None says something: it is allowed, and isn't the default."""
        return {each.key for each in self.options if each.type.endswith("| None") and each.default is not None}


def _parameters(members: list[dict[str, Any]]) -> list[Parameter]:
    found = []
    for member in members:
        if member["type"].startswith("float") and isinstance(member["default"], int):
            member["default"] = float(member["default"])  # JSON writes 1.0 as 1.
        found.append(Parameter(**member))
    return found


def describe(class_name: str) -> Description:
    """The description of a class. Members that this version of the package doesn't know are passed over."""
    members = json.loads(_library.text_of(library.ds_class_description, class_name.encode()))
    known = {field: members[field] for field in Description._fields}
    lists = {name: _parameters(known[name]) for name in ("parameters", "options")}
    made = {
        "attributes": Attributes(**known["attributes"]),
        "batch_step": known["batch_step"] and BatchStep(**known["batch_step"]),
        "brownian_motion": known["brownian_motion"] and BrownianMotion(**known["brownian_motion"]),
        "step_arguments": known["step_arguments"] and StepArguments(**known["step_arguments"]),
    }
    return Description(**{**known, **lists, **made})


def _names(at: Callable[[int], bytes | None]) -> list[str]:
    """The names that a function of the library gives by their places."""
    names: list[str] = []
    while name := at(len(names)):
        names.append(name.decode())
    return names


def sampler_names() -> list[str]:
    """The names of samplers that ``make_scheduler`` takes, besides those of classes: AUTOMATIC1111's, ComfyUI's, and others."""
    return _names(library.ds_sampler_name)


DESCRIPTIONS = {name: describe(name) for name in _names(library.ds_supported_class_name)}
"""The descriptions of all classes, by name."""


def function(
    name: str, parameters: list[inspect.Parameter], body: str, documentation: str, returns: Any = inspect.Signature.empty
) -> Callable[..., Any]:
    """A method with these parameters after ``self``, which returns the value of `body`, an expression in their names.

    It is compiled from its text, as the methods of data classes are: a function that takes ``*arguments`` and sorts them out takes
    longer than a small step.
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
    """A text that a signature shows without quotation marks."""

    __repr__ = str.__str__
