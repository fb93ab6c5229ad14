"""The process that decodes uploaded images: started by `services.core.isolated_decoder`.

It has little memory, a bounded time for each image, and no file descriptor to spare. On its one
socket come a line of JSON and the file's bytes; a line of JSON and the pixels' bytes go back. It
ends when the socket is closed, which the death of whoever started it does.
"""

from __future__ import annotations

import io
import json
import resource
import socket
import sys
from pathlib import Path
from typing import Any

# Python was started without any path of its own (-I), so that nothing beside is ever imported.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PIL import Image

from services.core import images
from services.core.errors import AtelierError, TooLarge
from services.core.images import ImageLimits, Pixels

MOST_FILES = 3
"""The socket, and the interpreter's two ways of saying something: nothing else can be opened."""


def main() -> None:
    """Answer until nobody asks any more."""
    settings = json.loads(sys.argv[1])
    limits = ImageLimits(**settings["limits"])
    _load_codecs()
    _give_up_rights(settings["memory_bytes"])
    connection = socket.socket(fileno=0)
    asked, told = connection.makefile("rb"), connection.makefile("wb")
    while line := asked.readline():
        task = json.loads(line)
        _allow_time(settings["cpu_seconds"])
        about, pixels = _answer(asked.read(task["size"]), task, limits)
        told.write(json.dumps(about).encode() + b"\n")
        if pixels is not None:
            told.write(pixels.data)
        told.flush()


def _answer(
    data: bytes, task: dict[str, Any], limits: ImageLimits
) -> tuple[dict[str, Any], Pixels | None]:
    try:
        pixels = _decoded(data, task, limits)
    except AtelierError as refusal:
        return {"error": refusal.to_json()}, None
    except MemoryError:
        message = "decoding the image takes more memory than one may; send a smaller one"
        return {"error": TooLarge(message, param=task["param"]).to_json()}, None
    return {"shape": pixels.shape}, pixels


def _decoded(data: bytes, task: dict[str, Any], limits: ImageLimits) -> Pixels:
    size, param = task["resolution"], task["param"]
    resolution = None if size is None else (size[0], size[1])
    if task["channels"] is None and resolution is not None:
        return images.decode_mask(data, resolution, limits, param=param)
    return images.decode(data, resolution, task["channels"], limits, param=param)


def _load_codecs() -> None:
    """Have Pillow import all that it would import later, while files may be opened."""
    Image.init()
    for name in ("PNG", "JPEG", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (2, 2)).save(stream, name)
        images.decode(stream.getvalue(), (4, 4), 1, ImageLimits())


def _give_up_rights(memory_bytes: int) -> None:
    """No more memory than images need, no file, no core dump."""
    limits = {
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MOST_FILES,
    }
    for name, most in limits.items():
        hard = resource.getrlimit(name)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (least, least))


def _data_bytes() -> int:
    """What the process takes already; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), 0)


def _allow_time(seconds: int) -> None:
    """Be ended by the system after so many seconds of work from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
