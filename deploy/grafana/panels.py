"""What a dashboard consists of, and the queries that panels have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Query = tuple[str, str]
"""What a line is called, which may name labels as ``{{label}}``, and its expression."""


@dataclass(frozen=True)
class Panel:
    """Lines over time.

    Attributes:
        title: what is shown.
        unit: Grafana's name of a unit, such as ``s`` or ``bytes``.
        queries: the lines.
        meaning: one sentence for who looks at it.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    meaning: str


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels.

    Attributes:
        uid: by which URLs name it.
        title: of the dashboard.
        rows: by title, their panels.
        by_model: whether one chooses models.
    """

    uid: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    by_model: bool = False


def rate(series: str, by: str, where: str = "") -> str:
    """What a counter grows by each second."""
    matchers = f"{{{where}}}" if where else ""
    return f"sum by ({by}) (rate({series}{matchers}[$__rate_interval]))"


def mean(series: str, by: str, where: str = "") -> str:
    """The mean of a histogram's observations."""
    return f"{rate(f'{series}_sum', by, where)} / {rate(f'{series}_count', by, where)}"


def quantiles(series: str, by: str, where: str = "") -> list[Query]:
    """The median and the 99th percentile of a histogram."""
    buckets = rate(f"{series}_bucket", f"le, {by}", where)
    return [
        (f"{name} {{{{{by}}}}}", f"histogram_quantile({share}, {buckets})")
        for name, share in (("median", 0.5), ("99%", 0.99))
    ]
