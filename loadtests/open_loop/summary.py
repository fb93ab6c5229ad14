"""What a run amounts to: latencies, goodput, refusals, late sends, and whether objectives held."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests.open_loop.scenario import Kind, Objective, Scenario
from loadtests.open_loop.sender import Outcome

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LATE_SECONDS = 0.05
"""A request sent so much after it was due is a late send."""
LATE_SHARE = 0.01
"""More late sends than this, and the run says more of this client than of the server."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One kind of request at one rate.

    Attributes:
        kind: its name; ``*`` for all kinds together.
        due: requests that were to be sent.
        answered: that were done.
        refused: that the server would not take then.
        failed: that ended in any other way.
        latency: seconds from when a request was due, by percentile, of those answered.
        refusal: seconds until a refusal, the 99th percentile; ``nan`` without any.
        objective: seconds within which one was to be answered; ``nan`` for all kinds together.
        in_time: requests answered within it.
        held: whether the share asked for was.
        late_sends: requests that this client sent late.
        latest_send: by how many seconds, the worst.
        span: seconds from the first that was due to the end of the scenario.
    """

    kind: str
    due: int
    answered: int
    refused: int
    failed: int
    latency: Mapping[float, float]
    refusal: float
    objective: float
    in_time: int
    held: bool
    late_sends: int
    latest_send: float
    span: float

    @property
    def goodput(self) -> float:
        """Requests per second that were answered in time."""
        return self.in_time / self.span

    @property
    def trustworthy(self) -> bool:
        """Whether this client kept up."""
        return self.late_sends <= LATE_SHARE * self.due

    def as_json(self) -> dict[str, Any]:
        """Rounded; what is not a number is null."""
        found: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("kind", "due", "answered", "refused", "failed", "in_time", "held")
        }
        found |= {f"p{p:g}_seconds": value for p, value in self.latency.items()}
        found |= {
            "objective_seconds": self.objective,
            "goodput_per_second": self.goodput,
            "refusal_p99_seconds": self.refusal,
            "late_sends": self.late_sends,
            "latest_send_seconds": self.latest_send,
            "trustworthy": self.trustworthy,
        }
        return {name: _rounded(value) for name, value in found.items()}


def objective_seconds(objective: Objective, solo: float) -> float:
    """The time of an objective, given how long a lone request takes."""
    if objective.seconds is not None:
        return objective.seconds
    return (objective.times_solo or math.nan) * solo


def summarize(
    scenario: Scenario, outcomes: Sequence[Outcome], solo: Mapping[str, float]
) -> list[Summary]:
    """A summary of all requests together, then one of each kind.

    All together hold when every kind does.
    """
    span = scenario.seconds
    each = [
        _of_kind(kind, [one for one in outcomes if one.kind == kind.name], solo[kind.name], span)
        for kind in scenario.mix
    ]
    together = _summary(
        "*", outcomes, span, math.nan, sum(one.in_time for one in each), all(k.held for k in each)
    )
    return [together, *each]


def _of_kind(kind: Kind, outcomes: Sequence[Outcome], solo: float, span: float) -> Summary:
    seconds = objective_seconds(kind.objective, solo)
    in_time = sum(one.latency <= seconds for one in outcomes)
    held = in_time >= kind.objective.share * len(outcomes)
    return _summary(kind.name, outcomes, span, seconds, in_time, held)


def _summary(
    name: str,
    outcomes: Sequence[Outcome],
    span: float,
    objective: float,
    in_time: int,
    held: bool,
) -> Summary:
    answered = [one.latency for one in outcomes if one.answered]
    refused = [one.ended - one.sent for one in outcomes if one.refused]
    late = [one.sent - one.due for one in outcomes]
    return Summary(
        kind=name,
        due=len(outcomes),
        answered=len(answered),
        refused=len(refused),
        failed=len(outcomes) - len(answered) - len(refused),
        latency={p: _percentile(answered, p) for p in PERCENTILES},
        refusal=_percentile(refused, 99.0),
        objective=objective,
        in_time=in_time,
        held=held,
        late_sends=sum(seconds > LATE_SECONDS for seconds in late),
        latest_send=max(late, default=0.0),
        span=span,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else math.nan


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 5) if math.isfinite(value) else None
