"""What a PromQL expression asks for."""

from __future__ import annotations

import promql_parser
import yaml

from deploy.grafana.dashboards import BOARDS
from tests.unit.deploy.folders import PROMETHEUS


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Every series that an expression selects, with the labels that it asks for."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: object) -> None:
        # A range is a node of its own, whose selector is not visited.
        node = getattr(node, "vector_selector", node)
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def rules(file: str) -> list[dict[str, object]]:
    """Every rule of a file of `deploy/prometheus`."""
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_expressions() -> list[str]:
    """Every query of every dashboard, with Grafana's variables filled in."""
    return [
        expression.replace("$__rate_interval", "5m").replace("$model", ".*")
        for board in BOARDS
        for _, panels in board.rows
        for panel in panels
        for _, expression in panel.queries
    ]
