"""``/v1/reviews``: what policies hold, for those who decide and for those who wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from services.core.errors import ReviewNotFound
from services.core.images import MEDIA_TYPES
from services.gateway.answers import base64_text, json_response
from services.gateway.auth import ApiKeys
from services.gateway.callers import Caller
from services.gateway.exchange import Gateway, exchange_of
from services.gateway.intake import Payload, parse, read_json
from services.gateway.openapi import documented, errors_of, guarded, request_body
from services.gateway.review_schemas import ReviewDecision, ReviewEntry, ReviewList
from services.policies.review_words import Review, ReviewStatus
from services.policies.reviews import MOST_LISTED, ReviewStore

TASK = "review"
"""How requests that decide are counted and written down."""

ReviewId = Annotated[str, Path(max_length=40, description="As the answer of a held request says.")]


DECISION_EXAMPLE = {"with a note": {"note": "nothing wrong with it"}}
_FILE = {"schema": {"type": "string", "format": "binary"}}


def review_routes(gateway: Gateway, keys: ApiKeys, reviews: ReviewStore) -> APIRouter:
    """Listing, looking, and deciding."""
    router = APIRouter(prefix="/v1/reviews", tags=["reviews"], dependencies=guarded(keys))

    @router.get(
        "",
        summary="List what is held for review",
        operation_id="list_reviews",
        responses=documented(ReviewList, 401, 422, 429, 500, 503),
    )
    async def list_reviews(
        request: Request,
        status: Annotated[ReviewStatus | None, Query(description="Of this status only.")] = None,
        after: Annotated[
            str | None, Query(max_length=40, description="The last id of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
    ) -> Response:
        """Oldest first: everybody's for a key with the scope ``review``, one's own for others."""
        caller = exchange_of(request).caller
        owner = None if caller.reviews else caller.owner
        found = await reviews.list(owner=owner, status=status, after=after, limit=limit + 1)
        shown = [_entry(review, caller) for review in found[:limit] if caller.sees(_model(review))]
        return json_response({"object": "list", "data": shown, "has_more": len(found) > limit})

    @router.get(
        "/{review_id}",
        summary="Look at one review",
        operation_id="get_review",
        responses=documented(ReviewEntry, 401, 404, 422, 429, 500, 503),
    )
    async def get_review(request: Request, review_id: ReviewId) -> Response:
        """What became of a held request; once it is approved, ``data`` holds its images.

        Who may not see a review gets the same 404 as for one that does not exist.
        """
        caller = exchange_of(request).caller
        review = await _found(reviews, review_id, caller)
        images = await reviews.images(review.id) if _may_look(review, caller) else None
        return json_response(_entry(review, caller, images))

    @router.get(
        "/{review_id}/images/{index}",
        summary="One image of a review",
        operation_id="get_review_image",
        response_class=Response,
        responses={
            200: {
                "description": "The image.",
                "content": dict.fromkeys(MEDIA_TYPES.values(), _FILE),
            },
            **errors_of(401, 404, 422, 429, 500, 503),
        },
    )
    async def get_review_image(
        request: Request, review_id: ReviewId, index: Annotated[int, Path(ge=0, le=4096)]
    ) -> Response:
        """For reviewers, and for the requester once it is approved."""
        caller = exchange_of(request).caller
        review = await _found(reviews, review_id, caller)
        images = await reviews.images(review.id) if _may_look(review, caller) else []
        if index >= len(images):
            raise ReviewNotFound(
                f"review '{review.id}' is {review.status.value} and has no image {index} to show",
                param="index",
            )
        name = f"{review.id}-{index}.{review.request.format}"
        headers = {"content-disposition": f'inline; filename="{name}"'}
        return Response(images[index], 200, headers, _media_type(review))

    async def decide(request: Request, review_id: str, status: ReviewStatus) -> Response:
        exchange = exchange_of(request)
        exchange.task, exchange.account.review = TASK, review_id
        exchange.caller.check_review()
        body = await request.body()
        payload = await read_json(request, gateway.settings) if body else Payload({})
        note = parse(ReviewDecision, payload).note or ""
        await _found(reviews, review_id, exchange.caller)
        review = await reviews.decide(review_id, status, by=exchange.owner, note=note)
        exchange.account.event = f"review.{status.value}"
        return json_response(_entry(review, exchange.caller))

    @router.post(
        "/{review_id}/approve",
        summary="Let the images of a review go to who asked for them",
        operation_id="approve_review",
        responses=documented(ReviewEntry, 400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=request_body(ReviewDecision, json=DECISION_EXAMPLE, required=False),
    )
    async def approve(request: Request, review_id: ReviewId) -> Response:
        """Needs the scope ``review``. A review is decided once; a second decision is a 409."""
        return await decide(request, review_id, ReviewStatus.APPROVED)

    @router.post(
        "/{review_id}/reject",
        summary="Delete the images of a review",
        operation_id="reject_review",
        responses=documented(ReviewEntry, 400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        openapi_extra=request_body(ReviewDecision, json=DECISION_EXAMPLE, required=False),
    )
    async def reject(request: Request, review_id: ReviewId) -> Response:
        """Needs the scope ``review``. A review is decided once; a second decision is a 409."""
        return await decide(request, review_id, ReviewStatus.REJECTED)

    return router


async def _found(reviews: ReviewStore, review_id: str, caller: Caller) -> Review:
    """A review that the caller may know of.

    Raises:
        ReviewNotFound: there is none.
    """
    review = await reviews.get(review_id, owner=None if caller.reviews else caller.owner)
    if not caller.sees(_model(review)):
        raise ReviewNotFound(f"there is no review '{review_id[:40]}'", param="review_id")
    return review


def _may_look(review: Review, caller: Caller) -> bool:
    return caller.reviews or review.status is ReviewStatus.APPROVED


def _model(review: Review) -> str:
    return review.request.model


def _media_type(review: Review) -> str:
    return dict(MEDIA_TYPES)[review.request.format]


def _entry(review: Review, caller: Caller, images: Sequence[bytes] | None = None) -> dict[str, Any]:
    """A review as JSON shows it to somebody; with its images where these are given."""
    asked = review.request
    entry: dict[str, Any] = {
        "id": review.id,
        "object": "review",
        "status": review.status.value,
        "created": review.created,
        "expires": review.expires,
        "model": asked.model,
        "task": asked.task,
        "policy": asked.policy,
        "reason": asked.reason,
        "request_id": asked.request_id,
        "prompts": asked.texts,
        "images": [f"/v1/reviews/{review.id}/images/{i}" for i in range(review.image_count)],
        "decided": review.decided,
        "note": review.note,
    }
    if caller.reviews:
        entry |= {"owner": asked.owner, "decided_by": review.decided_by}
    if images is not None:
        entry["data"] = [
            {"b64_json": base64_text(image), **values}
            for image, values in zip(images, asked.values, strict=False)
        ]
    return entry
