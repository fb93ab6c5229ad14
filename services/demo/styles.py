"""What a style-based generator shows of itself: draws, mixes, attributes, an upload found again."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

from services.demo.exhibits import SEED, SEEDS, Exhibit, Service, exhibit

MODEL = "shapes-stylegan2"
AMOUNTS = (-3.0, -1.5, 0.0, 1.5, 3.0)
DESCENT_STEPS = 40


def styles(service: Service, picture: bytes) -> Iterator[Exhibit]:
    """Four exhibits of the style-based generator; a catalog may lack it.

    Args:
        service: that is shown.
        picture: an image that the generator did not make.
    """
    if MODEL not in service.models():
        return
    limits = service.describe(MODEL)["limits"]
    started = time.perf_counter()
    drawn = service.images("generate", model=MODEL, n=4, seed=SEED)
    yield exhibit(MODEL, f"{MODEL}: from noise (StyleGAN2)", SEEDS, drawn, started)
    yield _mixed(service, limits["layers"], drawn)
    if limits["attributes"]:
        yield _moved(service, limits["attributes"][0])
    yield _inverted(service, picture)


def _mixed(service: Service, layers: int, drawn: tuple[bytes, ...]) -> Exhibit:
    """Two images, and what lies between them layer by layer."""
    started = time.perf_counter()
    cuts = range(layers - 1, 0, -1)
    made = [
        service.images(
            "edit", model=MODEL, operation="style_mix", seeds=[SEED, SEED + 1], layer=cut
        )[0]
        for cut in cuts
    ]
    captions = [f"seed {SEED}", *(f"from layer {cut} on" for cut in cuts), f"seed {SEED + 1}"]
    title = f"{MODEL}: ever more layers of the second image (style mixing)"
    return exhibit("style-mix", title, captions, (drawn[0], *made, drawn[1]), started)


def _moved(service: Service, attribute: str) -> Exhibit:
    """One image along one attribute."""
    started = time.perf_counter()
    strip = service.images(
        "edit",
        model=MODEL,
        operation="traverse",
        attribute=attribute,
        values=list(AMOUNTS),
        seed=SEED,
    )
    captions = [f"{amount:+g}" for amount in AMOUNTS]
    title = f"{MODEL}: one image along the attribute {attribute}"
    return exhibit("attribute", title, captions, strip, started)


def _inverted(service: Service, picture: bytes) -> Exhibit:
    """A picture found among the generator's own, by its encoder and by descent."""
    started = time.perf_counter()
    image = base64.b64encode(picture).decode()
    (guessed,) = service.images("edit", model=MODEL, operation="reconstruct", image=image)
    body = {"model": MODEL, "operation": "invert", "image": image, "steps": DESCENT_STEPS}
    (found,) = service.ask("edit", body)["data"]
    captions = ["the picture", "by the encoder", f"after {DESCENT_STEPS} steps of descent"]
    images = (picture, guessed, base64.b64decode(found["b64_json"]))
    title = f"{MODEL}: latents of a picture (inversion)"
    note = "" if found["psnr"] is None else f"{found['psnr']:.1f} dB"
    return exhibit("inversion", title, captions, images, started, note=note)
