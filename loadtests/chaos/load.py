"""Open-loop load with a memory: requests whose answers are known, and jobs whose clients insist.

A request is sent once, when it is due. A job's client sends the submission again, by the same
idempotency key, until a server says that it has it. What each of a few requests gives is asked
before anything breaks, so every image that comes later is compared with it.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from loadtests.chaos.records import (
    ANSWERED,
    BROKEN,
    HUNG,
    WRONG,
    End,
    Job,
    Request,
    Submission,
    end_of,
)

SEEDS = 4
RATE = 4.0
"""Requests per second, jobs included."""
JOB_SHARE = 0.15
HANG_SECONDS = 60.0
"""No answer for so long is none: a lone request takes a fraction of a second."""
PATIENCE_SECONDS = 180.0
"""For a job to be accepted, and again for all of them to be done."""
FINAL = frozenset({"succeeded", "failed", "canceled"})

REQUESTS: Mapping[str, dict[str, Any]] = {
    "flow": {"model": "digits-realnvp"},
    "gan": {"model": "shapes-cgan", "label": "star"},
    "diffusion": {"model": "digits-ddpm", "steps": 8},
}
JOB: Mapping[str, Any] = {"model": "digits-ddpm", "steps": 25, "n": 2}

Pixels = bytes


@dataclass
class Written:
    """What was written down so far."""

    requests: list[Request] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)


class Load:
    """Drives one server; its moments are seconds since it was made."""

    def __init__(self, url: str, name: str, *, rate: float = RATE, seed: int = 11) -> None:
        """Nothing is sent yet.

        Args:
            url: of the server.
            name: that no other load on the same server has.
            rate: requests per second in the mean, Poisson; those that submit jobs included.
            seed: of arrivals and kinds.
        """
        self.written, self._rate = Written(), rate
        self._url, self._name, self._draw = url, name, random.Random(seed)
        self._start = time.monotonic()
        self._expected: dict[tuple[str, int], Pixels] = {}
        self._expected_jobs: dict[int, list[Pixels]] = {}
        self._stopped = asyncio.Event()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send meanwhile; afterwards wait for every answer that is still due."""
        async with _session(self._url) as session:
            await self._learn(session)
            self._start = time.monotonic()
            stream = asyncio.create_task(self._send_all(session))
            try:
                yield
            finally:
                self._stopped.set()
                await stream

    def calm_for(self, seconds: float) -> bool:
        """Whether all requests that were due lately are answered, and all jobs accepted."""
        since = self.now() - seconds
        lately = [one for one in self.written.requests if one.ended >= since]
        waiting = [s for s in self.written.submissions if s.accepted is None and s.due < since]
        return bool(lately) and not any(one.failed for one in lately) and not waiting

    async def settled(self) -> list[Job]:
        """Every job of this load, once all are done or patience is at an end."""
        end = time.monotonic() + PATIENCE_SECONDS
        async with _session(self._url) as session:
            while True:
                listed = await self._list(session)
                known = {s.key for s in self.written.submissions if s.accepted is not None}
                there = {job["metadata"]["key"] for job in listed or ()}
                done = listed is not None and all(job["status"] in FINAL for job in listed)
                if (done and known <= there) or time.monotonic() > end:
                    return [await self._job(session, job) for job in listed or ()]
                await asyncio.sleep(0.5)

    async def _learn(self, session: aiohttp.ClientSession) -> None:
        """Ask what each request gives while all is well."""
        for kind, body in REQUESTS.items():
            for seed in range(SEEDS):
                self._expected[kind, seed] = await _image(session, {**body, "seed": seed})
        for seed in range(SEEDS):
            self._expected_jobs[seed] = [
                await _image(session, {**JOB, "n": 1, "seed": seed + index})
                for index in range(JOB["n"])
            ]

    async def _send_all(self, session: aiohttp.ClientSession) -> None:
        due, number = 0.0, 0
        async with asyncio.TaskGroup() as group:
            while True:
                due += self._draw.expovariate(self._rate)
                number += 1
                wait = due - self.now()
                try:
                    await asyncio.wait_for(self._stopped.wait(), max(0.0, wait))
                except TimeoutError:
                    pass
                else:
                    return
                if self._draw.random() < JOB_SHARE:
                    submission = Submission(f"{self._name}-{number}", due)
                    self.written.submissions.append(submission)
                    group.create_task(self._submit(session, submission, number % SEEDS))
                else:
                    kind = self._draw.choice(list(REQUESTS))
                    group.create_task(self._ask(session, kind, number % SEEDS, due))

    async def _ask(self, session: aiohttp.ClientSession, kind: str, seed: int, due: float) -> None:
        body = {**REQUESTS[kind], "seed": seed}
        answer = await _sent(session, "/v1/generate", body, {"accept": "image/png"})
        end, detail = answer.end, answer.detail
        if end == ANSWERED and _pixels(answer.content) != self._expected[kind, seed]:
            end, detail = WRONG, "other pixels"
        self.written.requests.append(Request(kind, due, self.now(), end, detail))

    async def _submit(
        self, session: aiohttp.ClientSession, submission: Submission, seed: int
    ) -> None:
        body = {
            "task": "generate",
            "request": {**JOB, "seed": seed},
            "metadata": {"key": submission.key, "load": self._name, "seed": str(seed)},
        }
        headers = {"idempotency-key": submission.key}
        while submission.accepted is None and self.now() < submission.due + PATIENCE_SECONDS:
            due = self.now()
            answer = await _sent(session, "/v1/jobs", body, headers)
            ended = self.now()
            submission.tries.append(Request("job", due, ended, answer.end, answer.detail))
            if answer.end == ANSWERED:
                submission.ids.add(answer.json["id"])
                submission.accepted = ended
            else:
                await asyncio.sleep(1.0)

    async def _list(self, session: aiohttp.ClientSession) -> list[dict[str, Any]] | None:
        """Every job of this load; ``None`` while the server cannot say."""
        found: list[dict[str, Any]] = []
        query = {"limit": "100"}
        while True:
            try:
                async with session.get("/v1/jobs", params=query) as answer:
                    answer.raise_for_status()
                    page = await answer.json()
            except (aiohttp.ClientError, TimeoutError):
                return None
            found += [job for job in page["data"] if job["metadata"].get("load") == self._name]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    async def _job(self, session: aiohttp.ClientSession, job: dict[str, Any]) -> Job:
        """One as it ended, its files fetched and compared."""
        right = False
        if job["status"] == "succeeded":
            images = [await _file(session, row["url"]) for row in job["data"]]
            right = images == self._expected_jobs[int(job["metadata"]["seed"])]
        return Job(job["id"], job["metadata"]["key"], job["status"], right, job["attempts"])


