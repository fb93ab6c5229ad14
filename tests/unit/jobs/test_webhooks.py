"""Webhooks: told at least once, signed, and by nobody but us; over real sockets and a real file."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.core.errors import InvalidParameter
from services.jobs.database import Database
from services.jobs.outgoing import Outgoing
from services.jobs.webhook_store import (
    DELIVERED,
    GIVEN_UP,
    GONE,
    PENDING,
    REFUSED,
    Delivery,
    WebhookStore,
)
from services.jobs.webhooks import Webhooks, WebhookSettings, check_webhook, pause_after
from services.jobs.words import JobChange, JobRecord, JobStatus, WebhookTarget

OWNER, PATIENCE = "shop", 20.0
QUICK = WebhookSettings(allow_private=True, first_pause=0.01, longest_pause=0.02, timeout=5.0)


class Receiver(ThreadingHTTPServer):
    """Answers with what ``answers`` says of a path, in turn, and then with 200."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = {}
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.held = threading.Event()
        self.held.set()
        super().__init__(("127.0.0.1", 0), _Hook)

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def on(self, path: str) -> list[tuple[dict[str, str], bytes]]:
        return [(headers, body) for where, headers, body in self.got if where == path]


class _Hook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        if self.path == "/slow":
            self.server.held.wait(PATIENCE)
        left = self.server.answers.get(self.path, [])
        self.send_response(left.pop(0) if left else 200)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *told: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.held.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WebhookStore]:
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
    await database.open()
    yield WebhookStore(database)
    await database.close()


def describe(event: str, change: JobChange) -> dict[str, Any]:
    return {"type": event, "data": {"id": change.record.id, **change.record.metadata}}


@asynccontextmanager
async def running(hooks: Webhooks) -> AsyncIterator[None]:
    task = asyncio.create_task(hooks.run())
    yield
    task.cancel()
    await asyncio.wait({task})


@asynccontextmanager
async def sending(store: WebhookStore, settings: WebhookSettings = QUICK) -> AsyncIterator[Any]:
    hooks = Webhooks(store, settings, describe)
    async with running(hooks):
        yield hooks


def change(
    url: str,
    status: JobStatus = JobStatus.SUCCEEDED,
    *,
    job: str = "job1",
    owner: str = OWNER,
    events: tuple[str, ...] = (),
) -> JobChange:
    target = WebhookTarget(url, events)
    record = JobRecord(
        id=job, owner=owner, kind="generate", model="m", status=status, version=3,
        created=1.0, expires=9e9, webhook=target,
    )  # fmt: skip
    return JobChange(f"{job}.{status.value}", time.time(), record)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def state(store: WebhookStore, job: str = "job1", owner: str = OWNER) -> list[str]:
    return [delivery.state for delivery in await store.of_job(owner, job)]


async def settled(
    store: WebhookStore, expected: str, job: str = "job1", owner: str = OWNER
) -> None:
    async with asyncio.timeout(PATIENCE):
        while await state(store, job, owner) != [expected]:
            await asyncio.sleep(0.01)


async def test_an_event_arrives_signed(store: WebhookStore, receiver: Receiver) -> None:
    async with sending(store) as hooks:
        await hooks.hear(change(receiver.url()))
        await settled(store, DELIVERED)
        secret = await hooks.secret(OWNER)
        others = await hooks.secret("other")
    ((headers, body),) = receiver.on("/")
    assert secret.startswith("whsec_")
    told = Webhook(secret).verify(body, headers)
    assert told == {"type": "job.succeeded", "data": {"id": "job1"}}
    for wrong, content in ((others, body), (secret, body.replace(b"job1", b"job2"))):
        with pytest.raises(WebhookVerificationError):
            Webhook(wrong).verify(content, headers)


