"""Every series that a rule, a panel or a runbook names is in a live scrape of the service."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from deploy.grafana.dashboards import BOARDS, write
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.serving.in_process import InProcessBackend
from services.serving.process_metrics import ProcessMetrics
from tests.tiny_models import one_of_each
from tests.unit.deploy.folders import RUNBOOKS
from tests.unit.deploy.promql import panel_expressions, rules, selectors

pytestmark = pytest.mark.slow
"""Real engines of every family are opened once."""

OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus gives every series itself."""
WITHOUT_SAMPLES = {"atelier_prompt_cache_lookups", "atelier_canceled", "atelier_safety_decisions"}
"""Families that are there without a series: until a prompt is encoded, a call withdrawn, a policy
asked."""

Scrape = dict[str, set[str]]
"""Names of series, with the labels that they have."""


def _requests(client: TestClient) -> None:
    generated = client.post("/v1/generate", json={"model": "tiny-flow", "seed": 1})
    assert generated.status_code == 200
    image = generated.json()["data"][0]["b64_json"]
    judged = client.post("/v1/likelihood", json={"model": "tiny-flow", "images": [image]})
    assert judged.status_code == 200
    late = {"model": "tiny-diffusion", "steps": 50, "seed": 1, "deadline": 1e-6}
    assert client.post("/v1/generate", json=late).status_code == 504
    assert client.post("/v1/generate", json={"model": "nonesuch"}).status_code == 404


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    folder = tmp_path_factory.mktemp("service")
    registry = CollectorRegistry()
    observer = ProcessMetrics(registry).of_pool("default")
    backend = InProcessBackend(
        one_of_each(), discover(), observer=observer, on_load=observer.loaded
    )
    settings = GatewaySettings(key_file=folder / "keys.json")
    app = create_app(
        backend,
        settings,
        metrics=GatewayMetrics(registry),
        make_jobs=jobs_for(settings.jobs, folder),
    )
    with TestClient(app) as client:
        _requests(client)
        page = client.get("/metrics").text
    backend.close()
    found: Scrape = {}
    for family in text_string_to_metric_families(page):
        if family.name in WITHOUT_SAMPLES:
            assert not family.samples
            declared = registry._names_to_collectors[family.name]
            found[f"{family.name}_total"] = set(declared._labelnames)
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check(expression: str, scrape: Scrape) -> None:
    for name, labels in selectors(expression):
        if name != "up" and ":" not in name:
            assert name in scrape, f"no such series: {name}, in {expression}"
            missing = labels - scrape[name] - OF_PROMETHEUS
            assert not missing, f"{name} has no label {missing}, in {expression}"


@pytest.mark.parametrize("file", ["recording.yaml", "alerts.yaml"])
def test_rules_ask_for_what_is_there(file: str, scrape: Scrape) -> None:
    for rule in rules(file):
        check(str(rule["expr"]), scrape)


def test_panels_ask_for_what_is_there(scrape: Scrape) -> None:
    recorded = {rule["record"] for rule in rules("recording.yaml")}
    expressions = panel_expressions()
    assert len(expressions) > 20
    for expression in expressions:
        check(expression, scrape)
        assert {name for name, _ in selectors(expression) if ":" in name} <= recorded


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_runbooks_name_what_is_there(page: Path, scrape: Scrape) -> None:
    text = page.read_text()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in scrape}
    named = set(re.findall(r"\batelier_[a-z_]+", text)) - {"atelier_"}
    assert named
    assert named <= set(scrape) | families, named - set(scrape) - families
    for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL):
        if not block.startswith("curl"):
            for expression in re.split(r"\n(?=\S)", block.strip()):
                check(expression, scrape)


def test_a_name_that_is_not_there_is_noticed(scrape: Scrape) -> None:
    with pytest.raises(AssertionError, match="atelier_nonesuch"):
        check("rate(atelier_nonesuch[5m])", scrape)
    with pytest.raises(AssertionError, match="colour"):
        check('sum(atelier_requests_total{colour="red"})', scrape)


def test_dashboards_are_what_grafana_takes(tmp_path: Path) -> None:
    for path, board in zip(write(tmp_path), BOARDS, strict=True):
        made = json.loads(path.read_text())
        assert (made["uid"], made["title"]) == (board.uid, board.title)
        numbers = [panel["id"] for panel in made["panels"]]
        assert len(set(numbers)) == len(numbers)
        shown = [panel for panel in made["panels"] if panel["type"] == "timeseries"]
        assert len(shown) == sum(len(panels) for _, panels in board.rows)
        assert all(panel["targets"] and panel["description"] for panel in shown)
        places = [tuple(panel["gridPos"].values()) for panel in made["panels"]]
        assert len(set(places)) == len(places)
