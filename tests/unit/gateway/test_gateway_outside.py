"""What a request could make the service reach, and by which names the service is reached."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from services.gateway.hosts import check_host, host_in
from services.gateway.key_store import KeyStore
from services.gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import ScriptedBackend, picture

HERE = {"fetch_urls": True, "fetch_private": True}


class Site(HTTPServer):
    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Page)

    def url(self, path: str = "/a.png") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = picture() if self.path.endswith(".png") else b"secret"
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *told: Any) -> None:
        """Says nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def edit(client: TestClient, **images: Any) -> Any:
    body = {"model": "shapes-ldm", "operation": "variation", "prompt": "a", **images}
    return client.post("/v1/edit", json=body)


def test_no_url_is_fetched_unless_the_operator_says_so(client: TestClient, site: Site) -> None:
    answer = edit(client, image=site.url())
    assert answer.status_code == 422
    assert "URLs are not fetched" in answer.json()["error"]["message"]
    assert site.asked == []


def test_images_are_fetched_wherever_they_are_named(
    connect: Callable[..., TestClient], backend: ScriptedBackend, site: Site
) -> None:
    client = connect(**HERE)
    whole = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    answer = edit(client, images=[site.url("/1.png"), whole, site.url("/2.png")], mask=site.url())
    assert answer.status_code == 200, answer.text
    assert sorted(site.asked) == ["/1.png", "/2.png", "/a.png"]
    (call,) = backend.calls
    assert [*call.images, call.mask] == [picture()] * 4


@pytest.mark.parametrize(
    ("settings", "path", "count", "status"),
    [
        (HERE, "/secret", 1, 415),
        ({**HERE, "max_image_bytes": 10}, "/a.png", 1, 413),
        ({**HERE, "max_input_images": 1}, "/a.png", 2, 413),
        ({"fetch_urls": True}, "/a.png", 1, 422),
    ],
)
def test_what_is_fetched_is_checked_as_what_is_sent(
    connect: Callable[..., TestClient],
    site: Site,
    settings: dict[str, Any],
    path: str,
    count: int,
    status: int,
) -> None:
    answer = edit(connect(**settings), images=[site.url(path)] * count)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/a.png", "https://169.254.169.254/latest/meta-data"]
)
def test_what_only_this_machine_can_reach_is_not_fetched(
    connect: Callable[..., TestClient], url: str
) -> None:
    answer = edit(connect(fetch_urls=True), image=url)
    assert answer.status_code == 422
    assert "public internet" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7", "atelier",
     "a.localhost", "shop.example", "SHOP.example.:80"],
)  # fmt: skip
def test_names_that_are_ours(host: str) -> None:
    check_host(host, GatewaySettings(allowed_hosts=("shop.example",)))


FORGED = {"host": "rebound.attacker.example:8000"}


def test_a_strangers_name_is_refused_where_nobody_is_asked_for_a_key(client: TestClient) -> None:
    refused = client.get("/v1/models", headers=FORGED)
    assert refused.status_code == 403
    assert "ATELIER_ALLOWED_HOSTS" in refused.json()["error"]["message"]


def test_it_is_not_where_something_in_front_checks(connect: Callable[..., TestClient]) -> None:
    answer = connect(allow_public_bind=True).get("/v1/models", headers=FORGED)
    assert answer.status_code == 200


def test_nor_where_there_is_a_key(connect: Callable[..., TestClient], tmp_path: Path) -> None:
    key = KeyStore(tmp_path / "keys.json").create("shop").text
    headers = {**FORGED, "authorization": f"Bearer {key}"}
    answer = connect(key_file=tmp_path / "keys.json").get("/v1/models", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("header", "host"),
    [("", ""), ("a:1", "a"), ("[::1]", "::1"), ("[::1]:5", "::1"), ("A.Example.", "a.example")],
)
def test_the_host_in_a_header(header: str, host: str) -> None:
    assert host_in(header) == host
