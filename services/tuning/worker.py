"""The process in which configurations are measured: `python -m services.tuning.worker`.

A process of its own, so that a configuration that takes all memory takes nothing else with it, and
that the search's own work is never part of what is measured. It reads commands from its input and
answers each with a line, both JSON: ``{"do": "open", ...}`` gives a slot (``default`` or
``candidate``) a pool, and the others measure what a slot holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import queue
import sys
import threading
from typing import Any, TextIO

import numpy as np

from model_store.manifest import NetworkFiles
from model_store.networks.opening import torch_options
from services.core.errors import AtelierError, InvalidParameter
from services.core.job import Call, Task
from services.core.model import ModelInfo
from services.serving.in_process import InProcessBackend
from services.serving.local import cores, local_backend, open_store, pick_device, threads_of
from services.serving.settings import Pool
from services.serving.tuned import stored_twice
from services.tuning.asked import Workload
from services.tuning.load import latencies, throughput
from services.tuning.precisions import precisions_of
from services.tuning.quality import Judge, judge_of
from services.tuning.space import About

QUEUE_SECONDS = 24 * 3600.0
"""Nothing is refused for being much: a refusal would look fast."""
OTHER_SEEDS = 1 << 20
"""Between the seeds of samples and those of load."""


class Worker:
    """One model, opened in up to two configurations.

    Args:
        model: its name.
        store: folder of the user's models.
        workload: how it is measured.
    """

    def __init__(self, model: str, store: str | None, workload: Workload) -> None:
        self._model, self._workload = model, workload
        self._store = open_store(store)
        self._slots: dict[str, InProcessBackend] = {}
        self._judge: Judge | None = None

    async def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command.

        Raises:
            AtelierError: it cannot be done.
        """
        what, slot = command["do"], command["slot"]
        if what == "open":
            return await self._open(slot, Pool.model_validate(command["pool"]))
        backend, work = self._slots[slot], self._workload
        if what == "about":
            return await self._about(backend, command)
        if what == "throughput":
            found = await throughput(
                backend, self._call, concurrency=work.concurrency, seconds=work.seconds
            )
            return {"images_per_second": found}
        if what == "latency":
            seconds = await latencies(
                backend, self._call, rate=command["rate"], seconds=work.seconds, seed=work.seed
            )
            return {"p99": float(np.percentile(seconds, 99))}
        if what == "quality" and self._judge is not None:
            info = await backend.model(self._model)
            fid, agreement = await self._judge.outcome(backend, info, command["seed"])
            return {"fid": fid, "agreement": agreement}
        raise InvalidParameter(f"a worker cannot do '{what}'; this is a bug")

    async def _open(self, slot: str, pool: Pool) -> dict[str, Any]:
        known = self._slots.pop(slot, None)
        if known is not None:
            known.close()
            gc.collect()
        alone = {"queue_seconds": QUEUE_SECONDS, "preload": [self._model], "drain_seconds": 0.0}
        backend = local_backend(pool.model_copy(update=alone), store=self._store)
        self._slots[slot] = backend
        await asyncio.get_running_loop().run_in_executor(None, backend.preload)
        await backend.run(self._call(0))
        return {}

    async def _about(self, backend: InProcessBackend, command: dict[str, Any]) -> dict[str, Any]:
        info = await backend.model(self._model)
        if "generate" not in info.operations:
            raise InvalidParameter(
                f"'{info.id}' generates no images, and load is measured by such; it offers "
                f"{', '.join(info.operations)}",
                param="model",
            )
        why_not = "it was not asked for"
        if command["judge"]:
            try:
                self._judge = await judge_of(backend, info, self._workload)
            except InvalidParameter as error:
                why_not = error.message
        pool = Pool.model_validate(command["pool"])
        return {"about": self._described(backend, info, pool).model_dump(), "why_not": why_not}

    def _described(self, backend: InProcessBackend, info: ModelInfo, pool: Pool) -> About:
        loaded = backend.registry.load(self._model)
        job = loaded.engine.jobs(self._call(0))[0]
        load = loaded.engine.workload(job)
        curve, knees = loaded.costs.curve, {}
        if load.evaluations:
            knees["step"] = curve("step", load.step).knee()
        knees["decode"] = curve("decode", load.decode).knee()
        manifest = self._store.get(self._model)
        device = pick_device(pool.device)
        on_torch = any(_runs_on_torch(files) for files in manifest.networks.values())
        own = torch_options(manifest, pool.torch.get(info.id, pool.torch.get("*"))).dtype
        quick = precisions_of(device) if on_torch or stored_twice(manifest) else ()
        return About(
            id=info.id,
            digest=info.digest,
            knees=knees,
            threads=threads_of(pool) if device.type == "cpu" else 0,
            precisions=tuple(dict.fromkeys((own, *quick))),
            on_torch=on_torch,
            stored_twice=stored_twice(manifest),
            guided=load.rows > 1,
            defaults=info.limits.get("defaults", {}) if load.evaluations else {},
            samplers=tuple(info.limits.get("samplers", ())),
            max_steps=info.limits.get("max_steps", 0) if load.evaluations else 0,
            judged=self._judge is not None,
        )

    def _call(self, number: int) -> Call:
        told = self._judge.told if self._judge is not None else ({},)
        parameters = {**told[number % len(told)], "seed": OTHER_SEEDS + number}
        return Call(f"tune-{number}", self._model, Task.GENERATE, parameters, provenance=False)


def _runs_on_torch(files: NetworkFiles) -> bool:
    return files.onnx is None


def listen(commands: TextIO, lines: queue.SimpleQueue[str]) -> None:
    """Hand on commands as they come, and end the process with whoever gave them.

    Whatever it is measuring then: nobody is left to be told.
    """
    for line in commands:
        lines.put(line)
    os._exit(0)


async def answer(lines: queue.SimpleQueue[str], answers: TextIO) -> None:
    """Answer commands for as long as the process lives."""
    worker: Worker | None = None
    while True:
        command = json.loads(lines.get())
        try:
            if worker is None:
                workload = Workload.model_validate(command["workload"])
                worker = Worker(command["model"], command["store"], workload)
                found: dict[str, Any] = {"cores": cores()}
            else:
                found = await worker.do(command)
        except* AtelierError as errors:
            first = next(e for e in _leaves(errors) if isinstance(e, AtelierError))
            found = {"error": first.to_json()}
        print(json.dumps(found), file=answers, flush=True)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def main() -> None:
    """Answer on what was the standard output; whatever else is printed goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin, lines), daemon=True).start()
    asyncio.run(answer(lines, answers))


if __name__ == "__main__":
    main()
