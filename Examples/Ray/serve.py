# SPDX-License-Identifier: Apache-2.0

"""Serves digits with Ray actors, kills two of them in the middle of a tick, and compares each picture with the request run alone.

    make ray
    make ray ARGUMENTS="--requests 500 --address auto"     on a cluster

The exit status is 1 if a picture differs, a request is refused or no actor is left, and 2 if a package is missing or an argument
isn't allowed.
"""

import argparse
import os
import pickle
import random
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray would print a paragraph about the process that this program kills on purpose.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")

try:
    import numpy as np
    import ray
    from alone import run_alone
    from diffusion_scheduling import Guidance, NoiseSource, SchedulerError
    from network import DigitNetwork
    from pool import Checkpoint, Request, RowPool
    from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError
except ImportError as error:
    print(f"serve.py can't start: {error}. `make ray` installs what is missing into out/ray", file=sys.stderr)
    raise SystemExit(2) from None

START_SECONDS = 60
LOST = RayActorError, ObjectLostError
"""The process of an actor, or its machine, has ended."""


# ---- Actors


# The second thread runs `crash`, which strikes during a tick.
@ray.remote(num_cpus=1, max_restarts=0, max_concurrency=2, scheduling_strategy="SPREAD")
class Actor:
    """A process with a pool of rows and the network. `num_gpus=1` in place of `num_cpus=1` gives each a GPU."""

    def __init__(self, model: Any, rows: int, every: int) -> None:
        self.pool = RowPool(model, rows, every)

    def tick(self, joining: list[Request | Checkpoint]) -> Any:
        return self.pool.tick(joining)

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class NoActorsError(RuntimeError):
    """Requests wait, but every actor is lost."""


def sentence(error: Exception) -> str:
    """An error's message, without the traceback of another process."""
    return str(error).strip().splitlines()[-1].removesuffix(".")


def start_actors(count: int, model: Any, rows: int, every: int) -> list[Any]:
    """Actors that are ready for their first tick. Raises NoActorsError."""
    weights = ray.put(model)
    actors = [Actor.remote(weights, rows, every) for _ in range(count)]
    try:
        ray.get([actor.__ray_ready__.remote() for actor in actors], timeout=START_SECONDS)
    except GetTimeoutError:
        cpus = ray.cluster_resources().get("CPU", 0)
        raise NoActorsError(f"{count} actors haven't started in {START_SECONDS} s: each takes a CPU of the {cpus:g}") from None
    except RayActorError as error:
        raise NoActorsError(f"an actor can't start: {sentence(error)}") from None
    return actors


# ---- Serving


@dataclass
class Outcome:
    """Results of a run, by the requests' names, and its measurements."""

    pictures: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0
    ticks: int = 0
    steps: int = 0
    """Steps of all rows, including lost ones."""
    session_sizes: list[int] = field(default_factory=list)
    """Sizes in bytes of the sessions in all checkpoints."""
    losses: list[tuple[str, list[int]]] = field(default_factory=list)
    """The loss of each actor: its cause, and the steps from which its requests continued elsewhere."""


