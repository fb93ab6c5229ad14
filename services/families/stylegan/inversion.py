"""Inversion by descent: the styles whose image is closest to a given one, step by step.

Abdal et al., 2019, arXiv:1904.03189: Adam on w+, here from what the encoder finds. Each row has its
own optimiser, its own number of steps and its own target, so rows of any requests step together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from services.core.network import DifferentiableNetwork, OpenedModel
from services.core.pixels import require_finite
from services.core.trajectory import Trajectory
from services.families.stylegan.generator import Generator
from services.families.stylegan.pyramid import pyramid_loss

NETWORKS = ("styles", "synthesis")
"""Whose gradients a descent needs."""
STEP = "inversion"
"""The key that rows of a descent share their evaluations under."""

LEARNING_RATE = 0.1
"""Of the first step, in standard deviations of w."""
DECAY = 0.9, 0.999
"""Of the means of the gradient and of its square (Kingma and Ba, 2015, arXiv:1412.6980)."""
EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Descent:
    """Where a row's optimiser is.

    Attributes:
        first: running mean of the gradient, ``[layers, D]``.
        second: running mean of its square.
        best: the styles with the least loss so far.
        loss: theirs.
        image: of the last evaluation, ``[channels, height, width]``; ``None`` before the first.
    """

    first: Tensor
    second: Tensor
    best: Tensor
    loss: float = math.inf
    image: Tensor | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Inversion(Trajectory):
    """A descent under way; ``x`` are the styles to be evaluated next, ``[layers, D]``.

    Attributes:
        target: the image to come close to, ``[channels, height, width]`` in the networks' range.
        descent: where its optimiser is.
    """

    target: Tensor
    descent: Descent


class Inverter:
    """Evaluates descents; its gradients are opened when the first one needs them."""

    def __init__(self, model: OpenedModel, generator: Generator) -> None:
        """Open nothing yet.

        Args:
            model: whose networks have gradients.
            generator: evaluates images.
        """
        self._model, self._generator = model, generator
        self._gradients: dict[str, DifferentiableNetwork] = {}

    def open(self) -> None:
        """Open the networks with their gradients.

        Raises:
            ModelError: a file is missing, changed, or no fit.
        """
        for name in NETWORKS:
            if name not in self._gradients:
                self._gradients[name] = self._model.differentiable(name)

    @cached_property
    def _spread(self) -> float:
        return self._generator.spread_of_w()

    def step(self, rows: Sequence[Inversion]) -> None:
        """One evaluation of every row's image, and one step of Adam downhill."""
        self.open()
        noise = torch.zeros(len(rows), self._generator.noise_size)
        w = torch.stack([row.x for row in rows])
        styles = self._generator.styled(list(w))
        images = self._generator.images(styles, noise)
        found = [pyramid_loss(image, row.target) for row, image in zip(rows, images, strict=True)]
        gradients = self._pulled_back(w, styles, noise, torch.stack([slope for _, slope in found]))
        rate = LEARNING_RATE * self._spread
        moved = [
            _descended(row, image, loss, gradient, rate)
            for row, image, (loss, _), gradient in zip(rows, images, found, gradients, strict=True)
        ]
        # Nothing below can fail: a batch is taken whole or not at all.
        for row, (x, descent) in zip(rows, moved, strict=True):
            row.descent = descent
            row.commit(x)

    def _pulled_back(self, w: Tensor, styles: Tensor, noise: Tensor, slopes: Tensor) -> Tensor:
        """Gradients by the images as gradients by w+, through the synthesis and the styles."""
        told = self._generator.inputs(styles, noise)
        _, by_styles = self._gradients["synthesis"].vjp(
            told, wrt="s", output="image", cotangent=slopes.to(told["s"].device)
        )
        _, by_w = self._gradients["styles"].vjp(
            {"w": w.to(by_styles.device)}, wrt="w", output="s", cotangent=by_styles
        )
        require_finite(by_w)
        return by_w.cpu()


def _descended(
    row: Inversion, image: Tensor, loss: float, gradient: Tensor, rate: float
) -> tuple[Tensor, Descent]:
    """A row after one step of Adam, whose rate falls to nothing along half a cosine."""
    before, count = row.descent, row.index + 1
    first = torch.lerp(gradient, before.first, DECAY[0])
    second = torch.lerp(gradient.square(), before.second, DECAY[1])
    mean, square = first / (1 - DECAY[0] ** count), second / (1 - DECAY[1] ** count)
    steps = row.workload.evaluations
    pace = rate * 0.5 * (1 + math.cos(math.pi * row.index / steps))
    moved = row.x - pace * mean / (square.sqrt() + EPSILON)
    descent = replace(before, first=first, second=second, image=image)
    if loss < before.loss:
        descent = replace(descent, best=row.x, loss=loss)
    return moved, descent
