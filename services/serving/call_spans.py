"""The spans of one call's way through a pool.

The loop's thread only notes times (`services.runtime.trail`); spans are made of them on the event
loop when the call has left, and sent by a thread of the exporter's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from services.core.job import Call
from services.core.trace_context import context_of, describe_error, named_by
from services.runtime.trail import Stretch, Trail

NAMES: Mapping[str, str] = {
    "prepare": "atelier.prepare",
    "step": "atelier.steps",
    "decode": "atelier.decode",
    "encode": "atelier.encode",
}
"""Spans by stage, in the order in which a call goes through them."""

ENCODE = "encode"


class CallSpans:
    """Makes the spans of a pool's calls, of those that are sampled.

    Args:
        tracer: makes the spans.
        step_spans: most spans of single evaluations below each ``atelier.steps``.
    """

    def __init__(self, tracer: Tracer | None = None, step_spans: int = 0) -> None:
        self._tracer = tracer or NoOpTracer()
        self._on = not isinstance(self._tracer, NoOpTracer)
        self._step_spans = step_spans

    @contextmanager
    def followed(self, call: Call, rows: int) -> Iterator[Followed]:
        """Make a call's spans when the block ends, whichever way it does.

        Args:
            call: which; its ``trace`` names the span that those are below.
            rows: that it has.
        """
        if not (self._on and named_by(call.trace).trace_flags.sampled):
            yield Followed(None)
            return
        trail = Trail(time.monotonic(), self._step_spans)
        followed = Followed(trail)
        try:
            yield followed
        except BaseException as error:
            self._tell(call, trail, rows, error)
            raise
        self._tell(call, trail, rows, None)

    def _tell(self, call: Call, trail: Trail, rows: int, error: BaseException | None) -> None:
        context, clock = context_of(call.trace), _Clock()
        common: dict[str, AttributeValue] = {"atelier.model": call.model, "atelier.rows": rows}
        stretches = {stage: trail.stretches[stage] for stage in NAMES if stage in trail.stretches}
        began = min((s.began for s in stretches.values()), default=clock.now)
        failed_in = list(stretches)[-1] if stretches else ""
        queue = self._span("atelier.queue", context, trail.submitted, clock, common)
        _end(queue, began, clock, None if stretches else error)
        for stage, stretch in stretches.items():
            attributes = {**common, **_said(stage, stretch)}
            if stage == "step":
                attributes["atelier.steps"] = trail.planned
            span = self._span(NAMES[stage], context, stretch.began, clock, attributes)
            if stage == "step":
                self._tell_steps(span, trail, clock)
            _end(span, stretch.ended, clock, error if stage == failed_in else None)

    def _tell_steps(self, parent: Span, trail: Trail, clock: _Clock) -> None:
        context = set_span_in_context(parent, Context())
        for index, step in enumerate(trail.steps):
            said = {
                "atelier.step": index + 1,
                "atelier.batch.rows": step.rows + step.mates,
                "atelier.batch.mates": step.mates,
            }
            _end(self._span("atelier.step", context, step.began, clock, said), step.ended, clock)

    def _span(
        self,
        name: str,
        context: Context,
        began: float,
        clock: _Clock,
        attributes: Mapping[str, AttributeValue],
    ) -> Span:
        return self._tracer.start_span(
            name, context, attributes=attributes, start_time=clock.nanoseconds(began)
        )


class Followed:
    """A call under way: the trail that the loop is to keep of it, where there is one."""

    def __init__(self, trail: Trail | None) -> None:
        """See `CallSpans.followed`."""
        self.trail = trail

    def encoded(self, began: float, ended: float) -> None:
        """Results of it were encoded meanwhile, on ``time.monotonic``."""
        if self.trail is not None:
            self.trail.evaluated(ENCODE, began, ended, 0, 0)


class _Clock:
    """What ``time.monotonic`` is on the clock of the traces."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._offset = time.time() - self.now

    def nanoseconds(self, moment: float) -> int:
        return int((moment + self._offset) * 1e9)


def _end(span: Span, at: float, clock: _Clock, error: BaseException | None = None) -> None:
    if error is not None:
        describe_error(span, error)
    span.end(clock.nanoseconds(at))


def _said(stage: str, stretch: Stretch) -> dict[str, AttributeValue]:
    """What a stage's span says besides its times."""
    if stage == ENCODE:
        return {}
    return {
        "atelier.evaluations": stretch.evaluations,
        "atelier.device.busy_seconds": round(stretch.busy, 6),
        "atelier.batch.rows.max": stretch.most_rows,
        "atelier.batch.mates.max": stretch.most_mates,
    }
