"""Attacks of tests/ATTACKS.md on a server that listens to the world."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from services.gateway.key_store import KeyStore
from tests.e2e.asks import png
from tests.e2e.listening import answers, listening, other_address
from tests.e2e.running import ROOT, Server, free_port, until
from tests.floods import RANGES, form

ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 4}
BODY_SECONDS = 15.0
MOST_PIECES = 500
SERIES = "atelier_requests_total"


class Town:
    """A public server, and the key that opens it."""

    def __init__(self, server: Server, key: str) -> None:
        self.server = server
        self.headers = {"authorization": f"Bearer {key}"}

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.server.post(path, body, headers={**self.headers, **headers})

    def is_well(self) -> None:
        """Fails unless an ordinary request is answered as ever."""
        answer = self.post("/v1/generate", ASK)
        assert answer.status_code == 200, answer.text
        assert base64.b64decode(answer.json()["data"][0]["b64_json"])[:4] == b"\x89PNG"

    @contextlib.contextmanager
    def line(self) -> Iterator[socket.socket]:
        url = httpx.URL(self.server.url)
        with socket.create_connection((url.host, url.port), timeout=60) as found:
            yield found

    def head(self, path: str, *more: str) -> bytes:
        """The head of a POST, byte by byte as it is sent."""
        fields = [f"{name}: {value}" for name, value in self.headers.items()]
        lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
        return "\r\n".join([*lines, *fields, *more, "", ""]).encode()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("attacked")
    key = KeyStore(folder / "keys.json").create("app").text
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    config["applications"][0]["args"]["pools"][0]["preload"] = ["shapes-ldm"]
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [sys.executable, "-m", "services.cli", "serve", "--public"]
    command += ["--config", str(path), "--port", str(port)]
    server = Server(
        command,
        port=port,
        environment={
            "ATELIER_KEY_FILE": str(folder / "keys.json"),
            "ATELIER_BODY_TIMEOUT": str(BODY_SECONDS),
            "ATELIER_MAX_BODY_CHUNKS": str(MOST_PIECES),
        },
    )
    try:
        yield Town(server, key)
        server.stop()
    finally:
        server.destroy()


def pixels(answer: httpx.Response) -> bytes:
    """Of an answer's one image; its signature differs from answer to answer."""
    data = base64.b64decode(answer.raise_for_status().json()["data"][0]["b64_json"])
    return Image.open(io.BytesIO(data)).tobytes()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_from_another_address_nothing_answers_but_the_gateway(town: Town):
    """Attack 24."""
    address = other_address()
    if address is None:
        pytest.skip("this machine has the loopback alone")
    gateway = httpx.URL(town.server.url).port
    ports = listening(town.server.processes())
    assert gateway in ports
    assert len(ports) > 1, "Ray's own ports were not found"
    found = {port for port in ports if answers(address, port)}
    assert found == {gateway}, f"besides the gateway: {sorted(found - {gateway})}"


def test_rays_own_services_ask_for_a_token(town: Town):
    """Attack 24."""
    raylets = [p for p in town.server.processes() if "raylet" in p.title.split(" ")[0]]
    assert raylets
    for raylet in raylets:
        environment = Path(f"/proc/{raylet.id}/environ").read_bytes().split(b"\0")
        assert b"RAY_AUTH_MODE=token" in environment


@pytest.mark.parametrize(
    "flood",
    [
        [f"range: {RANGES}"],
        [f"x-{i}: y" for i in range(2_000)],
        ["x: " + "y" * (1 << 20)],
    ],
    ids=["ranges", "many", "long"],
)
def test_a_flood_of_headers_is_refused(town: Town, flood: list[str]):
    """Attack 12."""
    with town.line() as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(town.head("/v1/generate", "content-length: 2", *flood) + b"{}")
        with contextlib.suppress(ConnectionError):
            answer = line.recv(1 << 16)
            assert not answer or status_of(answer) in (400, 431)
    town.is_well()


