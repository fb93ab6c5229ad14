"""Asking the policies that concern a call, within their time, whatever they do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from services.core.decoder import Decoder
from services.core.errors import AtelierError
from services.core.images import ImageLimits
from services.core.job import Call
from services.policies.interface import (
    Action,
    Asked,
    Decision,
    ImagePolicy,
    Policy,
    PromptPolicy,
    strictest,
)
from services.policies.loading import Loaded

FAILED = "failed"
"""How a policy that crashed or took too long is counted, besides the action that this led to."""
FAILED_REASON = "a check of the request could not be made; try again later"
THREADS = 4
_NO_TEXT = frozenset({"latents", "seed"})
_NO_LIMITS = ImageLimits(max_bytes=1 << 40, max_pixels=1 << 40)

Count = Callable[[str, str], None]
"""Told the name of a policy and what it decided."""

_LOG = logging.getLogger(__name__)


class Judge:
    """The policies of a service."""

    def __init__(
        self,
        loaded: Sequence[Loaded],
        *,
        count: Count = lambda policy, decision: None,
        decoder: Decoder | None = None,
    ) -> None:
        """Take policies in the order in which they are asked.

        Args:
            loaded: see `services.policies.loading.load`.
            count: told of every decision.
            decoder: of uploaded images; in this process when absent.
        """
        self._loaded, self._count = tuple(loaded), count
        self._uploads, self._made = decoder or Decoder(), Decoder(_NO_LIMITS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="atelier-policy")

    def concerns(self, model: str) -> bool:
        """Whether any policy judges the requests of a model."""
        return any(one.rule.concerns(model) for one in self._loaded)

    def looks_at_outputs(self, model: str) -> bool:
        """Whether any policy judges the images that a model makes."""
        return bool(self._image_policies(model, "output"))

    async def prompt(self, call: Call) -> Decision:
        """The strictest decision on a call's words and uploaded images; a refusal ends the asking.

        Raises:
            AtelierError: an uploaded image cannot be read.
        """
        texts, asked = texts_of(call.parameters), asked_by(call)
        decisions = []
        for one in self._loaded:
            if isinstance(one.policy, PromptPolicy) and one.rule.concerns(call.model) and texts:
                decision = await self._ask(one, partial(one.policy.judge, texts, asked))
                if decision.action is Action.REFUSE:
                    return decision
                decisions.append(decision)
        uploaded = (*call.images, *call.controls)
        decisions.append(await self._images(call, uploaded, "input", self._uploads))
        return strictest(decisions)

    async def made(self, call: Call, images: Sequence[bytes]) -> Decision:
        """The strictest decision on images that were made."""
        return await self._images(call, images, "output", self._made)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _images(
        self,
        call: Call,
        images: Sequence[bytes],
        where: Literal["input", "output"],
        decoder: Decoder,
    ) -> Decision:
        policies = self._image_policies(call.model, where)
        asked, decisions = asked_by(call), []
        for data in images if policies else ():
            # Not on the policies' threads: one that hangs must not keep others from their images.
            pixels = await asyncio.to_thread(decoder.image, data, None, 3)
            for one, policy in policies:
                decision = await self._ask(one, partial(policy.judge, pixels, asked))
                if decision.action is Action.REFUSE:
                    return decision
                decisions.append(decision)
        return strictest(decisions)

    def _image_policies(
        self, model: str, where: Literal["input", "output"]
    ) -> list[tuple[Loaded, ImagePolicy]]:
        return [
            (one, one.policy)
            for one in self._loaded
            if isinstance(one.policy, ImagePolicy)
            and one.rule.concerns(model)
            and where in one.rule.images
        ]

    async def _ask(
        self, one: Loaded, judge: Callable[[], Decision | Awaitable[Decision]]
    ) -> Decision:
        rule = one.rule
        try:
            async with asyncio.timeout(rule.timeout):
                decision = await self._decided(one.policy, judge)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            # The message may quote what was judged; the type alone says enough.
            _LOG.error("policy %s failed: %s", rule.name, _described(error))
            self._count(rule.name, FAILED)
            decision = Decision(Action(rule.on_failure), FAILED_REASON)
        decision = Decision(decision.action, decision.reason, rule.name, decision.field)
        self._count(rule.name, decision.action.value)
        return decision

    async def _decided(
        self, policy: Policy, judge: Callable[[], Decision | Awaitable[Decision]]
    ) -> Decision:
        if inspect.iscoroutinefunction(policy.judge):
            found: Any = await _awaited(judge())
        else:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, judge)
        if not isinstance(found, Decision):
            raise TypeError(f"a policy decided {type(found).__name__}, not a Decision")
        return found


async def _awaited(work: Any) -> Any:
    return await work


def _described(error: Exception) -> str:
    return error.message if isinstance(error, AtelierError) else type(error).__name__


def asked_by(call: Call) -> Asked:
    """Who asks for what."""
    return Asked(call.id, call.tenant, call.model, call.name)


def texts_of(parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every text among a call's parameters, by the field that it stands in.

    Whatever is text is judged, so that a field that is added later is judged as well; only
    latents, which are numbers written in letters, are not.
    """
    found: dict[str, list[str]] = {}
    for name, value in parameters.items():
        texts = [] if name in _NO_TEXT else list(_texts(value))
        if texts:
            found[name] = texts
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for child in value.values() for text in _texts(child)]
    if isinstance(value, list | tuple):
        return [text for child in value for text in _texts(child)]
    return []
