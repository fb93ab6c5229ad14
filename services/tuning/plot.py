"""The front as a picture: every trial, those beyond a limit, and what was chosen."""

from __future__ import annotations

from pathlib import Path

from services.tuning.asked import Objective, Outcome
from services.tuning.result import Result

TITLES: dict[Objective, str] = {
    "throughput": "images per second, in multiples of the defaults'",
    "p99": "p99 latency, as a share of the defaults'",
    "fid": "FID",
}


def draw_front(result: Result, target: Path) -> None:
    """Draw the trials by their first two objectives, or by trial number and the only one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    objectives = result.asked.objectives
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    groups = {"beyond a limit": "#bbbbbb", "within the limits": "#4c78a8", "the front": "#e45756"}
    places: dict[str, list[tuple[float, float]]] = {name: [] for name in groups}
    for trial in result.trials:
        if trial.outcome is None:
            continue
        kind = "the front" if trial.front else "within the limits"
        places["beyond a limit" if trial.beyond else kind].append(
            _place(objectives, trial.outcome, trial.number)
        )
    for name, color in groups.items():
        if places[name]:
            every_x, every_y = zip(*places[name], strict=True)
            axes.scatter(every_x, every_y, c=color, label=name, zorder=3)
    across, up = _place(objectives, result.base, 0)
    axes.scatter(across, up, marker="x", c="black", label="the defaults")
    if result.chosen is not None:
        across, up = _place(objectives, result.chosen.median, result.chosen.number)
        axes.scatter(
            across, up, marker="*", s=220, c="#f2b701", zorder=4, label="chosen, measured again"
        )
    single = len(objectives) == 1
    axes.set_xlabel("trial" if single else TITLES[objectives[0]])
    axes.set_ylabel(TITLES[objectives[0] if single else objectives[1]])
    axes.set_title(f"{result.asked.model} on {result.asked.hardware}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=110)


def _place(objectives: tuple[Objective, ...], outcome: Outcome, number: int) -> tuple[float, float]:
    values = [_value(objective, outcome) for objective in objectives[:2]]
    return (float(number), values[0]) if len(values) == 1 else (values[0], values[1])


def _value(objective: Objective, outcome: Outcome) -> float:
    found = {
        "throughput": outcome.throughput_gain,
        "p99": outcome.p99_share,
        "fid": outcome.fid,
    }[objective]
    return float("nan") if found is None else found
