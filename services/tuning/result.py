"""What a tuning found: a JSON document, and a config that `atelier serve` takes."""

from __future__ import annotations

import copy
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from model_store.atomic_files import write_atomic
from services.core.errors import InvalidParameter
from services.serving.server import read_config
from services.serving.settings import Deployment, Measured, Pool
from services.tuning.asked import Asked, Outcome, Strict
from services.tuning.finals import Final
from services.tuning.space import About, configured
from services.tuning.study import Tried

RESULT, PLOT, CONFIG, JOURNAL = "result.json", "front.png", "serve.yaml", "study.journal"


class Result(Strict):
    """What a tuning found.

    Attributes:
        asked: what it was for.
        measured: when it ended.
        load: the system's load average when the search began and when it ended. Well above the
            number of cores, other programs were measured too.
        interrupted: whether it was stopped before the finals were over; nothing is chosen then.
        base: what the defaults do.
        rate: requests per second where latency was measured.
        trials: all of the search.
        finals: the best, measured again.
        chosen: the finalist whose configuration was written; ``None`` where the defaults stand.
    """

    schema_version: Literal[1] = 1
    asked: Asked
    measured: datetime
    load: tuple[float, float]
    interrupted: bool
    base: Outcome
    rate: float | None
    trials: list[Tried]
    finals: list[Final]
    chosen: Final | None


def load_average() -> float:
    """The system's, over the last minute; 0 where it does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def pool_of(config: Path, model: str) -> Pool:
    """The pool of a config that serves a model, without a tuning of it.

    Raises:
        InvalidParameter: the config cannot be used, or no pool of it serves the model.
    """
    deployment = Deployment.model_validate(_arguments(read_config(config)))
    for pool in deployment.pools:
        others = deployment.claimed_elsewhere(pool)
        if model in pool.models or (pool.takes_the_rest and model not in others):
            rest = {name: one for name, one in pool.tuning.items() if name != model}
            return pool.model_copy(update={"tuning": rest})
    raise InvalidParameter(f"no pool of {config} serves '{model}'", param="config")


def write_config(config: Path, target: Path, about: About, result: Result) -> None:
    """Write a config with the chosen configuration in it; comments of the original are lost.

    Args:
        config: to which it is added.
        target: the new file.
        about: the model.
        result: with a configuration that was chosen.
    """
    if result.chosen is None:
        raise InvalidParameter("nothing was found that beats the defaults: there is no config")
    found = copy.deepcopy(read_config(config))
    pool = pool_of(config, about.id)
    tuned = configured(pool, about, result.chosen.changes)
    measured = Measured(
        at=result.measured, hardware=result.asked.hardware, model=result.asked.digest
    )
    tuning = (
        tuned.tuning[about.id].model_dump(mode="json", exclude_unset=True)
        if (about.id in tuned.tuning)
        else {}
    )
    tuning = {name: value for name, value in tuning.items() if value not in (None, {})}
    tuning["measured"] = measured.model_dump(mode="json")
    arguments = _arguments(found)
    arguments.setdefault("pools", [{"name": "default", "placement": "fused"}])
    for entry in arguments["pools"]:
        if entry["name"] == pool.name:
            entry["tuning"] = {**entry.get("tuning", {}), about.id: tuning}
            if tuned.torch != pool.torch:
                entry["torch"] = tuned.model_dump(mode="json")["torch"]
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    head = (
        f"# Made by `atelier tune {about.id}` from {config.name} at {result.measured:%Y-%m-%d}.\n"
    )
    write_atomic(target, (head + text).encode())


def write_result(target: Path, result: Result) -> None:
    """Write the whole result as JSON."""
    write_atomic(target, (result.model_dump_json(indent=1) + "\n").encode())


def now() -> datetime:
    """This moment, in whole seconds of UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a config's application.

    Raises:
        InvalidParameter: it has several applications.
    """
    applications = config["applications"]
    if len(applications) != 1:
        raise InvalidParameter("a config with several applications cannot be tuned", param="config")
    found: dict[str, Any] = applications[0].setdefault("args", {})
    return found
