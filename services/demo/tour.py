"""What the demonstration asks for: an image of every family, edits, and likelihoods, over HTTP."""

from __future__ import annotations

import base64
import io
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image, ImageDraw

from services.core.errors import from_json
from services.demo.drawings import COLORS, drawing

ANSWER_SECONDS = 120.0
PROMPTS = (
    "a large red star on black",
    "a small blue circle at the top left on white",
    "a yellow ring on brown",
    "a medium green triangle at the bottom right on gray",
)
LABELS = ("star", "ring", "cross", "square")
DIGITS = ("2", "3", "6", "7")
DIGIT_GANS = ("digits-dcgan", "digits-wgan-gp", "digits-infogan", "digits-vae-gan")
SEED = 7
NOISE = 48
"""Standard deviation of the noise that a digit is given, in steps of 255."""
TRAVERSED = 0
"""The number of `shapes-vae`'s latent that the strip shows."""


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

    def models(self) -> frozenset[str]:
        """The ids of all models that are served."""
        answer = self._client.get("/v1/models", timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return frozenset(model["id"] for model in answer.json()["data"])

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
    yield from _digit_gans(service, digits[0].images)
    yield from _autoencoders(service, digits[0].images)
    yield _enlarged(service, "photos-sr", "super-resolution")
    yield from _translated(service)
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


def _digit_gans(service: Service, digits: Sequence[bytes]) -> Iterator[Exhibit]:
    """The GANs of handwritten digits, with what their other networks read in images."""
    shown = (_dcgan, _wgan_gp, _infogan, _vae_gan)
    served = service.models()
    for model, show in zip(DIGIT_GANS, shown, strict=True):
        if model in served:  # a catalog may hold fewer models
            yield show(service, digits)


def _dcgan(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    made = service.images("generate", model="digits-dcgan", n=4, seed=SEED)
    seeds = [f"seed {SEED + i}" for i in range(4)]
    return _exhibit("digits-dcgan", "digits-dcgan: from noise (DCGAN)", seeds, made, started)


def _wgan_gp(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    scored = service.ask("generate", {"model": "digits-wgan-gp", "n": 4, "seed": SEED})["data"]
    images = [base64.b64decode(one["b64_json"]) for one in scored]
    captions = [f"realness {one['realness']:.1f}" for one in scored]
    title = "digits-wgan-gp: with the critic's score, which is no density (WGAN-GP)"
    return _exhibit("digits-wgan-gp", title, captions, images, started)


def _infogan(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    strip = service.images("edit", model="digits-infogan", operation="traverse", seed=SEED)
    captions = [f"category {i}" for i in range(len(strip))]
    title = "digits-infogan: every category, found without labels (InfoGAN)"
    return _exhibit("digits-infogan", title, captions, strip, started)


def _vae_gan(service: Service, digits: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    sent = [base64.b64encode(digit).decode() for digit in digits]
    again = service.images(
        "edit", model="digits-vae-gan", operation="reconstruct", images=sent, seed=SEED
    )
    captions = [*["an image"] * len(digits), *["reconstructed"] * len(again)]
    title = "digits-vae-gan: images and their reconstructions (VAE-GAN)"
    return _exhibit("digits-vae-gan", title, captions, (*digits, *again), started)


def _autoencoders(service: Service, digits: Sequence[bytes]) -> Iterator[Exhibit]:
    """Autoencoders: through a code, without noise, and along one number of a latent."""
    for model, operation, title, sent in (
        ("digits-autoencoder", "reconstruct", "through twelve numbers (autoencoder)", digits),
        (
            "digits-denoising-ae",
            "denoise",
            "noise taken away (denoising autoencoder)",
            [noisy(digit) for digit in digits],
        ),
    ):
        started = time.perf_counter()
        images = [base64.b64encode(image).decode() for image in sent]
        made = service.images("edit", model=model, operation=operation, images=images)
        captions = [*["an image"] * len(sent), *[operation] * len(made)]
        yield _exhibit(model, f"{model}: {title}", captions, (*sent, *made), started)

    started = time.perf_counter()
    strip = service.images(
        "edit",
        model="shapes-vae",
        operation="traverse",
        latent_index=TRAVERSED,
        range=[-2, 2],
        n=8,
        seed=SEED,
    )
    title = f"shapes-vae: number {TRAVERSED} of the latent moved by itself (traversal)"
    yield _exhibit("traverse", title, ["-2", *[""] * 6, "2"], strip, started)


def _enlarged(service: Service, model: str, how: str) -> Exhibit:
    """The pictures of the text-to-image model at a multiple of their size, each in one request."""
    started = time.perf_counter()
    large = [
        service.images("generate", model="shapes-ldm", cascade=model, prompt=prompt, seed=SEED)[0]
        for prompt in PROMPTS
    ]
    title = f"shapes-ldm, then {model}: a cascade in one request ({how})"
    return _exhibit(model, title, PROMPTS, large, started)


def _translated(service: Service) -> Iterator[Exhibit]:
    """The image-to-image generators that are served; a catalog may hold neither."""
    served = service.models()
    if "photos-srgan" in served:
        yield _enlarged(service, "photos-srgan", "SRGAN, at four times the size")
    if "shapes-pix2pix" in served:
        yield _filled(service)


def _filled(service: Service) -> Exhibit:
    """Drawings of outlines, and what the translator makes of them, all in one request."""
    started = time.perf_counter()
    outlines = [drawing(name) for name in COLORS]
    made = service.images(
        "edit",
        model="shapes-pix2pix",
        operation="translate",
        images=[base64.b64encode(outline).decode() for outline in outlines],
    )
    captions = [caption for name in COLORS for caption in (f"{name}, drawn", "filled")]
    images = [image for pair in zip(outlines, made, strict=True) for image in pair]
    title = "shapes-pix2pix: outline to filled shape (translation)"
    return _exhibit("shapes-pix2pix", title, captions, images, started)


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


def noisy(image: bytes) -> bytes:
    """The image in grey with Gaussian noise, the same each time."""
    source = random.Random(SEED)  # noqa: S311 - nothing here is a secret
    grey = Image.open(io.BytesIO(image)).convert("L")
    moved = (round(value + source.gauss(0, NOISE)) for value in grey.tobytes())
    return _png(Image.frombytes("L", grey.size, bytes(min(max(value, 0), 255) for value in moved)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