def test_a_body_of_countless_pieces_is_cut_off(town: Town):
    """Attack 13: what gathers pieces before the gateway may; then it is one whole body."""
    body = json.dumps(ASK).encode().ljust(40 * MOST_PIECES)
    with town.line() as line:
        line.sendall(town.head("/v1/generate", "transfer-encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in body:
                line.sendall(b"1\r\n%c\r\n" % byte)
            line.sendall(b"0\r\n\r\n")
        assert status_of(line.recv(1 << 16)) in (200, 400, 413)
    town.is_well()


def test_who_sends_slowly_is_cut_off_and_holds_up_nobody(town: Town):
    """Attack 14: others are answered while thirty dawdle; these are told to go in the end."""
    done: list[str] = []

    def slow() -> None:
        with town.line() as line, contextlib.suppress(OSError):
            line.sendall(town.head("/v1/generate", "content-length: 100000"))
            for _ in range(1000):
                line.sendall(b" ")
                time.sleep(BODY_SECONDS / 20)
            done.append("never")
        done.append("slow")

    senders = [threading.Thread(target=slow) for _ in range(30)]
    for sender in senders:
        sender.start()
    try:
        for number in range(5):
            town.is_well()
            done.append(str(number))
            if number == 0:
                assert all(sender.is_alive() for sender in senders)
    finally:
        for sender in senders:
            sender.join(timeout=4 * BODY_SECONDS)
    assert not any(sender.is_alive() for sender in senders)
    assert "never" not in done
    assert [name for name in done if name != "slow"] == [str(i) for i in range(5)]


def test_who_reads_slowly_holds_up_nobody(town: Town):
    """Attack 14: streams that nobody reads end, and leave no row behind."""
    stream = {**ASK, "steps": 20, "preview_every": 1, "n": 2, "response": "stream"}
    body = json.dumps(stream).encode()
    with contextlib.ExitStack() as lines:
        for _ in range(10):
            line = lines.enter_context(town.line())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.sendall(town.head("/v1/generate", f"content-length: {len(body)}") + body)
        for _ in range(3):
            town.is_well()
        until(lambda: _trajectories(town) == 0, "every row is done", 120.0)
    town.is_well()


def _trajectories(town: Town) -> int:
    answer = httpx.get(f"{town.server.url}/v1/status", headers=town.headers, timeout=60)
    return sum(pool["trajectories"] for pool in answer.json()["pools"])


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "a\0b", "shapes-ldm/../x", "."],
)
def test_a_path_in_a_models_name_is_no_model(town: Town, name: str):
    """Attack 4."""
    for path, body in (
        ("/v1/generate", {**ASK, "model": name}),
        ("/v1/likelihood", {"model": name, "images": [base64.b64encode(png(1, 8)).decode()]}),
    ):
        answer = town.post(path, body)
        assert answer.status_code in (404, 422)
        assert "root:" not in answer.text
    quoted = httpx.get(f"{town.server.url}/v1/models/{name!r}", headers=town.headers)
    assert quoted.status_code in (404, 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"),
        ("PUT", "/v1/models/new"),
        ("POST", "/models"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/new/load"),
        ("POST", "/api/jobs/"),
        ("GET", "/api/version"),
    ],
)
def test_no_route_registers_a_model_or_leads_to_ray(town: Town, method: str, path: str):
    """Attacks 5 and 24."""
    url = "https://example.com/model.mar"
    answer = httpx.request(
        method, town.server.url + path, headers=town.headers, json={"url": url, "parameters": {}}
    )
    assert answer.status_code in (404, 405), answer.text


