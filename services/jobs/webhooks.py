"""Webhooks: whoever asked for it is told of each change of a job (standardwebhooks.com).

What is to be told is in the database before it is tried, and stays there until the receiver took
it: each event arrives at least once, with the same ``webhook-id`` however often it is tried.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from standardwebhooks import Webhook

from services.core.errors import InvalidParameter, Unavailable
from services.jobs.outgoing import Outgoing, Reply, check_target
from services.jobs.webhook_store import (
    DELIVERED,
    GIVEN_UP,
    GONE,
    PENDING,
    REFUSED,
    Delivery,
    WebhookStore,
)
from services.jobs.words import JobChange, JobStatus, WebhookTarget

EVENT_OF: Mapping[JobStatus, str] = {
    JobStatus.QUEUED: "job.queued",
    JobStatus.RUNNING: "job.started",
    JobStatus.SUCCEEDED: "job.succeeded",
    JobStatus.FAILED: "job.failed",
    JobStatus.CANCELED: "job.canceled",
}
EVENTS = tuple(EVENT_OF.values())
USUAL_EVENTS = tuple(event for status, event in EVENT_OF.items() if status.final)
"""Those that are told where a job names none."""

HTTP_GONE = 410
POLL_SECONDS = 5.0
"""How soon what another replica has left behind is noticed."""
SWEEP_SECONDS = 600.0
SLACK_SECONDS = 30.0

Describe = Callable[[str, JobChange], Mapping[str, Any]]
"""The body that tells of an event, as plain JSON; an image is named by its URL."""

_LOG = logging.getLogger(__name__)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class WebhookSettings(BaseModel):
    """How webhooks are delivered. Times are in seconds.

    Attributes:
        enabled: whether a job may name a webhook.
        allow_private: for development only: deliver also to http and to addresses that are not
            global. Whoever may submit jobs can then reach what only this machine can reach.
        timeout: for one attempt.
        max_attempts: after which an event is given up.
        first_pause: before the second attempt; each pause is three times the one before.
        longest_pause: between two attempts.
        max_body_bytes: of an event; a longer one is told without its record's result.
        concurrency: attempts at once, in each replica of the gateway.
        per_owner: attempts at once for one owner, over all replicas.
        rotation_grace: for which a secret signs on beside the one that took its place.
        keep: for which it can be asked what became of a delivery.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    allow_private: bool = False
    timeout: Annotated[float, Field(gt=0, le=60)] = 15.0
    max_attempts: Annotated[int, Field(ge=1, le=50)] = 12
    first_pause: Seconds = 5.0
    longest_pause: Seconds = 7200.0
    max_body_bytes: Annotated[int, Field(ge=1024, le=20 << 20)] = 256 << 10
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    per_owner: Annotated[int, Field(ge=1, le=256)] = 4
    rotation_grace: Annotated[float, Field(ge=0)] = 86400.0
    keep: Seconds = 7 * 86400.0


def check_webhook(target: WebhookTarget, settings: WebhookSettings) -> None:
    """Refuse a webhook that could never be delivered, before its job is accepted.

    Raises:
        InvalidParameter: webhooks are off, the URL may not be reached, or an event is not known.
    """
    if not settings.enabled:
        raise InvalidParameter("this service sends no webhooks; poll the job", param="webhook")
    check_target(target.url, allow_private=settings.allow_private, param="webhook")
    unknown = sorted(set(target.events) - set(EVENTS))
    if unknown:
        raise InvalidParameter(
            f"no such event: {unknown[0][:60]!a}; there are {', '.join(EVENTS)}",
            param="webhook",
        )


def signed_headers(delivery: Delivery, keys: Sequence[str], now: float) -> dict[str, str]:
    """The headers by which a receiver knows who sent it and when.

    Args:
        delivery: what is sent.
        keys: the owner's secrets; each adds a signature, so that a receiver who still has the old
            one is not turned away.
        now: seconds since 1970.
    """
    moment = datetime.fromtimestamp(now, UTC)
    signatures = [Webhook(key).sign(delivery.id, moment, delivery.body) for key in keys]
    return {
        "content-type": "application/json",
        "user-agent": "Atelier-Webhooks/1",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signatures),
    }


