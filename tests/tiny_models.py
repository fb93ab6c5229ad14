"""A real model of every family, as small as its kind allows: networks of a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_store.architectures.densities import MixtureDensity, MixtureSampler
from services.core.errors import DocumentNotFound, ModelNotFound
from services.core.model import DocumentKind
from services.core.network import OpenedModel
from tests.engines import RowByRow, floats, integers, opened
from tests.tiny_autoregressive import tiny_autoregressive
from tests.tiny_stylegan import tiny_stylegan


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module whose first weights are those of a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


class CouplingFlow(nn.Module):
    """RealNVP (Dinh et al., 2017): affine couplings on alternating halves of a vector."""

    masks: Tensor

    def __init__(self, shape: Sequence[int], *, couplings: int = 4, width: int = 16) -> None:
        super().__init__()
        self.shape = tuple(shape)
        dims = int(np.prod(self.shape))
        self.register_buffer(
            "masks", torch.stack([(torch.arange(dims) + i) % 2 for i in range(couplings)]).float()
        )
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(dims, width), nn.Tanh(), nn.Linear(width, 2 * dims))
            for _ in range(couplings)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` and ``log |det dz/dx|``."""
        y = x.flatten(1)
        log_det = torch.zeros(len(y), dtype=y.dtype)
        for mask, network in zip(self.masks, self.networks, strict=True):
            scale, shift = self._coefficients(network, y, mask)
            y = y * torch.exp(scale) + shift
            log_det = log_det + scale.sum(1)
        return y.view(-1, *self.shape), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """``x`` with ``forward(x) = z``."""
        y = z.flatten(1)
        for mask, network in zip(self.masks.flip(0), reversed(self.networks), strict=True):
            scale, shift = self._coefficients(network, y, mask)
            y = (y - shift) * torch.exp(-scale)
        return y.view(-1, *self.shape)

    def _coefficients(self, network: nn.Module, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = network(y * mask).chunk(2, 1)
        return torch.tanh(scale) * (1 - mask), shift * (1 - mask)


class Denoiser(nn.Module):
    """A convolution that hears the time and the tokens."""

    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.told = nn.Linear(1 + slots, 6)
        self.last = nn.Conv2d(6, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The prediction for a state at a time."""
        told = [torch.log1p(t[:, None].float()) / 7]
        if tokens is not None:
            told.append(tokens.float())
        hidden = torch.tanh(self.first(x) + self.told(torch.cat(told, 1))[:, :, None, None])
        predicted: Tensor = self.last(hidden)
        return predicted


VOCABULARY: Mapping[str, Any] = {
    "slots": {
        "color": {"values": ["red", "green", "blue"], "synonyms": {"crimson": "red"}},
        "shape": {"values": ["circle", "square"]},
    },
    "ignored": ["a", "the", "on"],
}


def tiny_gan() -> OpenedModel:
    """A conditional generator of three labels, in colour."""
    labels = ["red", "green", "blue"]
    net = seeded(lambda: nn.Linear(4 + len(labels), 3 * 8 * 8), 1)

    def generate(z: Tensor, label: Tensor) -> Mapping[str, Tensor]:
        told = nn.functional.one_hot(label, len(labels)).float()
        return {"image": torch.tanh(net(torch.cat([z, told], 1))).view(-1, 3, 8, 8)}

    network = RowByRow(generate, {"z": floats(4), "label": integers()}, ["image"])
    return opened(
        "gan",
        {"generator": network},
        resolution=(8, 8),
        channels=3,
        options={"labels": labels},
    )


def tiny_vae() -> OpenedModel:
    """An encoder and a decoder of 4 x 4 grey images with three latents."""
    encoder = seeded(lambda: nn.Linear(16, 6), 2)
    decoder = seeded(lambda: nn.Linear(3, 16), 3)

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean, log_variance = encoder(image.flatten(1)).chunk(2, 1)
        return {"mean": mean, "log_variance": log_variance - 1}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(decoder(z)).view(-1, 1, 4, 4)}

    return opened(
        "vae",
        {
            "encoder": RowByRow(encode, {"image": floats(1, 4, 4)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(3)}, ["image"]),
        },
        resolution=(4, 4),
        options={"observation": {"scale": 8.0}},
    )


def tiny_flow() -> OpenedModel:
    """A coupling flow of 4 x 4 grey images."""
    return flow_model(seeded(lambda: CouplingFlow((1, 4, 4)), 4), (1, 4, 4), (0.0, 1.0))


def flow_model(
    flow: nn.Module, shape: tuple[int, int, int], pixel_range: tuple[float, float]
) -> OpenedModel:
    """A module with ``forward(x) -> z, log_det`` and ``inverse(z)`` as a model."""

    def forward(x: Tensor) -> Mapping[str, Tensor]:
        z, log_det = flow(x)
        return {"z": z, "log_det": log_det}

    def inverse(z: Tensor) -> Mapping[str, Tensor]:
        return {"x": flow.inverse(z)}

    return opened(
        "flow",
        {
            "forward": RowByRow(forward, {"x": floats(*shape)}, ["z", "log_det"]),
            "inverse": RowByRow(inverse, {"z": floats(*shape)}, ["x"]),
        },
        resolution=shape[1:],
        channels=shape[0],
        pixel_range=pixel_range,
    )


def tiny_diffusion() -> OpenedModel:
    """A text-to-image latent diffusion: 2 x 4 x 4 latents of 3 x 8 x 8 images."""
    denoiser = seeded(lambda: Denoiser(2, len(VOCABULARY["slots"])), 5)
    encoder = seeded(lambda: nn.Conv2d(3, 4, 2, stride=2), 6)
    decoder = seeded(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), 7)

    def denoise(x: Tensor, t: Tensor, tokens: Tensor) -> Mapping[str, Tensor]:
        return {"output": denoiser(x, t, tokens)}

    def encode(image: Tensor) -> Mapping[str, Tensor]:
        mean, log_variance = encoder(image).chunk(2, 1)
        return {"mean": mean, "log_variance": log_variance - 3}

    def decode(z: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(decoder(z))}

    inputs = {"x": floats(2, 4, 4), "t": floats(), "tokens": integers(2)}
    return opened(
        "diffusion",
        {
            "denoiser": RowByRow(denoise, inputs, ["output"]),
            "encoder": RowByRow(encode, {"image": floats(3, 8, 8)}, ["mean", "log_variance"]),
            "decoder": RowByRow(decode, {"z": floats(2, 4, 4)}, ["image"]),
        },
        resolution=(8, 8),
        channels=3,
        options={
            "schedule": {"type": "variance_preserving"},
            "latent": {"shape": [2, 4, 4], "shift": [0.1, -0.2], "scale": [0.7, 1.3]},
            "observation": {"scale": 6.0},
            "tokenizer": VOCABULARY,
            "defaults": {"sampler": "dpmpp_2m", "steps": 4, "guidance_scale": 3.0},
        },
    )


def tiny_super_resolution() -> OpenedModel:
    """Twice the size for colour images of 4 x 4 and more."""
    denoiser = seeded(lambda: Denoiser(6, 0), 8)

    def denoise(x: Tensor, t: Tensor, enlarged: Tensor) -> Mapping[str, Tensor]:
        return {"velocity": denoiser(torch.cat([x, enlarged], 1), t)[:, :3]}

    inputs = {"x": floats(3, 8, 8), "t": floats(), "enlarged": floats(3, 8, 8)}
    return opened(
        "super_resolution",
        {"denoiser": RowByRow(denoise, inputs, ["velocity"])},
        resolution=(8, 8),
        channels=3,
        options={
            "factor": 2,
            "residual_scale": 0.2,
            "schedule": {"type": "variance_preserving"},
            "defaults": {"sampler": "ddim", "steps": 3},
        },
    )


def tiny_translation() -> OpenedModel:
    """A convolution that turns one colour image into another."""
    net = seeded(lambda: nn.Conv2d(3, 3, 3, padding=1), 10)

    def translate(source: Tensor) -> Mapping[str, Tensor]:
        return {"image": torch.tanh(net(source))}

    network = RowByRow(translate, {"source": floats(3, 8, 8)}, ["image"])
    return opened("translation", {"generator": network}, resolution=(8, 8), channels=3)


def tiny_density() -> OpenedModel:
    """Gaussian naive Bayes of 4 x 4 grey images with three classes."""
    shape = {"components": 3, "side": 4, "covariance": "diagonal"}
    density, sampler = MixtureDensity(**shape), MixtureSampler(**shape)
    generator = torch.Generator().manual_seed(9)
    mean = torch.rand(3, 16, generator=generator)
    deviation = 0.1 + 0.2 * torch.rand(3, 16, generator=generator)
    with torch.no_grad():
        density.mean.copy_(mean)
        sampler.mean.copy_(mean)
        density.whitening.copy_(1 / deviation)
        sampler.factor.copy_(deviation)
    return density_model(
        density, sampler, 4, {"weights": [0.5, 0.3, 0.2], "labels": ["red", "green", "blue"]}
    )


def density_model(
    density: nn.Module, sampler: nn.Module, side: int, options: Mapping[str, Any]
) -> OpenedModel:
    """The two modules of a density as a model of grey images in [0, 1]."""
    outputs: Sequence[str] = type(density).outputs  # type: ignore[attr-defined]

    def judge(x: Tensor) -> Mapping[str, Tensor]:
        given = density(x)
        given = given if isinstance(given, tuple) else (given,)
        return {n: v.float() for n, v in zip(outputs, given, strict=True)}

    def sample(z: Tensor, component: Tensor) -> Mapping[str, Tensor]:
        return {"x": sampler(z, component).float()}

    inputs = {"z": floats(side * side), "component": integers()}
    return opened(
        "density",
        {
            "density": RowByRow(judge, {"x": floats(1, side, side)}, outputs),
            "sampler": RowByRow(sample, inputs, ["x"]),
        },
        resolution=(side, side),
        pixel_range=(0.0, 1.0),
        options=options,
    )


MODELS: Mapping[str, Callable[[], OpenedModel]] = {
    "autoregressive": tiny_autoregressive,
    "gan": tiny_gan,
    "vae": tiny_vae,
    "flow": tiny_flow,
    "density": tiny_density,
    "diffusion": tiny_diffusion,
    "super_resolution": tiny_super_resolution,
    "translation": tiny_translation,
    "stylegan": tiny_stylegan,
}
"""A model of every family, as small as its kind allows; a new family needs one line here."""


class Shelf:
    """A `ModelSource` of models that are built when they are opened."""

    def __init__(self, models: Mapping[str, Callable[[], OpenedModel]]) -> None:
        self.models = dict(models)
        self.versions = dict.fromkeys(models, "1")
        self.openings: list[str] = []

    def names(self) -> Sequence[str]:
        return sorted(self.models)

    def fingerprint(self, name: str) -> str:
        if name not in self.models:
            raise ModelNotFound(f"there is no model '{name}'", param="model")
        return self.versions[name]

    def document(self, name: str, kind: DocumentKind) -> bytes:
        raise DocumentNotFound(f"model '{name}' comes without a {kind}", param="model")

    def open(self, name: str, device: torch.device) -> OpenedModel:  # noqa: ARG002 - on the CPU
        name = name.partition("@")[0]
        self.openings.append(name)
        return self.models[name]()


def one_of_each() -> Shelf:
    """A source with the tiny model of every family, by its id."""
    return Shelf({f"tiny-{family}": build for family, build in MODELS.items()})
