"""What every fault is: something that can be done to a stage, and undone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from loadtests.chaos.accounting import Bounds
from loadtests.chaos.stage import Shape, Stage


class Fault(ABC):
    """One thing that breaks. An object is used once.

    Attributes:
        name: on the command line and in results.
        about: what is done, in a sentence.
        shape: of the stage that it is tried on.
        alone: whether no other fault is tried on its stage.
        seconds: between `inject` and `heal`; 0 where the fault is but a moment.
        bounds: what it may cost.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    shape: ClassVar[Shape] = "several"
    alone: ClassVar[bool] = False
    seconds: ClassVar[float] = 0.0
    bounds: ClassVar[Bounds]

    def lacking(self) -> str | None:
        """Why this machine cannot try it; ``None`` where it can."""
        return None

    def prepare(self, folder: Path) -> Mapping[str, str]:  # noqa: ARG002 - for overrides
        """Make a stage's folder ready before the server starts; what its environment needs."""
        return {}

    def clean(self, folder: Path) -> None:  # noqa: B027 - most leave nothing
        """Undo `prepare`, once the server has ended."""

    @abstractmethod
    def inject(self, stage: Stage) -> None:
        """Break it. May take a while; the load goes on meanwhile."""

    def heal(self, stage: Stage) -> None:  # noqa: B027 - most heal by themselves
        """Undo what was done, where that is not the service's own affair."""

    def found(self) -> list[str]:
        """Promises that the fault itself saw broken, a sentence each."""
        return []
