"""Tiny diffusers folders with random weights, built by diffusers' and transformers' own classes."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TOKENS = 16
WIDTH = 16
_WORDS = ("a", "red", "blue", "cat", "dog", "on", "the", "moon", "blurry", "ugly")


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer over a made vocabulary: letters, and a few whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(string.ascii_lowercase + string.digits + ",.!")
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            tokens.append(parts[0])
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    rules.write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")
    return CLIPTokenizer(str(vocabulary), str(rules), model_max_length=TOKENS)


def clip_config(**changes: Any) -> CLIPTextConfig:
    settings: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": WIDTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        **changes,
    }
    return CLIPTextConfig(**settings)


def seed(value: int = 0) -> None:
    torch.manual_seed(value)


def autoencoder(**changes: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 16,
            **changes,
        }
    )


def text_unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **changes,
        }
    )


def ddpm(folder: Path, *, scheduler: Any = None) -> Any:
    """An unconditional model of 8 x 8 pixels; saved to ``folder`` and returned."""
    seed()
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = scheduler or diffusers.DDPMScheduler(num_train_timesteps=1000)
    kind = (
        diffusers.DDIMPipeline
        if isinstance(scheduler, diffusers.DDIMScheduler)
        else diffusers.DDPMPipeline
    )
    return _saved(kind(unet=unet, scheduler=scheduler), folder)


def stable_diffusion(
    folder: Path,
    *,
    scheduler: Any = None,
    kind: Any = diffusers.StableDiffusionPipeline,
    **unet: Any,
) -> Any:
    """A Stable Diffusion of 16 x 16 pixels and 8 x 8 latents."""
    seed(1)
    return _saved(
        kind(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(clip_config()),
            tokenizer=clip_tokenizer(folder.parent / "vocabulary"),
            unet=text_unet(**unet),
            scheduler=scheduler or stable_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        folder,
    )


def stable_inpainting(folder: Path) -> Any:
    """A Stable Diffusion for inpainting: its UNet takes 9 channels."""
    kind = diffusers.StableDiffusionInpaintPipeline
    return stable_diffusion(folder, kind=kind, in_channels=9)


def stable_scheduler(kind: Any = diffusers.DDIMScheduler, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        **changes,
    }
    if kind in (diffusers.DDIMScheduler, diffusers.PNDMScheduler):
        settings |= {"set_alpha_to_one": False}
    if kind is diffusers.DDIMScheduler:
        settings |= {"clip_sample": False}
    if kind is diffusers.PNDMScheduler:
        settings |= {"skip_prk_steps": True}
    return kind(**settings)


def stable_xl_inpainting(folder: Path) -> Any:
    """An SDXL for inpainting: its UNet takes 9 channels."""
    kind = diffusers.StableDiffusionXLInpaintPipeline
    return stable_diffusion_xl(folder, kind=kind, in_channels=9)


def stable_diffusion_xl(
    folder: Path, *, kind: Any = diffusers.StableDiffusionXLPipeline, **unet: Any
) -> Any:
    """An SDXL of 16 x 16 pixels: two text encoders, the second one pooled, and sizes."""
    seed(2)
    tokenizer = clip_tokenizer(folder.parent / "vocabulary")
    return _saved(
        kind(
            vae=autoencoder(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(clip_config()),
            text_encoder_2=CLIPTextModelWithProjection(clip_config(projection_dim=12)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=text_unet(
                cross_attention_dim=2 * WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=12 + 6 * 4,
                use_linear_projection=True,
                **unet,
            ),
            scheduler=stable_scheduler(
                diffusers.EulerDiscreteScheduler, timestep_spacing="leading"
            ),
            add_watermarker=False,
        ),
        folder,
    )


def t5_tokenizer() -> T5Tokenizer:
    """T5's unigram tokenizer over a few words and letters."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words = [(f"\u2581{word}", -3.0) for word in _WORDS if len(word) > 1]
    letters = [(letter, -6.0) for letter in string.ascii_lowercase]
    return T5Tokenizer(vocab=[*marks, *words, *letters], extra_ids=0)


def t5_encoder(width: int = WIDTH) -> T5EncoderModel:
    settings = {"vocab_size": 64, "d_model": width, "d_ff": 24, "d_kv": 8}
    return T5EncoderModel(T5Config(num_layers=1, num_heads=2, **settings))


def dit(folder: Path) -> Any:
    """A DiT of 16 x 16 pixels and ImageNet's thousand classes, which predicts its variance too."""
    seed(3)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipeline = _saved(diffusers.DiTPipeline(transformer, autoencoder(), scheduler), folder)
    index = folder / "model_index.json"  # names are not saved; those on the hub have them here
    names = {i: f"class {i}" for i in range(1000)} | {0: "cat", 1: "dog"}
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))
    return pipeline


def pixart_sigma(folder: Path) -> Any:
    """A PixArt-Sigma of 16 x 16 pixels."""
    return pixart(folder, kind=diffusers.PixArtSigmaPipeline)


def pixart(folder: Path, *, kind: Any = diffusers.PixArtAlphaPipeline) -> Any:
    """A PixArt of 16 x 16 pixels."""
    seed(4)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
        use_additional_conditions=False,
        norm_num_groups=4,
    )
    # As initialised these are zeros, and the network would say the same of everything.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    pipeline = kind(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=stable_scheduler(diffusers.DPMSolverMultistepScheduler),
    )
    return _saved(pipeline, folder)


def stable_diffusion_3(folder: Path, *, t5: bool = True) -> Any:
    """An SD 3 of 16 x 16 pixels with its three text encoders, or without T5."""
    seed(5)
    tokenizer = clip_tokenizer(folder.parent / "vocabulary")
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
    )
    projected = clip_config(projection_dim=12)
    return _saved(
        diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(projected),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(projected),
            tokenizer_2=tokenizer,
            text_encoder_3=t5_encoder(2 * WIDTH) if t5 else None,
            tokenizer_3=t5_tokenizer() if t5 else None,
        ),
        folder,
    )


def flux(folder: Path, *, guided: bool = True) -> Any:
    """A FLUX of 16 x 16 pixels; ``guided``: told its guidance scale."""
    seed(6)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    plain = {"use_quant_conv": False, "use_post_quant_conv": False}
    return _saved(
        diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
                shift=3.0 if guided else 1.0, use_dynamic_shifting=guided
            ),
            vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159, **plain),
            text_encoder=CLIPTextModel(clip_config()),
            tokenizer=clip_tokenizer(folder.parent / "vocabulary"),
            text_encoder_2=t5_encoder(),
            tokenizer_2=t5_tokenizer(),
            transformer=transformer,
        ),
        folder,
    )


def _saved(pipeline: Any, folder: Path) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()  # as `from_pretrained` leaves it
    pipeline.save_pretrained(folder, safe_serialization=True)
    return pipeline
