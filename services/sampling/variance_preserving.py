"""The discrete schedules of DDPM, where signal and noise keep their common variance."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from services.core.errors import InvalidParameter
from services.sampling.betas import BetaSchedule, betas_of, rescaled_to_zero_snr
from services.sampling.grid import Array, Grid, NoiseSchedule
from services.sampling.sigma_schedules import AlignedModel, SigmaSchedule, aligned, spread

Spacing = Literal["leading", "linspace", "trailing"]

LEAST_SIGNAL = 2.0**-24
"""What stands for no signal where a solver divides by it; diffusers' choice."""


class VariancePreserving(NoiseSchedule):
    """The discrete schedules of DDPM, with diffusers' names for their settings.

    ``trained_betas`` take the place of a named schedule. ``rescale_betas_zero_snr`` leaves the last
    level no signal (Lin et al., 2023). Sampling ends at the clean image, unless samplers at
    training times are told to end at the level of time 0 (``set_alpha_to_one`` false), or solvers
    at the least noise that was trained on (``final_sigmas_type``). ``align_your_steps`` names the
    published levels that suit the model; Stable Diffusion's betas suggest its own.
    """

    type: Literal["variance_preserving"] = "variance_preserving"
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: BetaSchedule = "linear"
    trained_betas: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    rescale_betas_zero_snr: bool = False
    timestep_spacing: Spacing | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    original_inference_steps: Annotated[int, Field(ge=1)] = 50
    align_your_steps: AlignedModel | None = None

    @model_validator(mode="after")
    def _one_beta_per_time(self) -> Self:
        betas = self.trained_betas
        if betas is not None and len(betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas holds {len(betas)} values; give one for each of the "
                f"{self.num_train_timesteps} training times (num_train_timesteps)"
            )
        return self

    @property
    def max_steps(self) -> int:
        """The most steps that a request can ask for."""
        return self.num_train_timesteps

    def signal(self) -> Array:
        """The cumulative product of ``1 - beta`` at every training time (Ho et al., 2020, eq. 4).

        Formed in float32, as diffusers forms it, so that the same configuration is the same model.
        """
        if self.trained_betas is not None:
            betas = np.array(self.trained_betas, dtype=np.float32)
        else:
            count = self.num_train_timesteps
            betas = betas_of(self.beta_schedule, self.beta_start, self.beta_end, count)
        if self.rescale_betas_zero_snr:
            betas = rescaled_to_zero_snr(betas)
        return np.cumprod(1 - betas, dtype=np.float32).astype(np.float64)

    @property
    def aligned_model(self) -> AlignedModel | None:
        """Whose published levels fit; Stable Diffusion's are known by its scaled-linear betas."""
        if self.align_your_steps is None and self.beta_schedule == "scaled_linear":
            return "stable_diffusion"
        return self.align_your_steps

    def ratios(self) -> Array:
        """``sigma / alpha`` at every training time: finite, even where no signal is left."""
        signal = self._some_signal()
        ratios: Array = np.sqrt((1 - signal) / signal)
        return ratios

    def integer_grid(self, steps: int, default: Spacing, *, clean: bool = True) -> Grid:
        """Levels at training times, as DDPM and DDIM visit them.

        ``clean`` false: they end where ``set_alpha_to_one`` says.
        """
        times = self._times(steps, self.timestep_spacing or default, whole=True)
        signal = self.signal()
        last = 1.0 if clean or self.set_alpha_to_one else float(signal[0])
        return _at_times(times, signal, last)

    def distilled_grid(self, steps: int) -> Grid:
        """The times at which latent consistency models were distilled (Luo et al., 2023)."""
        original = self.distilled_steps
        ratio = self.num_train_timesteps // original
        known = (np.arange(original, 0, -1) * ratio - 1).astype(np.float64)
        places = np.floor(np.linspace(0, original, steps, endpoint=False))
        return _at_times(known[places.astype(np.int64)], self.signal(), 1.0)

    @property
    def distilled_steps(self) -> int:
        """How many times `distilled_grid` has."""
        return min(self.original_inference_steps, self.num_train_timesteps)

    def solver_grid(
        self, steps: int, default: Spacing, sigma_schedule: SigmaSchedule | None = None
    ) -> Grid:
        """Levels of the multistep solvers: like `integer_grid`, but the last time is left out.

        A ``sigma_schedule`` spans all that was trained on; the network is told the nearest whole
        times.

        Raises:
            InvalidParameter: see `interpolated_grid`.
        """
        if sigma_schedule is None:
            times = self._solver_times(steps, self.timestep_spacing or default)
            signal = self._some_signal()
            last = 1.0 if self.final_sigmas_type == "zero" else float(signal[0])
            return _at_times(times, signal, last)
        ratios = self.ratios()
        visited = self._spread(sigma_schedule, ratios[-1], ratios[0], steps)
        times = _time_of(visited, ratios).round()
        return _from_ratio(times, visited, self._last_ratio(ratios))

    def interpolated_grid(
        self,
        steps: int,
        default: Spacing,
        sigma_schedule: SigmaSchedule | None = None,
        *,
        clean: bool = True,
    ) -> Grid:
        """Levels at fractional times, sigma interpolated linearly between training times.

        A ``sigma_schedule`` spans what would have been visited without it. ``clean`` false: they
        end where ``final_sigmas_type`` says; the last state is then ``x_0 + ratio noise``, with the
        image at full strength, as diffusers leaves it.

        Raises:
            InvalidParameter: ``align_your_steps`` without published levels for this schedule.
        """
        spacing = self.timestep_spacing or default
        times = self._times(steps, spacing, whole=False)
        ratios = self.ratios()
        sigmas = np.interp(times, np.arange(len(ratios)), ratios)
        if sigma_schedule is not None:
            sigmas = self._spread(sigma_schedule, sigmas[0], sigmas[-1], steps)
            times = _time_of(sigmas, ratios)
        # Pipelines start from noise of standard deviation sigma alone, without the image's own.
        scale = 1.0 if spacing == "leading" else sigmas[0] / math.sqrt(1 + sigmas[0] ** 2)
        grid = _from_ratio(times, sigmas, 0.0, initial_scale=scale)
        if not clean:
            grid.sigmas[-1] = self._last_ratio(ratios)
        return grid

    def bound_grid(self, steps: int) -> Grid:
        """Levels for the variational bound, ending at the least noise that was trained on.

        Even in the log signal-to-noise ratio, at fractional times: even times would take most of
        the image's bits in one coarse last step.
        """
        signal = self._some_signal()
        ratios = 0.5 * np.log((1 - signal) / signal)
        visited = np.linspace(ratios[-1], ratios[0], steps + 1)
        times = np.interp(visited, ratios, np.arange(len(ratios)))
        alphas = 1 / np.sqrt(1 + np.exp(2 * visited))
        return Grid(times[:-1], alphas, np.exp(visited) * alphas)

    def inversion_grid(self, steps: int) -> Grid:
        """Levels from the least noise to the most, for deterministic encoding."""
        times = np.linspace(0, self.num_train_timesteps - 1, steps + 1).round()
        signal = self.signal()[times.astype(np.int64)]
        return Grid(times[:-1], np.sqrt(signal), np.sqrt(1 - signal))

    def _times(self, steps: int, spacing: Spacing, *, whole: bool) -> Array:
        count = self.num_train_timesteps
        if spacing == "linspace":
            times = np.linspace(0, count - 1, steps, dtype=None if whole else np.float32)[::-1]
            return times.round() if whole else times.astype(np.float64)
        if spacing == "leading":
            return (np.arange(float(steps)) * (count // steps))[::-1] + self.steps_offset
        return (count - np.arange(float(steps)) * (count / steps)).round() - 1.0

    def _solver_times(self, steps: int, spacing: Spacing) -> Array:
        count = self.num_train_timesteps
        if spacing == "linspace":
            times: Array = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
            return times
        if spacing == "leading":
            ratio = count // (steps + 1)
            return (np.arange(0.0, steps + 1) * ratio)[::-1][:-1] + self.steps_offset
        return self._times(steps, spacing, whole=True)

    def _some_signal(self) -> Array:
        signal = self.signal()
        if self.rescale_betas_zero_snr:
            signal[-1] = LEAST_SIGNAL
        return signal

    def _last_ratio(self, ratios: Array) -> float:
        return 0.0 if self.final_sigmas_type == "zero" else float(ratios[0])

    def _spread(self, name: SigmaSchedule, noisiest: float, cleanest: float, steps: int) -> Array:
        if name != "align_your_steps":
            return spread(name, noisiest, cleanest, steps)
        model = self.aligned_model
        if model is None:
            raise InvalidParameter(
                "align_your_steps has published levels for Stable Diffusion's noise only, and this "
                "model's manifest names none; use karras, exponential or beta",
                param="sigma_schedule",
            )
        return aligned(model, steps)


def _from_ratio(times: Array, ratios: Array, last: float, *, initial_scale: float = 1.0) -> Grid:
    """A variance-preserving grid from Karras et al.'s sigmas, the last one appended."""
    ratios = np.append(ratios, last)
    alphas = 1 / np.sqrt(1 + ratios**2)
    return Grid(times, alphas, ratios * alphas, initial_scale=initial_scale)


def _at_times(times: Array, signal: Array, last: float) -> Grid:
    """A grid at training times, a last level with that much signal appended."""
    signal = np.append(signal[times.astype(np.int64)], last)
    return Grid(times, np.sqrt(signal), np.sqrt(1 - signal))


def _time_of(visited: Array, ratios: Array) -> Array:
    """The fractional training times of levels, interpolated linearly in log sigma."""
    times: Array = np.interp(np.log(visited), np.log(ratios), np.arange(float(len(ratios))))
    return times
