"""Every request is a span below its client's, and the work is spans below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from services.core.errors import EngineFailure
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.call_spans import CallSpans
from services.serving.cascade import Cascades
from services.serving.in_process import InProcessBackend
from services.serving.wire import pack_call, unpack_call
from tests.tiny_models import one_of_each

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
SAMPLED_FLAG = 1
STAGES = ["atelier.queue", "atelier.prepare", "atelier.steps", "atelier.decode", "atelier.encode"]
ASK = {"model": "tiny-diffusion", "seed": 1, "steps": 4, "n": 2, "guidance_scale": 1.0}


class Spans:
    """What a tracer's spans were, once they have ended."""

    def __init__(self, **options: Any) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(**options, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = provider.get_tracer("tests")

    def all(self) -> list[ReadableSpan]:
        return list(self._kept.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


def parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format_span_id(span.parent.span_id)


def own(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id)


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def traced(backend: Any, registry: Any, spans: Spans) -> TestClient:
    """A gateway over the scripted backend."""
    metrics = GatewayMetrics(registry)
    return TestClient(create_app(backend, GatewaySettings(), metrics=metrics, tracer=spans.tracer))


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[Spans, TestClient]]:
    """A gateway over tiny engines, with two spans of single steps; shared, for engines are slow."""
    spans = Spans()
    engines = InProcessBackend(one_of_each(), discover(), spans=CallSpans(spans.tracer, 2))
    app = create_app(
        Cascades(engines, spans.tracer),
        GatewaySettings(default_model="tiny-diffusion"),
        metrics=GatewayMetrics(CollectorRegistry()),
        tracer=spans.tracer,
    )
    yield spans, TestClient(app)
    engines.close()


def of_trace(spans: Spans, trace: str) -> list[ReadableSpan]:
    return [span for span in spans.all() if format_trace_id(span.context.trace_id) == trace]


def test_a_request_is_a_server_span_below_its_clients(traced: TestClient, spans: Spans) -> None:
    ask = {"model": "shapes-ldm", "prompt": "a red circle"}
    headers = {"traceparent": SAMPLED, "tracestate": "a=1,b=2"}
    traced.post("/v1/generate?secret=1", json=ask, headers=headers).raise_for_status()
    span = spans.one("POST /v1/generate")
    assert span.kind is SpanKind.SERVER
    assert format_trace_id(span.context.trace_id) == TRACE
    assert parent(span) == CALLER
    assert span.context.trace_state.to_header() == "a=1,b=2"
    said = dict(span.attributes or {})
    assert said["http.request.method"] == "POST"
    assert said["http.route"] == said["url.path"] == "/v1/generate"
    assert said["http.response.status_code"] == 200
    assert said["atelier.model"] == "shapes-ldm"
    assert "secret" not in str(said)
    assert "circle" not in str(said)


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "")],
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{CALLER}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"ff-{TRACE}-{CALLER}-01")],
        [("traceparent", f"00-{TRACE.upper()}-{CALLER}-01")],
        [("traceparent", SAMPLED + "-more")],
        [("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        [("traceparent", "0" * 2000)],
        [("tracestate", "a=1")],
    ],
)
def test_what_is_no_traceparent_is_ignored(
    traced: TestClient, spans: Spans, headers: list[tuple[str, str]]
) -> None:
    assert traced.get("/v1/models", headers=headers).status_code == 200
    span = spans.one("GET /v1/models")
    assert span.parent is None
    assert format_trace_id(span.context.trace_id) != TRACE


@pytest.mark.parametrize("state", ["=", "a" * 600, "a=1,,=,b", "A B=1"])
def test_a_broken_tracestate_costs_nothing_but_itself(
    traced: TestClient, spans: Spans, state: str
) -> None:
    headers = {"traceparent": SAMPLED, "tracestate": state}
    assert traced.get("/v1/models", headers=headers).status_code == 200
    assert parent(spans.one("GET /v1/models")) == CALLER


def test_probes_are_no_spans_and_unknown_routes_have_no_name(
    traced: TestClient, spans: Spans
) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        traced.get(path)
    traced.get("/invented/name")
    traced.request("BREW", "/v1/models")
    assert {span.name for span in spans.all()} == {"GET", "HTTP /v1/models"}


