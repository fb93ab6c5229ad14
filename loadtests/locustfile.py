"""Users for locust, for people who want its page.

``pip install locust``, then ``locust -f loadtests/locustfile.py --host http://127.0.0.1:8000``.
Locust is a *closed* loop: each of its users waits for an answer before the next request, so a
server that falls behind is asked less. For latencies that hide nothing use `loadtests.open_loop`.
The kinds and weights are those of ``scenarios/mixed.yaml``.
"""

from __future__ import annotations

import random
from pathlib import Path

from locust import HttpUser, between, task

from loadtests.open_loop.scenario import Due, Scenario

MIXED = Scenario.read(Path(__file__).parent / "scenarios" / "mixed.yaml")
WEIGHTS = [kind.weight for kind in MIXED.mix]


class Product(HttpUser):
    """A product team's traffic."""

    wait_time = between(0.1, 1.0)

    @task
    def ask(self) -> None:
        """One request of the mix."""
        draw = random.Random()  # every user asks for something else
        (kind,) = draw.choices(MIXED.mix, WEIGHTS)
        body = Due.of(0.0, kind, draw).body
        headers = {"content-type": "application/json", **kind.headers}
        self.client.post(kind.path, data=body, headers=headers, name=kind.name)
