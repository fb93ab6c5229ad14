"""What a server that does nothing costs."""

from __future__ import annotations

import pytest

from tests.e2e.running import Server

LIMIT_BYTES = 2 << 30


@pytest.mark.parametrize("server", ["fused"], indirect=True)
def test_a_warm_idle_server_holds_less_than_two_gigabytes(server: Server):
    assert set(server.get("/v1/status")["pools"][0]["loaded"]) >= {"shapes-ldm", "shapes-vae"}
    held = {f"{p.id} {p.title[:60]}": p.memory for p in server.processes()}
    assert len(held) > 3
    assert 0 < sum(held.values()) < LIMIT_BYTES, held
