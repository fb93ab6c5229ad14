"""What the tests of jobs over HTTP share: asking, and waiting for what is to come."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

PATIENCE = 60.0
GENERATE = {"model": "tiny-diffusion", "n": 2, "seed": 7, "steps": 3}
ASK = {"task": "generate", "request": GENERATE}
SMALL = 200_000
"""Bytes that one owner may keep."""
REFUSED, HELD = "volcano", "crimson"
"""What policies refuse, and what they hold."""

Headers = dict[str, str]


def submit(client: TestClient, headers: Headers, body: Any = ASK, **more: str) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=body, headers={**headers, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def finished(client: TestClient, headers: Headers, job_id: str) -> dict[str, Any]:
    return until(client, headers, job_id, lambda j: j["status"] not in ("queued", "running"))


def until(
    client: TestClient, headers: Headers, job_id: str, condition: Callable[[Any], bool]
) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while True:
        job = client.get(f"/v1/jobs/{job_id}", headers=headers).json()
        if condition(job):
            return job
        assert time.monotonic() < end, job
        time.sleep(0.05)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n", text)
    return [(name, json.loads(data)) for name, data in found]
