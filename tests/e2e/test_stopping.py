"""A server that is told to stop finishes what it has accepted, and leaves nothing behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.e2e.asks import shown
from tests.e2e.running import Server, until

WORK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 300, "n": 2}


def test_work_under_way_is_answered_before_the_process_ends_and_nothing_is_left(server: Server):
    before = shown(server.post("/v1/generate", WORK).raise_for_status().json())
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(server.post, "/v1/generate", WORK)
        until(lambda: server.trajectories() == WORK["n"], "the request is under way")
        server.tell_to_stop()
        answer = sent.result()
        assert server.process.poll() is None
    assert shown(answer.raise_for_status().json()) == before
    assert server.wait() == 0
    assert server.left_behind() == []
