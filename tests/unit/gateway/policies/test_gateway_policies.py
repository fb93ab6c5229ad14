"""Policies hold for every route, before the work and after it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from services.core.decoder import Decoder
from services.core.errors import ContentPolicyViolation, HeldForReview, ReviewsFull
from services.core.job import Call, Task
from services.gateway.settings import GatewaySettings
from services.policies.guard import guarded
from services.policies.interface import Action
from services.policies.settings import PoliciesSettings
from tests.unit.gateway.policies.conftest import HELD, REFUSED, rules_of, shade

PNG = "data:image/png;base64,"


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


def test_what_was_made_is_charged_though_it_is_kept_back(connected, backend, keys) -> None:
    key = keys.create("meter", device_seconds="10/h").text
    backend.device_seconds = 20.0
    client = connected({"name": "bright", "use": "bright", "settings": {"action": "refuse"}})
    headers = {"authorization": f"Bearer {key}"}
    ask = {"model": "shapes-ldm", "prompt": "a moon"}
    assert client.post("/v1/generate", json=ask, headers=headers).status_code == 400
    assert client.post("/v1/generate", json=ask, headers=headers).status_code == 429


def test_uploaded_images_are_judged_before_the_work(connected, backend) -> None:
    client = connected({"name": "bright", "use": "bright", "settings": {"action": "refuse"}})
    data = base64.b64encode(shade(200)).decode()
    ask = {"model": "shapes-ldm", "operation": "variation", "image": data, "prompt": "a moon"}
    answer = client.post("/v1/edit", json=ask)
    assert answer.json()["error"]["code"] == "content_policy_violation"
    assert not backend.calls


async def test_what_is_to_be_made_later_needs_room_for_a_reviewer(backend, image, tmp_path) -> None:
    rules = {**rules_of(tmp_path), "review": {"max_bytes": len(image())}}
    settings = PoliciesSettings.model_validate(rules)
    policed = guarded(
        backend, settings, tmp_path, count=lambda policy, decision: None, decoder=Decoder()
    )

    def call(prompt: str) -> Call:
        return Call("1", "shapes-ldm", Task.GENERATE, {"prompt": prompt, "seed": 1})

    assert (await policed.foresee(call(f"a {HELD}"))).action is Action.HOLD
    with pytest.raises(HeldForReview):
        await policed.run(call(f"a {HELD}"))
    with pytest.raises(ReviewsFull):
        await policed.foresee(call(f"a {HELD}"))
    with pytest.raises(ContentPolicyViolation):
        await policed.foresee(call(f"a {REFUSED}"))
    assert (await policed.foresee(call("a moon"))).action is Action.ALLOW
    assert len(backend.calls) == 1


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
