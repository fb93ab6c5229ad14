"""The files of jobs, in a folder or a bucket: inputs until a job is done, artefacts until it goes.

A job's files lie in a folder of its name. An artefact's name follows from its index and from the
attempt that made it: whoever was thought dead and still writes touches no file of a later attempt,
and two files that were signed at different moments are never mixed up.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from services.core.errors import JobNotFound, Unavailable

T = TypeVar("T")

_THREADS = 4
_FOLDER = re.compile(r"job-[0-9a-f]{32}")
_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-tar": "tar",
}


def artefact_name(index: int, attempt: int, media_type: str) -> str:
    """Where an artefact is kept."""
    return f"{index:06d}-{attempt}.{_EXTENSIONS.get(media_type, 'bin')}"


def input_name(digest: str) -> str:
    """Where a file of a request is kept."""
    return f"input-{digest}"


class ArtefactStore:
    """Puts, gets and removes files by job and name. Nothing of it blocks the event loop."""

    def __init__(self, url: str) -> None:
        """Take a folder, or a URL that fsspec opens; nothing is touched yet."""
        self._url = url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="atelier-files")
        self._opened: tuple[Any, str] | None = None

    async def open(self) -> None:
        """Find the file system, and make the folder where there is none.

        Raises:
            Unavailable: it cannot be used.
        """

        def make() -> None:
            files, root = self._files()
            if isinstance(files, LocalFileSystem):
                Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)

        await self._run(make)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False)

    async def put(self, job_id: str, name: str, content: bytes) -> None:
        """Keep a file, whole or not at all, in the place of any of that name.

        Raises:
            Unavailable: it could not be written.
        """

        def write() -> None:
            files, root = self._files()
            path = f"{root}/{job_id}/{name}"
            if not isinstance(files, LocalFileSystem):
                files.pipe_file(path, content)
                return
            files.makedirs(f"{root}/{job_id}", exist_ok=True)
            unfinished = f"{path}.{secrets.token_hex(4)}.part"
            try:
                files.pipe_file(unfinished, content)
                files.mv(unfinished, path)
            except OSError:  # such as a full disk, which must not be kept full by what did not fit
                with contextlib.suppress(OSError):
                    files.rm_file(unfinished)
                raise

        await self._run(write)

    async def get(self, job_id: str, name: str) -> bytes:
        """A file.

        Raises:
            JobNotFound: it is not there.
            Unavailable: it could not be read.
        """

        def read() -> bytes:
            files, root = self._files()
            content: bytes = files.cat_file(f"{root}/{job_id}/{name}")
            return content

        return await self._run(read)

    async def keep_only(self, job_id: str, names: Collection[str]) -> None:
        """Remove every file of a job but some.

        Raises:
            Unavailable: not all could be removed.
        """

        def remove() -> None:
            files, root = self._files()
            folder = f"{root}/{job_id}"
            with contextlib.suppress(FileNotFoundError):
                for path in files.find(folder):
                    if path.rpartition("/")[2] not in names:
                        files.rm_file(path)
            if not names:
                with contextlib.suppress(FileNotFoundError, OSError):
                    files.rmdir(folder)

        await self._run(remove)

    async def folders(self) -> dict[str, float]:
        """Every job's folder, with when something was last put into it, in seconds since 1970.

        Raises:
            Unavailable: they could not be listed.
        """

        def look() -> dict[str, float]:
            files, root = self._files()
            found: dict[str, float] = {}
            with contextlib.suppress(FileNotFoundError):
                for entry in files.ls(root, detail=True):
                    name = entry["name"].rstrip("/").rpartition("/")[2]
                    if entry["type"] == "directory" and _FOLDER.fullmatch(name):
                        inside = files.find(f"{root}/{name}", detail=True).values()
                        found[name] = max(map(_changed, inside), default=_changed(entry))
            return found

        return await self._run(look)

    def _files(self) -> tuple[Any, str]:
        """The file system and the root within it. Called in our threads alone."""
        if self._opened is None:
            files, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
            self._opened = files, str(root).rstrip("/")
        return self._opened

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError as error:
            raise JobNotFound("the file is not there; its job may have been removed") from error
        except OSError as error:
            raise Unavailable(
                "the files of jobs cannot be reached; try again", retry_after=1.0
            ) from error


def _changed(entry: dict[str, Any]) -> float:
    when = entry.get("mtime") or entry.get("LastModified") or 0.0
    return when.timestamp() if isinstance(when, datetime) else float(when)
