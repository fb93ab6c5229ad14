"""The bodies of ``/v1/jobs``: what is sent, and what a job looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.gateway.answers import ErrorDetail, StageTimings
from services.gateway.review_schemas import ReviewPlace

TaskName = Literal["generate", "edit", "likelihood", "encode"]
StatusName = Literal["queued", "running", "succeeded", "failed", "canceled"]
MetadataName = Annotated[str, Field(min_length=1, max_length=64)]
MetadataText = Annotated[str, Field(max_length=512)]


class WebhookRequest(BaseModel):
    """Whom to tell of a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(min_length=1, max_length=2048, description="http or https.")]
    events: Annotated[
        list[Annotated[str, Field(max_length=32)]],
        Field(max_length=16, description="Of what; left out, of the job's end."),
    ] = []


class JobSubmission(BaseModel):
    """A request to one of the native routes, to be worked on after this one is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: Annotated[
        str, Field(max_length=32, description="The native route, without /v1/; or bulk.")
    ]
    request: Annotated[dict[str, Any], Field(description="The body of that route.")]
    priority: (
        Annotated[int, Field(ge=0, le=9, description="At most, and by default, the key's own.")]
        | None
    ) = None
    deadline_seconds: (
        Annotated[float, Field(gt=0, description="A job that is not done by then fails.")] | None
    ) = None
    ttl_seconds: (
        Annotated[float, Field(gt=0, description="How long job and files are kept after its end.")]
        | None
    ) = None
    metadata: Annotated[
        dict[MetadataName, MetadataText], Field(description="Your own words, given back.")
    ] = {}
    webhook: WebhookRequest | None = None


class JobArtefact(BaseModel):
    """A file that a job made."""

    index: int
    url: str
    name: str
    media_type: str
    bytes: int
    sha256: str


class JobFailure(ErrorDetail):
    """Why a job failed; ``review`` is there where a policy holds what it made."""

    review: ReviewPlace | None = None


class JobObject(BaseModel):
    """A job. Times are seconds since 1970.

    ``progress`` is in [0, 1]. Once it has succeeded, ``data`` is what the task's own route answers,
    with the ``url`` of each image in place of its bytes. ``attempts`` above 1 says that a process
    died while it worked on it. ``expires`` is when record and files go.
    """

    id: str
    object: Literal["job"]
    task: str
    model: str
    status: StatusName
    created: float
    started: float | None
    finished: float | None
    deadline: float | None
    expires: float
    progress: float
    rows: int
    rows_done: int
    attempts: int
    priority: int
    metadata: dict[str, str]
    webhook: WebhookRequest | None
    request: dict[str, Any]
    data: list[dict[str, Any]] | None
    artefacts: list[JobArtefact]
    error: JobFailure | None
    timings: StageTimings | None
    device_seconds: float


class JobList(BaseModel):
    """Some jobs, newest first; ``next_cursor`` asks for those after them."""

    object: Literal["list"]
    data: list[JobObject]
    next_cursor: str | None
