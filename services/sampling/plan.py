"""Plans: a sampler's whole way as rows of numbers, and the one expression that applies them.

Each supported sampler is linear in the state, in its last states, in the denoised images of its
last evaluations, and in fresh noise, with coefficients that depend on none of them::

    x' = a_0 x_k + sum_j b_j D_(k-j) + sum_j a_j x_(k-j) + c noise

where ``D_k`` is the denoiser's output at evaluation k, made from state ``x_k``. A plan holds one
such row per network evaluation, so a batch advances in one expression, whatever mixture of
samplers, step counts and places along the way its rows are at. Samplers are stateless: what a row
needs of the past lies with the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from services.sampling.schedule import Array, Grid

HISTORY = 5
"""How many evaluations a row can refer to: the current one and the four before."""

_STATE = 0
_DENOISED = slice(1, 1 + HISTORY)
_PAST_STATES = slice(1 + HISTORY, 2 * HISTORY)
_NOISE = 2 * HISTORY


@dataclass(frozen=True)
class Row:
    """Coefficients of one evaluation, the level it starts from and the level it ends at.

    Attributes:
        time: what the network is told.
        level: ``(alpha, sigma)`` of the state that is evaluated.
        next_level: ``(alpha, sigma)`` of the state after it.
        state: ``a_0``.
        denoised: ``b_0, b_1, ...``; at most `HISTORY`, what is left out is 0.
        noise: ``c``.
        past_states: ``a_1, a_2, ...``.
        correction: whether this is a further evaluation of the step that came before.
    """

    time: float
    level: tuple[float, float]
    next_level: tuple[float, float]
    state: float
    denoised: tuple[float, ...]
    noise: float = 0.0
    past_states: tuple[float, ...] = ()
    correction: bool = False

    def coefficients(self) -> Array:
        """All of them in the order of `Plan.coefficients`."""
        found = np.zeros(2 * HISTORY + 1)
        found[_STATE], found[_NOISE] = self.state, self.noise
        found[_DENOISED][: len(self.denoised)] = self.denoised
        found[_PAST_STATES][: len(self.past_states)] = self.past_states
        return found


Rule = Callable[[Grid], list[Row]]
"""A sampler: the rows that take a state along a grid."""


@dataclass(frozen=True)
class Plan:
    """One row of numbers per network evaluation; all arrays are float64 of that length.

    Attributes:
        times: what the network is told.
        alphas: signal level of the state that is evaluated.
        sigmas: noise level of the state that is evaluated.
        next_alphas: signal level after the row was applied.
        next_sigmas: noise level after the row was applied.
        coefficients: ``[evaluations, 2 HISTORY + 1]``: ``a_0, b_0 ..., a_1 ..., c``; where c is 0
            no noise is drawn.
        starts: ``[steps]``, the evaluation at which each step begins.
        memory: how many earlier evaluations a trajectory has to remember, at most.
        grid: the levels that the plan visits.
        rule: what made the rows from the grid.
    """

    times: Array
    alphas: Array
    sigmas: Array
    next_alphas: Array
    next_sigmas: Array
    coefficients: Array
    starts: tuple[int, ...]
    memory: int
    grid: Grid
    rule: Rule

    def __len__(self) -> int:
        """Network evaluations from noise to image."""
        return len(self.times)

    @property
    def initial_scale(self) -> float:
        """Unit noise times this is the first state."""
        return self.grid.initial_scale

    @property
    def denoised(self) -> Array:
        """``b``, of shape ``[evaluations, HISTORY]``."""
        return self.coefficients[:, _DENOISED]

    @property
    def noise(self) -> Array:
        """``c``, of shape ``[evaluations]``."""
        return self.coefficients[:, _NOISE]

    def from_step(self, step: int) -> Plan:
        """The plan from a later step on, for a trajectory that begins part of the way.

        It has no history there: a multistep method starts anew, at first order.
        """
        return make(self.rule, self.grid.from_step(step))


def make(rule: Rule, grid: Grid) -> Plan:
    """The plan of a rule along a grid."""
    rows = rule(grid)
    coefficients = np.stack([row.coefficients() for row in rows])
    past = np.zeros((len(rows), HISTORY), bool)
    past[:, 1:] = (coefficients[:, _DENOISED][:, 1:] != 0) | (coefficients[:, _PAST_STATES] != 0)
    return Plan(
        times=np.array([row.time for row in rows]),
        alphas=np.array([row.level[0] for row in rows]),
        sigmas=np.array([row.level[1] for row in rows]),
        next_alphas=np.array([row.next_level[0] for row in rows]),
        next_sigmas=np.array([row.next_level[1] for row in rows]),
        coefficients=coefficients,
        starts=tuple(i for i, row in enumerate(rows) if not row.correction),
        memory=int((past * np.arange(HISTORY)).max()),
        grid=grid,
        rule=rule,
    )


class Traveller(Protocol):
    """What `advanced` reads of a trajectory.

    ``past`` holds the state and the denoised image of earlier evaluations, the latest first; at
    least ``plan.memory`` of them, as far as there were any.
    """

    @property
    def plan(self) -> Plan:
        """Where it is going."""
        ...

    @property
    def index(self) -> int:
        """The evaluation under way."""
        ...

    @property
    def x(self) -> Tensor:
        """The state, without a batch dimension."""
        ...

    @property
    def past(self) -> Sequence[tuple[Tensor, Tensor]]:
        """States and denoised images of earlier evaluations."""
        ...

    def noise(self) -> Tensor:
        """Unit noise of the state's shape for the evaluation under way."""
        ...


def advanced(batch: Sequence[Traveller], denoised: Tensor) -> Tensor:
    """Where every trajectory's own row takes it, in one expression for all.

    Args:
        batch: at least one.
        denoised: ``[n, ...]``, the denoised images of this evaluation.

    Returns:
        ``[n, ...]``, the next state of each; nothing is changed yet.
    """
    rows = np.stack([t.plan.coefficients[t.index] for t in batch])
    silence = torch.zeros_like(denoised[0])
    columns = [int(column) for column in np.flatnonzero(rows.any(axis=0))]
    terms = [
        torch.stack(
            [
                _term(t, image, column) if row[column] else silence
                for t, image, row in zip(batch, denoised.unbind(0), rows, strict=True)
            ]
        )
        for column in columns
    ]
    return advance(terms, torch.from_numpy(rows[:, columns]))


def advance(terms: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """The sum of terms, each row with its own coefficients.

    Multiplications and additions are separate operations in a fixed order, so that a row's result
    does not depend on where in the batch it stands.

    Args:
        terms: at least one, each ``[n, ...]``.
        coefficients: ``[n, len(terms)]``.
    """
    shape = (-1,) + (1,) * (terms[0].dim() - 1)
    columns = [c.view(shape) for c in coefficients.to(terms[0].dtype).unbind(1)]
    result = columns[0] * terms[0]
    for column, term in zip(columns[1:], terms[1:], strict=True):
        result = result + column * term
    return result


def _term(t: Traveller, denoised: Tensor, column: int) -> Tensor:
    """What a column of `Plan.coefficients` multiplies."""
    if column == _STATE:
        return t.x
    if column == _NOISE:
        return t.noise()
    if column == _DENOISED.start:
        return denoised
    if column < _DENOISED.stop:
        return t.past[column - _DENOISED.start - 1][1]
    return t.past[column - _PAST_STATES.start][0]
