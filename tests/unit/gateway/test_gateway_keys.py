"""API keys: made, recognised, limited, rotated, revoked, and never told."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from services.core.errors import InvalidApiKey, InvalidParameter
from services.gateway.key_store import KeyStore, parse_duration
from services.gateway.keys import KeyRing, split_key
from services.gateway.settings import GatewaySettings, check_bind

ASK = {"model": "shapes-ldm", "prompt": "a red circle", "seed": 1}


@pytest.fixture
def path() -> Path:
    """Where the tests' key file is; see the fixture of all unit tests."""
    return Path(os.environ["ATELIER_KEY_FILE"])


@pytest.fixture
def store(path: Path) -> KeyStore:
    return KeyStore(path)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def forged(key: str) -> str:
    """The same id with another secret."""
    head, _, secret = key.rpartition("_")
    return f"{head}_{secret[::-1]}" if "_" not in secret else f"{key[:-8]}AAAAAAAA"


def test_a_key_opens_the_service_and_nothing_else_does(store: KeyStore, client: TestClient) -> None:
    assert client.get("/v1/models").status_code == 200
    key = store.create("app").text
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    assert client.post("/v1/generate", json=ASK, headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer atl_"},
        {"authorization": f"Bearer atl_{'0' * 12}_{'A' * 43}"},
        {"authorization": "Bearer a.b.c"},
        {"authorization": "Basic YTpi"},
        {"api-key": "wrong"},
        {"authorization": "Bearer \u00e9\u00e9".encode("latin-1").decode("latin-1")},
    ],
)
def test_whatever_is_no_key_is_refused_alike(
    store: KeyStore, client: TestClient, headers: dict[str, str]
) -> None:
    store.create("app")
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post("/v1/generate", json=ASK, headers=raw)  # type: ignore[arg-type]  # bytes
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_an_answer_does_not_tell_which_keys_exist(store: KeyStore, client: TestClient) -> None:
    key = store.create("app").text
    wrong = [forged(key), f"atl_{'0' * 12}_{'A' * 43}", "nonsense"]
    answers = [client.get("/v1/models", headers=bearer(one)) for one in wrong]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    store.revoke("app")
    assert client.get("/v1/models", headers=bearer(forged(key))).content == answers[0].content
    revoked = client.get("/v1/models", headers=bearer(key))
    assert revoked.json()["error"]["message"].startswith("the API key was revoked")


def test_an_unknown_id_costs_the_same_comparison(
    store: KeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, ring, compared = store.create("app").text, KeyRing(path), []

    def compare(left: str, right: str) -> bool:
        compared.append(len(left) == len(right))
        return left == right

    monkeypatch.setattr("services.gateway.keys.hmac.compare_digest", compare)
    for one in (key, forged(key), f"atl_{'0' * 12}_{'A' * 43}"):
        before = len(compared)
        if one == key:
            ring.caller(one)
        else:
            with pytest.raises(InvalidApiKey):
                ring.caller(one)
        assert compared[before:] == [True]


def test_compatible_clients_send_keys_their_own_way(store: KeyStore, connect: Any) -> None:
    key = store.create("app").text
    client = connect()
    assert client.get("/v1/models", headers={"api-key": key}).status_code == 200
    same = {"authorization": f"bearer {key}", "api-key": key}
    assert client.get("/v1/models", headers=same).status_code == 200
    speaking = openai.OpenAI(api_key=key, base_url="http://testserver/v1", http_client=client)
    assert speaking.models.list().data
    stranger = openai.OpenAI(
        api_key="sk-none", base_url="http://testserver/v1", http_client=client, max_retries=0
    )
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_two_keys_at_once_are_refused(store: KeyStore, client: TestClient) -> None:
    one, two = store.create("one").text, store.create("two").text
    both = {"authorization": f"Bearer {one}", "api-key": two}
    assert client.get("/v1/models", headers=both).status_code == 401
    twice = [("authorization", f"Bearer {one}"), ("authorization", f"Bearer {two}")]
    assert client.get("/v1/models", headers=twice).status_code == 401  # type: ignore[arg-type]


def test_a_key_in_the_query_is_none(store: KeyStore, client: TestClient) -> None:
    key = store.create("app").text
    assert client.get(f"/v1/models?api-key={key}&authorization={key}").status_code == 401


def test_a_scope_that_is_missing_is_named(
    store: KeyStore, client: TestClient, backend: Any
) -> None:
    key = store.create("app", scopes=("likelihood", "edit")).text
    answer = client.post("/v1/generate", json=ASK, headers=bearer(key))
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("forbidden", "permission_error")
    assert "'generate'" in error["message"]
    assert "insufficient_scope" in answer.headers["www-authenticate"]
    openai_way = {"prompt": "a red circle", "model": "shapes-ldm"}
    refused = client.post("/v1/images/generations", json=openai_way, headers=bearer(key))
    assert refused.status_code == 403
    assert not backend.calls
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_a_key_knows_only_its_models(store: KeyStore, client: TestClient, backend: Any) -> None:
    key = store.create("app", models=("shapes-vae",)).text
    listed = client.get("/v1/models", headers=bearer(key)).json()["data"]
    assert [model["id"] for model in listed] == ["shapes-vae"]
    assert client.get("/v1/models/shapes-vae", headers=bearer(key)).status_code == 200
    for name in ("shapes-ldm", "no-such-model"):  # it is not told which of them there is
        answers = [
            client.get(f"/v1/models/{name}", headers=bearer(key)),
            client.post("/v1/generate", json={**ASK, "model": name}, headers=bearer(key)),
        ]
        assert [answer.status_code for answer in answers] == [403, 403]
        assert all(f"'{name}'" in answer.json()["error"]["message"] for answer in answers)
    assert not backend.calls
    pools = client.get("/v1/status", headers=bearer(key)).json()["pools"]
    assert [pool["loaded"] for pool in pools] == [[]]


def test_what_a_key_may_use_reaches_the_engines_queue(
    store: KeyStore, client: TestClient, backend: Any
) -> None:
    new = store.create("app", priority=7)
    client.post("/v1/generate", json=ASK, headers=bearer(new.text))
    assert (backend.calls[-1].tenant, backend.calls[-1].weight) == (new.row.owner, 4.0)


def test_without_keys_everybody_is_one_tenant(client: TestClient, backend: Any) -> None:
    client.post("/v1/generate", json=ASK)
    assert (backend.calls[-1].tenant, backend.calls[-1].weight) == ("", 1.0)


def test_an_expired_key_is_refused(store: KeyStore, client: TestClient) -> None:
    key = store.create("app", expires=1.0).text
    answer = client.get("/v1/models", headers=bearer(key))
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]["message"]


