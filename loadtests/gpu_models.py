"""Diffusion models of the sizes that matter, with random weights: speed does not depend on values.

What such a network makes is noise, and is never shown as a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from model_store.manifest import TorchOptions
from model_store.networks.binding import Declared
from model_store.networks.component_networks import wrap
from model_store.networks.exported_network import ExportedNetwork
from model_store.networks.graph import GraphTensor
from model_store.networks.image_layout import Frame
from model_store.networks.torch_graph import TorchGraph
from services.core.network import OpenedModel

STEPS = 20
GUIDANCE = 7.5
SCHEDULE: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True)
class Size:
    """One model's shapes.

    Attributes:
        name: in results.
        pixels: side of its images.
        factor: pixels to a latent's side.
        unet: configuration of its denoiser.
        vae: configuration of its autoencoder.
        prompt: shapes of what a prompt is encoded to, by input.
        sized: whether the denoiser is told sizes, as SDXL's is.
        batches: of the plain pipeline, of which the best counts.
        buckets: batch sizes that ours compiles for.
    """

    name: str
    pixels: int
    factor: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    prompt: Mapping[str, tuple[int, ...]]
    sized: bool = False
    batches: tuple[int, ...] = (1, 4, 8, 16)
    buckets: tuple[int, ...] = (2, 8, 16)

    @property
    def latent(self) -> tuple[int, int, int]:
        """Of one image."""
        side = self.pixels // self.factor
        return (4, side, side)


_SD_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
SD15 = Size(
    name="sd15-512",
    pixels=512,
    factor=8,
    unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae={**_SD_VAE, "sample_size": 512},
    prompt={"encoder_hidden_states": (77, 768)},
)
SDXL = Size(
    name="sdxl-1024",
    pixels=1024,
    factor=8,
    unet={
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={**_SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    prompt={"encoder_hidden_states": (77, 2048), "text_embeds": (1280,)},
    sized=True,
    batches=(1, 2, 4, 8),
)
_TINY_UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_TINY_VAE: Mapping[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
TINY = Size(
    name="tiny",
    pixels=16,
    factor=2,
    unet=_TINY_UNET,
    vae=_TINY_VAE,
    prompt={"encoder_hidden_states": (5, 16)},
    batches=(1, 2),
    buckets=(2, 4),
)
TINY_SIZED = Size(
    name="tiny-sized",
    pixels=16,
    factor=2,
    unet={
        **_TINY_UNET,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 12 + 6 * 4,
        "use_linear_projection": True,
    },
    vae=_TINY_VAE,
    prompt={"encoder_hidden_states": (5, 16), "text_embeds": (12,)},
    sized=True,
    batches=(1, 2),
    buckets=(2, 4),
)


@dataclass
class Components:
    """A size's networks, random and in full precision until they are placed."""

    size: Size
    device: torch.device
    dtype: torch.dtype
    unet: Any = field(init=False)
    vae: Any = field(init=False)

    def __post_init__(self) -> None:
        """Build both where they are to run."""
        with torch.random.fork_rng(), self.device:
            torch.manual_seed(0)
            self.unet = diffusers.UNet2DConditionModel(**self.size.unet)
            self.vae = diffusers.AutoencoderKL(**self.size.vae)
        for module in (self.unet, self.vae):
            module.eval().requires_grad_(requires_grad=False)
            module.to(self.dtype)


def random_prompt(size: Size, text: str) -> dict[str, Tensor]:
    """What a text encoder would give, unit noise that the text decides; one row, on the CPU."""
    source = torch.Generator().manual_seed(sum(text.encode()) + 1)
    return {name: torch.randn(shape, generator=source) for name, shape in size.prompt.items()}


