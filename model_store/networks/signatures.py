"""What the families call the inputs and outputs of their networks, and of what kind each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What a tensor means; with the shape of one row."""

    IMAGE = "image"  # float [channels, height, width]
    LATENT = "latent"  # float, any shape of one dimension or more
    TIME = "time"  # float []
    LABEL = "label"  # int64 []
    TOKENS = "tokens"  # int64 [length]
    NUMBER = "number"  # float []


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ``required`` ones are also found by position, if not by name.

    A port that is ``named`` is found by its name alone: which of several things a tensor is, its
    shape does not tell.
    """

    name: str
    kind: Kind
    required: bool = True
    named: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of one network of one family."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


_IMAGE = Port("image", Kind.IMAGE)
_Z = Port("z", Kind.LATENT)
_W, _S = Port("w", Kind.LATENT), Port("s", Kind.LATENT)
_LABEL = Port("label", Kind.LABEL, required=False)
_GROWN = tuple(
    Port(f"image_{2**power}", Kind.LATENT, required=False, named=True) for power in range(2, 10)
)
"""Images at the resolutions that a generator grew through, beside its last."""
_TOKENS = Port("tokens", Kind.TOKENS, required=False)
_ENCODER = Signature(
    (_IMAGE, _LABEL), (Port("mean", Kind.LATENT), Port("log_variance", Kind.LATENT))
)
_DECODER = Signature((_Z, _LABEL), (_IMAGE,))
_FLOW_STEP = Signature(
    (Port("state", Kind.LATENT), Port("index", Kind.LABEL)), (Port("next_state", Kind.LATENT),)
)
_PREDICTIONS = tuple(
    Port(name, Kind.LATENT, required=False, named=True)
    for name in ("velocity", "epsilon", "denoised", "score")
)

SIGNATURES: Mapping[tuple[str, str], Signature] = MappingProxyType(
    {
        ("gan", "generator"): Signature(
            (
                _Z,
                _LABEL,
                Port("category", Kind.LABEL, required=False, named=True),
                Port("continuous", Kind.LATENT, required=False, named=True),
            ),
            (_IMAGE, *_GROWN),
        ),
        ("gan", "encoder"): _ENCODER,
        ("gan", "critic"): Signature((_IMAGE,), (Port("realness", Kind.NUMBER),)),
        ("gan", "recognition"): Signature(
            (_IMAGE,),
            (
                Port("category_logits", Kind.LATENT, required=False, named=True),
                Port("continuous_mean", Kind.LATENT, required=False, named=True),
                Port("continuous_log_variance", Kind.LATENT, required=False, named=True),
            ),
        ),
        ("vae", "encoder"): _ENCODER,
        ("vae", "deterministic_encoder"): Signature((_IMAGE,), (_Z,)),
        ("vae", "hierarchical_encoder"): Signature(
            (_IMAGE, Port("noise", Kind.LATENT)),
            (_Z, Port("mean", Kind.LATENT), Port("log_variance", Kind.LATENT)),
        ),
        ("vae", "decoder"): _DECODER,
        ("flow", "forward"): Signature(
            (Port("x", Kind.IMAGE), _LABEL), (_Z, Port("log_det", Kind.NUMBER))
        ),
        ("flow", "inverse"): Signature((_Z, _LABEL), (Port("x", Kind.IMAGE),)),
        ("flow", "forward_step"): _FLOW_STEP,
        ("flow", "inverse_step"): _FLOW_STEP,
        ("density", "density"): Signature(
            (Port("x", Kind.IMAGE),),
            (
                Port("log_density", Kind.LATENT),
                Port("z", Kind.LATENT, required=False, named=True),
            ),
        ),
        ("density", "sampler"): Signature(
            (_Z, Port("component", Kind.LABEL)), (Port("x", Kind.IMAGE),)
        ),
        ("diffusion", "denoiser"): Signature(
            (Port("x", Kind.LATENT), Port("t", Kind.TIME), _TOKENS, _LABEL), _PREDICTIONS
        ),
        ("diffusion", "classifier"): Signature(
            (Port("x", Kind.LATENT), Port("t", Kind.TIME)), (Port("logits", Kind.LATENT),)
        ),
        ("super_resolution", "denoiser"): Signature(
            (Port("x", Kind.LATENT), Port("t", Kind.TIME), Port("enlarged", Kind.LATENT)),
            _PREDICTIONS,
        ),
        ("stylegan", "mapping"): Signature((_Z,), (_W,)),
        ("stylegan", "styles"): Signature((_W,), (_S,)),
        ("stylegan", "synthesis"): Signature(
            (_S, Port("noise", Kind.LATENT, required=False, named=True)), (_IMAGE,)
        ),
        ("stylegan", "encoder"): Signature((_IMAGE,), (_W,)),
        ("translation", "generator"): Signature((Port("source", Kind.LATENT),), (_IMAGE,)),
        ("autoregressive", "transformer"): Signature(
            (
                Port("token", Kind.LABEL, named=True),
                Port("position", Kind.LABEL, named=True),
                Port("tokens", Kind.TOKENS),
                Port("cache", Kind.LATENT),
            ),
            (
                Port("logits", Kind.LATENT, named=True),
                Port("entry", Kind.LATENT, named=True),
            ),
        ),
        ("autoregressive", "encoder"): Signature((_IMAGE,), (Port("scores", Kind.LATENT),)),
        ("autoregressive", "decoder"): Signature((Port("codes", Kind.TOKENS),), (_IMAGE,)),
        ("diffusion", "encoder"): _ENCODER,
        ("diffusion", "decoder"): _DECODER,
    }
)
"""By family and network; a network that is not listed keeps the names and shapes of its graph."""
