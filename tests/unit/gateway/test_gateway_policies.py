"""Policies hold for every route, and held images go to their requester only once approved."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
from PIL import Image
from pydantic import ValidationError
from starlette.testclient import TestClient

from services.core.job import Call, CallFinished, Event, Preview, Queued, RowFinished, Task, Watch
from services.gateway.app import create_app
from services.gateway.key_store import KeyStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.policies.interface import ALLOWED, Action, Asked, Decision, ImagePolicy
from services.policies.loading import BUILT_IN
from tests.asgi import exchanged

REFUSED, HELD = "volcano", "comet"
PNG = "data:image/png;base64,"


class Bright(ImagePolicy):
    """Holds or refuses images that are brighter than a threshold."""

    def __init__(self, *, action: str, above: float = 80.0) -> None:
        self._action, self._above = Action(action), above

    def judge(self, image: Any, _asked: Asked) -> Decision:
        return Decision(self._action, "it is bright") if image.mean() > self._above else ALLOWED


def _rules(tmp_path: Path, *images: Mapping[str, Any]) -> dict[str, Any]:
    refused, held = tmp_path / "refused.txt", tmp_path / "held.txt"
    refused.write_text(f"{REFUSED}\n")
    held.write_text(f"{HELD}\n")
    words = [
        {"name": "words", "use": "block_list", "settings": {"file": str(refused)}},
        {
            "name": "careful",
            "use": "block_list",
            "settings": {"file": str(held), "action": "hold"},
        },
    ]
    return {"rules": [*words, *images]}


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
def connected(backend: Any, registry: Any, tmp_path: Path) -> Any:
    def connect(*images: Mapping[str, Any], **settings: Any) -> TestClient:
        return TestClient(_app(backend, registry, tmp_path, *images, **settings))

    return connect


def _app(backend: Any, registry: Any, tmp_path: Path, *images: Any, **settings: Any) -> Any:
    return create_app(
        backend,
        GatewaySettings(
            key_file=tmp_path / "keys.json", policies=_rules(tmp_path, *images), **settings
        ),
        metrics=GatewayMetrics(registry),
        policies={**BUILT_IN, "bright": Bright},
    )


@pytest.fixture
def bearers(keys: KeyStore) -> dict[str, dict[str, str]]:
    grants: dict[str, dict[str, Any]] = {
        "alice": {},
        "bob": {"scopes": ("generate", "edit")},
        "rita": {"scopes": ("review",)},
        "vera": {"scopes": ("review",), "models": ("digits-realnvp",)},
    }
    return {
        name: {"authorization": f"Bearer {keys.create(name, **grant).text}"}
        for name, grant in grants.items()
    }


def _requests(image: bytes, word: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every way to ask for an image in words: a name, the route, and the body."""
    data = base64.b64encode(image).decode()
    ldm = {"model": "shapes-ldm"}
    say = f"a {word[0]}\u200b{word[1:]} on black"
    yield "generate", "/v1/generate", {**ldm, "prompt": say}
    yield "negative", "/v1/generate", {**ldm, "prompt": "a moon", "negative_prompt": say}
    yield "label", "/v1/generate", {"model": "shapes-cgan", "label": word}
    yield "factors", "/v1/generate", {"model": "shapes-cgan", "factors": {"shape": word}}
    yield (
        "prompts",
        "/v1/generate",
        {**ldm, "prompts": [{"prompt": "a moon"}, {"prompt": say, "weight": 0.5}]},
    )
    yield "stream", "/v1/generate", {**ldm, "prompt": say, "response": "stream"}
    yield "edit", "/v1/edit", {**ldm, "operation": "variation", "image": data, "prompt": say}
    yield "openai", "/v1/images/generations", {**ldm, "prompt": say}
    yield "openai stream", "/v1/images/generations", {**ldm, "prompt": say, "stream": True}
    yield "openai edit", "/v1/images/edits", {**ldm, "prompt": say, "image": PNG + data}
    yield "hf", "/hf/shapes-ldm/text-to-image", {"inputs": say}
    yield (
        "hf image",
        "/hf/shapes-ldm/image-to-image",
        {"inputs": data, "parameters": {"prompt": say}},
    )
    yield (
        "kserve",
        "/v2/models/shapes-ldm/infer",
        {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [say]}]},
    )


WAYS = [name for name, _, _ in _requests(b"", "word")]


