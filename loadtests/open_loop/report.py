"""A report for people: a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.table import Table

from loadtests.open_loop.summary import Summary

RunAtRate = tuple[float, Sequence[Summary], float | None]
"""A rate, its summaries (all kinds first), and the mean rows of a batch where known."""


def table(name: str, runs: Sequence[RunAtRate]) -> Table:
    """A row for each kind at each rate."""
    found = Table(title=f"{name}: seconds from the moment a request was due")
    headings = ["rate", "kind", "due", "refused", "failed", "p50", "p90", "p99"]
    for heading in [*headings, "objective", "in time", "verdict"]:
        found.add_column(heading, justify="left" if heading in ("kind", "verdict") else "right")
    for rate, summaries, _ in runs:
        for one in summaries:
            share = f"{one.in_time / one.due:.1%}" if one.due else "-"
            found.add_row(
                f"{rate:g}/s",
                one.kind,
                *(str(count) for count in (one.due, one.refused, one.failed)),
                *(f"{one.latency[percent]:.3f}" for percent in (50.0, 90.0, 99.0)),
                f"{one.objective:.3f}",
                share,
                verdict(one),
            )
        found.add_section()
    return found


def verdict(summary: Summary) -> str:
    """In a word or two."""
    if not summary.trustworthy:
        return f"invalid: {summary.late_sends} sent late"
    return "held" if summary.held else "missed"


def plot(name: str, runs: Sequence[RunAtRate], path: Path) -> None:
    """Latency against rate, goodput against rate, and rows of a batch, as a PNG."""
    mpl.rcParams["font.size"] = 8
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=130)
    latency, goodput, fill = figure.subplots(1, 3)
    rates = [rate for rate, _, _ in runs]
    for percent in (50.0, 90.0, 99.0):
        heights = [summaries[0].latency[percent] for _, summaries, _ in runs]
        latency.plot(rates, heights, marker="o", label=f"p{percent:g}")
    latency.set(title=f"{name}: latency from when due", ylabel="seconds", yscale="log")
    latency.legend()
    goodput.plot(rates, rates, color="0.7", linestyle="--", label="asked for")
    goodput.plot(rates, [s[0].goodput for _, s, _ in runs], marker="o", label="answered in time")
    refused = [summaries[0].refused / summaries[0].span for _, summaries, _ in runs]
    goodput.plot(rates, refused, marker="o", label="refused")
    goodput.set(title="goodput", ylabel="requests per second")
    goodput.legend()
    fill.plot(rates, [rows or float("nan") for _, _, rows in runs], marker="o")
    fill.set(title="rows of a batch, mean", ylim=(0, None))
    for axes in (latency, goodput, fill):
        axes.set_xlabel("requests per second")
        axes.grid(alpha=0.3)
    figure.savefig(path)
