"""Reading an audit log again: whether its chain is whole, and what happened last."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.core.errors import AtelierError, InvalidParameter
from services.gateway.audit_log import NOTHING, Link, files_of, read_head


class AuditBroken(AtelierError):
    """The chain of an audit log is not whole; says where."""

    code = "audit_broken"


@dataclass(frozen=True, slots=True)
class Verified:
    """A log whose chain is whole: its lines, its files, and its last place."""

    lines: int
    files: int
    head: Link


def verify(folder: Path, *, noted: Link | None = None, first: int = 1) -> Verified:
    """Check every line of a log.

    Args:
        folder: of the log.
        noted: a head that was noted down before, which must still be in the chain.
        first: the number of the first line that must be there, where older files were archived.

    Raises:
        InvalidParameter: there is no log.
        AuditBroken: a line was changed, removed, added or cut off.
    """
    if not files_of(folder):
        raise InvalidParameter(f"there is no audit log in {folder}")
    head = read_head(folder)
    expected = {link.seq: link.hash for link in (head, noted) if link is not None and link.seq}
    before: Link | None = None
    count = 0
    for name, number, line in _lines(folder):
        before = _checked(line, before, f"{name}:{number}", first)
        count += 1
        known = expected.pop(before.seq, before.hash)
        if known != before.hash:
            raise AuditBroken(f"{name}:{number}: line {before.seq} is not the one that was noted")
    missing = [seq for seq in expected if seq >= first]
    if missing:
        raise AuditBroken(f"lines are missing at the end: line {min(missing)} was written once")
    return Verified(count, len(files_of(folder)), before or Link())


def tail(folder: Path, count: int) -> list[dict[str, Any]]:
    """The last so many events, oldest first.

    Raises:
        InvalidParameter: there is no log.
    """
    if not files_of(folder):
        raise InvalidParameter(f"there is no audit log in {folder}")
    last = deque((line for _, _, line in _lines(folder)), maxlen=count)
    return [json.loads(line) for line in last]


def _lines(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in files_of(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield path.name, number, line


def _checked(line: bytes, before: Link | None, where: str, first: int) -> Link:
    if not line.endswith(b"\n"):
        raise AuditBroken(f"{where}: half a line")
    try:
        link = Link.of(line[:-1])
        previous = json.loads(line)["previous"]
    except (ValueError, KeyError) as error:
        raise AuditBroken(f"{where}: no line of an audit log") from error
    if before is None:
        if link.seq != first or (first == 1 and previous != NOTHING):
            raise AuditBroken(f"{where}: the log begins with line {link.seq}, not {first}")
    elif link.seq != before.seq + 1 or previous != before.hash:
        raise AuditBroken(
            f"{where}: line {link.seq} does not follow line {before.seq}: something between them "
            "was removed, or one of them changed"
        )
    return link