async def test_one_that_fails_is_tried_again_under_the_same_id(
    store: WebhookStore, receiver: Receiver
) -> None:
    receiver.answers["/"] = [500, 302, 404, 204]
    async with sending(store) as hooks:
        await hooks.hear(change(receiver.url()))
        await settled(store, DELIVERED)
        secret = await hooks.secret(OWNER)
    assert len({headers["webhook-id"] for headers, _ in receiver.on("/")}) == 1
    assert len(receiver.on("/")) == 4
    assert not receiver.on("/elsewhere")
    for headers, body in receiver.on("/"):
        Webhook(secret).verify(body, headers)
    (delivery,) = await store.of_job(OWNER, "job1")
    assert (delivery.attempts, delivery.said) == (4, "the receiver answered 204")


async def test_what_was_accepted_outlives_its_process(
    store: WebhookStore, receiver: Receiver
) -> None:
    receiver.held.clear()
    first = Webhooks(store, QUICK, describe)
    async with running(first):
        await first.hear(change(receiver.url("/slow")))
        await until(lambda: receiver.on("/slow"))
    # As a killed process, it wrote nothing down.
    assert await state(store) == [PENDING]
    receiver.held.set()
    later = Webhooks(store, QUICK, describe, now=lambda: time.time() + QUICK.timeout + 31.0)
    async with running(later):
        await settled(store, DELIVERED)
    (one, two) = receiver.on("/slow")
    assert one[0]["webhook-id"] == two[0]["webhook-id"]


async def test_replicas_do_not_repeat_each_other(store: WebhookStore, receiver: Receiver) -> None:
    async with sending(store) as one, sending(store) as two:
        for number in range(9):
            heard = change(receiver.url(), job=f"job{number}", owner=f"owner{number % 3}")
            await asyncio.gather(one.hear(heard), two.hear(heard))
        for n in range(9):
            await settled(store, DELIVERED, f"job{n}", f"owner{n % 3}")
    ids = [headers["webhook-id"] for headers, _ in receiver.on("/")]
    assert len(ids) == len(set(ids)) == 9


async def test_a_receiver_that_is_gone_is_left_alone(
    store: WebhookStore, receiver: Receiver
) -> None:
    receiver.answers["/"] = [410]
    every = ("job.started", "job.succeeded")
    async with sending(store) as hooks:
        await hooks.hear(change(receiver.url(), JobStatus.RUNNING, events=every))
        await settled(store, GONE)
        await hooks.hear(change(receiver.url(), events=every))
        await hooks.hear(change(receiver.url(), job="job2"))
        await settled(store, DELIVERED, "job2")
    assert [json.loads(body)["data"]["id"] for _, body in receiver.on("/")] == ["job1", "job2"]


async def test_it_is_given_up_in_the_end_and_can_be_seen(
    store: WebhookStore, receiver: Receiver
) -> None:
    receiver.answers["/"] = [500] * 10
    settings = QUICK.model_copy(update={"max_attempts": 3})
    async with sending(store, settings) as hooks:
        await hooks.hear(change(receiver.url()))
        await settled(store, GIVEN_UP)
        (delivery,) = await hooks.deliveries(OWNER, "job1")
        assert await hooks.deliveries("other", "job1") == []
    assert (delivery.attempts, delivery.said) == (3, "the receiver answered 500")
    assert len(receiver.on("/")) == 3


async def test_a_private_address_is_refused_before_and_at_delivery(
    store: WebhookStore, receiver: Receiver
) -> None:
    strict = WebhookSettings(first_pause=0.01)
    for url in (receiver.url(), "https://127.0.0.1/", "https://localhost/", "https://[::1]/x"):
        with pytest.raises(InvalidParameter):
            check_webhook(WebhookTarget(url), strict)
    check_webhook(WebhookTarget("https://hooks.example/"), strict)

    async def inside(host: str, port: int) -> list[str]:
        return ["10.1.2.3"]

    hooks = Webhooks(store, strict, describe, outgoing=Outgoing(resolver=inside))
    async with running(hooks):
        await hooks.hear(change("https://hooks.example/"))
        await settled(store, REFUSED)
    assert "not global" in str((await store.of_job(OWNER, "job1"))[0].said)


