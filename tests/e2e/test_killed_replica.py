"""``kill -9`` of the process that holds the engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.e2e.asks import shown
from tests.e2e.running import Server, until

HOLDER = {"fused": "gateway", "apart": "default"}
WORK = {"model": "shapes-ldm", "prompt": "a green ring", "steps": 100, "n": 2}
CLIENTS = 4
RECOVERY_SECONDS = 90.0


def test_a_killed_engine_costs_nobody_an_answer_and_comes_back_by_itself(
    server: Server, placement: str
):
    asks = [{**WORK, "seed": seed} for seed in range(CLIENTS)]
    before = [shown(server.post("/v1/generate", ask).raise_for_status().json()) for ask in asks]
    replica = server.replica(HOLDER[placement])
    assert replica is not None
    with ThreadPoolExecutor(CLIENTS) as crowd:
        sent = [crowd.submit(server.post, "/v1/generate", ask) for ask in asks]
        until(lambda: server.trajectories() == CLIENTS * WORK["n"], "all of them are accepted")
        replica.kill()
    for expected, answer in zip(before, (each.result() for each in sent), strict=True):
        assert answer.status_code in (200, 503)
        if answer.status_code == 200:
            assert shown(answer.json()) == expected
        else:
            assert answer.json()["error"]["code"] == "unavailable"
            assert int(answer.headers["retry-after"]) >= 1
    until(server.ready, "the service is back", RECOVERY_SECONDS)
    again = server.post("/v1/generate", asks[0])
    assert shown(again.raise_for_status().json()) == before[0]
    successor = server.replica(HOLDER[placement])
    assert successor is not None
    assert successor != replica
    assert server.trajectories() == 0
    assert server.total("atelier_trajectories") == 0
