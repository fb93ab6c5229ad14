"""How each API speaks of what happens to a call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from services.core.job import (
    CallFinished,
    Encoding,
    Event,
    Preview,
    Progress,
    Queued,
    RowFinished,
)
from services.gateway.answers import (
    base64_text,
    cascade_stages,
    digest_in,
    entry,
    stage_seconds,
)
from services.gateway.streams import Frame

NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""What OpenAI's clients require; these models count no tokens and nobody pays for any."""


@dataclass(frozen=True, slots=True)
class NativeWords:
    """The service's own events: ``queued progress preview image done``.

    Attributes:
        encoding: of the images.
        request_id: by which the request can be withdrawn.
    """

    encoding: Encoding
    request_id: str

    def __call__(self, event: Event) -> Frame:
        """The frame of an event; ``index`` is the image's place in ``data[]`` of a JSON answer."""
        match event:
            case Queued():
                return "queued", {
                    "request_id": self.request_id,
                    "images": event.rows,
                    "ahead": event.ahead,
                    "seconds": round(event.seconds, 6),
                }
            case Progress():
                return "progress", {
                    "index": event.row,
                    "step": event.step,
                    "steps": event.steps,
                    "sigma": event.sigma,
                    "eta": round(event.seconds_left, 6),
                }
            case Preview():
                return "preview", {
                    "index": event.row,
                    "step": event.step,
                    "steps": event.steps,
                    "output_format": self.encoding.format,
                    "b64_json": base64_text(event.image),
                }
            case RowFinished():
                return "image", {"index": event.row, **entry(event.item)}
            case CallFinished():
                stages = {"stages": cascade_stages(event.stages)} if event.stages else {}
                return "done", {
                    "model": event.model,
                    **digest_in(event.versions, event.model),
                    "created": int(time.time()),
                    "timings": stage_seconds(event.timings),
                    **stages,
                }


@dataclass(frozen=True, slots=True)
class OpenAIWords:
    """OpenAI's events: ``KIND.partial_image`` and ``KIND.completed``, and nothing else.

    ``image_index`` and ``seed`` stand beside OpenAI's own fields, which do not say which of several
    images an event is about.

    Attributes:
        kind: ``image_generation`` or ``image_edit``.
        encoding: of the images.
        size: of the images, ``WIDTHxHEIGHT``.
    """

    kind: str
    encoding: Encoding
    size: str

    def __call__(self, event: Event) -> Frame | None:
        """The frame of an event."""
        if isinstance(event, Preview):
            return self._frame(
                "partial_image", event.row, event.image, {"partial_image_index": event.index}
            )
        if isinstance(event, RowFinished):
            more = {"usage": NO_TOKENS, "seed": event.item.values.get("seed")}
            return self._frame("completed", event.row, event.item.image or b"", more)
        return None

    def _frame(self, what: str, row: int, image: bytes, more: dict[str, Any]) -> Frame:
        name = f"{self.kind}.{what}"
        return name, {
            "type": name,
            "b64_json": base64_text(image),
            "background": "opaque",
            "created_at": int(time.time()),
            "output_format": self.encoding.format,
            "quality": "auto",
            "size": self.size,
            "image_index": row,
            **more,
        }