async def test_only_what_was_asked_for_is_told(store: WebhookStore, receiver: Receiver) -> None:
    with pytest.raises(InvalidParameter, match=r"job\.succeeded"):
        check_webhook(WebhookTarget(receiver.url(), ("job.exploded",)), QUICK)
    async with sending(store) as hooks:
        silent = replace(change("x").record, webhook=None)
        await hooks.hear(JobChange("a", 1.0, silent))
        await hooks.hear(change(receiver.url(), JobStatus.RUNNING))
        await hooks.hear(change(receiver.url(), JobStatus.CANCELED, events=("job.failed",)))
        await hooks.hear(change(receiver.url(), JobStatus.FAILED, events=("job.failed",)))
        await settled(store, DELIVERED)
    ((_, body),) = receiver.on("/")
    assert json.loads(body)["type"] == "job.failed"


async def test_two_secrets_sign_while_one_takes_the_others_place(
    store: WebhookStore, receiver: Receiver
) -> None:
    async with sending(store) as hooks:
        old = await hooks.secret(OWNER)
        new = await hooks.rotate(OWNER)
        assert await hooks.secret(OWNER) == new != old
        await hooks.hear(change(receiver.url()))
        await settled(store, DELIVERED)
    ((headers, body),) = receiver.on("/")
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    ended = time.time() + QUICK.rotation_grace + 1
    assert await store.secrets(OWNER, ended) == [new]


async def test_a_slow_receiver_keeps_nobody_elses_waiting(
    store: WebhookStore, receiver: Receiver
) -> None:
    receiver.held.clear()
    settings = QUICK.model_copy(update={"concurrency": 3, "per_owner": 2})
    async with sending(store, settings) as hooks:
        for number in range(8):
            await hooks.hear(change(receiver.url("/slow"), job=f"slow{number}", owner="slow"))
        await until(lambda: len(receiver.on("/slow")) == 2)
        for number in range(5):
            await hooks.hear(change(receiver.url("/quick"), job=f"quick{number}", owner="quick"))
        await until(lambda: len(receiver.on("/quick")) == 5)
        assert len(receiver.on("/slow")) == 2
        receiver.held.set()
        await until(lambda: len(receiver.on("/slow")) == 8)


async def test_a_long_record_is_told_in_short(store: WebhookStore, receiver: Receiver) -> None:
    settings = QUICK.model_copy(update={"max_body_bytes": 1024})
    long = change(receiver.url())
    long = replace(long, record=replace(long.record, metadata={"note": "a" * 2000}))
    async with sending(store, settings) as hooks:
        await hooks.hear(long)
        await until(lambda: receiver.on("/"))
    ((_, body),) = receiver.on("/")
    assert json.loads(body)["data"] == {"id": "job1", "status": "succeeded", "truncated": True}


def test_pauses_grow_over_hours_and_are_bounded() -> None:
    settings = WebhookSettings()
    pauses = [pause_after(n, settings) for n in range(1, settings.max_attempts)]
    assert all(later > pause for pause, later in itertools.pairwise(pauses[:6]))
    assert max(pauses) <= settings.longest_pause
    assert sum(pauses) > 4 * 3600
    assert pause_after(10**6, settings) <= settings.longest_pause


async def test_what_is_settled_is_forgotten_in_time(store: WebhookStore) -> None:
    for name, created in (("old", 1.0), ("new", 100.0)):
        assert await store.add(
            Delivery(name, OWNER, name, "job.failed", "https://a/", "{}", created)
        )
    claim, found = await store.claim(200.0, lease=10.0, most=9, per_owner=9)
    assert len(found) == 2
    assert (await store.claim(205.0, lease=10.0, most=9, per_owner=9))[1] == []
    assert await store.settle(claim, "old", state=DELIVERED, said="")
    assert not await store.settle("another", "new", state=DELIVERED, said="")
    assert await store.forget(50.0) == 1
    assert (await state(store, "old"), await state(store, "new")) == ([], [PENDING])
    assert len((await store.claim(211.0, lease=10.0, most=9, per_owner=9))[1]) == 1