def test_a_rotated_key_is_good_for_a_grace_time(path: Path) -> None:
    clock = [1000.0]
    store, ring = KeyStore(path, now=lambda: clock[0]), KeyRing(path, now=lambda: clock[0])
    old = store.create("app", scopes=("edit",), rate="9/min", priority=3)
    new = store.rotate("app", grace=60.0)
    assert ring.caller(old.text) == ring.caller(new.text)
    clock[0] += 61
    assert ring.caller(new.text).owner == old.row.id
    with pytest.raises(InvalidApiKey, match="expired"):
        ring.caller(old.text)
    assert store.rotate("app", grace=0.0).row.owner == old.row.id
    with pytest.raises(InvalidApiKey, match="expired"):
        ring.caller(new.text)


def test_revoking_ends_a_key_without_a_restart(store: KeyStore, client: TestClient) -> None:
    store.create("other")
    key = store.create("app").text
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    store.revoke("app")
    assert client.get("/v1/models", headers=bearer(key)).status_code == 401


def test_a_service_that_had_keys_stays_closed_without_its_file(
    store: KeyStore, path: Path, client: TestClient
) -> None:
    key = store.create("app").text
    assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    path.unlink()
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize("damage", ["broken", "open to others"])
def test_a_file_that_cannot_be_trusted_lets_nobody_in(
    store: KeyStore, path: Path, client: TestClient, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.create("app").text
    if damage == "broken":
        path.write_text('{"version": 1, "keys": ')
    else:
        path.chmod(0o644)
    for headers in ({}, bearer(key)):
        answer = client.get("/v1/models", headers=headers)
        assert answer.status_code == 503
        assert str(path) not in answer.text
    assert str(path) in caplog.text


def test_the_file_holds_no_key_and_is_its_owners_alone(store: KeyStore, path: Path) -> None:
    new = store.create("app")
    content = path.read_text()
    _, secret = split_key(new.text)
    assert secret not in content
    assert new.text not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(InvalidParameter, match="chmod 600"):
        store.rows()


def test_the_same_key_has_another_digest_in_another_file(tmp_path: Path) -> None:
    files = [KeyStore(tmp_path / name / "keys.json") for name in "ab"]
    for file in files:
        file.create("app")
    secrets = {json.loads((tmp_path / n / "keys.json").read_text())["secret"] for n in "ab"}
    assert len(secrets) == 2


def test_keys_appear_in_no_log_metric_or_error(
    store: KeyStore, client: TestClient, backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = store.create("app").text
    wrong = forged(key)
    backend.error = ZeroDivisionError("a bug")
    said = [client.post("/v1/generate", json=ASK, headers=bearer(one)) for one in (key, wrong)]
    assert [answer.status_code for answer in said] == [500, 401]
    page = client.get("/metrics").text
    for secret in (key, wrong, *split_key(key), split_key(wrong)[1]):
        assert secret not in caplog.text
        assert secret not in page
        assert all(secret not in answer.text + str(answer.headers) for answer in said)


def test_a_name_is_taken_once(store: KeyStore) -> None:
    store.create("app")
    with pytest.raises(InvalidParameter, match="rotate app"):
        store.create("app")
    store.revoke("app")
    store.create("app")
    assert [row.state(0.0) for row in store.rows()] == ["revoked", "active"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": ("paint",)},
        {"rate": "60"},
        {"rate": "0/min"},
        {"device_seconds": "1/year"},
        {"priority": 10},
        {"name": "../x"},
        {"name": "a\r\nb"},
    ],
)
def test_senseless_grants_are_refused(store: KeyStore, path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        store.create(**{"name": "app", **wrong})
    assert not path.exists()


def test_what_is_not_there_is_said_with_what_is(store: KeyStore) -> None:
    store.create("app")
    for change in (store.revoke, lambda name: store.rotate(name, grace=1.0)):
        with pytest.raises(InvalidParameter, match="there are: app"):
            change("apq")


def test_durations() -> None:
    assert [parse_duration(t) for t in ("90d", "12h", "30min", "0s")] == [7776000, 43200, 1800, 0]
    for wrong in ("", "90", "d", "-1d", "1.5h", "1 d", "9999999d"):
        with pytest.raises(InvalidParameter):
            parse_duration(wrong)


def test_a_public_bind_takes_a_key_of_the_file(store: KeyStore, path: Path) -> None:
    public = GatewaySettings(host="0.0.0.0")  # noqa: S104 - nobody listens
    with pytest.raises(InvalidParameter, match="atelier keys create"):
        check_bind(public)
    store.create("app")
    check_bind(public)
    path.chmod(0o644)
    with pytest.raises(InvalidParameter, match="chmod 600"):
        check_bind(GatewaySettings())
