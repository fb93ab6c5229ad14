"""From an HTTP request to a `Call`: read, parse, bound, look the model up, check the images."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.core.errors import DeadlineExceeded, InvalidParameter, UnsupportedMedia
from services.core.job import Call, Encoding, Task
from services.core.model import ModelInfo
from services.core.validation import explain
from services.core.versions import split_version
from services.gateway.exchange import NO_TASK, Exchange, Gateway
from services.gateway.forms import read_form
from services.gateway.limits import check_limits
from services.gateway.remote_images import fetch_images
from services.gateway.schemas import CallRequest
from services.gateway.settings import GatewaySettings
from services.gateway.strict_json import parse_object
from services.gateway.uploads import all_image_bytes, image_bytes

R = TypeVar("R", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"

TRANSPORT = frozenset(
    {
        "model",
        "operation",
        "image",
        "images",
        "mask",
        "size",
        "deadline",
        "output_format",
        "output_compression",
        "response",
        "preview_every",
        "metadata",
    }
)
"""Fields that the gateway itself acts on; all others are the model's parameters."""

_SEED_RANGE = 2**32


@dataclass(frozen=True, slots=True)
class Payload:
    """A body, read but not yet checked: fields, and the files of a form."""

    fields: dict[str, Any]
    images: tuple[bytes | str, ...] = ()
    mask: bytes | str | None = None
    is_form: bool = False


async def read_json(request: Request, settings: GatewaySettings) -> Payload:
    """Read a JSON body; a field of ``null`` is one that was not given.

    Raises:
        UnsupportedMedia: the body is of another type.
        BadRequest, InvalidParameter: see `services.gateway.strict_json`.
        AtelierError: see `services.gateway.remote_images.fetch_images`, where URLs are fetched.
    """
    _expect(request, JSON)
    body = parse_object(
        await request.body(),
        max_depth=settings.max_json_depth,
        max_values=settings.max_json_values,
    )
    fields = {name: value for name, value in body.items() if value is not None}
    if settings.fetch_urls:
        await fetch_images(fields, request.app.state.outgoing, settings)
    return Payload(fields)


async def read_payload(request: Request, settings: GatewaySettings) -> Payload:
    """Read a body of JSON or multipart.

    Raises:
        UnsupportedMedia: it is neither; else as `read_json` and `services.gateway.forms.read_form`.
    """
    if _media_type(request) != MULTIPART:
        _expect(request, JSON, MULTIPART)
        return await read_json(request, settings)
    form = await read_form(request, settings)
    return Payload(form.fields, tuple(form.images), form.mask, is_form=True)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _expect(request: Request, *types: str) -> None:
    given = _media_type(request)
    if given not in types:
        shown = ascii(given[:60]) if given else "none"
        raise UnsupportedMedia(f"the content-type must be {' or '.join(types)}, got {shown}")


def parse(kind: type[R], payload: Payload) -> R:
    """Check a payload against a schema; form fields are text and may be converted.

    Raises:
        InvalidParameter: naming the first field at fault.
    """
    for name, given in (("images", payload.images), ("mask", payload.mask)):
        if given not in (None, ()) and name not in kind.model_fields:
            raise InvalidParameter(f"this route takes no {name}", param=name)
    try:
        return kind.model_validate(payload.fields, strict=not payload.is_form)
    except ValidationError as error:
        wrong = explain(error, allowed=kind.model_fields)
        wrong.param = wrong.param.split(".")[0] if wrong.param else None
        raise wrong from error


async def find_model(gateway: Gateway, exchange: Exchange, name: str) -> ModelInfo:
    """Look a model up for a caller who may use it, and count the exchange under its name.

    Args:
        gateway: knows the models.
        exchange: of the caller.
        name: the model's name, or ``name@digest`` for one version of it.

    Raises:
        Forbidden: the caller may not use it, or may not do what the exchange is for.
        ModelNotFound: there is none.
    """
    if exchange.task != NO_TASK:
        exchange.caller.check_task(exchange.task)
    plain, version = split_version(name)
    exchange.caller.check_model(plain)
    model = await gateway.backend.model(name)
    exchange.model, exchange.version = model.id, model.digest if version else ""
    return model


def image_sources(asked: BaseModel) -> Sequence[str]:
    """The images that a request's fields hold, in order."""
    one: str | list[str] | None = getattr(asked, "image", None)
    many: list[str] | None = getattr(asked, "images", None)
    first = [one] if isinstance(one, str) else one or []
    return (*first, *(many or []))


def remaining(exchange: Exchange, deadline: float | None) -> float | None:
    """What is left of a deadline that counts from the request's arrival.

    Raises:
        DeadlineExceeded: nothing is.
    """
    if deadline is None:
        return None
    left = deadline - exchange.elapsed()
    if left <= 0:
        raise DeadlineExceeded(
            f"the deadline of {deadline:g} s passed while the request was being read",
            param="deadline",
        )
    return left


def with_seed(parameters: dict[str, Any], task: Task) -> dict[str, Any]:
    """Parameters that name a seed, so that a retry gives the same images."""
    if task not in (Task.GENERATE, Task.EDIT) or "seed" in parameters:
        return parameters
    return {**parameters, "seed": secrets.randbelow(_SEED_RANGE)}


def build_call(
    gateway: Gateway,
    exchange: Exchange,
    asked: CallRequest,
    payload: Payload,
    *,
    task: Task,
    encoding: Encoding | None = None,
) -> Call:
    """The call for a checked request.

    Raises:
        Forbidden: the caller may not do this.
        TooLarge, UnsupportedMedia, InvalidImage, InvalidParameter: an image cannot be used.
        InvalidParameter: an operator's limit is exceeded.
        DeadlineExceeded: the deadline passed meanwhile.
    """
    settings, caller = gateway.settings, exchange.caller
    caller.check_task(task.value)
    enlarger: str | None = getattr(asked, "cascade", None)
    if enlarger is not None:
        caller.check_model(enlarger)
    check_limits(asked, settings)
    limits = settings.image_limits
    mask = getattr(asked, "mask", None) if payload.mask is None else payload.mask
    images = all_image_bytes(
        (*payload.images, *image_sources(asked)), limits, most=settings.max_input_images
    )
    parameters = asked.model_dump(exclude_unset=True, exclude=set(TRANSPORT), exclude_none=True)
    controls = tuple(
        image_bytes(use.pop("image"), limits, param="control")
        for use in parameters.get("control", ())
    )
    call = Call(
        id=exchange.id,
        model=exchange.model,
        version=exchange.version,
        task=task,
        parameters=with_seed(parameters, task),
        operation=getattr(asked, "operation", None),
        images=images,
        mask=image_bytes(mask, limits, param="mask") if mask is not None else None,
        encoding=encoding or Encoding(),
        deadline=remaining(exchange, asked.deadline or settings.default_deadline),
        tenant=caller.owner,
        weight=caller.weight,
        controls=controls,
        metadata=getattr(asked, "metadata", None),
        trace=exchange.trace,
        visible=None if caller.models is None else tuple(sorted(caller.models)),
    )
    exchange.account.asked(call)
    return call
