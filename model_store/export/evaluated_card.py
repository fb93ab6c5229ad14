"""A card's evaluation: the section and the metadata that are generated from what was measured.

What people wrote on the card stays as it is: only ``## Evaluation`` and ``model-index`` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model_store.atomic_files import write_atomic
from model_store.evaluation.suite.measured import Evaluation, Measurement, weights_of
from model_store.export.package import MANIFEST, digest, write_manifest
from model_store.manifest import StoredFile, read_manifest
from services.core.errors import InvalidManifest

CARD, EVALUATION = "card.md", "evaluation.json"
REFERENCE = "reference_corrected_bits_per_dim"
HEADING = "## Evaluation"
FOLLOWING = "## Limits"
"""The section that ours is put in front of, on a card that has none yet."""
COLLAPSED_RECALL = 0.2
"""Where less of the held-out images than this lie near a sample, the card speaks of collapse."""
CHANCE = 0.5
EQUAL_PSNR = 100.0
"""Decibels of images without any difference, whose ratio has no number."""

_FRONT = re.compile(r"\A---\n(?P<front>.*?)\n---\n(?P<body>.*)\Z", re.DOTALL)
_SECTION = re.compile(rf"^{HEADING}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def metadata_of(card: str) -> dict[str, Any]:
    """The card's metadata; nothing where it has none.

    Raises:
        InvalidManifest: what stands there is no YAML mapping.
    """
    match = _FRONT.match(card)
    if match is None:
        return {}
    try:
        found = yaml.safe_load(match["front"])
    except yaml.YAMLError as error:
        raise InvalidManifest(f"the card's metadata is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise InvalidManifest("the card's metadata is no mapping of names to values")
    return found


def evaluated(card: str, evaluation: Evaluation) -> str:
    """The card with its evaluation and metadata replaced, or added where it has none."""
    metadata = metadata_of(card)
    metadata["model-index"] = model_index(evaluation, metadata)
    match = _FRONT.match(card)
    body = match["body"] if match else f"\n{card}"
    text = f"{section(evaluation)}\n\n"
    if _SECTION.search(body):
        body = _SECTION.sub(lambda _: text, body, count=1)
    elif f"\n{FOLLOWING}\n" in body:
        body = body.replace(f"\n{FOLLOWING}\n", f"\n{text}{FOLLOWING}\n", 1)
    else:
        body = f"{body.rstrip()}\n\n{text}"
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{body.rstrip()}\n"


def model_index(evaluation: Evaluation, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results as Hugging Face's model cards have them: one task, one dataset, all metrics."""
    datasets = metadata.get("datasets") or [evaluation.data.name]
    return [
        {
            "name": evaluation.model,
            "results": [
                {
                    "task": {"type": metadata.get("pipeline_tag", "other")},
                    "dataset": {
                        "name": evaluation.data.name,
                        "type": datasets[0],
                        "split": evaluation.data.split,
                    },
                    "metrics": [
                        {"type": row.name, "name": row.name.replace("_", " "), "value": row.value}
                        for row in evaluation.measurements
                    ],
                }
            ],
        }
    ]


def section(evaluation: Evaluation) -> str:
    """What the card says of an evaluation, in Markdown."""
    data = evaluation.data
    parts = [
        HEADING,
        f"As it is served, on {data.images} images of *{data.name}* ({data.split}), by "
        f"`atelier evaluate {evaluation.model} --samples {evaluation.samples} --seed "
        f"{evaluation.seed}`; `{EVALUATION}` holds the same numbers with the digests of the "
        f"weights. {_words_of_features(evaluation)}".strip(),
        *_findings({row.name: row.value for row in evaluation.measurements}),
        "\n".join(
            [
                "| what | value | ± | better | images |",
                "|---|---|---|---|---|",
                *map(_row, evaluation.measurements),
            ]
        ),
    ]
    if evaluation.unmeasured:
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in evaluation.unmeasured)
        parts.append(f"Not measured: {reasons}.")
    return "\n\n".join(parts)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Put an evaluation beside a model's manifest and onto its card.

    A model that says images' percentiles also gets what corrected percentiles are read off.

    Args:
        folder: of an exported model, with a card.
        evaluation: of this model, with these weights.

    Raises:
        InvalidManifest: the evaluation is of another model or of other weights.
    """
    manifest = read_manifest(folder / MANIFEST)
    if evaluation.model != manifest.id or evaluation.weights != weights_of(manifest):
        raise InvalidManifest(
            f"the evaluation is of '{evaluation.model}' with other weights than '{manifest.id}' "
            "has now; evaluate it again"
        )
    text = evaluation.model_dump_json(indent=1) + "\n"
    write_atomic(folder / EVALUATION, text.encode())
    card = (folder / CARD).read_text(encoding="utf-8")
    write_atomic(folder / CARD, evaluated(card, evaluation).encode())
    files = {
        **manifest.files,
        "card": StoredFile(file=CARD, sha256=digest(folder / CARD)),
        "evaluation": StoredFile(file=EVALUATION, sha256=digest(folder / EVALUATION)),
    }
    model_options = dict(manifest.options)
    if "reference_log_likelihoods" in model_options and evaluation.corrected_reference:
        model_options[REFERENCE] = list(evaluation.corrected_reference)
    changed = manifest.model_copy(update={"files": files, "options": model_options})
    write_manifest(changed, folder)


def _words_of_features(evaluation: Evaluation) -> str:
    network = evaluation.features
    if network is None:
        return "Images are compared pixel by pixel."
    if network.file is None:
        return (
            "`..._domain_classifier` compares by what a small classifier of this domain sees, "
            "never by Inception: such a number compares models that were measured with the same "
            "network, and nothing else."
        )
    return (
        f"`..._{network.name}` compares by the network `{network.file}` (SHA-256 "
        f"`{network.sha256}`)."
    )


def _findings(values: Mapping[str, float]) -> list[str]:
    """What the numbers mean where a reader could miss it."""
    said = []
    if EQUAL_PSNR in [value for name, value in values.items() if name.endswith("_psnr_db")]:
        said.append(f"{EQUAL_PSNR:.0f} dB stands for equal images.")
    for name, value in values.items():
        if name.startswith("recall_") and value < COLLAPSED_RECALL:
            said.append(
                f"**Mode collapse**: only {value:.0%} of held-out images lie near a sample "
                f"(`{name}`)."
            )
        if name.startswith("anomaly_auroc_") and name.endswith("_likelihood") and value < CHANCE:
            said.append(
                f"`{name}` is below chance: by this score strangers look more usual than images "
                "of the model's own kind."
            )
    return said


def _row(row: Measurement) -> str:
    spread = "" if row.deviation is None else f"{row.deviation:.2g}"
    return f"| {row.name} | {row.value:.5g} | {spread} | {row.better or ''} | {row.images} |"
