"""Whatever models, prompts and cards say, the workbench shows it as text; nothing of it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from model_store.addition import add_model
from services.serving.local import open_store
from tests.e2e.page_fixtures import PATIENCE_MS, Opener, catalog_site
from tests.e2e.using_the_page import REFUSED
from tests.unit.tiny_networks import CLASSES, Generator, write_model

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)


def attack(place: str) -> str:
    """Markup that says where it ran."""
    return (
        f"<img src=x onerror=\"window.hacked='{place}'\"><script>window.hacked='{place}'</script>"
    )


CARD = f"""---
license: {attack("front")}
---

# title {attack("title")}

Words {attack("words")} and [a link](javascript:window.hacked='link') and
[another](data:text/html,<script>alert(1)</script>), ![picture](https://elsewhere.example/p.png).

| {attack("head")} | b |
|---|---|
| **{attack("cell")}** | `{attack("code")}` |

- {attack("item")}

```
{attack("fence")}
```

<iframe src="javascript:window.hacked='frame'"></iframe>
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with a stranger's model, whose every text is an attack."""
    root, folder = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("stranger")
    sheet = b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hacked=1'/>"
    (folder / "card.md").write_text(CARD)
    (folder / "sheet.png").write_bytes(sheet)
    write_model(
        folder,
        Generator(channels=3, height=8, width=8, label="int64"),
        options={"labels": [attack(f"label {i}") for i in range(CLASSES)]},
        description=attack("description"),
        license=attack("licence"),
        pixel_range=[-1, 1],
        files={
            "card": {"file": "card.md", "sha256": hashlib.sha256(CARD.encode()).hexdigest()},
            "sheet": {"file": "sheet.png", "sha256": hashlib.sha256(sheet).hexdigest()},
        },
    )
    add_model(open_store(str(root)), folder, name="stranger")
    with catalog_site(root) as url:
        yield url


def unharmed(page: Page) -> None:
    """Nothing of what was said has run, and no markup of it is there."""
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], main script, dialog script, iframe").count() == 0


@pytest.fixture
def asked_for() -> list[str]:
    """Hosts that the page has asked."""
    return []


def test_a_strangers_model_runs_nothing(
    hostile: str, open_page: Opener, asked_for: list[str]
) -> None:
    page = open_page(f"{hostile}/#stranger/generate?seed=1", expected=(REFUSED,))
    page.on("request", lambda one: asked_for.append(one.url))
    expect(page.locator(".chip").nth(1)).to_contain_text("<img src=x")
    expect(page.locator(".empty")).to_contain_text("<script>")
    unharmed(page)
    page.keyboard.press("m")
    expect(page.locator(".chooser-about .card-text")).to_contain_text("<iframe")
    expect(page.locator(".card-text td code")).to_contain_text("onerror")
    links = page.locator(".card-text a").evaluate_all("(all) => all.map((one) => one.href)")
    assert links == []
    unharmed(page)
    page.keyboard.press("Escape")
    page.locator(".chip").nth(1).click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".details")).to_contain_text("<img src=x")
    unharmed(page)
    page.get_by_role("button", name="As code").first.click()
    expect(page.locator("dialog code")).to_contain_text("onerror")
    unharmed(page)
    assert all(url.startswith((hostile, "blob:")) for url in asked_for)


def test_a_prompt_and_its_refusal_run_nothing(hostile: str, open_page: Opener) -> None:
    prompt = quote(attack("prompt"))
    page = open_page(f"{hostile}/#shapes-ldm/generate?prompt={prompt}", expected=(REFUSED,))
    expect(page.locator("[data-field=prompt] textarea")).to_have_value(attack("prompt"))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".field-error").first).to_be_visible()
    unharmed(page)


@pytest.mark.parametrize(
    "address",
    [
        "#" + quote(attack("model")) + "/generate",
        "#shapes-cgan/" + quote(attack("tool")),
        "#shapes-cgan/generate?" + quote(attack("name")) + "=1",
        "#shapes-cgan/generate?label=" + quote(attack("value")),
        "#shapes-cgan/generate?seed={}&n=[1,2]&truncation=%00&label=99",
        "#%E0%A4%A/%%%?%=&&==%00",
        "#__proto__/constructor?__proto__=1&constructor=2&toString=3",
    ],
)
def test_no_address_runs_anything(hostile: str, open_page: Opener, address: str) -> None:
    page = open_page(f"{hostile}/{address}", expected=(REFUSED,))
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    unharmed(page)


def test_an_answer_of_a_stranger_runs_nothing(hostile: str, open_page: Opener) -> None:
    page = open_page(f"{hostile}/#shapes-cgan/generate?seed=1", expected=(REFUSED,))

    def refuse(route: Any) -> None:
        error = {"message": attack("message"), "code": attack("code"), "param": None, "type": "x"}
        route.fulfill(status=503, json={"error": error}, headers={"x-request-id": attack("id")})

    page.route("**/v1/generate", refuse)
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".error-box")).to_contain_text("<img src=x")
    unharmed(page)


def test_the_policy_holds_against_markup_that_got_in(hostile: str, open_page: Opener) -> None:
    page = open_page(hostile, expected=("Content Security Policy", REFUSED))
    page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked=1'>");
            const script = document.createElement("script");
            script.textContent = "window.hacked = 2";
            document.body.append(script);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
