"""The load under which things are broken, against a small server that does what it is told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from loadtests.chaos.accounting import Bounds, judge
from loadtests.chaos.load import Load
from loadtests.chaos.records import BROKEN, HUNG, TYPED, WRONG

pytestmark = pytest.mark.slow
NAME = "of-this-test"
RATE = 5.0
"""Low: on a busy machine more would pile up, since nobody waits for anybody here."""


class Service:
    """Answers as the real one does; ``mood`` is what goes wrong."""

    def __init__(self) -> None:
        self.mood, self.url = "", ""
        self.jobs: dict[str, dict[str, Any]] = {}

    def image(self, seed: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (2, 2), (seed + (self.mood == "wrong")) % 256).save(buffer, "PNG")
        return buffer.getvalue()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.mood == "broken" and request.transport is not None:
            request.transport.abort()
        if self.mood == "refusing":
            return self.refusal()
        return web.Response(body=self.image(body["seed"]), content_type="image/png")

    async def submit(self, request: web.Request) -> web.Response:
        if self.mood == "refusing":
            return self.refusal()
        body = await request.json()
        key = request.headers["idempotency-key"]
        twice = self.mood == "twice" and key not in self.jobs
        for name in [key, f"{key}-again"][: 1 + twice]:
            seed = body["request"]["seed"]
            job = {"id": f"job-{name}", "metadata": body["metadata"], "attempts": 1}
            data = [{"url": f"/image/{seed + index}"} for index in range(body["request"]["n"])]
            self.jobs[name] = {**job, "status": "succeeded", "data": data}
        return web.json_response(self.jobs[key], status=202)

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": list(self.jobs.values()), "next_cursor": None})

    async def file(self, request: web.Request) -> web.Response:
        return web.Response(body=self.image(int(request.match_info["seed"])))

    @staticmethod
    def refusal() -> web.Response:
        error = {"error": {"code": "unavailable", "message": "come again"}}
        return web.json_response(error, status=503, headers={"retry-after": "1"})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service()
    app = web.Application()
    app.router.add_post("/v1/generate", found.generate)
    app.router.add_post("/v1/jobs", found.submit)
    app.router.add_get("/v1/jobs", found.list)
    app.router.add_get("/image/{seed}", found.file)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def seen(load: Load, end: str) -> None:
    """Wait until a request has ended so, or a job was refused."""
    async with asyncio.timeout(120):
        while not any(one.end == end for one in load.written.requests):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("mood", "end", "broken"),
    [("refusing", TYPED, 0), ("broken", BROKEN, 1), ("wrong", WRONG, 1), ("twice", "answered", 1)],
)
async def test_what_goes_wrong_is_seen(service: Service, mood: str, end: str, broken: int) -> None:
    load = Load(service.url, NAME, rate=RATE)
    async with load.running():
        await seen(load, "answered")
        injected = load.now()
        service.mood = mood
        await seen(load, end)
        async with asyncio.timeout(120):
            while mood == "twice" and not any("again" in key for key in service.jobs):
                await asyncio.sleep(0.01)
        service.mood = ""
        await seen(load, "answered")
        healed = load.now()
    jobs = await load.settled()
    bounds = Bounds(failed_share=1.0)
    found = judge(
        bounds,
        load.written.requests,
        load.written.submissions,
        jobs,
        injected=injected,
        healed=healed,
    )
    assert len(found.broken_promises) == broken, found
    assert (found.lost, found.wrong_jobs, found.never_accepted) == (0, 0, 0)
    assert not any(one.end == HUNG for one in load.written.requests)
