"""A diffusers scheduler's configuration as a noise schedule and the settings of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

_KEPT = (
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
_NOT_SERVED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "stochastic_sampling",
)


@dataclass(frozen=True, slots=True)
class ImportedSchedule:
    """Options of the diffusion family, with notes on what is not followed."""

    schedule: dict[str, Any]
    prediction_type: str
    sampler: str
    clip_sample: float | None = None
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
    schedule = {"type": "variance_preserving"}
    schedule |= {key: config[key] for key in _KEPT if config.get(key) is not None}
    notes = [f"the scheduler's {key} is not followed" for key in _NOT_SERVED if config.get(key)]
    if kind == "DDPMScheduler" and config.get("variance_type", "fixed_small") != "fixed_small":
        notes.append(
            f"the scheduler's variance_type {config['variance_type']} is served as fixed_small"
        )
    clipped = kind in {"DDPMScheduler", "DDIMScheduler", "LCMScheduler"} and config.get(
        "clip_sample", kind != "LCMScheduler"
    )
    return ImportedSchedule(
        schedule=schedule,
        prediction_type=str(config.get("prediction_type", "epsilon")),
        sampler=SAMPLERS[kind],
        clip_sample=float(config.get("clip_sample_range", 1.0)) if clipped else None,
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
    notes = [f"the scheduler's {key} is not followed" for key in _NOT_SERVED if config.get(key)]
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
    return ImportedSchedule(schedule, prediction_type="flow", sampler="euler", notes=notes)
