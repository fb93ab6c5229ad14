"""Policies, reviews and the audit log of a real service."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from services.gateway.audit_check import tail, verify
from services.gateway.key_store import KeyStore
from tests.e2e.running import ROOT, Server, Servers, atelier_serve

REFUSED, HELD = "volcano", "ring"
LDM = {"model": "shapes-ldm", "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def server(servers: Servers, store: Path, tmp_path_factory: Any) -> Iterator[Server]:
    """A server with rules for words and for images, and an audit log."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "refused.txt").write_text(f"{REFUSED}\n")
    (folder / "held.txt").write_text(f"{HELD}\n")
    hold = {"file": str(folder / "held.txt"), "action": "hold"}
    stars = {"model": "shapes-classifier", "hold": {"star": 0.5}}
    rules = [
        {"name": "words", "use": "block_list", "settings": {"file": str(folder / "refused.txt")}},
        {"name": "careful", "use": "block_list", "settings": hold},
        {"name": "stars", "use": "classifier", "models": ["shapes-cgan"], "settings": stars},
    ]
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    config["applications"][0]["args"] |= {
        "gateway": {"policies": {"rules": rules}, "audit": {"enabled": True}},
        "pools": [{"name": "default", "placement": "fused", "models": ["*"]}],
    }
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    servers.close()
    running = atelier_serve(path, store)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def bearers(server: Server) -> dict[str, dict[str, str]]:
    keys = KeyStore(server.folder / "keys.json")
    grants: dict[str, dict[str, Any]] = {"app": {}, "other": {}, "rita": {"scopes": ("review",)}}
    return {
        name: {"authorization": f"Bearer {keys.create(name, **grant).text}"}
        for name, grant in grants.items()
    }


def _generate(server: Server, headers: dict[str, str], **ask: Any) -> Any:
    return server.post("/v1/generate", {**LDM, **ask}, headers=headers)


def test_the_openai_client_sees_a_bad_request_with_the_code(server, bearers) -> None:
    key = bearers["app"]["authorization"].removeprefix("Bearer ")
    with openai.OpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=2) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(model="shapes-ldm", prompt=f"a {REFUSED[0]}\u200b{REFUSED[1:]}")
        assert refused.value.code == "content_policy_violation"
        assert REFUSED not in str(refused.value)
        with pytest.raises(openai.BadRequestError) as held:
            client.images.generate(model="shapes-ldm", prompt=f"a {HELD}")
        assert held.value.code == "held_for_review"
        body: Any = held.value.body
        assert server.client(headers=bearers["app"]).get(body["review"]["url"]).is_success


def test_held_then_approved_then_fetched(server, bearers) -> None:
    held = _generate(server, bearers["app"], prompt=f"a {HELD}")
    assert (held.status_code, held.json()["status"]) == (202, "held")
    url = held.json()["review"]["url"]
    app, other, rita = (server.client(headers=bearers[who]) for who in bearers)
    with app, other, rita:
        assert app.get(url).json()["status"] == "held"
        assert app.get(f"{url}/images/0").status_code == 404
        assert other.get(url).status_code == 404
        assert app.post(f"{url}/approve").status_code == 403
        shown = rita.get(url).json()["data"][0]["b64_json"]
        assert rita.post(f"{url}/approve").status_code == 200
        assert rita.post(f"{url}/reject").status_code == 409
        found = app.get(url).json()
        assert found["data"] == [{**found["data"][0], "b64_json": shown, "seed": 7}]
        assert app.get(found["images"][0]).content == base64.b64decode(shown)
        assert other.get(f"{url}/images/0").status_code == 404


def test_held_then_rejected_on_the_command_line(server, bearers) -> None:
    url = _generate(server, bearers["app"], prompt=f"a {HELD}").json()["review"]["url"]
    review = url.rpartition("/")[2]
    own = {"ATELIER_KEY_FILE": str(server.folder / "keys.json")}
    command = [sys.executable, "-m", "services.cli", "reviews", "reject", review, "--note", "no"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, check=True, capture_output=True)
    with server.client(headers=bearers["app"]) as app:
        found = app.get(url).json()
        assert (found["status"], found["note"], found["images"]) == ("rejected", "no", [])
        assert app.get(f"{url}/images/0").status_code == 404


def test_a_classifier_of_the_store_looks_at_what_was_made(server, bearers) -> None:
    ask = {"model": "shapes-cgan", "seed": 3}
    app = bearers["app"]
    circle = server.post("/v1/generate", {**ask, "label": "circle"}, headers=app)
    star = server.post("/v1/generate", {**ask, "label": "star"}, headers=app)
    assert circle.status_code == 200, circle.text
    assert star.status_code == 202, star.text
    streamed = server.post(
        "/v1/generate", {**ask, "label": "star", "response": "stream"}, headers=app
    )
    assert "event: image" not in streamed.text
    error = json.loads(streamed.text.split("event: error\ndata: ")[1])["error"]
    assert error["code"] == "held_for_review"


def test_decisions_are_counted(server, bearers) -> None:
    _generate(server, bearers["app"], prompt=f"a {REFUSED}")
    name = "atelier_safety_decisions_total"
    assert server.total(name, policy="words", decision="refuse") >= 1


def test_the_audit_log_has_it_all_and_is_whole(server, bearers) -> None:
    sent = {**bearers["app"], "x-request-id": "audited-1"}
    assert _generate(server, sent, prompt="a red circle", n=2).status_code == 200
    refused = {**bearers["app"], "x-request-id": "audited-2"}
    assert _generate(server, refused, prompt=f"a {REFUSED}").status_code == 400
    held = {**bearers["app"], "x-request-id": "audited-3"}
    url = _generate(server, held, prompt=f"a {HELD}").json()["review"]["url"]
    with server.client(headers=bearers["rita"]) as rita:
        assert rita.post(f"{url}/approve").status_code == 200
    folder = server.folder / "audit"
    verify(folder)
    events = tail(folder, 1000)
    by_id = {event["request_id"]: event for event in events if "request_id" in event}
    first = by_id["audited-1"]
    assert (first["n"], first["seed"], first["status"], first["decision"]) == (2, 7, 200, "allow")
    assert first["device_seconds"] > 0
    assert by_id["audited-2"]["decision"] == "refuse"
    assert by_id["audited-2"]["policy"] == "words"
    assert by_id["audited-3"]["decision"] == "hold"
    approved = [event for event in events if event["event"] == "review.approved"]
    assert approved[-1]["review"] == url.rpartition("/")[2]
    text = "".join(path.read_text() for path in folder.glob("*.jsonl"))
    assert "red circle" not in text
    assert not any(bearer["authorization"][7:] in text for bearer in bearers.values())
