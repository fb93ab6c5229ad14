"""``atelier evaluate``: the numbers of a model, measured as it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.models import StoreOption
from services.core.errors import ModelError

if TYPE_CHECKING:
    from model_store.evaluation.suite.measured import Evaluation
    from model_store.store import Entry, Store
    from services.core.backend import Backend

Report = Callable[[str, int, int], None]

LEAST_SAMPLES, MOST_SAMPLES, SAMPLES = 16, 50_000, 1000
QUEUE_SECONDS = 24 * 3600.0
"""An evaluation waits for itself: no work of its own is refused for being much."""
EVALUATE_EXAMPLES = """
[bold]Examples[/bold]

atelier evaluate digits-realnvp

atelier evaluate my-gan --against photos/ --features inception.onnx --json my-gan.json

atelier evaluate shapes-vae --against shapes --samples 500 --seed 3

[bold]What is measured[/bold]

What the model offers. Samples: FID, KID and IS by a feature network, precision, recall, density,
coverage, sliced Wasserstein distance, agreement with labels or prompts. Reconstructions, images
without their noise, translations and enlargements: PSNR, SSIM, MS-SSIM, a perceptual distance, each
beside what the model was given. Likelihoods: bits per dimension, and how well strangers are told.
GANs and VAEs: perceptual path length, DCI.

A translator is measured on pairs: --against FOLDER with FOLDER/source and FOLDER/target, two files
of one name to a pair.

Without --features, the built-in classifier of shapes or digits compares images, and every such
number ends with domain_classifier: it is no Inception score. The same model, data and seed give the
same numbers.
"""


def evaluate(
    model: options.Model,
    *,
    against: Annotated[
        str | None,
        typer.Option(
            help="What to compare with: shapes, digits, photographs (held out by us), or a folder "
            "of images.",
            show_default="what a built-in model learned from",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="NETWORK.onnx",
            help="Compare images by this network: images [n, 3, h, w] in [-1, 1] to features, and "
            "to an output `logits` for the inception score.",
            show_default="the domain's classifier",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=LEAST_SAMPLES,
            max=MOST_SAMPLES,
            help="Images to make, and to compare with; fewer where there are fewer.",
        ),
    ] = SAMPLES,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Same seed, same numbers.")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="OUT", help="Also write the numbers as JSON; - prints them instead."
        ),
    ] = None,
    write_card: Annotated[
        bool,
        typer.Option(
            "--write-card",
            help="Put the numbers beside a model of the catalog and onto its card, whose other "
            "words stay as they are.",
        ),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Measure a model: its samples, reconstructions, likelihoods and latents."""
    with one_sentence():
        found = _measured(
            model,
            against=against,
            features=features,
            samples=samples,
            seed=seed,
            root=store,
            write_card=write_card,
        )
        text = found.model_dump_json(indent=1)
        if out is not None and out != "-":
            target = Path(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text + "\n", encoding="utf-8")
    if out == "-":
        typer.echo(text)
        return
    Console().print(evaluation_table(found))
    for missing in found.unmeasured:
        Console().print(f"not measured: {missing.name}: {missing.reason}", markup=False)


def evaluation_table(found: Evaluation) -> Table:
    """One row for each number, with the network and the data it was measured with above them."""
    network = found.features
    words = "pixel by pixel" if network is None else f"by {network.file or network.name}"
    table = Table(
        "what",
        title=f"{found.model} against {found.data.images} images of {found.data.name}, {words}",
    )
    table.columns[0].overflow = "fold"
    for column in ("value", "±", "better", "images"):
        table.add_column(column, justify="right")
    for row in found.measurements:
        spread = "" if row.deviation is None else f"{row.deviation:.2g}"
        table.add_row(row.name, f"{row.value:.5g}", spread, row.better or "", str(row.images))
    return table


def _measured(
    name: str,
    *,
    against: str | None,
    features: Path | None,
    samples: int,
    seed: int,
    root: str | None,
    write_card: bool,
) -> Evaluation:
    """Open the model, measure it, and write its card where that is wanted."""
    with Console(stderr=True).status("starting the engine"):
        from model_store.evaluation.suite.features import OnnxFeatures  # noqa: PLC0415 - torch
        from model_store.export.evaluated_card import write_evaluation  # noqa: PLC0415 - as above
        from model_store.store import CATALOG  # noqa: PLC0415 - as above
        from services.serving.local import local_backend, open_store  # noqa: PLC0415 - as above
        from services.serving.settings import Pool  # noqa: PLC0415 - as above

        shelf = open_store(root)
        entry = shelf.entry(name)
        if write_card and entry.origin != "catalog":
            raise ModelError(
                f"--write-card writes into the built-in catalog, and '{name}' is one of your own "
                "models, which are never changed; write its numbers with --json"
            )
        network = None if features is None else OnnxFeatures(features)
        pool = Pool(name="evaluation", placement="fused", queue_seconds=QUEUE_SECONDS)
        backend = local_backend(pool, store=shelf)
    try:
        with _progress() as report:
            found: Evaluation = asyncio.run(
                _evaluated(
                    backend,
                    shelf,
                    entry,
                    report,
                    against=against,
                    network=network,
                    samples=samples,
                    seed=seed,
                )
            )
    finally:
        backend.close()
    if write_card:
        write_evaluation(CATALOG / name, found)
    return found


async def _evaluated(
    backend: Backend,
    shelf: Store,
    entry: Entry,
    report: Report,
    *,
    against: str | None,
    network: Any,
    samples: int,
    seed: int,
) -> Evaluation:
    import torch  # noqa: PLC0415 - takes a second

    from model_store.evaluation.suite.asking import Subject  # noqa: PLC0415 - as above
    from model_store.evaluation.suite.evaluate import evaluate as measure  # noqa: PLC0415 - as above
    from model_store.evaluation.suite.measured import weights_of  # noqa: PLC0415 - as above
    from model_store.networks.opening import open_model  # noqa: PLC0415 - as above
    from model_store.recipes.held_out import held_out_of  # noqa: PLC0415 - as above

    manifest = entry.manifest
    info = await backend.model(manifest.id)
    real = await held_out_of(backend, info, against, samples, seed)
    return await measure(
        Subject(backend, info, seed=seed, report=report),
        real,
        weights=weights_of(manifest),
        features=network,
        open_networks=lambda: open_model(shelf, manifest.id, torch.device("cpu"), threads=1),
    )


@contextmanager
def _progress() -> Iterator[Report]:
    """One bar on stderr for each thing that is measured."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        yield report
