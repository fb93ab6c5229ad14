"""The jobs of a gateway, put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.core.backend import Backend
from services.jobs.bulk import BULK, BulkRunner
from services.jobs.calls import KINDS, CallRunner
from services.jobs.durable import DurableJobs
from services.jobs.interface import Jobs, Runner
from services.jobs.settings import JobSettings


def durable_jobs(backend: Backend, settings: JobSettings, folder: Path) -> Jobs:
    """Jobs whose work is done by a backend.

    Args:
        backend: as requests reach it, with whatever stands in front of the engines.
        settings: of jobs.
        folder: where they are kept, unless the settings say otherwise.
    """
    call = CallRunner(backend)
    runners: dict[str, Runner] = dict.fromkeys(KINDS, call)
    runners[BULK] = BulkRunner(backend, in_flight=settings.bulk_in_flight)
    return DurableJobs(settings, runners, folder=folder)


def jobs_for(settings: JobSettings, folder: Path) -> Callable[[Backend], Jobs] | None:
    """What makes the jobs of a backend; ``None`` where jobs are switched off."""
    if not settings.enabled:
        return None
    return lambda backend: durable_jobs(backend, settings, folder)
