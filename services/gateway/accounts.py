"""What the audit log says of a request, gathered while it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.core.errors import HeldForReview, Withheld
from services.core.job import Call
from services.policies.interface import Action, Decision
from services.policies.judging import texts_of

MOST_TEXT = 8000
"""Characters of all texts together that are kept; what is longer is cut off."""


@dataclass(slots=True)
class Account:
    """What was asked for, and what the policies decided.

    Attributes:
        event: what the log calls it.
        images: how many images were asked for, where the request says so.
        seed: of the first image.
        decision: the strictest of any policy.
        policy: the rule that decided, where it was not to allow.
        review: the id of the review that came of it.
        job: the id of the job that came of it.
        texts: what was asked for in words, by field.
    """

    event: str = "request"
    images: int | None = None
    seed: int | None = None
    decision: str = Action.ALLOW.value
    policy: str = ""
    review: str = ""
    job: str = ""
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def asked(self, call: Call) -> None:
        """Note a call of the request; several calls beside each other are counted together."""
        number, seed = call.parameters.get("n"), call.parameters.get("seed")
        if isinstance(number, int):
            self.images = (self.images or 0) + number
        if self.seed is None and isinstance(seed, int):
            self.seed = seed
        self.texts = self.texts or _cut(texts_of(call.parameters))

    def foreseen(self, decision: Decision) -> None:
        """Note what the policies say of work that is to be done later."""
        self.decision, self.policy = decision.action.value, decision.policy

    def withheld(self, error: Withheld) -> None:
        """Note that a policy kept something back."""
        held = isinstance(error, HeldForReview)
        self.decision = (Action.HOLD if held else Action.REFUSE).value
        self.policy = error.policy
        self.review = error.review if isinstance(error, HeldForReview) else ""


def _cut(texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    room, kept = MOST_TEXT, dict[str, list[str]]()
    for name, values in texts.items():
        for value in values:
            if room > 0:
                kept.setdefault(name, []).append(value[:room])
                room -= len(value)
    return kept
