"""Each kind of diffusers pipeline in Atelier's terms: components, shapes, options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from model_store.importers.described import (
    Described,
    Shapes,
    flow_schedule_of,
    latent,
    need,
    options_of,
    positive,
    schedule_of,
    sides,
    tokens,
    with_prompts,
)
from model_store.importers.pipeline_folder import PipelineFolder
from model_store.importers.schedules import ImportedSchedule
from services.core.errors import InvalidManifest

PIXART_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
STABLE_3_TOKENS = 256
FLUX_TOKENS = 512
"""Tokens of a T5 that a pipeline pads prompts to, beside those of CLIP."""


def _unconditional(folder: PipelineFolder) -> Described:
    """DDPM and DDIM in pixels (Ho et al., 2020; Song et al., 2020)."""
    need(folder, unet=("UNet2DModel",))
    unet = folder.config("unet")
    if unet.get("num_class_embeds") or unet.get("class_embed_type"):
        raise InvalidManifest("a UNet2DModel that is told a class is not served by this pipeline")
    channels, side = positive(unet, "in_channels", "unet"), sides(unet, "unet")
    schedule = schedule_of(folder)
    return Described(
        components=("unet", "scheduler"),
        denoiser="unet",
        shapes={"x": [channels, *side], "t": []},
        resolution=side,
        channels=channels,
        options=options_of(schedule, steps=50, scale=1.0),
        notes=schedule.notes,
    )


def _stable_diffusion(folder: PipelineFolder) -> Described:
    """Stable Diffusion 1 and 2 (Rombach et al., 2022), also for inpainting."""
    need(folder, unet=("UNet2DConditionModel",), text_encoder=("CLIPTextModel",))
    unet, masked = _text_unet(folder, added=None)
    return with_prompts(
        folder,
        denoiser="unet",
        latents=sides(unet, "unet"),
        told={
            "encoder_hidden_states": [
                tokens(folder, "tokenizer"),
                positive(unet, "cross_attention_dim", "unet"),
            ]
        },
        schedule=_stable_schedule(folder),
        steps=50,
        scale=7.5,
        settings={"requires_safety_checker": False},
        masked=masked,
    )


def _stable_diffusion_xl(folder: PipelineFolder) -> Described:
    """SDXL (Podell et al., 2023), also for inpainting."""
    need(
        folder,
        unet=("UNet2DConditionModel",),
        text_encoder=("CLIPTextModel",),
        text_encoder_2=("CLIPTextModelWithProjection",),
    )
    unet, masked = _text_unet(folder, added="text_time")
    pooled = positive(folder.config("text_encoder_2"), "projection_dim", "text_encoder_2")
    width = positive(unet, "cross_attention_dim", "unet")
    return with_prompts(
        folder,
        denoiser="unet",
        latents=sides(unet, "unet"),
        told={
            "encoder_hidden_states": [tokens(folder, "tokenizer"), width],
            "text_embeds": [pooled],
        },
        schedule=_with_aligned_levels(schedule_of(folder), "stable_diffusion_xl"),
        steps=50,
        scale=5.0,
        settings={
            "force_zeros_for_empty_prompt": bool(
                folder.settings.get("force_zeros_for_empty_prompt", True)
            )
        },
        masked=masked,
    )


def _dit(folder: PipelineFolder) -> Described:
    """DiT: class labels (Peebles and Xie, 2022). The number of classes stands for no class."""
    need(folder, transformer=("DiTTransformer2DModel",))
    transformer = folder.config("transformer")
    classes = positive(transformer, "num_embeds_ada_norm", "transformer", default=1000)
    schedule = schedule_of(folder)
    options = options_of(schedule, steps=50, scale=4.0)
    options["conditioning"] = {
        "type": "label",
        "classes": classes,
        "null": classes,
        "labels": _labels(folder.settings.get("id2label"), classes),
    }
    told: Shapes = {"label": []}
    found = latent(folder, "transformer", sides(transformer, "transformer"), told, options)
    found.notes += schedule.notes
    return found


def _pixart(folder: PipelineFolder) -> Described:
    """PixArt-alpha and PixArt-Sigma (Chen et al., 2023; 2024)."""
    need(folder, transformer=("PixArtTransformer2DModel",), text_encoder=("T5EncoderModel",))
    transformer = folder.config("transformer")
    width = positive(transformer, "caption_channels", "transformer")
    words = PIXART_TOKENS[folder.kind]
    return with_prompts(
        folder,
        denoiser="transformer",
        latents=sides(transformer, "transformer"),
        told={
            "encoder_hidden_states": [words, width],
            "encoder_attention_mask": [words],
        },
        schedule=schedule_of(folder),
        steps=20,
        scale=4.5,
    )


def _stable_diffusion_3(folder: PipelineFolder) -> Described:
    """Stable Diffusion 3 (Esser et al., 2024), with its T5 or, as published small, without."""
    need(
        folder,
        transformer=("SD3Transformer2DModel",),
        text_encoder=("CLIPTextModelWithProjection",),
        text_encoder_2=("CLIPTextModelWithProjection",),
    )
    if "text_encoder_3" in folder.components:
        need(folder, text_encoder_3=("T5EncoderModel",))
    transformer = folder.config("transformer")
    latents = sides(transformer, "transformer")
    patch = positive(transformer, "patch_size", "transformer", default=2)
    words = tokens(folder, "tokenizer") + STABLE_3_TOKENS
    return with_prompts(
        folder,
        denoiser="transformer",
        latents=latents,
        told={
            "encoder_hidden_states": [
                words,
                positive(transformer, "joint_attention_dim", "transformer"),
            ],
            "pooled_projections": [positive(transformer, "pooled_projection_dim", "transformer")],
        },
        schedule=flow_schedule_of(
            folder,
            image_tokens=(latents[0] // patch) * (latents[1] // patch),
            most_shift=1.16,
            to_last=True,
        ),
        steps=28,
        scale=7.0,
    )


def _flux(folder: PipelineFolder) -> Described:
    """FLUX.1: packed latents, and guidance as an input where it was distilled so."""
    need(
        folder,
        transformer=("FluxTransformer2DModel",),
        text_encoder=("CLIPTextModel",),
        text_encoder_2=("T5EncoderModel",),
    )
    transformer, vae = folder.config("transformer"), folder.config("vae")
    guided = bool(transformer.get("guidance_embeds", False))
    factor = 2 ** (len(vae.get("block_out_channels") or [64]) - 1)
    side = positive(vae, "sample_size", "vae", default=1024) // factor
    told: Shapes = {
        "encoder_hidden_states": [
            FLUX_TOKENS,
            positive(transformer, "joint_attention_dim", "transformer"),
        ],
        "pooled_projections": [positive(transformer, "pooled_projection_dim", "transformer")],
    }
    return with_prompts(
        folder,
        denoiser="transformer",
        latents=(side, side),
        told=told | ({"guidance": []} if guided else {}),
        schedule=flow_schedule_of(
            folder, image_tokens=(side // 2) ** 2, most_shift=1.15, to_last=False
        ),
        steps=28 if guided else 4,
        scale=3.5 if guided else 1.0,
        conditioning={"embedded_guidance": guided, "unguided_branch": False},
    )


def _labels(names: Any, classes: int) -> list[str]:
    """The names of all classes, where the index gives one to each."""
    if not isinstance(names, dict) or len(names) != classes:
        return []
    return [str(names.get(str(index), index)) for index in range(classes)]


def _stable_schedule(folder: PipelineFolder) -> ImportedSchedule:
    """As `StableDiffusionPipeline` mends it: nothing is clipped, and times start at 1."""
    return schedule_of(folder, steps_offset=1, clip_sample=False, skip_prk_steps=True)


def _with_aligned_levels(found: ImportedSchedule, model: str) -> ImportedSchedule:
    """A schedule that names the model whose published levels `align_your_steps` takes."""
    return replace(found, schedule={**found.schedule, "align_your_steps": model})


def _text_unet(folder: PipelineFolder, *, added: str | None) -> tuple[dict[str, Any], bool]:
    """The UNet's configuration, and whether it is given a mask and a masked image besides."""
    unet = folder.config("unet")
    foreign = [
        key
        for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_cond_proj_dim")
        if unet.get(key)
    ]
    if foreign or unet.get("addition_embed_type") != added:
        raise InvalidManifest(
            f"the UNet is told other things than a '{folder.kind}' tells it: addition_embed_type "
            f"{unet.get('addition_embed_type')}, {', '.join(foreign) or 'nothing else'}"
        )
    channels = positive(unet, "in_channels", "unet")
    depth = positive(folder.config("vae"), "latent_channels", "vae")
    masked = channels == 2 * depth + 1 and "Inpaint" in folder.kind
    if channels != depth and not masked:
        raise InvalidManifest(
            f"the UNet of this '{folder.kind}' takes {channels} channels and the latents have "
            f"{depth}; a UNet for inpainting takes {2 * depth + 1} and its folder says so by "
            "StableDiffusionInpaintPipeline or StableDiffusionXLInpaintPipeline; others that are "
            "given an image besides are not served"
        )
    return unet, masked


PIPELINES: Mapping[str, Callable[[PipelineFolder], Described]] = MappingProxyType(
    {
        "DDPMPipeline": _unconditional,
        "DDIMPipeline": _unconditional,
        "StableDiffusionPipeline": _stable_diffusion,
        "StableDiffusionInpaintPipeline": _stable_diffusion,
        "StableDiffusionXLPipeline": _stable_diffusion_xl,
        "StableDiffusionXLInpaintPipeline": _stable_diffusion_xl,
        "StableDiffusion3Pipeline": _stable_diffusion_3,
        "FluxPipeline": _flux,
        "PixArtAlphaPipeline": _pixart,
        "PixArtSigmaPipeline": _pixart,
        "DiTPipeline": _dit,
    }
)
"""Every kind of pipeline that is served."""
