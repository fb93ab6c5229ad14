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
from services.core.isolated_decoder import DecodingSettings
from services.core.logs import LogSettings
from services.gateway.audit_log import AuditSettings, default_folder
from services.gateway.keys import default_key_file, read_key_file
from services.gateway.oidc import OidcSettings
from services.gateway.tracing_settings import TracingSettings
from services.jobs.settings import JobSettings
from services.jobs.webhooks import WebhookSettings
from services.policies.settings import PoliciesSettings
from services.provenance.credentials import load_credentials
from services.provenance.settings import ProvenanceSettings

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
VersionDigits = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GatewaySettings(BaseSettings):
    """Settings of the gateway, from keyword arguments first, then ``ATELIER_*`` variables.

    Sizes are in bytes, times in seconds. Every limit is checked before the work that it bounds.
    """

    model_config = SettingsConfigDict(
        env_prefix="ATELIER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

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
    pins: Annotated[dict[str, VersionDigits], Field(max_length=1024)] = {}
    """By a model's name, the digest of the version that is served whatever is stored later."""

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

    log: LogSettings = LogSettings()
    """How the gateway and its pools log."""
    tracing: TracingSettings = TracingSettings()
    """What OpenTelemetry's own variables leave open."""

    provenance: ProvenanceSettings = ProvenanceSettings()
    """What images say of where they come from: ``ATELIER_PROVENANCE__ENABLED`` and so on."""

    policies: PoliciesSettings = PoliciesSettings()
    """What may be asked for and shown; see `services.policies.settings`."""
    audit: AuditSettings = AuditSettings()
    """Whether it is written down who asked for what; see `services.gateway.audit_log`."""

    allowed_hosts: tuple[str, ...] = ()
    """Names by which a service that asks for no key may be called, besides addresses and names of
    one part; see `services.gateway.hosts`."""
    fetch_urls: bool = False
    """Whether images may be named by an https URL, which is then fetched."""
    fetch_private: bool = False
    """For development only: also http, and addresses that are not global. Whoever may send images
    can then reach what only this machine can reach."""
    fetch_timeout: Annotated[float, Field(gt=0, le=60)] = 10.0
    """For one image."""
    public_url: Annotated[str, Field(pattern=r"^https?://[^/?#]+[^?#]*$")] | None = None
    """What the service is reached by, for URLs in predictions and their webhooks; as each client
    came by default."""
    webhooks: WebhookSettings = WebhookSettings()
    """Who is told of jobs: ``ATELIER_WEBHOOKS__ENABLED`` and so on."""
    decoding: DecodingSettings = DecodingSettings()
    """The processes that decode uploaded images: ``ATELIER_DECODING__PROCESSES`` and so on."""
    jobs: JobSettings = JobSettings()
    """Work that outlives its request: ``ATELIER_JOBS__ENABLED`` and so on."""

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
    def provenance_folder(self) -> Path:
        """Where the certificate and key for development are kept."""
        return self.key_path.with_name("provenance")

    @property
    def audit_folder(self) -> Path:
        """Where the audit log is."""
        return self.audit.folder or default_folder(self.key_path)

    @property
    def jobs_folder(self) -> Path:
        """Where jobs and their files are kept, unless their own settings say otherwise."""
        return self.key_path.parent

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


def check_provenance(settings: GatewaySettings) -> None:
    """Refuse credentials that cannot be used, before anything is started; makes missing ones.

    Raises:
        InvalidParameter: see `services.provenance.credentials.load_credentials`.
    """
    if settings.provenance.enabled:
        load_credentials(settings.provenance, settings.provenance_folder)


def _has_keys(path: Path) -> bool:
    try:
        return bool(read_key_file(path).keys)
    except FileNotFoundError:
        return False
