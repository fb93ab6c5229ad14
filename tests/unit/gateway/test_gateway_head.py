"""HEAD is GET without the body."""

from __future__ import annotations

from typing import Any

import pytest

COMPARED = ("content-type", "content-length", "cache-control", "etag")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/models", "/v1/models/shapes-ldm", "/nowhere", "/"]
)
def test_head_answers_as_get_does_but_for_the_body(client: Any, path: str) -> None:
    full, head = client.get(path), client.head(path)
    assert full.content
    assert head.content == b""
    assert head.status_code == full.status_code
    for name in COMPARED:
        assert head.headers.get(name) == full.headers.get(name)


def test_head_of_what_is_only_posted_names_the_method_that_is_allowed(client: Any) -> None:
    answer = client.head("/v1/generate")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_a_head_is_counted_on_its_route(client: Any) -> None:
    client.head("/readyz")
    assert 'route="/readyz"' in client.get("/metrics").text
