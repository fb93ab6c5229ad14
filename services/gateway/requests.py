"""``DELETE /v1/requests/{id}``: withdraw a request in flight, from any connection."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from services.core.errors import RequestNotFound
from services.gateway.auth import ApiKeys
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.openapi import errors_of, guarded

RequestId = Annotated[
    str,
    Path(
        max_length=64,
        description="The `x-request-id` that the request was sent with, or was given: the first "
        "event of a stream names it.",
        examples=["my-request-7"],
    ),
]


def request_routes(gateway: Gateway, keys: ApiKeys) -> APIRouter:
    """The one route about requests themselves."""
    router = APIRouter(prefix="/v1/requests", tags=["native"], dependencies=guarded(keys))

    @router.delete(
        "/{request_id}",
        status_code=204,
        response_class=Response,
        summary="Withdraw a request in flight",
        operation_id="withdraw_request",
        responses={
            204: {"description": "It is withdrawn."},
            **errors_of(401, 404, 422, 429, 500, 503),
        },
    )
    async def withdraw(request: Request, request_id: RequestId) -> Response:
        """Its rows leave the batch before their next evaluation.

        Whoever waits for its answer gets a 499 with code ``canceled``; a stream ends in an
        ``error`` event with that code. A request whose answer is already on its way is answered.
        """
        owner = exchange_of(request).owner
        here = gateway.in_flight.withdraw(request_id, owner)
        if not here and not await gateway.elsewhere(request_id, owner):
            raise RequestNotFound(
                f"no request '{request_id}' is in flight; it may be answered already, or was sent "
                "with another key",
                param="request_id",
            )
        return Response(status_code=204)

    return router
