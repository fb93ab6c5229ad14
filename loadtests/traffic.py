"""The mixed diffusion traffic of the goodput benchmark."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

SAMPLERS = ("euler", "heun", "dpmpp_2m")
SCALES = (2.0, 3.0, 5.0, 7.5)
UNGUIDED_SHARE = 0.3
STEPS = (10, 50)
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SHAPES = ("circle", "square", "triangle", "ring", "cross", "star")


@dataclass(frozen=True, slots=True)
class Request:
    """One request for an image."""

    prompt: str
    steps: int
    sampler: str
    guidance_scale: float
    seed: int

    @property
    def evaluations(self) -> int:
        """Network evaluations that it takes."""
        return 2 * self.steps - 1 if self.sampler == "heun" else self.steps

    @property
    def guided(self) -> bool:
        """Whether each of them has two branches."""
        return self.guidance_scale != 1.0

    def body(self) -> dict[str, Any]:
        """As JSON for ``/v1/generate``."""
        return asdict(self)


def mixed(count: int, seed: int) -> list[Request]:
    """Steps 10 to 50, three samplers, four guidance scales, 30% without guidance."""
    draw = random.Random(seed)
    return [
        Request(
            prompt=f"a {draw.choice(COLORS)} {draw.choice(SHAPES)}",
            steps=draw.randint(*STEPS),
            sampler=draw.choice(SAMPLERS),
            guidance_scale=1.0 if draw.random() < UNGUIDED_SHARE else draw.choice(SCALES),
            seed=draw.getrandbits(32),
        )
        for _ in range(count)
    ]
