"""Which policies apply to what, in which order, and what happens when one fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EVERY_MODEL = "*"

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyRule(_Group):
    """One policy and where it applies.

    Attributes:
        name: what errors, reviews and metrics call it.
        use: a built-in policy (``block_list``, ``classifier``), or the name of an entry point of
            the group ``atelier.policies``.
        models: the models whose requests it judges; ``*`` for all.
        images: which images an image policy judges.
        settings: keyword arguments of the policy itself.
        timeout: seconds that it may take.
        on_failure: what happens to a request when it crashes or takes longer.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    use: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
    models: Annotated[tuple[str, ...], Field(min_length=1)] = (EVERY_MODEL,)
    images: Annotated[tuple[Literal["input", "output"], ...], Field(min_length=1)] = (
        "input",
        "output",
    )
    settings: dict[str, Any] = {}
    timeout: Seconds = 5.0
    on_failure: Literal["refuse", "hold", "allow"] = "refuse"

    def concerns(self, model: str) -> bool:
        """Whether it judges the requests of a model."""
        return EVERY_MODEL in self.models or model in self.models


class ReviewSettings(_Group):
    """What is kept of requests that wait for a reviewer.

    Attributes:
        database_url: of PostgreSQL (``postgresql+psycopg://...``) where the gateway runs on
            several machines; an SQLite file beside the key file by default.
        ttl: seconds after which a request that nobody decided is let go.
        decided_ttl: seconds for which an approved image can still be fetched.
        max_bytes: that all images together may take; beyond it nothing more is held.
        max_owner_bytes: that those of one key may take.
        four_eyes: whether a reviewer may not decide on requests of the same key.
    """

    database_url: str | None = None
    ttl: Annotated[float, Field(ge=1, le=90 * 86400)] = 7 * 86400.0
    decided_ttl: Annotated[float, Field(ge=1, le=90 * 86400)] = 86400.0
    max_bytes: Bytes = 1 << 30
    max_owner_bytes: Bytes = 256 << 20
    four_eyes: bool = False

    def url(self, folder: Path) -> str:
        """Where reviews are kept: the database that is set, or a file in a folder."""
        return self.database_url or f"sqlite:///{folder / 'reviews.sqlite'}"


class PoliciesSettings(_Group):
    """The rules, asked in their order; the strictest decision wins.

    Attributes:
        rules: none by default: then nothing is judged.
        review: where what is held waits.
    """

    rules: tuple[PolicyRule, ...] = ()
    review: ReviewSettings = ReviewSettings()

    @model_validator(mode="after")
    def _names_differ(self) -> PoliciesSettings:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"rules need names that differ, got {', '.join(names)}")
        return self
