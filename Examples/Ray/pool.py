# SPDX-License-Identifier: Apache-2.0

"""A pool of rows: requests of any scheduler and number of steps join and leave at any time (continuous batching).

A tick calls the model once for all rows, each at its own timestep, and steps all rows in one call of the library. A request's
picture has the same bits as the request run alone (see alone.py). A request leaves as a `Checkpoint`, and continues in any pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from diffusion_scheduling import Guidance, NoiseSource, SchedulerError, Session, make_scheduler, step_rows


@dataclass(frozen=True)
class Request:
    """A request for a picture. `sampler` is one of diffusion_scheduling's sampler names; `digit` is None for any."""

    name: str
    sampler: str
    steps: int
    seed: int
    digit: int | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        if self.digit not in (None, *range(10)):
            raise ValueError(f"digit is {self.digit}, but must be from 0 to 9, or None for any")


@dataclass(frozen=True)
class Checkpoint:
    """A request before one of its steps: everything, besides the model, that determines its picture from there on."""

    request: Request
    step: int
    session: bytes
    sample: np.ndarray
    noise: NoiseSource
    """A noise source pickles as the bytes of its state."""

    @property
    def name(self) -> str:
        return self.request.name


@dataclass
class Reply:
    """Outcomes of a tick, by the requests' names."""

    pictures: dict[str, np.ndarray]
    refused: dict[str, str]
    checkpoints: list[Checkpoint]


def planned(config: dict[str, Any], request: Request) -> Any:
    """The request's scheduler, with timesteps set."""
    scheduler = make_scheduler(request.sampler, config)
    scheduler.set_timesteps(request.steps)
    return scheduler


def start(scheduler: Any, request: Request, shape: tuple[int, ...]) -> Checkpoint:
    """A request before its first step."""
    noise = NoiseSource.torch_cpu(request.seed)
    sample = noise.standard_normal(shape) * np.float32(scheduler.init_noise_sigma)
    return Checkpoint(request, 0, Session(scheduler).save(), sample, noise)


@dataclass
class Run:
    """A request in a row. Its sample is the pool's row."""

    request: Request
    scheduler: Any
    session: Session
    noise: NoiseSource


class RowPool:
    """Rows for requests, and one model that serves all of them.

    model  the network, see network.py
    rows   the greatest number of requests at once
    every  the number of steps between a request's checkpoints
    """

    def __init__(self, model: Any, rows: int, every: int) -> None:
        for name, value in [("rows", rows), ("every", every)]:
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        self.model, self.every = model, every
        self.runs: list[Run | None] = [None] * rows
        self.samples, self.noise, self.conditional, self.unconditional = np.zeros((4, rows, *model.shape), np.float32)
        self._scheduler = lru_cache(256)(lambda sampler, steps: planned(model.config, Request("", sampler, steps, 0)))

    def join(self, work: Request | Checkpoint) -> None:
        """Gives a row to a new request, or to one that began elsewhere.

        Raises ValueError if the name is taken, no row is free, or the request has taken all of its steps. Raises SchedulerError if
        the sampler, the number of steps or the guidance isn't allowed, or if the session's bytes are damaged or belong to another
        plan, which another version of the library may have made.
        """
        request = work if isinstance(work, Request) else work.request
        names = [run and run.request.name for run in self.runs]
        if work.name in names:
            raise ValueError(f"{work.name} is here already")
        if None not in names:
            raise ValueError(f"{work.name} can't join: all {len(names)} rows are taken")
        scheduler = self._scheduler(request.sampler, request.steps)
        begun = start(scheduler, request, self.model.shape) if isinstance(work, Request) else work
        # An empty step checks the guidance now, before it could fail the step of all rows.
        zero = np.zeros(1, np.float32)
        Session(scheduler).step(zero, zero, unconditional=zero, guidance=request.guidance, noise=zero)
        session = Session(scheduler).restore(begun.session)
        if session.timestep is None:
            raise ValueError(f"{work.name} has taken all of its steps")
        row = names.index(None)
        self.samples[row] = begun.sample
        self.runs[row] = Run(request, scheduler, session, begun.noise.copy())

    def leave(self, name: str) -> Checkpoint:
        """Takes a request out of its row, to continue elsewhere. Raises KeyError if the pool doesn't have it."""
        for row, run in enumerate(self.runs):
            if run and run.request.name == name:
                checkpoint = self._checkpoint(row, run)
                self.runs[row] = None
                return checkpoint
        raise KeyError(name)

    def tick(self, joining: Sequence[Request | Checkpoint] = ()) -> Reply:
        """Lets requests join, then steps every row. The reply has a sentence for each request that can't join."""
        reply = Reply({}, {}, [])
        for work in joining:
            try:
                self.join(work)
            except (SchedulerError, ValueError) as error:
                reply.refused[work.name] = str(error)
        live = [(row, run) for row, run in enumerate(self.runs) if run]
        if live:
            self._ask_model(live)
            for row, run in live:
                if run.session.needs_noise:
                    run.noise.standard_normal(out=self.noise[row])
            step_rows(
                [run and run.session for run in self.runs], self.conditional, self.samples, unconditional=self.unconditional,
                guidance=[run and run.request.guidance for run in self.runs], noise=self.noise, out=self.samples,
            )  # fmt: skip
        for row, run in live:
            if run.session.timestep is None:
                reply.pictures[run.request.name] = self.samples[row].copy()
                self.runs[row] = None
            elif run.session.step_index % self.every == 0:
                reply.checkpoints.append(self._checkpoint(row, run))
        return reply

    def _ask_model(self, live: list[tuple[int, Run]]) -> None:
        """One call of the model: all rows, then the guided ones without their condition."""
        guided = [(row, run) for row, run in live if run.request.guidance]
        asked = live + guided
        inputs = [run.scheduler.scale_model_input(self.samples[row], run.session.timestep) for row, run in asked]
        digits = [run.request.digit for _, run in live] + [None] * len(guided)
        outputs = self.model(np.stack(inputs), [run.session.timestep for _, run in asked], digits)
        self.conditional[[row for row, _ in live]] = outputs[: len(live)]
        self.unconditional[[row for row, _ in guided]] = outputs[len(live) :]

    def _checkpoint(self, row: int, run: Run) -> Checkpoint:
        return Checkpoint(run.request, run.session.step_index, run.session.save(), self.samples[row].copy(), run.noise.copy())
