"""Likelihood by the probability-flow ODE over HTTP, for which gradients are opened on first use."""

from __future__ import annotations

import base64
import math
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.asks import png, shown
from tests.e2e.running import REQUEST_SECONDS, Server, until

pytestmark = pytest.mark.timeout(
    600
)  # gradients are opened, and their threads chosen, on first use

SIDE = 32
IMAGE = base64.b64encode(png(5, SIDE)).decode()
ODE = {"model": "shapes-ldm", "image": IMAGE, "method": "ode", "seed": 3, "probes": 2}
FIXED = {**ODE, "steps": 4}
OTHER = {"model": "shapes-ldm", "prompt": "a red star", "seed": 3, "steps": 12, "n": 2}


def test_an_estimate_is_the_same_alone_and_among_others(server: Server):
    def other() -> list[object]:
        return [*shown(server.post("/v1/generate", OTHER).raise_for_status().json())]

    def estimate() -> httpx.Response:
        """Asks again where the queue is full, which it soon is on a slow machine."""

        def taken() -> httpx.Response | None:
            answer = server.post("/v1/likelihood", FIXED)
            return None if answer.status_code == httpx.codes.TOO_MANY_REQUESTS else answer

        found: httpx.Response = until(taken, "the request is taken", REQUEST_SECONDS)
        return found

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(other) for _ in range(4)]
        among = [pool.submit(estimate) for _ in range(2)]
        first, second = (one.result().raise_for_status().json()["data"] for one in among)
        assert others[0].result() == others[-1].result()
    assert first == second == server.post("/v1/likelihood", FIXED).json()["data"]
    (found,) = first
    assert found["kind"] == "estimate"
    assert found["samples"] == 2
    assert math.isfinite(found["log_likelihood"])
    assert found["std_error"] > 0
    assert sum(found["terms"].values()) == pytest.approx(found["log_likelihood"], abs=1e-3)
    dims = 3 * SIDE * SIDE
    assert found["bits_per_dim"] == pytest.approx(-found["log_likelihood"] / math.log(2) / dims)


def test_solvers_agree_on_the_same_ode(server: Server):
    adaptive = {**ODE, "solver": "dopri5", "tolerance": 0.01}
    fixed = {**ODE, "steps": 24}
    bound = {"model": "shapes-ldm", "image": IMAGE, "samples": 4, "seed": 3}
    answers = [server.post("/v1/likelihood", body) for body in (adaptive, fixed, bound)]
    (one,), (two,), (below,) = (answer.raise_for_status().json()["data"] for answer in answers)
    assert one["log_likelihood"] == pytest.approx(two["log_likelihood"], rel=0.01)
    assert below["kind"] == "lower_bound"
    assert below["terms"]["entropy"] == one["terms"]["entropy"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({**FIXED, "samples": 2}, 422, None),
        ({**FIXED, "solver": "euler"}, 422, "solver"),
        ({**FIXED, "probes": 65}, 422, "probes"),
        ({**FIXED, "deadline": 0.001}, 504, None),
        ({"model": "shapes-vae", "image": IMAGE, "method": "ode"}, 422, "method"),
    ],
)
def test_what_cannot_be_is_refused(
    server: Server, body: dict[str, object], status: int, param: str | None
):
    answer = server.post("/v1/likelihood", body)
    assert answer.status_code == status, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param
