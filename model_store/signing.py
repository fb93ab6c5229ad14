"""Signatures over manifests, which name the digest of every file: who vouches for a model.

An operator signs what was added to the store, with a key that never comes near the service; a
service that knows the public key serves nothing of the store that is not signed by it. Keys are
Ed25519 (RFC 8032) in PEM, as ``openssl genpkey -algorithm ed25519`` makes them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.atomic_files import write_atomic
from model_store.plain_files import read_plain
from model_store.versions import digest_of
from services.core.errors import IntegrityFailure, InvalidParameter, UntrustedModel
from services.core.versions import of_version

FOLDER = "signatures"
"""Below the root of a store."""
CONTEXT = b"atelier signed record, version 1\x00"
"""So that a signature over a manifest is good for nothing else that a key may sign."""
MAX_BYTES = 4096
MAX_KEY_BYTES = 16 << 10


class Signed(Protocol):
    """A manifest, of a model or of an adapter."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    def model_dump(self, *, mode: Literal["json"], exclude_defaults: bool) -> dict[str, Any]:
        """Itself as plain values."""
        ...

    def model_dump_json(self, *, indent: int | None = ..., exclude_defaults: bool = ...) -> str:
        """Itself as text."""
        ...


class Signature(BaseModel):
    """What lies beside a manifest.

    Attributes:
        version: of this format.
        key: SHA-256 of the public key's 32 bytes, in hexadecimal.
        signature: 64 bytes in base64.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(min_length=88, max_length=88)


class TrustSettings(BaseSettings):
    """``ATELIER_MODELS__PUBLIC_KEYS``: PEM files of those who vouch for models, as a JSON list.

    Without any, models are served as they were stored. With some, whatever is in the user's store
    must be signed by one of them; the catalog comes with the code and is trusted as the code is.
    """

    model_config = SettingsConfigDict(env_prefix="ATELIER_MODELS__", frozen=True, extra="forbid")

    public_keys: tuple[Path, ...] = Field(default=(), max_length=64)


def message_of(record: Signed, noun: str) -> bytes:
    """What is signed: the manifest's own values in JSON with sorted keys, and what it is of.

    Values that are a field's default are left out, so that a field which a later release adds
    breaks no signature.
    """
    values = record.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return CONTEXT + noun.encode() + b"\x00" + text.encode()


def signature_path(root: Path, name: str) -> Path:
    """Where the signature of one record of a store lies, or of one version: ``name@digest``."""
    return root / FOLDER / f"{name}.json"


def sign(
    record: Signed, root: Path, key: Ed25519PrivateKey, *, noun: str = "model", version: str = ""
) -> Signature:
    """Sign a record of a store, and keep the signature beside it in place of any other.

    With ``version``, its whole digest, the signature stays with that version of the record.
    """
    made = Signature(
        key=key_id(key.public_key()),
        signature=base64.b64encode(key.sign(message_of(record, noun))).decode(),
    )
    path = signature_path(root, of_version(record.id, version))
    write_atomic(path, made.model_dump_json(indent=2).encode())
    return made


class TrustedKeys:
    """Those whose signatures count."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """Trust whoever holds the private part of one of these."""
        self._keys = {key_id(key): key for key in keys}

    def check(self, record: Signed, root: Path, *, noun: str = "model") -> None:
        """Refuse a record of a store that none of them has signed as it is.

        Raises:
            UntrustedModel: its signature is missing, unreadable, made by another key, or made over
                something else.
        """
        version = signature_path(root, of_version(record.id, digest_of(record)))
        if version.exists():
            with contextlib.suppress(UntrustedModel):
                self._check(record, version, noun)
                return
        self._check(record, signature_path(root, record.id), noun)

    def _check(self, record: Signed, path: Path, noun: str) -> None:
        subject = f"the {noun} '{record.id}'"
        how = f"check where it comes from, then `atelier models sign {record.id} --key FILE`"
        found = _stored(path, subject, how)
        key = self._keys.get(found.key)
        if key is None:
            raise UntrustedModel(
                f"{subject} is signed by the key {found.key[:16]}..., which is not among "
                f"ATELIER_MODELS__PUBLIC_KEYS; {how}"
            )
        try:
            key.verify(base64.b64decode(found.signature, validate=True), message_of(record, noun))
        except (InvalidSignature, binascii.Error) as error:
            raise UntrustedModel(
                f"the signature of {subject} is not one over its manifest, which was changed "
                f"since; {how}"
            ) from error


def trusted_keys(settings: TrustSettings | None = None) -> TrustedKeys | None:
    """The keys that the operator has named; ``None`` where nobody is asked to vouch for models.

    Raises:
        InvalidParameter: a file cannot be read, or holds no Ed25519 public key.
    """
    paths = (settings or TrustSettings()).public_keys
    return TrustedKeys([read_public_key(path) for path in paths]) if paths else None


def key_id(key: Ed25519PublicKey) -> str:
    """By which signatures name a key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The public key of a PEM file.

    Raises:
        InvalidParameter: it cannot be read, or is no Ed25519 public key.
    """
    data = _read(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidParameter(
            f"{path} holds no Ed25519 public key in PEM; `openssl pkey -in KEY -pubout` gives one"
        )
    return key


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key of a PEM file that nobody else can read.

    Raises:
        InvalidParameter: it cannot be read, can be read by others, or is no unencrypted Ed25519
            private key.
    """
    data = _read(path, secret=True)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidParameter(
            f"{path} holds no unencrypted Ed25519 private key in PEM; `openssl genpkey -algorithm "
            "ed25519` makes one"
        )
    return key


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InvalidParameter(
                    f"{path} can be used by others (mode {stat.S_IMODE(mode):o}): "
                    f"chmod 600 '{path}'"
                )
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be read: {error.strerror}") from error


def _stored(path: Path, subject: str, how: str) -> Signature:
    try:
        data = read_plain(path.parent, path.name, MAX_BYTES)
    except IntegrityFailure as error:
        raise UntrustedModel(f"{subject} is not signed; {how}") from error
    try:
        return Signature.model_validate_json(data)
    except ValidationError as error:
        raise UntrustedModel(f"the signature of {subject} cannot be read; {how}") from error
