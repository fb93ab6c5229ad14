"""``atelier models versions | serve | warm | canary | promote | rollback | status``."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_store.plans import Canary, Plan
from model_store.store import Store
from model_store.versions import digest_of
from services.cli.audit import audited
from services.cli.errors import one_sentence
from services.cli.models import JsonOption, NameArgument, StoreOption, open_store
from services.core.errors import InvalidParameter, ModelError
from services.core.versions import of_version, split_version
from services.serving.trials import FOLDER, counted, settle, wilson

if TYPE_CHECKING:
    from model_store.evaluation.drift import Drift
    from model_store.evaluation.suite.features import Features

rollouts = typer.Typer(add_completion=False)
"""Commands that stand beside the others of ``atelier models``."""

VersionArgument = Annotated[
    str, typer.Argument(help="NAME@DIGEST, or its first 8 digits or more.", show_default=False)
]
SHOWN = 12


@rollouts.command()
def versions(name: NameArgument, store: StoreOption = None, *, as_json: JsonOption = False) -> None:
    """List a model's versions; the first is the one that is served."""
    with one_sentence():
        shelf = open_store(store)
        digests = shelf.versions(name)
        found = [shelf.get(of_version(name, digest)) for digest in digests]
        plan = shelf.plans.get(name)
    rows = [
        {
            "digest": digest,
            "served": place == 0,
            "warm": digest in plan.warm or (place == 0 and "" in plan.warm),
            "created": None if manifest.created is None else manifest.created.isoformat(),
            "description": manifest.description,
        }
        for place, (digest, manifest) in enumerate(zip(digests, found, strict=True))
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("Version", "Served", "Warm", "Created", "Description")
    for row in rows:
        marks = ["yes" if row[key] else "" for key in ("served", "warm")]
        table.add_row(
            str(row["digest"])[:SHOWN],
            *marks,
            str(row["created"] or ""),
            escape(str(row["description"])),
        )
    Console().print(table)


@rollouts.command()
def serve(version: VersionArgument, store: StoreOption = None) -> None:
    """Serve another version of one of your models; the one before is kept."""
    with one_sentence(), audited("model.served") as said:
        shelf = open_store(store)
        name, digest = _version(shelf, version)
        said.update(model=name, digest=digest)
        shelf.serve(name, digest)
    _say(f"serving {of_version(name, digest)}")


@rollouts.command()
def warm(
    model: Annotated[str, typer.Argument(help="NAME or NAME@DIGEST.", show_default=False)],
    *,
    off: Annotated[bool, typer.Option("--off", help="Load it when it is asked for again.")] = False,
    store: StoreOption = None,
) -> None:
    """Have every running replica load a model before anybody asks for it, and keep it loaded."""
    with one_sentence(), audited("model.warmed") as said:
        shelf = open_store(store)
        name, digest = _version(shelf, model, whole=False)
        said.update(model=name, digest=digest, off=off)

        def change(plan: Plan) -> Plan:
            others = tuple(one for one in plan.warm if one != digest)
            return _changed(plan, warm=others if off else (*others, digest))

        shelf.change_plan(name, change)
    _say(f"{'no longer kept warm' if off else 'kept warm'}: {of_version(name, digest)}")


@rollouts.command()
def canary(
    name: NameArgument,
    *,
    to: Annotated[str, typer.Option(help="The version's digest, or its first 8 digits or more.")],
    percent: Annotated[float, typer.Option(min=0.01, max=100, help="Of the requests.")] = 5.0,
    least_samples: Annotated[
        int, typer.Option(min=1, help="Answers of it before its errors are judged.")
    ] = 50,
    error_margin: Annotated[
        float, typer.Option(min=0, max=1, help="By how much its error rate may be surely higher.")
    ] = 0.0,
    promote_after: Annotated[
        int | None,
        typer.Option(min=1, help="Serve it to all after so many answers.", show_default="never"),
    ] = None,
    compare_by: Annotated[
        str | None,
        typer.Option(
            metavar="shapes|digits|photographs|NETWORK.onnx",
            help="First compare images of both versions from the same seeds by these features.",
            show_default="not compared",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=16, max=10_000, help="Images of each.")] = 256,
    drift_limit: Annotated[
        float,
        typer.Option(min=0, help="Largest distance, as a multiple of that between other seeds."),
    ] = 3.0,
    store: StoreOption = None,
) -> None:
    """Send some of the requests for a model to another version, which is watched.

    Requests that fail on it are made again on the version before. It is rolled back when it surely
    fails more often than that (95% Wilson bounds). With --compare-by it does not begin where what
    both versions make is further apart than chance makes it.
    """
    with one_sentence(), audited("model.canary") as said:
        shelf = open_store(store)
        _, digest = _version(shelf, of_version(name, to))
        former = shelf.versions(name)[0]
        _check_trial(shelf, name, former, digest)
        said.update(model=name, digest=digest, percent=percent)
        drift = None
        if compare_by is not None:
            drift = _drift(shelf, name, former, digest, compare_by, samples)
            said.update(drift=drift.ratio)
            _check_drift(drift, drift_limit)
        trial = Canary(
            former=former,
            to=digest,
            percent=percent,
            seed=secrets.randbelow(2**32),
            started=datetime.now(UTC),
            least_samples=least_samples,
            error_margin=error_margin,
            promote_after=promote_after,
            drift=None if drift is None else drift.ratio,
            drift_limit=None if drift is None else drift_limit,
        )
        _forget_counts(shelf, name)
        shelf.change_plan(name, lambda plan: _changed(plan, canary=trial))
    if drift is None:
        _say("its images were not compared with those of the version before: no --compare-by")
    else:
        _say(
            f"its images are {drift.ratio:.2f} times as far from the former's as chance makes them"
        )
    _say(f"{percent:g}% of the requests for '{name}' go to {of_version(name, digest)}")


@rollouts.command()
def promote(name: NameArgument, store: StoreOption = None) -> None:
    """Serve the version on trial to everybody, and end the trial."""
    _end(name, "promoted", store)


@rollouts.command()
def rollback(name: NameArgument, store: StoreOption = None) -> None:
    """End the trial; everybody gets the version before."""
    _end(name, "rolled_back", store)


@rollouts.command()
def status(name: NameArgument, store: StoreOption = None, *, as_json: JsonOption = False) -> None:
    """Show a model's trial, running or ended, with what servers on this machine have counted."""
    with one_sentence():
        shelf = open_store(store)
        served, trial = shelf.versions(name)[0], shelf.plans.get(name).canary
    if trial is None:
        typer.echo(
            json.dumps({"served": served, "canary": None}) if as_json else f"served: {served}"
        )
        return
    counts = counted(shelf.user.root, name, trial)
    if as_json:
        found = {"canary": trial.model_dump(mode="json"), "counts": counts.model_dump()}
        typer.echo(json.dumps({"served": served, **found}, indent=2))
        return
    console = Console(soft_wrap=True)
    console.print(f"served: {served}")
    why = f" ({trial.reason})" if trial.reason else ""
    console.print(escape(f"canary of {trial.percent:g}% to {trial.to}: {trial.state}{why}"))
    table = Table("Version", "Answers", "Failed", "Error rate (95%)")
    for label, digest, number, failed in (
        ("before", trial.former, counts.former, counts.former_failed),
        ("on trial", trial.to, counts.trial, counts.trial_failed),
    ):
        low, high = wilson(failed, number)
        rate = f"{low:.2%} to {high:.2%}" if number else "unknown"
        table.add_row(f"{label} {digest[:SHOWN]}", str(number), str(failed), rate)
    console.print(table)


def _end(name: str, state: str, store: str | None) -> None:
    with one_sentence(), audited(f"model.{state}") as said:
        shelf = open_store(store)
        trial = shelf.plans.get(name).trial
        if trial is None:
            raise ModelError(f"no canary of '{name}' is running; see atelier models status {name}")
        said.update(model=name, digest=trial.to)
        settle(shelf, name, trial.to, state, "by the operator")
    served = trial.to if state == "promoted" else trial.former
    _say(f"serving {of_version(name, served)}")


def _version(shelf: Store, reference: str, *, whole: bool = True) -> tuple[str, str]:
    """A model's name and the whole digest of the version that is meant.

    Raises:
        InvalidParameter: no version is named where one has to be.
        ModelNotFound: there is none.
    """
    name, prefix = split_version(reference)
    if not prefix and whole:
        raise InvalidParameter(f"name a version: {name}@DIGEST; see atelier models versions {name}")
    manifest = shelf.get(reference)
    return name, digest_of(manifest) if prefix else ""


def _check_trial(shelf: Store, name: str, former: str, digest: str) -> None:
    if shelf.plans.get(name).trial is not None:
        raise ModelError(f"a canary of '{name}' is running already; promote it or roll it back")
    if digest == former:
        raise ModelError(f"version {digest[:SHOWN]}... of '{name}' is served to all already")


def _check_drift(drift: Drift, limit: float) -> None:
    if drift.ratio > limit:
        raise ModelError(
            f"what the new version makes is {drift.ratio:.2f} times as far from what the version "
            f"before makes as other seeds are, and {limit:g} is the limit (--drift-limit); the "
            "canary was not begun"
        )


def _drift(shelf: Store, name: str, former: str, to: str, compare_by: str, samples: int) -> Drift:
    """Let both versions make images in this process, and compare them."""
    from model_store.evaluation.drift import measure_drift  # noqa: PLC0415 - torch takes a second
    from services.serving.local import local_backend  # noqa: PLC0415 - as above
    from services.serving.settings import Pool  # noqa: PLC0415 - as above

    features = _features(compare_by)
    pool = Pool(name="drift", placement="fused", queue_seconds=24 * 3600.0)
    backend = local_backend(pool, store=shelf)
    try:
        with Console(stderr=True).status("comparing what both versions make"):
            work = measure_drift(
                backend, name, former=former, to=to, features=features, samples=samples
            )
            return asyncio.run(work)
    finally:
        backend.close()


def _features(compare_by: str) -> Features:
    from model_store.evaluation.suite.features import (  # noqa: PLC0415 - torch takes a second
        DigitsClassifier,
        OnnxFeatures,
        ShapesClassifier,
        TexturesClassifier,
    )

    built_in: Mapping[str, Callable[[], Features]] = {
        "shapes": ShapesClassifier,
        "digits": DigitsClassifier,
        "photographs": TexturesClassifier,
    }
    if compare_by in built_in:
        return built_in[compare_by]()
    return OnnxFeatures(Path(compare_by))


def _forget_counts(shelf: Store, name: str) -> None:
    """Nobody asks any more what earlier trials counted."""
    for path in (shelf.user.root / FOLDER / name).glob("*.json"):
        path.unlink(missing_ok=True)


def _changed(plan: Plan, **fields: object) -> Plan:
    return Plan.model_validate(plan.model_copy(update=fields).model_dump())


def _say(text: str) -> None:
    Console(soft_wrap=True).print(f"[green]{escape(text)}[/green]", highlight=False)
