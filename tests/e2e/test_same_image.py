"""The same request gives the same image, alone in this process or among others on a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from services.gateway.answers import finite
from services.serving.local import local_backend, open_store
from tests.e2e.asks import Ask, Mix, Shown, shown
from tests.e2e.running import REQUEST_SECONDS, Server

REQUESTS = 200
CLIENTS = 32


@pytest.fixture(scope="session")
def answered_alone(store: Path) -> list[tuple[Ask, list[Shown]]]:
    """A mix of requests, and what this process gives for each when it does nothing else."""
    backend = local_backend(store=open_store(str(store)))

    async def alone(ask: Ask) -> list[Shown]:
        answer = await backend.run(ask.call())
        as_sent = [json.loads(json.dumps(finite(item.values))) for item in answer.items]
        return [Shown.of(i.image, v) for i, v in zip(answer.items, as_sent, strict=True)]

    async def all_of_them() -> list[tuple[Ask, list[Shown]]]:
        return [(ask, await alone(ask)) for ask in Mix(await backend.models()).draw(REQUESTS)]

    try:
        return asyncio.run(all_of_them())
    finally:
        backend.close()


async def ask_all(url: str, asks: Sequence[Ask]) -> list[httpx.Response]:
    """The answers to many requests, sent by clients that each wait for one before the next."""
    answers: dict[int, httpx.Response] = {}
    waiting = iter(enumerate(asks))
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_SECONDS, limits=limits) as client:

        async def one_client() -> None:
            for place, ask in waiting:
                answers[place] = await client.post(ask.path, json=ask.body())

        await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return [answers[place] for place in range(len(asks))]


def test_a_request_among_two_hundred_gives_the_pixels_and_numbers_it_gives_alone(
    server: Server, answered_alone: list[tuple[Ask, list[Shown]]]
):
    asks = [ask for ask, _ in answered_alone]
    served = {model["family"] for model in server.models().values()}
    assert {server.models()[ask.model]["family"] for ask in asks} == served
    assert served >= {"gan", "vae", "flow", "diffusion"}
    answers = asyncio.run(ask_all(server.url, asks))
    failed = [
        (ask, answer.text) for ask, answer in zip(asks, answers, strict=True) if answer.is_error
    ]
    assert failed == []
    differing = [
        ask
        for (ask, alone), answer in zip(answered_alone, answers, strict=True)
        if shown(answer.json()) != alone
    ]
    assert differing == []


def test_the_requests_of_many_clients_share_evaluations(
    server: Server, answered_alone: list[tuple[Ask, list[Shown]]]
):
    asks = [ask for ask, _ in answered_alone if ask.parameters.get("steps")]
    before = (server.total("atelier_batch_rows_sum"), server.total("atelier_batch_rows_count"))
    asyncio.run(ask_all(server.url, asks))
    rows = server.total("atelier_batch_rows_sum") - before[0]
    batches = server.total("atelier_batch_rows_count") - before[1]
    assert rows / batches > 2
