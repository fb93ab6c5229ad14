"""A LoRA, checked against its model once and kept in one plain form.

What is kept is a safetensors file of ``COMPONENT/LAYER/down``, ``.../up`` and ``.../scale``: what a
stranger's file meant, so that nothing has to be guessed again when it is opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from model_store.adapters.lora_keys import Base, Found, Pair, read_pairs
from model_store.inspect_safetensors import check_safetensors
from model_store.limits import StoreLimits
from model_store.networks.adaptable import LoraWeights
from model_store.networks.low_rank import LowRank
from services.core.errors import InvalidNetwork

MAX_RANK = 2048
_LENGTH_BYTES = 8


def read_lora(name: str, data: bytes, base: Base, limits: StoreLimits) -> Found:
    """The pairs of a LoRA file, every one of them checked against the layer that it changes.

    Args:
        name: what to call the file in an error.
        data: its bytes.
        base: the model that it is for.
        limits: on the file.

    Raises:
        UnsafeModel: it is a pickle or an archive.
        InvalidNetwork: it is no sound safetensors file, or a key names no layer, lacks its other
            half, has another shape than the layer, too high a rank, or values that are not finite.
    """
    tensors = load_tensors(name, data, limits)
    if not tensors:
        raise InvalidNetwork(f"'{name}' holds no tensors")
    try:
        found = read_pairs(tensors, _metadata(data), base)
        for (component, layer), pair in found.items():
            layers = base.layers(component) or {}
            _check(pair, layers[layer])
    except InvalidNetwork as error:
        raise InvalidNetwork(f"'{name}': {error.message}") from error
    return found


def load_tensors(name: str, data: bytes, limits: StoreLimits) -> dict[str, Tensor]:
    """The tensors of a safetensors file in the order of their names; raises as `read_lora`."""
    check_safetensors(name, data, limits)
    try:
        return dict(sorted(safetensors.torch.load(data).items()))
    except safetensors.SafetensorError as error:
        raise InvalidNetwork(f"'{name}' cannot be read: {error}") from error


def packed(found: Found) -> bytes:
    """Checked pairs as the file that is kept."""
    tensors: dict[str, Tensor] = {}
    for (component, layer), pair in found.items():
        down, up = _halves(pair)
        place = f"{component}/{layer}"
        tensors[f"{place}/down"] = down.contiguous()
        tensors[f"{place}/up"] = up.reshape(up.shape[:2]).contiguous()
        tensors[f"{place}/scale"] = torch.tensor(pair.scale(len(down)), dtype=torch.float32)
    return safetensors.torch.save(tensors)


def opened(
    name: str, digest: str, data: bytes, limits: StoreLimits, device: torch.device
) -> LoraWeights:
    """A kept file on a device, in float32.

    Raises:
        InvalidNetwork: it is not as `packed` writes it.
    """
    tensors = load_tensors(name, data, limits)
    parts: dict[str, dict[str, LowRank]] = {}
    try:
        for key, down in tensors.items():
            if not key.endswith("/down"):
                continue
            place = key.removesuffix("/down")
            component, layer = place.split("/")
            up = tensors[f"{place}/up"].float() * tensors[f"{place}/scale"]
            parts.setdefault(component, {})[layer] = LowRank(down.float().to(device), up.to(device))
    except (KeyError, ValueError) as error:
        raise InvalidNetwork(f"the file of LoRA '{name}' is not as it was stored") from error
    return LoraWeights(name, digest, parts)


def adaptable_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of a component that can be adapted, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _ADAPTABLE)}


_ADAPTABLE = (nn.Linear, nn.Conv2d)


def _check(pair: Pair, layer: nn.Module) -> None:
    down, up = _halves(pair)
    key = f"key '{pair.key[:128]}'"
    for tensor in (down, up):
        if not tensor.is_floating_point():
            raise InvalidNetwork(f"{key} holds {tensor.dtype}, not floating-point numbers")
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidNetwork(f"{key} holds values that are not finite")
    if not math.isfinite(pair.scale(1)):
        raise InvalidNetwork(f"{key} has an alpha that is not finite")
    rank = len(down)
    if not 1 <= rank <= MAX_RANK:
        raise InvalidNetwork(f"{key} has rank {rank}; 1 to {MAX_RANK} are taken")
    wanted = _wanted(layer, rank, key)
    if isinstance(layer, nn.Linear) and down.dim() == 4 and down.shape[2:] == (1, 1):
        pair.down = down = down[:, :, 0, 0]
    elif isinstance(layer, nn.Conv2d) and down.dim() == 2 and layer.kernel_size == (1, 1):
        pair.down = down = down[:, :, None, None]
    flat = up.dim() == 2 or (up.dim() == 4 and up.shape[2:] == (1, 1))
    if tuple(down.shape) != wanted[0] or not flat or tuple(up.shape[:2]) != wanted[1]:
        raise InvalidNetwork(
            f"{key} and its other half are {list(down.shape)} and {list(up.shape)}; a layer of "
            f"that name takes {list(wanted[0])} and {list(wanted[1])} at rank {rank}"
        )


def _wanted(layer: nn.Module, rank: int, key: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        raise InvalidNetwork(f"{key} is for a layer of a kind that is not adapted")
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank)


def _halves(pair: Pair) -> tuple[Tensor, Tensor]:
    if pair.down is None or pair.up is None:
        missing = "down (lora_A)" if pair.down is None else "up (lora_B)"
        raise InvalidNetwork(f"key '{pair.key[:128]}' lacks its other half, the {missing} matrix")
    if pair.down.dim() not in (2, 4) or pair.up.dim() not in (2, 4):
        raise InvalidNetwork(
            f"key '{pair.key[:128]}' and its other half are {list(pair.down.shape)} and "
            f"{list(pair.up.shape)}, which are no matrices"
        )
    return pair.down, pair.up


def _metadata(data: bytes) -> Mapping[str, str]:
    """What the header of a checked file says beside its tensors."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    found = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length]).get("__metadata__") or {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
