"""Add reference quantiles to exported models: ``python -m model_store.recipes.reference``.

A likelihood says little by itself; its percentile among held-out images says whether an image is
usual. The quantiles come from validation images, by the estimator and with the settings that serve
a request that names none, and stand in the manifest with those settings: a request with others gets
no percentile.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from model_store.evaluation import reference
from model_store.export.package import CATALOG, add_options
from model_store.networks.opening import open_model
from model_store.recipes import digits, shapes
from model_store.store import Store, default_root
from services.core.network import OpenedModel

MODELS = (
    "shapes-vae",
    "shapes-beta-vae",
    "shapes-ldm",
    "digits-ddpm",
    "digits-hvae",
    "digits-score-vp",
)
IMAGES = 512
DIGITS = 180
"""Of the digits, the whole validation split, each once."""
BATCH = 64
SEED = 31
VAE_SETTINGS: dict[str, Any] = {"samples": 64}
DIFFUSION_SETTINGS: dict[str, Any] = {"method": "bound", "steps": 32, "prompt": ""}
DIFFUSION_SAMPLES = 4
"""As many as a request has that names none; more or fewer move no percentile, only its error."""


def held_out(model_id: str, count: int, generator: torch.Generator) -> Tensor:
    """Validation images in [-1, 1]; digits come back with other noise when there are too few."""
    if not model_id.startswith("digits"):
        return shapes.batch(count, "validation", generator)[0]
    levels, _ = digits.levels("validation")
    rows = torch.arange(count) % len(levels)
    return digits.to_8_bit(levels[rows], generator) / 127.5 - 1


def reference_options(model: OpenedModel, count: int = IMAGES) -> dict[str, Any]:
    """The quantiles of ``count`` validation images, and the settings that they hold for."""
    generator = torch.Generator().manual_seed(SEED)
    images = held_out(model.id, count, generator)
    settings = VAE_SETTINGS if model.family == "vae" else DIFFUSION_SETTINGS
    nats = []
    for part in track(images.split(BATCH), description=f"{model.id}: reference likelihoods"):
        if model.family == "vae":
            samples = VAE_SETTINGS["samples"]
            found = reference.importance_weighted(model, part, samples=samples, generator=generator)
        else:
            found = reference.variational_bound(
                model,
                part,
                steps=DIFFUSION_SETTINGS["steps"],
                samples=DIFFUSION_SAMPLES,
                generator=generator,
            )
        nats.append(found)
    return {
        "reference_log_likelihoods": reference.quantiles(torch.cat(nats)),
        "reference_settings": settings,
    }


def add_reference(model_id: str, catalog: Path = CATALOG) -> None:
    """Measure an exported model as it is served, and write the outcome into its manifest."""
    store = Store(default_root(os.environ), catalogs=(catalog,))
    threads = torch.get_num_threads()
    model = open_model(store, model_id, torch.device("cpu"), threads=threads)
    count = DIGITS if model_id.startswith("digits") else IMAGES
    add_options(catalog / model_id, reference_options(model, count))


def main() -> None:
    """Add references to the models named, or to every one that has any use for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    exported = [name for name in MODELS if (CATALOG / name).is_dir()]
    names = parser.parse_args().models or exported
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"'{unknown[0]}' is none of {', '.join(MODELS)}")
    for model_id in names:
        add_reference(model_id)


if __name__ == "__main__":
    main()
