"""Rules and alerts do what they say, and every alert has a page that helps."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.unit.deploy.folders import PROMETHEUS, ROOT, RUNBOOKS, tool
from tests.unit.deploy.promql import rules, selectors

ALERTS: list[dict[str, Any]] = rules("alerts.yaml")
RECORDED = {rule["record"] for rule in rules("recording.yaml")}
TESTS = ("alerts_test.yaml", "alerts_slow_test.yaml")

needs_promtool = pytest.mark.skipif(
    tool("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(tool("promtool")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True)


@needs_promtool
def test_prometheus_takes_the_config_and_the_rules() -> None:
    run = promtool("check", "config", PROMETHEUS / "prometheus.yaml")
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS)
def test_alerts_fire_when_they_should_and_only_then(file: str) -> None:
    run = promtool("test", "rules", PROMETHEUS / file)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_is_seen_to_fire() -> None:
    fired = {
        case["alertname"]
        for file in TESTS
        for test in yaml.safe_load((PROMETHEUS / file).read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case.get("exp_alerts")
    }
    assert fired == {alert["alert"] for alert in ALERTS}


def test_rules_use_no_rule_that_is_not_there() -> None:
    for rule in [*rules("recording.yaml"), *ALERTS]:
        used = {name for name, _ in selectors(rule["expr"]) if ":" in name}
        assert used <= RECORDED, rule


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_runbook_that_names_what_it_is_about(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    page = ROOT / alert["annotations"]["runbook_url"]
    assert page.parent == RUNBOOKS
    assert page.stem == alert["alert"]
    text = page.read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    for linked in re.findall(r"\]\(([^)]+)\)", text):
        assert (RUNBOOKS / linked).is_file(), linked


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {alert["alert"] for alert in ALERTS}
