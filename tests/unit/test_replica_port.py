"""The port between replicas is on the loopback wherever all of Ray is."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private import replica

from services.serving.environment import SWITCHES
from services.serving.replica_port import LOCAL_VARIABLE, stay_on_loopback


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses: list[str] = []

    def bind(server: Any, address: str) -> int:
        addresses.append(address)
        return 1

    monkeypatch.setattr(replica, "add_port_to_grpc_server", bind)
    return addresses


def test_what_would_listen_everywhere_listens_on_the_loopback(bound: list[str]) -> None:
    for _ in range(2):
        stay_on_loopback(SWITCHES)
    replica.add_port_to_grpc_server(None, "[::]:0")
    replica.add_port_to_grpc_server(None, "192.0.2.7:80")
    assert bound == ["127.0.0.1:0", "192.0.2.7:80"]


def test_a_cluster_of_several_machines_keeps_its_port(bound: list[str]) -> None:
    stay_on_loopback({LOCAL_VARIABLE: "1"})
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert bound == ["[::]:0"]


def test_an_unknown_release_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    with pytest.raises(RuntimeError, match=r"constraints\.txt"):
        stay_on_loopback(SWITCHES)
