"""Where in a trace a call stands: the words of W3C Trace Context, which cross processes as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.core.errors import AtelierError, Canceled

Carrier = Mapping[str, str]
"""``traceparent`` and perhaps ``tracestate``; empty outside any trace."""

_WORDS = TraceContextTextMapPropagator()


def context_of(carrier: Carrier) -> Context:
    """The context in which new spans are children of what the carrier names; malformed, nothing."""
    return _WORDS.extract(carrier, Context())


def carrier_of(span: Span) -> dict[str, str]:
    """The words that name a span."""
    found: dict[str, str] = {}
    _WORDS.inject(found, set_span_in_context(span, Context()))
    return found


def named_by(carrier: Carrier) -> SpanContext:
    """The trace and the span that a carrier names; an invalid one where it names none."""
    return get_current_span(context_of(carrier)).get_span_context()


def describe_error(span: Span, error: BaseException) -> None:
    """Have a span say that it failed, and by which error, but not the error's words.

    They may quote what the client sent.
    """
    kind = error.code if isinstance(error, AtelierError) else type(error).__name__
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        kind = Canceled.code
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def child_span(
    tracer: Tracer,
    name: str,
    carrier: Carrier,
    attributes: Mapping[str, AttributeValue] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """A span below what a carrier names, for as long as the block runs.

    It is not made the current one: blocks in asynchronous generators end in other contexts than
    they began in.
    """
    span = tracer.start_span(name, context_of(carrier), kind, attributes)
    try:
        yield span
    except BaseException as error:
        describe_error(span, error)
        raise
    finally:
        span.end()
