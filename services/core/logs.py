"""Log lines: one JSON object each, or something for people to read. No line can forge another."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

LONGEST_LINE = 4000
"""Bytes. A pipe takes up to 4096 at once without mixing them with what others write."""
_LONGEST_MESSAGE = 1000
_FIELDS = "fields"

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SUBJECT: ContextVar[Mapping[str, Any]] = ContextVar("subject", default=_NOTHING)


class LogSettings(BaseModel):
    """How a process logs.

    Attributes:
        format: ``json``: an object per line; ``console``: for people; ``auto``: for people where
            standard error is a terminal, else JSON.
        level: what is less than this is not logged.
        pipe: a named pipe that takes the lines in place of standard error, if somebody reads it;
            ``atelier serve`` sets it, so that the lines of all its processes come out of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    pipe: Path | None = None


@contextmanager
def speaking_of(**subject: Any) -> Iterator[None]:
    """Have every line that is logged meanwhile, in this task, name what it is about."""
    token = _SUBJECT.set({**_SUBJECT.get(), **subject})
    try:
        yield
    finally:
        _SUBJECT.reset(token)


def fields(**values: Any) -> dict[str, Any]:
    """The ``extra`` of a log call, for values that the line holds by name."""
    return {_FIELDS: values}


def _said(record: logging.LogRecord) -> dict[str, Any]:
    return {**_SUBJECT.get(), **getattr(record, _FIELDS, {})}


class JsonLines(logging.Formatter):
    """A JSON object per record, in ASCII: what is not is escaped, line ends and colours included.

    Always there: ``timestamp`` (RFC 3339, UTC), ``level``, ``logger``, ``message``,
    ``request_id``, ``trace_id``, ``span_id``. An exception adds ``error`` and ``stack``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "timestamp": _moment(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST_MESSAGE],
            "request_id": None,
            "trace_id": None,
            "span_id": None,
            **_said(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["stack"] = "".join(traceback.format_exception(*record.exc_info))
        return _fitting(line)


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fitting(line: dict[str, Any]) -> str:
    """The line, with as much of its stack as there is room for: the end, where the error is."""
    text = json.dumps(line, default=str)
    excess = len(text) - LONGEST_LINE
    if excess > 0 and "stack" in line:
        line["stack"] = line["stack"][2 * excess :] if 2 * excess < len(line["stack"]) else ""
        text = json.dumps(line, default=str)
    if len(text) > LONGEST_LINE:
        kept = ("timestamp", "level", "logger", "message", "request_id", "error")
        text = json.dumps({k: str(line[k])[:200] for k in kept if k in line})
    return text


class ConsoleLines(logging.Formatter):
    """A line per record for a person; stacks below it, indented. Nothing unprintable gets out."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        told = {name: value for name, value in _said(record).items() if value is not None}
        told.pop("span_id", None)
        words = [
            f"{_moment(record).astimezone():%H:%M:%S}",
            f"{record.levelname.lower():7}",
            printable(record.getMessage()),
            *(f"{name}={printable(_short(value))}" for name, value in told.items()),
        ]
        line = " ".join(words)
        if record.exc_info and record.exc_info[0] is not None:
            stack = "".join(traceback.format_exception(*record.exc_info))
            line += "".join(f"\n    {printable(part)}" for part in stack.splitlines())
        return line


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """A text with everything escaped that could move a cursor or end a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
