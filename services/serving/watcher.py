"""What the loop's thread notes down of a call that somebody watches."""

from __future__ import annotations

import time

from services.core import images as codec
from services.core.images import Pixels
from services.core.job import Encoding, Preview, Progress, Watch
from services.runtime.ticket import Ticket
from services.serving.mailbox import Glimpse, Mailbox

PREVIEW_SIDE = 256
"""Previews have the image's own size up to this many pixels on the longer side."""
PREVIEW_QUALITY = 80


class Watcher:
    """Called by the loop after each evaluation of each row of one call."""

    def __init__(self, mailbox: Mailbox, watch: Watch) -> None:
        """Take where to leave events, and what is wanted."""
        self._mailbox, self._watch = mailbox, watch
        self._began: dict[int, tuple[float, int]] = {}
        self._shown: dict[int, int] = {}

    def __call__(self, ticket: Ticket) -> None:
        """Note how far a row is, and what it looks like where that is wanted."""
        trajectory = ticket.trajectory
        if trajectory is None:
            return
        row, step, steps = ticket.job.index, trajectory.index, ticket.workload.evaluations
        engine = ticket.model.engine
        self._mailbox.put(
            Progress(row, step, steps, engine.noise_level(trajectory), self._seconds_left(ticket))
        )
        if not self._watch.due(step, steps):
            return
        pixels = engine.preview(trajectory)
        if pixels is not None:
            index = self._shown.get(row, 0)
            self._shown[row] = index + 1
            self._mailbox.put(Glimpse(row, step, steps, index, pixels))

    def _seconds_left(self, ticket: Ticket) -> float:
        """By the pace since the row's first evaluation, which holds what it waits for others."""
        row, done = ticket.job.index, ticket.workload.evaluations - ticket.remaining_evaluations
        now = time.monotonic()
        since, first = self._began.setdefault(row, (now, done))
        if done == first:
            return ticket.remaining_solo
        pace = (now - since) / (done - first)
        return pace * ticket.remaining_evaluations + ticket.decode_solo


def encoded(glimpse: Glimpse, resolution: tuple[int, int], encoding: Encoding) -> Preview:
    """A preview as a file of the call's format, in the image's size or below."""
    shown = _enlarged(glimpse.pixels, resolution)
    image = codec.encode(shown, Encoding(encoding.format, PREVIEW_QUALITY))
    return Preview(glimpse.row, glimpse.step, glimpse.steps, glimpse.index, image)


def _enlarged(pixels: Pixels, resolution: tuple[int, int]) -> Pixels:
    share = min(1.0, PREVIEW_SIDE / max(resolution))
    size = (max(1, round(resolution[0] * share)), max(1, round(resolution[1] * share)))
    return pixels if pixels.shape[1:] == size else codec.resized(pixels, size)
