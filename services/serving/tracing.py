"""Where spans of this process go, as OpenTelemetry's own variables say."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer, Tracer

from services.core.errors import InvalidParameter

if TYPE_CHECKING:  # the SDK is there only where spans are to be sent
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

SCOPE = "atelier"
MODULES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_SECONDS = 5.0
"""How long a process that stops waits for its last spans to be taken."""

log = logging.getLogger(__name__)


class Tracing:
    """The tracer of one process, and what sends its spans."""

    def __init__(
        self, provider: TracerProvider | None = None, exporter: SpanExporter | None = None
    ) -> None:
        """Take what spans go to; without it none are made."""
        self._provider, self._exporter = provider, exporter
        self.tracer: Tracer = NoOpTracer() if provider is None else provider.get_tracer(SCOPE)

    @property
    def on(self) -> bool:
        """Whether spans are made at all."""
        return self._provider is not None

    def close(self) -> None:
        """Send what was not sent yet; waits for `FLUSH_SECONDS` at most: not for an event loop."""
        if self._provider is None:
            return
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)
        if sending.is_alive() and self._exporter is not None:
            log.warning("the last spans were not taken within %g s and are lost", FLUSH_SECONDS)
            self._exporter.shutdown()


def open_tracing(environment: Mapping[str, str], *, part: str) -> Tracing:
    """Tracing, off unless the environment names an endpoint for OTLP over HTTP.

    The SDK reads everything else itself: ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``,
    ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_BSP_SCHEDULE_DELAY`` ...

    Args:
        environment: usually ``os.environ``.
        part: which part of the service this process is: ``gateway`` or a pool's name.

    Raises:
        InvalidParameter: an endpoint is named, and what would send to it is not installed.
    """
    if not is_wanted(environment):
        return Tracing()
    if not all(_is_installed(module) for module in MODULES):
        raise InvalidParameter(
            "an OTLP endpoint is set, but OpenTelemetry's SDK and exporter are not installed: "
            "pip install 'atelier[otel]', or set OTEL_SDK_DISABLED=true"
        )
    # Only here: whoever sends no spans needs neither.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    own = {"atelier.part": part}
    if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        own["service.name"] = SCOPE
    exporter = OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, exporter)


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for spans to be sent."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter not in ("otlp", "none"):
        log.warning("OTEL_TRACES_EXPORTER is %r; only 'otlp' and 'none' are known", exporter)
    return exporter == "otlp" and any(environment.get(name, "").strip() for name in ENDPOINTS)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
