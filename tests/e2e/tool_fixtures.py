"""What the tests of the page's tools share: a service of tiny models, and reading the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Request
from prometheus_client import CollectorRegistry

from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from services.serving.process_metrics import ProcessMetrics
from tests.e2e.page_fixtures import served
from tests.tiny_models import MODELS, Shelf
from tests.tiny_style import StyleEngine, tiny_style

Pixels = NDArray[np.uint8]


@contextmanager
def tiny_site(folder: Path, **settings: Any) -> Iterator[str]:
    """The URL of a service of tiny models, ``tiny-FAMILY``, one of which mixes styles."""
    registry = CollectorRegistry()
    shelf = Shelf(
        {**{f"tiny-{family}": build for family, build in MODELS.items()}, "tiny-style": tiny_style}
    )
    backend = InProcessBackend(
        shelf,
        {**discover(), "style": StyleEngine},
        observer=ProcessMetrics(registry).of_pool("default"),
    )
    own = {"key_file": folder / "keys.json", "provenance": {"enabled": False}, **settings}
    app = create_app(backend, GatewaySettings(**own), metrics=GatewayMetrics(registry))
    try:
        with served(app) as url:
            yield url
    finally:
        backend.close()


def imported(page: Page, module: str, script: str, argument: Any = None) -> Any:
    """What a function of JavaScript gives that gets a module of the page, and an argument."""
    wrapped = f"async (given) => ({script})(await import('/page/{module}'), given)"
    return page.evaluate(wrapped, argument)


def png(pixels: Pixels) -> bytes:
    """Pixels as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(data: bytes | str) -> Pixels:
    """The pixels of an encoded image, or of one in base64, in colour."""
    raw = base64.b64decode(data) if isinstance(data, str) else data
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def upload(page: Page, pixels: Pixels, place: int = 0) -> None:
    """Choose a file in one of the page's fields for images, and wait until it is shown."""
    field = page.locator(".picture-input").nth(place)
    file = {"name": "given.png", "mimeType": "image/png", "buffer": png(pixels)}
    field.locator("input[type=file]").set_input_files([file])
    field.locator(".picture-box.filled").wait_for()


def shown(page: Page, selector: str) -> Pixels:
    """The pixels of a picture that the page shows."""
    image = page.locator(selector).first
    text = image.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth;
            canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];
        }"""
    )
    return pixels_of(text)


class Sent:
    """The bodies that a page posts from now on, by path."""

    def __init__(self, page: Page) -> None:
        self.bodies: list[tuple[str, Mapping[str, Any]]] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.method == "POST":
            path = "/" + request.url.split("/", 3)[3]
            self.bodies.append((path, request.post_data_json))

    def to(self, path: str) -> list[Mapping[str, Any]]:
        """The bodies of one path, in order."""
        return [body for where, body in self.bodies if where == path]
