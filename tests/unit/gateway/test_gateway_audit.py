"""The audit log: one line for each request, in one chain, whatever clients send and disks do."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from services.core.errors import AuditUnavailable, InvalidParameter
from services.gateway.audit_check import AuditBroken, tail, verify
from services.gateway.audit_log import (
    CURRENT,
    HEAD,
    AuditLog,
    AuditSettings,
    Link,
    files_of,
    line_of,
)
from services.gateway.key_store import KeyStore
from tests.asgi import Connection, exchanged

ASK = {"model": "shapes-ldm", "prompt": "a secret moon", "seed": 7, "n": 2}
PROCESSES, EVENTS = 3, 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def audited(connect: Any) -> Any:
    def open_client(**audit: Any) -> TestClient:
        return connect(audit={"enabled": True, "fsync": False, **audit})

    return open_client


@pytest.fixture
def log(folder: Path) -> AuditLog:
    return AuditLog(folder, AuditSettings(enabled=True, fsync=False))


def _events(folder: Path) -> list[dict[str, Any]]:
    verify(folder)
    return tail(folder, 1000)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No file of this process can grow beyond what the log has now, plus half a line."""
    size = sum(path.stat().st_size for path in files_of(folder)[-1:]) + 40
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


def test_a_request_is_one_line_that_says_who_what_and_when(audited, folder) -> None:
    audited().post("/v1/generate", json=ASK, headers={"x-request-id": "mine"})
    (event,) = _events(folder)
    assert event["time"].endswith("Z")
    wanted = {
        "seq": 1,
        "event": "request",
        "request_id": "mine",
        "owner": "",
        "route": "POST /v1/generate",
        "model": "shapes-ldm",
        "task": "generate",
        "n": 2,
        "seed": 7,
        "decision": "allow",
        "status": 200,
    }
    assert {name: event[name] for name in wanted} == wanted
    assert isinstance(event["device_seconds"], float)


def test_neither_prompts_nor_keys_nor_images_are_written_down(audited, folder, tmp_path) -> None:
    key = KeyStore(tmp_path / "keys.json").create("app").text
    client = audited()
    client.post("/v1/generate", json=ASK, headers={"authorization": f"Bearer {key}"})
    text = (folder / CURRENT).read_text()
    assert "moon" not in text
    assert key.rpartition("_")[2] not in text
    (event,) = _events(folder)
    assert event["owner"] == key.split("_")[1]


def test_prompts_are_written_down_where_the_operator_wants_it(audited, folder) -> None:
    audited(prompts=True).post("/v1/generate", json=ASK)
    assert _events(folder)[0]["prompts"] == {"prompt": ["a secret moon"]}


def test_refusals_and_failures_are_written_down_too(audited, folder, backend) -> None:
    client = audited()
    client.post("/v1/generate", json={**ASK, "steps": 10**9})
    client.post("/v1/generate", json={**ASK, "model": "nothing"})
    backend.error = RuntimeError("a bug")
    client.post("/v1/generate", json=ASK)
    assert [event["status"] for event in _events(folder)] == [422, 404, 500]


def test_what_is_no_work_is_not_written_down(audited, folder) -> None:
    client = audited()
    for path in ("/livez", "/v1/models", "/metrics", "/nothing"):
        client.get(path)
    assert files_of(folder) == []


async def test_a_stream_is_two_lines(build, folder) -> None:
    app = build(audit={"enabled": True, "fsync": False})
    await exchanged(app, "/v1/generate", prompt="a moon", response="stream")
    begun, done = _events(folder)
    assert (begun["event"], begun["status"]) == ("stream.begun", 200)
    assert (done["event"], done["status"]) == ("stream.ended", 200)
    assert begun["request_id"] == done["request_id"]


async def test_a_client_that_leaves_is_written_down(build, backend, folder) -> None:
    backend.held = asyncio.Event()
    connection = Connection("/v1/generate", prompt="a moon")
    exchange = connection.open(build(audit={"enabled": True, "fsync": False}))
    await backend.held.wait()
    connection.hang_up()
    await exchange
    assert [event["status"] for event in _events(folder)] == [499]


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=80), max_size=3))
def test_no_text_can_forge_a_line(texts: dict[str, str]) -> None:
    line = line_of({"prompts": texts}, Link())
    assert line.isascii()
    assert not any(byte < 32 for byte in line)
    assert json.loads(line)["prompts"] == texts


def test_line_breaks_and_escapes_stay_inside_their_line(audited, folder) -> None:
    nasty = 'a\r\n{"seq":99,"event":"forged"}\u2028\u0085\x1b[2J\u202e moon'
    client = audited(prompts=True)
    client.post("/v1/generate", json={**ASK, "prompt": nasty})
    client.post("/v1/generate", json=ASK, headers={"x-request-id": "a\x1b[31m"})
    events = _events(folder)
    assert len(events) == 2
    assert events[0]["prompts"]["prompt"] == [nasty]
    content = (folder / CURRENT).read_bytes()
    assert content.count(b"\n") == 2
    assert content.isascii()
    assert b"\x1b" not in content


