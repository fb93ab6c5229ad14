"""What is changed in the configuration that Ray writes for HAProxy."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from services.serving.environment import PROXY_FOLDER, free_ports, prepare
from services.serving.haproxy import BINARY_VARIABLE, wrap
from services.serving.server import _make_session

LONGEST_SOCKET_PATH = 97
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - what is looked for, not listened on
WRITTEN_BY_RAY = """defaults
    option abortonclose
    option splice-request
    option splice-response
frontend prometheus
    bind :5001
frontend http_frontend
    bind 0.0.0.0:8000
listen stats
  bind *:5002
"""
AS_IT_SHOULD_BE = """defaults
    option abortonclose
    option http-buffer-request
    timeout http-request 30s
    option splice-response
frontend prometheus
    bind 127.0.0.1:5001
frontend http_frontend
    bind 0.0.0.0:8000
listen stats
  bind 127.0.0.1:5002
"""
NO_PATH_MATCHES = """defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend http_frontend
    bind 127.0.0.1:{port}
    {routes}
    default_backend default_backend
backend app
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path '%[path]' not found."
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The wrapper of a program that prints its arguments."""
    printer = tmp_path / "a printer"
    printer.write_text('#!/bin/sh\necho "$@"\n')
    printer.chmod(0o700)
    monkeypatch.setenv(BINARY_VARIABLE, str(printer))
    return wrap(tmp_path / "session")[BINARY_VARIABLE]


def test_requests_are_buffered_and_statistics_kept_on_this_machine(program: str, tmp_path: Path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(WRITTEN_BY_RAY)
    subprocess.run([program, "-f", config], check=True, capture_output=True)
    assert config.read_text() == AS_IT_SHOULD_BE


def test_the_world_is_let_in_by_haproxy_alone(tmp_path: Path):
    """Serve, and so every replica, is told to listen on the loopback."""
    found = wrap(tmp_path / "session", host=EVERY_ADDRESS)[BINARY_VARIABLE]
    config = tmp_path / "haproxy.cfg"
    config.write_text(WRITTEN_BY_RAY.replace(EVERY_ADDRESS, "127.0.0.1"))
    # HAProxy itself looks at it too.
    subprocess.run([found, "-c", "-f", config], check=True, capture_output=True, timeout=60)
    assert config.read_text() == AS_IT_SHOULD_BE


def test_haproxy_gets_the_arguments_that_ray_gave(program: str, tmp_path: Path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(WRITTEN_BY_RAY)
    arguments = ["-db", "-f", str(config), "-sf", "123"]
    done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.split() == arguments


def test_the_real_haproxy_takes_the_changed_configuration(tmp_path: Path):
    session = tmp_path / "session"
    environment: dict[str, str] = {}
    prepare(environment, session)
    config = tmp_path / "haproxy.cfg"
    times = "    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
    config.write_text(WRITTEN_BY_RAY.replace("defaults\n", f"defaults\n{times}"))
    checked = subprocess.run(
        [environment[BINARY_VARIABLE], "-c", "-f", config],
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(("routes", "status"), [("", 503), ("use_backend app if { path /a }", 404)])
def test_before_there_is_an_application_no_path_is_unknown(
    tmp_path: Path, routes: str, status: int
) -> None:
    """A client that is told 404 gives up; one that is told 503 comes again."""
    (port,) = free_ports(1)
    config = tmp_path / "haproxy.cfg"
    config.write_text(NO_PATH_MATCHES.format(port=port, routes=routes))
    program = wrap(tmp_path / "session", port=port)[BINARY_VARIABLE]
    with subprocess.Popen([program, "-db", "-f", config]) as process:
        try:
            answer = answered(f"http://127.0.0.1:{port}/v1/models")
        finally:
            process.kill()
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["error"]["code"] == "unavailable"
        assert int(answer.headers["retry-after"]) >= 1


def answered(url: str) -> httpx.Response:
    """The answer of a proxy that is being started."""
    end = time.monotonic() + 60.0
    while True:
        try:
            return httpx.get(url)
        except httpx.ConnectError:
            assert time.monotonic() < end, "HAProxy does not listen"
            time.sleep(0.05)


def test_sockets_have_short_names_wherever_temporary_files_lie(tmp_path: Path):
    deep = tmp_path / ("a-long-name-" * 5)
    deep.mkdir()
    session = _make_session(deep)
    try:
        environment: dict[str, str] = {}
        prepare(environment, session)
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            socket = Path(environment[name])
            assert socket.parent == session / PROXY_FOLDER
            in_a_node = socket.parent / ("n" * 56) / socket.name
            assert len(os.fspath(in_a_node)) <= LONGEST_SOCKET_PATH
    finally:
        for path in sorted(session.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        session.rmdir()
