"""The classes that a pipeline's component may be: a list of ours, never a name from a folder.

A folder says `UNet2DConditionModel`; what that is stands here. Nothing is imported by a string that
came with a model.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from services.core.errors import InvalidManifest

Library = Literal["diffusers", "transformers"]

WEIGHTS: Mapping[Library, str] = MappingProxyType(
    {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
)
"""What each library calls a model's weights, without the suffix."""

NETWORKS: Mapping[str, Library] = MappingProxyType(
    {
        "UNet2DModel": "diffusers",
        "UNet2DConditionModel": "diffusers",
        "DiTTransformer2DModel": "diffusers",
        "PixArtTransformer2DModel": "diffusers",
        "SD3Transformer2DModel": "diffusers",
        "FluxTransformer2DModel": "diffusers",
        "AutoencoderKL": "diffusers",
        "ControlNetModel": "diffusers",
        "CLIPTextModel": "transformers",
        "CLIPTextModelWithProjection": "transformers",
        "T5EncoderModel": "transformers",
    }
)
"""Components with weights, by class."""

FORMER: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Transformer2DModel": {
            "ada_norm_zero": "DiTTransformer2DModel",
            "ada_norm_single": "PixArtTransformer2DModel",
        }
    }
)
"""Classes that were split up: what they are called now, by their configuration's `norm_type`."""

TOKENIZERS: Mapping[str, str] = MappingProxyType(
    {
        "CLIPTokenizer": "CLIPTokenizer",
        "CLIPTokenizerFast": "CLIPTokenizer",
        "T5Tokenizer": "T5Tokenizer",
        "T5TokenizerFast": "T5Tokenizer",
    }
)
"""Tokenizers by the class that a folder names, and the class of transformers that reads it."""


def component_class(kind: str) -> Any:
    """The class of a component.

    Raises:
        InvalidManifest: it is none that Atelier knows.
    """
    if kind in NETWORKS:
        return getattr(importlib.import_module(NETWORKS[kind]), kind)
    if kind in TOKENIZERS:
        return getattr(importlib.import_module("transformers"), TOKENIZERS[kind])
    known = ", ".join([*NETWORKS, *TOKENIZERS])
    raise InvalidManifest(f"'{kind[:64]}' is no component that can be served; known are {known}")
