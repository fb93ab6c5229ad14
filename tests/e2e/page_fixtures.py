"""The workbench in a real browser, over the real gateway and engines in this process."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Error, Page, sync_playwright
from prometheus_client import CollectorRegistry

from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.serving.cascade import Cascades
from services.serving.local import local_backend, open_store
from tests.e2e.running import free_port, until

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
PATIENCE_MS = 60_000
"""Milliseconds that a page may take for anything: machines may be slow, never wrong."""


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of an application, served from a thread for as long as the block lasts."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the application is served")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def catalog_site(store: Path, **settings: Any) -> Iterator[str]:
    """The service with the whole catalog and the models of a store; settings are the gateway's."""
    backend = local_backend(store=open_store(str(store)))
    own = {"key_file": store / "keys.json", **settings}
    app = create_app(
        Cascades(backend), GatewaySettings(**own), metrics=GatewayMetrics(CollectorRegistry())
    )
    try:
        with served(app) as url:
            yield url
    finally:
        backend.close()


def executable() -> str | None:
    """A Chromium of the system; None for Playwright's own."""
    found = next((path for path in CHROMIUM if Path(path).exists()), None)
    return found or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; of one module, since Playwright keeps an event loop in this thread."""
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=executable(), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except Error as error:
            pytest.skip(f"there is no Chromium to open the page with: {error}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with the catalog."""
    with catalog_site(tmp_path_factory.mktemp("page-store")) as url:
        yield url


Opener = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Opens pages in contexts of their own; fails where a script failed or a policy was broken.

    Args of what it gives: the URL, then ``width``, ``height`` and other options of
    `Browser.new_context`; ``expected`` are parts of messages that the test provokes.
    """
    contexts, complaints = [], []

    def opened(
        url: str,
        *,
        width: int = 1280,
        height: int = 860,
        expected: tuple[str, ...] = (),
        **options: Any,
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()

        def heard(text: str) -> None:
            if not any(part in text for part in expected):
                complaints.append(text)

        page.on("pageerror", lambda error: heard(f"{error}"))
        page.on("console", lambda said: heard(said.text) if said.type == "error" else None)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, complaints


def settled(condition: Callable[[], Any], what: str, page: Page) -> Any:
    """What a condition gives once it holds, while the page goes on."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not in time")
        page.wait_for_timeout(50)
    return found


AXE = "axe-core@4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
AXE_FILE = "package/axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> str:
    """The source of axe-core, which npm fetches once and pytest's cache keeps.

    It is not kept with the code: it is under another licence, and as large as the page itself.
    """
    kept = pytestconfig.cache.mkdir("axe") / f"{AXE_SHA256[:16]}.js"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("there is no npm to fetch axe-core with")
        folder = tmp_path_factory.mktemp("axe")
        command = [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)]
        packed = subprocess.run(command, capture_output=True, text=True, check=False)
        if packed.returncode:
            pytest.skip(f"npm cannot fetch axe-core: {packed.stderr[-300:]}")
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            member = archive.extractfile(AXE_FILE)
            fetched = kept.with_suffix(f".{os.getpid()}")
            fetched.write_bytes(member.read() if member else b"")
            fetched.replace(kept)  # whole or not at all: others may read it now
    source = kept.read_bytes()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds wrong on a page as it is now, a line for each."""
    # Evaluated from outside: the page's own policy would not let it in.
    page.evaluate(axe)
    found = page.evaluate("(tags) => axe.run({runOnly: tags})", WCAG)
    return [
        f"{one['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for one in found["violations"]
        for node in one["nodes"]
    ]
