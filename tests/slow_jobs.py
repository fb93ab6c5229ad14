"""A replica that works on jobs, for a process of its own, which can be killed.

Its engines are real, with small networks, of which one takes some milliseconds for each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from services.core.errors import AtelierError
from services.core.job import Call, Encoding, Task
from services.families import discover
from services.jobs.calls import KINDS, CallRunner, kept
from services.jobs.durable import DurableJobs
from services.jobs.settings import JobSettings
from services.jobs.words import JobRequest
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

OWNER = "owner"
MODEL = "tiny-diffusion"
STEP_SECONDS = 0.01
FAMILIES = discover()
"""Here, so that a process that is forked to become a replica has them already."""


def settings(database_url: str | None = None, **more: object) -> JobSettings:
    """Of jobs, as hasty as they come."""
    fields = {
        "database_url": database_url,
        "poll_seconds": 0.05,
        "sweep_seconds": 0.2,
        "lease_seconds": 2.0,
        "max_attempts": 1000,
        "orphan_grace": 5.0,
        **more,
    }
    return JobSettings.model_validate(fields)


def call(seed: int, *, rows: int = 2, steps: int = 40) -> Call:
    """A call whose images follow from its seed."""
    parameters = {"seed": seed, "n": rows, "steps": steps}
    return Call("direct", MODEL, Task.GENERATE, parameters, encoding=Encoding())


def request(seed: int, *, rows: int = 2, steps: int = 40) -> JobRequest:
    """The job that is this call."""
    body, files = kept(call(seed, rows=rows, steps=steps))
    return JobRequest(OWNER, "generate", MODEL, body, files, rows=rows, reserve_bytes=4096 * rows)


def backend() -> InProcessBackend:
    """Real engines with small networks, slowed down."""
    found = InProcessBackend(one_of_each(), FAMILIES)
    engine = found.registry.load(MODEL).engine
    step = engine.step

    def slowly(batch: object) -> None:
        time.sleep(STEP_SECONDS)
        step(batch)  # type: ignore[arg-type]  # what the loop gave us

    engine.step = slowly  # type: ignore[method-assign]
    return found


def jobs_over(engines: InProcessBackend, folder: Path, chosen: JobSettings) -> DurableJobs:
    """The jobs of one replica."""
    runner = CallRunner(engines)
    return DurableJobs(chosen, dict.fromkeys(KINDS, runner), folder=folder)


async def accept(jobs: DurableJobs, connection: Connection) -> None:
    """Submit the jobs whose seeds come in, each under an idempotency key; tell which are taken."""
    with contextlib.suppress(EOFError, OSError):  # the other end has been closed
        while True:
            seed = await asyncio.to_thread(connection.recv)
            job_id, error = await accepted(jobs, seed)
            connection.send((seed, job_id, error))


async def accepted(jobs: DurableJobs, seed: int) -> tuple[str | None, str | None]:
    """The id of a job that was submitted, or why it was not accepted."""
    try:
        done = await jobs.submit(
            request(seed), idempotency_key=f"seed-{seed}", fingerprint=str(seed)
        )
    except AtelierError as error:
        return None, error.code
    return done.record.id, None


async def work(connection: Connection, folder: Path, database_url: str | None) -> None:
    """Be a replica until the other end of the connection is closed, or it is killed."""
    engines = backend()
    jobs = jobs_over(engines, folder, settings(database_url))
    while True:
        try:
            await jobs.open()
            break
        except AtelierError:  # whoever starts replicas would start it again
            await asyncio.sleep(0.1)
    connection.send("open")
    await accept(jobs, connection)
    await jobs.close()
    await asyncio.to_thread(engines.close)


def replica(connection: Connection, folder: Path, database_url: str | None) -> None:
    """The whole life of a replica."""
    torch.set_num_threads(1)
    asyncio.run(work(connection, folder, database_url))
