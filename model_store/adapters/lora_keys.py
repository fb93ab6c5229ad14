"""LoRA files of every usual make, read as one thing: pairs of matrices by component and layer.

diffusers and PEFT write a layer's own name with its dots; kohya's trainers write underscores for
dots, which are undone by looking the layers up. What is left over (the names of the first Stable
Diffusion code, fused layers of FLUX) goes through diffusers' own converters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin, StableDiffusionLoraLoaderMixin
from diffusers.utils import state_dict_utils as dialects
from torch import Tensor, nn

from services.core.errors import InvalidNetwork
from services.core.validation import near

Layers = Mapping[str, nn.Module]

_KOHYA = {
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
}
_KOHYA_DENOISER = ("lora_unet_", "lora_transformer_")
_DENOISERS = ("unet", "transformer")
_DOTTED = re.compile(
    r"(?P<layer>.+)\."
    r"(?:(?P<down>lora_A|lora_down|lora\.down|lora_linear_layer\.down)"
    r"|(?P<up>lora_B|lora_up|lora\.up|lora_linear_layer\.up))"
    r"(?:\.default)?\.weight"
)
_OTHER_METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a LoRA with Tucker decomposition",
    "oft_": "OFT",
    "lora_B.bias": "a LoRA with biases",
}
_CONVERSION_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    AssertionError,
    AttributeError,
    RuntimeError,
)


@dataclass(slots=True)
class Pair:
    """One layer's change as it lies in a file.

    Attributes:
        key: the file's own name of the first of the tensors, for a sentence.
        down: ``[r, in]`` or ``[r, in, height, width]``.
        up: ``[out, r]`` or ``[out, r, 1, 1]``.
        alpha: scaled by ``alpha / r``; by 1 where there is none.
        root: whether by ``alpha / sqrt(r)`` instead (rsLoRA; Kalajdzievski, 2023).
    """

    key: str
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    root: bool = False

    def scale(self, rank: int) -> float:
        """What ``up down`` is multiplied by."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(rank) if self.root else rank)


Found = dict[tuple[str, str], Pair]
"""By component and layer; the component is ``denoiser`` or the name of a text encoder."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a file is read for.

    Attributes:
        name: of the model.
        denoiser: the name of the component that denoises.
        config: its configuration, as its class has it.
        layers: the layers of a component that can be adapted, by name; ``None`` where the model has
            no such component. The denoiser is called ``denoiser``.
    """

    name: str
    denoiser: str
    config: Any
    layers: Callable[[str], Layers | None]


def read_pairs(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], base: Base) -> Found:
    """Every pair of a file, by the component and the layer that it changes.

    Args:
        tensors: of the file.
        metadata: of the file; diffusers keeps the alphas of PEFT there.
        base: the model that it is for.

    Raises:
        InvalidNetwork: a key is of another method, or names no layer; the first of them is named.
    """
    for key in tensors:
        for mark, method in _OTHER_METHODS.items():
            if mark in key:
                raise InvalidNetwork(
                    f"key '{key[:128]}' is of {method}; only plain LoRA is applied row by row: "
                    "convert it, or merge it into a copy of the model"
                )
    found: Found = {}
    if any(key.startswith((*_KOHYA, *_KOHYA_DENOISER)) for key in tensors):
        _read_kohya(tensors, base, found)
    else:
        _read_dotted(tensors, base, found)
        _read_metadata(metadata, base, found)
    return found


def _read_kohya(tensors: Mapping[str, Tensor], base: Base, found: Found) -> None:
    left: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        stem, _, tail = key.partition(".")
        component, flat = _kohya_component(stem)
        if component is None or tail not in ("lora_down.weight", "lora_up.weight", "alpha"):
            raise InvalidNetwork(f"key '{key[:128]}' is none of a LoRA of this make")
        layers = _layers(base, component, key)
        names = {name.replace(".", "_"): name for name in layers}
        layer = names.get(flat) or names.get(flat.removeprefix("text_model_"))
        if layer is not None:
            _put(found, component, layer, key, tail, tensor)
        elif component == "denoiser":
            left[key] = tensor
        else:
            raise _no_layer(key, flat, names, base, component)
    if left:
        _read_dotted(_converted(left, base), base, found)


def _kohya_component(stem: str) -> tuple[str | None, str]:
    for prefix in _KOHYA_DENOISER:
        if stem.startswith(prefix):
            return "denoiser", stem.removeprefix(prefix)
    for prefix, component in _KOHYA.items():
        if stem.startswith(prefix):
            return component, stem.removeprefix(prefix)
    return None, stem


