"""Bodies of Replicate's API, as its clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

WebhookFilter = Literal["start", "output", "logs", "completed"]
PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]


class PredictionRequest(BaseModel):
    """What is asked of a model. Fields that Replicate has and that mean nothing here are ignored.

    ``input`` holds the fields of POST /v1/generate; with an ``operation``, those of POST /v1/edit;
    with a ``task``, those of that route.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    version: (
        Annotated[
            str,
            Field(max_length=256, description="`shapes-ldm`, or `atelier/shapes-ldm`."),
        ]
        | None
    ) = None
    input: dict[str, Any] = {}
    webhook: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    webhook_events_filter: Annotated[list[WebhookFilter], Field(max_length=4)] | None = None
    webhook_completed: (
        Annotated[
            str, Field(min_length=1, max_length=2048, description="A webhook for the end alone.")
        ]
        | None
    ) = None


class Prediction(BaseModel):
    """A job as Replicate's clients know it; ``canceled`` has one l."""

    id: str
    model: str
    version: str
    status: PredictionStatus
    input: dict[str, Any]
    output: list[Any] | None
    logs: str
    error: str | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, float]
    data_removed: bool
    urls: dict[str, str]


class PredictionPage(BaseModel):
    """Some predictions, newest first; ``next`` is the path of those after them."""

    previous: str | None
    next: str | None
    results: list[Prediction]


class ReplicateVersion(BaseModel):
    """The one version of a model."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class ReplicateVersions(BaseModel):
    """The versions of a model: one."""

    previous: str | None
    next: str | None
    results: list[ReplicateVersion]


class ReplicateModel(BaseModel):
    """A model that can be run."""

    url: str
    owner: str
    name: str
    description: str
    visibility: str
    github_url: str | None
    paper_url: str | None
    license_url: str | None
    run_count: int
    cover_image_url: str | None
    default_example: Prediction | None
    latest_version: ReplicateVersion


class ReplicateFile(BaseModel):
    """An input file. Nothing is kept: its ``get`` is a data: URL that holds all of it."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str | None
    urls: dict[str, str]
