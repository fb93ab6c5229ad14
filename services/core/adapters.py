"""Adapters: what a user hangs on a model without changing it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

AdapterKind = Literal["lora", "textual_inversion", "controlnet"]

KIND_WORDS: dict[AdapterKind, str] = {
    "lora": "a LoRA",
    "textual_inversion": "a textual inversion",
    "controlnet": "a ControlNet",
}
"""How a sentence names each kind."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter as ``GET /v1/models/{id}`` shows it.

    Attributes:
        name: what requests call it.
        kind: ``lora`` (``adapters`` of a request), ``controlnet`` (``control``), or
            ``textual_inversion`` (its ``token`` in a prompt).
        base: the model that it was made for.
        description: one line, or none.
        created: seconds since the epoch.
        size: bytes on disk.
        token: of a textual inversion.
        details: what else is known, such as ranks and components.
    """

    name: str
    kind: AdapterKind
    base: str
    description: str = ""
    created: int = 0
    size: int = 0
    token: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
