"""The loop: one worker thread per device that carries every accepted job to its outcome.

Read it from `Loop._turn` down: take what arrived, drop what was withdrawn or is too late, form a
batch, evaluate it once, hand out what is done. Everything a row needs between two turns lies in its
ticket and its trajectory; the loop itself remembers nothing of them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from services.core.errors import (
    AtelierError,
    Canceled,
    DeadlineExceeded,
    EngineFailure,
    OutOfDeviceMemory,
    Unavailable,
)
from services.core.job import Job
from services.core.trajectory import Result, Trajectory
from services.runtime.admission import admit
from services.runtime.batching import PREPARING, form_batch
from services.runtime.caps import Kind
from services.runtime.fairness import FairShare
from services.runtime.observer import Observer, Silence
from services.runtime.registry import LoadedModel
from services.runtime.ticket import Finished, Ticket
from services.runtime.trail import Trail, note

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
DEADLINE_FACTOR = 5.0
"""A job without a deadline is ordered as if it had one at this multiple of its solo latency."""
LEAST_DEADLINE = 0.05

_MEMORY_WORDS = ("out of memory", "failed to allocate memory", "bad allocation")


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """A look at the loop from outside.

    ``queue_seconds`` is the device time reserved for accepted work, ``accepted_seconds`` that of
    all work ever accepted; ``heartbeat_age`` the seconds since the loop last began a turn.
    """

    trajectories: int
    queue_seconds: float
    heartbeat_age: float
    evaluations: dict[str, int]
    alive: bool
    accepted_seconds: float = 0.0


class Loop:
    """Carries tickets from acceptance to outcome on one device.

    Args:
        device_lock: held during every evaluation.
        queue_seconds: most device seconds of accepted work.
        observer: told what happens.
    """

    def __init__(
        self,
        device_lock: threading.Lock,
        *,
        queue_seconds: float = 30.0,
        observer: Observer | None = None,
    ) -> None:
        self._device_lock = device_lock
        self._queue_seconds = queue_seconds
        self._observer = observer or Silence()
        self._tickets: dict[int, Ticket] = {}
        self._shares = FairShare()
        self._reserved = 0.0
        self._accepted = 0.0
        self._changed = threading.Condition()
        self._closing = False
        self._heartbeat = time.monotonic()
        self._evaluations: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="atelier-loop", daemon=True)
        self._thread.start()

    def submit(
        self,
        model: LoadedModel,
        jobs: Sequence[Job[Any]],
        watcher: Callable[[Ticket], None] | None = None,
        trail: Trail | None = None,
    ) -> list[Ticket]:
        """Accept the rows of one call, all or none; returns at once.

        Args:
            model: what the jobs are for.
            jobs: the rows.
            watcher: called in the loop's thread after each stepwise evaluation of each row. It must
                not wait: everybody's next evaluation does.
            trail: what the call goes through is noted here.

        Raises:
            QueueFull, DeadlineUnmeetable: see `admission.admit`.
            Unavailable: the loop is closing.
        """
        now = time.monotonic()
        tickets = [new_ticket(model, job, now) for job in jobs]
        if trail is not None:
            trail.planned = max(ticket.workload.evaluations for ticket in tickets)
        with self._changed:
            if self._closing:
                raise Unavailable("the replica is shutting down", retry_after=1.0)
            admit(
                tickets,
                self._tickets.values(),
                self._reserved,
                now,
                queue_seconds=self._queue_seconds,
            )
            self._shares.arrived(tickets, now)
            for ticket in tickets:
                ticket.watcher, ticket.trail = watcher, trail
                self._tickets[id(ticket)] = ticket
                self._reserved += ticket.remaining_work
                self._accepted += ticket.remaining_work
                model.live += 1
            self._observer.queued(self._reserved, len(self._tickets))
            self._changed.notify()
        return tickets

    def withdraw(self, tickets: Sequence[Ticket]) -> None:
        """Cancel tickets and wake the loop, so that their rows are free before its next turn."""
        for ticket in tickets:
            ticket.cancel()
        with self._changed:
            self._changed.notify()

    def status(self) -> LoopStatus:
        """How the loop is doing; never waits for an evaluation."""
        with self._changed:
            return LoopStatus(
                trajectories=len(self._tickets),
                queue_seconds=self._reserved,
                heartbeat_age=time.monotonic() - self._heartbeat,
                evaluations=dict(self._evaluations),
                alive=self._thread.is_alive(),
                accepted_seconds=self._accepted,
            )

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more work, finish what was accepted within the time given, fail the rest."""
        deadline = time.monotonic() + drain_seconds
        with self._changed:
            self._closing = True
            while self._tickets and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, IDLE_SECONDS))
            for ticket in self._tickets.values():
                ticket.cancel()
            self._changed.notify_all()
        self._thread.join(timeout=max(1.0, drain_seconds))

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """One evaluation, or a short wait; false when there is nothing left and never will be."""
        with self._changed:
            self._heartbeat = time.monotonic()
            if not self._tickets:
                if self._closing:
                    return False
                self._changed.wait(IDLE_SECONDS)
            tickets = list(self._tickets.values())
        now = time.monotonic()
        current = [ticket for ticket in tickets if not self._dropped(ticket, now)]
        batch = form_batch(current, now, self._shares)
        if batch:
            self._evaluate(batch)
        return True

    def _dropped(self, ticket: Ticket, now: float) -> bool:
        """Let go of a ticket that was withdrawn, or whose deadline can no longer be met."""
        if ticket.canceled:
            self._settle(ticket, Canceled("the request was withdrawn"), "canceled")
            return True
        if ticket.binding and now > ticket.deadline:
            missing = ticket.remaining_solo
            message = f"the deadline passed with about {missing:.2f} s of work left"
            self._settle(ticket, DeadlineExceeded(message), "expired")
            return True
        return False

    def _evaluate(self, batch: Sequence[Ticket]) -> None:
        """Prepare, step or decode one batch, or a slice of it; all tickets are in one stage."""
        stage, engine = batch[0].stage, batch[0].model.engine
        if stage == "prepare":
            self._guarded(batch, lambda part: self._prepare(engine.prepare, part))
        elif stage == "step":
            self._guarded(batch, lambda part: engine.step(_trajectories(part)))
        elif stage == "slice":
            self._guarded(batch, lambda part: engine.decode_slice(_trajectories(part)))
        else:
            self._guarded(batch, lambda part: self._decode(engine.decode, part))

    def _prepare(
        self, prepare: Callable[[Sequence[Job[Any]]], list[Trajectory]], batch: Sequence[Ticket]
    ) -> None:
        pairs = list(zip(batch, prepare([t.job for t in batch]), strict=True))
        for ticket, trajectory in pairs:
            ticket.trajectory = trajectory

    def _decode(
        self, decode: Callable[[Sequence[Trajectory]], list[Result]], batch: Sequence[Ticket]
    ) -> None:
        started = time.monotonic()
        pairs = list(zip(batch, decode(_trajectories(batch)), strict=True))
        now = time.monotonic()
        note(batch, [1] * len(batch), "decode", started, now)
        for ticket, result in pairs:
            ticket.touched = now
            ticket.decode_seconds += now - started
            ticket.device_seconds += (now - started) / len(batch)
            finished = Finished(result, ticket.timings(now), ticket.device_seconds)
            self._settle(ticket, finished, "succeeded")

    def _guarded(
        self, batch: Sequence[Ticket], evaluate: Callable[[Sequence[Ticket]], object]
    ) -> None:
        """Evaluate a batch so that one row's fault stays its own.

        Out of memory: both halves are tried apart and the cap is lowered. Any other fault: every
        row is tried alone, and only those that fail again are told.
        """
        try:
            self._timed(batch, evaluate)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises must end with its row
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            if _is_out_of_memory(error):
                middle = len(batch) // 2
                batch[0].model.caps.lower(_kind(batch[0]), _rows(batch[:middle]))
                parts = [batch[:middle], batch[middle:]]
            else:
                log.warning("a batch of %d failed, retrying row by row: %s", len(batch), error)
                parts = [[ticket] for ticket in batch]
            for part in parts:
                self._guarded(part, evaluate)

    def _timed(
        self, batch: Sequence[Ticket], evaluate: Callable[[Sequence[Ticket]], object]
    ) -> None:
        lead = batch[0]
        stage, key, model, rows = lead.stage, lead.key, lead.model, _rows(batch)
        kind = _kind(lead)
        rows_each = [1 if stage == "prepare" else ticket.rows for ticket in batch]
        with self._device_lock:
            started = time.monotonic()
            evaluate(batch)
            ended = time.monotonic()
        seconds = ended - started
        model.caps.fitted(kind, rows)
        shares = [seconds * own / rows for own in rows_each]
        self._shares.served(batch, shares)
        if stage != "decode":  # noted before its outcome was told
            note(batch, rows_each, "decode" if stage == "slice" else stage, started, ended)
        for ticket, share in zip(batch, shares, strict=True):
            ticket.touched = ended
            if stage != "decode":  # it has its outcome, with its share of the decoding
                ticket.device_seconds += share
            if stage == "prepare":
                ticket.prepare_seconds += seconds
            elif stage == "step":
                ticket.step_seconds += seconds
            elif stage == "slice":
                ticket.decode_seconds += seconds
        with self._changed:
            self._evaluations[f"{model.id}/{stage}"] += 1
            if stage == "step":
                self._reserved -= sum(ticket.step_work for ticket in batch)
            elif stage == "slice":
                self._reserved -= sum(ticket.slice_work for ticket in batch)
        limit = rows
        if stage != "prepare":
            curve = model.costs.curve(stage, key)
            curve.observe(rows, seconds)
            limit = curve.knee()
        shown = "decode" if stage == "slice" else stage
        self._observer.evaluated(model.id, shown, rows, max(rows, limit), seconds)
        if stage == "prepare":
            self._observer.counted(model.id, model.engine.counts())
        if stage == "step":
            _tell_watchers(batch)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if isinstance(error, AtelierError):
            self._settle(ticket, error, "failed")
            return
        log.error("job %s failed", ticket.job.id, exc_info=error)
        if _is_out_of_memory(error):
            message = "a single image of this request does not fit into the device's memory"
            self._settle(ticket, OutOfDeviceMemory(message), "failed")
            return
        self._settle(ticket, EngineFailure("the model failed on this request"), "failed")

    def _settle(self, ticket: Ticket, outcome: Finished | AtelierError, label: str) -> None:
        """Give a ticket its outcome; from here on the loop does not know it any more."""
        with self._changed:
            del self._tickets[id(ticket)]
            ticket.model.live -= 1
            self._shares.left(ticket, time.monotonic())
            self._reserved = self._reserved - ticket.remaining_work if self._tickets else 0.0
            self._observer.queued(self._reserved, len(self._tickets))
            self._changed.notify_all()
        self._observer.finished(ticket, label)
        if isinstance(outcome, Finished):
            self._observer.answered(ticket.model.id, outcome.result.values)
        ticket.trajectory = None
        if not ticket.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, AtelierError):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)


