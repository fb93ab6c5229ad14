"""A model with a classifier, from a folder of safetensors to guided images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

from model_store.addition import add_model
from model_store.architectures import build
from model_store.networks.opening import open_model
from model_store.store import Store
from services.core.engine import Engine
from services.core.errors import InvalidManifest
from services.core.images import ImageLimits
from services.families.diffusion import ENGINE
from tests.engines import CPU, ask, call, pixels_of

SMALL = {"width": 16, "blocks": 1, "style": 16}
LABELS = ["zero", "one", "two"]
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "denoiser": ("pixel_denoiser", SMALL),
    "classifier": ("noisy_classifier", {**SMALL, "classes": len(LABELS)}),
}


def module(name: str) -> nn.Module:
    """A network of the model with weights of its own, none of them at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        found = build(*CONFIGS[name])
        for weight in found.parameters():
            weight.data += 0.05 * torch.randn(weight.shape)
    return found


def write(folder: Path, **options: Any) -> Path:
    """A folder with both networks as safetensors."""
    folder.mkdir()
    networks = {}
    for name, (architecture, config) in CONFIGS.items():
        weights = {key: value.contiguous() for key, value in module(name).state_dict().items()}
        safetensors.torch.save_file(weights, folder / f"{name}.safetensors")
        shapes = {"x": [1, 8, 8], "t": []}
        networks[name] = {
            "safetensors": {
                "file": f"{name}.safetensors",
                "architecture": architecture,
                "config": config,
                "shapes": shapes,
            }
        }
    manifest = {
        "id": "guided-digits",
        "family": "diffusion",
        "resolution": [8, 8],
        "channels": 1,
        "pixel_range": [-1.0, 1.0],
        "networks": networks,
        "options": {
            "schedule": {"type": "variance_preserving"},
            "classifier": {"labels": LABELS},
            **options,
        },
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    store = Store(folder / "store")
    add_model(store, write(folder / "model"))
    found = ENGINE(open_model(store, "guided-digits", CPU, threads=1), CPU, ImageLimits())
    found.setup()
    return found


def test_an_added_model_guides_by_its_classifier(engine: Engine) -> None:
    images = [
        pixels_of(ask(engine, "generate", seed=1, steps=4, classifier_scale=20.0, label=label))[0]
        for label in LABELS
    ]
    images += pixels_of(ask(engine, "generate", seed=1, steps=4))
    assert len({image.tobytes() for image in images}) == len(LABELS) + 1


def test_guidance_makes_the_class_more_probable(engine: Engine) -> None:
    """Of an image's own classifier, at the least noise."""
    classifier = module("classifier").eval()

    def log_probability(label: int, scale: float) -> float:
        jobs = engine.jobs(
            call("generate", n=8, steps=10, sampler="ddim", label=label, classifier_scale=scale)
        )
        batch = engine.prepare(jobs)
        while not batch[0].finished:
            engine.step(batch)
        x = torch.stack([t.x for t in batch])
        with torch.no_grad():
            logits = classifier(x, torch.zeros(len(x)))
        return float(torch.log_softmax(logits, 1)[:, label].mean())

    for label in range(len(LABELS)):
        assert log_probability(label, 20.0) > log_probability(label, 0.0)


def test_a_row_is_the_same_alone_and_in_a_mix(engine: Engine) -> None:
    jobs = [
        job
        for what in ({}, {"label": 0}, {"label": 2, "classifier_scale": 9.0}, {"label": 1})
        for job in engine.jobs(call("generate", seed=3, steps=3, n=2, **what))
    ]

    def ends(some: list[Any]) -> list[torch.Tensor]:
        batch = engine.prepare(some)
        while not batch[0].finished:
            engine.step(batch)
        return [t.x for t in batch]

    together = ends(jobs)
    assert all(torch.equal(ends([job])[0], x) for job, x in zip(jobs, together, strict=True))


def test_a_classifier_needs_labels_to_speak_of(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    add_model(store, write(tmp_path / "model", classifier={"labels": ["one"]}))
    model = open_model(store, "guided-digits", CPU, threads=1)
    with pytest.raises(InvalidManifest, match="at least 2"):
        ENGINE(model, CPU, ImageLimits())
