"""Answers and events, as types. Fields that a newer server adds are kept."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from PIL import Image as PILImage


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Timings(_Answer):
    """Seconds spent in each stage."""

    queue: float
    prepare: float
    step: float
    decode: float
    encode: float


class Image(_Answer):
    """An encoded image and what it was made from."""

    data: Annotated[bytes, Field(alias="b64_json"), BeforeValidator(base64.b64decode)]
    seed: int | None = None

    def save(self, path: str | Path) -> None:
        """Write the file as it came."""
        Path(path).write_bytes(self.data)

    def pil(self) -> PILImage.Image:
        """The decoded image; needs Pillow (``pip install 'atelier-client[pil]'``)."""
        from PIL import Image as PILImage  # noqa: PLC0415 - an extra

        image = PILImage.open(io.BytesIO(self.data))
        image.load()
        return image


class Images(_Answer):
    """Answer of generate and edit."""

    model: str
    created: int
    images: Annotated[list[Image], Field(alias="data")]
    timings: Timings


class Likelihood(_Answer):
    """How probable one image is; ``log_likelihood`` and ``std_error`` in nats.

    ``corrected_bits_per_dim`` is ``bits_per_dim`` less what a lossless compressor needs, so that
    simple images are not preferred; the lowest ``corrected_percentile`` are anomalous, as the
    lowest ``percentile`` are. ``residual_bits_per_dim`` is what codes leave out of the image, which
    the corrected bits count too. ``posterior`` is a density's, by class or component.
    """

    log_likelihood: float | None
    bits_per_dim: float | None
    kind: Literal["exact", "lower_bound", "estimate"]
    std_error: float | None = None
    terms: dict[str, Any] | None = None
    percentile: float | None = None
    anomalous: bool | None = None
    complexity_bits_per_dim: float | None = None
    residual_bits_per_dim: float | None = None
    corrected_bits_per_dim: float | None = None
    corrected_percentile: float | None = None
    corrected_anomalous: bool | None = None
    posterior: dict[str, float] | None = None


class Likelihoods(_Answer):
    """Answer of likelihood, one entry per image."""

    model: str
    entries: Annotated[list[Likelihood], Field(alias="data")]
    timings: Timings


class Latents(_Answer):
    """Little-endian float32 values in base64, and their shape."""

    data: str
    shape: list[int]


class Encoding(_Answer):
    """What a model's networks read in one image: latents, codes, or a critic's score.

    ``realness`` is no likelihood; ``realness_percentile`` is its place among those of held-out
    images.
    """

    latents: Latents | None = None
    category: int | None = None
    category_probabilities: list[float] | None = None
    continuous: list[float] | None = None
    continuous_std: list[float] | None = None
    realness: float | None = None
    realness_percentile: float | None = None


class Encodings(_Answer):
    """Answer of encode, one entry per image."""

    model: str
    entries: Annotated[list[Encoding], Field(alias="data")]
    timings: Timings


class Model(_Answer):
    """A model: what it is, and the JSON schema of each operation's parameters."""

    id: str
    created: int
    owned_by: str
    description: str
    family: str
    tasks: list[str]
    operations: dict[str, dict[str, Any]]
    conditioning: list[str]
    resolution: tuple[int, int]
    channels: int
    likelihood: str
    limits: dict[str, Any]
    labels: list[str]
    card: dict[str, Any]
    loaded: bool


class Status(_Answer):
    """Whether work would be taken, and how every pool is doing."""

    ready: bool
    pools: list[dict[str, Any]]


class Queued(_Answer):
    """The request was accepted; ``seconds`` of predicted device time until it is done."""

    request_id: str
    images: int
    ahead: int
    seconds: float


class Progress(_Answer):
    """An image has done ``step`` of ``steps`` network evaluations; ``eta`` in seconds."""

    index: int
    step: int
    steps: int
    sigma: float | None = None
    eta: float


class Preview(_Answer):
    """What an image is becoming."""

    index: int
    step: int
    steps: int
    image: Image


class ImageReady(_Answer):
    """An image is done."""

    index: int
    image: Image


class Done(_Answer):
    """All images were sent; always the last event."""

    model: str
    created: int
    timings: Timings


Event = Queued | Progress | Preview | ImageReady | Done
