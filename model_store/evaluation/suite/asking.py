"""Asking a model as its users do: calls through a backend, in batches, every row by its seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from services.core import images as codec
from services.core.backend import Backend
from services.core.errors import AtelierError
from services.core.images import ImageLimits
from services.core.job import Call, Encoding, Item, Task
from services.core.model import ModelInfo

BATCH = 32
AT_ONCE = 8
"""Calls in flight: enough that rows share batches, few enough that no queue is filled."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how many images are done, and how many there will be."""


class Subject:
    """A model under test.

    Args:
        backend: what serves it.
        info: of the model.
        seed: row ``i`` of anything takes ``seed + i``.
        report: told of progress.
    """

    def __init__(self, backend: Backend, info: ModelInfo, *, seed: int, report: Report) -> None:
        self.backend = backend
        self.info = info
        self.seed = seed
        self.report = report

    def offers(self, name: str) -> bool:
        """Whether the model has a task or an operation of that name."""
        return name in self.info.operations

    def takes(self, name: str, parameter: str) -> bool:
        """Whether a task or an operation has a parameter of that name."""
        return parameter in self.info.operations.get(name, {}).get("properties", {})

    async def generated(self, told: Sequence[Mapping[str, Any]]) -> Tensor:
        """Images uint8 ``[n, channels, height, width]``, one for each of ``told``.

        Neighbours that are told the same are one call.
        """
        calls: list[_Asked] = []
        for first, count, parameters in _runs(told, self._most("n")):
            calls.append((Task.GENERATE, None, {**parameters, "n": count}, first, ()))
        return self.pixels(await self._answers("samples", calls, len(told)))

    async def of_each(
        self,
        what: str,
        task: Task,
        images: Tensor,
        *,
        operation: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        together: int = BATCH,
    ) -> list[Item]:
        """One answer for each image.

        Args:
            what: the name of this for people.
            task: what is asked.
            images: uint8 ``[n, channels, height, width]``.
            operation: of an edit.
            parameters: of every call.
            together: images in one call.
        """
        calls: list[_Asked] = []
        for first in range(0, len(images), together):
            part = images[first : first + together]
            files = tuple(codec.encode(image.numpy(), Encoding()) for image in part)
            calls.append((task, operation, dict(parameters or {}), first, files))
        return await self._answers(what, calls, len(images))

    def pixels(self, items: Sequence[Item]) -> Tensor:
        """The images of answers, uint8 ``[n, channels, height, width]``."""
        files = [item.image for item in items if item.image is not None]
        if len(files) != len(items):
            raise AtelierError(f"'{self.info.id}' answered without an image; this is a bug")
        channels = self.info.channels
        found = [codec.decode(data, None, channels, ImageLimits()) for data in files]
        return torch.from_numpy(np.stack(found))

    async def _answers(self, what: str, calls: Sequence[_Asked], total: int) -> list[Item]:
        done, gate = 0, asyncio.Semaphore(AT_ONCE)
        self.report(what, 0, total)

        async def one(asked: _Asked) -> Sequence[Item]:
            nonlocal done
            task, operation, parameters, first, files = asked
            call = Call(
                id=f"evaluate-{uuid4().hex[:12]}",
                model=self.info.id,
                task=task,
                operation=operation,
                parameters={**parameters, "seed": self.seed + first},
                images=files,
                provenance=False,
            )
            async with gate:
                items = (await self.backend.run(call)).items
            done += len(items)
            self.report(what, done, total)
            return items

        work = [asyncio.create_task(one(asked)) for asked in calls]
        try:
            return [item for items in await asyncio.gather(*work) for item in items]
        finally:
            for task in work:
                task.cancel()

    def _most(self, parameter: str) -> int:
        schema = self.info.operations["generate"]["properties"].get(parameter, {})
        return int(min(BATCH, schema.get("maximum", 1)))


_Asked = tuple[Task, str | None, dict[str, Any], int, tuple[bytes, ...]]


def _runs(told: Sequence[Mapping[str, Any]], most: int) -> list[tuple[int, int, Mapping[str, Any]]]:
    """First row, length and parameters of every run of equal neighbours, none over ``most``."""
    runs: list[tuple[int, int, Mapping[str, Any]]] = []
    for row, parameters in enumerate(told):
        if runs and runs[-1][2] == parameters and runs[-1][1] < most:
            first, count, _ = runs[-1]
            runs[-1] = (first, count + 1, parameters)
        else:
            runs.append((row, 1, parameters))
    return runs
