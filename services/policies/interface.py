"""What a policy is: it looks at the words or the images of a request and decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.core.images import Pixels


class Action(StrEnum):
    """What happens to a request, from the mildest to the strictest."""

    ALLOW = "allow"
    HOLD = "hold"
    REFUSE = "refuse"

    @property
    def severity(self) -> int:
        """0 for allow, 1 for hold, 2 for refuse."""
        return list(Action).index(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decided.

    Attributes:
        action: what is to happen.
        reason: a sentence for the requester; it must not repeat what the policy looks for.
        policy: the name of the rule that decided; filled in by whoever asks the policy.
        field: the request field at fault, where there is one.
    """

    action: Action
    reason: str = ""
    policy: str = ""
    field: str | None = None


ALLOWED = Decision(Action.ALLOW)


def strictest(decisions: Iterable[Decision]) -> Decision:
    """The strictest of some decisions, the first where several are; `ALLOWED` for none."""
    return max(decisions, key=lambda decision: decision.action.severity, default=ALLOWED)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for what.

    Attributes:
        id: of the request.
        owner: an opaque name of the key that asks; empty where no key is needed.
        model: the model's name.
        name: the task, or the operation of an edit.
    """

    id: str
    owner: str
    model: str
    name: str


Texts = Mapping[str, Sequence[str]]
"""Every text of a request by the field that it stands in; several for a list."""


class PromptPolicy(ABC):
    """Judges what is asked for in words, before any work is done."""

    @abstractmethod
    def judge(self, texts: Texts, asked: Asked) -> Decision | Awaitable[Decision]:
        """Decide.

        It runs in a thread of its own and may block; an ``async def`` runs in the service's event
        loop instead and must not. What it raises counts as a failure of the policy.
        """


class ImagePolicy(ABC):
    """Judges images: those that were uploaded before the work, those that were made after it."""

    @abstractmethod
    def judge(self, image: Pixels, asked: Asked) -> Decision | Awaitable[Decision]:
        """Decide; see `PromptPolicy.judge`.

        Args:
            image: uint8 ``[3, height, width]``, whatever the model's own channels are.
            asked: who asks for what.
        """


Policy = PromptPolicy | ImagePolicy
