"""Optional bearer keys, of which the service knows only digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.core.errors import InvalidApiKey
from services.gateway.settings import GatewaySettings

Authenticate = Callable[..., Awaitable[None]]


def is_known(key: str, digests: tuple[str, ...]) -> bool:
    """Whether a key's SHA-256 is among the digests, in time that tells nothing about them."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    matches = [hmac.compare_digest(digest, known) for known in digests]
    return any(matches)


def authentication(settings: GatewaySettings) -> Authenticate:
    """A dependency that lets a request pass whose key is known, or any where no keys are set."""
    scheme = HTTPBearer(auto_error=False, description="An API key, where the operator set any.")

    async def authenticate(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)],
    ) -> None:
        if not settings.api_keys:
            return
        if credentials is None:
            raise InvalidApiKey("no API key; send the header 'Authorization: Bearer <key>'")
        if not is_known(credentials.credentials, settings.api_keys):
            raise InvalidApiKey("the API key is not known")

    return authenticate
