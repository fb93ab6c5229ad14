"""The default config works with Ray's own command line, in a plain shell."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.asks import pixels
from tests.e2e.running import ROOT, Server, Servers, free_port

ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 4}


PATIENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""Ray kills a proxy that takes five seconds to start, as it may where other tests run beside it."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The default config, on a port that is free."""
    content = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    content["http_options"]["port"] = free_port()
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def ray_serve(config: Path, servers: Servers) -> Iterator[Server]:
    servers.close()
    port = yaml.safe_load(config.read_text())["http_options"]["port"]
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    server = Server(command, port=port, environment=PATIENT)
    yield server
    server.destroy()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; once more where Ray waits for its controller, which has ended already."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(45)
            return


def test_serve_run_takes_the_default_config(ray_serve: Server):
    answer = ray_serve.post("/v1/generate", ASK, headers={"accept": "image/png"})
    assert answer.status_code == 200
    assert pixels(answer.content).ndim == 3
    assert len(answer.headers.get_list("x-request-id")) == 1
    interrupt(ray_serve.process)
    assert ray_serve.process.returncode == 0
