"""The bodies of ``/v1/reviews``, and of what a held request is answered with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.gateway.answers import GeneratedImage
from services.policies.review_words import ReviewStatus


class ReviewPlace(BaseModel):
    """Where the answer is to be asked for."""

    id: str
    url: str


class HeldAnswer(BaseModel):
    """The images are made, and kept until a reviewer decides."""

    status: Literal["held"]
    review: ReviewPlace


class ReviewEntry(BaseModel):
    """A request whose images wait, or waited, for a reviewer; times are seconds since 1970."""

    id: str
    object: str
    status: ReviewStatus
    created: float
    expires: float
    model: str
    task: str
    policy: str
    reason: str
    request_id: str
    prompts: dict[str, list[str]]
    images: list[str] = Field(description="Where each image is; it can be fetched once approved.")
    decided: float | None = None
    note: str | None = None
    owner: str | None = Field(default=None, description="Whose it is; for reviewers only.")
    decided_by: str | None = Field(default=None, description="For reviewers only.")
    data: list[GeneratedImage] | None = Field(
        default=None, description="The images, for reviewers, and for the requester once approved."
    )


class ReviewList(BaseModel):
    """Reviews, oldest first."""

    object: str
    data: list[ReviewEntry]
    has_more: bool


class ReviewDecision(BaseModel):
    """What a reviewer may add to a decision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    note: Annotated[str, Field(max_length=2000)] | None = None
