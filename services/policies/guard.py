"""A backend behind its policies: every route, stream and job goes through the same check.

It stands in front of all engines, whichever processes they are in, so nothing that makes images can
be reached past it; and what it judges is what would leave the service, encoded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from services.core.backend import Backend, BackendOver
from services.core.decoder import Decoder
from services.core.errors import ContentPolicyViolation, HeldForReview
from services.core.job import (
    Answer,
    Call,
    CallFinished,
    Event,
    Item,
    Preview,
    RowFinished,
    Task,
    Watch,
)
from services.policies.interface import ALLOWED, Action, Decision, strictest
from services.policies.judging import Count, Judge, texts_of
from services.policies.loading import BUILT_IN, Factory, load
from services.policies.review_words import Held, Review
from services.policies.reviews import ReviewStore
from services.policies.settings import PoliciesSettings

MAKING_IMAGES = (Task.GENERATE, Task.EDIT)
"""What policies judge: likelihoods and latents are numbers."""


class Guarded(BackendOver):
    """Implements `services.core.backend.Backend` over another that it keeps from going too far.

    A call that is held is worked on as any other; its images then go to the reviewers and not to
    the caller.
    """

    def __init__(self, backend: Backend, judge: Judge, reviews: ReviewStore) -> None:
        """Take the other, what judges, and where held images are kept."""
        super().__init__(backend)
        self.judge, self.reviews = judge, reviews

    async def run(self, call: Call) -> Answer:
        """See `Backend.run`.

        Raises:
            ContentPolicyViolation: a policy refused the request or one of its images.
            HeldForReview: a policy wants a reviewer to look first.
            ReviewsFull: a reviewer would have to look, and the queue has no room.
        """
        if not self._concerns(call):
            return await self._backend.run(call)
        before = await self._before(call)
        answer = await self._backend.run(call)
        files = [item.image for item in answer.items if item.image is not None]
        decision = strictest([before, await self.judge.made(call, files)])
        if decision.action is Action.ALLOW:
            return answer
        if decision.action is Action.REFUSE:
            raise _refusal(decision, answer.device_seconds)
        review = await self._hold(call, answer.items, decision)
        raise _held(review, decision, answer.device_seconds)

    async def foresee(self, call: Call) -> Decision:
        """Judge a call that is to be made later, as it will be judged before its work.

        Raises:
            ContentPolicyViolation: a policy refuses what is asked for.
            ReviewsFull: a reviewer would have to look, and the queue has no room.
        """
        return await self._before(call) if self._concerns(call) else ALLOWED

    async def stream(self, call: Call, watch: Watch) -> AsyncGenerator[Event, None]:
        """See `Backend.stream`.

        Images are judged one by one: those that pass are told as they come, those that do not are
        kept back. There are no previews where images are judged or the words have to be reviewed:
        nobody has judged those.

        Raises:
            ContentPolicyViolation: as `run`; the rest of the call is withdrawn.
            HeldForReview: at the end, if anything was held.
        """
        if not self._concerns(call):
            async with aclosing(self._backend.stream(call, watch)) as events:
                async for event in events:
                    yield event
            return
        before = await self._before(call)
        unseen = before.action is Action.HOLD or self.judge.looks_at_outputs(call.model)
        kept: list[Item] = []
        decisions: list[Decision] = []
        used, started = 0.0, time.monotonic()
        async with aclosing(self._backend.stream(call, Watch() if unseen else watch)) as events:
            async for event in events:
                if isinstance(event, Preview) and unseen:
                    continue
                if isinstance(event, RowFinished) and event.item.image is not None:
                    found = strictest([before, await self.judge.made(call, [event.item.image])])
                    if found.action is Action.REFUSE:
                        raise _refusal(found, time.monotonic() - started)
                    if found.action is Action.HOLD:
                        kept.append(event.item)
                        decisions.append(found)
                        continue
                if isinstance(event, CallFinished):
                    used = event.device_seconds
                    if kept:
                        break
                yield event
        if kept:
            decision = strictest(decisions)
            raise _held(await self._hold(call, kept, decision), decision, used)

    def _concerns(self, call: Call) -> bool:
        return call.task in MAKING_IMAGES and self.judge.concerns(call.model)

    async def _before(self, call: Call) -> Decision:
        """The decision on what was asked for, once it is known that it can be carried out."""
        decision = await self.judge.prompt(call)
        if decision.action is Action.REFUSE:
            raise _refusal(decision, 0.0)
        if decision.action is Action.HOLD:
            await self.reviews.check_room(call.tenant)
        return decision

    async def _hold(self, call: Call, items: Sequence[Item], decision: Decision) -> Review:
        shown = [item for item in items if item.image is not None]
        return await self.reviews.keep(
            Held(
                owner=call.tenant,
                request_id=call.id,
                model=call.model,
                task=call.name,
                policy=decision.policy,
                reason=decision.reason,
                format=call.encoding.format,
                texts=texts_of(call.parameters),
                values=[_plain(item.values) for item in shown],
                images=[item.image or b"" for item in shown],
            )
        )


def guarded(
    backend: Backend,
    settings: PoliciesSettings,
    folder: Path,
    *,
    count: Count,
    decoder: Decoder,
    factories: Mapping[str, Factory] = BUILT_IN,
) -> Guarded:
    """A backend behind the policies that the settings name; one that is guarded stays as it is.

    Args:
        backend: what is to be guarded.
        settings: the rules.
        folder: where reviews are kept, where no database is set for them.
        count: told of every decision.
        decoder: of uploaded images.
        factories: the policies that rules may use, besides those of entry points.

    Raises:
        InvalidParameter: a rule cannot be used.
    """
    if isinstance(backend, Guarded):
        return backend
    judge = Judge(load(settings.rules, factories), count=count, decoder=decoder)
    return Guarded(backend, judge, ReviewStore(settings.review, folder))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that JSON can hold as they are: seeds, labels, prompts."""
    simple = str | int | float | bool | None
    return {name: value for name, value in values.items() if isinstance(value, simple)}


def _refusal(decision: Decision, device_seconds: float) -> ContentPolicyViolation:
    return ContentPolicyViolation(
        f"refused by the policy '{decision.policy}': {decision.reason}",
        param=decision.field,
        policy=decision.policy,
        device_seconds=device_seconds,
    )


def _held(review: Review, decision: Decision, device_seconds: float) -> HeldForReview:
    return HeldForReview(
        f"held by the policy '{decision.policy}' until a reviewer decides: ask for "
        f"GET /v1/reviews/{review.id}",
        policy=decision.policy,
        device_seconds=device_seconds,
        review=review.id,
    )
