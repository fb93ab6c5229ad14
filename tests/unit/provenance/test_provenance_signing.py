"""Signing: what uploaded images bring along, what cannot be signed, and what is never fetched."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import c2pa
import pytest
from starlette.testclient import TestClient

from services.core.errors import ProvenanceFailure
from services.core.job import Answer, Call, Item, Timings
from services.provenance.credentials import load_credentials
from services.provenance.inspection import inspect
from services.provenance.record import COMPOSED, GENERATED
from services.provenance.settings import ProvenanceSettings
from services.provenance.signing import ManifestSigner
from tests.unit.provenance.conftest import picture, pixels, record
from tests.unit.provenance.test_provenance_routes import ASK

MOST = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("provenance")


@pytest.fixture(scope="module")
def signer(folder: Path) -> ManifestSigner:
    return opened(folder)


def opened(folder: Path, most: int = MOST) -> ManifestSigner:
    return ManifestSigner(load_credentials(ProvenanceSettings(), folder), max_manifest_bytes=most)


@pytest.fixture
def contacts() -> Iterator[tuple[str, list[str]]]:
    """A server that notes every path it is asked for, with its address."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_images_that_only_guided_are_inputs(signer: ManifestSigner) -> None:
    manifest = inspect(signer.signed(picture(), "png", record(guides=(picture(),)))).manifest
    assert manifest.verdict == "untrusted"
    assert (manifest.actions, manifest.source_types) == (("c2pa.created",), (GENERATED,))
    assert [one.relationship for one in manifest.ingredients] == ["inputTo"]
    both = record(sources=(picture(),), guides=(picture("JPEG"),))
    manifest = inspect(signer.signed(picture(), "png", both)).manifest
    assert (manifest.verdict, manifest.source_types) == ("untrusted", (COMPOSED,))
    assert [one.relationship for one in manifest.ingredients] == ["parentOf", "inputTo"]


def test_a_forged_source_is_carried_on_with_what_is_wrong_with_it(signer: ManifestSigner) -> None:
    source = signer.signed(picture(), "png", record())
    place = source.index(b"IDAT") + 30
    forged = source[:place] + bytes([source[place] ^ 1]) + source[place + 1 :]
    manifest = inspect(signer.signed(picture(), "png", record(sources=(forged,)))).manifest
    assert manifest.verdict == "untrusted"  # the new one is good
    (ingredient,) = manifest.ingredients
    assert ingredient.manifest
    assert "assertion.dataHash.mismatch" in ingredient.problems


def test_whatever_is_uploaded_the_answer_is_signed(signer: ManifestSigner) -> None:
    source = signer.signed(picture(), "png", record())
    begin = source.index(b"jumb")
    drawn = random.Random(5)
    for _ in range(30):
        broken = bytearray(source)
        for _ in range(drawn.randrange(1, 40)):
            broken[drawn.randrange(begin, len(source))] = drawn.randrange(256)
        for upload in (bytes(broken), bytes(broken[: drawn.randrange(8, len(broken))])):
            signed = signer.signed(picture(), "png", record(sources=(upload,)))
            found = inspect(signed).manifest
            assert found.verdict == "untrusted"
            assert [one.relationship for one in found.ingredients] == ["parentOf"]


def test_manifests_that_uploads_bring_along_are_bounded(folder: Path) -> None:
    much = {"adapters": [{"name": "x" * 200_000}]}
    source = opened(folder).signed(picture(), "png", record(parameters=much))
    kept = opened(folder).signed(picture(), "png", record(sources=(source,)))
    bounded = opened(folder, 100_000).signed(picture(), "png", record(sources=(source,)))
    assert len(kept) > 200_000
    assert len(bounded) < 20_000
    for data, manifest in ((kept, True), (bounded, False)):
        found = inspect(data).manifest
        assert found.verdict == "untrusted"
        assert [one.manifest for one in found.ingredients] == [manifest]


def test_nothing_that_an_upload_points_to_is_fetched(
    signer: ManifestSigner, contacts: tuple[str, list[str]]
) -> None:
    url, asked = contacts
    context = c2pa.Context.from_dict({"verify": {"verify_after_sign": False}})
    pointing = io.BytesIO()
    with c2pa.Builder({"claim_generator_info": [{"name": "other"}]}, context) as builder:
        builder.set_no_embed()
        builder.set_remote_url(f"{url}/manifest")
        builder.sign(signer._signer, "image/jpeg", io.BytesIO(picture("JPEG")), pointing)
    upload = pointing.getvalue()
    assert url.encode() in upload
    signed = signer.signed(picture(), "png", record(sources=(upload,)))
    assert inspect(signed).manifest.verdict == "untrusted"
    assert inspect(upload).manifest.verdict in ("absent", "invalid")
    assert asked == []
    with pytest.raises(c2pa.C2paError):  # as the library would do if it were left to itself
        c2pa.Reader("image/jpeg", io.BytesIO(upload))
    assert asked == ["/manifest"]


def test_many_threads_sign_at_once(signer: ManifestSigner) -> None:
    def work(seed: int) -> str:
        signed = signer.signed(picture(size=8 + seed), "png", record(values={"seed": seed}))
        return inspect(signed).manifest.verdict

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(24))) == {"untrusted"}


def test_what_is_no_image_cannot_be_signed(signer: ManifestSigner) -> None:
    with pytest.raises(ProvenanceFailure):
        signer.signed(b"no image at all", "png", record())


class Garbling:
    """A backend whose images are none, over one whose models are real."""

    def __init__(self, engines: Any) -> None:
        self.model, self.ready = engines.model, engines.ready
        self.status, self.models = engines.status, engines.models

    async def run(self, call: Call) -> Answer:
        return Answer(call.model, (Item({"seed": 7}, b"no image at all"),), Timings())


def test_an_image_that_cannot_be_signed_is_not_sent(
    engines: Any, build: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    answer = build(Garbling(engines)).post("/v1/generate", json=ASK)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "provenance_failure"
    assert "unsigned" in error["message"]
    assert "could not be signed" in caplog.text
    allowed = build(Garbling(engines), on_failure="send_unsigned")
    answer = allowed.post("/v1/generate", json=ASK, headers={"accept": "image/png"})
    assert answer.content == b"no image at all"


def test_a_stream_ends_with_the_error(engines: Any, build: Callable[..., TestClient]) -> None:
    async def garbled(call: Call, watch: Any) -> Any:
        async for event in engines.stream(call, watch):
            if type(event).__name__ == "RowFinished":
                yield type(event)(event.row, Item(event.item.values, b"no image at all"))
            else:
                yield event

    backend = Garbling(engines)
    backend.stream = garbled  # type: ignore[attr-defined]
    text = build(backend).post("/v1/generate", json={**ASK, "response": "stream"}).text
    assert "provenance_failure" in text
    assert "event: image" not in text


def test_signing_leaves_every_pixel(signer: ManifestSigner) -> None:
    data = picture(size=40)
    assert pixels(signer.signed(data, "png", record())) == pixels(data)
