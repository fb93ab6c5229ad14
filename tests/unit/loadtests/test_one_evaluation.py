"""Peers of models of one evaluation, and how rates beside one another are summed up."""

from __future__ import annotations

import asyncio
import io
import itertools
import math
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from loadtests import one_evaluation as benchmark
from loadtests import pacing
from loadtests.pacing import Pace, closed_loop, open_loop, pace
from loadtests.peers import fastapi_server, servers, work
from loadtests.peers.one_evaluation import OneEvaluation

PEERS = {"fastapi": 300.0, "litserve": 400.0}


def shown(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("model", list(benchmark.REQUESTS))
def test_a_peer_makes_the_same_image_alone_and_in_a_batch(model: str) -> None:
    serving = OneEvaluation(model, threads=1)
    asked = [{**benchmark.REQUESTS[model], "seed": seed} for seed in (3, 4, 3)]
    together = [shown(data) for data in serving.generate(asked)]
    alone = shown(serving.generate(asked[1:2])[0])
    assert np.abs(together[1] - alone).max() <= 1
    assert (together[0] == together[2]).all()
    assert (together[0] != together[1]).any()
    assert together[0].std() > 10  # something is to be seen


def test_peers_serve_what_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(work.MODEL_VARIABLE, raising=False)
    diffusion = work.batching()
    assert work.served() == "shapes-ldm"
    monkeypatch.setenv(work.MODEL_VARIABLE, "digits-realnvp")
    assert isinstance(work.open_work(threads=1), OneEvaluation)
    assert work.batching().most > diffusion.most
    assert work.batching().wait_seconds < diffusion.wait_seconds


def test_the_environment_of_a_server_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_MODEL", "before")
    monkeypatch.delenv("PEER_OTHER", raising=False)
    with servers._environment({"PEER_MODEL": "within", "PEER_OTHER": "too"}):
        assert work.served() == "within"
    assert work.served() == "before"
    assert "PEER_OTHER" not in servers.os.environ


def rate(answers: float, p50: float = 0.01) -> Pace:
    return Pace(answers, p50, 2 * p50, 0)


def one_round(ours: float, drift: float) -> benchmark.Round:
    """Everything is slower by ``drift`` in this round."""
    loads = ("1 client", "16 clients")
    found = {
        name: {load: rate(each * drift) for load in loads}
        for name, each in {"atelier": ours, **PEERS}.items()
    }
    return {**found, "in process": {"1 client": rate(900 * drift, 0.007)}}


def test_ratios_are_within_a_round_and_to_the_best_peer() -> None:
    found = benchmark.summary([one_round(480, 1.0), one_round(480, 0.5), one_round(520, 2.0)])
    assert found["ratios"] == {
        "atelier over the best peer, 1 client": 1.2,
        "atelier over the best peer, 16 clients": 1.2,
    }
    assert found["added_p50_ms"] == pytest.approx(3.0)
    assert found["servers"]["litserve"]["16 clients"]["rate"] == 400


def test_a_table_shows_every_server_and_every_load() -> None:
    found = benchmark.summary([one_round(480, 1.0)])
    found["servers"]["fastapi"]["arrivals at 150%"] = {
        "rate": 0.0, "p50": None, "p99": None, "failed": 7.0
    }  # fmt: skip
    shown = benchmark.table("shapes-vae", found)
    assert shown.row_count == 4
    assert "7 failed" in list(shown.columns[-1].cells)[1]


def test_a_pace_counts_failures_and_leaves_their_latencies_out() -> None:
    assert pace([0.1, 0.3], 2.0, failed=1) == Pace(1.0, 0.2, pytest.approx(0.298), 1)
    assert math.isinf(pace([], 1.0, failed=3).p50)


async def test_a_client_sends_its_next_request_when_its_last_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(pacing, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    running = most = 0

    async def send(number: int) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number % 2 == 0

    found = await closed_loop(send, clients=3, seconds=40)
    assert most == 3
    assert found.failed > 0
    assert 0 < found.rate < 1  # every answer looks at the clock, which ticks each time


async def test_arrivals_wait_for_nobody() -> None:
    seen: list[int] = []

    async def send(number: int) -> bool:
        seen.append(number)
        return number != 1

    found = await open_loop(send, [0.0, 0.0, 0.0])
    assert sorted(seen) == [0, 1, 2]
    assert found.failed == 1


async def test_the_plain_server_answers_with_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(work.MODEL_VARIABLE, "digits-realnvp")
    fastapi_server.work.cache_clear()
    transport = httpx.ASGITransport(fastapi_server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://peer") as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        answer = await client.post("/generate", json={"model": "digits-realnvp", "seed": 1})
    fastapi_server.work.cache_clear()
    assert answer.headers["content-type"] == "image/png"
    assert shown(answer.content).shape == (8, 8)
