"""A model's card and its sample sheet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from model_store.catalog_folder import CatalogFolder
from model_store.limits import StoreLimits
from model_store.store import CATALOG
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.local import local_backend, open_store
from tests.unit.gateway.conftest import ScriptedBackend

CARD = "# shapes-vae\n\n<img src=x onerror=alert(1)> <script>alert(1)</script>"


@pytest.fixture
def told(backend: ScriptedBackend, client: Any, image: Any) -> Any:
    """A client of a model with a card and a sheet."""
    backend.documents["shapes-vae", "card"] = CARD.encode()
    backend.documents["shapes-vae", "sheet"] = image("WEBP")
    return client


def test_a_card_is_markdown_and_never_a_page(told: Any) -> None:
    answer = told.get("/v1/models/shapes-vae/card")
    assert answer.status_code == 200
    assert answer.text == CARD
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_type_of_a_sheet_is_that_of_its_content(told: Any) -> None:
    answer = told.get("/v1/models/shapes-vae/sheet")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<html>", b""]
)
def test_a_sheet_that_is_no_picture_is_not_sent(
    backend: ScriptedBackend, client: Any, content: bytes
) -> None:
    backend.documents["shapes-vae", "sheet"] = content
    answer = client.get("/v1/models/shapes-vae/sheet")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "document_not_found"


def test_what_is_unchanged_is_not_sent_again(told: Any) -> None:
    first = told.get("/v1/models/shapes-vae/sheet")
    known = {"if-none-match": first.headers["etag"]}
    second = told.get("/v1/models/shapes-vae/sheet", headers=known)
    assert second.status_code == 304
    assert not second.content


def test_a_model_without_a_card_says_so(client: Any) -> None:
    answer = client.get("/v1/models/shapes-cgan/card")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "document_not_found"
    assert "shapes-cgan" in answer.json()["error"]["message"]


def test_a_card_needs_a_key_where_keys_are_set(connect: Any) -> None:
    keyed = connect(api_keys=(hashlib.sha256(b"secret").hexdigest(),))
    assert keyed.get("/v1/models/shapes-vae/card").status_code == 401


def test_every_model_of_the_catalog_comes_with_both(tmp_path: Path) -> None:
    backend = local_backend(store=open_store(str(tmp_path)))
    settings = GatewaySettings(key_file=tmp_path / "keys.json")
    app = create_app(backend, settings, metrics=GatewayMetrics(CollectorRegistry()))
    client = TestClient(app)
    try:
        for folder in map(CATALOG.joinpath, CatalogFolder(CATALOG, StoreLimits()).ids()):
            card = client.get(f"/v1/models/{folder.name}/card")
            sheet = client.get(f"/v1/models/{folder.name}/sheet")
            assert card.content == (folder / "card.md").read_bytes()
            assert sheet.content == (folder / "samples.png").read_bytes()
            assert sheet.headers["content-type"] == "image/png"
    finally:
        backend.close()
