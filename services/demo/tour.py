"""What the demonstration asks for: an image of every family, edits, and likelihoods, over HTTP."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image, ImageDraw

from services.core.errors import from_json

ANSWER_SECONDS = 120.0
PROMPTS = (
    "a large red star on black",
    "a small blue circle at the top left on white",
    "a yellow ring on brown",
    "a medium green triangle at the bottom right on gray",
)
LABELS = ("star", "ring", "cross", "square")
DIGITS = ("2", "3", "6", "7")
SEED = 7


@dataclass(frozen=True, slots=True)
class Exhibit:
    """Images that belong together: what was asked, what came, and how many seconds it took.

    ``name`` is what their files are called.
    """

    name: str
    title: str
    captions: tuple[str, ...]
    images: tuple[bytes, ...]
    seconds: float
    note: str = ""


class Service:
    """The HTTP interface, as any client would use it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, route: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a JSON body.

        Raises:
            AtelierError: what the service said was wrong.
        """
        answer = self._client.post(f"/v1/{route}", json=body, timeout=ANSWER_SECONDS)
        if answer.is_error:
            raise from_json(answer.json()["error"])
        values: dict[str, Any] = answer.json()
        return values

    def images(self, route: str, **body: Any) -> tuple[bytes, ...]:
        """The images of a generate or edit request."""
        return tuple(base64.b64decode(i["b64_json"]) for i in self.ask(route, body)["data"])


def tour(service: Service) -> Iterator[Exhibit]:
    """One exhibit after the other; later ones use the images of earlier ones."""
    started = time.perf_counter()
    pictures = [
        service.images("generate", model="shapes-ldm", prompt=prompt, seed=SEED)[0]
        for prompt in PROMPTS
    ]
    yield _exhibit(
        "shapes-ldm", "shapes-ldm: text to image (latent diffusion)", PROMPTS, pictures, started
    )

    started = time.perf_counter()
    labeled = [
        service.images("generate", model="shapes-cgan", label=label, seed=SEED)[0]
        for label in LABELS
    ]
    yield _exhibit("shapes-cgan", "shapes-cgan: label to image (GAN)", LABELS, labeled, started)

    started = time.perf_counter()
    drawn = service.images("generate", model="shapes-vae", n=4, seed=SEED)
    seeds = [f"seed {SEED + i}" for i in range(4)]
    yield _exhibit("shapes-vae", "shapes-vae: from the prior (VAE)", seeds, drawn, started)

    digits = list(_digits(service))
    yield from digits
    yield _enlarged(service)
    yield from _edits(service, pictures[0])
    yield _likelihoods(service, digits[0].images, drawn)


def _digits(service: Service) -> Iterator[Exhibit]:
    """The models of handwritten digits, the flow first."""
    seeds = [f"seed {SEED + i}" for i in range(4)]
    for model, title, settings in (
        ("digits-realnvp", "from the base distribution (flow)", {"temperature": 0.8}),
        ("digits-score-vp", "predictor-corrector (score SDE)", {}),
        ("digits-ncsn", "annealed Langevin dynamics (score)", {}),
    ):
        started = time.perf_counter()
        made = service.images("generate", model=model, n=4, seed=SEED, **settings)
        yield _exhibit(model, f"{model}: {title}", seeds, made, started)

    started = time.perf_counter()
    guided = [
        service.images("generate", model="digits-ddpm", label=digit, seed=SEED)[0]
        for digit in DIGITS
    ]
    title = "digits-ddpm: led to a label by a classifier (diffusion)"
    yield _exhibit("digits-ddpm", title, DIGITS, guided, started)


def _enlarged(service: Service) -> Exhibit:
    """The pictures of the text-to-image model at twice their size, each in one request."""
    started = time.perf_counter()
    large = [
        service.images(
            "generate", model="shapes-ldm", cascade="photos-sr", prompt=prompt, seed=SEED
        )[0]
        for prompt in PROMPTS
    ]
    title = "shapes-ldm, then photos-sr: a cascade in one request (super-resolution)"
    return _exhibit("photos-sr", title, PROMPTS, large, started)


def _edits(service: Service, star: bytes) -> Iterator[Exhibit]:
    started = time.perf_counter()
    mask = right_half(star)
    prompt = "a large cyan star on black"
    inpainted = service.images(
        "edit",
        model="shapes-ldm",
        operation="inpaint",
        images=[base64.b64encode(star).decode()],
        mask=base64.b64encode(mask).decode(),
        prompt=prompt,
        seed=SEED,
    )
    captions = ["the image", "the mask", f"inpainted: {prompt}"]
    yield _exhibit("inpaint", "shapes-ldm: inpaint", captions, (star, mask, *inpainted), started)

    started = time.perf_counter()
    varied = service.images(
        "edit",
        model="shapes-ldm",
        operation="variation",
        images=[base64.b64encode(star).decode()],
        prompt="a large red star on black",
        strength=0.7,
        n=3,
        seed=SEED,
    )
    captions = ["the image", *(f"variation {i + 1}" for i in range(3))]
    yield _exhibit("variation", "shapes-ldm: variation", captions, (star, *varied), started)

    started = time.perf_counter()
    frames = service.images(
        "edit", model="shapes-cgan", operation="interpolate", label="ring", seeds=[3, 8], n=8
    )
    captions = ["seed 3", *[""] * 6, "seed 8"]
    yield _exhibit(
        "interpolate", "shapes-cgan: interpolate between two seeds", captions, frames, started
    )


def _likelihoods(service: Service, digits: Sequence[bytes], shapes: Sequence[bytes]) -> Exhibit:
    """A digit as the flow sees it, its negative, and one of the VAE's images."""
    started = time.perf_counter()
    digit, inverted = digits[0], negative(digits[0])
    captions, worths = [], []
    for name, model, image in (
        ("generated", "digits-realnvp", digit),
        ("its negative", "digits-realnvp", inverted),
        ("generated", "shapes-vae", shapes[0]),
    ):
        body = {"model": model, "images": [base64.b64encode(image).decode()]}
        found = service.ask("likelihood", body)["data"][0]
        kind = str(found["kind"]).replace("_", " ")
        captions.append(f"{model}, {name}: {found['bits_per_dim']:.2f} bits/dim, {kind}")
        worths.append(f"{model} {found['log_likelihood']:.1f} nats")
    images = (digit, inverted, shapes[0])
    title = "likelihood: lower bits/dim is more probable"
    return _exhibit("likelihood", title, captions, images, started, note="; ".join(worths))


def _exhibit(
    name: str,
    title: str,
    captions: Sequence[str],
    images: Sequence[bytes],
    started: float,
    note: str = "",
) -> Exhibit:
    seconds = time.perf_counter() - started
    return Exhibit(name, title, tuple(captions), tuple(images), seconds, note)


def right_half(image: bytes) -> bytes:
    """A mask of the image's size, white where the right half is to be made anew."""
    size = Image.open(io.BytesIO(image)).size
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill=255)
    return _png(mask)


def negative(image: bytes) -> bytes:
    """The image's negative."""
    return _png(Image.open(io.BytesIO(image)).point(lambda value: 255 - value))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
