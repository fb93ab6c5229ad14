"""A node of somebody else's cluster has what `atelier serve` gives its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.core.errors import InvalidParameter
from services.serving import haproxy
from services.serving.cluster_node import (
    START_VARIABLE,
    command_of,
    fresh_metrics_folder,
    prepare_node,
    run_until_told,
)
from services.serving.edge import EDGE_PATH, EDGE_VARIABLE
from services.serving.environment import free_ports
from services.serving.haproxy import outage_page
from services.serving.replica_port import LOCAL_VARIABLE

RAYS_CONFIG = """\
defaults
    option splice-request
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""


def test_the_switches_are_those_of_our_own_but_for_one_machine(tmp_path: Path) -> None:
    environment = {"RAY_SERVE_HAPROXY_RETRIES": "3"}
    prepare_node(environment, tmp_path)
    assert environment[EDGE_VARIABLE] == EDGE_PATH
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_SERVE_HAPROXY_RETRIES"] == "3"
    assert LOCAL_VARIABLE not in environment


@pytest.mark.skipif(not haproxy.is_there(), reason="there is no HAProxy for this platform")
def test_haproxy_listens_for_clients_alone_and_explains_an_outage(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    prepare_node(environment, tmp_path, body_seconds=12)
    program = Path(environment[haproxy.BINARY_VARIABLE])
    # All of it but the last line, which becomes HAProxy.
    *script, last = program.read_text().rstrip().splitlines()
    assert last.startswith("exec ")
    program.write_text("\n".join(script) + "\n")
    folder = tmp_path / "rays own"
    folder.mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(RAYS_CONFIG.format(folder=folder))
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
    subprocess.run([program, "-f", config], check=True)
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 0.0.0.0:8000",
        "bind 127.0.0.1:8404",
    ]
    assert "timeout http-request 12s" in lines
    page = (folder / "500.http").read_bytes().decode()
    assert page == outage_page()
    head, body = page.split("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head
    assert json.loads(body)["error"]["code"] == "unavailable"


def test_series_of_an_earlier_container_are_gone(tmp_path: Path) -> None:
    old = fresh_metrics_folder(tmp_path) / "gauge_livesum_7.db"
    old.write_bytes(b"x")
    assert list(fresh_metrics_folder(tmp_path).iterdir()) == []


def test_kuberays_own_command_is_run_by_a_shell_as_it_was_written() -> None:
    start = """echo --resources='{"tpu": 1}' "$HOME" """
    command = command_of([], {START_VARIABLE: start})
    said = subprocess.run(command, env={"HOME": "/x"}, capture_output=True, check=True, text=True)
    assert said.stdout == '--resources={"tpu": 1} /x\n'
    assert command_of(["ray", "start"], {START_VARIABLE: start}) == ["ray", "start"]
    with pytest.raises(InvalidParameter, match="ray start"):
        command_of([], {})


def test_a_command_that_fails_is_told_of() -> None:
    assert run_until_told([sys.executable, "-c", "raise SystemExit(3)"]) == 3


TELLS_ITS_PARENT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_command_is_told_to_stop_and_its_status_kept() -> None:
    child = [sys.executable, "-c", TELLS_ITS_PARENT]
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    assert run_until_told(child) == 7
    assert signal.getsignal(signal.SIGTERM) == before


WRITER = """
from prometheus_client import Counter, Gauge
Counter("atelier_images", "x", ["model", "task"]).labels("m", "generate").inc(3)
Gauge("atelier_trajectories", "x", ["state"], multiprocess_mode="livesum").labels("accepted").set(2)
"""

NODE = """
import os, subprocess, sys, urllib.request
writer, metrics = sys.argv[1:3]
env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": sys.argv[3]}
subprocess.run([sys.executable, "-c", writer], env=env, check=True)
sys.stdout.write(urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode())
"""


@pytest.mark.slow
def test_a_node_shows_what_its_processes_count(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    state = tmp_path / "s"
    said = subprocess.run(
        [
            *(sys.executable, "-m", "services.serving.cluster_node"),
            *("--state", str(state), "--metrics-port", str(port), "--"),
            *(sys.executable, "-c", NODE, WRITER, str(port), str(state / "metrics")),
        ],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": ""},
    )
    assert 'atelier_images_total{model="m",task="generate"} 3.0' in said.stdout
    # What a process measured of itself went with it.
    assert "atelier_trajectories{" not in said.stdout
