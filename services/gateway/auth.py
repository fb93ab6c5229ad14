"""Who sent a request: an API key, a token of an issuer, or anybody where neither is asked for."""

from __future__ import annotations

import hashlib
import hmac

from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from services.core.errors import InvalidApiKey
from services.gateway.callers import ANYBODY, Caller
from services.gateway.exchange import exchange_in
from services.gateway.hosts import check_host
from services.gateway.keys import PREFIX, KeyRing
from services.gateway.metering import Meter
from services.gateway.oidc import TokenVerifier
from services.gateway.settings import GatewaySettings

KEY_HEADER = "api-key"
"""How Azure's variant of OpenAI's client sends its key."""
_TOKEN_DOTS = 2


def digest_of(key: str) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def is_known(key: str, digests: tuple[str, ...]) -> bool:
    """Whether a key's SHA-256 is among the digests, in time that tells nothing about them."""
    digest = digest_of(key)
    matches = [hmac.compare_digest(digest, known) for known in digests]
    return any(matches)


class ApiKeys(HTTPBearer):
    """A dependency that lets a request pass whose sender may, or any where no keys are set.

    Keys come from the key file, whose changes are seen at once, and from the settings; tokens from
    the issuer that the settings name.
    """

    def __init__(self, settings: GatewaySettings, meter: Meter) -> None:
        super().__init__(
            scheme_name="ApiKey",
            description="An API key or a token, where the operator asks for one. The header "
            "`api-key: <key>` says the same.",
            auto_error=False,
        )
        self._settings = settings
        self._digests = settings.api_keys
        self._ring = KeyRing(settings.key_path)
        self._tokens = None if settings.oidc is None else TokenVerifier(settings.oidc)
        self._meter = meter

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        """Find out who is asking, and count the request.

        Raises:
            InvalidApiKey: the key or token is missing or not good.
            Forbidden: nobody is asked for a key, and the request came by a stranger's name.
            QuotaExceeded: its requests are used up for now.
            Unavailable: what keys are checked against cannot be read.
        """
        exchange = exchange_in(request.scope)
        exchange.caller = await self._caller(request)
        await self._meter.count(exchange)
        return None

    async def _caller(self, request: HTTPConnection) -> Caller:
        in_use = self._ring.in_use()
        if not (in_use or self._digests or self._tokens):
            check_host(request.headers.get("host", ""), self._settings)
            return ANYBODY
        key = credential_in(request)
        if self._digests and is_known(key, self._digests):
            return Caller(owner=digest_of(key))
        if self._tokens is not None and is_token(key):
            return await self._tokens.caller(key)
        return self._ring.caller(key)


def is_token(key: str) -> bool:
    """Whether it has the form of a JWT and not that of a key."""
    return key.count(".") == _TOKEN_DOTS and not key.startswith(f"{PREFIX}_")


def credential_in(request: HTTPConnection) -> str:
    """The one key or token that a request carries.

    Raises:
        InvalidApiKey: it carries none, or several, of which another server might take another.
    """
    given = [value.partition(" ") for value in request.headers.getlist("authorization")]
    keys = [rest.strip() for scheme, _, rest in given if scheme.lower() == "bearer"]
    keys += [value.strip() for value in request.headers.getlist(KEY_HEADER)]
    if len(given) > 1 or len(set(keys)) > 1:
        raise InvalidApiKey("more than one API key; send one")
    if not keys or not keys[0]:
        raise InvalidApiKey("no API key; send the header 'Authorization: Bearer <key>'")
    return keys[0]
