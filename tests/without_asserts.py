"""Run under ``python -O``: every bad request of the gateway's tests is refused there too.

pytest's own asserts do nothing under -O, so this raises by itself.
"""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.errors import InvalidParameter
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings, check_bind
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

ASK = {"model": "tiny-diffusion", "seed": 1, "steps": 2}
BAD: list[tuple[str, dict[str, object], int]] = [
    ("generate", {**ASK, "model": "nobody"}, 404),
    ("generate", {**ASK, "model": "../../etc/passwd"}, 404),
    ("generate", {**ASK, "steps": 0}, 422),
    ("generate", {**ASK, "steps": 10**9}, 422),
    ("generate", {**ASK, "n": 0}, 422),
    ("generate", {**ASK, "n": 10**9}, 422),
    ("generate", {**ASK, "seed": "1"}, 422),
    ("generate", {**ASK, "guidance_scale": 1e308}, 422),
    ("generate", {**ASK, "sampler": "invented"}, 422),
    ("generate", {**ASK, "unknown": 1}, 422),
    ("generate", {**ASK, "latents": {"data": "AAAA", "shape": [1]}}, 422),
    ("edit", {**ASK, "operation": "invented"}, 422),
    ("edit", {**ASK, "operation": "variation", "images": ["AAAA"]}, 415),
    ("likelihood", {"model": "tiny-gan", "images": ["AAAA"]}, 415),
    ("likelihood", {"model": "tiny-flow", "images": []}, 422),
    ("encode", {"model": "tiny-flow"}, 422),
]


def main() -> None:
    """Ask for all of it.

    Raises:
        SystemExit: the interpreter heeds asserts, or something was not refused as it should be.
    """
    if __debug__:
        sys.exit("run this under python -O")
    backend = InProcessBackend(one_of_each(), discover())
    app = create_app(backend, GatewaySettings(), metrics=GatewayMetrics(CollectorRegistry()))
    client = TestClient(app)
    wrong = []
    for route, body, status in BAD:
        answer = client.post(f"/v1/{route}", json=body)
        if answer.status_code != status:
            wrong.append(f"{route} {body}: {answer.status_code} {answer.text[:200]}")
    good = client.post("/v1/generate", json=ASK)
    if good.status_code != 200:
        wrong.append(f"a good request: {good.status_code} {good.text[:200]}")
    try:
        check_bind(GatewaySettings(host="0.0.0.0"))  # noqa: S104 - which is refused
        wrong.append("an open service was bound to every address")
    except InvalidParameter:
        print("an open service is refused")
    backend.close()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
