"""What a model says of itself. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from services.core.adapters import AdapterInfo

LikelihoodKind = Literal["exact", "lower_bound", "estimate", "none"]
Conditioning = Literal["text", "label", "codes", "image", "none"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as ``GET /v1/models/{id}`` shows it.

    ``operations`` maps each thing that can be asked (``generate``, ``likelihood``, ``encode`` and
    the operations of ``edit``) to the JSON schema of its parameters. ``resolution`` is
    ``(height, width)``.
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
