"""``atelier tune``: what serves a model better on this machine than its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.models import StoreOption
from services.cli.tune_order import order_of, seconds_of, share_of
from services.cli.tune_report import progress, show

TRIALS, LEAST_TRIALS, MOST_TRIALS = 30, 2, 10_000
ROUNDS, LEAST_ROUNDS, MOST_ROUNDS = 5, 5, 100
LEAST_MINUTES, MOST_MINUTES = 0.1, 7 * 24 * 60
TUNE_EXAMPLES = """
[bold]Examples[/bold]

atelier tune shapes-ldm --objective throughput --max-fid-loss 5% --minutes 30

atelier tune shapes-ldm --objective throughput --objective p99 --objective fid --trials 60

atelier tune shapes-cgan --objective throughput --p99 50ms --knobs decode_rows,threads

atelier serve --config tuning/shapes-ldm/serve.yaml

[bold]What it does[/bold]

Bayesian optimisation over what the model has of: rows of a batch (step_rows, decode_rows), threads,
precision, buckets, steps, sampler, guidance_interval. Every trial is measured in turn with the
defaults, so that a busy machine slows both; the best are measured again before one is chosen, and
often none is. The folder holds result.json, front.png, the study, from which the same command goes
on, and serve.yaml if the defaults were beaten. Ctrl-C keeps what was found.
"""


def tune(
    model: options.Model,
    *,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="throughput, p99 or fid; several give a front, of which the first decides.",
            show_default=False,
        ),
    ] = None,
    p99: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="The slowest p99 latency allowed: 200ms, 1.5s.", show_default=False
        ),
    ] = None,
    max_fid_loss: Annotated[
        str, typer.Option(metavar="SHARE", help="How much above the defaults' FID may be.")
    ] = "5%",
    max_agreement_loss: Annotated[
        str,
        typer.Option(metavar="SHARE", help="How much agreement with prompts or labels may fall."),
    ] = "2%",
    knobs: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="What may be changed; see below.",
            show_default="all that the model has",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=LEAST_TRIALS, max=MOST_TRIALS, help="Of the whole study.")
    ] = TRIALS,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=LEAST_MINUTES, max=MOST_MINUTES, help="For everything.", show_default="no limit"
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=LEAST_ROUNDS, max=MOST_ROUNDS, help="Of the best against the defaults."),
    ] = ROUNDS,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of requests and search.")] = 0,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Callers, where throughput is measured.")
    ] = 32,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Requests per second, where p99 is measured.",
            show_default="0.7 of what the defaults can answer",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Of one measurement, at least.")
    ] = 5.0,
    samples: Annotated[
        int, typer.Option(min=16, max=50_000, help="Images that FID is measured on.")
    ] = 256,
    against: Annotated[
        str | None,
        typer.Option(
            help="Held-out images: shapes, digits, photographs, or a folder.",
            show_default="what a built-in model learned from",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="NETWORK.onnx",
            help="Compare images by this network.",
            show_default="the domain's classifier",
        ),
    ] = None,
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="What the model is served by.")
    ] = Path("deploy/serve.yaml"),
    store: StoreOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.", show_default="tuning/MODEL"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Search for settings that serve a model better here than its defaults."""
    with one_sentence(), progress() as (report, tell):
        report("starting", 0, 1)
        order = order_of(
            model=model,
            objectives=objective,
            limits={
                "p99": None if p99 is None else seconds_of(p99, param="p99"),
                "fid_loss": share_of(max_fid_loss, param="max-fid-loss"),
                "agreement_loss": share_of(max_agreement_loss, param="max-agreement-loss"),
            },
            workload={
                "concurrency": concurrency,
                "seconds": seconds,
                "rate": rate,
                "samples": samples,
                "against": against,
                "features": None if features is None else str(features),
                "seed": seed,
            },
            knobs=knobs,
            trials=trials,
            minutes=minutes,
            rounds=rounds,
            config=config,
            store=None if store is None else str(store),
            out=out or Path("tuning") / model,
            progress=report,
            told=tell,
        )
        from services.tuning.tune import tune as search  # noqa: PLC0415 - torch takes seconds

        result = search(order)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
        return
    show(result, order.out)
