"""A diffusers scheduler's configuration as a noise schedule and the settings of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from services.core.errors import InvalidManifest

SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "DDPMScheduler": "ddpm",
        "DDIMScheduler": "ddim",
        "PNDMScheduler": "pndm",
        "LMSDiscreteScheduler": "lms",
        "EulerDiscreteScheduler": "euler",
        "EulerAncestralDiscreteScheduler": "euler_ancestral",
        "HeunDiscreteScheduler": "heun",
        "DPMSolverMultistepScheduler": "dpmpp_2m",
        "UniPCMultistepScheduler": "unipc",
        "LCMScheduler": "lcm",
    }
)
"""The sampler of a request that names none, by the folder's scheduler."""

FLOW = "FlowMatchEulerDiscreteScheduler"
FLOW_TIMES = 1000
_CLIPPING: Mapping[str, bool] = MappingProxyType(
    {
        "DDPMScheduler": True,
        "DDIMScheduler": True,
        "LCMScheduler": False,
        "HeunDiscreteScheduler": False,
    }
)
"""Schedulers that can clip the denoised image, and whether they do by default."""

_KEPT: Sequence[str] = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "original_inference_steps",
)
_WITH_LEVELS = frozenset(
    {
        "LMSDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        FLOW,
    }
)
"""Schedulers that can be told to visit other levels than their own."""

_LEVELS = ("karras", "exponential", "beta")
_WITH_END = frozenset(
    {"EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"}
)
"""Schedulers that read `final_sigmas_type`."""

_ALGORITHMS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "dpmsolver++": ("dpmpp_2m", True),
        "deis": ("dpmpp_2m", True),  # diffusers reads it so
        "sde-dpmsolver++": ("dpmpp_2m_sde", True),
        "dpmsolver": ("dpmpp_2m", False),
        "sde-dpmsolver": ("dpmpp_2m_sde", False),
    }
)
"""The sampler of a DPM-Solver's `algorithm_type`, and whether it is the same."""

