"""The audit log's file: JSON lines that are only ever added, each with the hash of the one before.

Every process of a machine writes to the same file, one after the other under a lock, so its order
is the order in which things happened. Each line holds its number and the SHA-256 of the line
before; the newest number and hash stand in a file of their own, the *head*. So a line that is
changed, removed or put in between breaks the chain, and one that is cut off at the end is missed by
the head. Who may write to the folder can rewrite all of it: note the head down elsewhere, and
``atelier audit verify --head`` tells.

A full file is renamed and never deleted; what is kept for how long is the operator's to decide.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.core.errors import AuditUnavailable, InvalidParameter

CURRENT, HEAD, LOCK = "audit.jsonl", "audit.head", "audit.lock"
NOTHING = "0" * 64
"""The hash before the first line."""
MAX_LINE_BYTES = 1 << 20

_FULL = "audit-{:012d}.jsonl"
_FULL_FILES = "audit-*.jsonl"
_LOG = logging.getLogger(__name__)

Event = Mapping[str, Any]


class AuditSettings(BaseModel):
    """Whether and how is written down who did what.

    Attributes:
        enabled: off by default.
        folder: of the log; ``audit`` beside the key file by default.
        prompts: whether the words of requests are written down too.
        fsync: whether a line has reached the disk before its answer leaves.
        max_bytes: of one file; a larger one is put aside and a new one begun.
        on_failure: what happens to requests while the log cannot be written: ``refuse`` answers
            503, ``continue`` answers as usual and logs an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = False
    folder: Path | None = None
    prompts: bool = False
    fsync: bool = True
    max_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    on_failure: Literal["refuse", "continue"] = "refuse"


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: the number of a line and the hash of its bytes."""

    seq: int = 0
    hash: str = NOTHING

    @classmethod
    def of(cls, line: bytes) -> Link:
        """The place of a line, without its line break.

        Raises:
            ValueError: it is no line of the log.
        """
        entry = json.loads(line)
        if not isinstance(entry, dict) or not isinstance(entry.get("seq"), int):
            raise ValueError("no line of an audit log")  # noqa: TRY004 - as for broken JSON
        return cls(entry["seq"], _hash(line))

    @classmethod
    def parse(cls, text: str) -> Link:
        """Read ``SEQ:HASH``.

        Raises:
            InvalidParameter: it is of another form.
        """
        seq, _, digest = text.strip().partition(":")
        if not seq.isdecimal() or len(digest) != len(NOTHING):
            raise InvalidParameter("a head is NUMBER:HASH, as `atelier audit verify` prints it")
        return cls(int(seq), digest)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.seq}:{self.hash}"


def default_folder(key_file: Path) -> Path:
    """Where the log is kept, unless a setting says otherwise."""
    return key_file.with_name("audit")


class AuditLog:
    """Writes the log. Events that come while one is being written are written together next."""

    def __init__(self, folder: Path, settings: AuditSettings) -> None:
        """Make the folder, and see that it can be written to.

        Raises:
            AuditUnavailable: it cannot.
        """
        self.folder, self.settings = folder, settings
        self._pending: list[tuple[Event, Future[None]]] = []
        self._guard, self._writing = Lock(), Lock()
        # One of its own: a slow disk must not take the threads that others work on.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="atelier-audit")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise _unavailable(error) from error

    async def record(self, event: Event) -> None:
        """Write an event down; it is in the file, and on the disk if so set, when this returns.

        Raises:
            AuditUnavailable: it could not be written, and nothing of it was.
        """
        done = self._waiting(event)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_waiting)
        done.result()

    def write(self, event: Event) -> None:
        """As `record`, for code that may block."""
        done = self._waiting(event)
        self._write_waiting()
        done.result()

    def _waiting(self, event: Event) -> Future[None]:
        done: Future[None] = Future()
        with self._guard:
            self._pending.append((event, done))
        return done

    def _write_waiting(self) -> None:
        with self._writing:
            with self._guard:
                batch, self._pending = self._pending, []
            if batch:
                self._write(batch)

    def _write(self, batch: Sequence[tuple[Event, Future[None]]]) -> None:
        try:
            with self._locked():
                self._append([event for event, _ in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            refusal = _unavailable(error)
            for _, done in batch:
                done.set_exception(refusal)
        else:
            for _, done in batch:
                done.set_result(None)

    def _append(self, events: Sequence[Event]) -> None:
        link = _newest(self.folder)
        lines = []
        for event in events:
            line = line_of(event, link)
            link = Link.of(line)
            lines.append(line + b"\n")
        file = self._current()
        try:
            size = os.fstat(file).st_size
            try:
                _write_all(file, b"".join(lines))
                if self.settings.fsync:
                    os.fsync(file)
                self._note_head(link)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)

    def _current(self) -> int:
        """The file to add to, put aside before if it is full, without half a line at its end."""
        path = self.folder / CURRENT
        if path.exists() and path.stat().st_size >= self.settings.max_bytes:
            last = _last_link(path)
            path.rename(self.folder / _FULL.format(last.seq if last else 0))
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        # A process that died while it wrote may have left half a line, which nobody was told of.
        size = os.fstat(file).st_size
        whole = _whole_bytes(file, size)
        if whole < size:
            os.ftruncate(file, whole)
        return file

    def _note_head(self, link: Link) -> None:
        path = self.folder / HEAD
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            content = f"{link}\n".encode()
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))
            if self.settings.fsync:
                os.fsync(file)
        finally:
            os.close(file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def line_of(event: Event, before: Link) -> bytes:
    """A line. JSON in ASCII: no text can end it, begin another, or speak to a terminal."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"seq": before.seq + 1, "time": now, "previous": before.hash, **event}
    line = json.dumps(entry, ensure_ascii=True, separators=(",", ":"), default=str).encode()
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes; the limit is {MAX_LINE_BYTES}")
    return line


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _whole_bytes(file: int, size: int) -> int:
    """How much of a file consists of whole lines."""
    start = max(0, size - MAX_LINE_BYTES - 1)
    tail = os.pread(file, size - start, start)
    return start + tail.rfind(b"\n") + 1


def _last_link(path: Path) -> Link | None:
    """The place of a file's last whole line."""
    with path.open("rb") as file:
        whole = _whole_bytes(file.fileno(), os.fstat(file.fileno()).st_size)
        start = max(0, whole - MAX_LINE_BYTES - 1)
        lines = os.pread(file.fileno(), whole - start, start).splitlines()
    return Link.of(lines[-1]) if lines else None


def files_of(folder: Path) -> list[Path]:
    """The files of a log, oldest first."""
    current = folder / CURRENT
    return [*sorted(folder.glob(_FULL_FILES)), *([current] if current.exists() else [])]


def read_head(folder: Path) -> Link:
    """The newest place that was noted down.

    Raises:
        InvalidParameter: the file holds no place.
    """
    path = folder / HEAD
    return Link.parse(path.read_text(encoding="ascii")) if path.exists() else Link()


def _newest(folder: Path) -> Link:
    """Where the chain goes on.

    The head is believed over the file: if somebody has cut or changed the file's end, the next line
    does not fit, and stays a witness. A file that is ahead was written by who died before the head.
    """
    try:
        head = read_head(folder)
        files = files_of(folder)
        last = next((link for link in map(_last_link, reversed(files)) if link), Link())
    except (InvalidParameter, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    return last if last.seq > head.seq else head


def _unavailable(error: Exception) -> AuditUnavailable:
    _LOG.error("the audit log cannot be written: %s", error)
    return AuditUnavailable(
        "the service keeps an audit log and cannot write to it now; try again later",
        retry_after=5,
    )
