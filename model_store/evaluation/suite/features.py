"""What images are compared by: the built-in classifier of a domain, or a network of the user's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model_store.evaluation import digits_judge, judge, texture
from model_store.evaluation.suite.held_out import signed
from model_store.evaluation.suite.measured import Network
from model_store.inspect_onnx import check_onnx
from model_store.limits import StoreLimits
from model_store.networks.graph import GraphTensor
from model_store.networks.onnx_graph import OnnxGraph
from services.core.errors import InvalidNetwork, InvalidParameter

BATCH = 64
DOMAIN_CLASSIFIER = "domain_classifier"
HASH_SHOWN = 8


class Features(Protocol):
    """A network that images are compared by; images are uint8 ``[n, channels, height, width]``."""

    @property
    def described(self) -> Network:
        """Its name, which the names of metrics end with."""
        ...

    def vectors(self, images: Tensor) -> Tensor:
        """One vector an image, ``[n, d]``."""
        ...

    def logits(self, images: Tensor) -> Tensor | None:
        """Logits of its classes, ``[n, classes]``; ``None`` where it has none."""
        ...

    def maps(self, images: Tensor) -> Sequence[Tensor] | None:
        """Of images in [-1, 1], not rounded: layers ``[n, channels, h, w]``; ``None`` likewise."""
        ...


class ReadsFactors(Features, Protocol):
    """A classifier that also says what an image shows."""

    def read(self, images: Tensor) -> Mapping[str, Tensor]:
        """The likeliest value of every factor, int64 ``[n]`` by the factor's name."""
        ...


class ShapesClassifier:
    """The factor classifier of captioned shapes; other sizes than 32x32 are resized."""

    described = Network(name=DOMAIN_CLASSIFIER)

    def vectors(self, images: Tensor) -> Tensor:
        """Its 192 hidden units."""
        return _in_parts(lambda part: _shapes_layers(_shapes_input(signed(part)))[-1], images)

    def logits(self, images: Tensor) -> Tensor:
        """Of shape and colour together: 48 classes."""

        def joint(part: Tensor) -> Tensor:
            shape, color, *_ = judge.judge()(_shapes_input(signed(part)))
            both: Tensor = shape.log_softmax(1)[:, :, None] + color.log_softmax(1)[:, None, :]
            return both.flatten(1)

        return _in_parts(joint, images)

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """What its trunk and its narrowest layer see."""
        trunk, squeezed, _ = _shapes_layers(_shapes_input(images))
        return [trunk, squeezed]

    def read(self, images: Tensor) -> Mapping[str, Tensor]:
        """All six factors."""
        found = _in_parts(lambda part: judge.read_factors(_shapes_input(signed(part))), images)
        return {name: found[:, i] for i, name in enumerate(judge.FACTORS)}


