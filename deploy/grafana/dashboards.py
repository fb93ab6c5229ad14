"""Grafana's dashboards, made from code: ``python -m deploy.grafana.dashboards FOLDER``.

They ask Prometheus for the series that ``/metrics`` shows, and for those that
``deploy/prometheus/recording.yaml`` makes of them. A test sees to it that every one of them exists.
"""

from __future__ import annotations

import itertools
import string
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import Dashboard, DataSourceRef

from deploy.grafana.models import MODELS
from deploy.grafana.panels import Board, Panel
from deploy.grafana.service import SERVICE

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
HEIGHT, WIDTH = 8, 12
BOARDS = (SERVICE, MODELS)


def _panel(panel: Panel, number: int) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.meaning)
        .unit(panel.unit)
        .min(0)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(WIDTH)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "max"])
        )
    )
    for letter, (name, expression) in zip(string.ascii_uppercase, panel.queries, strict=False):
        built = built.with_target(
            prometheus.Dataquery().expr(expression).legend_format(name).ref_id(letter).range()
        )
    return built


def make(board: Board) -> Dashboard:
    """A board as Grafana understands it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["atelier"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
    )
    if board.by_model:
        made = made.with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(atelier_rows_total, model)")
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    numbers = itertools.count(1)
    for title, panels in board.rows:
        made = made.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            made = made.with_panel(_panel(panel, next(numbers)))
    return made.build()


def write(folder: Path) -> list[Path]:
    """Write every board as JSON, as Grafana imports and provisions it; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for board in BOARDS:
        path = folder / f"{board.uid}.json"
        path.write_text(JSONEncoder(sort_keys=True, indent=2).encode(make(board)) + "\n", "utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "out/grafana")):
        sys.stdout.write(f"{path}\n")
