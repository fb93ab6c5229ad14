"""``client.jobs``: durable jobs, for the client that waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import httpx

from .errors import AtelierClientError
from .job_answers import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SECRET,
    Delivery,
    Job,
    JobEvent,
    JobEventReader,
    JobPage,
    JobResult,
    checked,
    finished,
    images_of,
    job_path,
    list_ask,
    path_of_artefact,
    place_for,
    result_of,
    submit_ask,
)
from .requests import Ask

Watch = Callable[[Job], None]
"""Told of a job, each time that it is looked at."""


class Sender(Protocol):
    """What sends requests: the client."""

    def send(self, ask: Ask, *, stream: bool = False) -> httpx.Response:
        """The response to a request, as often as it must be sent for one."""
        ...


class Jobs:
    """Work that outlives its request, and every process of the server.

    Every method raises `ApiError` for what the server refuses, and `ConnectionFailed` where nobody
    answers.
    """

    def __init__(self, sender: Sender) -> None:
        """Take the client."""
        self._sender = sender

    def submit(
        self,
        task: str,
        model: str,
        *,
        priority: int | None = None,
        deadline_seconds: float | None = None,
        ttl_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
        webhook: Mapping[str, Any] | str | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Job:
        """Have work accepted; it can be sent again safely, and is when the connection breaks.

        Args:
            task: ``generate``, ``edit``, ``likelihood``, ``encode`` or ``bulk``.
            model: its id.
            priority: 0 to 9, at most the key's own.
            deadline_seconds: after which the job fails.
            ttl_seconds: how long it is kept after its end.
            metadata: your own words.
            webhook: ``{"url": ..., "events": [...]}``, or the URL alone.
            idempotency_key: one of your own; the client makes one for each call otherwise.
            options: parameters of the task, as `Client.generate` and others take them.
        """
        hook = {"url": webhook} if isinstance(webhook, str) else webhook
        about = {
            "priority": priority,
            "deadline_seconds": deadline_seconds,
            "ttl_seconds": ttl_seconds,
            "metadata": metadata,
            "webhook": hook,
        }
        ask = submit_ask(task, model, options, about, idempotency_key)
        return Job.model_validate_json(self._sender.send(ask).content)

    def get(self, job: str | Job) -> Job:
        """How a job is."""
        return Job.model_validate_json(self._sender.send(Ask("GET", job_path(job))).content)

    def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """Some jobs, newest first."""
        ask = list_ask(status=status, model=model, limit=limit, cursor=cursor)
        return JobPage.model_validate_json(self._sender.send(ask).content)

    def cancel(self, job: str | Job) -> Job:
        """End a job that is not done; one that is done stays as it is."""
        found = self.get(job)
        if not found.final:
            self._sender.send(Ask("DELETE", job_path(job)))
            found = self.get(job)
        return found

    def delete(self, job: str | Job) -> None:
        """Remove a job that is done, with its files; one that is not is canceled first."""
        self.cancel(job)
        self._sender.send(Ask("DELETE", job_path(job)))

    def events(self, job: str | Job) -> Generator[JobEvent, None, None]:
        """What happens to a job until its end; a lost connection is taken up where it broke off."""
        reader, attempts = JobEventReader(), 0
        while True:
            seen = {"last-event-id": reader.last_id} if reader.last_id else {}
            ask = Ask("GET", job_path(job, "events"), None, seen)
            response = self._sender.send(ask, stream=True)
            try:
                for line in response.iter_lines():
                    event = reader.take(line)
                    if event is not None:
                        attempts = 0
                        yield event
            except httpx.TransportError:
                reader.broken_off()
                time.sleep(min(FIRST_PAUSE * 2**attempts, LONGEST_PAUSE))
                attempts += 1
            else:
                return
            finally:
                response.close()

    def wait(
        self, job: str | Job, *, timeout: float | None = None, watch: Watch | None = None
    ) -> Job:
        """Wait for a job's end, whatever it is.

        Args:
            job: which.
            timeout: seconds after which `TimeoutError` is raised; the job goes on.
            watch: told of the job each time that it is looked at; see `progress_bar`.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            found = self.get(job)
            if watch is not None:
                watch(found)
            if found.final:
                return found
            if ends is not None and time.monotonic() + pause > ends:
                raise TimeoutError(f"{found.id} is {found.status} after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def result(
        self, job: str | Job, *, timeout: float | None = None, watch: Watch | None = None
    ) -> JobResult:
        """Wait for a job and fetch its images.

        Raises:
            JobFailed: it failed, or was canceled.
            TimeoutError: it is not done in time.
        """
        done = finished(self.wait(job, timeout=timeout, watch=watch))
        return result_of(done, [self.fetch(done, file.index) for file in images_of(done)])

    def fetch(self, job: str | Job, index: int) -> bytes:
        """One file of a job, checked against its SHA-256.

        Raises:
            AtelierClientError: the job has no such file, or it came changed.
        """
        found = job if isinstance(job, Job) and job.final else self.get(job)
        for artefact in found.artefacts:
            if artefact.index == index:
                response = self._sender.send(Ask("GET", path_of_artefact(found, artefact)))
                return checked(artefact, response.content)
        raise AtelierClientError(f"{found.id} is {found.status} and has no file {index}")

    def download(self, job: str | Job, folder: str | Path) -> Sequence[Path]:
        """Every file of a job into a folder; those that are there already are not fetched again.

        Raises:
            JobFailed: it failed, or was canceled.
        """
        done = finished(self.wait(job))
        Path(folder).mkdir(parents=True, exist_ok=True)
        places = []
        for artefact in done.artefacts:
            place = place_for(folder, artefact)
            if not is_there(place, artefact.bytes):
                keep(place, self.fetch(done, artefact.index))
            places.append(place)
        return places

    def deliveries(self, job: str | Job) -> Sequence[Delivery]:
        """What became of a job's webhooks."""
        found = self._sender.send(Ask("GET", job_path(job, "deliveries"))).json()["data"]
        return [Delivery.model_validate(one) for one in found]

    def webhook_secret(self) -> str:
        """What verifies webhooks: ``whsec_...``."""
        return str(self._sender.send(Ask("GET", SECRET)).json()["key"])

    def rotate_webhook_secret(self) -> str:
        """A new secret; the one before signs beside it for a while."""
        return str(self._sender.send(Ask("POST", f"{SECRET}/rotate")).json()["key"])


def is_there(place: Path, size: int) -> bool:
    """Whether a file was kept before."""
    return place.is_file() and place.stat().st_size == size


def keep(place: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    unfinished = place.with_name(f"{place.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(place)


def progress_bar(title: str | None = None) -> AbstractContextManager[Watch]:
    """A bar on stderr for `Jobs.wait`; needs rich (``pip install 'atelier-client[progress]'``).

    ```python
    with progress_bar() as watch:
        client.jobs.result(job, watch=watch)
    ```
    """
    from .progress import bar  # noqa: PLC0415 - an extra

    return bar(title)