class DigitsClassifier:
    """The perceptron that reads digits; other sizes than 8x8 are resized."""

    described = Network(name=DOMAIN_CLASSIFIER)

    def vectors(self, images: Tensor) -> Tensor:
        """Its 64 hidden units."""
        return digits_judge.read(_digits_input(signed(images))).hidden

    def logits(self, images: Tensor) -> Tensor:
        """Of the ten digits."""
        return digits_judge.read(_digits_input(signed(images))).logits

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Its hidden units, at one place."""
        return [digits_judge.read(_digits_input(images)).hidden[..., None, None]]

    def read(self, images: Tensor) -> Mapping[str, Tensor]:
        """The digit."""
        return {"digit": self.logits(images).argmax(1)}


class TexturesClassifier:
    """The network that tells the textures of photographs apart, at any size from 8x8."""

    described = Network(name=DOMAIN_CLASSIFIER)

    def vectors(self, images: Tensor) -> Tensor:
        """Its coarsest map, averaged over places."""
        return _in_parts(lambda part: self.maps(signed(part))[-1].mean((2, 3)), images)

    def logits(self, images: Tensor) -> Tensor:
        """Of the photographs that it was trained on."""
        judge = texture.texture_judge()
        return _in_parts(lambda part: judge(_colored(signed(part))), images)

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """All of its layers."""
        with torch.no_grad():
            return texture.texture_judge().features(_colored(images))

    def read(self, images: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002 - there are none
        """Nothing: photographs have no factors."""
        return {}


DOMAINS: Mapping[str, Callable[[], ReadsFactors]] = {
    "shapes": ShapesClassifier,
    "digits": DigitsClassifier,
    "photographs": TexturesClassifier,
}
"""The built-in classifiers, by the domain that they know."""


class OnnxFeatures:
    """A user's network: one image ``[n, channels, height, width]`` in [-1, 1] to vectors or maps.

    The first output has the features, maps being averaged over their places; an output called
    ``logits`` has those of its classes.

    Args:
        file: an ONNX file with its weights inside.
        threads: of one evaluation.

    Raises:
        InvalidParameter: there is no such file.
        UnsafeModel: an operator could reach outside the graph, or weights lie in another file.
        InvalidNetwork: it is no ONNX file, or takes other than one batch of images.
    """

    def __init__(self, file: Path, *, threads: int = 1) -> None:
        limits = StoreLimits()
        if not file.is_file():
            raise InvalidParameter(f"there is no file '{file}'", param="features")
        data = file.read_bytes()
        check_onnx(file.name, data, limits)
        self._graph = OnnxGraph(data, name=file.name, device=torch.device("cpu"), threads=threads)
        self._input = _image_input(file.name, self._graph.inputs)
        digest = hashlib.sha256(data).hexdigest()
        words = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")
        self.described = Network(
            name=f"{words}_{digest[:HASH_SHOWN]}", file=file.name, sha256=digest
        )

    def vectors(self, images: Tensor) -> Tensor:
        """The first output, averaged over places."""

        def one(part: Tensor) -> Tensor:
            found = self._run(part)[0]
            return found.flatten(2).mean(2) if found.dim() == 4 else found.flatten(1)

        return _in_parts(one, images, 1 if self._input.shape[0] == 1 else BATCH)

    def logits(self, images: Tensor) -> Tensor | None:
        """The output ``logits``, where there is one."""
        if "logits" not in self._graph.outputs:
            return None
        place = self._graph.outputs.index("logits")
        parts = 1 if self._input.shape[0] == 1 else BATCH
        return _in_parts(lambda part: self._run(part)[place], images, parts)

    def maps(self, images: Tensor) -> Sequence[Tensor] | None:  # noqa: ARG002 - has none to give
        """None: a file does not say which of its layers a perceptual distance should compare."""
        return None

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        _, channels, height, width = self._input.shape
        x = signed(images)
        side = (height or x.shape[2], width or x.shape[3])
        if tuple(x.shape[2:]) != side:
            x = functional.interpolate(x, side, mode="bicubic", antialias=True).clamp(-1, 1)
        if x.shape[1] != (channels or x.shape[1]):
            x = x.expand(-1, 3, -1, -1) if channels == 3 else x.mean(1, keepdim=True)
        return self._graph.run({self._input.name: x.to(self._input.dtype)})


def _image_input(name: str, inputs: Sequence[GraphTensor]) -> GraphTensor:
    fits = len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].is_float
    if not fits or inputs[0].shape[1] not in (1, 3, None) or inputs[0].shape[0] not in (1, None):
        found = "; ".join(map(str, inputs))
        raise InvalidNetwork(
            f"'{name}' takes {found}; a feature network takes one batch of images, floats "
            "[n, 3, height, width] (or 1 channel) in [-1, 1]"
        )
    return inputs[0]


def _colored(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def _shapes_input(images: Tensor) -> Tensor:
    colored = _colored(images)
    if tuple(colored.shape[2:]) == (32, 32):
        return colored
    return functional.interpolate(colored, (32, 32), mode="bilinear", antialias=True)


def _digits_input(images: Tensor) -> Tensor:
    side = (digits_judge.SIDE, digits_judge.SIDE)
    grey = images.mean(1, keepdim=True)
    if tuple(grey.shape[2:]) == side:
        return grey
    return functional.interpolate(grey, side, mode="bilinear", antialias=True)


@torch.no_grad()
def _shapes_layers(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Trunk, squeezed and hidden layers of the classifier of shapes."""
    network: Any = judge.judge()
    trunk = network.trunk(images)
    squeezed = functional.silu(network.squeeze(functional.silu(network.norm(trunk))))
    return trunk, squeezed, functional.silu(network.hidden(squeezed.flatten(1)))


@torch.no_grad()
def _in_parts(function: Callable[[Tensor], Tensor], images: Tensor, size: int = BATCH) -> Tensor:
    return torch.cat([function(part) for part in images.split(size)])
