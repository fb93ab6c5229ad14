"""The servers that goodput is measured of, how each is started, and what is sent to it.

``python -m loadtests.peers.servers [NAME ...]`` asks each for one image.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtests.peers.environment import is_installed, python_of
from loadtests.service import ROOT, running, serving, wait_until_ready
from loadtests.traffic import mixed
from services.serving.environment import free_ports

PEERS = ROOT / "loadtests" / "peers"

Body = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Server:
    """One of them.

    Attributes:
        start: starts it; within the context it answers at the address given.
        path: of the route that makes an image.
        body: what its JSON body is made of a request's fields.
    """

    start: Callable[[], AbstractContextManager[str]]
    path: str
    body: Body = dict


@contextmanager
def _litserve() -> Iterator[str]:
    port = free_ports(1)[0]
    command = [str(python_of("litserve")), "-m", "loadtests.peers.litserve_server", str(port)]
    with running(command):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/health")
        yield address


@contextmanager
def _bentoml() -> Iterator[str]:
    port = free_ports(1)[0]
    command = [
        str(python_of("bentoml")), "-m", "bentoml", "serve",
        "loadtests.peers.bentoml_server:BatchedPipeline",
        "--working-dir", str(ROOT), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with running(command):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/readyz")
        yield address


def _in_a_list(body: dict[str, Any]) -> dict[str, Any]:
    """BentoML batches lists along their first dimension."""
    return {"requests": [body]}


def _config(path: Path) -> Callable[[], AbstractContextManager[str]]:
    return partial(serving, path)


def servers() -> Mapping[str, Server]:
    """All that can be started here; LitServe and BentoML once `make peers` has installed them."""
    found = {
        "atelier": Server(_config(ROOT / "deploy" / "serve.yaml"), "/v1/generate"),
        "serve.batch": Server(_config(PEERS / "serve_batch.yaml"), "/generate"),
        "diffusers": Server(_config(PEERS / "diffusers_pipeline.yaml"), "/generate"),
    }
    if is_installed("litserve"):
        found["litserve"] = Server(_litserve, "/generate")
    if is_installed("bentoml"):
        found["bentoml"] = Server(_bentoml, "/generate", _in_a_list)
    return found


def smoke(name: str) -> int:
    """Start a server, ask it for one image, and stop it: the bytes of its answer."""
    server = servers()[name]
    with server.start() as address:
        body = server.body({"model": "shapes-ldm", **mixed(1, 1)[0].body()})
        request = urllib.request.Request(  # noqa: S310 - our own server
            address + server.path,
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
            return len(answer.read())


if __name__ == "__main__":
    for wanted in sys.argv[1:] or list(servers()):
        print(f"{wanted}: {smoke(wanted)} bytes")
