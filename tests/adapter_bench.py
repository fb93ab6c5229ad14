"""A tiny Stable Diffusion in a store, with adapters of every kind hung on it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model_store.adapters.addition import add_adapter
from model_store.adapters.manifest import AdapterManifest, digest_of
from model_store.addition import add_model
from model_store.plain_files import digest
from model_store.store import Store
from services.core.engine import Engine
from services.core.images import ImageLimits
from services.families import discover
from services.serving.store_source import StoreSource
from tests import tiny_adapters, tiny_pipelines
from tests.engines import CPU

BASE = "tiny-sd"
ALPHA = 1.5
STYLE = ("to_q", "to_out.0", "conv1", "proj_in", "time_emb_proj", "ff.net.0.proj", "conv_shortcut")


class Bench:
    """The pipeline of diffusers, and the store that it was imported to.

    ``style`` is a LoRA of the UNet in diffusers' words, ``voice`` one of the UNet and the text
    encoder in kohya's, with an alpha.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "store", catalogs=())
        self.pipeline = tiny_pipelines.stable_diffusion(root / BASE)
        add_model(self.store, root / BASE, threads=1)
        unet, text = self.pipeline.unet, self.pipeline.text_encoder
        self.style = tiny_adapters.pairs(unet, STYLE)
        self.voice = tiny_adapters.pairs(unet, ("to_v", "conv2"), rank=3, seed=3)
        self.voice_text = tiny_adapters.pairs(text, ("q_proj", "fc1"), rank=3, seed=4)
        self.add("style", tiny_adapters.peft("unet", self.style))
        voice = tiny_adapters.kohya("lora_unet", self.voice, ALPHA)
        voice |= tiny_adapters.kohya("lora_te_text_model", self.voice_text, ALPHA)
        self.add("voice", voice)

    def add(self, name: str, tensors: dict[str, torch.Tensor], **options: Any) -> AdapterManifest:
        """Register a file of these tensors."""
        path = tiny_adapters.saved(tensors, self.root / f"{name}.safetensors")
        return add_adapter(self.store, path, base=BASE, name=name, threads=1, **options).manifest

    def source(self) -> StoreSource:
        """The store as a backend sees it."""
        return StoreSource(self.store, threads=1)

    def engine(self) -> Engine:
        """An engine of the base, ready to work."""
        model = self.source().open(BASE, CPU)
        engine = discover()[model.family](model, CPU, ImageLimits())
        engine.setup()
        return engine

    def fused(self, **scales: float) -> Any:
        """The pipeline with LoRAs added to its weights by hand."""
        pipeline = copy.deepcopy(self.pipeline)
        if "style" in scales:
            tiny_adapters.fuse(pipeline.unet, self.style, scales["style"])
        if "voice" in scales:
            scale = scales["voice"] * ALPHA / 3
            tiny_adapters.fuse(pipeline.unet, self.voice, scale)
            tiny_adapters.fuse(pipeline.text_encoder, self.voice_text, scale)
        return pipeline

    def put_broken(self, name: str) -> None:
        """Keep a LoRA for a layer that the model does not have, past all checks."""
        tensors = {
            "denoiser/no.such.layer/down": torch.ones(1, 4),
            "denoiser/no.such.layer/up": torch.ones(4, 1),
            "denoiser/no.such.layer/scale": torch.ones(()),
        }
        data = safetensors.torch.save(tensors)
        manifest = AdapterManifest.model_validate(
            {
                "id": name,
                "kind": "lora",
                "base": BASE,
                "base_components": ["unet"],
                "base_digest": digest_of(self.store.get(BASE), ["unet"]),
                "created": "2026-01-01T00:00:00Z",
                "weights": {"file": "lora.safetensors", "sha256": digest(data)},
            }
        )
        self.store.adapters.put(manifest, {"lora.safetensors": data})
