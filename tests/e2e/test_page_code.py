"""The code that the workbench shows runs as it is pasted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.page_fixtures import PATIENCE_MS, Opener
from tests.e2e.running import ROOT
from tests.e2e.using_the_page import image, pixels_of

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

BASH = shutil.which("bash") or "/bin/bash"
AWKWARD = 'it\'s "quoted" $HOME `id` \\ \n !! & ; é 🎨 <b>'


def shown_code(page: Page, title: str) -> str:
    """What the dialog shows for a language."""
    page.get_by_role("button", name="As code").first.click()
    page.get_by_role("button", name=title, exact=True).click()
    code = page.locator("dialog code").inner_text()
    page.keyboard.press("Escape")
    return code


def pasted(code: str, folder: Path, *, by: str) -> None:
    """Run code as somebody would who has the client installed; ``by`` is a program."""
    package = folder / "installed" / "atelier_client"
    if not package.exists():
        shutil.copytree(ROOT / "services" / "client", package)
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [by, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


BODY = {"model": "shapes-ldm", "prompt": "a red star", "steps": 5, "seed": 3}
LINK = "#shapes-ldm/generate?prompt=a+red+star&steps=5&seed=3"


def test_curl(site: str, open_page: Opener, tmp_path: Path) -> None:
    page = open_page(site + "/" + LINK)
    pasted(shown_code(page, "curl"), tmp_path, by=BASH)
    assert np.array_equal(pixels_of((tmp_path / "image.png").read_bytes()), image(site, **BODY))


@pytest.mark.parametrize("title", ["Python (openai)", "Python (atelier_client)"])
def test_python(site: str, open_page: Opener, tmp_path: Path, title: str) -> None:
    page = open_page(f"{site}/{LINK}&n=2")
    pasted(shown_code(page, title), tmp_path, by=sys.executable)
    for index in range(2):
        found = pixels_of((tmp_path / f"image-{index}.png").read_bytes())
        assert np.array_equal(found, image(site, **{**BODY, "seed": 3 + index}))


def test_what_a_client_has_no_words_for_is_said_and_left_to_the_others(
    site: str, open_page: Opener, tmp_path: Path
) -> None:
    page = open_page(f"{site}/#shapes-ldm/generate?steps=5&seed=3&guidance_rescale=0.5")
    page.get_by_role("button", name="As code").first.click()
    page.get_by_role("button", name="Python (openai)", exact=True).click()
    expect(page.locator("dialog .code-view")).to_contain_text("no words for guidance_rescale")
    page.keyboard.press("Escape")
    pasted(shown_code(page, "Python (atelier_client)"), tmp_path, by=sys.executable)
    found = pixels_of((tmp_path / "image-0.png").read_bytes())
    body = {"model": "shapes-ldm", "steps": 5, "seed": 3, "guidance_rescale": 0.5}
    assert np.array_equal(found, image(site, **body))


def test_a_label_is_said_to_each_client(site: str, open_page: Opener, tmp_path: Path) -> None:
    page = open_page(f"{site}/#shapes-cgan/generate?label=ring&seed=3")
    wanted = image(site, model="shapes-cgan", label="ring", seed=3)
    for title in ("Python (openai)", "Python (atelier_client)"):
        pasted(shown_code(page, title), tmp_path, by=sys.executable)
        assert np.array_equal(pixels_of((tmp_path / "image-0.png").read_bytes()), wanted)


def test_no_text_breaks_out_of_its_quotes(site: str, open_page: Opener, tmp_path: Path) -> None:
    page = open_page(site)
    quoted = page.evaluate(
        """async (text) => {
            const source = document.querySelector("script[type=module]").src;
            const made = await import(source.replace("app.js", "snippets.js"));
            return [made.quoted(text), made.python({text, list: [1.5, true, null]})];
        }""",
        AWKWARD,
    )
    shell = subprocess.run(
        [BASH, "-c", f"printf %s {quoted[0]}"], capture_output=True, cwd=tmp_path, check=True
    )
    assert shell.stdout.decode() == AWKWARD
    script = f"import json; print(json.dumps({quoted[1]}))"
    python = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert httpx.Response(200, content=python.stdout).json() == {
        "text": AWKWARD,
        "list": [1.5, True, None],
    }
