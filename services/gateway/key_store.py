"""Making, listing, rotating and revoking API keys, while a service may be reading them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.core.errors import InvalidParameter
from services.gateway.keys import (
    ID_BYTES,
    PREFIX,
    SECRET_BYTES,
    KeyFile,
    KeyRow,
    digest_of_secret,
    read_key_file,
)

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,6})(s|min|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of ``90d``, ``12h``, ``30min`` or ``45s``.

    Raises:
        InvalidParameter: it is of another form.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidParameter(
            f"a time is a number and one of {', '.join(_UNITS)}, such as 90d, got '{text[:40]}'"
        )
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; ``text`` is nowhere else and can never be shown again."""

    text: str
    row: KeyRow


class KeyStore:
    """Changes the key file, one change at a time, each seen whole or not at all."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Take the file's path; the file and its folder are made with the first key."""
        self._path, self._now = path, now

    def rows(self) -> list[KeyRow]:
        """Every key that was ever made, oldest first.

        Raises:
            InvalidParameter: see `read_key_file`.
        """
        return list(self._read().keys)

    def create(self, name: str, **grants: Any) -> NewKey:
        """Make a key.

        Args:
            name: by which it is listed, rotated and revoked.
            grants: fields of `KeyRow`.

        Raises:
            InvalidParameter: an active key has that name, or a grant is none.
        """
        with self._changing() as file:
            if self._active(file, name):
                raise InvalidParameter(
                    f"there is a key '{name}'; `atelier keys rotate {name}` gives it a new secret",
                    param="name",
                )
            new = self._new(file, {**grants, "name": name})
            self._write(file, [*file.keys, new.row])
        return new

    def rotate(self, name: str, *, grace: float) -> NewKey:
        """Make a key that may do what an active one may; that one is good for a while longer.

        Args:
            name: of the key, or its id.
            grace: seconds.

        Raises:
            InvalidParameter: no active key has that name.
        """
        with self._changing() as file:
            old = self._one_active(file, name)[-1]
            grants = old.model_dump(exclude={"id", "digest", "created"})
            new = self._new(file, grants)
            ends = self._now() + grace
            kept = [
                row.model_copy(update={"expires": min(row.expires or ends, ends)})
                if row.owner == old.owner and row.state(self._now()) == "active"
                else row
                for row in file.keys
            ]
            self._write(file, [*kept, new.row])
        return new

    def revoke(self, name: str) -> list[KeyRow]:
        """End every active key of a name, or the one with that id, from the next request on.

        Raises:
            InvalidParameter: no active key has that name.
        """
        with self._changing() as file:
            ended = self._one_active(file, name)
            gone = {row.id for row in ended}
            now = self._now()
            rows = [
                row.model_copy(update={"revoked": now}) if row.id in gone else row
                for row in file.keys
            ]
            self._write(file, rows)
        return ended

    def _active(self, file: KeyFile, name: str) -> list[KeyRow]:
        now = self._now()
        return [
            row for row in file.keys if name in (row.name, row.id) and row.state(now) == "active"
        ]

    def _one_active(self, file: KeyFile, name: str) -> list[KeyRow]:
        found = self._active(file, name)
        if not found:
            known = sorted({row.name for row in file.keys if row.state(self._now()) == "active"})
            raise InvalidParameter(
                f"no active key is named '{name[:80]}'; there are: {', '.join(known) or 'none'}",
                param="name",
            )
        return found

    def _new(self, file: KeyFile, fields: dict[str, Any]) -> NewKey:
        key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        try:
            row = KeyRow.model_validate(
                {
                    "owner": key_id,
                    **fields,
                    "id": key_id,
                    "digest": digest_of_secret(secret, file.secret),
                    "created": self._now(),
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidParameter(f"'{first['loc'][0]}': {first['msg']}") from error
        return NewKey(f"{PREFIX}_{key_id}_{secret}", row)

    def _read(self) -> KeyFile:
        try:
            return read_key_file(self._path)
        except FileNotFoundError:
            return KeyFile(secret=secrets.token_hex(SECRET_BYTES))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[KeyFile]:
        """The file as it is, while nobody else changes it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()
        finally:
            os.close(lock)

    def _write(self, file: KeyFile, rows: Sequence[KeyRow]) -> None:
        """Put a new file, which only its owner can read, in the place of the old one."""
        content = file.model_copy(update={"keys": tuple(rows)}).model_dump_json(indent=2)
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".keys-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as target:
                target.write(content)
                target.flush()
                os.fsync(target.fileno())
            Path(temporary).replace(self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
