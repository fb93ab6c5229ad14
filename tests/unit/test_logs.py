"""Log lines say what they must, one each, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.core.logs import (
    LONGEST_LINE,
    ConsoleLines,
    JsonLines,
    LogSettings,
    fields,
    speaking_of,
)
from services.serving.logs import LogPipe, PipeHandler, resolved, start_logging

HOSTILE = 'a\r\nb\n{"level":"error"}\x1b[31m\u202e\u2028\x00\ud800'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logger(handler: logging.Handler, formatter: logging.Formatter) -> logging.Logger:
    found = logging.Logger("tests.logs", logging.DEBUG)
    handler.setFormatter(formatter)
    found.addHandler(handler)
    return found


def fail(message: str) -> None:
    raise ValueError(message)


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_that_names_what_it_is_about() -> None:
    stream = io.StringIO()
    log = logger(logging.StreamHandler(stream), JsonLines())
    with speaking_of(request_id="outer", trace_id="t"), speaking_of(request_id="inner"):
        log.info("%d done", 3, extra=fields(status=200, seconds=0.25, model=None))
    log.debug("after")
    first, second = objects(stream)
    assert first["timestamp"].endswith("+00:00")
    assert {k: v for k, v in first.items() if k != "timestamp"} == {
        "level": "info",
        "logger": "tests.logs",
        "message": "3 done",
        "request_id": "inner",
        "trace_id": "t",
        "span_id": None,
        "status": 200,
        "seconds": 0.25,
        "model": None,
    }
    assert second["request_id"] is None


@pytest.mark.parametrize("formatter", [JsonLines(), ConsoleLines()])
def test_nothing_in_a_line_ends_it_or_moves_a_cursor(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    log = logger(logging.StreamHandler(stream), formatter)
    with speaking_of(request_id=HOSTILE):
        log.error("said %s", HOSTILE, extra=fields(model=HOSTILE))
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_what_an_exception_says_cannot_pass_for_a_line_of_its_own() -> None:
    streams = io.StringIO(), io.StringIO()
    for stream, formatter in zip(streams, (JsonLines(), ConsoleLines()), strict=True):
        log = logger(logging.StreamHandler(stream), formatter)
        try:
            fail(HOSTILE)
        except ValueError:
            log.exception("failed")
    (line,) = objects(streams[0])
    assert line["error"] == "ValueError"
    assert "test_logs.py" in line["stack"]
    first, *rest = streams[1].getvalue().split("\n")[:-1]
    assert first.endswith("failed")
    assert all(part.startswith("    ") and part.isprintable() for part in rest)


@pytest.mark.parametrize("length", [10, 2000, 5000, 100_000])
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(length: int) -> None:
    stream = io.StringIO()
    log = logger(logging.StreamHandler(stream), JsonLines())
    try:
        fail("é" * length)
    except ValueError:
        log.exception("m" * length, extra=fields(model="x" * length))
    (line,) = objects(stream)
    assert len(stream.getvalue()) <= LONGEST_LINE + 1
    assert line["level"] == "error"


def test_people_read_lines_at_a_terminal_and_programs_elsewhere() -> None:
    assert resolved(LogSettings(), Terminal()) == "console"
    assert resolved(LogSettings(), io.StringIO()) == "json"
    assert resolved(LogSettings(format="json"), Terminal()) == "json"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[LogPipe, io.StringIO]]:
    stream = io.StringIO()
    found = LogPipe(tmp_path / "log", stream)
    yield found, stream
    found.close()


def test_lines_of_several_writers_come_out_of_one_pipe_whole(
    pipe: tuple[LogPipe, io.StringIO],
) -> None:
    lines, stream = pipe
    logs = [logger(PipeHandler(lines.path), JsonLines()) for _ in range(3)]
    for i in range(100):
        for writer, log in enumerate(logs):
            log.info("x" * 900, extra=fields(writer=writer, i=i))
    lines.close()
    found = [(line["writer"], line["i"]) for line in objects(stream) if "writer" in line]
    dropped = [line for line in objects(stream) if "dropped" in line["message"]]
    assert sorted(found) == [(w, i) for w in range(3) for i in range(100)] or dropped
    for writer in range(3):
        mine = [i for w, i in found if w == writer]
        assert mine == sorted(mine)


def test_a_pipe_that_nobody_reads_drops_lines_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    log = logger(PipeHandler(path), JsonLines())
    log.info("nobody has it open")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.info("heard")
    assert [line["message"] for line in _read(reader)] == ["1 log lines were dropped", "heard"]
    sent = 300
    for i in range(sent):
        log.info("x" * 900, extra=fields(i=i))
    kept = len(_read(reader))
    log.info("heard again")
    first, second = _read(reader)
    assert first["message"] == f"{sent - kept} log lines were dropped"
    assert second["message"] == "heard again"
    os.close(reader)
    log.info("the reader has left")  # and nothing is raised


def _read(reader: int) -> list[dict[str, Any]]:
    found = b""
    while True:
        try:
            data = os.read(reader, 1 << 20)
        except BlockingIOError:
            break
        if not data:
            break
        found += data
    return [json.loads(line) for line in found.decode().splitlines()]


@pytest.fixture
def untouched() -> Iterator[None]:
    """Loggers as they were."""
    names = ["", "services", "model_store", "uvicorn", "uvicorn.error", "uvicorn.access", "ray"]
    names.append("ray.serve")
    loggers = [logging.getLogger(name) for name in names]
    before = [(log, log.level, log.handlers[:], log.propagate) for log in loggers]
    yield
    logging.captureWarnings(capture=False)
    for log, level, handlers, propagate in before:
        log.level, log.handlers[:], log.propagate = level, handlers, propagate
        log.manager._clear_cache()  # type: ignore[attr-defined]  # levels are remembered there


@pytest.mark.usefixtures("untouched")
def test_servers_log_through_us_and_access_lines_are_ours_alone() -> None:
    stream = io.StringIO()
    serves = logging.getLogger("ray.serve")
    own = io.StringIO()
    serves.setLevel(logging.INFO)
    serves.handlers[:], serves.propagate = [logging.StreamHandler(own)], False
    start_logging(LogSettings(format="json"), stream)
    start_logging(LogSettings(format="json"), stream)  # as a replica that is configured anew
    logging.getLogger("services.gateway").info("ours")
    logging.getLogger("services.gateway").debug("too much")
    logging.getLogger("uvicorn.error").warning("uvicorn's")
    logging.getLogger("uvicorn.access").info("GET / 200")
    serves.info("GET / 200 1ms")
    serves.warning("Serve's")
    logging.getLogger("stranger").info("chatter")
    assert [line["message"] for line in objects(stream)] == ["ours", "uvicorn's", "Serve's"]
    assert "GET / 200 1ms" in own.getvalue()
