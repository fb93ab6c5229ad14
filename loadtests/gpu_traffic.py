"""Mixed arrivals on one device: goodput of the step-level loop, and of whole pipeline calls.

Both sides are called in this process: what is compared is how rows share a device, not HTTP.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from loadtests.arrivals import poisson
from loadtests.gpu_models import GUIDANCE, PlainPipeline
from services.core.job import Call, Job, Task
from services.runtime.loop import Loop
from services.runtime.registry import LoadedModel

FACTOR = 5.0
SHARE = 0.99
GROWTH = 1.3
UNGUIDED_SHARE = 0.3
SEED = 11

Kind = tuple[int, bool]
"""Steps, and whether it is guided: what decides how long a request takes."""
Send = Callable[["Ask"], "Future[Any]"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an image."""

    number: int
    steps: int
    guided: bool

    @property
    def guidance(self) -> float:
        """1: none."""
        return GUIDANCE if self.guided else 1.0


@dataclass(frozen=True, slots=True)
class Rate:
    """One arrival rate: the share of requests within the objective, and latencies over it."""

    rate: float
    requests: int
    in_time: float
    p50: float
    p99: float


def mixed(count: int, steps: Sequence[int]) -> list[Ask]:
    """Requests of several step counts, most of them guided; the same for every server."""
    draw = random.Random(SEED)
    return [Ask(i, draw.choice(steps), draw.random() >= UNGUIDED_SHARE) for i in range(count)]


class OurLoop:
    """The step-level loop, as the service runs it."""

    def __init__(self, model: LoadedModel) -> None:
        """Start a loop on a lock of its own."""
        self.model = model
        self.loop = Loop(threading.Lock(), queue_seconds=1e9)

    def send(self, ask: Ask) -> Future[Any]:
        """One row; the future is done with its pixels."""
        (ticket,) = self.loop.submit(self.model, [job_of(self.model, ask)])
        return ticket.future

    def close(self) -> None:
        """Stop."""
        self.loop.close()


def job_of(model: LoadedModel, ask: Ask) -> Job[Any]:
    """One request as the engine reads it."""
    parameters = {
        "prompt": f"prompt {ask.number}",
        "steps": ask.steps,
        "guidance_scale": ask.guidance,
        "seed": ask.number,
    }
    call = Call(str(ask.number), model.id, Task.GENERATE, parameters)
    return model.engine.jobs(call)[0]


class WholeCalls:
    """Whole pipeline calls, oldest first, with all that wait and agree in steps and guidance.

    That is the most that one call of a diffusers pipeline can take together.
    """

    def __init__(self, pipeline: PlainPipeline, most: int) -> None:
        """Start a worker that takes up to ``most`` requests a call."""
        self._pipeline, self._most = pipeline, most
        self._waiting: list[tuple[Ask, Future[Any]]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._run, daemon=True)
        self._worker.start()

    def send(self, ask: Ask) -> Future[Any]:
        """One request; the future is done when its call is."""
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((ask, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Stop when nothing waits."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join()

    def _run(self) -> None:
        while batch := self._next():
            ask = batch[0][0]
            # Compiled code is for one batch size: a smaller batch is filled up.
            self._pipeline.images(self._most, ask.steps, ask.guidance, ask.number)
            for _, future in batch:
                future.set_result(None)

    def _next(self) -> list[tuple[Ask, Future[Any]]]:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._waiting:
                return []
            first = self._waiting[0][0]
            alike = [w for w in self._waiting if _kind(w[0]) == _kind(first)][: self._most]
            self._waiting = [w for w in self._waiting if w not in alike]
            return alike


def solo_seconds(send: Send, kinds: Sequence[Ask]) -> dict[Kind, float]:
    """Latency of a lone request of each kind, after one to warm up."""
    found = {}
    for ask in kinds:
        send(ask).result()
        started = time.perf_counter()
        send(ask).result()
        found[_kind(ask)] = time.perf_counter() - started
    return found


def run_rate(
    send: Send,
    rate: float,
    seconds: float,
    asks: Sequence[Ask],
    solo: dict[Kind, float],
) -> Rate:
    """Send one arrival rate's requests; latency counts from the scheduled arrival."""
    arrivals = poisson(rate, seconds, SEED)[: len(asks)] or [0.0]
    ended = [0.0] * len(arrivals)
    futures = []
    started = time.perf_counter()

    def note(place: int) -> Callable[[Future[Any]], None]:
        def done(_: Future[Any]) -> None:
            ended[place] = time.perf_counter() - started

        return done

    for place, at in enumerate(arrivals):
        time.sleep(max(0.0, started + at - time.perf_counter()))
        future = send(asks[place])
        future.add_done_callback(note(place))
        futures.append(future)
    for future in futures:
        future.result()
    shares = sorted(
        (end - at) / (FACTOR * solo[_kind(ask)])
        for end, at, ask in zip(ended, arrivals, asks, strict=False)
    )
    return Rate(
        rate=round(rate, 4),
        requests=len(shares),
        in_time=round(sum(share <= 1 for share in shares) / len(shares), 4),
        p50=round(shares[len(shares) // 2], 3),
        p99=round(shares[min(len(shares) - 1, int(SHARE * len(shares)))], 3),
    )


def goodput(
    send: Send,
    asks: Sequence[Ask],
    solo: dict[Kind, float],
    *,
    first: float,
    seconds: float,
    most_rates: int = 12,
) -> tuple[float, list[Rate]]:
    """The highest rate at which `SHARE` of the requests end within `FACTOR` times solo.

    Args:
        send: takes a request.
        asks: enough for the highest rate.
        solo: latencies by kind, the same for all servers.
        first: the rate to begin at; on from there in steps of `GROWTH`, up or down.
        seconds: of traffic at each.
        most_rates: an end to the search.

    Returns:
        The rate, 0 where none passed, and all that was tried.
    """
    tried = [run_rate(send, first, seconds, asks, solo)]
    up = tried[0].in_time >= SHARE
    best = first if up else 0.0
    while len(tried) < most_rates:
        rate = tried[-1].rate * (GROWTH if up else 1 / GROWTH)
        tried.append(run_rate(send, rate, seconds, asks, solo))
        passed = tried[-1].in_time >= SHARE
        best = rate if passed else best
        if passed != up:
            break
    return best, tried


def _kind(ask: Ask) -> Kind:
    return ask.steps, ask.guided
