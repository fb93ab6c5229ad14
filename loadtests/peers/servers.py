"""The servers that are measured side by side, how each is started, and what is sent to it.

``python -m loadtests.peers.servers [NAME ...]`` asks each for one image.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from loadtests.peers.environment import is_installed, python_of
from loadtests.peers.work import DIFFUSION, MODEL_VARIABLE, batching
from loadtests.service import ROOT, running, serving, wait_until_ready
from loadtests.traffic import mixed
from services.serving.environment import free_ports
from services.serving.local import cores

PEERS = ROOT / "loadtests" / "peers"
EMBEDDED = ROOT / "deploy" / "serve.yaml"
IN_MLSERVER = "pipeline"
INFER = f"/v2/models/{IN_MLSERVER}/infer"

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
def _fastapi(model: str) -> Iterator[str]:
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "loadtests.peers.fastapi_server", str(port)]
    with running(command, {MODEL_VARIABLE: model}):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/readyz")
        yield address


@contextmanager
def _litserve(model: str) -> Iterator[str]:
    port = free_ports(1)[0]
    command = [str(python_of("litserve")), "-m", "loadtests.peers.litserve_server", str(port)]
    with running(command, {MODEL_VARIABLE: model}):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/health")
        yield address


@contextmanager
def _bentoml(model: str) -> Iterator[str]:
    port = free_ports(1)[0]
    command = [
        str(python_of("bentoml")), "-m", "bentoml", "serve",
        "loadtests.peers.bentoml_server:BatchedPipeline",
        "--working-dir", str(ROOT), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with running(command, {MODEL_VARIABLE: model}):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/readyz")
        yield address


@contextmanager
def _mlserver(model: str) -> Iterator[str]:
    port, grpc = free_ports(2)
    with TemporaryDirectory() as folder, _environment({MODEL_VARIABLE: model}):
        most, wait = batching()
        described = {
            "name": IN_MLSERVER,
            "implementation": "loadtests.peers.mlserver_server.BatchedPipeline",
            "max_batch_size": most,
            "max_batch_time": wait,
        }
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": grpc,
            "metrics_endpoint": None,
            "environments_dir": folder,
            "parallel_workers": 1,
            "debug": False,
            "gzip_enabled": False,
        }
        Path(folder, "model-settings.json").write_text(json.dumps(described), encoding="utf-8")
        Path(folder, "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        command = [str(python_of("mlserver").with_name("mlserver")), "start", folder]
        with running(command):
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(f"{address}/v2/models/{IN_MLSERVER}/ready")
            yield address


@contextmanager
def _replicated() -> Iterator[str]:
    """The embedded default with a gateway for each core, as plain servers have processes."""
    config = yaml.safe_load(EMBEDDED.read_text(encoding="utf-8"))
    config["applications"][0]["args"]["gateway_replicas"] = cores()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        with serving(path) as address:
            yield address


def _in_a_list(body: dict[str, Any]) -> dict[str, Any]:
    """BentoML batches lists along their first dimension."""
    return {"requests": [body]}


def _in_a_tensor(body: dict[str, Any]) -> dict[str, Any]:
    """MLServer batches tensors along their first dimension; this one holds text."""
    given = {"name": "requests", "datatype": "BYTES", "shape": [1, 1], "data": [json.dumps(body)]}
    return {"inputs": [given]}


def _config(path: Path, model: str | None = None) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def start() -> Iterator[str]:
        # Ray's processes have the environment of the one that starts them.
        with _environment({} if model is None else {MODEL_VARIABLE: model}), serving(path) as found:
            yield found

    return start


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def small_servers(model: str) -> Mapping[str, Server]:
    """All that serve one of the catalog's models of one evaluation.

    Atelier as it comes, which is one process, and with a gateway for each core.
    """
    found = {
        "atelier": Server(_config(EMBEDDED), "/v1/generate"),
        "atelier, a gateway per core": Server(_replicated, "/v1/generate"),
        "fastapi": Server(partial(_fastapi, model), "/generate"),
        "serve.batch": Server(_config(PEERS / "serve_batch.yaml", model), "/generate"),
    }
    if is_installed("litserve"):
        found["litserve"] = Server(partial(_litserve, model), "/generate")
    if is_installed("bentoml"):
        found["bentoml"] = Server(partial(_bentoml, model), "/generate", _in_a_list)
    if is_installed("mlserver"):
        found["mlserver"] = Server(partial(_mlserver, model), INFER, _in_a_tensor)
    return found


def servers() -> Mapping[str, Server]:
    """All that can be started here; those of `NAMES` once `make peers` has installed them."""
    found = {
        "atelier": Server(_config(EMBEDDED), "/v1/generate"),
        "serve.batch": Server(_config(PEERS / "serve_batch.yaml"), "/generate"),
        "diffusers": Server(_config(PEERS / "diffusers_pipeline.yaml"), "/generate"),
    }
    if is_installed("litserve"):
        found["litserve"] = Server(partial(_litserve, DIFFUSION), "/generate")
    if is_installed("bentoml"):
        found["bentoml"] = Server(partial(_bentoml, DIFFUSION), "/generate", _in_a_list)
    if is_installed("mlserver"):
        found["mlserver"] = Server(partial(_mlserver, DIFFUSION), INFER, _in_a_tensor)
    return found


def smoke(name: str) -> int:
    """Start a server, ask it for one image, and stop it: the bytes of its answer."""
    server = servers()[name]
    with server.start() as address:
        body = server.body({"model": DIFFUSION, **mixed(1, 1)[0].body()})
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
