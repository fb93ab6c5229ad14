"""Tokens of an OpenID Connect issuer (JWT, RFC 7519), checked against the issuer's public keys.

Only algorithms with public keys are ever taken, and a key only for its own algorithm: neither
``none`` nor an HMAC keyed by a public key (RFC 8725, section 2.1) can pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jwt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.core.errors import AtelierError, InvalidApiKey, InvalidParameter, Unavailable
from services.gateway.callers import SCOPES, Caller
from services.gateway.fetch import check_url, fetch, is_url
from services.gateway.quotas import Quota

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]

LONGEST_TOKEN = 8192
MAX_JWKS_BYTES = 256 << 10
MAX_JWKS_KEYS = 64
KEEP_SECONDS = 600.0
"""The issuer's keys are read again after so long."""
AGAIN_SECONDS = 30.0
"""And for a key that is not among them, but not more often than this: anybody can name one."""

_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The kind of key that an algorithm takes, by its first letters."""
_REQUIRED = ("exp", "iss", "aud", "sub")
_LOG = logging.getLogger(__name__)


class OidcSettings(BaseModel):
    """Whose tokens are taken.

    Attributes:
        issuer: the ``iss`` that a token must have.
        audience: one of the ``aud`` that it must have.
        jwks: the issuer's public keys: an https URL, or a file.
        algorithms: that a token may be signed by.
        leeway: seconds by which the issuer's clock may differ from ours.
        scope_claim: the claim with what the token allows: words with spaces between, or a list.
        scope_prefix: stands before each of our scopes there, such as ``atelier:``.
        rate: requests of each subject, such as ``60/min``.
        device_seconds: seconds of the device for each subject, such as ``600/h``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    jwks: Annotated[str, Field(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    leeway: Annotated[float, Field(ge=0, le=300)] = 30.0
    scope_claim: str = "scope"
    scope_prefix: str = ""
    rate: str | None = None
    device_seconds: str | None = None

    @field_validator("jwks")
    @classmethod
    def _safe(cls, place: str) -> str:
        if is_url(place):
            try:
                check_url(place)
            except InvalidParameter as error:
                raise ValueError(error.message) from error
        return place

    @field_validator("rate", "device_seconds")
    @classmethod
    def _a_quota(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                Quota.parse(text)
            except InvalidParameter as error:
                raise ValueError(error.message) from error
        return text


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, its kind, and the one algorithm that it is for, where its issuer says so."""

    public: Any
    kind: str
    algorithm: str | None

    def takes(self, algorithm: str) -> bool:
        """Whether the key may have signed by an algorithm."""
        return self.kind == _KINDS[algorithm[:2]] and self.algorithm in (None, algorithm)


class IssuerKeys:
    """The public keys of an issuer, kept for a while, read again when it has new ones."""

    def __init__(self, place: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read before the first question.

        Args:
            place: see `OidcSettings.jwks`.
            now: seconds that only ever grow.
        """
        self._place, self._now = place, now
        self._keys: dict[str | None, IssuerKey] | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def find(self, key_id: str | None) -> IssuerKey | None:
        """The key of that id; without an id the only key, where there is but one.

        Raises:
            Unavailable: the keys were never read and cannot be read now.
        """
        if self._keys is None or self._age() > KEEP_SECONDS:
            await self._read(KEEP_SECONDS)
        found = self._pick(key_id)
        if found is None and self._age() > AGAIN_SECONDS:
            await self._read(AGAIN_SECONDS)
            found = self._pick(key_id)
        return found

    def _age(self) -> float:
        return self._now() - self._read_at

    def _pick(self, key_id: str | None) -> IssuerKey | None:
        keys = self._keys or {}
        if key_id is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(key_id)

    async def _read(self, oldest: float) -> None:
        """Read the keys, unless somebody did while we waited. Old ones stay if that fails."""
        async with self._lock:
            if self._keys is not None and self._age() <= oldest:
                return
            try:
                found = parse_jwks(await fetch(self._place, max_bytes=MAX_JWKS_BYTES))
            except AtelierError as error:
                _LOG.error("the issuer's keys: %s", error)
                if self._keys is None:
                    raise Unavailable(
                        "the service cannot read the token issuer's keys; its log says why",
                        retry_after=AGAIN_SECONDS,
                    ) from error
                self._read_at = max(self._read_at, self._now() - KEEP_SECONDS + AGAIN_SECONDS)
                return
            self._keys, self._read_at = found, self._now()


def parse_jwks(content: bytes) -> dict[str | None, IssuerKey]:
    """The signing keys of a JSON Web Key Set (RFC 7517) by id; secret and unknown ones left out.

    Raises:
        InvalidParameter: it is no such set, or holds too many keys.
    """
    try:
        entries = json.loads(content)["keys"]
        if not isinstance(entries, list) or len(entries) > MAX_JWKS_KEYS:
            raise InvalidParameter(f"a key set is a list of at most {MAX_JWKS_KEYS} keys")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidParameter("it is no JSON Web Key Set") from error
    found: dict[str | None, IssuerKey] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if entry.get("use", "sig") != "sig":
            continue
        try:
            public = jwt.PyJWK({k: v for k, v in entry.items() if k != "d"}).key
        except jwt.PyJWTError as error:
            _LOG.warning("a key of the issuer is passed over: %s", error)
            continue
        key_id, algorithm = entry.get("kid"), entry.get("alg")
        found[key_id if isinstance(key_id, str) else None] = IssuerKey(
            public, entry["kty"], algorithm
        )
    return found


class TokenVerifier:
    """Says who comes with a token."""

    def __init__(
        self, settings: OidcSettings, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the issuer; its keys are read with the first token."""
        self._settings = settings
        self._keys = IssuerKeys(settings.jwks, now=now)

    async def caller(self, token: str) -> Caller:
        """Who comes with a token.

        Raises:
            InvalidApiKey: it is malformed, forged, expired, or meant for somebody else.
            Unavailable: the issuer's keys cannot be read.
        """
        if len(token) > LONGEST_TOKEN:
            raise InvalidApiKey(f"the token is longer than {LONGEST_TOKEN} characters")
        try:
            return self._granted(await self._claims(token))
        except jwt.ExpiredSignatureError as error:
            raise InvalidApiKey("the token has expired") from error
        except jwt.PyJWTError as error:
            raise InvalidApiKey(f"the token is not valid here: {error}") from error

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise jwt.InvalidAlgorithmError("it is signed by an algorithm that is not taken")
        key = await self._keys.find(key_id if isinstance(key_id, str) else None)
        if key is None:
            raise jwt.InvalidKeyError("it is signed by a key that the issuer does not list")
        if not key.takes(algorithm):
            raise jwt.InvalidAlgorithmError("it is signed by an algorithm that is not the key's")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[algorithm],
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=self._settings.leeway,
            options={"require": list(_REQUIRED)},
        )
        return claims

    def _granted(self, claims: Mapping[str, Any]) -> Caller:
        settings = self._settings
        said = claims.get(settings.scope_claim, "")
        words = said.split() if isinstance(said, str) else said
        words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
        prefix = settings.scope_prefix
        granted = {word.removeprefix(prefix) for word in words if word.startswith(prefix)}
        subject = f"{claims['iss']}\0{claims['sub']}".encode()
        return Caller(
            owner=f"oidc-{hashlib.blake2b(subject, digest_size=16).hexdigest()}",
            scopes=frozenset(granted & set(SCOPES)),
            rate=None if settings.rate is None else Quota.parse(settings.rate),
            device_seconds=(
                None if settings.device_seconds is None else Quota.parse(settings.device_seconds)
            ),
        )
