"""Optional bearer keys, of which the service knows only digests."""

from __future__ import annotations

import hashlib
import hmac

from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from services.core.errors import InvalidApiKey
from services.gateway.settings import GatewaySettings


def is_known(key: str, digests: tuple[str, ...]) -> bool:
    """Whether a key's SHA-256 is among the digests, in time that tells nothing about them."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    matches = [hmac.compare_digest(digest, known) for known in digests]
    return any(matches)


class ApiKeys(HTTPBearer):
    """A dependency that lets a request pass whose key is known, or any where no keys are set."""

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(
            scheme_name="ApiKey",
            description="An API key, where the operator set any.",
            auto_error=False,
        )
        self._digests = settings.api_keys

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        """Check the key.

        Raises:
            InvalidApiKey: it is missing or not known.
        """
        credentials = await super().__call__(request)
        if not self._digests:
            return credentials
        if credentials is None:
            raise InvalidApiKey("no API key; send the header 'Authorization: Bearer <key>'")
        if not is_known(credentials.credentials, self._digests):
            raise InvalidApiKey("the API key is not known")
        return credentials
