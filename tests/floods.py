"""What a gateway is flooded with: forms of many parts, and a header of many ranges."""

from __future__ import annotations

from collections.abc import Iterable

RANGES = "bytes=" + ",".join(f"{i}-" for i in range(20_000))


def form(names: Iterable[str], *, files: bool = False) -> tuple[bytes, dict[str, str]]:
    """A body of one tiny part for each name, a field or a file, and its headers."""
    name = '; filename="x"' if files else ""
    parts = [f'--b\r\nContent-Disposition: form-data; name="{n}"{name}\r\n\r\nx\r\n' for n in names]
    headers = {"content-type": "multipart/form-data; boundary=b"}
    return "".join([*parts, "--b--\r\n"]).encode(), headers