def _converted(left: Mapping[str, Tensor], base: Base) -> dict[str, Tensor]:
    """Keys of other names for the same layers, as diffusers reads them; alphas are folded in."""
    first = next(iter(left))
    plain: dict[str, Tensor] = {}
    for key, tensor in left.items():
        stem, _, tail = key.partition(".")
        if tail == "lora_up.weight" and f"{stem}.alpha" in left and tensor.dim() > 1:
            alpha = _number(f"{stem}.alpha", left[f"{stem}.alpha"])
            plain[key] = tensor.float() * (alpha / tensor.shape[1])
        elif tail != "alpha":
            plain[key] = tensor
    try:
        if base.denoiser == "unet":
            converted = StableDiffusionLoraLoaderMixin.lora_state_dict(
                plain, unet_config=base.config
            )[0]
        else:
            converted = FluxLoraLoaderMixin.lora_state_dict(plain)
    except _CONVERSION_ERRORS as error:
        raise InvalidNetwork(
            f"key '{first[:128]}' names no layer of '{base.name}', and diffusers does not know its "
            f"make: {str(error)[:200]}"
        ) from error
    return dict(converted)


def _read_dotted(tensors: Mapping[str, Tensor], base: Base, found: Found) -> None:
    for key, tensor in tensors.items():
        component, rest = _dotted_component(key, base)
        name = _peft_name(rest, component)
        if name.endswith(".alpha"):
            layer, tail = name.removesuffix(".alpha"), "alpha"
        elif match := _DOTTED.fullmatch(name):
            layer, tail = match["layer"], "lora_down.weight" if match["down"] else "lora_up.weight"
        else:
            raise InvalidNetwork(f"key '{key[:128]}' is none of a LoRA (lora_A, lora_B, alpha)")
        layers = _layers(base, component, key)
        known = layer if layer in layers else layer.removeprefix("text_model.")
        if known not in layers:
            raise _no_layer(key, layer, {name: name for name in layers}, base, component)
        _put(found, component, known, key, tail, tensor)


def _dotted_component(key: str, base: Base) -> tuple[str, str]:
    """The component that a key is of; without a prefix it is the denoiser."""
    plain = key.removeprefix("base_model.model.")
    top, _, rest = plain.partition(".")
    if top in (base.denoiser, *_DENOISERS):
        return "denoiser", rest
    if re.fullmatch(r"text_encoder(_[23])?", top):
        return top, rest
    return "denoiser", plain


def _peft_name(name: str, component: str) -> str:
    """A key in PEFT's words, by diffusers' tables of its own former ones."""
    if component == "denoiser":
        table = dialects.UNET_TO_DIFFUSERS
    else:
        table = {**dialects.DIFFUSERS_TO_PEFT, **dialects.DIFFUSERS_OLD_TO_PEFT}
    (found,) = dialects.convert_state_dict({name: None}, table)  # type: ignore[no-untyped-call]
    return str(found)


def _read_metadata(metadata: Mapping[str, str], base: Base, found: Found) -> None:
    """The alphas that diffusers keeps beside PEFT's keys."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return
    try:
        settings = json.loads(text)
        for (component, layer), pair in found.items():
            prefix = base.denoiser if component == "denoiser" else component
            own = {k.removeprefix(f"{prefix}."): v for k, v in settings.items()}
            if own.get("use_dora"):
                raise InvalidNetwork("its metadata says DoRA; only plain LoRA is applied")
            patterns = own.get("alpha_pattern") or {}
            special = [v for k, v in patterns.items() if layer == k or layer.endswith(f".{k}")]
            alpha = special[0] if special else own.get("lora_alpha")
            if pair.alpha is None and alpha is not None:
                pair.alpha, pair.root = float(alpha), bool(own.get("use_rslora"))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidNetwork(
            f"its metadata 'lora_adapter_metadata' is not sound: {error}"
        ) from error


def _put(found: Found, component: str, layer: str, key: str, tail: str, tensor: Tensor) -> None:
    pair = found.setdefault((component, layer), Pair(key))
    if tail == "alpha":
        pair.alpha = _number(key, tensor)
        return
    part = "down" if tail == "lora_down.weight" else "up"
    if getattr(pair, part) is not None:
        raise InvalidNetwork(f"key '{key[:128]}' and '{pair.key[:128]}' are of the same layer")
    setattr(pair, part, tensor)


def _number(key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise InvalidNetwork(f"key '{key[:128]}' must be one number, it has {tensor.numel()}")
    return float(tensor)


def _layers(base: Base, component: str, key: str) -> Layers:
    layers = base.layers(component)
    if layers is None:
        raise InvalidNetwork(
            f"key '{key[:128]}' is for a '{component}', and '{base.name}' has none that can be "
            "adapted"
        )
    return layers


def _no_layer(
    key: str, layer: str, names: Mapping[str, str], base: Base, component: str
) -> InvalidNetwork:
    close = [names[name] for name in near(layer, names, count=1)]
    hint = f"; the nearest is '{close[0]}'" if close else ""
    part = base.denoiser if component == "denoiser" else component
    return InvalidNetwork(
        f"key '{key[:128]}' names no layer of the {part} of '{base.name}'{hint}; the file was made "
        "for another model"
    )
