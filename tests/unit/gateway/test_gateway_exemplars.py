"""Who scrapes OpenMetrics finds a trace behind each latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from starlette.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ASK = {"model": "shapes-ldm", "prompt": "a moon"}


@pytest.fixture
def traced(backend: Any, registry: CollectorRegistry) -> TestClient:
    tracer = TracerProvider().get_tracer("test")
    metrics = GatewayMetrics(registry)
    return TestClient(create_app(backend, GatewaySettings(), metrics=metrics, tracer=tracer))


def parent(*, sampled: bool) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-{int(sampled):02x}"}


def samples(client: TestClient) -> Iterator[Sample]:
    page = client.get("/metrics", headers={"accept": OPENMETRICS})
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    for family in text_string_to_metric_families(page.text):
        yield from family.samples


def exemplars(client: TestClient) -> list[Sample]:
    return [sample for sample in samples(client) if sample.exemplar]


def test_a_latency_names_the_trace_of_a_request_that_had_it(traced: TestClient) -> None:
    traced.post("/v1/generate", json=ASK, headers=parent(sampled=True)).raise_for_status()
    (found,) = exemplars(traced)
    assert found.name == "atelier_request_seconds_bucket"
    assert found.exemplar
    assert found.exemplar.labels == {"trace_id": TRACE}
    assert (found.labels["route"], found.labels["model"]) == ("/v1/generate", "shapes-ldm")
    assert 0 < found.exemplar.value <= float(found.labels["le"])
    below = [
        float(sample.labels["le"])
        for sample in samples(traced)
        if sample.name == found.name and sample.labels["route"] == "/v1/generate"
    ]
    assert all(bound < found.exemplar.value for bound in below if bound < float(found.labels["le"]))


def test_a_bucket_names_its_latest_trace(traced: TestClient) -> None:
    for _ in range(3):
        traced.post("/v1/generate", json=ASK)
    traced.post("/v1/generate", json=ASK, headers=parent(sampled=True))
    found = {sample.exemplar.labels["trace_id"] for sample in exemplars(traced) if sample.exemplar}
    assert TRACE in found
    assert len(exemplars(traced)) <= 4


def test_a_trace_that_nobody_keeps_is_not_named(traced: TestClient) -> None:
    traced.post("/v1/generate", json=ASK, headers=parent(sampled=False)).raise_for_status()
    assert exemplars(traced) == []


def test_without_tracing_there_are_none(connect: Callable[..., TestClient]) -> None:
    client = connect()
    client.post("/v1/generate", json=ASK).raise_for_status()
    assert exemplars(client) == []
    assert any(sample.name == "atelier_requests_total" for sample in samples(client))


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "text/html"])
def test_others_get_prometheus_text(traced: TestClient, accept: str) -> None:
    traced.post("/v1/generate", json=ASK, headers=parent(sampled=True)).raise_for_status()
    page = traced.get("/metrics", headers={"accept": accept})
    assert page.headers["content-type"].startswith("text/plain")
    assert TRACE not in page.text
    assert "# EOF" not in page.text


@pytest.mark.parametrize("version", ["abc", "-1", "9" * 100, "1.0.0\x0b"])
def test_no_wish_breaks_the_page(traced: TestClient, version: str) -> None:
    wish = {"accept": f"application/openmetrics-text; version={version}; escaping=;q=x"}
    page = traced.get("/metrics", headers=wish)
    assert page.status_code == 200
    assert page.text.endswith("# EOF\n")
