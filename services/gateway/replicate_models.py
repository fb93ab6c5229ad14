"""Models and input files as Replicate's clients ask for them."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from services.core.errors import BadRequest, InvalidParameter, ModelNotFound, TooLarge
from services.core.images import MEDIA_TYPES, read_header
from services.core.job import ImageFormat
from services.core.model import ModelInfo
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.openapi import documented, errors_of, guarded
from services.gateway.prediction_answers import OWNER, model_json, moment, version_json
from services.gateway.prediction_schemas import (
    ReplicateFile,
    ReplicateModel,
    ReplicateVersion,
    ReplicateVersions,
)
from services.gateway.predictions import base_of, model_name

Owner = Annotated[str, Path(max_length=128, examples=[OWNER])]
Name = Annotated[str, Path(max_length=128, examples=["shapes-ldm"])]
_ERRORS = (401, 403, 404, 422, 429, 500, 503)
_MODELS_PATH = f"/v1/models/{OWNER}/NAME"
_FORMATS: Mapping[str, ImageFormat] = {
    "PNG": "png",
    "WEBP": "webp",
    "JPEG": "jpeg",
    "MPO": "jpeg",
}
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["content"],
            "properties": {"content": {"type": "string", "format": "binary"}},
        }
    }
}


def replicate_model_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """Look models up, and turn files into what predictions take."""
    router = APIRouter(prefix="/v1", tags=["replicate"], dependencies=guarded(keys))

    async def found(request: Request, owner: str, name: str) -> ModelInfo:
        return await find_model(gateway, exchange_of(request), model_name(owner, name))

    @router.get(
        "/models/{owner}/{name}",
        summary="Describe a model, as Replicate's clients ask",
        operation_id="replicate_model",
        responses=documented(ReplicateModel, *_ERRORS, path=_MODELS_PATH),
    )
    async def model(request: Request, owner: Owner, name: Name) -> Response:
        return json_response(
            model_json(await found(request, owner, name), base_of(gateway, request))
        )

    @router.get(
        "/models/{owner}/{name}/versions",
        summary="The one version of a model",
        operation_id="replicate_versions",
        responses=documented(ReplicateVersions, *_ERRORS, path=_MODELS_PATH),
    )
    async def versions(request: Request, owner: Owner, name: Name) -> Response:
        only = version_json(await found(request, owner, name))
        return json_response({"previous": None, "next": None, "results": [only]})

    @router.get(
        "/models/{owner}/{name}/versions/{version}",
        summary="A version of a model",
        operation_id="replicate_version",
        responses=documented(ReplicateVersion, *_ERRORS, path=_MODELS_PATH),
    )
    async def version(
        request: Request,
        owner: Owner,
        name: Name,
        version: Annotated[str, Path(max_length=128, examples=["shapes-ldm"])],
    ) -> Response:
        info = await found(request, owner, name)
        if version != info.id:
            raise ModelNotFound(f"{OWNER}/{info.id} has one version, '{info.id}'", param="version")
        return json_response(version_json(info))

    @router.post(
        "/files",
        status_code=201,
        summary="Turn a file into what a prediction's input takes",
        operation_id="replicate_file",
        responses={
            201: {"model": ReplicateFile, "description": "Its `urls.get` is a data: URL."},
            **errors_of(400, 401, 413, 415, 422, 429, 500, 503, path="/v1/files"),
        },
        openapi_extra={"requestBody": {"required": True, "content": _FORM}},
    )
    async def upload(request: Request) -> Response:
        """Replicate's client sends files here first. Nothing is kept: the answer holds it all."""
        name, content = await _sent_file(gateway, request)
        response = json_response(_file_json(name, content, gateway))
        response.status_code = 201
        return response

    return router


async def _sent_file(gateway: Gateway, request: Request) -> tuple[str, bytes]:
    """The one file of a form, and its name."""
    settings = gateway.settings
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=settings.max_fields,
        max_part_size=settings.max_field_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequest("the body is not multipart/form-data with one file") from error
    try:
        given = form.get("content")
        if not isinstance(given, UploadFile):
            raise InvalidParameter("the file is missing; send it as 'content'", param="content")
        content = await given.read(settings.max_image_bytes + 1)
    finally:
        await form.close()
    if len(content) > settings.max_image_bytes:
        raise TooLarge(
            f"the file is larger than {settings.max_image_bytes} bytes, the limit", param="content"
        )
    return (given.filename or "file")[:255], content


def _file_json(name: str, content: bytes, gateway: Gateway) -> dict[str, Any]:
    """A file in Replicate's words.

    Raises:
        UnsupportedMedia, InvalidImage, TooLarge: it is no image that a model would take.
    """
    header = read_header(content, gateway.settings.image_limits, param="content")
    media_type = MEDIA_TYPES[_FORMATS[header.format]]
    digest = hashlib.sha256(content).hexdigest()
    return {
        "id": digest,
        "name": name,
        "content_type": media_type,
        "size": len(content),
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": moment(time.time()),
        "expires_at": None,
        "urls": {"get": f"data:{media_type};base64,{base64.b64encode(content).decode()}"},
    }
