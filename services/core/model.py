"""What a model says of itself. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from services.core.adapters import AdapterInfo

DocumentKind = Literal["card", "sheet"]
"""What can come with a model for people: its card in Markdown, and a picture of samples."""
LikelihoodKind = Literal["exact", "lower_bound", "estimate", "none"]
Conditioning = Literal["text", "label", "codes", "image", "none"]

ANOMALOUS_PERCENTILE = 1.0
"""An image below this percentile of a model's reference set is called anomalous."""


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """What a model's percentiles are read off: log-likelihoods of held-out images.

    Attributes:
        log_likelihoods: in nats; ascending quantiles, evenly spaced from the 0th percentile to the
            100th.
        settings: the parameters of the estimator that made them; a percentile is given only where
            a request has the same.
    """

    log_likelihoods: tuple[float, ...]
    settings: Mapping[str, int | str | None] = field(default_factory=dict)

    @property
    def anomalous_below(self) -> float:
        """The log-likelihood at `ANOMALOUS_PERCENTILE`, in nats."""
        ranks = np.linspace(0.0, 100.0, len(self.log_likelihoods))
        return float(np.interp(ANOMALOUS_PERCENTILE, ranks, self.log_likelihoods))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as ``GET /v1/models/{id}`` shows it.

    ``operations`` maps each thing that can be asked (``generate``, ``likelihood``, ``encode`` and
    the operations of ``edit``) to the JSON schema of its parameters. ``resolution`` is
    ``(height, width)``. ``reference`` is there where the model says an image's percentile.
    ``digest`` is the SHA-256 of its manifest, which names the digests of all its files.
    """

    id: str
    family: str
    created: int
    owned_by: str
    description: str
    tasks: tuple[str, ...]
    operations: dict[str, dict[str, Any]]
    conditioning: tuple[Conditioning, ...]
    resolution: tuple[int, int]
    channels: int
    likelihood: LikelihoodKind
    limits: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    loaded: bool = False
    adapters: tuple[AdapterInfo, ...] = ()
    reference: ReferenceSet | None = None
    digest: str = ""
