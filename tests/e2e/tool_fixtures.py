"""What the tests of the page's tools share: a service of tiny models, and using the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Request, expect
from prometheus_client import CollectorRegistry

from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.in_process import InProcessBackend
from services.serving.process_metrics import ProcessMetrics
from tests.e2e.page_fixtures import PATIENCE_MS, Opener, served
from tests.tiny_models import MODELS, Shelf
from tests.tiny_style import StyleEngine, tiny_style

Pixels = NDArray[np.uint8]

expect.set_options(timeout=PATIENCE_MS)

_NOISE = np.random.default_rng(0)


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service of tiny models."""
    with tiny_site(tmp_path_factory.mktemp("tools")) as url:
        yield url


@pytest.fixture
def open_tiny(open_page: Opener) -> Opener:
    """Opens pages over tiny models, which have no sheets: the browser's console says so."""
    return partial(open_page, expected=("status of 404",))


def at(page: Page, tool: str, model: str) -> Page:
    """The page once it shows a tool for a model."""
    expect(page.locator("#model-button")).to_contain_text(model)
    expect(page.locator("#tabs [aria-selected=true]")).to_have_text(tool)
    return page


def post(url: str, path: str, **body: Any) -> Any:
    """The JSON of an answer of the service itself."""
    return httpx.post(url + path, json=body, timeout=60).raise_for_status().json()


def image(url: str, path: str = "/v1/generate", **body: Any) -> Pixels:
    """The pixels of the first image of an answer of the service itself."""
    return pixels_of(post(url, path, **body)["data"][0]["b64_json"])


def some_image(size: int) -> Pixels:
    """Colours that no model has made."""
    return _NOISE.integers(0, 256, (size, size, 3)).astype(np.uint8)


def press(page: Page, name: str) -> None:
    """Press the button of that name."""
    page.get_by_role("button", name=re.compile(f"^{name}")).first.click()


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
