"""What an operator may set about jobs, each with a default and a bound."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]

DAY = 86_400.0


class JobSettings(BaseModel):
    """Settings of durable jobs: ``ATELIER_JOBS__ENABLED`` and so on.

    Sizes are in bytes, times in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """Off: the routes are not there."""
    database_url: str | None = None
    """``postgresql://...``, for gateways on several machines; an SQLite file beside the key file
    by default, which the replicas of one machine share."""
    artefacts_url: str | None = None
    """A folder, or what fsspec opens, such as ``s3://bucket/prefix``; a folder beside the key file
    by default. Several machines must see the same."""
    running_per_replica: Annotated[int, Field(ge=1, le=256)] = 2
    """Jobs that one gateway replica works on at a time."""
    max_queued: Count = 10_000
    """Jobs of everybody that may wait."""
    max_queued_per_owner: Count = 1_000
    owner_bytes: Count = 2 << 30
    """What one owner's files may take, with the room that is kept for jobs under way."""
    total_bytes: Count = 20 << 30
    """As above, of everybody together."""
    default_ttl: Seconds = DAY
    """How long a job and its files are kept once it has come to its end."""
    max_ttl: Seconds = 7 * DAY
    default_deadline: Seconds = 3_600.0
    """Within which a job must be done."""
    max_deadline: Seconds = DAY
    max_attempts: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """How often a job may take its process with it before it counts as failed."""
    idempotency_seconds: Seconds = DAY
    """How long an idempotency key is remembered."""
    lease_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    """A replica that has not been heard of for so long has lost its jobs to the others."""
    poll_seconds: Annotated[float, Field(ge=0.01, le=10)] = 0.25
    """How often the database is asked what another replica has said; half as often for work."""
    sweep_seconds: Annotated[float, Field(ge=0.05, le=60)] = 2.0
    """How often what others have left behind is looked for."""
    orphan_grace: Annotated[float, Field(ge=0, le=30 * DAY)] = 3_600.0
    """A file that belongs to no job is removed once it is so old."""
    max_body_bytes: Count = 4 << 20
    """What a job's parameters may take, files not counted."""
    max_metadata_values: Annotated[int, Field(ge=0, le=1000)] = 16
    """Of an owner's own words to a job, each of at most 64 characters with a value of 512."""
    retry_after: Annotated[int, Field(ge=1, le=120)] = 1
    """Seconds after which whoever asks how a job is should ask again."""

    max_bulk_samples: Count = 10_000
    """Images that one bulk job may make."""
    bulk_in_flight: Annotated[int, Field(ge=1, le=1024)] = 16
    """Images of one bulk job that are asked for at once."""

    @model_validator(mode="after")
    def _consistent(self) -> JobSettings:
        for name in ("ttl", "deadline"):
            default, most = getattr(self, f"default_{name}"), getattr(self, f"max_{name}")
            if default > most:
                raise ValueError(f"default_{name} is {default:g} s, above max_{name}, {most:g} s")
        if self.sweep_seconds > self.lease_seconds / 2:
            raise ValueError("sweep_seconds must be at most half of lease_seconds")
        return self
