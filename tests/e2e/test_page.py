"""The workbench, as a person with a browser meets it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.page_fixtures import PATIENCE_MS, Opener, catalog_site, settled
from tests.e2e.using_the_page import REFUSED, field, image, ready, run, shown

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

KEY = "a key of the tests"
STEADY = 0.1
"""The most that a page may shift: "good" by the Web Vitals."""
NOT_IN_A_FORM = {"latents", "latent_space", "adapters", "control"}
"""Fields that are no matter for typing, or that no model of the catalog has a use for."""
OF_TEXT = {"prompt", "negative_prompt", "prompts", "factors"}


def trajectories(site: str) -> int:
    """Rows in flight."""
    return sum(p["trajectories"] for p in httpx.get(f"{site}/v1/status").json()["pools"])


def test_models_are_chosen_from_a_list_by_family(site: str, open_page: Opener) -> None:
    page = ready(open_page(site))
    page.click("#model-button")
    items = page.locator(".chooser-item")
    expect(items).to_have_count(len(httpx.get(f"{site}/v1/models").json()["data"]))
    expect(page.get_by_role("heading", name="GAN", exact=True)).to_be_visible()
    expect(page.locator(".chooser-about .sheet img")).to_be_visible()
    expect(page.locator(".chooser-about table").first).to_be_visible()
    page.get_by_role("searchbox").fill("shapes gan label")
    expect(items).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#model-button")).to_contain_text("shapes-cgan")
    expect(page).to_have_url(re.compile(re.escape(f"{site}/#shapes-cgan/generate")))
    page.go_back()
    expect(page.locator("#model-button")).not_to_contain_text("shapes-cgan")


def test_the_form_is_the_schema_of_the_model(site: str, open_page: Opener) -> None:
    page = ready(open_page(site))
    for model in httpx.get(f"{site}/v1/models").json()["data"]:
        if "generate" not in model["operations"]:
            continue
        page.goto(f"{site}/#{model['id']}/generate")
        expect(page.locator("#model-button")).to_contain_text(model["id"])
        properties = model["operations"]["generate"]["properties"]
        meant = set(properties) - NOT_IN_A_FORM
        if "text" not in model["conditioning"]:
            meant -= OF_TEXT
        if not model["limits"].get("factors"):
            meant -= {"factors"}
        if not model["labels"]:
            meant -= {"label", "classifier_scale"}
        fields = page.locator("#tool [data-field]").evaluate_all(
            "(all) => all.map((one) => one.dataset.field)"
        )
        assert set(fields) - {"cascade", "output_format", "preview_every"} == meant
        highest = field(page, "n").get_attribute("max")
        assert highest == str(properties["n"]["maximum"])


def test_an_image_comes_about_before_the_eyes(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-ldm/generate?seed=7&steps=40"))
    page.locator("[data-field=prompt] textarea").fill("a red star on black")
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)

    page.expose_function("heard", heard)
    page.evaluate(
        """() => new MutationObserver(() => heard(document.querySelector(".progress").innerText))
            .observe(document.querySelector(".progress"), {childList: true, subtree: true})"""
    )
    page.evaluate(
        """() => { window.glimpses = new Set(); new MutationObserver((all) => all.forEach(
            (one) => one.target.src && window.glimpses.add(one.target.src)))
            .observe(document.querySelector("#tool"),
                     {subtree: true, attributes: true, attributeFilter: ["src"]}); }"""
    )
    run(page)
    assert any(re.search(r"Step \d+ of 40\n.*σ [\d.]+ · about .* left", text) for text in said)
    assert page.evaluate("window.glimpses.size") > 2, "previews, then the image"
    expect(page.locator(".revised")).to_contain_text("red star")
    expect(page.locator(".timings")).to_contain_text("Steps")
    body = {"model": "shapes-ldm", "prompt": "a red star on black", "seed": 7, "steps": 40}
    assert np.array_equal(shown(page), image(site, **body))


def test_escape_withdraws_the_work(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-ldm/generate?steps=1000&n=4", expected=(REFUSED,)))
    withdrawn: list[str] = []
    page.on("request", lambda one: withdrawn.append(one.url) if one.method == "DELETE" else None)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".progress-state")).to_contain_text("Step")
    page.keyboard.press("Escape")
    expect(page.locator(".progress-state")).to_have_text("Canceled")
    expect(page.locator("[data-key=run]")).to_be_visible()
    assert re.fullmatch(rf"{site}/v1/requests/page-[0-9a-f]{{24}}", withdrawn[0])
    settled(lambda: trajectories(site) == 0, "the rows have left", page)


def test_a_refusal_stands_at_the_field_that_it_names(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-ldm/generate", expected=(REFUSED,)))
    prompt = page.locator("[data-field=prompt] textarea")
    prompt.fill("a red dragon")
    page.keyboard.press("Control+Enter")
    complaint = page.locator("[data-field=prompt] .field-error")
    expect(complaint).to_contain_text("does not know the word 'dragon'")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_attribute("aria-invalid", "true")
    assert complaint.get_attribute("id") in prompt.get_attribute("aria-describedby")
    prompt.fill("a red star")
    expect(complaint).to_be_hidden()
    field(page, "n").fill("65")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-field=n] .field-error")).to_contain_text("64")


def test_a_kept_seed_makes_the_same_image(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?label=ring&n=4"))
    run(page)
    expect(page.locator(".tile[data-state=done]")).to_have_count(4)
    second = page.locator(".tile").nth(1)
    seed = second.locator(".tile-seed").inner_text()
    before = shown(page, ".tile:nth-child(2) img")
    second.locator(".tile-face").click()
    expect(field(page, "seed")).to_have_value(seed)
    page.get_by_role("button", name="This seed alone").click()
    expect(page.locator(".tile[data-state=done]")).to_have_count(1)
    assert np.array_equal(shown(page), before)
    assert np.array_equal(before, image(site, model="shapes-cgan", label="ring", seed=int(seed)))


def test_a_link_brings_everything_back(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-ldm/generate"))
    page.locator("[data-field=prompt] textarea").fill("a “red” star & ring? #1")
    field(page, "steps").fill("12")
    page.locator("[data-field=sampler] select").select_option("heun")
    page.locator(".advanced > summary").click()
    page.locator("[data-field=guidance_interval] input").first.fill("0.2")
    page.locator("[data-field=guidance_interval] input").last.fill("0.7")
    again = ready(open_page(page.evaluate("location.href")))  # `page.url` may lag behind
    expect(again.locator("[data-field=prompt] textarea")).to_have_value("a “red” star & ring? #1")
    expect(field(again, "steps")).to_have_value("12")
    expect(again.locator("[data-field=sampler] select")).to_have_value("heun")
    expect(again.locator("[data-field=guidance_interval] input").last).to_have_value("0.7")
    expect(again.locator(".advanced")).to_have_attribute("open", "")


def test_what_the_visit_made_can_be_brought_back(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?label=star&seed=3&truncation=0.5"))
    run(page)
    first = shown(page)
    page.goto(f"{site}/#digits-realnvp/generate?seed=4")
    expect(page.locator("#model-button")).to_contain_text("digits-realnvp")
    run(page)
    expect(page.locator(".history-entry")).to_have_count(2)
    page.locator(".history-entry").last.click()
    expect(page.locator("#model-button")).to_contain_text("shapes-cgan")
    expect(field(page, "truncation")).to_have_value("0.5")
    expect(page.locator("[data-field=label] input[value=star]")).to_be_checked()
    assert np.array_equal(shown(page), first)
    page.goto(f"{site}/#digits-realnvp/generate")
    page.reload()
    expect(page.locator("#model-button")).to_contain_text("digits-realnvp")
    expect(page.locator(".history-entry")).to_have_count(2)
    page.locator(".history-entry").last.click()
    expect(page.locator("#model-button")).to_contain_text("shapes-cgan")
    assert np.array_equal(shown(page), first)
    # A tab keeps some megabytes: the oldest make room, and what is no picture of ours stays.
    page.evaluate("sessionStorage.setItem('other', 'x'.repeat(4_900_000))")
    run(page)
    expect(page.locator(".history-entry")).to_have_count(3)
    page.reload()
    settled(lambda: 0 < page.locator(".history-entry").count() <= 3, "the newest is there", page)
    assert page.evaluate("sessionStorage.getItem('other').length") == 4_900_000


def test_two_images_are_compared(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?label=star&seed=3&n=2"))
    run(page)
    page.get_by_role("button", name="Compare with another: seed 3").click()
    page.get_by_role("button", name="Compare with seed 3: seed 4").click()
    expect(page.locator("dialog .wipe img")).to_have_count(2)
    expect(page.locator("dialog .differences")).to_contain_text("seed")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_an_image_is_saved_under_its_model_and_seed(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?seed=3&output_format=webp"))
    run(page)
    with page.expect_download() as download:
        page.locator(".tile-face").focus()
        page.keyboard.press("d")
    assert download.value.suggested_filename == "shapes-cgan-3.webp"
    data = Path(download.value.path()).read_bytes()
    assert Image.open(io.BytesIO(data)).format == "WEBP"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that asks for a key."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with catalog_site(tmp_path_factory.mktemp("keyed"), api_keys=(digest,)) as url:
        yield url


def test_a_key_is_asked_for_and_goes_nowhere_else(keyed: str, open_page: Opener) -> None:
    page = open_page(keyed, expected=(REFUSED,))
    page.get_by_label("Key", exact=True).fill("a wrong one")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The service does not take this key.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(KEY)
    sent: list[Any] = []

    def saw(one: Any) -> None:
        sent.append(one)

    page.on("request", saw)
    page.keyboard.press("Enter")
    ready(page)
    page.goto(f"{keyed}/#shapes-cgan/generate?seed=1")
    run(page)
    generated = next(one for one in sent if one.url.endswith("/v1/generate"))
    assert generated.headers["authorization"] == f"Bearer {KEY}"
    assert not any("key%20of" in one.url or KEY in (one.post_data or "") for one in sent)
    assert KEY not in page.evaluate("JSON.stringify([localStorage, document.cookie])")
    page.get_by_role("button", name="As code").first.click()
    expect(page.locator("dialog code")).to_contain_text("$ATELIER_API_KEY")
    assert KEY not in page.locator("dialog").inner_text()


def test_a_service_that_is_gone_is_said_so(site: str, open_page: Opener) -> None:
    page = ready(open_page(f"{site}/#shapes-cgan/generate?seed=1", expected=(REFUSED,)))
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert").first).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".tile[data-state=done]")).to_have_count(1)


def test_nothing_jumps_while_the_page_loads(site: str, open_page: Opener) -> None:
    page = ready(open_page(site))
    page.wait_for_timeout(500)
    shift = page.evaluate(
        """() => new Promise((resolve) => {
            let total = 0;
            const add = (list) => list.getEntries().forEach((one) => { total += one.value; });
            new PerformanceObserver(add).observe({type: "layout-shift", buffered: true});
            setTimeout(() => resolve(total), 100);
        })"""
    )
    assert shift < STEADY


def test_the_first_paint_waits_for_no_model(site: str, open_page: Opener, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.route("**/v1/**", lambda route: None)  # never answered
    page.goto(site)
    expect(page.locator(".brand")).to_be_visible()
    expect(page.locator(".skeleton")).to_be_visible()
    expect(page.locator("#model-button")).to_be_disabled()
    page.context.close()


def test_an_unknown_model_in_the_address_leads_to_one_that_is_there(
    site: str, open_page: Opener
) -> None:
    page = ready(open_page(f"{site}/#no-such-model/no-such-tool?seed=x"))
    expect(page.locator("#model-button")).to_contain_text("shapes-ldm")
