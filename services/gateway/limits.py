"""The operator's bounds on a request, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from services.core.errors import InvalidParameter, TooLarge
from services.core.model import ModelInfo
from services.gateway.settings import GatewaySettings


def check_limits(asked: BaseModel, settings: GatewaySettings) -> None:
    """Check every field that costs time or memory.

    Raises:
        InvalidParameter: a number is over its limit.
        TooLarge: a text is over its limit.
    """
    numbers = {
        "n": settings.max_images,
        "steps": settings.max_steps,
        "samples": settings.max_samples,
        "deadline": settings.max_deadline,
    }
    for name, most in numbers.items():
        value = getattr(asked, name, None)
        if value is not None and value > most:
            raise InvalidParameter(f"'{name}' is {value}; the limit is {most}", param=name)
    most = settings.max_prompt_chars
    for name, text in _texts(asked):
        if len(text) > most:
            raise TooLarge(f"'{name}' has {len(text)} characters; the limit is {most}", param=name)


def _texts(asked: BaseModel) -> Iterator[tuple[str, str]]:
    """Every prompt of a request, with the field that it was said in."""
    for name in ("prompt", "negative_prompt", "end_prompt", "source_prompt"):
        yield name, getattr(asked, name, None) or ""
    for one in getattr(asked, "prompts", None) or ():
        yield "prompts", one.prompt


def check_size(size: str | None, model: ModelInfo) -> None:
    """A model makes images of its own size only.

    Raises:
        InvalidParameter: another size was asked for.
    """
    own = size_of(model)
    if size is not None and size not in ("auto", own):
        raise InvalidParameter(
            f"{model.id} makes images of {own}, not {size}; leave 'size' out or say 'auto'",
            param="size",
        )


def size_of(model: ModelInfo) -> str:
    """A model's resolution in OpenAI's words: ``WIDTHxHEIGHT``."""
    height, width = model.resolution
    return f"{width}x{height}"
