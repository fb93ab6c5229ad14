"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from services.core.errors import InvalidParameter
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
        help="euler, heun, dpmpp_2m, unipc ...; `atelier models show MODEL` names all it takes.",
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
Metadata = Annotated[
    bool | None,
    typer.Option(
        help="Whether the file holds what it was made by; see `atelier inspect`.",
        show_default="as the settings say",
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other parameter of the operation, its value as JSON or as it is: --set "
        "sigma_schedule=karras --set guidance_interval='[0.2, 0.8]'. `atelier models show MODEL` "
        "names them.",
        show_default=False,
    ),
]


def with_others(parameters: Mapping[str, Any], others: Sequence[str] | None) -> dict[str, Any]:
    """Parameters with those that ``--set`` gives.

    Raises:
        InvalidParameter: one is not of the form NAME=VALUE, or is given twice.
    """
    found = dict(parameters)
    for text in others or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InvalidParameter(f"--set takes NAME=VALUE, got '{text[:80]}'", param="set")
        if found.get(name) is not None:
            raise InvalidParameter(f"'{name}' is given twice", param=name)
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """What JSON the text is, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def label_value(label: str | None) -> int | str | None:
    """A label as the service takes it: a number where it is written as one."""
    return int(label) if label is not None and label.isdecimal() else label
