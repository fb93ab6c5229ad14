"""Trajectories without an engine: our plans and diffusers' schedulers on the same network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from services.sampling.denoiser import PredictionType, to_denoised
from services.sampling.plan import Plan, advanced

SHAPE = (3, 4, 4)
Network = Callable[[Tensor, Tensor], Tensor]

SOLVER = diffusers.DPMSolverMultistepScheduler
DIFFUSERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp_2m": (SOLVER, {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (SOLVER, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}),
    "lcm": (diffusers.LCMScheduler, {}),
}
"""What diffusers calls our samplers, and the settings that make them the same by default."""


def network(x: Tensor, time: Tensor) -> Tensor:
    """A smooth stand-in for a network, in float64."""
    t = time.double().view(-1, 1, 1, 1) / 1000
    return torch.tanh(0.8 * x + 0.3 * torch.sin(3 * t + x.roll(1, -1))) * (0.5 + 0.5 * t)


def start_of(seed: int) -> Tensor:
    """Unit noise, ``[1, *SHAPE]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *SHAPE), generator=generator, dtype=torch.float64)


class Noise:
    """The same noise for both sides, in the order of the network evaluations."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *_: object, **__: object) -> Tensor:
        return torch.randn((1, *SHAPE), generator=self.generator, dtype=torch.float64)


def make_scheduler(sampler: str, config: Mapping[str, Any]) -> Any:
    """Diffusers' scheduler of a sampler, with settings on top of its own."""
    kind, extra = DIFFUSERS[sampler]
    known = kind.__init__.__wrapped__.__code__.co_varnames if kind else ()
    return kind(**{**extra, **{k: v for k, v in config.items() if k in known}})


def run_diffusers(
    scheduler: Any,
    start: Tensor,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    told: float | None = None,
) -> Tensor:
    """A whole trajectory of a scheduler whose timesteps are set: ``[1, *SHAPE]``.

    ``told``: the network hears this time at every step, in place of the scheduler's.
    """
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", Noise(seed))
    if hasattr(scheduler, "set_begin_index"):
        # Rounding can make the first two times equal; diffusers would then start at the second.
        scheduler.set_begin_index(0)
    x = start * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        time = t.view(1) if told is None else torch.tensor([told])
        x = scheduler.step(network(scaled, time), t, x).prev_sample.double()
    return x


class Walk:
    """One of our trajectories, in float64."""

    def __init__(self, plan: Plan, start: Tensor, seed: int = 0) -> None:
        self.plan, self.index = plan, 0
        self.x = start * plan.initial_scale
        self.past: list[tuple[Tensor, Tensor]] = []
        self._draw = Noise(seed)

    def noise(self) -> Tensor:
        return self._draw()[0]

    def take(self, state: Tensor, denoised: Tensor) -> None:
        self.past = [(self.x, denoised), *self.past][: self.plan.memory]
        self.x, self.index = state, self.index + 1


Denoiser = Callable[[Tensor, np.ndarray, np.ndarray, np.ndarray], Tensor]
"""``D(x, times, alphas, sigmas)`` of a batch."""


def denoiser_of(prediction: PredictionType = "epsilon", told: float | None = None) -> Denoiser:
    """The denoiser behind `network`; ``told`` as in `run_diffusers`."""

    def denoise(x: Tensor, times: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> Tensor:
        heard = times if told is None else np.full_like(times, told)
        output = network(x, torch.from_numpy(heard))
        return to_denoised(
            prediction, x, output, torch.from_numpy(alphas), torch.from_numpy(sigmas)
        )

    return denoise


def tick(walks: Sequence[Walk], denoise: Denoiser) -> None:
    """Advance a mixed batch by one evaluation."""
    x = torch.stack([w.x for w in walks])
    at = [(w.plan.times[w.index], w.plan.alphas[w.index], w.plan.sigmas[w.index]) for w in walks]
    times, alphas, sigmas = np.array(at).T.copy()
    denoised = denoise(x, times, alphas, sigmas)
    for walk, state, image in zip(walks, advanced(walks, denoised), denoised, strict=True):
        walk.take(state, image)


def run(walks: Sequence[Walk], denoise: Denoiser) -> list[Tensor]:
    """Carry all walks to their ends, in one batch as long as they last."""
    while batch := [walk for walk in walks if walk.index < len(walk.plan)]:
        tick(batch, denoise)
    return [walk.x for walk in walks]
