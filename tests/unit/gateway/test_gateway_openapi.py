"""The description is complete, and its examples run as printed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

OF_A_REVIEW = {
    f"/v1/reviews/{{review_id}}{rest}" for rest in ("", "/images/{index}", "/approve", "/reject")
}
"""Routes of what was held before; `test_gateway_reviews` has something held."""
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(client: Any) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def test_every_route_is_described(document: dict[str, Any]) -> None:
    routes = {(method, path) for method, path, _ in _operations(document)}
    assert routes == {
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/v1/models/{model}/reference"),
        ("get", "/v1/models/{model}/card"),
        ("get", "/v1/models/{model}/sheet"),
        ("post", "/v1/generate"),
        ("post", "/v1/edit"),
        ("post", "/v1/likelihood"),
        ("post", "/v1/encode"),
        ("post", "/v1/images/generations"),
        ("post", "/v1/images/edits"),
        ("post", "/v1/images/variations"),
        ("post", "/hf/{model}/text-to-image"),
        ("post", "/hf/{model}/image-to-image"),
        ("get", "/v2"),
        ("get", "/v2/health/live"),
        ("get", "/v2/health/ready"),
        ("get", "/v2/models/{model}"),
        ("get", "/v2/models/{model}/ready"),
        ("post", "/v2/models/{model}/infer"),
        ("delete", "/v1/requests/{request_id}"),
        ("get", "/v1/reviews"),
        ("get", "/v1/reviews/{review_id}"),
        ("get", "/v1/reviews/{review_id}/images/{index}"),
        ("post", "/v1/reviews/{review_id}/approve"),
        ("post", "/v1/reviews/{review_id}/reject"),
        ("get", "/v1/status"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(set(names)) == len(names)
    for method, path, operation in _operations(document):
        assert operation["summary"], path
        if method != "delete":
            assert operation["responses"]["200"]["content"], path
        if method == "post" and path not in OF_A_REVIEW:
            assert operation["requestBody"]["content"]["application/json"]["examples"], path
            assert {"400", "413", "422", "429", "504"} <= set(operation["responses"]), path


def test_it_is_openapi_3_1_and_every_reference_resolves(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    assert {ref.removeprefix("#/components/schemas/") for ref in found} <= set(schemas)
    assert "HTTPValidationError" not in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def _send(client: Any, path: str, media_type: str, value: dict[str, Any], schema: Any) -> Any:
    if media_type == "application/json":
        return client.post(path, json=value)
    files = [
        (name, (f"{name}.png", base64.b64decode(value[name]), "application/octet-stream"))
        for name in ("image", "mask")
        if name in value
    ]
    scalars = [(name, (None, str(v))) for name, v in value.items() if name not in ("image", "mask")]
    assert set(value) <= set(schema["properties"])
    return client.post(path, files=[*scalars, *files])  # as parts, where no file makes it so


def _event_names(text: str) -> set[str]:
    names = [line.removeprefix("event: ") for line in text.splitlines() if line[:6] == "event:"]
    data = [json.loads(line[5:]) for line in text.splitlines() if line[:5] == "data:"]
    assert len(data) == len(names) > 0
    return set(names)


def _placed(path: str, operation: dict[str, Any]) -> str:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            value = parameter["schema"]["examples"][0]
            path = path.replace(f"{{{parameter['name']}}}", value)
    return path


def test_every_example_runs_as_printed(client: Any, document: dict[str, Any]) -> None:
    ran = 0
    for _, path, operation in _operations(document):
        if path in OF_A_REVIEW:
            continue
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            for name, example in content["examples"].items():
                value = example["value"]
                if media_type == "application/json":
                    _validator(document, content["schema"]).validate(value)
                place = _placed(path, operation)
                answer = _send(client, place, media_type, value, content["schema"])
                assert answer.status_code == 200, (path, media_type, name, answer.text)
                ran += 1
                described = operation["responses"]["200"]["content"]
                if answer.headers["content-type"].startswith("text/event-stream"):
                    assert _event_names(answer.text) <= _event_names(
                        described["text/event-stream"]["example"]
                    )
                    continue
                if answer.headers["content-type"].startswith("image/"):
                    assert answer.headers["content-type"] in described
                    continue
                shape = described["application/json"]["schema"]
                _validator(document, shape).validate(answer.json())
    assert ran >= 14


def test_every_get_route_answers_as_described(client: Any, document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        if method != "get" or path in OF_A_REVIEW:
            continue
        place = _placed(path, operation)
        answer = client.get(place)
        assert answer.status_code == 200
        content = operation["responses"]["200"]["content"]
        if "application/json" in content:
            schema = content["application/json"]["schema"]
            _validator(document, schema).validate(answer.json())


def test_errors_have_the_described_shape(client: Any, document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ErrorEnvelope"]
    answer = client.post("/v1/generate", json={})
    _validator(document, schema).validate(answer.json())


def test_docs_need_no_other_host(client: Any, document: dict[str, Any]) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text
    for path in document["paths"]:
        assert path in page.text
    assert "style-src 'sha256-" in page.headers["content-security-policy"]


def test_the_document_is_strict_json(client: Any) -> None:
    json.loads(client.get("/openapi.json").text, parse_constant=pytest.fail)