_SERVED: Mapping[str, Mapping[str, Sequence[Any]]] = MappingProxyType(
    {
        "DDPMScheduler": {"variance_type": ("fixed_small",)},
        "PNDMScheduler": {"skip_prk_steps": (True,)},
        "EulerDiscreteScheduler": {
            "interpolation_type": ("linear",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
        "DPMSolverMultistepScheduler": {
            "solver_order": (2,),
            "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # the last three mean the first
            "lower_order_final": (True,),
            "euler_at_final": (False,),
            "use_lu_lambdas": (False,),
            "lambda_min_clipped": (-math.inf, None),
        },
        "UniPCMultistepScheduler": {
            "solver_order": (2,),
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # the last three mean the first
            "predict_x0": (True,),
            "lower_order_final": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
        "LCMScheduler": {"timestep_scaling": (10.0,)},
        FLOW: {"stochastic_sampling": (False,)},
    }
)
"""The values of a scheduler's settings that are served, the default first."""


@dataclass(frozen=True, slots=True)
class ImportedSchedule:
    """Options of the diffusion family, with notes on what is not followed.

    ``sigma_schedule`` names the levels of a request that names none.
    """

    schedule: dict[str, Any]
    prediction_type: str
    sampler: str
    clip_sample: float | None = None
    sigma_schedule: str | None = None
    notes: list[str] = field(default_factory=list)


def import_schedule(kind: str, config: Mapping[str, Any]) -> ImportedSchedule:
    """Translate a scheduler of variance-preserving diffusion.

    Args:
        kind: its class.
        config: its configuration.

    Raises:
        InvalidManifest: the class or one of its settings is not served.
    """
    if kind not in SAMPLERS:
        raise InvalidManifest(
            f"scheduler '{kind[:64]}' is not served here; served are {', '.join(SAMPLERS)}"
        )
    if config.get("thresholding"):
        raise InvalidManifest(
            "the scheduler asks for dynamic thresholding, which a request asks for by itself "
            "(dynamic_threshold); set `thresholding` to false in scheduler_config.json"
        )
    _refuse_other_times(config)
    kept = [*_KEPT, "final_sigmas_type"] if kind in _WITH_END else _KEPT
    schedule = {"type": "variance_preserving"}
    schedule |= {key: config[key] for key in kept if config.get(key) is not None}
    sampler, notes = SAMPLERS[kind], _notes(kind, config)
    if kind == "DPMSolverMultistepScheduler":
        algorithm = str(config.get("algorithm_type", "dpmsolver++"))
        if algorithm not in _ALGORITHMS:
            raise InvalidManifest(
                f"the scheduler's algorithm_type '{algorithm[:64]}' is not served; served are "
                f"{', '.join(_ALGORITHMS)}"
            )
        sampler, same = _ALGORITHMS[algorithm]
        if not same:
            notes.append(f"the scheduler's algorithm_type {algorithm} is served as {sampler}")
    clipped = kind in _CLIPPING and config.get("clip_sample", _CLIPPING[kind])
    return ImportedSchedule(
        schedule=schedule,
        prediction_type=str(config.get("prediction_type", "epsilon")),
        sampler=sampler,
        clip_sample=float(config.get("clip_sample_range", 1.0)) if clipped else None,
        sigma_schedule=_sigma_schedule(kind, config),
        notes=notes,
    )


def import_flow(
    config: Mapping[str, Any], *, image_tokens: int, most_shift: float, to_last: bool
) -> ImportedSchedule:
    """Rectified flow; a shift that depends on the resolution is fixed, as the resolution is.

    With ``mu`` linear in the number of patches, ``exp(mu)`` is the shift (Esser et al., 2024,
    section 5.3.2).

    Args:
        config: the configuration of a `FlowMatchEulerDiscreteScheduler`.
        image_tokens: patches of one image.
        most_shift: what the pipeline takes for an absent ``max_shift``.
        to_last: whether the pipeline leaves the times to the scheduler, which spaces them down to
            the last that was trained on, instead of evenly down to the image.

    Raises:
        InvalidManifest: a setting is not served.
    """
    if config.get("shift_terminal") or config.get("invert_sigmas"):
        raise InvalidManifest(
            "the flow scheduler's shift_terminal and invert_sigmas are not served; unset them"
        )
    shift = float(config.get("shift", 1.0))
    times = int(config.get("num_train_timesteps", FLOW_TIMES))
    last = 1 / times
    if config.get("use_dynamic_shifting"):
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", most_shift)
        mu = low + (image_tokens - few) * (high - low) / (many - few)
        exponential = config.get("time_shift_type", "exponential") == "exponential"
        shift = math.exp(mu) if exponential else mu
    else:
        last = shift * last / (1 + (shift - 1) * last)
    schedule: dict[str, Any] = {"type": "flow", "time_scale": float(times), "shift": shift}
    if to_last:
        schedule["last_time"] = last
    return ImportedSchedule(
        schedule,
        prediction_type="flow",
        sampler="euler",
        sigma_schedule=_sigma_schedule(FLOW, config),
        notes=_notes(FLOW, config),
    )


def _refuse_other_times(config: Mapping[str, Any]) -> None:
    """Refuse what would tell the network something else than it was trained on."""
    continuous = config.get("timestep_type") == "continuous"
    if continuous and config.get("prediction_type") == "v_prediction":
        raise InvalidManifest(
            "the scheduler's timestep_type 'continuous' tells the network log sigma / 4 instead of "
            "a time, which is not served"
        )
    if config.get("use_flow_sigmas"):
        raise InvalidManifest(
            f"the scheduler's use_flow_sigmas is not served; use a {FLOW} with the same shift"
        )


def _sigma_schedule(kind: str, config: Mapping[str, Any]) -> str | None:
    """The levels that a scheduler is told to visit in place of its own."""
    if kind not in _WITH_LEVELS:
        return None
    return next((name for name in _LEVELS if config.get(f"use_{name}_sigmas")), None)


def _notes(kind: str, config: Mapping[str, Any]) -> list[str]:
    """What a scheduler asks for and does not get."""
    return [
        f"the scheduler's {key} {config[key]} is served as {values[0]}"
        for key, values in _SERVED.get(kind, {}).items()
        if key in config and config[key] not in values
    ]
