"""What a person does on the page and sees there, and what the service itself answers."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Request, expect

from tests.e2e.page_fixtures import PATIENCE_MS

Pixels = NDArray[np.uint8]

expect.set_options(timeout=PATIENCE_MS)

REFUSED = "Failed to load resource"
"""What Chromium's console says of any answer that is an error."""

_NOISE = np.random.default_rng(0)


def ready(page: Page) -> Page:
    """A page once its form is there."""
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    return page


def run(page: Page) -> None:
    """Generate, and wait for the end."""
    page.keyboard.press("Control+Enter")
    expect(page.locator(".progress[data-state=ended]")).to_be_visible()
    expect(page.locator(".timings")).to_be_visible()


def field(page: Page, name: str) -> Any:
    """The number of a field."""
    return page.locator(f"#tool [data-field={name}] input[type=number]").first


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


def shown(page: Page, selector: str = ".tile img") -> Pixels:
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
