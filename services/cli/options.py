"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from services.core.job import ImageFormat

Model = Annotated[
    str, typer.Argument(help="A model's name; see `atelier models list`.", show_default=False)
]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="ATELIER_URL",
        help="A running server, such as http://127.0.0.1:8000. Without it the model runs in this "
        "process.",
        show_default=False,
        rich_help_panel="Where it runs",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="ATELIER_API_KEY",
        help="The key that the server asks for.",
        show_default=False,
        show_envvar=True,
        rich_help_panel="Where it runs",
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds within which the answer is of use; refused at once if that cannot be met.",
        show_default=False,
        rich_help_panel="Where it runs",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="A file or a folder; several images become numbered files. - writes the bytes of one "
        "image to standard output.",
        show_default="MODEL-SEED.png",
        rich_help_panel="Output",
    ),
]
Format = Annotated[
    ImageFormat | None,
    typer.Option("--format", help="By --out's suffix, else png.", rich_help_panel="Output"),
]
Quality = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="Of JPEG and WebP; WebP at 100 is lossless.",
        rich_help_panel="Output",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the server answers it, in place of a table.")
]
Count = Annotated[
    int | None,
    typer.Option(
        "--n",
        "-n",
        min=1,
        help="How many images; image i uses seed + i.",
        show_default="the model's own",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Same seed, same image.", show_default="drawn, and printed"),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Steps of a diffusion sampler.", show_default="the model's own"),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="ddpm, ddim, euler, euler_ancestral, heun or dpmpp_2m.",
        show_default="the model's own",
    ),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="How closely to follow the prompt; 1 is no guidance, at half the cost.",
        show_default="the model's own",
    ),
]
Prompt = Annotated[
    str | None, typer.Option(help="What the image shows, in words.", show_default=False)
]
NegativePrompt = Annotated[
    str | None, typer.Option(help="What guidance leads away from.", show_default=False)
]
Label = Annotated[
    str | None,
    typer.Option(help="One of the model's labels, by name or number.", show_default=False),
]
Truncation = Annotated[
    float | None,
    typer.Option(min=0, help="GAN: below 1, more typical images and less variety."),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, help="VAE and flow: scale of the noise that the latent is drawn from."),
]


def label_value(label: str | None) -> int | str | None:
    """A label as the service takes it: a number where it is written as one."""
    return int(label) if label is not None and label.isdecimal() else label
