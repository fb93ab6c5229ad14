"""``/``: the workbench for people, a page of plain modules that uses the API like any client."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

PAGE = Path(__file__).with_name("page")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""No inline script and no inline style; pictures may also be what the API answered with."""
DOCUMENTS: Mapping[str, str] = {"/": "index.html", "/status": "status.html"}
"""Which paths show which file."""

REVALIDATE = "no-cache"
FOREVER = "public, max-age=31536000, immutable"

_PREFIX = b'"/page/'
_TYPES = {".js": "text/javascript", ".md": "text/markdown", ".svg": "image/svg+xml"}
_SMALL = 1024


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page as it is sent: ``etag`` is quoted, ``packed`` is gzip's where shorter."""

    content: bytes
    media_type: str
    etag: str
    packed: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """Every file by its path below the folder, and a name for all of them together.

    The whole page is in memory: no path that a client names ever reaches the file system.
    """

    version: str
    files: Mapping[str, PageFile]


def read_page(folder: Path) -> Page:
    """Read the page.

    In documents ``"/page/...`` becomes ``"/page/VERSION/...``, which may be cached for ever: the
    version changes with any byte of any file. Modules import each other by relative paths, so they
    need no rewriting.
    """
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }
    total = hashlib.sha256()
    for name, content in contents.items():
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    version = total.hexdigest()[:16]
    versioned = _PREFIX + version.encode() + b"/"
    return Page(
        version,
        {
            name: _file(
                name, content.replace(_PREFIX, versioned) if name.endswith(".html") else content
            )
            for name, content in contents.items()
        },
    )


@cache
def packaged_page() -> Page:
    """The page that comes with this package; read once, for it does not change under a process."""
    return read_page(PAGE)


def _file(name: str, content: bytes) -> PageFile:
    kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
    media_type = kind or "application/octet-stream"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    packed = gzip.compress(content, mtime=0) if len(content) > _SMALL else content
    return PageFile(
        content,
        media_type,
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        packed if len(packed) < len(content) else None,
    )


def page_routes(page: Page) -> APIRouter:
    """``/``, ``/status`` and ``/page/...``: without a key, since they say nothing of the models."""
    router = APIRouter(include_in_schema=False)

    def show(name: str) -> None:
        @router.get(next(path for path, file in DOCUMENTS.items() if file == name))
        async def document(request: Request) -> Response:
            return _sent(page.files[name], request, REVALIDATE)

    for name in DOCUMENTS.values():
        if name in page.files:
            show(name)

    @router.get("/page/{path:path}")
    async def file(request: Request, path: str) -> Response:
        version, _, rest = path.partition("/")
        current = version == page.version
        found = page.files.get(rest if current else path)
        if found is None:
            raise HTTPException(404)
        return _sent(found, request, FOREVER if current else REVALIDATE)

    return router


def _sent(file: PageFile, request: Request, caching: str) -> Response:
    headers = {
        "content-security-policy": POLICY,
        "cache-control": caching,
        "etag": file.etag,
        "vary": "accept-encoding",
    }
    known = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in {tag.removeprefix("W/") for tag in known}:
        return Response(status_code=304, headers=headers)
    content, packed = file.content, file.packed
    if packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        content = packed
        headers |= {"content-encoding": "gzip", "etag": f"W/{file.etag}"}
    return Response(content, headers=headers, media_type=file.media_type)
