"""Directions of W that change one thing: by linear classifiers and by principal components.

InterFaceGAN (Shen et al., 2020, arXiv:1907.10786) takes the normal of the plane between two groups
of latents, read by a classifier of images, and makes it orthogonal to the directions of what shall
stay (its conditional manipulation); GANSpace (Harkonen et al., 2020, arXiv:2004.02546) takes the
principal components. Both apply an edit to some layers only where that leaves the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC
from torch import Tensor

from model_store.evaluation import judge

HELD_OUT = 0.2
FEWEST = 10
"""Latents of a group; of fewer there is no direction to tell."""
COMPONENTS = 4
ENOUGH = 0.8
"""Share of edits that have to change what is asked, and to leave every other factor."""
TRIED = 400
"""Latents that choose an edit, and as many more that measure it."""
STRENGTHS = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Tried as the unit, in distances between the means of the two groups."""

Layers = tuple[int, int] | None
"""First and last layer that an edit applies to, or all."""
Draw = Callable[[Tensor], Tensor]
"""Latents ``[n, layers, d]`` to the factors read in their images, int64 ``[n, factors]``."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two groups of images, told apart by the value of one factor.

    Attributes:
        name: what the attribute is called.
        factor: name of the factor, of `judge.FACTORS`.
        low: its values at the negative end.
        high: its values at the positive end.
    """

    name: str
    factor: str
    low: Sequence[int]
    high: Sequence[int]

    @property
    def column(self) -> int:
        """Where the factor stands in a row of factors."""
        return judge.FACTORS.index(self.factor)

    def rows(self, read: Tensor, values: Sequence[int]) -> Tensor:
        """Which rows show one of the values, bool ``[n]``."""
        return torch.isin(read[:, self.column], torch.tensor(values))