def test_no_url_in_a_request_is_fetched(town: Town):
    """Attack 6: a listener that is named is never called."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.0)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/image.png"
        for path, body in (
            ("/v1/edit", {"model": "shapes-ldm", "operation": "variation", "images": [address]}),
            ("/v1/likelihood", {"model": "shapes-vae", "images": [address]}),
            ("/v1/generate", {**ASK, "image_url": address}),
        ):
            answer = town.post(path, body)
            assert 400 <= answer.status_code < 500, answer.text
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_a_flood_of_parts_is_refused(town: Town):
    """Attack 11."""
    body, headers = form(f"f{i}" for i in range(20_000))
    answer = httpx.post(
        f"{town.server.url}/v1/edit",
        content=body,
        headers={**town.headers, **headers},
        timeout=60,
    )
    assert answer.status_code == 413
    town.is_well()


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"model": ' + '{"a": ' * 5_000 + "1" + "}" * 5_001,
        '{"model": "shapes-ldm", "seed": 1, "seed": 2}',
        '{"model": "shapes-ldm", "prompt": "\\ud800"}',
        '{"model": "shapes-ldm", "guidance_scale": NaN}',
        '{"model": "shapes-ldm", "steps": 1' + "0" * 400 + "}",
        '{"model": "shapes-ldm", "n": 100000000}',
        '{"model": "shapes-ldm", "callback": "os.system"}',
    ],
)
def test_senseless_json_is_refused(town: Town, body: str):
    """Attacks 15 and 16."""
    headers = {**town.headers, "content-type": "application/json"}
    answer = httpx.post(f"{town.server.url}/v1/generate", content=body, headers=headers, timeout=60)
    assert answer.status_code in (400, 413, 422)
    assert answer.json()["error"]["code"] != "internal_error"


def test_a_hostile_neighbour_in_the_batch_changes_nobodys_bytes(town: Town):
    """Attack 18: NaN and huge latents, extreme guidance."""
    alone = pixels(town.post("/v1/generate", ASK))
    floats = {
        "nan": b"\0\0\xc0\x7f",
        "huge": b"\xff\xff\x7f\x7f",
    }
    hostile: list[dict[str, Any]] = [{**ASK, "steps": 30, "guidance_scale": 20.0}]
    for value in floats.values():
        latents = {"data": base64.b64encode(value * 256).decode(), "shape": [4, 8, 8]}
        hostile.append({**ASK, "steps": 30, "latents": latents})
    statuses: list[int] = []

    def attack(body: dict[str, Any]) -> None:
        statuses.append(town.post("/v1/generate", body).status_code)

    threads = [threading.Thread(target=attack, args=(body,)) for body in hostile]
    for thread in threads:
        thread.start()
    together = pixels(town.post("/v1/generate", ASK))
    for thread in threads:
        thread.join()
    assert together == alone
    assert len(statuses) == len(hostile)
    town.is_well()


def test_every_answer_says_that_it_is_no_script(town: Town):
    """Attack 28."""
    script = "<script>alert(1)</script>"
    for answer in (
        town.post("/v1/generate", {**ASK, "model": script}),
        town.post("/v1/generate", {**ASK, "prompt": script}),
        httpx.get(f"{town.server.url}/{script}", headers=town.headers),
        httpx.get(f"{town.server.url}/v1/models", headers=town.headers),
    ):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_invented_names_leave_the_number_of_series_flat(town: Town):
    """Attack 29; ten thousand of them are in the unit tests."""

    def invent(name: str) -> None:
        with town.server.client(headers=town.headers) as client:
            client.get(f"/{name}")
            client.get(f"/v1/models/{name}")
            client.post("/v1/generate", json={"model": name})
            client.post("/v1/generate", json={**ASK, name: 1})
            client.request(name.upper(), "/v1/models")

    def series() -> set[Any]:
        return {key for key in town.server.samples() if key[0].startswith("atelier_")}

    invent("first")
    series()  # counts itself
    before = series()
    for number in range(50):
        invent(f"name{number}")
    assert series() == before


def test_a_request_that_is_cut_short_does_no_work(town: Town):
    """Attack 14: the client leaves while it sends."""
    before = town.server.total("atelier_images_total")
    for _ in range(20):
        with town.line() as line:
            line.sendall(town.head("/v1/generate", "content-length: 1000") + b'{"model": "sha')
    town.is_well()
    assert town.server.total("atelier_images_total") == before + 1