def new_ticket(model: LoadedModel, job: Job[Any], now: float) -> Ticket:
    """A job as the loop takes it up, with what it will cost by the model's curves."""
    load, curve = model.engine.workload(job), model.costs.curve
    step, decode = curve("step", load.step), curve("decode", load.decode)
    part = curve("slice", load.decode) if load.slices else None
    ticket = Ticket(
        job=job,
        model=model,
        workload=load,
        submitted=now,
        deadline=math.inf if job.deadline is None else job.deadline,
        binding=job.deadline is not None,
        step_work=step.row_seconds() * load.rows,
        decode_work=decode.row_seconds(),
        step_solo=step.seconds(load.rows),
        decode_solo=decode.seconds(1),
        slice_work=part.row_seconds() if part else 0.0,
        slice_solo=part.seconds(1) if part else 0.0,
        touched=now,
    )
    if not ticket.binding:
        ticket.deadline = now + max(LEAST_DEADLINE, DEADLINE_FACTOR * ticket.remaining_solo)
    return ticket


def _trajectories(batch: Sequence[Ticket]) -> list[Trajectory]:
    found = [ticket.trajectory for ticket in batch]
    return [trajectory for trajectory in found if trajectory is not None]


def _tell_watchers(batch: Sequence[Ticket]) -> None:
    for ticket in batch:
        if ticket.watcher is None or ticket.canceled:
            continue
        try:
            ticket.watcher(ticket)
        except Exception:  # a look at the work must not end the work
            log.exception("the watcher of job %s failed; it is told no more", ticket.job.id)
            ticket.watcher = None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)


def _kind(lead: Ticket) -> Kind:
    """What a memory cap is known by."""
    return PREPARING if lead.stage == "prepare" else (lead.stage, lead.key)


def _rows(batch: Sequence[Ticket]) -> int:
    return len(batch) if batch[0].stage == "prepare" else sum(t.rows for t in batch)
