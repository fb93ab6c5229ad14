"""What a server that does nothing costs."""

from __future__ import annotations

import pytest

from tests.e2e.running import Server

LIMIT_BYTES = 2 << 30
READY_SECONDS = 120.0
"""On a machine that others use too; alone it takes a third of a minute."""


@pytest.mark.parametrize("server", ["fused"], indirect=True)
def test_a_warm_idle_server_holds_less_than_two_gigabytes(server: Server):
    assert set(server.get("/v1/status")["pools"][0]["loaded"]) >= {"shapes-ldm", "shapes-vae"}
    held = {f"{p.id} {p.title[:60]}": p.memory for p in server.processes()}
    assert len(held) > 3
    assert 0 < sum(held.values()) < LIMIT_BYTES, held


@pytest.mark.parametrize("server", ["fused"], indirect=True)
def test_a_server_is_ready_soon(server: Server):
    assert server.ready_seconds < READY_SECONDS
