"""The catalog, in OpenAI's list shape and with what our models can do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.core.adapters import AdapterKind
from services.core.model import Conditioning, LikelihoodKind, ModelInfo
from services.core.versions import LONGEST_REFERENCE
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.openapi import documented, guarded


class AdapterObject(BaseModel):
    """What is registered for a model and can be named in requests to it.

    A ``lora`` goes into ``adapters``, a ``controlnet`` into ``control``, and the ``token`` of a
    ``textual_inversion`` into a prompt. ``size`` is in bytes.
    """

    name: str
    kind: AdapterKind
    description: str
    created: int
    size: int
    token: str | None
    details: dict[str, Any]


class ModelObject(BaseModel):
    """A model: what it is, what it can be asked, and within which limits.

    ``operations`` maps each thing to ask for to the JSON schema of its parameters, where
    ``x-images`` is the fewest and the most images that come with it and ``x-mask`` whether a mask
    does; ``resolution`` is height and width in pixels. ``digest`` names the version that is served:
    the SHA-256 of its manifest, which names the digests of all its files. Asked for as
    ``name@digest``, or by the first 8 digits or more, a version stays what it is. ``reference``
    says whether there is a reference set that the percentiles of likelihoods are read off.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    family: str
    tasks: list[str]
    operations: dict[str, dict[str, Any]]
    conditioning: list[Conditioning]
    resolution: tuple[int, int]
    channels: int
    likelihood: LikelihoodKind
    limits: dict[str, Any]
    labels: list[str]
    card: dict[str, Any]
    loaded: bool
    digest: str
    reference: bool
    adapters: list[AdapterObject]


class ModelList(BaseModel):
    """Every model of the catalog."""

    object: Literal["list"]
    data: list[ModelObject]


def model_object(model: ModelInfo) -> dict[str, Any]:
    """A model in the words of the API."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "description": model.description,
        "family": model.family,
        "tasks": model.tasks,
        "operations": model.operations,
        "conditioning": model.conditioning,
        "resolution": model.resolution,
        "channels": model.channels,
        "likelihood": model.likelihood,
        "limits": model.limits,
        "labels": model.labels,
        "card": model.card,
        "loaded": model.loaded,
        "digest": model.digest,
        "reference": model.reference is not None,
        "adapters": [
            {
                "name": adapter.name,
                "kind": adapter.kind,
                "description": adapter.description,
                "created": adapter.created,
                "size": adapter.size,
                "token": adapter.token,
                "details": adapter.details,
            }
            for adapter in model.adapters
        ],
    }


def model_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """``GET /v1/models`` and ``GET /v1/models/{id}``."""
    router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=guarded(keys))

    @router.get(
        "",
        summary="List the models",
        operation_id="list_models",
        responses=documented(ModelList, 401, 429, 500, 503),
    )
    async def list_models(request: Request) -> Response:
        """Those that the key may use."""
        caller = exchange_of(request).caller
        models = [m for m in await gateway.backend.models() if caller.sees(m.id)]
        return json_response({"object": "list", "data": [model_object(m) for m in models]})

    @router.get(
        "/{model}",
        summary="Describe one model",
        operation_id="retrieve_model",
        responses=documented(ModelObject, 401, 403, 404, 422, 429, 500, 503),
    )
    async def retrieve_model(
        request: Request,
        model: Annotated[str, Path(max_length=LONGEST_REFERENCE, examples=["shapes-ldm"])],
    ) -> Response:
        return json_response(model_object(await find_model(gateway, exchange_of(request), model)))

    return router
