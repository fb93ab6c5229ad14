"""``atelier_jobs``: how many jobs are in each state, of all replicas in one scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from services.core.errors import Unavailable
from services.jobs.interface import Jobs


async def jobs_page(jobs: Jobs | None) -> bytes:
    """The series from the database, which all replicas share; nothing where it cannot be reached.

    It is made anew for each scrape: a gauge kept by each replica would be added up.
    """
    if jobs is None:
        return b""
    try:
        counts = await jobs.counts()
    except Unavailable:
        return b""
    registry = CollectorRegistry()
    gauge = Gauge("atelier_jobs", "Jobs that are kept, by state.", ("state",), registry=registry)
    for status, count in counts.items():
        gauge.labels(status.value).set(count)
    return generate_latest(registry)
