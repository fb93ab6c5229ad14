"""The workbench is for everybody: by keyboard, on a phone, in the dark, with nothing that moves.

axe-core finds nothing wrong in any of its states.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.page_fixtures import PATIENCE_MS, Opener, violations
from tests.e2e.using_the_page import REFUSED, field, ready, run

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)


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


def test_everything_is_done_from_the_keyboard(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?n=4&seed=1"))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".chooser-item").first).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[role=tab][aria-selected=true]")).to_be_focused()
    expect(page.locator("#tab-generate")).to_have_attribute("aria-selected", "false")
    page.keyboard.press("Home")
    expect(page.locator("#tab-generate")).to_be_focused()
    run(page)
    page.locator(".tile-face").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tile-face").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".details")).to_be_visible()
    page.keyboard.press("r")
    assert field(page, "seed").input_value() not in ("", "2")


def test_the_focus_is_seen_and_goes_through_the_page_in_order(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate"))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.closest('header, .bar, #tool').className")
        )
    assert seen == sorted(seen, key=["top", "bar", "tool"].index)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("model", ["shapes-ldm", "shapes-cgan", "digits-realnvp"])
def test_nothing_leaves_a_page_of_360_pixels(site: str, open_page: Opener, model: str) -> None:
    page = ready(open_page(f"{site}/#{model}/generate?n=2", width=360, height=740))
    run(page)
    page.locator(".tile-face").first.click()
    for place in ("document.documentElement", "document.querySelector('.split')"):
        assert page.evaluate(f"{place}.scrollWidth") <= 360
    page.click("#model-button")
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= 360


def test_nothing_moves_for_those_who_want_it_so(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-ldm/generate?steps=60", reduced_motion="reduce"))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".tile").first).to_be_visible()
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0
    page.keyboard.press("Escape")


def test_light_and_dark_follow_the_system_and_the_button(site: str, open_page: Opener) -> None:
    page = ready(open_page(site, color_scheme="dark"))
    theme = page.locator("html")
    expect(theme).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Light or dark").click()
    expect(theme).to_have_attribute("data-theme", "light")
    page.reload()
    expect(theme).to_have_attribute("data-theme", "light")
