"""What a review is: a request whose images wait for a reviewer, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ReviewStatus(StrEnum):
    """How far a review is."""

    HELD = "held"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Held:
    """A request whose images wait.

    Attributes:
        owner: whose request it is.
        request_id: its id.
        model: that made the images.
        task: the task, or the operation of an edit.
        policy: the rule that held it.
        reason: why.
        format: of the images: ``png``, ``jpeg`` or ``webp``.
        texts: what was asked for in words, by field; reviewers see it.
        values: beside each image, such as its seed.
        images: encoded.
    """

    owner: str
    request_id: str
    model: str
    task: str
    policy: str
    reason: str
    format: str
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    values: Sequence[Mapping[str, Any]] = ()
    images: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Review:
    """A request and what became of it; times are seconds since 1970.

    ``images`` is how many there are; `ReviewStore.images` gives them. ``decided_by`` is the owner
    of the reviewer's key, or who decided on the machine itself; ``note`` what they said.
    """

    id: str
    status: ReviewStatus
    created: float
    expires: float
    request: Held
    image_count: int
    decided: float | None = None
    decided_by: str | None = None
    note: str | None = None
