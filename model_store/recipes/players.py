"""Two players by turns: what every game of a generator against an opponent sets up and repeats."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model_store.recipes.training import Run, averaged, set_learning_rate


class Players:
    """A generator and its opponent, with their optimisers, and the run that keeps them.

    Both learn by Adam at rates that are set before each step.

    Args:
        name: of the checkpoint.
        generator: is trained in place.
        opponent: likewise.
        options: of the recipe.
        minutes: of the run; those of the options when absent.
        decay: of the average of the generator's weights.
        betas: of both optimisers.
        fused: whether Adam takes its steps in one kernel.
        names: of the two players in the checkpoint.

    Attributes:
        average: of the generator's weights.
        run: of the game; what the players had learned in its checkpoint, they know again.
    """

    def __init__(  # noqa: PLR0913 - each is a decision of its own, made by the recipe
        self,
        name: str,
        generator: nn.Module,
        opponent: nn.Module,
        options: argparse.Namespace,
        *,
        decay: float,
        minutes: float | None = None,
        betas: tuple[float, float] = (0.0, 0.99),
        fused: bool | None = None,
        names: tuple[str, str] = ("generator", "discriminator"),
    ) -> None:
        self.generator, self.opponent = generator, opponent
        self.average = averaged(generator, decay)
        self._optimizer_g, self._optimizer_d = (
            torch.optim.Adam(player.parameters(), lr=0.0, betas=betas, fused=fused)
            for player in (generator, opponent)
        )
        self.run = Run(
            name,
            options.minutes if minutes is None else minutes,
            options.workspace,
            {
                names[0]: generator,
                names[1]: opponent,
                "average": self.average,
                "optimizer_g": self._optimizer_g,
                "optimizer_d": self._optimizer_d,
            },
            fresh=options.fresh,
            export_only=options.export_only,
        )

    def set_rates(self, generator: float, opponent: float) -> None:
        """Set the learning rates of both."""
        set_learning_rate(self._optimizer_g, generator)
        set_learning_rate(self._optimizer_d, opponent)

    def opponent_learns(self, loss: Tensor) -> None:
        """One step of the opponent down its loss, a scalar."""
        _descend(self._optimizer_d, loss)

    @contextmanager
    def opponent_still(self) -> Iterator[None]:
        """A block in which gradients flow through the opponent, and stop at none of its weights."""
        self.opponent.requires_grad_(False)
        try:
            yield
        finally:
            self.opponent.requires_grad_(True)

    def generator_learns(self, loss: Tensor) -> None:
        """One step of the generator down its loss, a scalar; its average follows."""
        _descend(self._optimizer_g, loss)
        self.average.update_parameters(self.generator)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
