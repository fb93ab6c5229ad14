"""How a version on trial does beside the one that is served, and what follows from it.

Every process that hands out calls counts what came of them, and writes its counts to
``trials/<name>/<trial>-<process>.json`` below the root of the store, from where any of them reads
the sum. Processes of other machines that mirror the same remote store count for themselves: any of
them may end the trial for all.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.atomic_files import write_atomic
from model_store.plain_files import read_plain
from model_store.plans import Canary, Plan
from model_store.store import Store
from services.core.errors import AtelierError, ModelError

FOLDER = "trials"
MAX_BYTES = 4096
Z95 = 1.959963984540054
"""Of a normal distribution: 95% lie within so many standard deviations."""

Tell = Callable[[dict[str, Any]], None]
Key = tuple[str, str]
"""A model's name, and which trial of it; see `trial_id`."""

log = logging.getLogger(__name__)


class Counts(BaseModel):
    """Answers and failures, of the version that is served and of the one on trial."""

    model_config = ConfigDict(extra="forbid")

    former: Annotated[int, Field(ge=0)] = 0
    former_failed: Annotated[int, Field(ge=0)] = 0
    trial: Annotated[int, Field(ge=0)] = 0
    trial_failed: Annotated[int, Field(ge=0)] = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        mine, theirs = self.model_dump(), other.model_dump()
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


def wilson(failures: int, number: int, z: float = Z95) -> tuple[float, float]:
    """Bounds of a rate of which ``failures`` of ``number`` were seen (Wilson, 1927).

    Nothing seen says nothing: then they are 0 and 1.
    """
    if number == 0:
        return 0.0, 1.0
    rate, square = failures / number, z * z
    middle = rate + square / (2 * number)
    spread = z * math.sqrt(rate * (1 - rate) / number + square / (4 * number * number))
    scale = 1 + square / number
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def verdict(canary: Canary, counts: Counts) -> tuple[str, str] | None:
    """``rolled_back`` or ``promoted`` and why, once the counts say enough."""
    if counts.trial < canary.least_samples:
        return None
    low, _ = wilson(counts.trial_failed, counts.trial)
    _, high = wilson(counts.former_failed, counts.former) if counts.former else (0.0, 0.0)
    if low > high + canary.error_margin:
        return "rolled_back", (
            f"{counts.trial_failed} of {counts.trial} requests failed on it, and "
            f"{counts.former_failed} of {counts.former} on the version before: surely more"
        )
    if canary.promote_after is not None and counts.trial >= canary.promote_after:
        return "promoted", (
            f"{counts.trial_failed} of {counts.trial} requests failed on it, and "
            f"{counts.former_failed} of {counts.former} on the version before: not surely more"
        )
    return None


def trial_id(canary: Canary) -> str:
    """Names one trial; another of the same version has another seed."""
    return f"{canary.to[:16]}-{canary.seed}"


def counted(root: Path, name: str, canary: Canary) -> Counts:
    """What all processes that share a store's folder have counted of one trial."""
    total = Counts()
    for path in (root / FOLDER / name).glob(f"{trial_id(canary)}-*.json"):
        try:
            data = read_plain(path.parent, path.name, MAX_BYTES)
            total = total.plus(Counts.model_validate_json(data))
        except (ModelError, ValidationError) as error:
            log.warning("%s is left out: %s", path.name, error)
    return total


def settle(store: Store, name: str, digest: str, state: str, reason: str) -> bool:
    """End a running trial, for every process; false where it has ended already.

    Promoting serves the version on trial to all; rolling back leaves the version before in place.

    Raises:
        Unavailable: the store is remote and cannot be reached.
        ModelNotFound, ModelError: the model or its version is gone.
    """
    ended = False

    def end(plan: Plan) -> Plan:
        nonlocal ended
        trial = plan.trial
        if trial is None or trial.to != digest:
            return plan
        ended = True
        over = trial.model_copy(update={"state": state, "reason": reason[:500]})
        return plan.model_copy(update={"canary": over})

    if state == "promoted" and (trial := store.plans.get(name).trial) and trial.to == digest:
        store.serve(name, digest)
    store.change_plan(name, end)
    return ended


class Trials:
    """The counts of this process, and the thread that shares and judges them."""

    def __init__(
        self, store: Store, *, tell: Tell = lambda event: None, period: float = 1.0
    ) -> None:
        """Begin with `start`.

        Args:
            store: where plans and counts are kept.
            tell: is told when this process has ended a trial: ``event``, ``model``, ``digest`` and
                ``reason``.
            period: seconds between two looks.
        """
        self._store, self._tell, self._period = store, tell, period
        self._own: dict[Key, Counts] = {}
        self._changed: set[Key] = set()
        self._lock = threading.Lock()
        self._process = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="atelier-trials", daemon=True)

    def start(self) -> Trials:
        """Share and judge from now on, until `close`."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Share and judge no more."""
        self._ended.set()

    def note(self, name: str, canary: Canary, *, on_trial: bool, failed: bool) -> None:
        """Count an answer or a failure; never waits."""
        key = name, trial_id(canary)
        with self._lock:
            counts = self._own.setdefault(key, Counts())
            if on_trial:
                counts.trial += 1
                counts.trial_failed += failed
            else:
                counts.former += 1
                counts.former_failed += failed
            self._changed.add(key)

    def look(self) -> None:
        """Share what was counted since the last look, and end the trials that it decides."""
        self._store.refresh()
        with self._lock:
            changed = {key: self._own[key].model_dump_json() for key in self._changed}
            self._changed.clear()
        for (name, which), text in changed.items():
            folder = self._store.user.root / FOLDER / name
            write_atomic(folder / f"{which}-{self._process}.json", text.encode())
            try:
                self._judge(name, which)
            except AtelierError as error:
                log.warning("the trial of '%s' could not be ended: %s", name, error)
                with self._lock:
                    self._changed.add((name, which))

    def _judge(self, name: str, which: str) -> None:
        trial = self._store.plans.get(name).trial
        if trial is None or trial_id(trial) != which:
            return
        digest, counts = trial.to, counted(self._store.user.root, name, trial)
        found = verdict(trial, counts)
        if found is None or not settle(self._store, name, digest, *found):
            return
        state, reason = found
        log.warning("model '%s': version %s... is %s: %s", name, digest[:12], state, reason)
        event = {"event": f"model.{state}", "model": name, "digest": digest, "reason": reason}
        self._tell(event)

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            try:
                self.look()
            except Exception:
                log.exception("what came of the trials could not be shared; trying again")
