"""What a server that was killed left behind is cleared by the next one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.serving import leftovers

CLAIM = "import sys; from pathlib import Path; from services.serving import leftovers; "
CLAIM += "leftovers.claim(Path(sys.argv[1]))"
PATIENCE = 60.0


@pytest.fixture
def left(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A session's folder, and a process that was started for it and goes on."""
    session = tmp_path / "atelier-left"
    session.mkdir()
    wait = "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", wait, str(session / "h" / "haproxy.cfg")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield session, process
        process.kill()


def test_a_session_whose_server_was_killed_is_cleared_with_its_processes(left) -> None:
    session, process = left
    subprocess.run([sys.executable, "-c", CLAIM, str(session)], check=True)  # and that one is gone
    leftovers.clear_dead(session.parent)
    assert process.wait(PATIENCE) == -9
    assert not session.exists()


@pytest.mark.parametrize("owner", ["this process", "nobody", "a link"])
def test_a_session_that_is_not_known_to_be_dead_stays(left, owner: str) -> None:
    session, process = left
    if owner == "this process":
        leftovers.claim(session)
    if owner == "a link":
        elsewhere = session.with_name("elsewhere")
        session.rename(elsewhere)
        session.symlink_to(elsewhere)
        subprocess.run([sys.executable, "-c", CLAIM, str(elsewhere)], check=True)
    leftovers.clear_dead(session.parent)
    assert process.poll() is None
    assert session.exists()
