"""What the kinds of diffusers pipelines have in common when they are put in Atelier's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from model_store.importers.pipeline_folder import INDEX, LEFT_OUT, PipelineFolder
from model_store.importers.schedules import FLOW, ImportedSchedule, import_flow, import_schedule
from services.core.errors import InvalidManifest

ASSUMED_SCALE = 8.0
"""Of a logistic whose deviation is that of 25 dB, about what autoencoders of 8 x 8 reach."""

Config = Mapping[str, Any]
Shapes = dict[str, list[int]]


@dataclass(slots=True)
class Described:
    """A pipeline in Atelier's terms, before it becomes a manifest.

    Attributes:
        components: those that are stored.
        denoiser: the component that denoises.
        shapes: of the denoiser's inputs, without the batch.
        resolution: height and width of an image.
        channels: of an image.
        options: the diffusion family's.
        settings: of the pipeline, where they bear on prompts.
        notes: what was assumed.
    """

    components: Sequence[str]
    denoiser: str
    shapes: Shapes
    resolution: tuple[int, int]
    channels: int
    options: dict[str, Any]
    settings: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def with_prompts(  # noqa: PLR0913 - what sets one text-to-image pipeline apart from another
    folder: PipelineFolder,
    *,
    denoiser: str,
    latents: tuple[int, int],
    told: Shapes,
    schedule: ImportedSchedule,
    steps: int,
    scale: float,
    settings: dict[str, bool] | None = None,
    conditioning: Mapping[str, Any] = MappingProxyType({}),
    masked: bool = False,
) -> Described:
    """A latent model that a text encoder of its own speaks to.

    ``masked``: the denoiser is given a mask and a masked image besides.
    """
    options = options_of(schedule, steps=steps, scale=scale)
    names = [name for name in told if name != "guidance"]
    options["conditioning"] = {"type": "prompt", "inputs": names, **conditioning}
    if masked:
        depth = positive(folder.config("vae"), "latent_channels", "vae")
        told = told | {"mask": [1, *latents], "masked_image": [depth, *latents]}
        options["inpainting"] = "native"
    found = latent(folder, denoiser, latents, told, options)
    if masked:
        found.notes.append(
            "the UNet was made for inpainting: without a mask it is told that everything is masked"
        )
    found.settings = settings or {}
    found.notes += schedule.notes
    return found


def latent(
    folder: PipelineFolder,
    denoiser: str,
    latents: tuple[int, int],
    told: Shapes,
    options: dict[str, Any],
) -> Described:
    """A model in the latents of an `AutoencoderKL`: ``x = (z - shift_factor) scaling_factor``."""
    need(folder, vae=("AutoencoderKL",))
    vae = folder.config("vae")
    channels = positive(vae, "latent_channels", "vae")
    factor = 2 ** (len(vae.get("block_out_channels") or [64]) - 1)
    scaling, shift = vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        raise InvalidManifest("an autoencoder with latents_mean and latents_std is not served")
    shape = [channels, *latents]
    options["latent"] = {
        "shape": shape,
        "shift": [float(shift)],
        "scale": [1.0 / float(scaling)],
        "sampled": True,
    }
    options["observation"] = {"scale": ASSUMED_SCALE}
    notes = [
        f"the pipeline's {name} is not run; Atelier's own policies apply"
        for name in sorted(LEFT_OUT)
        if (folder.path / name).is_dir()
    ]
    notes.append(
        f"likelihood takes pixels to scatter around the decoder's with a scale of "
        f"{ASSUMED_SCALE:g} of 255, which is assumed and not measured (options.observation.scale)"
    )
    return Described(
        components=tuple(folder.components),
        denoiser=denoiser,
        shapes={"x": shape, "t": [], **told},
        resolution=(latents[0] * factor, latents[1] * factor),
        channels=positive(vae, "out_channels", "vae", default=3),
        options=options,
        notes=notes,
    )


def options_of(schedule: ImportedSchedule, *, steps: int, scale: float) -> dict[str, Any]:
    """Options of the diffusion family, with the settings of a request that names none."""
    options: dict[str, Any] = {
        "prediction_type": schedule.prediction_type,
        "schedule": schedule.schedule,
        "defaults": {"sampler": schedule.sampler, "steps": steps, "guidance_scale": scale},
    }
    if schedule.sigma_schedule is not None:
        options["defaults"]["sigma_schedule"] = schedule.sigma_schedule
    if schedule.clip_sample is not None:
        options["clip_sample"] = schedule.clip_sample
    return options


def schedule_of(folder: PipelineFolder, **mended: Any) -> ImportedSchedule:
    """The schedule of a diffusion pipeline.

    Args:
        folder: the pipeline's.
        mended: settings that the pipeline puts in the place of the scheduler's own.

    Raises:
        InvalidManifest: it is not served.
    """
    return import_schedule(_scheduler(folder), folder.config("scheduler") | mended)


def flow_schedule_of(
    folder: PipelineFolder, *, image_tokens: int, most_shift: float, to_last: bool
) -> ImportedSchedule:
    """The schedule of a flow pipeline; see `import_flow`."""
    kind = _scheduler(folder)
    if kind != FLOW:
        raise InvalidManifest(f"a '{folder.kind}' is served with {FLOW}, not with {kind[:64]}")
    return import_flow(
        folder.config("scheduler"),
        image_tokens=image_tokens,
        most_shift=most_shift,
        to_last=to_last,
    )


def _scheduler(folder: PipelineFolder) -> str:
    if "scheduler" not in folder.components:
        raise InvalidManifest(f"'{INDEX}' names no scheduler")
    return folder.components["scheduler"].kind


def need(folder: PipelineFolder, **classes: Sequence[str]) -> None:
    """Refuse a pipeline that lacks a component, or has it as another class."""
    for name, kinds in classes.items():
        kind = folder.components[name].kind if name in folder.components else "absent"
        if kind not in kinds:
            raise InvalidManifest(
                f"component '{name}' of a '{folder.kind}' must be {' or '.join(kinds)}, not {kind}"
            )


def positive(config: Config, key: str, component: str, *, default: int | None = None) -> int:
    """A positive integer of a configuration; raises `InvalidManifest` where it is none."""
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidManifest(f"'{key}' of component '{component}' must be a positive integer")
    return value


def sides(config: Config, component: str) -> tuple[int, int]:
    """Height and width of what a network denoises."""
    size = config.get("sample_size")
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(s, int) and 1 <= s <= 4096 for s in sides):
        raise InvalidManifest(
            f"'sample_size' of component '{component}' must say how large its images or latents "
            f"are; it is {size}"
        )
    return sides[0], sides[1]


def tokens(folder: PipelineFolder, tokenizer: str) -> int:
    """How many tokens a prompt is padded to."""
    encoder = folder.config(tokenizer.replace("tokenizer", "text_encoder"))
    return positive(encoder, "max_position_embeddings", tokenizer, default=77)
