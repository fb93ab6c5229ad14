"""Exhibits of the models of handwritten digits; a catalog may hold fewer than are named here."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence

from services.demo.exhibits import SEED, SEEDS, Exhibit, Service, exhibit
from services.demo.pictures import noisy

DIGITS = ("2", "3", "6", "7")
DIGIT_GANS = ("digits-dcgan", "digits-wgan-gp", "digits-infogan", "digits-vae-gan")
CODES = {
    "digits-vqvae": "codes written one after the other, told a digit (VQ-VAE)",
    "digits-vqvae2": "coarse codes, then fine ones, told a digit (VQ-VAE-2)",
}


def digits_from_noise(service: Service) -> Iterator[Exhibit]:
    """The models of handwritten digits, the flow first."""
    for model, title, settings in (
        ("digits-realnvp", "from the base distribution (flow)", {"temperature": 0.8}),
        ("digits-score-vp", "predictor-corrector (score SDE)", {}),
        ("digits-ncsn", "annealed Langevin dynamics (score)", {}),
    ):
        started = time.perf_counter()
        made = service.images("generate", model=model, n=4, seed=SEED, **settings)
        yield exhibit(model, f"{model}: {title}", SEEDS, made, started)

    started = time.perf_counter()
    guided = [
        service.images("generate", model="digits-ddpm", label=digit, seed=SEED)[0]
        for digit in DIGITS
    ]
    title = "digits-ddpm: led to a label by a classifier (diffusion)"
    yield exhibit("digits-ddpm", title, DIGITS, guided, started)


def digit_gans(service: Service, digits: Sequence[bytes]) -> Iterator[Exhibit]:
    """The GANs of handwritten digits, with what their other networks read in images."""
    shown = (_dcgan, _wgan_gp, _infogan, _vae_gan)
    served = service.models()
    for model, show in zip(DIGIT_GANS, shown, strict=True):
        if model in served:  # a catalog may hold fewer models
            yield show(service, digits)


def _dcgan(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    made = service.images("generate", model="digits-dcgan", n=4, seed=SEED)
    return exhibit("digits-dcgan", "digits-dcgan: from noise (DCGAN)", SEEDS, made, started)


def _wgan_gp(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    scored = service.ask("generate", {"model": "digits-wgan-gp", "n": 4, "seed": SEED})["data"]
    images = [base64.b64decode(one["b64_json"]) for one in scored]
    captions = [f"realness {one['realness']:.1f}" for one in scored]
    title = "digits-wgan-gp: with the critic's score, which is no density (WGAN-GP)"
    return exhibit("digits-wgan-gp", title, captions, images, started)


def _infogan(service: Service, _: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    strip = service.images("edit", model="digits-infogan", operation="traverse", seed=SEED)
    captions = [f"category {i}" for i in range(len(strip))]
    title = "digits-infogan: every category, found without labels (InfoGAN)"
    return exhibit("digits-infogan", title, captions, strip, started)


def _vae_gan(service: Service, digits: Sequence[bytes]) -> Exhibit:
    started = time.perf_counter()
    sent = [base64.b64encode(digit).decode() for digit in digits]
    again = service.images(
        "edit", model="digits-vae-gan", operation="reconstruct", images=sent, seed=SEED
    )
    captions = [*["an image"] * len(digits), *["reconstructed"] * len(again)]
    title = "digits-vae-gan: images and their reconstructions (VAE-GAN)"
    return exhibit("digits-vae-gan", title, captions, (*digits, *again), started)


def autoencoders(service: Service, digits: Sequence[bytes]) -> Iterator[Exhibit]:
    """Autoencoders: through a code, and without noise."""
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
        yield exhibit(model, f"{model}: {title}", captions, (*sent, *made), started)


def levels(service: Service) -> Iterator[Exhibit]:
    """A hierarchical VAE's own images as its coarsest level is drawn more freely; maybe none."""
    model = "digits-hvae"
    if model in service.models():
        started = time.perf_counter()
        temperatures = (0.3, 0.6, 0.8, 1.0)
        made = [
            service.images("generate", model=model, seed=SEED, temperature=temperature)[0]
            for temperature in temperatures
        ]
        captions = [f"temperature {temperature:g}" for temperature in temperatures]
        title = f"{model}: one draw, ever more freely (hierarchical VAE)"
        yield exhibit(model, title, captions, made, started)


def written(service: Service) -> Iterator[Exhibit]:
    """Models that write an image's codes one after the other."""
    served = service.models()
    for model, title in CODES.items():
        if model in served:
            started = time.perf_counter()
            made = [
                service.images("generate", model=model, label=digit, seed=SEED)[0]
                for digit in DIGITS
            ]
            yield exhibit(model, f"{model}: {title}", DIGITS, made, started)