@dataclass(frozen=True, slots=True)
class Effect:
    """What an edit did to images that showed the negative end.

    Attributes:
        changed: share that shows the positive end afterwards.
        kept: share that shows the same as before, by each other factor.
    """

    changed: float
    kept: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The least of all shares."""
        return min(self.changed, *self.kept.values())


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction of w with the length of one step along it."""

    name: str
    vector: Tensor
    unit: float
    layers: Layers
    source: Literal["svm", "pca"]
    accuracy: float | None = None
    effect: Effect | None = None

    def options(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {
            "name": self.name,
            "space": "w",
            "direction": [round(float(x), 6) for x in self.vector],
            "unit": round(self.unit, 4),
            "layers": None if self.layers is None else list(self.layers),
            "source": self.source,
            "accuracy": self.accuracy,
        }


def normal(w: Tensor, positive: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Unit normal of the plane between two groups of latents, and its held-out accuracy.

    Args:
        w: ``[n, d]``.
        positive: which rows are of the group that the normal points to, bool ``[n]``.
        seed: of the split.

    Raises:
        ValueError: a group has fewer than `FEWEST` rows.
    """
    labels = positive.numpy()
    if min(labels.sum(), (~labels).sum()) < FEWEST:
        raise ValueError(f"a group of fewer than {FEWEST} latents has no direction")
    rows = w.double().numpy()
    spread = rows.std(axis=0)
    seen, held, answers, held_answers = train_test_split(
        rows / spread, labels, test_size=HELD_OUT, random_state=seed, stratify=labels
    )
    machine = LinearSVC(dual=False, class_weight="balanced").fit(seen, answers)
    vector: NDArray[np.float64] = machine.coef_[0] / spread
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    return unit, round(float(machine.score(held, held_answers)), 4)


def orthogonal(vector: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The part of a unit vector that none of the others has, of unit length again.

    Raises:
        ValueError: nothing is left of it.
    """
    if not others:
        return vector
    basis, _ = torch.linalg.qr(torch.stack(list(others), dim=1))
    rest = vector - basis @ (basis.T @ vector)
    length = float(rest.norm())
    if length < 1e-3:
        raise ValueError("a direction lies within the span of the others")
    return rest / length


def components(w: Tensor, count: int = COMPONENTS) -> list[Direction]:
    """The first principal components; a unit is their standard deviation."""
    _, spread, rows = torch.linalg.svd(w - w.mean(dim=0), full_matrices=False)
    deviations = spread / (len(w) - 1) ** 0.5
    return [
        Direction(f"pca_{i + 1}", rows[i], float(deviations[i]), None, "pca") for i in range(count)
    ]


def edited(w: Tensor, vector: Tensor, distance: float, layers: Layers) -> Tensor:
    """Latents ``[n, layers, d]``, moved along a unit vector in some layers."""
    first, last = layers or (0, w.shape[1] - 1)
    moved = w.clone()
    moved[:, first : last + 1] += distance * vector
    return moved


def effect(
    contrast: Contrast, w: Tensor, before: Tensor, move: Callable[[Tensor], Tensor], draw: Draw
) -> Effect:
    """What an edit does to images that show the negative end.

    Args:
        contrast: what shall change.
        w: latents ``[n, layers, d]``.
        before: the factors that their images show, ``[n, factors]``.
        move: the edit.
        draw: reads what latents show.
    """
    rows = contrast.rows(before, contrast.low)
    after = draw(move(w[rows]))
    same = (before[rows] == after).float().mean(dim=0)
    kept = {
        name: round(float(same[i]), 4)
        for i, name in enumerate(judge.FACTORS)
        if name != contrast.factor
    }
    changed = float(contrast.rows(after, contrast.high).float().mean())
    return Effect(round(changed, 4), kept)


@dataclass(frozen=True, slots=True)
class Latents:
    """Latents ``w`` ``[n, d]`` and the factors that their images show, ``read`` ``[n, factors]``.

    The first `TRIED` choose how an edit is made; the next as many measure it.
    """

    w: Tensor
    read: Tensor
    layers: int
    draw: Draw

    def normal(self, contrast: Contrast) -> tuple[Tensor, float]:
        """The contrast's unit normal and its held-out accuracy."""
        low, high = (contrast.rows(self.read, values) for values in (contrast.low, contrast.high))
        return normal(self.w[low | high], high[low | high])

    def has(self, contrast: Contrast) -> bool:
        """Whether both groups are large enough, also among the latents that choose and measure."""
        parts = self.read, self.read[:TRIED], self.read[TRIED : 2 * TRIED]
        return all(
            contrast.rows(part, values).sum() >= FEWEST
            for part in parts
            for values in (contrast.low, contrast.high)
        )

    def apart(self, contrast: Contrast, vector: Tensor) -> float:
        """Distance of the two groups' means along a unit vector."""
        low, high = (contrast.rows(self.read, values) for values in (contrast.low, contrast.high))
        return float((self.w[high] @ vector).mean() - (self.w[low] @ vector).mean())

    def effect(self, direction: Direction, contrast: Contrast, *, held_out: bool) -> Effect:
        """What a step along a direction does to the latents that choose, or to the others."""
        rows = slice(TRIED, 2 * TRIED) if held_out else slice(TRIED)
        spread = self.w[rows, None].expand(-1, self.layers, -1)
        move = partial(
            edited, vector=direction.vector, distance=direction.unit, layers=direction.layers
        )
        return effect(contrast, spread, self.read[rows], move, self.draw)


def find(
    contrasts: Sequence[Contrast], latents: Latents, ranges: Sequence[Layers]
) -> list[Direction]:
    """The best edit for every contrast: plain or made orthogonal, in which layers, and how far.

    A contrast of which hardly any latents are has none.

    Args:
        contrasts: what to look for.
        latents: to look among.
        ranges: in which layers edits may be made.
    """
    known = [contrast for contrast in contrasts if latents.has(contrast)]
    normals = {contrast.name: latents.normal(contrast) for contrast in known}
    found = []
    for contrast in known:
        plain, accuracy = normals[contrast.name]
        others = [vector for name, (vector, _) in normals.items() if name != contrast.name]
        candidates = [
            Direction(contrast.name, vector, strength * apart, where, "svm", accuracy)
            for vector in (plain, orthogonal(plain, others))
            if (apart := latents.apart(contrast, vector)) > 0
            for where in ranges
            for strength in STRENGTHS
        ]
        best = max(candidates, key=lambda d: latents.effect(d, contrast, held_out=False).worst)
        found.append(replace(best, effect=latents.effect(best, contrast, held_out=True)))
    return found


def holding(directions: Sequence[Direction]) -> list[Direction]:
    """Those whose edits change what is asked, and leave every other factor, often enough."""
    return [d for d in directions if d.effect is not None and d.effect.worst >= ENOUGH]
