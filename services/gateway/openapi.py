"""The API's own description: bodies and errors that FastAPI cannot see, since routes read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.params import Depends as Dependency
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.core.images import MEDIA_TYPES
from services.gateway.auth import ApiKeys
from services.gateway.envelopes import envelope_model
from services.gateway.errors import REASONS
from services.gateway.examples import Examples
from services.gateway.huggingface_schemas import ImageToImageRequest, TextToImageRequest
from services.gateway.job_schemas import JobSubmission
from services.gateway.negotiation import EVENT_STREAM
from services.gateway.openai_schemas import (
    OpenAIEditRequest,
    OpenAIGenerationRequest,
    OpenAIVariationRequest,
)
from services.gateway.prediction_schemas import PredictionRequest
from services.gateway.review_schemas import HeldAnswer, ReviewDecision
from services.gateway.schemas import EditRequest, EncodeRequest, GenerateRequest, LikelihoodRequest
from services.gateway.triton_wire import InferRequest

CALL_ERRORS = (400, 401, 403, 404, 413, 415, 422, 429, 499, 500, 503, 504)
"""What every call may answer with."""

REQUESTS: tuple[type[BaseModel], ...] = (
    GenerateRequest,
    EditRequest,
    LikelihoodRequest,
    EncodeRequest,
    JobSubmission,
    OpenAIGenerationRequest,
    OpenAIEditRequest,
    OpenAIVariationRequest,
    InferRequest,
    TextToImageRequest,
    ImageToImageRequest,
    PredictionRequest,
    ReviewDecision,
)

_REFERENCE = "#/components/schemas/{model}"
_FILE = {"type": "string", "format": "binary"}

Responses = dict[int | str, dict[str, Any]]


def guarded(keys: ApiKeys) -> Sequence[Dependency]:
    """The dependencies of a router that asks for a key."""
    return [Depends(keys)]


def documented(
    answer: type[BaseModel],
    *errors: int,
    images: bool = False,
    stream: str | None = None,
    path: str = "/v1",
) -> Responses:
    """The responses of a route and its errors.

    Args:
        answer: the schema of its JSON.
        errors: the statuses of its errors.
        images: whether it also answers with the bytes of an image.
        stream: an example of the events that it answers with where a stream was asked for.
        path: a prefix of the route, which decides the shape of its errors.
    """
    content: dict[str, Any] = {}
    if images:
        content |= {media_type: {"schema": _FILE} for media_type in MEDIA_TYPES.values()}
    if stream is not None:
        content[EVENT_STREAM] = {"schema": {"type": "string"}, "example": stream}
    success: dict[str, Any] = {"model": answer, "description": "The answer."}
    if content:
        success["content"] = content
    return {200: success, **errors_of(*errors, path=path)}


def held_for_review() -> Responses:
    """The answer of a route whose images a policy holds for a reviewer."""
    said = "A policy holds the images for a reviewer; ask at `review.url`, named by `Location` too."
    return {202: {"model": HeldAnswer, "description": said}}


def errors_of(*statuses: int, path: str = "/v1") -> Responses:
    """The errors of a route, by status, in the shape of its prefix."""
    model = envelope_model(path)
    return {status: {"model": model, "description": REASONS[status]} for status in statuses}


def request_body(
    kind: type[BaseModel],
    *,
    json: Examples,
    form: Examples | None = None,
    mask: bool = False,
    required: bool = True,
) -> dict[str, Any]:
    """The body of a route, as ``openapi_extra``: a schema by reference and examples that run."""
    reference = {"$ref": _REFERENCE.format(model=kind.__name__)}
    content = {"application/json": {"schema": reference, "examples": _examples(json)}}
    if form is not None:
        files: dict[str, Any] = {"image": {"type": "array", "items": _FILE}}
        if mask:
            files["mask"] = _FILE
        content["multipart/form-data"] = {
            "schema": _form_schema(kind, files),
            "examples": _examples(form),
        }
    return {"requestBody": {"required": required, "content": content}}


def _examples(examples: Examples) -> dict[str, Any]:
    return {name: {"summary": name, "value": dict(value)} for name, value in examples.items()}


def _form_schema(kind: type[BaseModel], files: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, with images as files; fields that are no scalars are written as JSON."""
    scalars = {
        name: {"type": "string", "description": field.description or name.replace("_", " ")}
        for name, field in kind.model_fields.items()
        if name not in ("image", "images", "mask")
    }
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    return {"type": "object", "properties": {**scalars, **files}, "required": needed}


class DescribedApp(FastAPI):
    """A FastAPI app whose description includes the bodies that its routes read themselves."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document, built once."""
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {}).setdefault("schemas", {})
            _, bodies = models_json_schema(
                [(kind, "validation") for kind in REQUESTS], ref_template=_REFERENCE
            )
            components.update(bodies["$defs"])
            self.openapi_schema = document
        return self.openapi_schema
