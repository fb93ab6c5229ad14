"""Who is asking, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.errors import Forbidden
from services.core.job import Task
from services.gateway.quotas import Quota

REVIEW = "review"
SCOPES = (*(task.value for task in Task), REVIEW)
"""What a key can be allowed to do: the tasks, and to decide on what policies hold.

A key without scopes may do every task; reviewing has to be named.
"""

LEAST_PRIORITY, USUAL_PRIORITY, MOST_PRIORITY = 0, 5, 9


def weight_of(priority: int) -> float:
    """The share of a busy device that a priority stands for, relative to others: 1 is usual."""
    return float(2.0 ** (priority - USUAL_PRIORITY))


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever a request comes from, as its key or token says.

    Attributes:
        owner: an opaque name that stays the same when a key is rotated; what belongs to one owner
            is nobody else's.
        scopes: what is allowed; ``None`` for all tasks.
        models: the models that may be used; ``None`` for all.
        priority: 0 to 9. Each step up doubles the share of the device that the caller gets while
            others want it too; 5 is usual.
        rate: requests that may be sent; ``None`` for any number.
        device_seconds: seconds of the device that may be used; ``None`` for any.
    """

    owner: str = ""
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    priority: int = USUAL_PRIORITY
    rate: Quota | None = None
    device_seconds: Quota | None = None

    @property
    def weight(self) -> float:
        """The share of a busy device that is the caller's, relative to others: 1 is usual."""
        return weight_of(self.priority)

    def sees(self, model: str) -> bool:
        """Whether the caller may use a model, and so know of it."""
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        """Refuse a model that the caller may not use, whether or not there is such a model.

        Raises:
            Forbidden: names the model.
        """
        if not self.sees(model):
            raise Forbidden(
                f"this key may not use the model '{model[:80]}'; GET /v1/models lists those that "
                "it may use",
                param="model",
            )

    def check_task(self, task: str) -> None:
        """Refuse a task that the caller may not do.

        Raises:
            Forbidden: names the scope that is missing.
        """
        if self.scopes is not None and task not in self.scopes:
            has = ", ".join(sorted(self.scopes)) or "none"
            raise Forbidden(f"this key lacks the scope '{task}'; it has {has}")

    @property
    def reviews(self) -> bool:
        """Whether the caller may decide on what policies hold: only where the scope is named."""
        return self.scopes is not None and REVIEW in self.scopes

    def check_review(self) -> None:
        """Refuse who may not decide on what policies hold.

        Raises:
            Forbidden: the scope is missing.
        """
        if not self.reviews:
            raise Forbidden(
                f"this needs a key with the scope '{REVIEW}', which has to be named: `atelier keys "
                f"create NAME --scope {REVIEW}`"
            )


ANYBODY = Caller()
"""Whoever asks a service that wants no key."""
