from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from services.core.errors import Unavailable
from services.demo.__main__ import write
from services.demo.exhibits import Exhibit
from services.demo.pictures import negative, right_half
from services.demo.server import free_port, running_server, stop
from services.demo.sheet import TILE, contact_sheet, enlarged
from tests.scripted import PATIENCE


def picture(color: tuple[int, int, int] = (200, 30, 30), side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), color).save(stream, "PNG")
    return stream.getvalue()


def test_the_preferred_port_is_used_only_when_it_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_a_service_that_ends_early_says_what_it_printed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a path that is broken into lines is not found again
    absent = tmp_path / "absent.yaml"
    with (
        pytest.raises(Unavailable, match=r"absent\.yaml"),
        running_server(Console(quiet=True), absent),
    ):
        pytest.fail("there is no such service")


def test_stopping_leaves_nothing_of_the_group_running(tmp_path: Path) -> None:
    note = tmp_path / "child"
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid) + '\\n')\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    end = time.monotonic() + PATIENCE
    while not (note.is_file() and note.read_text().endswith("\n")) and time.monotonic() < end:
        time.sleep(0.02)
    child = int(note.read_text())
    stop(process)
    assert process.returncode == -signal.SIGTERM
    while _is_running(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _is_running(child)


def _is_running(process_id: int) -> bool:
    status = Path(f"/proc/{process_id}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_images_are_enlarged_by_whole_pixels() -> None:
    tile = enlarged(picture())
    assert tile.size == (TILE, TILE)
    assert tile.getcolors() == [(TILE * TILE, (200, 30, 30))]


def test_everything_shown_is_also_a_file(tmp_path: Path) -> None:
    exhibits = [
        Exhibit("wide", "few images", ("one", "two"), (picture(), picture()), 0.1),
        Exhibit("strip", "many images", ("",) * 8, (picture((20, 90, 200)),) * 8, 0.1),
    ]
    assert len(write(exhibits, tmp_path)) == 10
    sheet = Image.open(tmp_path / "contact_sheet.png")
    assert sheet.size == contact_sheet(exhibits).size
    colors = {color for _, color in sheet.getcolors(1 << 20) or ()}
    assert {(200, 30, 30), (20, 90, 200)} <= colors


def test_the_mask_marks_the_right_half() -> None:
    mask = Image.open(io.BytesIO(right_half(picture())))
    assert (mask.getpixel((3, 4)), mask.getpixel((4, 4))) == (0, 255)


def test_the_negative_is_the_opposite() -> None:
    image = Image.open(io.BytesIO(negative(picture())))
    assert image.getpixel((0, 0)) == (55, 225, 225)
