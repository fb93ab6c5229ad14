"""Watermarks: in the pixels, found again after JPEG, and not found where there is none."""

from __future__ import annotations

import base64
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from starlette.testclient import TestClient

from services.core.errors import InvalidParameter
from services.core.images import Pixels, encode
from services.core.job import Encoding, ImageFormat
from services.provenance.spread_spectrum import FOUND_AT, SpreadSpectrum
from services.provenance.watermark import watermark_named
from tests.unit.provenance.conftest import pixels

PAYLOAD = b"studio-7"
KEYS = 1500
PLUGIN = """
class Inverted:
    def embed(self, pixels, payload):
        return 255 - pixels
    def detect(self, pixels, payload):
        raise NotImplementedError
"""


def photograph(name: str, size: int) -> Pixels:
    values = np.asarray(getattr(photographs, name)())
    values = values[..., None] if values.ndim == 2 else values
    return np.ascontiguousarray(values[80 : 80 + size, 80 : 80 + size].transpose(2, 0, 1))


def through(marked: Pixels, image_format: ImageFormat, quality: int) -> Pixels:
    image = Image.open(io.BytesIO(encode(marked, Encoding(image_format, quality))))
    values = np.asarray(image.convert("RGB" if len(marked) == 3 else "L"))
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


IMAGES = {
    "astronaut-256": photograph("astronaut", 256),
    "camera-128": photograph("camera", 128),
    "coffee-100": photograph("coffee", 100),  # not whole blocks
    "astronaut-64": photograph("astronaut", 64),
    "white-64": np.full((3, 64, 64), 255, np.uint8),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    ("image_format", "quality"), [("png", 100), ("jpeg", 95), ("jpeg", 85), ("webp", 85)]
)
def test_a_watermark_survives_encoding(name: str, image_format: ImageFormat, quality: int) -> None:
    mark, image = SpreadSpectrum(), IMAGES[name]
    assert not mark.detect(image, PAYLOAD).found
    marked = mark.embed(image, PAYLOAD)
    assert (marked.shape, marked.dtype) == (image.shape, np.uint8)
    found = mark.detect(through(marked, image_format, quality), PAYLOAD)
    assert found.found
    assert found.false_positive < 1e-6
    assert not mark.detect(marked, b"studio-8").found


@pytest.mark.parametrize("name", IMAGES)
def test_a_watermark_is_hard_to_see_and_always_the_same(name: str) -> None:
    image = IMAGES[name]
    marked = SpreadSpectrum().embed(image, PAYLOAD)
    assert np.array_equal(marked, SpreadSpectrum().embed(image, PAYLOAD))
    error = np.mean((marked.astype(float) - image) ** 2)
    assert 10 * math.log10(255**2 / error) > 41  # dB


def test_false_positives_are_as_rare_as_promised() -> None:
    """Of `KEYS` payloads that are not in an image, as many score t as Hoeffding's bound allows."""
    mark, image = SpreadSpectrum(), IMAGES["astronaut-64"]
    scores = np.array([mark.score(image, str(key).encode()) for key in range(KEYS)])
    assert scores.std() == pytest.approx(1.0, abs=0.05)
    for t in (1.5, 2.0, 2.5, 3.0):
        assert np.mean(scores >= t) <= math.exp(-(t**2) / 2)
    assert scores.max() < FOUND_AT


@pytest.mark.parametrize("size", [1, 8, 24, 31])
def test_an_image_too_small_is_left_as_it_is(size: int) -> None:
    image = photograph("astronaut", size)
    assert np.array_equal(SpreadSpectrum().embed(image, PAYLOAD), image)
    assert not SpreadSpectrum().detect(image, PAYLOAD).found


def test_a_name_that_nobody_offers_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="spread-spectrum"):
        watermark_named("invisible-ink")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a watermark of its own."""
    (tmp_path / "inverting.py").write_text(PLUGIN)
    info = tmp_path / "inverting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: inverting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[atelier.watermarks]\ninverted = inverting:Inverted\nmissing = inverting:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "inverting", raising=False)


@pytest.mark.usefixtures("plugin")
def test_an_installed_watermark_goes_into_images_before_they_are_encoded(
    connect: Callable[..., TestClient], plain: TestClient, read: Any
) -> None:
    with pytest.raises(InvalidParameter, match="cannot be loaded"):
        watermark_named("missing")
    marking = connect(watermark="inverted")
    for image_format in ("png", "webp"):
        body = {"model": "tiny-gan", "label": 1, "seed": 3, "output_format": image_format}
        marked, bare = (
            base64.b64decode(c.post("/v1/generate", json=body).json()["data"][0]["b64_json"])
            for c in (marking, plain)
        )
        assert np.array_equal(np.array(pixels(marked)), 255 - np.array(pixels(bare)))
        manifest = read(marked).manifest
        assert manifest.verdict == "trusted"
        assert manifest.actions == ("c2pa.created", "c2pa.watermarked.unbound")
    route, seed = "/v2/models/tiny-gan/infer", {"name": "seed", "shape": [1], "datatype": "INT64"}
    tensors = {"inputs": [{**seed, "data": [3]}], "parameters": {"label": 1}}
    outputs = [
        {o["name"]: o["data"] for o in c.post(route, json=tensors).json()["outputs"]}["image"]
        for c in (marking, plain)
    ]
    assert np.array_equal(np.array(outputs[0]), 255 - np.array(outputs[1]))


def test_streams_are_marked_and_previews_keep_their_format(
    connect: Callable[..., TestClient],
) -> None:
    body = {"model": "tiny-diffusion", "seed": 7, "steps": 4, "preview_every": 1}
    body |= {"response": "stream", "output_format": "jpeg"}
    text = connect(watermark="spread-spectrum").post("/v1/generate", json=body).text
    shown = [line for line in text.splitlines() if "b64_json" in line]
    assert len(shown) > 1
    assert all('"b64_json": "/9j/' in line for line in shown)  # JPEG, in base64
