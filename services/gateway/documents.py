"""``GET /v1/models/{id}/card`` and ``/sheet``: what comes with a model for people."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from services.core.errors import AtelierError, DocumentNotFound
from services.core.images import MEDIA_TYPES, read_header
from services.core.model import DocumentKind
from services.core.versions import LONGEST_REFERENCE
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.openapi import Responses, errors_of, guarded

MARKDOWN = "text/markdown"
ModelName = Annotated[str, Path(max_length=LONGEST_REFERENCE, examples=["shapes-ldm"])]


def document_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """The two routes about documents."""
    router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=guarded(keys))

    @router.get(
        "/{model}/card",
        summary="Read a model's card",
        operation_id="retrieve_card",
        response_class=Response,
        responses=_answers("The card.", MARKDOWN),
    )
    async def retrieve_card(request: Request, model: ModelName) -> Response:
        """What the model was trained on, what was measured of it and where it fails: Markdown."""
        content = await _read(gateway, request, model, "card")
        return _sent(content, MARKDOWN, request)

    @router.get(
        "/{model}/sheet",
        summary="See a model's sample sheet",
        operation_id="retrieve_sheet",
        response_class=Response,
        responses=_answers("The sheet.", *MEDIA_TYPES.values()),
    )
    async def retrieve_sheet(request: Request, model: ModelName) -> Response:
        """A picture of what the model makes: PNG, JPEG or WebP."""
        content = await _read(gateway, request, model, "sheet")
        return _sent(content, _image_type(content, gateway, model), request)

    return router


async def _read(gateway: Gateway, request: Request, model: str, kind: DocumentKind) -> bytes:
    found = await find_model(gateway, exchange_of(request), model)
    return await gateway.backend.document(found.id, kind)


def _image_type(content: bytes, gateway: Gateway, model: str) -> str:
    """The media type of a sheet, by its content: whoever added the model chose the file's name.

    Raises:
        DocumentNotFound: it is no picture that a browser may be given.
    """
    try:
        header = read_header(content, gateway.settings.image_limits)
    except AtelierError as error:
        raise DocumentNotFound(
            f"the sheet of model '{model}' cannot be shown: {error.message}", param="model"
        ) from error
    return MEDIA_TYPES.get(header.format.lower(), MEDIA_TYPES["jpeg"])


def _sent(content: bytes, media_type: str, request: Request) -> Response:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def _answers(description: str, *media_types: str) -> Responses:
    kind = {"type": "string"}
    content = {name: {"schema": kind} for name in media_types}
    success = {"description": description, "content": content}
    return {200: success, **errors_of(401, 403, 404, 422, 429, 500, 503)}