class Webhooks:
    """Hears of changes (`hear` is a listener of `Jobs.subscribe`) and delivers them.

    Args:
        store: shared by all replicas.
        settings: how often and how long.
        describe: makes the body of an event.
        now: seconds since 1970.
    """

    def __init__(
        self,
        store: WebhookStore,
        settings: WebhookSettings,
        describe: Describe,
        *,
        outgoing: Outgoing | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._store, self._describe, self._now = store, describe, now
        self._outgoing = outgoing or Outgoing(
            allow_private=settings.allow_private, seconds=settings.timeout
        )
        self._work = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    async def hear(self, change: JobChange) -> None:
        """Keep an event to be delivered, where somebody wants it; hearing it again does nothing."""
        record = change.record
        event, target = EVENT_OF[record.status], record.webhook
        if target is None or event not in (target.events or USUAL_EVENTS):
            return
        delivery = Delivery(
            id=f"msg_{change.id}",
            owner=record.owner,
            job=record.id,
            event=event,
            url=target.url,
            body=self._body(event, change),
            created=change.at,
            due=self._now(),
        )
        if await self._store.add(delivery):
            self._work.set()

    def _body(self, event: str, change: JobChange) -> str:
        body = json.dumps(self._describe(event, change), allow_nan=False)
        if len(body) <= self.settings.max_body_bytes:
            return body
        record = change.record
        known = {"id": record.id, "status": record.status.value, "truncated": True}
        moment = datetime.fromtimestamp(change.at, UTC).isoformat()
        return json.dumps({"type": event, "timestamp": moment, "data": known})

    async def secret(self, owner: str) -> str:
        """The newest secret of an owner, ``whsec_...``; made when it is first asked for.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return (await self._store.secrets(owner, self._now()))[0]

    async def rotate(self, owner: str) -> str:
        """A new secret for an owner; the one before signs beside it for a while.

        Raises:
            Unavailable: the database cannot be reached, or somebody else rotated it just now.
        """
        grace = self.settings.rotation_grace
        return (await self._store.rotate(owner, self._now(), grace=grace))[0]

    async def deliveries(self, owner: str, job: str) -> list[Delivery]:
        """What was and is to be told of a job.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return await self._store.of_job(owner, job)

    async def run(self) -> None:
        """Deliver what is due, for as long as it runs.

        What is under way when it is cancelled is tried again by another replica, or the next start.
        """
        swept = 0.0
        try:
            while True:
                self._work.clear()
                try:
                    taken = await self._take_up()
                    if self._now() - swept > SWEEP_SECONDS:
                        swept = self._now()
                        await self._store.forget(swept - self.settings.keep)
                    pause = 0.0 if taken else await self._pause()
                except Unavailable as error:
                    _LOG.warning("webhooks wait for their database: %s", error.message)
                    pause = POLL_SECONDS
                if pause:
                    await _first(self._work.wait(), pause)
        finally:
            left = list(self._under_way)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._outgoing.aclose()

    async def _take_up(self) -> int:
        """Start attempts for which there is room; says for how many."""
        room = self.settings.concurrency - len(self._under_way)
        if room <= 0:
            return 0

        token, found = await self._store.claim(
            self._now(),
            # A lease outlives its attempt, and the writing down of what came of it.
            lease=self.settings.timeout + SLACK_SECONDS,
            most=room,
            per_owner=self.settings.per_owner,
        )
        for delivery in found:
            task = asyncio.create_task(self._attempt(token, delivery))
            self._under_way.add(task)
            task.add_done_callback(self._attempted)
        return len(found)

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._work.set()
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("an attempt at a webhook broke off", exc_info=task.exception())

    async def _pause(self) -> float:
        """Seconds until there may be something to do; an event ends it sooner."""
        due = await self._store.next_due()
        if due is None:
            return POLL_SECONDS
        # What is due and could not be taken waits for an attempt to end, which is an event.
        return min(max(due - self._now(), 0.2), POLL_SECONDS)

    async def _attempt(self, token: str, delivery: Delivery) -> None:
        now = self._now()
        keys = await self._store.secrets(delivery.owner, now)
        signed = await asyncio.to_thread(signed_headers, delivery, keys, now)
        try:
            reply = await self._outgoing.post(delivery.url, delivery.body.encode(), signed)
        except InvalidParameter as error:
            await self._settle(token, delivery, REFUSED, error.message)
        except Unavailable as error:
            await self._again(token, delivery, error.message)
        else:
            await self._answered(token, delivery, reply)

    async def _answered(self, token: str, delivery: Delivery, reply: Reply) -> None:
        said = f"the receiver answered {reply.status}"
        if 200 <= reply.status < 300:
            await self._settle(token, delivery, DELIVERED, said)
        elif reply.status == HTTP_GONE:
            await self._settle(token, delivery, GONE, said)
        else:
            wait = reply.headers.get("retry-after", "")
            told = float(wait) if wait.isdecimal() and len(wait) < 9 else 0.0
            await self._again(token, delivery, said, at_least=told)

    async def _again(
        self, token: str, delivery: Delivery, said: str, *, at_least: float = 0.0
    ) -> None:
        """Try later, or give up."""
        if delivery.attempts >= self.settings.max_attempts:
            await self._settle(token, delivery, GIVEN_UP, said)
            return
        pause = max(pause_after(delivery.attempts, self.settings), at_least)
        due = self._now() + min(pause, self.settings.longest_pause)
        await self._settle(token, delivery, PENDING, said, due)

    async def _settle(
        self, token: str, delivery: Delivery, state: str, said: str, due: float | None = None
    ) -> None:
        await self._store.settle(token, delivery.id, state=state, said=said[:500], due=due)
        if state in (REFUSED, GIVEN_UP):
            _LOG.warning("webhook %s of job %s: %s (%s)", delivery.id, delivery.job, state, said)


def pause_after(attempts: int, settings: WebhookSettings) -> float:
    """Seconds before the next attempt: growing, and spread so that receivers are not flooded."""
    growing: float = settings.first_pause * 3.0 ** min(attempts - 1, 30)
    return min(growing, settings.longest_pause) * random.uniform(0.75, 1.0)  # noqa: S311 - spreads


async def _first(waiting: Any, seconds: float) -> None:
    """Await something for no longer than so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return
