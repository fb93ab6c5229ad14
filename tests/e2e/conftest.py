"""Servers for the tests of promises over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store.addition import add_model
from services.serving.local import open_store
from tests.e2e.page_fixtures import axe, browser, open_page, site  # noqa: F401 - fixtures
from tests.e2e.running import ROOT, Server, Servers, atelier_serve
from tests.e2e.tool_fixtures import open_tiny, tiny  # noqa: F401 - fixtures
from tests.otlp import Collector, collector
from tests.unit.tiny_networks import CLASSES, Generator, write_model

PLACEMENTS = ("fused", "apart")
TIGHT_QUEUE_SECONDS = 2.0
GATEWAYS = 2
HELD = "ring"
RECEIVER_HERE = {"ATELIER_WEBHOOKS__ALLOW_PRIVATE": "true", "ATELIER_WEBHOOKS__FIRST_PAUSE": "0.2"}
"""Lets webhooks go to this machine, and soon again where they are refused."""

APART = [
    {
        "name": "default",
        "placement": "apart",
        "models": ["*"],
        "preload": ["shapes-ldm", "shapes-cgan", "digits-realnvp"],
        "num_cpus": 0.5,
    },
    # A pool of its own, with a queue that is soon full.
    {
        "name": "tight",
        "placement": "apart",
        "models": ["shapes-vae"],
        "preload": ["shapes-vae"],
        "queue_seconds": TIGHT_QUEUE_SECONDS,
        "num_cpus": 0.5,
    },
]


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts servers, and let the tests of one server follow one another."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=_server_of)


def _server_of(item: pytest.Item) -> int:
    """Tests without a server come first, then those of each in turn; else nothing moves."""
    name = _placement_of(item)
    return PLACEMENTS.index(name) + 1 if name else 0


def _placement_of(item: pytest.Item) -> str:
    """Which of the servers that many modules share a test asks; empty for any other."""
    called = getattr(item, "callspec", None)
    name = called.params.get("server") if called else None
    return name if name in PLACEMENTS else ""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's own models: a small generator of another framework's making."""
    root = tmp_path_factory.mktemp("store")
    labels = {"labels": [f"kind {i}" for i in range(CLASSES)]}
    generator = Generator(channels=3, height=8, width=8, label="int64")
    folder = tmp_path_factory.mktemp("stranger")
    write_model(folder, generator, options=labels, pixel_range=[-1, 1])
    add_model(open_store(str(root)), folder, name="strangers-gan")
    return root


def _config(folder: Path, **arguments: Any) -> Path:
    """The default config with some of the application's arguments changed."""
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    config["applications"][0]["args"] |= arguments
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def apart_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default config with its pools placed apart."""
    return _config(tmp_path_factory.mktemp("apart"), pools=APART)


@pytest.fixture(scope="session")
def several_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with several replicas of the gateway, and one model loaded at the start.

    It has an audit log, and a reviewer looks at what is asked for with the word `HELD`.
    """
    pools = [{**APART[0], "preload": ["shapes-ldm"], "queue_seconds": 3600.0}]
    folder = tmp_path_factory.mktemp("several")
    (folder / "held.txt").write_text(f"{HELD}\n")
    hold = {"file": str(folder / "held.txt"), "action": "hold"}
    rules = [{"name": "careful", "use": "block_list", "settings": hold}]
    gateway = {"policies": {"rules": rules}, "audit": {"enabled": True}}
    return _config(folder, pools=pools, gateway_replicas=GATEWAYS, gateway=gateway)


@pytest.fixture(scope="session")
def spans() -> Iterator[Collector]:
    """What the server of several replicas tells of its requests."""
    with collector() as found:
        yield found


@pytest.fixture(scope="session")
def servers(
    store: Path, apart_config: Path, several_config: Path, spans: Collector
) -> Iterator[Servers]:
    """The servers by placement."""
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": spans.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    found = Servers(
        {
            "fused": lambda: atelier_serve(ROOT / "deploy" / "serve.yaml", store, RECEIVER_HERE),
            "apart": lambda: atelier_serve(apart_config, store),
            "several": lambda: atelier_serve(several_config, store, traced),
        }
    )
    yield found
    found.close()


@pytest.fixture(params=PLACEMENTS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """A running server: engines in the gateway's process, or in their own."""
    return servers.running(request.param)


@pytest.fixture
def placement(request: pytest.FixtureRequest, server: Server) -> str:
    """Where the server's engines are."""
    name: str = request.node.callspec.params["server"]
    return name