@dataclass(frozen=True, slots=True)
class _Answer:
    end: End
    detail: str = ""
    content: bytes = b""
    json: Any = None


def _session(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url,
        timeout=aiohttp.ClientTimeout(total=HANG_SECONDS),
        # A connection for each, as many clients have: none is kept that a dead proxy once held.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
    )


async def _sent(
    session: aiohttp.ClientSession, path: str, body: dict[str, Any], headers: dict[str, str]
) -> _Answer:
    """One request, sent once, and how it ended."""
    try:
        async with session.post(path, json=body, headers=headers) as answer:
            content = await answer.read()
            found = {name.lower(): value for name, value in answer.headers.items()}
            parsed = await answer.json() if "json" in found.get("content-type", "") else None
    except TimeoutError:
        return _Answer(HUNG, f"no answer within {HANG_SECONDS:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _Answer(BROKEN, type(error).__name__)
    if answer.ok:
        return _Answer(ANSWERED, content=content, json=parsed)
    return _Answer(*end_of(answer.status, found, parsed))


async def _image(session: aiohttp.ClientSession, body: dict[str, Any]) -> Pixels:
    """What a request gives while all is well.

    Raises:
        RuntimeError: it was not answered.
    """
    answer = await _sent(session, "/v1/generate", body, {"accept": "image/png"})
    if answer.end != ANSWERED:
        raise RuntimeError(f"before anything was broken, {body} ended {answer.detail}")
    return _pixels(answer.content)


async def _file(session: aiohttp.ClientSession, url: str) -> Pixels:
    async with session.get(url) as answer:
        answer.raise_for_status()
        return _pixels(await answer.read())


def _pixels(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image).tobytes()
