"""What an operator may set at the gateway, each with a default and a bound."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.core.errors import InvalidParameter
from services.core.images import ImageLimits
from services.gateway.keys import default_key_file, read_key_file
from services.gateway.oidc import OidcSettings

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GatewaySettings(BaseSettings):
    """Settings of the gateway, from keyword arguments first, then ``ATELIER_*`` variables.

    Sizes are in bytes, times in seconds. Every limit is checked before the work that it bounds.
    """

    model_config = SettingsConfigDict(env_prefix="ATELIER_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    key_file: Path | None = None
    """The keys that `atelier keys` makes; see `services.gateway.keys.default_key_file`."""
    quota_file: Path | None = None
    """What keys have used of their quotas; beside the key file by default."""
    oidc: OidcSettings | None = None
    """Whose tokens are taken in place of keys."""
    api_keys: tuple[Digest, ...] = ()
    """SHA-256 hex digests of further keys, which may do anything."""
    allow_public_bind: bool = False
    default_model: str = "shapes-ldm"

    max_header_fields: Count = 100
    max_header_bytes: Count = 32 << 10
    max_body_bytes: Count = 32 << 20
    max_body_chunks: Count = 65_536
    """Pieces that a body may arrive in: each costs a turn of the event loop, however small."""
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
    def key_path(self) -> Path:
        """Where the key file is."""
        return self.key_file or default_key_file(os.environ)

    @property
    def quota_path(self) -> Path:
        """Where it is kept what keys have used."""
        return self.quota_file or self.key_path.with_name("quotas.sqlite")

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
        InvalidParameter: the host is not a loopback address and nobody would be asked for a key,
            or the key file is open to others.
    """
    asks = bool(settings.api_keys) or settings.oidc is not None or _has_keys(settings.key_path)
    if _is_loopback(settings.host) or asks or settings.allow_public_bind:
        return
    raise InvalidParameter(
        f"refusing to listen on '{settings.host}' without an API key: make one with `atelier keys "
        "create NAME`, listen on 127.0.0.1, or set ATELIER_ALLOW_PUBLIC_BIND=true where something "
        "in front checks who is asking",
        param="host",
    )


def _has_keys(path: Path) -> bool:
    try:
        return bool(read_key_file(path).keys)
    except FileNotFoundError:
        return False