def our_model(components: Components, options: TorchOptions) -> OpenedModel:
    """The networks as our engines see them."""
    size = components.size
    frame = Frame(3, size.pixels, size.pixels)
    shapes = {"x": size.latent, "t": (), **size.prompt}

    def network(name: str, kind: str, part: Any, rows: Mapping[str, Any]) -> ExportedNetwork:
        module = wrap(kind, name, part, (size.pixels, size.pixels))
        inputs = [GraphTensor(key, (None, *row), torch.float32) for key, row in rows.items()]
        graph = TorchGraph(
            module,
            name=name,
            inputs=inputs,
            device=components.device,
            threads=torch.get_num_threads(),
            options=options,
        )
        found = ExportedNetwork(graph, Declared(name=name, frame=frame), components.device)
        if options.deterministic:
            found.probe()
        found.warm_up()
        return found

    return OpenedModel(
        id=size.name,
        family="diffusion",
        description="random weights, for speed alone",
        owned_by="loadtests",
        created=0,
        resolution=(size.pixels, size.pixels),
        channels=3,
        pixel_range=(-1.0, 1.0),
        networks={
            "denoiser": network("denoiser", "UNet2DConditionModel", components.unet, shapes),
            "decoder": network("decoder", "AutoencoderKL", components.vae, {"z": size.latent}),
        },
        options={
            "schedule": {"type": "variance_preserving", **SCHEDULE},
            "latent": {
                "shape": list(size.latent),
                "shift": [0.0] * 4,
                "scale": [1 / components.vae.config.scaling_factor] * 4,
            },
            "conditioning": {"type": "prompt", "inputs": list(size.prompt)},
            "preview": {"weight": [[0.0] * 4] * 3, "bias": [0.0] * 3},
            "defaults": {"sampler": "euler", "steps": STEPS, "guidance_scale": GUIDANCE},
        },
        card={},
        open_prompt_encoder=lambda: _Prompts(size),
    )


class _Prompts:
    """Implements `services.core.network.PromptEncoder` without a text encoder."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def __call__(self, prompt: str, *, negative: bool = False) -> Mapping[str, Tensor]:
        return random_prompt(self._size, f"not {prompt}" if negative else prompt)


@dataclass
class PlainPipeline:
    """Diffusers' own pipeline over the same networks, compiled; prompts come encoded."""

    components: Components
    compiled: bool
    pipeline: Any = field(init=False)

    def __post_init__(self) -> None:
        """Put the pipeline together as its users do."""
        size, parts = self.components.size, self.components
        unet, vae = parts.unet, parts.vae
        if parts.device.type == "cuda":
            unet, vae = (m.to(memory_format=torch.channels_last) for m in (unet, vae))
        scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULE)
        texts: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
        kind: Callable[..., Any] = diffusers.StableDiffusionPipeline
        if size.sized:
            kind = diffusers.StableDiffusionXLPipeline
            texts |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        else:
            texts |= {
                "safety_checker": None,
                "feature_extractor": None,
                "requires_safety_checker": False,
            }
        self.pipeline = kind(vae=vae, unet=unet, scheduler=scheduler, **texts)
        self.pipeline.set_progress_bar_config(disable=True)
        if self.compiled:
            self.pipeline.unet = torch.compile(
                unet, dynamic=False, mode="max-autotune-no-cudagraphs"
            )
            vae.decode = torch.compile(vae.decode, dynamic=False)

    def images(self, count: int, steps: int, guidance: float, seed: int) -> Tensor:
        """``[count, 3, h, w]`` from 0 to 1, on the CPU."""
        size, parts = self.components.size, self.components
        told = _batch(size, [f"{seed}-{i}" for i in range(count)], parts)
        shunned = _batch(size, ["not "] * count, parts)
        given = {
            "prompt_embeds": told["encoder_hidden_states"],
            "negative_prompt_embeds": shunned["encoder_hidden_states"],
        }
        if size.sized:
            given["pooled_prompt_embeds"] = told["text_embeds"]
            given["negative_pooled_prompt_embeds"] = shunned["text_embeds"]
        images: Tensor = self.pipeline(
            **given,
            height=size.pixels,
            width=size.pixels,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        return images.float().cpu()


def _batch(size: Size, texts: list[str], parts: Components) -> dict[str, Tensor]:
    rows = [random_prompt(size, text) for text in texts]
    return {
        name: torch.stack([row[name] for row in rows]).to(parts.device, parts.dtype)
        for name in size.prompt
    }
