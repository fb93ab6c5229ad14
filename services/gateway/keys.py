"""API keys: what they look like, how they are stored, and how one is recognised.

A key is ``atl_<id>_<secret>``. The id names a row of the key file, so that one row is compared and
not all; the secret is 256 random bits. Stored is only BLAKE2b of the secret, keyed by a secret of
the file. A slow hash such as Argon2, made for what people can remember, would add nothing: nobody
can try 2^256 keys, however fast each try is; and every request would pay for it. The file's own
secret makes the digests of one installation useless in another.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.core.errors import InvalidApiKey, InvalidParameter, Unavailable
from services.gateway.callers import (
    LEAST_PRIORITY,
    MOST_PRIORITY,
    SCOPES,
    USUAL_PRIORITY,
    Caller,
)
from services.gateway.quotas import Quota

PREFIX = "atl"
ID_BYTES, SECRET_BYTES = 6, 32

_KEY = re.compile(rf"{PREFIX}_([0-9a-f]{{{2 * ID_BYTES}}})_([A-Za-z0-9_-]{{43}})")
_UNKNOWN = "the API key is not known"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOG = logging.getLogger(__name__)

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Letters, digits, dot, underscore and hyphen; at most 64 of them."""


class KeyRow(BaseModel):
    """One key, without the key itself; see `Caller` for what the fields allow.

    Times are seconds since 1970. ``owner`` is the id of the first key of a row of rotations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Hex
    name: Name
    owner: Hex
    digest: Hex
    created: float
    expires: float | None = None
    revoked: float | None = None
    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    priority: Annotated[int, Field(ge=LEAST_PRIORITY, le=MOST_PRIORITY)] = USUAL_PRIORITY
    rate: str | None = None
    device_seconds: str | None = None

    @field_validator("scopes")
    @classmethod
    def _known(cls, scopes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = sorted(set(scopes or ()) - set(SCOPES))
        if unknown:
            raise ValueError(f"no such scope: {', '.join(unknown)}; scopes are {', '.join(SCOPES)}")
        return scopes

    @field_validator("rate", "device_seconds")
    @classmethod
    def _a_quota(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                Quota.parse(text)
            except InvalidParameter as error:
                raise ValueError(error.message) from error
        return text

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        """Whether the key is good at a moment."""
        if self.revoked is not None:
            return "revoked"
        return "active" if self.expires is None or now < self.expires else "expired"

    def caller(self) -> Caller:
        """Who comes with this key."""
        return Caller(
            owner=self.owner,
            scopes=None if self.scopes is None else frozenset(self.scopes),
            models=None if self.models is None else frozenset(self.models),
            priority=self.priority,
            rate=None if self.rate is None else Quota.parse(self.rate),
            device_seconds=(
                None if self.device_seconds is None else Quota.parse(self.device_seconds)
            ),
        )


class KeyFile(BaseModel):
    """The whole file, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    secret: Hex
    keys: tuple[KeyRow, ...] = ()


def default_key_file(environment: Mapping[str, str]) -> Path:
    """Where keys are kept, unless a setting says otherwise.

    ``ATELIER_KEY_FILE``, else ``$XDG_STATE_HOME/atelier/keys.json``, else the same below
    ``~/.local/state``.
    """
    if environment.get("ATELIER_KEY_FILE"):
        return Path(environment["ATELIER_KEY_FILE"]).expanduser()
    state = environment.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "atelier" / "keys.json"


def digest_of_secret(secret: str, file_secret: str) -> str:
    """BLAKE2b of a key's secret, keyed by the file's, in hex."""
    return hashlib.blake2b(
        secret.encode(), key=bytes.fromhex(file_secret), digest_size=32, person=b"atelier-key"
    ).hexdigest()


def split_key(key: str) -> tuple[str, str]:
    """The id and the secret of a key.

    Raises:
        InvalidApiKey: it has not the form of a key.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise InvalidApiKey(_UNKNOWN)
    return found[1], found[2]


def read_key_file(path: Path) -> KeyFile:
    """Read the keys of a file that nobody else can read or write.

    Raises:
        InvalidParameter: others have access to it, or it is no such file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_mode & _OTHERS:
            raise InvalidParameter(
                f"{path} can be used by others (mode {stat.S_IMODE(about.st_mode):o}): "
                f"chmod 600 '{path}'"
            )
        content = file.read()
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise InvalidParameter(f"{path} is no file of keys: {where}: {first['msg']}") from error


class KeyRing:
    """The keys of a file, read again whenever it has changed.

    Once there was a key, the service stays closed: a file that goes missing or cannot be read
    lets nobody in.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Nothing is read before the first question.

        Args:
            path: the file; it need not be there yet.
            now: seconds since 1970.
        """
        self._path, self._now = path, now
        self._seen: tuple[int, int, int] | None = None
        self._secret = secrets.token_hex(SECRET_BYTES)  # until there is a file
        self._rows: dict[str, KeyRow] = {}
        self._in_use = False

    def in_use(self) -> bool:
        """Whether a key was ever made: then every request needs one.

        Raises:
            Unavailable: the file is there, but cannot be read.
        """
        self._refresh()
        return self._in_use

    def caller(self, key: str) -> Caller:
        """Who comes with a key.

        Raises:
            InvalidApiKey: it is not known, has expired or was revoked. Which of them is said only
                to who has the whole key.
            Unavailable: the file cannot be read.
        """
        self._refresh()
        key_id, secret = split_key(key)
        row = self._rows.get(key_id)
        digest = digest_of_secret(secret, self._secret)
        # A key that is not known costs the same comparison.
        if not hmac.compare_digest(digest, row.digest if row else "0" * len(digest)) or row is None:
            raise InvalidApiKey(_UNKNOWN)
        state = row.state(self._now())
        if state != "active":
            verb = "has expired" if state == "expired" else "was revoked"
            raise InvalidApiKey(f"the API key {verb}; ask the operator for another")
        return row.caller()

    def _refresh(self) -> None:
        try:
            about = self._path.stat()
        except FileNotFoundError:
            self._rows, self._seen = {}, None
            return
        except OSError as error:
            raise self._unreadable(error) from error
        seen = (about.st_mtime_ns, about.st_ino, about.st_mode)
        if seen == self._seen:
            return
        try:
            found = read_key_file(self._path)
        except FileNotFoundError:
            self._rows, self._seen = {}, None
            return
        except (InvalidParameter, OSError) as error:
            raise self._unreadable(error) from error
        self._secret = found.secret
        self._rows = {row.id: row for row in found.keys}
        self._in_use = self._in_use or bool(self._rows)
        self._seen = seen

    def _unreadable(self, error: Exception) -> Unavailable:
        self._in_use = True
        _LOG.error("no request can be checked: %s", error)
        return Unavailable("the service cannot read its list of API keys; its log says why")