def serve(actors: list[Any], rows: int, arrivals: list[tuple[float, Request]], faults: list[tuple[int, str, Any]]) -> Outcome:
    """Serves requests until all are done.

    arrivals  the second at which each request comes, ascending
    faults    each a number of finished pictures, a name, and a function that then strikes the actor with the most requests

    `held` is enough to replace an actor: it has the last checkpoint that the actor returned for each of its requests. The driver
    owns these replies. Objects that an actor stores with ray.put belong to the actor, and are lost with it.

    Raises NoActorsError if all actors are lost, and RayError if a tick fails.
    """
    outcome, coming, faults = Outcome(), deque(arrivals), deque(faults)
    waiting: deque[Request | Checkpoint] = deque()
    held: dict[int, dict[str, Request | Checkpoint]] = {number: {} for number in range(len(actors))}
    calls: dict[Any, int] = {}
    fault_of: dict[int, str] = {}
    arrived = {request.name: seconds for seconds, request in arrivals}
    began = time.monotonic()

    while len(outcome.pictures) + len(outcome.refused) < len(arrivals):
        now = time.monotonic() - began
        while coming and coming[0][0] <= now:
            waiting.append(coming.popleft()[1])
        # Each idle actor gets its share of the waiting requests, and takes a step.
        idle = held.keys() - calls.values()
        share = -(-(len(waiting) + sum(map(len, held.values()))) // len(held))
        for number in idle:
            free = min(share, rows) - len(held[number])
            joining = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            held[number] |= {work.name: work for work in joining}
            if held[number]:
                calls[actors[number].tick.remote(joining)] = number
                outcome.ticks += 1
                outcome.steps += len(held[number])
        if faults and calls and len(outcome.pictures) >= faults[0][0]:
            _, how, strike = faults.popleft()
            victim = max(calls.values(), key=lambda number: len(held[number]))
            fault_of[victim] = how
            strike(actors[victim])

        pause = max(0, coming[0][0] - now) if coming and len(calls) < len(held) else None
        if not calls:
            time.sleep(pause or 0)
            continue
        for call in ray.wait(list(calls), timeout=pause)[0]:
            number = calls.pop(call)
            try:
                reply = ray.get(call)
            except LOST:
                # An actor that has only lost its connection must not continue.
                ray.kill(actors[number])
                lost = held.pop(number)
                waiting.extendleft(reversed(lost.values()))
                steps = [work.step if isinstance(work, Checkpoint) else 0 for work in lost.values()]
                outcome.losses.append((fault_of.get(number, "lost"), steps))
                if not held:
                    left = len(arrivals) - len(outcome.pictures) - len(outcome.refused)
                    raise NoActorsError(f"no actor is left, and {left} of {len(arrivals)} requests are not done") from None
                continue
            outcome.session_sizes += [len(checkpoint.session) for checkpoint in reply.checkpoints]
            held[number] |= {checkpoint.name: checkpoint for checkpoint in reply.checkpoints}
            outcome.pictures |= reply.pictures
            outcome.refused |= reply.refused
            now = time.monotonic() - began
            for name in [*reply.pictures, *reply.refused]:
                del held[number][name]
                outcome.latencies.append(now - arrived[name])
    outcome.seconds = time.monotonic() - began
    return outcome


# ---- The program

SAMPLERS = [
    *("Euler", "Euler a", "Heun", "LMS", "DPM2 a", "DPM++ 2M Karras", "DPM++ SDE", "DPM++ 2M SDE Karras", "DPM++ 3M SDE"),
    *("UniPC", "DDIM", "PLMS", "ddpm", "deis", "DEIS rho3Kutta", "sa_solver"),
]


def draw_requests(count: int, draw: random.Random) -> list[Request]:
    guidances = [None, Guidance(1.5), Guidance(3), Guidance(6, rescale=0.7)]
    requests = []
    for number in range(count):
        sampler, steps, guidance = draw.choice(SAMPLERS), draw.randint(6, 30), draw.choice(guidances)
        name = f"request {number} ({sampler}, {steps} steps)"
        requests.append(Request(name, sampler, steps, draw.getrandbits(32), draw.randrange(10) if guidance else None, guidance))
    return requests


def differing(alone: dict[str, Any], pictures: dict[str, Any]) -> list[str]:
    """The names of the requests whose pictures differ from the same request run alone, in any bit."""
    return [name for name, picture in alone.items() if name not in pictures or pictures[name].tobytes() != picture.tobytes()]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serve.py", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="number of requests (200)")
    parser.add_argument("--actors", type=int, default=3, help="actors of the run in which two are killed (3)")
    parser.add_argument("--rows", type=int, default=8, help="rows of an actor's pool (8)")
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints (4)")
    parser.add_argument("--load", type=float, default=0.8, help="requests that come while one actor could serve one (0.8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests and their arrivals (0)")
    parser.add_argument(
        "--address",
        default="local",
        help="HOST:PORT of a Ray cluster; auto: the one that this machine is in; local: one of its own (local)",
    )
    given = parser.parse_args()
    for name, least in [("requests", 1), ("actors", 1), ("rows", 1), ("every", 1), ("load", 0.01)]:
        if not least <= getattr(given, name) <= 100_000:
            parser.error(f"--{name} is {getattr(given, name)}, but must be from {least:g} to 100000")
    if not re.fullmatch(r"local|auto|[^:/]+:[0-9]+", given.address):
        parser.error(f"--address is {given.address}, but must be local, auto or HOST:PORT")
    return given


def connect(given: argparse.Namespace, folder: str) -> None:
    """Joins a cluster, or starts one on this machine without dashboard, with its files in `folder`. Raises ConnectionError."""
    keywords: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if given.address == "local":
        # Otherwise Ray writes a token into the home folder, for all later clusters.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        keywords |= {"num_cpus": max(2, given.actors), "include_dashboard": False}
        keywords |= {"object_store_memory": 128 * 2**20, "_temp_dir": folder}
    else:
        host, _, port = given.address.rpartition(":")
        if host:
            # Ray would retry a wrong address for minutes.
            try:
                socket.create_connection((host, port), START_SECONDS / 10).close()
            except OSError as error:
                raise ConnectionError(f"no cluster answers at --address {given.address}: {error}") from None
        # The other machines get this folder; Ray and the wheel of diffusion_scheduling are already installed there.
        keywords["runtime_env"] = {"working_dir": str(Path(__file__).parent)}
    try:
        ray.init(given.address, **keywords)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(f"Ray can't start: {sentence(error)}") from None


def run(given: argparse.Namespace, folder: str) -> int:
    draw, model = random.Random(given.seed), DigitNetwork.of_the_demo()
    requests = draw_requests(given.requests, draw)
    began = time.monotonic()
    runs = {request.name: run_alone(model, request) for request in requests}
    seconds = time.monotonic() - began
    alone, steps = {name: picture for name, (picture, _) in runs.items()}, sum(count for _, count in runs.values())
    print(f"{len(requests)} requests of {len({each.sampler for each in requests})} samplers take {steps} steps.")
    print(f"One loop alone: {len(requests) / seconds:.1f} requests/s, {steps / seconds:.0f} steps/s.")
    print(f"An actor has {given.rows} rows, and saves a request after every {given.every} steps.\n")

    connect(given, folder)
    outcomes = {}

    def measure(name: str, count: int, arrivals: list[float], faults: list[Any]) -> Outcome:
        actors = start_actors(count, model, given.rows, given.every)
        outcomes[name] = serve(actors, given.rows, list(zip(arrivals, requests, strict=True)), faults)
        for actor in actors:
            ray.kill(actor)
        return outcomes[name]

    # Throughput is measured with requests that arrive all at once, latency with random arrivals (Poisson).
    at_once, at_random = [0.0] * len(requests), []
    print("actors  requests/s  steps/s  rows filled  latency in ms: p50   p90   p99  at requests/s")
    for count in (1, 2):
        name = "1 actor" if count == 1 else f"{count} actors"
        full = measure(f"{name}, all requests at once", count, at_once, [])
        if not at_random:
            rate = given.load * len(requests) / full.seconds
            at_random = np.cumsum([draw.expovariate(rate) for _ in requests]).tolist()
        relaxed = measure(f"{name}, requests at random", count, at_random, [])
        latencies = 1000 * np.quantile(relaxed.latencies, [0.5, 0.9, 0.99], method="inverted_cdf")
        print(
            f"{count:6} {len(requests) / full.seconds:11.1f} {steps / full.seconds:8.0f}"
            f" {100 * full.steps / full.ticks / given.rows:10.1f} % {latencies[0]:18.0f} {latencies[1]:5.0f} {latencies[2]:5.0f}"
            f" {rate:14.1f}"
        )

    third = len(requests) // 3
    faults = [(third, "SIGKILL", lambda actor: actor.crash.remote()), (2 * third, "ray.kill", ray.kill)]
    outcome = measure(f"{given.actors} actors, two of them killed", given.actors, at_once, faults)
    print(f"\nOf {given.actors} actors, two are killed in the middle of a tick:")
    for how, begun in outcome.losses:
        print(f"{how}: {len(begun)} requests went on elsewhere, from the steps {', '.join(map(str, sorted(begun)))}.")
    print(f"{outcome.steps - steps} of {outcome.steps} steps were taken again.")
    if sizes := outcome.session_sizes:
        sample, noise = next(iter(alone.values())).nbytes, len(pickle.dumps(NoiseSource.torch_cpu(0)))
        print(f"{len(sizes)} checkpoints: sessions of {min(sizes)} to {max(sizes)} bytes, samples of {sample}, noise of {noise}.")
    if len(outcome.losses) < len(faults):
        print("The run ended before both were lost: more --requests are needed.")
        return 1
    return report(alone, outcomes)


def report(alone: dict[str, Any], outcomes: dict[str, Outcome]) -> int:
    """Prints all faults, or one line if there are none. Returns the exit status."""
    faults = []
    for name, outcome in outcomes.items():
        faults += [f"{name}: {request} was refused: {why}" for request, why in outcome.refused.items()]
        faults += [f"{name}: {request} differs from the same request run alone" for request in differing(alone, outcome.pictures)]
    print("\n".join(faults) or f"All {len(alone)} pictures of each run have the bits of the same request run alone.")
    return 1 if faults else 0


def main() -> int:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            return run(given, folder)
        except (NoActorsError, SchedulerError, RayError, ConnectionError) as error:
            print(f"serve.py: {sentence(error)}", file=sys.stderr)
            return 1
        finally:
            ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
