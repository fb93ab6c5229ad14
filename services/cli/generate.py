"""``atelier generate`` and ``atelier edit``: images into files."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import options
from services.cli.errors import one_sentence
from services.cli.pictures import format_for, read_picture, write_pictures
from services.cli.run import make_call, run
from services.core.errors import InvalidParameter
from services.core.job import Encoding, Task

SEED_RANGE = 2**31

GENERATE_EXAMPLES = """
[bold]Examples[/bold]

atelier generate shapes-ldm "a large red star on black" --seed 7 --out star.png

atelier generate shapes-cgan --label star --n 8 --out stars/

atelier generate digits-realnvp --temperature 0.7 --out - | display

atelier generate shapes-ldm "a small blue ring" --url http://127.0.0.1:8000
"""

EDIT_EXAMPLES = """
[bold]Examples[/bold]

atelier edit shapes-ldm variation --image star.png --prompt "a green star" --strength 0.6

atelier edit shapes-ldm inpaint --image star.png --mask right-half.png --prompt "a red star"

atelier edit shapes-vae reconstruct --image star.png

atelier edit shapes-cgan interpolate --seeds 3 --seeds 8 --label ring --n 8 --out strip/

`atelier models show MODEL` and GET /v1/models/MODEL say what a model offers.
"""

LatentFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--latents",
        exists=True,
        dir_okay=False,
        help="A file written by `atelier encode`, in place of noise.",
        show_default=False,
    ),
]


def generate(
    model: options.Model,
    prompt: Annotated[
        str | None, typer.Argument(help="What the image shows, in words.", show_default=False)
    ] = None,
    *,
    label: options.Label = None,
    negative_prompt: options.NegativePrompt = None,
    seed: options.Seed = None,
    n: options.Count = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    guidance_scale: options.GuidanceScale = None,
    truncation: options.Truncation = None,
    temperature: options.Temperature = None,
    latents: LatentFiles = None,
    others: options.Others = None,
    out: options.Out = None,
    image_format: options.Format = None,
    quality: options.Quality = 100,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    deadline: options.Deadline = None,
    metadata: options.Metadata = None,
) -> None:
    """Make images from noise, and from a prompt or a label where the model takes one."""
    with one_sentence():
        given = read_latents(latents)
        if len(given) > 1:
            raise InvalidParameter("generate takes one --latents", param="latents")
        parameters = {
            "prompt": prompt,
            "label": options.label_value(label),
            "negative_prompt": negative_prompt,
            "seed": secrets.randbelow(SEED_RANGE) if seed is None else seed,
            "n": n,
            "steps": steps,
            "sampler": sampler,
            "guidance_scale": guidance_scale,
            "truncation": truncation,
            "temperature": temperature,
            "latents": given[0] if given else None,
        }
        encoding = Encoding(format_for(out, image_format), quality)
        parameters = options.with_others(parameters, others)
        call = make_call(
            model,
            Task.GENERATE,
            parameters,
            encoding=encoding,
            deadline=deadline,
            metadata=metadata,
        )
        write_pictures(run(call, url=url, api_key=api_key), out, encoding.format)


def edit(
    model: options.Model,
    operation: Annotated[
        str,
        typer.Argument(
            help="What to do: variation, inpaint, outpaint, invert, interpolate, reconstruct ...",
            show_default=False,
        ),
    ],
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(help="An image to start from; - is standard input.", show_default=False),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Where to edit: white, or transparent where it has an alpha channel.",
            show_default=False,
        ),
    ] = None,
    prompt: options.Prompt = None,
    label: options.Label = None,
    negative_prompt: options.NegativePrompt = None,
    strength: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How far from the image; 1 keeps nothing of it."),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(help="Interpolate: one end of the way; give it twice.", show_default=False),
    ] = None,
    latents: LatentFiles = None,
    seed: options.Seed = None,
    n: options.Count = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    guidance_scale: options.GuidanceScale = None,
    truncation: options.Truncation = None,
    others: options.Others = None,
    out: options.Out = None,
    image_format: options.Format = None,
    quality: options.Quality = 100,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    deadline: options.Deadline = None,
    metadata: options.Metadata = None,
) -> None:
    """Make images from images, or from places in the model's latent space."""
    with one_sentence():
        parameters = {
            "prompt": prompt,
            "label": options.label_value(label),
            "negative_prompt": negative_prompt,
            "strength": strength,
            "seeds": seeds,
            "latents": read_latents(latents) or None,
            "seed": secrets.randbelow(SEED_RANGE) if seed is None else seed,
            "n": n,
            "steps": steps,
            "sampler": sampler,
            "guidance_scale": guidance_scale,
            "truncation": truncation,
        }
        encoding = Encoding(format_for(out, image_format), quality)
        call = make_call(
            model,
            Task.EDIT,
            options.with_others(parameters, others),
            operation=operation,
            images=[read_picture(name) for name in image or ()],
            mask=read_picture(mask) if mask is not None else None,
            encoding=encoding,
            deadline=deadline,
            metadata=metadata,
        )
        write_pictures(run(call, url=url, api_key=api_key), out, encoding.format)


def read_latents(files: list[Path] | None) -> list[dict[str, Any]]:
    """Every latent of files that `atelier encode` wrote, in order.

    Raises:
        InvalidParameter: a file holds no latents.
    """
    found = []
    for file in files or ():
        try:
            body = json.loads(file.read_bytes())
            found += [entry["latents"] for entry in body["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidParameter(
                f"'{file}' holds no latents; `atelier encode` writes such files", param="latents"
            ) from error
    return found
