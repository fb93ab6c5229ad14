"""Traces and log lines of a real server, as a collector and a pipe receive them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.running import ROOT, Server, free_port, until
from tests.otlp import Collector, Received, collector

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=value"}
ASK = {"model": "shapes-ldm", "prompt": "a red star", "seed": 1, "steps": 3, "n": 2}
STAGES = ("atelier.queue", "atelier.prepare", "atelier.steps", "atelier.decode", "atelier.encode")
FORGED = '\r\n{"level": "error", "message": "forged"}\x1b[31m'


class Observed:
    """A server whose spans a collector takes."""

    def __init__(self, server: Server, found: Collector) -> None:
        self.server, self.collector = server, found

    def lines(self) -> list[dict[str, Any]]:
        """What was logged: of all that the server printed, the objects."""
        said = self.server.folder.with_suffix(".log").read_text(errors="replace").splitlines()
        return [json.loads(line) for line in said if line.startswith("{")]

    def said_of(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["request_id"] == request_id]

    def spans(self, trace: str, least: int) -> list[Received]:
        """The spans of a trace, once there are as many."""
        until(lambda: len(self.collector.of(trace)) >= least, f"{least} spans came")
        return self.collector.of(trace)


@pytest.fixture(scope="module", params=["fused", "apart"])
def observed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    pool = {"name": "default", "placement": request.param, "models": ["*"]}
    config["applications"][0]["args"]["pools"] = [{**pool, "preload": ["shapes-ldm"]}]
    path = tmp_path_factory.mktemp("observed") / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [sys.executable, "-m", "services.cli", "serve"]
    command += ["--config", str(path), "--port", str(port)]
    with collector() as found:
        server = Server(
            command,
            port=port,
            environment={
                "OTEL_EXPORTER_OTLP_ENDPOINT": found.url,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "ATELIER_TRACING__STEP_SPANS": "2",
            },
        )
        try:
            yield Observed(server, found)
            # What the last request left is sent before the processes end.
            server.post("/v1/generate", ASK, headers=_parent_of("f" * 32)).raise_for_status()
            server.stop()
            assert {span.name for span in found.of("f" * 32)} >= {"POST /v1/generate", *STAGES}
        finally:
            server.destroy()


def _parent_of(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-01"}


def test_a_trace_goes_from_the_request_through_every_stage(observed: Observed):
    answer = observed.server.post("/v1/generate", ASK, headers=PARENT)
    answer.raise_for_status()
    apart = observed.server.get("/v1/status")["pools"][0]["placement"] == "apart"
    spans = observed.spans(TRACE, 8 + apart)
    by_name = {span.name: span for span in spans}
    root = by_name["POST /v1/generate"]
    assert (root.parent, root.state, root.kind) == (CALLER, "vendor=value", "server")
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["http.route"] == "/v1/generate"
    assert root.attributes["atelier.model"] == "shapes-ldm"
    assert root.resource["service.name"] == "atelier"
    above = root
    if apart:
        above = by_name["atelier.pool"]
        assert (above.parent, above.kind) == (root.id, "client")
    assert {by_name[name].parent for name in STAGES} == {above.id}
    assert by_name["atelier.steps"].resource["atelier.part"] == ("default" if apart else "gateway")
    assert by_name["atelier.steps"].attributes["atelier.steps"] == 3
    assert by_name["atelier.steps"].attributes["atelier.rows"] == 2
    steps = [span for span in spans if span.name == "atelier.step"]
    assert [span.parent for span in steps] == [by_name["atelier.steps"].id] * 2
    times = [(by_name[name].began, by_name[name].ended) for name in STAGES]
    assert all(began <= ended for began, ended in times)
    assert times == sorted(times)


def test_an_unsampled_trace_is_logged_and_not_sent(observed: Observed):
    trace = "1" * 32
    parent = {"traceparent": f"00-{trace}-{CALLER}-00", "x-request-id": "unsampled"}
    observed.server.post("/v1/generate", ASK, headers=parent).raise_for_status()
    observed.server.post("/v1/generate", ASK, headers=_parent_of("2" * 32)).raise_for_status()
    observed.spans("2" * 32, 6)
    assert not observed.collector.of(trace)
    (line,) = until(lambda: observed.said_of("unsampled"), "its line was logged")
    assert line["trace_id"] == trace


def test_a_request_is_one_line_of_json(observed: Observed):
    headers = {"x-request-id": "logged", **_parent_of("3" * 32)}
    observed.server.post("/v1/generate", ASK, headers=headers).raise_for_status()
    (line,) = until(lambda: observed.said_of("logged"), "its line was logged")
    assert line["trace_id"] == "3" * 32
    assert (line["level"], line["status"], line["task"]) == ("info", 200, "generate")
    assert (line["model"], line["route"]) == ("shapes-ldm", "/v1/generate")
    assert line["seconds"] >= line["device_seconds"] > 0
    assert "red star" not in json.dumps(observed.lines())


def test_nothing_that_a_client_sends_forges_a_line(observed: Observed):
    observed.server.post("/v1/generate", {**ASK, "model": FORGED, "prompt": FORGED, FORGED: 1})
    answer = observed.server.get("/v1/models")
    assert answer["data"]
    observed.server.post("/%0d%0a%1b[31m", {}, headers={"x-request-id": "last"})
    until(lambda: observed.said_of("last"), "its line was logged")
    printed = observed.server.folder.with_suffix(".log").read_text()
    assert "\x1b" not in printed
    assert not [line for line in observed.lines() if line["message"] == "forged"]
