"""What adapters do to single rows of an evaluation; the rows beside them stay as they are, bitwise.

How they are found and applied is in `services.core.network`: `Adapters`, `AdaptableNetwork`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Lora(Protocol):
    """Opened low-rank deltas of a model's weights (Hu et al., 2021, eq. 3).

    Attributes:
        name: what requests call it.
        digest: equal digests are equal weights.
        changes_prompts: whether it changes how prompts are read, too.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def digest(self) -> str:
        """See the class."""
        ...

    @property
    def changes_prompts(self) -> bool:
        """See the class."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ScaledLora:
    """A LoRA and how strongly it is applied; 0 is not at all, 1 as it was trained."""

    lora: Lora
    scale: float

    @property
    def key(self) -> tuple[str, float]:
        """Equal keys change a row in the same way."""
        return self.lora.digest, self.scale


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What one row of an evaluation has beside its inputs.

    Attributes:
        loras: applied in this order.
        residuals: what control networks add to the denoiser's own, all in one row of numbers; see
            `services.core.network.ControlNetwork`.
    """

    loras: tuple[ScaledLora, ...] = ()
    residuals: Tensor | None = None

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.loras) or self.residuals is not None
