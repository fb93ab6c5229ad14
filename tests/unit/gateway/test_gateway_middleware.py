"""Around every request: id, body limit, headers, errors, keys, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from services.core import errors

ASK = {"model": "shapes-ldm", "prompt": "a star"}


def test_a_client_id_comes_back_once(client: Any, backend: Any) -> None:
    answer = client.post("/v1/generate", json=ASK, headers={"x-request-id": "Mine-1._"})
    assert answer.headers.get_list("x-request-id") == ["Mine-1._"]
    assert backend.calls[0].id == "Mine-1._"


@pytest.mark.parametrize("given", [None, "", "two words", "a" * 65, "x\ty", "naïve"])
def test_any_other_id_is_replaced(client: Any, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given.encode()}
    for path in ("/livez", "/nowhere", "/v1/models/none"):
        (answered,) = client.get(path, headers=headers).headers.get_list("x-request-id")
        assert re.fullmatch("[0-9a-f]{32}", answered)


def test_no_id_is_emitted_behind_a_server_that_does(connect: Any) -> None:
    assert "x-request-id" not in connect(emit_request_id=False).get("/livez").headers


def test_headers_that_command_the_server_are_dropped(build: Any) -> None:
    seen: list[Any] = []
    app = build()

    @app.get("/headers")
    async def headers() -> None:
        return None

    class Spy:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append([name for name, _ in scope["headers"]])
            await self.inner(scope, receive, send)

    app.router.routes[-1].app = Spy(app.router.routes[-1].app)
    sent = {"X-Request-Timeout-Seconds": "0", "x-request-disconnect-disabled": "?1", "x-kept": "1"}
    TestClient(app).get("/headers", headers=sent)
    assert b"x-kept" in seen[0]
    assert not any(b"timeout" in name or b"disconnect" in name for name in seen[0])


@pytest.mark.parametrize("path", ["/livez", "/docs", "/nowhere", "/v1/models"])
def test_every_answer_is_protected(client: Any, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert "total;dur=" in headers["server-timing"]


def test_a_claimed_length_over_the_limit_is_refused_unread(connect: Any, registry: Any) -> None:
    pulled = 0

    def body() -> Iterator[bytes]:
        nonlocal pulled
        pulled += 1
        yield b"x"

    headers = {"content-length": "2000", "content-type": "application/json"}
    client = connect(max_body_bytes=1000)
    answer = client.post("/v1/generate", content=body(), headers=headers)
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["error"]["message"]
    assert answer.headers["connection"] == "close"
    assert pulled == 0
    reason = {"reason": "too_large"}
    assert registry.get_sample_value("atelier_rejected_total", reason) == 1


@pytest.mark.parametrize("length", ["-1", "1e3", "²", "9" * 400])
def test_a_senseless_length_is_refused(connect: Any, length: str) -> None:
    headers = {"content-length": length.encode(), "content-type": "application/json"}
    answer = connect().post("/v1/generate", content=iter([b"{}"]), headers=headers)
    assert answer.status_code in (400, 413)


FORM_START = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
def test_a_chunked_body_is_read_no_further_than_the_limit(build: Any, content_type: str) -> None:
    pulled = 0
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal pulled
        pulled += 1
        is_start = pulled == 1 and content_type.startswith("multipart")
        chunk = FORM_START if is_start else b" " * 100
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/edit",
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode()), (b"transfer-encoding", b"chunked")],
    }
    asyncio.run(build(max_body_bytes=1000)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert pulled == 11 if content_type == "application/json" else pulled <= 11


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("GET", "/v1/generate", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/" + "x" * 200, 422, "invalid_parameter"),
        ("GET", "/v1/models/shapes-lmd", 404, "model_not_found"),
    ],
)
def test_framework_errors_use_the_envelope(
    client: Any, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "detail" not in answer.json()
    if status == 405:
        assert answer.headers["allow"]


ERRORS = [
    (errors.BadRequest("x"), 400, False, None),
    (errors.ModelNotFound("x"), 404, False, None),
    (errors.TooLarge("x"), 413, False, None),
    (errors.UnsupportedMedia("x"), 415, False, None),
    (errors.InvalidParameter("x"), 422, False, None),
    (errors.UnsupportedTask("x"), 422, False, None),
    (errors.InvalidImage("x"), 422, False, None),
    (errors.QueueFull("x", retry_after=0.2), 429, True, "1"),
    (errors.QueueFull("x", retry_after=7.1), 429, True, "8"),
    (errors.QueueFull("x", retry_after=9999), 429, True, "120"),
    (errors.QueueFull("x"), 429, True, "1"),
    (errors.Canceled("x"), 499, False, None),
    (errors.EngineFailure("x"), 500, False, None),
    (errors.OutOfDeviceMemory("x"), 500, False, None),
    (errors.IntegrityFailure("x"), 500, False, None),
    (errors.Unavailable("x"), 503, True, "1"),
    (errors.DeadlineUnmeetable("x"), 504, False, None),
    (errors.DeadlineUnmeetable("x", retry_after=3), 504, True, "3"),
    (errors.DeadlineExceeded("x"), 504, False, None),
]


@pytest.mark.parametrize(("error", "status", "retry", "wait"), ERRORS)
def test_each_error_has_its_status(
    client: Any, backend: Any, error: Any, status: int, retry: bool, wait: str | None
) -> None:
    backend.error = error
    answer = client.post("/v1/generate", json=ASK)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == error.code
    assert answer.headers.get("retry-after") == wait
    assert answer.headers.get("x-should-retry") == (None if retry else "false")


def test_a_bug_tells_the_client_nothing_but_the_id(
    client: Any, backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend.error = RuntimeError("secret path")
    with caplog.at_level(logging.ERROR):
        answer = client.post("/v1/generate", json=ASK, headers={"x-request-id": "abc"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "secret" not in answer.text
    assert "abc" in error["message"]
    assert "abc" in caplog.text
    assert answer.headers.get_list("x-request-id") == ["abc"]


KEY = "correct horse"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {DIGEST}"}, 401),
        ({"authorization": "Basic Y29ycmVjdA=="}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
    ],
)
def test_keys_guard_the_api(connect: Any, header: dict[str, str], status: int) -> None:
    client = connect(api_keys=["0" * 64, DIGEST])
    for path in ("/v1/models", "/v1/models/shapes-ldm", "/v1/status"):
        assert client.get(path, headers=header).status_code == status
    for path in ("/v1/generate", "/v1/images/generations"):
        assert client.post(path, json=ASK, headers=header).status_code == status
    answer = client.post("/v1/encode", content=b"unread", headers=header)
    assert answer.status_code == (401 if status == 401 else 415)
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_probes_need_no_key(connect: Any, path: str) -> None:
    assert connect(api_keys=[DIGEST]).get(path).status_code == 200


def test_readiness_and_status(client: Any, backend: Any) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    status = client.get("/v1/status").json()
    assert status["ready"] is True
    assert status["pools"][0]["queue_seconds"] == 0.5
    backend.is_ready = False
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert client.get("/livez").status_code == 200


def _series(client: Any) -> dict[str, int]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {family.name: len(family.samples) for family in families}


def test_requests_are_counted_by_route_model_task_and_code(client: Any, registry: Any) -> None:
    client.post("/v1/generate", json=ASK)
    client.get("/v1/models/shapes-ldm")
    client.post("/v1/edit", json={"model": "nonesuch", "operation": "variation"})

    def count(route: str, model: str, task: str, code: str) -> float | None:
        labels = {"route": route, "model": model, "task": task, "code": code}
        return registry.get_sample_value("atelier_requests_total", labels)

    assert count("/v1/generate", "shapes-ldm", "generate", "200") == 1
    assert count("/v1/models/{model}", "shapes-ldm", "none", "200") == 1
    assert count("/v1/edit", "unknown", "edit", "404") == 1
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert "atelier_request_seconds_bucket" in page.text


def test_invented_names_leave_the_number_of_series_flat(client: Any) -> None:
    def invent(name: str) -> None:
        client.get(f"/{name}")
        client.get(f"/v1/models/{name}")
        client.post("/v1/generate", json={"model": name})
        client.post("/v1/generate", json={**ASK, name: 1})

    invent("first")
    client.get("/metrics")
    before = _series(client)
    for i in range(50):
        invent(f"name{i}")
    assert _series(client) == before


def test_metrics_of_several_processes_are_read_from_their_directory(
    client: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/generate", json=ASK)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    page = client.get("/metrics")
    assert page.status_code == 200
    assert "atelier_requests_total{" not in page.text