@pytest.mark.parametrize("way", WAYS)
def test_every_route_refuses_what_a_policy_refuses(connected, backend, image, way) -> None:
    found = {name: (path, body) for name, path, body in _requests(image(), REFUSED)}
    path, body = found[way]
    answer = connected().post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert REFUSED not in answer.text
    error = answer.json()["error"]
    if path.startswith("/v1"):
        assert error["code"] == "content_policy_violation"
        assert error["type"] == "invalid_request_error"
        error = error["message"]
    assert "'words'" in error
    assert not backend.calls


@pytest.mark.parametrize("way", WAYS)
def test_no_route_shows_what_a_policy_holds(connected, backend, image, way) -> None:
    found = {name: (path, body) for name, path, body in _requests(image(), HELD)}
    path, body = found[way]
    client = connected()
    answer = client.post(path, json=body)
    made = base64.b64encode(image()).decode()[:60]
    assert made not in answer.text
    assert image()[:20] not in answer.content
    assert len(backend.calls) == 1
    (review,) = client.get("/v1/reviews").json()["data"]
    assert review["policy"] == "careful"
    where = {"id": review["id"], "url": f"/v1/reviews/{review['id']}"}
    if path in ("/v1/generate", "/v1/edit") and "stream" not in way:
        assert (answer.status_code, answer.headers["location"]) == (202, where["url"])
        assert answer.json() == {"status": "held", "review": where}
    elif "stream" in way:
        assert answer.status_code == 200
        error = json.loads(answer.text.split("event: error\ndata: ")[1])["error"]
        assert (error["code"], error["review"]) == ("held_for_review", where)
    elif path.startswith("/v1"):
        assert answer.status_code == 400
        assert answer.json()["error"]["review"] == where
    else:
        assert answer.status_code == 400
        assert review["id"] in answer.json()["error"]


def test_likelihoods_and_latents_are_no_images(connected, image) -> None:
    data = base64.b64encode(image()).decode()
    client = connected({"name": "bright", "use": "bright", "settings": {"action": "refuse"}})
    for path in ("/v1/likelihood", "/v1/encode"):
        answer = client.post(path, json={"model": "shapes-vae", "image": data, "label": HELD})
        assert answer.status_code == 200, answer.text


def test_openais_client_sees_a_bad_request_with_the_code(connected) -> None:
    client = openai.OpenAI(
        api_key="any", base_url="http://testserver/v1", http_client=connected(), max_retries=3
    )
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="shapes-ldm", prompt=f"a {REFUSED}")
    assert refused.value.code == "content_policy_violation"
    with pytest.raises(openai.BadRequestError) as held:
        client.images.generate(model="shapes-ldm", prompt=f"a {HELD}")
    assert held.value.code == "held_for_review"
    assert held.value.body["review"]["url"].startswith("/v1/reviews/")  # type: ignore[index]


def test_a_held_image_reaches_its_requester_once_it_is_approved(connected, bearers, image) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}", "seed": 7, "n": 2}
    url = client.post("/v1/generate", json=ask, headers=bearers["bob"]).json()["review"]["url"]
    mine = client.get(url, headers=bearers["bob"]).json()
    assert (mine["status"], "data" in mine, "owner" in mine) == ("held", False, False)
    assert client.get(f"{url}/images/0", headers=bearers["bob"]).status_code == 404
    seen = client.get(url, headers=bearers["rita"]).json()
    assert seen["prompts"] == {"prompt": [f"a {HELD}"]}
    assert base64.b64decode(seen["data"][0]["b64_json"]) == image()
    note = {"note": "fine"}
    decided = client.post(f"{url}/approve", json=note, headers=bearers["rita"])
    assert decided.status_code == 200, decided.text
    mine = client.get(url, headers=bearers["bob"]).json()
    assert (mine["status"], mine["note"]) == ("approved", "fine")
    assert [entry["seed"] for entry in mine["data"]] == [7, 8]
    one = client.get(mine["images"][1], headers=bearers["bob"])
    assert (one.headers["content-type"], one.content) == ("image/png", image())
    assert client.get(f"{url}/images/2", headers=bearers["bob"]).status_code == 404
    again = client.post(f"{url}/reject", headers=bearers["rita"])
    assert (again.status_code, again.json()["error"]["code"]) == (409, "review_decided")


def test_a_rejected_image_is_gone_for_everybody(connected, bearers) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    url = client.post("/v1/generate", json=ask, headers=bearers["bob"]).json()["review"]["url"]
    assert client.post(f"{url}/reject", headers=bearers["rita"]).status_code == 200
    for who in ("bob", "rita"):
        found = client.get(url, headers=bearers[who]).json()
        assert (found["status"], found["images"], found.get("data", [])) == ("rejected", [], [])
        assert client.get(f"{url}/images/0", headers=bearers[who]).status_code == 404


