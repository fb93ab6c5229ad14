"""What the demonstration asks for: an image of every family, edits, and likelihoods, over HTTP."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence

from services.demo.digits import autoencoders, digit_gans, digits_from_noise, levels, written
from services.demo.drawings import COLORS, drawing
from services.demo.exhibits import SEED, SEEDS, Exhibit, Service, exhibit
from services.demo.pictures import negative, right_half
from services.demo.styles import styles

PROMPTS = (
    "a large red star on black",
    "a small blue circle at the top left on white",
    "a yellow ring on brown",
    "a medium green triangle at the bottom right on gray",
)
LABELS = ("star", "ring", "cross", "square")
TRAVERSED = 0
"""The number of `shapes-vae`'s latent that the strip shows."""


def tour(service: Service) -> Iterator[Exhibit]:
    """One exhibit after the other; later ones use the images of earlier ones."""
    started = time.perf_counter()
    pictures = [
        service.images("generate", model="shapes-ldm", prompt=prompt, seed=SEED)[0]
        for prompt in PROMPTS
    ]
    yield exhibit(
        "shapes-ldm", "shapes-ldm: text to image (latent diffusion)", PROMPTS, pictures, started
    )

    started = time.perf_counter()
    labeled = [
        service.images("generate", model="shapes-cgan", label=label, seed=SEED)[0]
        for label in LABELS
    ]
    yield exhibit("shapes-cgan", "shapes-cgan: label to image (GAN)", LABELS, labeled, started)

    started = time.perf_counter()
    drawn = service.images("generate", model="shapes-vae", n=4, seed=SEED)
    yield exhibit("shapes-vae", "shapes-vae: from the prior (VAE)", SEEDS, drawn, started)

    digits = list(digits_from_noise(service))
    yield from digits
    yield from digit_gans(service, digits[0].images)
    yield from autoencoders(service, digits[0].images)
    yield from levels(service)
    yield from written(service)
    yield from _written_shapes(service)
    yield from _grown(service)
    yield _traversed(service)
    yield _enlarged(service, "photos-sr", "super-resolution")
    yield from _translated(service)
    yield from styles(service, pictures[0])
    yield from _edits(service, pictures[0])
    yield _likelihoods(service, digits[0].images, drawn)


def _written_shapes(service: Service) -> Iterator[Exhibit]:
    """Text to image by codes; a catalog may lack the model."""
    if "shapes-dalle" in service.models():
        started = time.perf_counter()
        made = [
            service.images("generate", model="shapes-dalle", prompt=prompt, seed=SEED)[0]
            for prompt in PROMPTS
        ]
        title = "shapes-dalle: text to image, code by code (autoregressive)"
        yield exhibit("shapes-dalle", title, PROMPTS, made, started)


def _grown(service: Service) -> Iterator[Exhibit]:
    """One scene as it grew; a catalog may lack the model."""
    if "shapes-progan" in service.models():
        started = time.perf_counter()
        stages = ((8, 1.0), (16, 1.0), (32, 0.5), (32, 1.0))
        made = [
            service.images(
                "generate", model="shapes-progan", seed=SEED, resolution=side, alpha=alpha
            )[0]
            for side, alpha in stages
        ]
        captions = ("8x8", "16x16", "32x32, half faded in", "32x32")
        title = "shapes-progan: one scene at the resolutions of its growth (ProGAN)"
        yield exhibit("shapes-progan", title, captions, made, started)


def _traversed(service: Service) -> Exhibit:
    """One number of a latent, moved by itself."""
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
    return exhibit("traverse", title, ["-2", *[""] * 6, "2"], strip, started)


def _enlarged(service: Service, model: str, how: str) -> Exhibit:
    """The pictures of the text-to-image model at a multiple of their size, each in one request."""
    started = time.perf_counter()
    large = [
        service.images("generate", model="shapes-ldm", cascade=model, prompt=prompt, seed=SEED)[0]
        for prompt in PROMPTS
    ]
    title = f"shapes-ldm, then {model}: a cascade in one request ({how})"
    return exhibit(model, title, PROMPTS, large, started)


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
    return exhibit("shapes-pix2pix", title, captions, images, started)


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
    yield exhibit("inpaint", "shapes-ldm: inpaint", captions, (star, mask, *inpainted), started)

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
    yield exhibit("variation", "shapes-ldm: variation", captions, (star, *varied), started)

    started = time.perf_counter()
    frames = service.images(
        "edit", model="shapes-cgan", operation="interpolate", label="ring", seeds=[3, 8], n=8
    )
    captions = ["seed 3", *[""] * 6, "seed 8"]
    yield exhibit(
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
    return exhibit("likelihood", title, captions, images, started, note="; ".join(worths))
