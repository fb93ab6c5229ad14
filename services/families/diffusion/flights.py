"""The three ways through a diffusion model: sampling, inverting, and judging an image.

Each is a trajectory that says at which level its state stands and what follows from the denoised
image. The engine evaluates the network for all of them in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.core.trajectory import Trajectory
from services.families.diffusion.steering import Steering
from services.families.diffusion.step_cache import StepCache
from services.families.diffusion.tiling import Tiling
from services.sampling.bounds import diffusion_last_term, diffusion_prior_term, diffusion_term
from services.sampling.plan import Plan
from services.sampling.plan import advanced as states_after
from services.sampling.schedule import Grid


@dataclass(frozen=True, slots=True)
class Level:
    """Where a state stands: what the network is told, the signal and the noise."""

    time: float
    alpha: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Blend:
    """What inpainting holds on to: the known latents and where they are not to be kept.

    ``mask`` is 1 where the image is made anew; both are of the state's shape or broadcast to it.
    """

    known: Tensor
    mask: Tensor
    noise: Tensor

    def apply(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Put the known part back, at the level the state has reached (Lugmayr et al., 2022)."""
        return self.mask * x + (1 - self.mask) * (alpha * self.known + sigma * self.noise)


@dataclass(slots=True, eq=False, kw_only=True)
class Sampling(Trajectory):
    """A state on its way along a plan, from noise to image or, inverted, back.

    ``denoised`` is the denoised image of the last evaluation; ``past`` holds the states and the
    denoised images of as many as the plan's rows refer to, the latest first. ``windows``: what the
    network sees at once of a state that is larger than its own. ``revised_prompt``: the whole
    caption, where the prompt left things open that were drawn.
    """

    plan: Plan
    steering: Steering
    denoised: Tensor | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    blend: Blend | None = None
    step_cache: StepCache | None = None
    windows: Tiling | None = None
    revised_prompt: str | None = None

    @property
    def rows(self) -> int:
        """Network rows of the next evaluation: what guidance needs there, in every window."""
        count = 1 if self.windows is None else len(self.windows.places)
        return self.steering.rows_at(self.index) * count

    @property
    def level(self) -> Level:
        """Where the next evaluation takes place."""
        i = self.index
        return Level(self.plan.times[i], self.plan.alphas[i], self.plan.sigmas[i])

    def blended(self, state: Tensor) -> Tensor:
        """A next state with what inpainting holds on to put back."""
        if self.blend is None:
            return state
        i = self.index
        return self.blend.apply(state, self.plan.next_alphas[i], self.plan.next_sigmas[i])

    def take(self, state: Tensor, denoised: Tensor) -> None:
        """Move on to the next state, and remember what later rows refer to."""
        self.denoised = denoised
        self.past = ((self.x, denoised), *self.past)[: self.plan.memory]
        if self.step_cache is not None:
            self.step_cache.commit()
        self.commit(state)


@dataclass(slots=True, eq=False, kw_only=True)
class Judgement(Trajectory):
    """A clean latent whose variational bound is being estimated, ``passes`` times over.

    ``x`` is the clean latent of the pass under way plus noise; the terms of a pass are summed in
    ``diffusion``, one entry per pass. Clean latents are drawn around ``mean`` with standard
    deviation ``std``: from a Gaussian posterior, or ``uniform`` within a pixel's bin.
    """

    grid: Grid
    steering: Steering
    mean: Tensor
    std: Tensor
    pixels: Tensor
    passes: int
    uniform: bool = False
    clean: list[Tensor] = field(default_factory=list)
    diffusion: list[float] = field(default_factory=list)

    @property
    def terms(self) -> int:
        """Network evaluations per pass."""
        return len(self.grid.times)

    @property
    def level(self) -> Level:
        """Where the next evaluation takes place."""
        i = self.index % self.terms
        return Level(self.grid.times[i], self.grid.alphas[i], self.grid.sigmas[i])

    def begin_pass(self) -> None:
        """Draw a clean latent from the posterior and the first noise."""
        noise = posterior_noise(self.mean.shape, self.generator, uniform=self.uniform)
        self.clean.append(self.mean + self.std * noise)
        self.diffusion.append(0.0)
        self.x = self._noised(0)

    def term(self, denoised: Tensor) -> float:
        """What this evaluation costs, in nats."""
        i = self.index % self.terms
        clean = self.clean[-1][None]
        return float(diffusion_term(clean, denoised[None], self._at(i), self._at(i + 1)))

    def take(self, term: float) -> None:
        """Add the term of this evaluation and move on to the next level, or the next pass."""
        i = self.index % self.terms
        self.diffusion[-1] += term
        self.commit(self.x)
        if i + 1 < self.terms:
            self.x = self._noised(i + 1)
        elif not self.finished:
            self.begin_pass()

    def rest(self) -> float:
        """The terms that need no network: at the noisiest and at the cleanest level, in nats."""
        prior = torch.stack([diffusion_prior_term(c[None], self._at(0)) for c in self.clean])
        return float(prior.mean()) + diffusion_last_term(self.mean.numel(), self._at(self.terms))

    def _noised(self, i: int) -> Tensor:
        alpha, sigma = self._at(i)
        noise = torch.randn(self.mean.shape, generator=self.generator)
        return alpha * self.clean[-1] + sigma * noise

    def _at(self, i: int) -> tuple[float, float]:
        return float(self.grid.alphas[i]), float(self.grid.sigmas[i])


def posterior_noise(shape: Sequence[int], generator: torch.Generator, *, uniform: bool) -> Tensor:
    """Unit-variance noise around a clean latent: Gaussian, or ``uniform`` within a pixel's bin."""
    if not uniform:
        return torch.randn(tuple(shape), generator=generator)
    return (torch.rand(tuple(shape), generator=generator) - 0.5) * math.sqrt(12)


def advanced(batch: Sequence[Sampling], denoised: Sequence[Tensor]) -> list[Tensor]:
    """Where every sampling's own row of coefficients takes it, in one expression for each shape.

    Args:
        batch: the samplings.
        denoised: the guided denoised image of each.

    Returns:
        The next state of each; nothing is changed yet.
    """
    states: dict[int, Tensor] = {}
    for shape in dict.fromkeys(image.shape for image in denoised):
        places = [i for i, image in enumerate(denoised) if image.shape == shape]
        rows = [batch[i] for i in places]
        moved = states_after(rows, torch.stack([denoised[i] for i in places]))
        states |= {i: batch[i].blended(x) for i, x in zip(places, moved.unbind(0), strict=True)}
    return [states[i] for i in range(len(batch))]
