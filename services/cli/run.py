"""Running one call from the command line: in this process, or on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.cli.pictures import read_picture
from services.cli.remote import RemoteBackend
from services.core.backend import Backend
from services.core.job import Answer, Call, Encoding, Task
from services.serving.cascade import Cascades

POLL_SECONDS = 0.1


def make_call(
    model: str,
    task: Task,
    options: Mapping[str, Any],
    *,
    operation: str | None = None,
    images: Sequence[bytes] = (),
    mask: bytes | None = None,
    encoding: Encoding | None = None,
    deadline: float | None = None,
    metadata: bool | None = None,
) -> Call:
    """A call with the options that were set; one left at ``None`` is the model's to choose.

    Each entry of ``control`` names a file as its ``image``.
    """
    parameters = {name: value for name, value in options.items() if value is not None}
    controls = [read_picture(str(use["image"])) for use in _controls(parameters)]
    if controls:
        kept = [{k: v for k, v in use.items() if k != "image"} for use in _controls(parameters)]
        parameters["control"] = kept
    return Call(
        id=f"cli-{uuid4().hex[:12]}",
        model=model,
        task=task,
        parameters=parameters,
        operation=operation,
        images=tuple(images),
        mask=mask,
        encoding=encoding or Encoding(),
        deadline=deadline,
        controls=tuple(controls),
        metadata=metadata,
    )


def _controls(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of ``control`` that can have an image; others are the model's to refuse."""
    uses = parameters.get("control")
    sound = isinstance(uses, list) and all(isinstance(u, dict) and "image" in u for u in uses)
    return uses if isinstance(uses, list) and sound else []


def run(call: Call, *, url: str | None, api_key: str | None) -> Answer:
    """Run a call and show on stderr how far it is.

    Args:
        call: what to do.
        url: the server to ask; ``None`` runs the model in this process.
        api_key: sent to the server.

    Raises:
        AtelierError: the call was refused or failed.
    """
    if url is None:
        return asyncio.run(_run_here(call))
    return asyncio.run(_run_there(call, RemoteBackend(url, api_key)))


async def _run_there(call: Call, backend: RemoteBackend) -> Answer:
    with _progress() as progress:
        bar = progress.add_task(f"waiting for {call.model}", total=None)

        def told(share: float) -> None:
            if share > 0:
                progress.update(bar, description=f"running {call.model}", total=1, completed=share)

        return await backend.run(call, told)


async def _run_here(call: Call) -> Answer:
    with Console(stderr=True).status("starting the engine"):
        from services.serving.local import local_backend  # noqa: PLC0415 - torch takes seconds

        backend = local_backend()
    try:
        return await _watched(_stamped(Cascades(backend)), call)
    finally:
        backend.close()


def _stamped(backend: Backend) -> Backend:
    """Files say where they come from, whoever writes them."""
    from services.gateway.settings import GatewaySettings  # noqa: PLC0415 - as above
    from services.provenance.stamping import Stamped, open_stamp  # noqa: PLC0415

    settings = GatewaySettings()
    stamp = open_stamp(settings.provenance, settings.provenance_folder)
    return backend if stamp is None else Stamped(backend, stamp)


async def _watched(backend: Backend, call: Call) -> Answer:
    """Run a call beside a bar that follows the device seconds still reserved for it."""
    work = asyncio.create_task(backend.run(call))
    try:
        with _progress() as progress:
            bar, most = progress.add_task(f"opening {call.model}", total=None), 0.0
            while not work.done():
                await asyncio.wait({work}, timeout=POLL_SECONDS)
                left = sum(pool.queue_seconds for pool in await backend.status())
                most = max(most, left)
                if most:
                    progress.update(
                        bar, description=f"running {call.model}", total=most, completed=most - left
                    )
        return await work
    finally:
        work.cancel()


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
