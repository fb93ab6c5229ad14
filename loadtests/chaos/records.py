"""What is written down of every request and every job while something breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

End = Literal["answered", "typed", "untyped", "broken", "hung", "wrong"]

ANSWERED: Final = "answered"
"""Done, and it is what the same request gave before anything broke."""
TYPED: Final = "typed"
"""Refused by an error that has a code and says when to come back."""
UNTYPED: Final = "untyped"
"""Failed by an answer that lacks the one or the other, such as a bare 500."""
BROKEN: Final = "broken"
"""No answer: the connection was refused or ended."""
HUNG: Final = "hung"
"""No answer for as long as a patient client waits."""
WRONG: Final = "wrong"
"""Done, but not what the same request gave before."""

REFUSALS = frozenset({409, 429, 503})
"""Statuses with which a service may turn away what it would take at another time; 409 is of a key
whose first submission is still being accepted."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was sent once; moments are seconds from the start of the load.

    Attributes:
        kind: its name in the mix.
        due: when it was to be sent.
        ended: when its answer was there whole, or it was clear that none would come.
        end: how it ended.
        detail: status and code of an error, or the name of what broke.
    """

    kind: str
    due: float
    ended: float
    end: End
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether its client is without what it asked for."""
        return self.end != ANSWERED


@dataclass(slots=True)
class Submission:
    """A job as its client knows it: submitted by one key until a server says that it has it.

    Attributes:
        key: the idempotency key; the same with every try.
        due: when it was first sent.
        tries: each answer to the submission, in order.
        ids: every id that the server gave it; more than one is a duplicate.
        accepted: when it was first accepted; ``None`` as long as it was not.
    """

    key: str
    due: float
    tries: list[Request] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    accepted: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server lists it in the end.

    Attributes:
        id: of the server's.
        key: the idempotency key that its client wrote into its metadata.
        status: its state when patience ended.
        right: whether its images are exactly those that the same request gives.
        attempts: how often it was begun.
    """

    id: str
    key: str
    status: str
    right: bool
    attempts: int


def end_of(status: int, headers: Mapping[str, str], body: Any) -> tuple[End, str]:
    """How an answer that is no success ends a request, and its detail.

    Args:
        status: of HTTP.
        headers: by their lower-case names.
        body: parsed JSON, or ``None`` where it is none.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    detail = f"{status} {code or 'without a code'}"
    wait = headers.get("retry-after", "")
    if code and status in REFUSALS and wait.isdigit() and int(wait) >= 1:
        return TYPED, detail
    if code and status in REFUSALS:
        return UNTYPED, f"{detail}, no Retry-After"
    return UNTYPED, detail