def test_a_log_that_cannot_be_written_stops_the_service_from_answering(
    audited, folder, backend
) -> None:
    client = audited()
    assert client.post("/v1/generate", json=ASK).status_code == 200
    with full_disk(folder):
        for body in (ASK, {**ASK, "response": "stream"}):
            answer = client.post("/v1/generate", json=body)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "audit_unavailable"
            assert "retry-after" in answer.headers
        assert client.get("/v1/models").status_code == 200
    assert len(_events(folder)) == 1  # nothing half-written
    assert client.post("/v1/generate", json=ASK).status_code == 200
    assert [event["seq"] for event in _events(folder)] == [1, 2]


def test_or_it_goes_on_where_the_operator_wants_that(audited, folder, caplog) -> None:
    client = audited(on_failure="continue")
    client.post("/v1/generate", json=ASK)
    with full_disk(folder):
        assert client.post("/v1/generate", json=ASK).status_code == 200
    assert "the audit log cannot be written" in caplog.text
    assert len(_events(folder)) == 1


def test_a_service_whose_log_cannot_be_opened_does_not_start(connect, tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AuditUnavailable):
        connect(audit={"enabled": True, "folder": tmp_path / "file"})


def _write_many(folder: Path, who: int) -> None:
    log = AuditLog(folder, AuditSettings(enabled=True, fsync=False, max_bytes=1 << 16))
    for number in range(EVENTS):
        log.write({"event": "x", "who": who, "number": number, "filler": "x" * 800})


def test_several_processes_write_one_chain(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(folder, i)) for i in range(PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = verify(folder)
    assert found.lines == PROCESSES * EVENTS
    assert found.files > 1
    events = tail(folder, 1000)
    for who in range(PROCESSES):
        assert [e["number"] for e in events if e["who"] == who] == list(range(EVENTS))


async def test_many_at_once_are_all_there_when_they_are_told_so(log, folder) -> None:
    await asyncio.gather(*(log.record({"event": "x", "number": i}) for i in range(100)))
    assert {event["number"] for event in _events(folder)} == set(range(100))


def _lines(folder: Path) -> list[bytes]:
    return (folder / CURRENT).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: lines[:-3],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[2].replace(b'"n":2', b'"n":9'), *lines[3:]],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"n":4', b'"n":9')],
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        lambda lines: [*lines, b'{"seq":6,"event":"forged","previous":""}\n'],
        lambda lines: [*lines, b"half a li"],
        lambda lines: [b"\n", *lines],
        lambda _lines: [],
    ],
)
@pytest.mark.parametrize("goes_on", [False, True])
def test_whatever_is_changed_is_noticed_also_after_the_log_went_on(
    log, folder, tamper, goes_on
) -> None:
    for number in range(5):
        log.write({"event": "x", "n": number})
    changed = tamper(_lines(folder))
    (folder / CURRENT).write_bytes(b"".join(changed))
    half = goes_on and not b"".join(changed).endswith(b"\n") and changed
    if goes_on:
        with suppress(AuditUnavailable):  # it may not even go on
            log.write({"event": "y"})
    if half:
        assert verify(folder).lines == 6  # half a line is what a crash leaves, and is taken away
        return
    with pytest.raises((AuditBroken, InvalidParameter)):
        verify(folder)


def test_a_head_that_was_noted_down_tells_of_a_log_that_was_written_anew(log, folder) -> None:
    for number in range(3):
        log.write({"event": "x", "n": number})
    noted = verify(folder).head
    for path in folder.iterdir():
        path.unlink()
    for number in range(5):
        log.write({"event": "forged", "n": number})
    assert verify(folder).lines == 5
    with pytest.raises(AuditBroken, match="not the one that was noted"):
        verify(folder, noted=noted)
    assert Link.parse(str(noted)) == noted


def test_a_crash_between_a_line_and_the_head_is_no_tampering(log, folder) -> None:
    log.write({"event": "x"})
    head = (folder / HEAD).read_bytes()
    log.write({"event": "y"})
    (folder / HEAD).write_bytes(head)
    assert verify(folder).lines == 2
    log.write({"event": "z"})
    assert [event["seq"] for event in _events(folder)] == [1, 2, 3]


def test_archived_files_can_be_left_out_but_not_by_accident(folder: Path) -> None:
    _write_many(folder, 0)
    _write_many(folder, 1)
    oldest = files_of(folder)[0]
    last = Link.of(oldest.read_bytes().splitlines()[-1])
    oldest.unlink()
    with pytest.raises(AuditBroken, match="begins with line"):
        verify(folder)
    assert verify(folder, first=last.seq + 1).lines == 2 * EVENTS - last.seq


def test_nobody_else_can_read_it(log, folder) -> None:
    log.write({"event": "x"})
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o077
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir())


def test_a_link_in_its_place_is_not_followed(log, folder, tmp_path) -> None:
    (tmp_path / "precious").write_text("mine")
    (folder / CURRENT).symlink_to(tmp_path / "precious")
    with pytest.raises(AuditUnavailable):
        log.write({"event": "x"})
    assert (tmp_path / "precious").read_text() == "mine"
