"""LoRAs, textual inversions and ControlNets of random numbers for the tiny pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import diffusers
import safetensors.torch
import torch
from torch import Tensor, nn

Pairs = dict[str, tuple[Tensor, Tensor]]
"""``down`` and ``up`` by layer, in the layer's own name."""

ATTENTION = ("to_q", "to_v", "to_out.0")


def pairs(module: nn.Module, endings: Iterable[str], *, rank: int = 2, seed: int = 0) -> Pairs:
    """Random changes of every Linear or Conv2d of a module whose name ends so."""
    generator = torch.Generator().manual_seed(seed)
    found: Pairs = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not name.endswith(tuple(endings)):
            continue
        weight = layer.weight
        down = torch.randn((rank, *weight.shape[1:]), generator=generator) * 0.3
        shape = (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        found[name] = down, torch.randn(shape, generator=generator) * 0.3
    return found


def peft(component: str, changes: Pairs) -> dict[str, Tensor]:
    """As diffusers saves them."""
    tensors = {}
    for name, (down, up) in changes.items():
        tensors[f"{component}.{name}.lora_A.weight"] = down
        tensors[f"{component}.{name}.lora_B.weight"] = up
    return tensors


def kohya(prefix: str, changes: Pairs, alpha: float) -> dict[str, Tensor]:
    """As kohya's trainers save them."""
    tensors = {}
    for name, (down, up) in changes.items():
        flat = f"{prefix}_{name.replace('.', '_')}"
        tensors[f"{flat}.lora_down.weight"] = down
        tensors[f"{flat}.lora_up.weight"] = up
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    return tensors


def saved(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of them."""
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    return path


def fuse(module: nn.Module, changes: Pairs, scale: float) -> None:
    """``W + scale up down``, by hand."""
    for name, (down, up) in changes.items():
        weight = module.get_submodule(name).get_parameter("weight")
        delta = up.flatten(1) @ down.flatten(1)
        weight.data += scale * delta.reshape(weight.shape)


def controlnet(unet: diffusers.UNet2DConditionModel, path: Path, *, seed: int = 0) -> nn.Module:
    """A ControlNet beside a UNet, saved to ``path``; its zero convolutions say something here."""
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
            nn.init.normal_(parameter, std=0.3)
    net.eval()
    net.save_pretrained(path, safe_serialization=True)
    return net
