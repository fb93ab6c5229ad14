"""Held images go to who asked for them once they are approved, and to nobody else."""

from __future__ import annotations

import base64
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from tests.unit.gateway.policies.conftest import HELD, rules_of


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


def test_a_full_queue_refuses_before_the_work(backend, image, registry, tmp_path) -> None:
    room = len(image())
    rules = {**rules_of(tmp_path), "review": {"max_bytes": room}}
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
