"""How many threads a network on onnxruntime is worth, found by a short trial on this machine.

More threads than a network can use make it slower, and each takes a core from somebody else. Which
number is best depends on the network and on the machine, so it is measured: the most that the
process may use against half of it, and so on down for as long as fewer are no slower. Only numbers
under which every output is bitwise the same may win, so that the choice is never seen in an image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from services.core.cores import bound_cores

TRIAL_ROWS = 8
TRIAL_RUNS = 12
LEAST_RUNS = 3
TRIAL_SECONDS = 0.4
"""Of each comparison of two numbers; a slow network is run `LEAST_RUNS` times nevertheless."""
WORTH_A_THREAD = 0.95
"""More threads are taken when they bring the time below this share of what fewer take."""
BUSY_SHARE = 0.1
"""The machine is called busy when others used more than this share of our cores meanwhile."""
STATISTICS = Path("/proc/stat")


class Runnable(Protocol):
    """What is timed: an opened network."""

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Evaluate a batch."""
        ...

    def random_rows(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """Inputs that it takes."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        seconds: of a batch, by number of threads, the least of several runs.
        quiet: whether the cores were ours meanwhile. What was measured on a busy machine is good
            enough to go on with, and not to be remembered.
    """

    seconds: Mapping[int, float]
    quiet: bool

    @property
    def best(self) -> int:
        """The fewest threads that as many again would not make clearly faster."""
        counts = sorted(self.seconds, reverse=True)
        best = counts[0]
        for fewer in counts[1:]:
            if self.seconds[best] <= WORTH_A_THREAD * self.seconds[fewer]:
                break
            best = fewer
        return best


def try_threads(open_with: Callable[[int], Runnable], most: int) -> Trial:
    """Time a network with ``most`` threads, half of them, and so on while that is no slower.

    Two networks are open at a time.

    Args:
        open_with: opens the network with a number of threads.
        most: the number that is taken unless fewer are as good; at least 1.
    """
    busy = _Others()
    network = open_with(most)
    rows = network.random_rows(TRIAL_ROWS)
    expected = network(**rows)
    seconds: dict[int, float] = {}
    threads = most
    while threads > 1:
        fewer = open_with(threads // 2)
        if not _equal(fewer(**rows), expected):
            break
        more_seconds, fewer_seconds = _in_turn(network, fewer, rows)
        seconds[threads] = min(more_seconds, seconds.get(threads, more_seconds))
        seconds[threads // 2] = fewer_seconds
        if seconds[threads] <= WORTH_A_THREAD * fewer_seconds:
            break
        network, threads = fewer, threads // 2
    return Trial(seconds or {most: 0.0}, quiet=busy.share() <= BUSY_SHARE)


def _in_turn(one: Runnable, other: Runnable, rows: Mapping[str, Tensor]) -> tuple[float, float]:
    """Least seconds of each, run in turn, so that what else the machine does falls on both."""
    times: tuple[list[float], list[float]] = ([], [])
    ended = time.perf_counter() + TRIAL_SECONDS
    while len(times[0]) < LEAST_RUNS or (
        len(times[0]) < TRIAL_RUNS and time.perf_counter() < ended
    ):
        for network, found in zip((one, other), times, strict=True):
            started = time.perf_counter()
            network(**rows)
            found.append(time.perf_counter() - started)
    return min(times[0]), min(times[1])


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class _Others:
    """How much of our cores other processes used since this was made."""

    def __init__(self) -> None:
        self._began = _processor_seconds()
        self._ours = time.process_time()
        self._wall = time.perf_counter()

    def share(self) -> float:
        """From 0 to 1; 0 where the system does not say."""
        began, now = self._began, _processor_seconds()
        wall = time.perf_counter() - self._wall
        if began is None or now is None or wall <= 0:
            return 0.0
        others = (now - began) - (time.process_time() - self._ours)
        return min(1.0, max(0.0, others / (wall * len(bound_cores()))))


def _processor_seconds(path: Path = STATISTICS) -> float | None:
    """Seconds that the cores we are bound to have worked, for whomever; ``None`` if not told."""
    wanted = {f"cpu{core}" for core in bound_cores()}
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    busy = 0
    for fields in lines:
        if fields and fields[0] in wanted:
            user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
            busy += user + nice + system + interrupts + soft + stolen
    return busy / os.sysconf("SC_CLK_TCK") if busy else None