def test_a_review_is_nobody_elses(connected, bearers) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    url = client.post("/v1/generate", json=ask, headers=bearers["bob"]).json()["review"]["url"]
    for who in ("alice", "vera"):
        for path in (url, f"{url}/images/0"):
            assert client.get(path, headers=bearers[who]).status_code == 404
        assert client.get("/v1/reviews", headers=bearers[who]).json()["data"] == []
    assert client.post(f"{url}/approve", headers=bearers["vera"]).status_code == 404
    assert len(client.get("/v1/reviews", headers=bearers["bob"]).json()["data"]) == 1
    assert client.get(url).status_code == 401


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_to_decide_needs_the_scope_by_name(connected, bearers, who) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    url = client.post("/v1/generate", json=ask, headers=bearers[who]).json()["review"]["url"]
    for verb in ("approve", "reject"):
        answer = client.post(f"{url}/{verb}", headers=bearers[who])
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert client.get(url, headers=bearers[who]).json()["status"] == "held"


def test_a_service_without_keys_lets_nobody_decide_over_http(connected) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    url = client.post("/v1/generate", json=ask).json()["review"]["url"]
    assert client.post(f"{url}/approve").status_code == 403


def test_a_reviewers_key_alone_makes_no_images(connected, bearers) -> None:
    answer = connected().post(
        "/v1/generate", json={"model": "shapes-ldm", "prompt": "a moon"}, headers=bearers["rita"]
    )
    assert answer.status_code == 403


def test_a_decision_takes_nothing_that_is_not_known(connected, bearers) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    url = client.post("/v1/generate", json=ask, headers=bearers["bob"]).json()["review"]["url"]
    bad = client.post(f"{url}/approve", json={"why": 1}, headers=bearers["rita"])
    assert (bad.status_code, bad.json()["error"]["param"]) == (422, "why")
    assert client.get("/v1/reviews?status=odd", headers=bearers["rita"]).status_code == 422


def test_what_was_made_is_charged_though_it_is_kept_back(connected, backend, keys) -> None:
    key = keys.create("meter", device_seconds="10/h").text
    backend.device_seconds = 20.0
    client = connected({"name": "bright", "use": "bright", "settings": {"action": "refuse"}})
    headers = {"authorization": f"Bearer {key}"}
    ask = {"model": "shapes-ldm", "prompt": "a moon"}
    assert client.post("/v1/generate", json=ask, headers=headers).status_code == 400
    assert client.post("/v1/generate", json=ask, headers=headers).status_code == 429


def test_a_full_queue_refuses_before_the_work(backend, image, registry, tmp_path) -> None:
    room = len(image())
    rules = {**_rules(tmp_path), "review": {"max_bytes": room}}
    settings = GatewaySettings(key_file=tmp_path / "keys.json", policies=rules)
    client = TestClient(create_app(backend, settings, metrics=GatewayMetrics(registry)))
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}"}
    assert client.post("/v1/generate", json=ask).status_code == 202
    full = client.post("/v1/generate", json=ask)
    assert (full.status_code, full.json()["error"]["code"]) == (503, "reviews_full")
    assert "retry-after" in full.headers
    assert len(backend.calls) == 1


def test_reviews_answer_as_described(connected, bearers) -> None:
    client = connected()
    ask = {"model": "shapes-ldm", "prompt": f"a {HELD}", "seed": 1}
    document = client.get("/openapi.json").json()
    place = "/v1/reviews/{review_id}"

    def check(answer: Any, method: str, path: str, status: str = "200") -> Any:
        described = document["paths"][path][method]["responses"][status]["content"]
        schema = described["application/json"]["schema"]
        validator = jsonschema.Draft202012Validator(
            {**schema, "components": document["components"]}
        )
        validator.validate(answer.json())
        return answer.json()

    def held() -> Any:
        answer = client.post("/v1/generate", json=ask, headers=bearers["bob"])
        return check(answer, "post", "/v1/generate", "202")

    for verb in ("approve", "reject"):
        url = held()["review"]["url"]
        rita = bearers["rita"]
        check(client.get("/v1/reviews", headers=rita), "get", "/v1/reviews")
        check(client.get(url, headers=rita), "get", place)
        content = document["paths"][f"{place}/{verb}"]["post"]["requestBody"]["content"]
        (example,) = content["application/json"]["examples"].values()
        decided = client.post(f"{url}/{verb}", json=example["value"], headers=rita)
        check(decided, "post", f"{place}/{verb}")
        check(client.get(url, headers=bearers["bob"]), "get", place)


