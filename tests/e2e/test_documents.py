"""A model's card and sample sheet come from whichever process has the model."""

from __future__ import annotations

import httpx

from model_store.store import CATALOG
from tests.e2e.running import Server


def test_a_card_and_a_sheet_are_those_of_the_store(server: Server) -> None:
    for name in ("shapes-vae", "digits-realnvp"):
        card = httpx.get(f"{server.url}/v1/models/{name}/card")
        sheet = httpx.get(f"{server.url}/v1/models/{name}/sheet")
        assert card.content == (CATALOG / name / "card.md").read_bytes()
        assert sheet.content == (CATALOG / name / "samples.png").read_bytes()


def test_a_model_that_came_without_a_card_says_so(server: Server) -> None:
    answer = httpx.get(f"{server.url}/v1/models/strangers-gan/card")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "document_not_found"
    unknown = httpx.get(f"{server.url}/v1/models/shapes-vaf/card")
    assert unknown.status_code == 404
    assert "shapes-vae" in unknown.json()["error"]["message"]
