"""axe-core finds nothing wrong in any state of the workbench: light, dark, wide, narrow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.page_fixtures import PATIENCE_MS, Opener, violations

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

REFUSED = "Failed to load resource"


def idle(page: Page) -> None:
    """Before anything was made, with everything unfolded."""
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    page.locator(".advanced > summary").click()
    for button in page.locator(".help-button").all():
        button.click()


def made(page: Page) -> None:
    """With images, one of them open."""
    page.keyboard.press("Control+Enter")
    expect(page.locator(".timings")).to_be_visible()
    page.locator(".tile-face").first.click()
    expect(page.locator(".details")).to_be_visible()


def choosing(page: Page) -> None:
    """With the list of models and a card."""
    page.click("#model-button")
    expect(page.locator(".card-text table").first).to_be_attached()


def code(page: Page) -> None:
    """With the request as code."""
    page.get_by_role("button", name="As code").first.click()


def shortcuts(page: Page) -> None:
    """With the keyboard's help."""
    page.keyboard.press("?")


def comparing(page: Page) -> None:
    """With two images over each other."""
    made(page)
    page.get_by_role("button", name="Compare with another").first.click()
    page.get_by_role("button", name="Compare with seed").first.click()


def refused(page: Page) -> None:
    """With a complaint at a field."""
    page.locator("[data-field=prompt] textarea").fill("a dragon")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".field-error").first).to_be_visible()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("state", "address", "width"),
    [
        (idle, "shapes-ldm/generate", 1280),
        (idle, "shapes-cgan/generate", 360),
        (made, "shapes-cgan/generate?n=3&seed=1", 1280),
        (made, "shapes-ldm/generate?n=1&seed=1&steps=4&prompt=a+star", 360),
        (choosing, "shapes-ldm/generate", 1280),
        (code, "shapes-ldm/generate?seed=1", 1280),
        (shortcuts, "shapes-ldm/generate", 1280),
        (comparing, "shapes-cgan/generate?n=2&seed=1", 1280),
        (refused, "shapes-ldm/generate", 1280),
    ],
)
def test_axe_finds_nothing(
    site: str,
    open_page: Opener,
    axe: str,
    state: Callable[[Page], None],
    address: str,
    width: int,
    color_scheme: str,
) -> None:
    page = open_page(
        f"{site}/#{address}",
        width=width,
        color_scheme=color_scheme,
        reduced_motion="reduce",
        expected=(REFUSED,),
    )
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    state(page)
    assert violations(page, axe) == []
