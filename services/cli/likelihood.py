"""``atelier likelihood`` and ``atelier encode``: numbers from images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.pictures import read_picture
from services.cli.run import make_call, run
from services.core.job import Answer, Task
from services.gateway.answers import finite

LIKELIEST = 3
"""Classes of a density that are shown; --json has all."""
LIKELIHOOD_EXAMPLES = """
[bold]Examples[/bold]

atelier likelihood digits-realnvp digit.png

atelier likelihood shapes-vae *.png --samples 256 --json

atelier likelihood shapes-ldm star.png --method ode --prompt "a red star"

[bold]Kinds[/bold]

exact (flows), lower_bound (VAE, diffusion: the true value is higher), estimate (with its error).

[bold]Percentiles[/bold]

Among held-out images; below 1 an image is anomalous. Likelihoods prefer simple images; corrected
bits/dim are those less what a lossless compressor needs.
"""

ENCODE_EXAMPLES = """
[bold]Examples[/bold]

atelier encode shapes-vae star.png --out star.json

atelier generate shapes-vae --latents star.json --out again.png
"""

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...", help="PNG, JPEG or WebP files; - is standard input.", show_default=False
    ),
]


def likelihood(
    model: options.Model,
    images: Images,
    *,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draws that a bound or an estimate averages.",
            show_default="the model's own",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Diffusion: terms of the bound, or steps of the ODE's solver.",
            show_default="the model's own",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Diffusion: bound, or ode for an estimate by the probability-flow ODE.",
            show_default="bound",
        ),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Method ode: estimates that are averaged.", show_default="the model's own"
        ),
    ] = None,
    prompt: options.Prompt = None,
    seed: options.Seed = 0,
    others: options.Others = None,
    as_json: options.Json = False,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    deadline: options.Deadline = None,
) -> None:
    """Say how probable images are under a model: exactly, or by a bound."""
    parameters = {
        "samples": samples,
        "steps": steps,
        "method": method,
        "probes": probes,
        "prompt": prompt,
        "seed": seed,
    }
    with one_sentence():
        parameters = options.with_others(parameters, others)
        pictures = [read_picture(name) for name in images]
        call = make_call(model, Task.LIKELIHOOD, parameters, images=pictures, deadline=deadline)
        answer = run(call, url=url, api_key=api_key)
    if as_json:
        typer.echo(json_text(answer))
        return
    Console().print(likelihood_table(images, [item.values for item in answer.items]))


def encode(
    model: options.Model,
    images: Images,
    *,
    steps: Annotated[
        int | None,
        typer.Option(
            min=2, help="Diffusion: steps of the inversion.", show_default="the model's own"
        ),
    ] = None,
    prompt: options.Prompt = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A JSON file.", show_default="standard output"),
    ] = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    deadline: options.Deadline = None,
) -> None:
    """Find the latents of images, as JSON that generate and edit take again."""
    with one_sentence():
        pictures = [read_picture(name) for name in images]
        call = make_call(
            model,
            Task.ENCODE,
            {"steps": steps, "prompt": prompt},
            images=pictures,
            deadline=deadline,
        )
        text = json_text(run(call, url=url, api_key=api_key))
        if out is None:
            typer.echo(text)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    Console(soft_wrap=True).print(escape(str(out)))


def json_text(answer: Answer) -> str:
    """An answer in the words of the HTTP interface."""
    body = {
        "model": answer.model,
        "data": [dict(item.values) for item in answer.items],
        "timings": asdict(answer.timings),
    }
    return json.dumps(finite(body), indent=1, allow_nan=False)


def likelihood_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per image, with the terms that its log-likelihood is made of."""
    table = Table("image", "kind", show_lines=True)
    columns = ("nats", "bits/dim", "std. error", "percentile", "corrected bits/dim", "percentile")
    for column in (*columns, "terms"):
        table.add_column(column, justify="right")
    for name, row in zip(names, rows, strict=True):
        table.add_row(
            escape(name),
            str(row["kind"]),
            _number(row["log_likelihood"], ".2f"),
            _number(row["bits_per_dim"], ".4f"),
            _number(row.get("std_error"), ".3f"),
            _percentile(row, ""),
            _number(row.get("corrected_bits_per_dim"), "+.4f"),
            _percentile(row, "corrected_"),
            "\n".join(_lines(row)),
        )
    return table


def _percentile(row: Mapping[str, Any], score: str) -> str:
    unusual = "\n[yellow]anomalous[/yellow]" if row.get(f"{score}anomalous") else ""
    return _number(row.get(f"{score}percentile"), ".1f") + unusual


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    """The terms, then the likeliest classes or components of a density."""
    for term, value in (row.get("terms") or {}).items():
        yield f"{escape(term)} {_number(value, '.2f')}"
    shares = sorted((row.get("posterior") or {}).items(), key=lambda one: -one[1])
    for name, share in shares[:LIKELIEST]:
        yield f"p({escape(name)}) {share:.3f}"


def _number(value: float | None, layout: str) -> str:
    return "-" if value is None else format(value, layout)
