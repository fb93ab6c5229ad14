"""What `atelier serve` sets before Ray is imported."""

from __future__ import annotations

import socket
from pathlib import Path

from services.serving.environment import OWN_PORTS, PORTS, free_ports, prepare


def test_ports_are_free_and_not_where_connections_or_ray_take_theirs() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(19_999 < port < 30_000 for port in found)
    for port in found:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_somebody_listens_on_is_not_offered() -> None:
    taken = free_ports(1)[0]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        assert taken not in free_ports(len(OWN_PORTS) // 2)


def test_what_the_operator_has_set_stays(tmp_path: Path) -> None:
    environment = {PORTS[0]: "9101", "RAY_SERVE_HAPROXY_RETRIES": "3"}
    prepare(environment, tmp_path)
    assert environment[PORTS[0]] == "9101"
    assert environment["RAY_SERVE_HAPROXY_RETRIES"] == "3"
    assert environment[PORTS[1]] != environment[PORTS[2]]