def test_our_own_failures_are_errors_and_the_clients_are_not(
    traced: TestClient, spans: Spans, backend: Any
) -> None:
    traced.post("/v1/generate", json={"model": "nobody"})
    backend.error = EngineFailure("a secret")
    traced.post("/v1/generate", json={"model": "shapes-ldm", "prompt": "a star"})
    first, second = spans.named("POST /v1/generate")
    assert first.status.is_unset
    assert dict(first.attributes or {})["http.response.status_code"] == 404
    assert not second.status.is_ok
    assert dict(second.attributes or {})["error.type"] == "500"
    assert "secret" not in str([(span.attributes, span.events) for span in spans.all()])


def test_a_call_carries_its_request_over_the_wire(traced: TestClient, backend: Any) -> None:
    ask = {"model": "shapes-ldm", "prompt": "a star"}
    traced.post("/v1/generate", json=ask, headers={"traceparent": SAMPLED})
    (call,) = backend.calls
    assert call.trace["traceparent"].startswith(f"00-{TRACE}-")
    assert unpack_call(pack_call(call)).trace == call.trace


def test_what_is_not_sampled_goes_on_unsampled(backend: Any, registry: Any) -> None:
    spans = Spans(sampler=ParentBased(TraceIdRatioBased(0.0)))
    app = create_app(
        backend, GatewaySettings(), metrics=GatewayMetrics(registry), tracer=spans.tracer
    )
    ask = {"model": "shapes-ldm", "prompt": "a star"}
    TestClient(app).post("/v1/generate", json=ask)
    assert not spans.all()
    flags = backend.calls[0].trace["traceparent"].rpartition("-")[2]
    assert int(flags, 16) & SAMPLED_FLAG == 0


def test_the_stages_of_a_call_are_spans_in_their_order(real: tuple[Spans, TestClient]) -> None:
    spans, client = real
    trace = "1" * 32
    headers = {"traceparent": f"00-{trace}-{CALLER}-01"}
    client.post("/v1/generate", json=ASK, headers=headers).raise_for_status()
    found = {span.name: span for span in of_trace(spans, trace)}
    root = found["POST /v1/generate"]
    stages = [found[name] for name in STAGES]
    assert {parent(span) for span in stages} == {own(root)}
    ends = [(span.start_time, span.end_time) for span in stages]
    assert ends == sorted(ends)
    assert root.start_time <= ends[0][0]
    assert ends[-1][1] <= root.end_time
    said = dict(found["atelier.steps"].attributes or {})
    assert said["atelier.steps"] == 4
    assert (said["atelier.rows"], said["atelier.batch.rows.max"]) == (2, 2)
    assert said["atelier.batch.mates.max"] == 0
    steps = [span for span in of_trace(spans, trace) if span.name == "atelier.step"]
    assert [parent(span) for span in steps] == [own(found["atelier.steps"])] * 2


def test_a_stream_has_the_same_spans(real: tuple[Spans, TestClient]) -> None:
    spans, client = real
    trace = "2" * 32
    ask = {**ASK, "response": "stream"}
    headers = {"traceparent": f"00-{trace}-{CALLER}-01"}
    assert "event: done" in client.post("/v1/generate", json=ask, headers=headers).text
    assert {span.name for span in of_trace(spans, trace)} >= {*STAGES, "POST /v1/generate"}


def test_a_cascades_stages_are_above_their_models_spans(real: tuple[Spans, TestClient]) -> None:
    spans, client = real
    trace = "3" * 32
    ask = {**ASK, "n": 1, "cascade": "tiny-super_resolution"}
    headers = {"traceparent": f"00-{trace}-{CALLER}-01"}
    for more in ({}, {"response": "stream"}):
        client.post("/v1/generate", json={**ask, **more}, headers=headers).raise_for_status()
    for name in ("atelier.cascade.generate", "atelier.cascade.enlarge"):
        for stage in [span for span in of_trace(spans, trace) if span.name == name]:
            below = {s.name for s in of_trace(spans, trace) if parent(s) == own(stage)}
            assert below >= {"atelier.queue", "atelier.prepare", "atelier.decode"}
    names = [span.name for span in of_trace(spans, trace)]
    assert names.count("atelier.cascade.generate") == 2
    assert names.count("atelier.cascade.enlarge") == 2


def test_a_refusal_marks_the_span_where_it_happened(
    real: tuple[Spans, TestClient],
) -> None:
    spans, client = real
    trace = "6" * 32
    headers = {"traceparent": f"00-{trace}-{CALLER}-01"}
    ask = {**ASK, "deadline": 1e-9}
    assert client.post("/v1/generate", json=ask, headers=headers).status_code == 504
    assert [s.name for s in of_trace(spans, trace) if not s.status.is_unset] == [
        "POST /v1/generate"
    ]
