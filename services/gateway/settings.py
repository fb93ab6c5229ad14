"""What an operator may set at the gateway, each with a default and a bound."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.core.errors import InvalidParameter
from services.core.images import ImageLimits

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GatewaySettings(BaseSettings):
    """Settings of the gateway, from keyword arguments first, then ``ATELIER_*`` variables.

    ``api_keys`` are SHA-256 hex digests; without any, the routes are open. Sizes are in bytes,
    times in seconds. Every limit is checked before the work that it bounds.
    """

    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_keys: tuple[Digest, ...] = ()
    allow_public_bind: bool = False
    default_model: str = "shapes-ldm"

    max_body_bytes: Count = 32 << 20
    max_parts: Count = 32
    """Files in one multipart body."""
    max_fields: Count = 64
    max_field_bytes: Count = 8 << 20
    max_json_depth: Count = 16
    max_json_values: Count = 100_000
    body_timeout: Seconds = 30.0
    """How long a client may take to send a body."""

    max_prompt_chars: Count = 2000
    max_images: Count = 64
    max_input_images: Count = 32
    max_steps: Count = 1000
    max_samples: Count = 4096
    max_image_bytes: Count = 20 << 20
    max_image_pixels: Count = 16 << 20

    default_deadline: Seconds | None = None
    """Given to requests that name none; without it the loop chooses one from the work's cost."""
    max_deadline: Seconds = 600.0
    deadline_grace: Seconds = 0.5
    """How much longer than the deadline the gateway waits for the backend's own refusal."""
    max_retry_after: Annotated[int, Field(ge=1, le=120)] = 120

    stream_heartbeat: Seconds = 10.0
    """A stream says that it is alive after so long without an event."""
    stream_patience: Seconds = 60.0
    """A client that takes nothing of its stream for so long counts as gone."""

    emit_request_id: bool = True
    """Off behind a server that adds ``x-request-id`` itself, as Ray Serve's proxies do."""

    @property
    def image_limits(self) -> ImageLimits:
        """What an uploaded image may be."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: GatewaySettings) -> None:
    """Refuse to listen beyond this machine while anybody could use the service.

    Raises:
        InvalidParameter: the host is not a loopback address and no API key is configured.
    """
    if _is_loopback(settings.host) or settings.api_keys or settings.allow_public_bind:
        return
    raise InvalidParameter(
        f"refusing to listen on '{settings.host}' without an API key: set ATELIER_API_KEYS to a "
        'JSON list of SHA-256 digests (["<sha256 of your key>"]), listen on 127.0.0.1, or set '
        "ATELIER_ALLOW_PUBLIC_BIND=true where something in front checks who is asking",
        param="host",
    )
