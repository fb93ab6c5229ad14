"""``GET /v1/models/{id}/reference``: what the percentiles of likelihoods are read off."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.core.errors import UnsupportedTask
from services.core.model import ModelInfo, ReferenceSet
from services.core.versions import LONGEST_REFERENCE
from services.gateway.answers import json_response
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import find_model
from services.gateway.openapi import documented, guarded


class ReferenceObject(BaseModel):
    """Log-likelihoods of held-out images under a model, as quantiles."""

    model: str
    log_likelihoods: Annotated[
        list[float],
        Field(
            description="In nats, ascending, evenly spaced from the 0th percentile to the 100th."
        ),
    ]
    dims: Annotated[int, Field(description="Values of an image, over which bits are spread.")]
    settings: Annotated[
        dict[str, Any],
        Field(
            description="What likelihood was asked with; a request that differs in one of these "
            "gets no percentile."
        ),
    ]
    anomalous_below: Annotated[
        float, Field(description="In nats; an image below this is called anomalous.")
    ]


def reference_object(model: ModelInfo, reference: ReferenceSet) -> dict[str, Any]:
    """A model's reference in the words of the API."""
    height, width = model.resolution
    return {
        "model": model.id,
        "log_likelihoods": reference.log_likelihoods,
        "dims": model.channels * height * width,
        "settings": dict(reference.settings),
        "anomalous_below": reference.anomalous_below,
    }


def reference_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """The one route about reference sets."""
    router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=guarded(keys))

    @router.get(
        "/{model}/reference",
        summary="Show what a model's percentiles are read off",
        operation_id="retrieve_reference",
        responses=documented(ReferenceObject, 401, 403, 404, 422, 429, 500, 503),
    )
    async def retrieve_reference(
        request: Request,
        model: Annotated[str, Path(max_length=LONGEST_REFERENCE, examples=["digits-realnvp"])],
    ) -> Response:
        """Quantiles of the log-likelihoods of images that the model was not trained on.

        A likelihood's ``percentile`` is its place among them.
        """
        exchange = exchange_of(request)
        found = await find_model(gateway, exchange, model)
        if found.reference is None:
            able = [
                info.id
                for info in await gateway.backend.models()
                if info.reference is not None and exchange.caller.sees(info.id)
            ]
            raise UnsupportedTask(
                f"{found.id} has no reference set; these models have one: "
                f"{', '.join(able) or 'none'}",
                param="model",
            )
        return json_response(reference_object(found, found.reference))

    return router