def _shade(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_uploaded_images_are_judged_before_the_work(connected, backend) -> None:
    client = connected({"name": "bright", "use": "bright", "settings": {"action": "refuse"}})
    data = base64.b64encode(_shade(200)).decode()
    ask = {"model": "shapes-ldm", "operation": "variation", "image": data, "prompt": "a moon"}
    answer = client.post("/v1/edit", json=ask)
    assert answer.json()["error"]["code"] == "content_policy_violation"
    assert not backend.calls


class Rows:
    """Streams previews, and rows of the given shades."""

    def __init__(self, backend: Any, shades: list[int]) -> None:
        self._backend, self._shades = backend, shades
        self.watches: list[Watch] = []
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        assert call.task is Task.GENERATE
        self.watches.append(watch)
        try:
            yield Queued(len(self._shades), 0, 0.1)
            for row, shade in enumerate(self._shades):
                yield Preview(row, 1, 2, 0, _shade(shade))
                await asyncio.sleep(0)
                answer = await self._backend.run(call)
                yield RowFinished(row, type(answer.items[0])({"seed": row}, _shade(shade)))
            yield CallFinished(call.model, answer.timings, 1.0)
        finally:
            self.closed = True


async def _streamed(app: Any) -> list[tuple[str, dict[str, Any]]]:
    found = await exchanged(
        app, "/v1/generate", prompt="a moon", response="stream", preview_every=1, n=3
    )
    blocks = found.said.decode().strip().split("\n\n")
    return [(b.split("\n")[0][7:], json.loads(b.split("data: ")[1])) for b in blocks]


async def test_a_stream_keeps_back_the_images_that_are_held(backend, registry, tmp_path) -> None:
    rows = Rows(backend, [20, 200, 30])
    rule = {"name": "bright", "use": "bright", "settings": {"action": "hold"}}
    app = _app(rows, registry, tmp_path, rule)
    events = await _streamed(app)
    assert [name for name, _ in events] == ["queued", "image", "image", "error"]
    assert [data["index"] for name, data in events if name == "image"] == [0, 2]
    assert events[-1][1]["error"]["code"] == "held_for_review"
    assert rows.watches == [Watch()]
    review = TestClient(app).get(events[-1][1]["error"]["review"]["url"]).json()
    assert len(review["images"]) == 1


async def test_a_stream_ends_at_an_image_that_is_refused(backend, registry, tmp_path) -> None:
    rows = Rows(backend, [20, 200, 30])
    rule = {"name": "bright", "use": "bright", "settings": {"action": "refuse"}}
    events = await _streamed(_app(rows, registry, tmp_path, rule))
    assert [name for name, _ in events] == ["queued", "image", "error"]
    assert events[-1][1]["error"]["code"] == "content_policy_violation"
    assert rows.closed
    assert len(backend.calls) == 2


async def test_previews_are_shown_where_no_policy_looks_at_images(
    backend, registry, tmp_path
) -> None:
    events = await _streamed(_app(Rows(backend, [200]), registry, tmp_path))
    assert [name for name, _ in events] == ["queued", "preview", "image", "done"]


def test_decisions_are_counted_by_policy_alone(connected, registry) -> None:
    client = connected()
    for prompt in ("a moon", "another moon", f"a {HELD}", f"a {REFUSED}"):
        client.post("/v1/generate", json={"model": "shapes-ldm", "prompt": prompt})
    name = "atelier_safety_decisions_total"
    counts = {
        (policy, decision): registry.get_sample_value(
            name, {"policy": policy, "decision": decision}
        )
        for policy in ("words", "careful")
        for decision in ("allow", "hold", "refuse")
    }
    assert counts == {
        ("words", "allow"): 3,
        ("words", "hold"): None,
        ("words", "refuse"): 1,
        ("careful", "allow"): 2,
        ("careful", "hold"): 1,
        ("careful", "refuse"): None,
    }


def test_rules_can_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"name": "words", "use": "block_list", "models": ["shapes-ldm"]}]
    monkeypatch.setenv("ATELIER_POLICIES__RULES", json.dumps(rules))
    monkeypatch.setenv("ATELIER_POLICIES__REVIEW__TTL", "3600")
    settings = GatewaySettings().policies
    assert [rule.concerns("shapes-ldm") for rule in settings.rules] == [True]
    assert not settings.rules[0].concerns("shapes-cgan")
    assert (settings.review.ttl, settings.rules[0].on_failure) == (3600, "refuse")


def test_two_rules_of_one_name_are_refused() -> None:
    rule = {"name": "words", "use": "block_list"}
    with pytest.raises(ValidationError, match="names that differ"):
        GatewaySettings(policies={"rules": [rule, rule]})  # type: ignore[arg-type]  # as YAML
