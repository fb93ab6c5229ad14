"""One process that decodes images, seen from outside: asked, believed as little as files, ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess  # nosec B404 - starts this interpreter on a file of ours
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from services.core.errors import (
    AtelierError,
    InvalidImage,
    InvalidParameter,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
    from_json,
)
from services.core.images import Pixels

MOST_LINE_BYTES = 16 << 10
_READ_BYTES = 4 << 10
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")
_SAYABLE = (InvalidImage, InvalidParameter, TooLarge, UnsupportedMedia)
_LONGER = 6
"""By how much an image may take longer by the clock than on the processor: others want it too."""


class Broken(Exception):
    """A process died, said nonsense, or was too slow."""

    def __init__(self, *, slow: bool) -> None:
        super().__init__("too slow" if slow else "it ended")
        self.slow = slow


class DecoderProcess:
    """One process, asked by one thread at a time."""

    def __init__(self, settings: Mapping[str, Any], cpu_seconds: int) -> None:
        """Start it.

        Raises:
            Unavailable: the system starts no process.
        """
        self._seconds = _LONGER * cpu_seconds
        ours, theirs = socket.socketpair()
        script = str(Path(__file__).with_name("decoder_child.py"))
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a file of ours  # nosec B603
                [sys.executable, "-I", script, json.dumps(settings)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**kept, **_ENVIRONMENT},
            )
        except OSError as error:
            ours.close()
            raise Unavailable("no image can be decoded now; try again", retry_after=1.0) from error
        finally:
            theirs.close()
        self._socket = ours
        self._received = bytearray()

    def ask(
        self,
        task: Mapping[str, Any],
        data: bytes,
        channels: int,
        resolution: tuple[int, int] | None,
        max_pixels: int,
    ) -> Pixels:
        """The pixels of a file.

        Raises:
            Broken: the process is of no more use.
            AtelierError: what the process says of the file.
        """
        end = time.monotonic() + self._seconds
        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(json.dumps(task).encode() + b"\n" + data)
            said = json.loads(self._line(end))
            if "error" in said:
                raise _told(said["error"])
            shape = checked_shape(said["shape"], channels, resolution, max_pixels)
            content = self._bytes(math.prod(shape), end)
        except TimeoutError as error:
            raise Broken(slow=True) from error
        except AtelierError:
            raise
        except (OSError, EOFError, ValueError, TypeError, LookupError) as error:
            raise Broken(slow=self._used_its_time_up()) from error
        return np.frombuffer(content, np.uint8).reshape(shape)

    def end(self) -> None:
        """End it now, and wait until it has."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def _line(self, end: float) -> bytes:
        while (place := self._received.find(b"\n")) < 0:
            if len(self._received) > MOST_LINE_BYTES:
                raise ValueError("a line without an end")
            self._receive(end)
        line = bytes(self._received[:place])
        del self._received[: place + 1]
        return line

    def _bytes(self, count: int, end: float) -> bytearray:
        early, self._received = self._received, bytearray()
        if len(early) > count:
            raise ValueError("more than was said")
        content, place = bytearray(count), len(early)
        content[:place] = early
        with memoryview(content) as rest:
            while place < count:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                found = self._socket.recv_into(rest[place:])
                if not found:
                    raise EOFError
                place += found
        return content

    def _receive(self, end: float) -> None:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        found = self._socket.recv(_READ_BYTES)
        if not found:
            raise EOFError
        self._received += found

    def _used_its_time_up(self) -> bool:
        """Whether the system ended it because it had used its time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return bool(self._process.wait(1.0) == -signal.SIGXCPU)
        return False


def checked_shape(
    shape: Any, channels: int, resolution: tuple[int, int] | None, max_pixels: int
) -> tuple[int, int, int]:
    """The shape that a process says, if it can be.

    Raises:
        ValueError: it cannot.
    """
    found = tuple(shape)
    if len(found) != 3 or not all(type(side) is int and side > 0 for side in found):
        raise ValueError("no shape")
    fits = found[0] == channels and found[1] * found[2] <= max_pixels
    if not fits if resolution is None else found != (channels, *resolution):
        raise ValueError("a shape that was not asked for")
    return found


def _told(said: Mapping[str, Any]) -> AtelierError:
    error = from_json(said)
    return error if isinstance(error, _SAYABLE) else InvalidImage("the image cannot be decoded")
