"""The model card: Hugging Face's metadata header, then what a reader has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says beside the numbers."""

    title: str
    summary: str
    data: str
    training: str
    measured: str
    limits: Sequence[str]
    recipe: str
    pipeline_tag: str
    dataset: str
    tags: Sequence[str] = field(default_factory=tuple)

    def render(self, *, model_license: str, metrics: Mapping[str, Any], sheet: str) -> str:
        """The card as Markdown.

        Args:
            model_license: SPDX name of the weights' licence.
            metrics: the numbers measured on held-out data, as they stand in the manifest.
            sheet: file name of the sample sheet beside the card.
        """
        header = {
            "license": model_license.lower(),
            "library_name": "atelier",
            "pipeline_tag": self.pipeline_tag,
            "tags": ["atelier", *self.tags],
            "datasets": [self.dataset],
            "metrics": sorted(metrics),
        }
        sections = [
            f"# {self.title}\n\n{self.summary}\n\n![samples]({sheet})",
            f"## Data\n\n{self.data}",
            f"## Training\n\n{self.training}\n\nMade again by `python -m {self.recipe}`.",
            f"## Held-out numbers\n\n{self.measured}\n\n{table(metrics)}",
            "## Limits\n\n" + "\n".join(f"- {limit}" for limit in self.limits),
        ]
        front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
        return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def table(metrics: Mapping[str, Any]) -> str:
    """Numbers as a two-column Markdown table; nested mappings become dotted names."""
    rows = ["| what | value |", "|---|---|"]
    rows += [f"| {name} | {value} |" for name, value in flatten(metrics)]
    return "\n".join(rows)


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted names and values, in order."""
    rows: list[tuple[str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows
