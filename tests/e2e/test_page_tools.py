"""The page's tools at work, as a person with a browser uses them."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from services.core.parameters import Latents
from tests.e2e.page_fixtures import Opener, settled
from tests.e2e.using_the_page import (
    Pixels,
    Sent,
    at,
    image,
    pixels_of,
    post,
    press,
    shown,
    some_image,
    upload,
)

pytestmark = pytest.mark.slow

NOISE = np.random.default_rng(1)


def painted(page: Page) -> Pixels:
    """The mask as the page would send it."""
    stage = page.locator(".painter-veil")
    alpha = stage.evaluate(
        """(canvas) => [
            ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data,
        ].filter((_, index) => index % 4 === 3)"""
    )
    return (np.array(alpha) > 0).astype(np.uint8)


def test_inpainting_changes_what_is_painted_and_nothing_else(site: str, open_page: Opener) -> None:
    page = at(open_page(f"{site}/#shapes-ldm/inpaint?steps=4&seed=3"), "Inpaint", "shapes-ldm")
    original = image(site, model="shapes-ldm", prompt="a large red star on black", seed=1, steps=6)
    upload(page, original)
    sent = Sent(page)
    stage = page.locator(".painter-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box
    unit = box["width"] / 32
    page.mouse.move(box["x"] + 8.5 * unit, box["y"] + 10.5 * unit)
    page.mouse.down()
    page.mouse.move(box["x"] + 20.5 * unit, box["y"] + 10.5 * unit, steps=4)
    page.mouse.up()
    marked = painted(page).reshape(32, 32)
    press(page, "Inpaint")
    expect(page.locator(".pair-result button").first).to_be_visible()

    (body,) = sent.to("/v1/edit")
    assert body["operation"] == "inpaint"
    assert body["seed"] == 3
    mask = pixels_of(body["mask"])
    assert mask.shape == (32, 32, 3)
    assert np.array_equal(mask[..., 0] == 255, marked == 1)
    assert marked[10, 8:21].all()
    assert not marked[:6].any()
    result = shown(page, ".pair-result img")
    assert np.array_equal(result[marked == 0], original[marked == 0])
    assert not np.array_equal(result[marked == 1], original[marked == 1])


def test_a_mask_is_painted_with_the_keyboard_alone(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-diffusion/inpaint"), "Inpaint", "tiny-diffusion")
    upload(page, some_image(8))
    stage = page.locator(".painter-stage")
    stage.focus()
    for _ in range(8):
        page.keyboard.press("[")  # the smallest brush
    page.keyboard.press("Space")
    assert painted(page).sum() == 1
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    assert painted(page).reshape(8, 8)[3:5, 3:5].tolist() == [[1, 0], [1, 1]]
    page.keyboard.press("Control+z")
    assert painted(page).sum() == 2
    page.keyboard.press("Control+y")
    assert painted(page).sum() == 3
    page.keyboard.press("e")
    page.keyboard.press("Space")
    assert painted(page).sum() == 2
    press(page, "Clear")
    page.get_by_text("A rectangle by numbers").click()
    for name, value in (("Left", "5"), ("Top", "6"), ("Width", "3"), ("Height", "2")):
        page.locator(".painter-fields").get_by_label(name).fill(value)
    press(page, "Mark it")
    expected = np.zeros((8, 8), np.uint8)
    expected[6:8, 5:8] = 1
    assert np.array_equal(painted(page).reshape(8, 8), expected)
    press(page, "Invert")
    assert np.array_equal(painted(page).reshape(8, 8), 1 - expected)


def test_what_is_missing_is_said_before_anything_is_sent(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-diffusion/inpaint"), "Inpaint", "tiny-diffusion")
    sent = Sent(page)
    press(page, "Inpaint")
    expect(page.locator(".picture-input .field-error")).to_have_text("Choose an image first.")
    upload(page, some_image(8))
    expect(page.locator(".picture-input .field-error")).to_be_hidden()
    press(page, "Inpaint")
    expect(page.locator(".painter-said")).to_contain_text("Paint over")
    assert not sent.bodies


def test_a_file_that_is_no_image_is_refused(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-vae/likelihood"), "Likelihood", "tiny-vae")
    file = {"name": "a<b>.svg", "mimeType": "image/svg+xml", "buffer": b"<svg onload='alert(1)'/>"}
    page.locator("input[type=file]").set_input_files([file])
    expect(page.locator(".picture-input .field-error")).to_have_text(
        "a<b>.svg is no PNG, JPEG or WebP."
    )


def test_outpainting_shows_where_the_image_will_lie(tiny: str, open_tiny: Opener) -> None:
    url = f"{tiny}/#tiny-diffusion/outpaint?left=2&right=0&top=0&bottom=4&canvas=grow&steps=2"
    page = at(open_tiny(url), "Outpaint", "tiny-diffusion")
    upload(page, some_image(8))
    frame, kept = (page.locator(name).bounding_box() for name in (".plan-frame", ".plan-kept"))
    assert frame
    assert kept
    assert kept["width"] / frame["width"] == pytest.approx(8 / 10, abs=0.03)
    assert kept["height"] / frame["height"] == pytest.approx(8 / 12, abs=0.03)
    press(page, "Outpaint")
    expect(page.locator(".pair-result button").first).to_be_visible()
    assert shown(page, ".pair-result img").shape == (12, 10, 3)


def test_the_way_between_two_seeds_begins_and_ends_with_theirs(
    site: str, open_page: Opener
) -> None:
    url = f"{site}/#shapes-vae/interpolate?seeds=[3,8]&n=5"
    page = at(open_page(url), "Interpolate", "shapes-vae")
    press(page, "Interpolate")
    expect(page.locator(".strip-frame img")).to_have_count(5)
    first, last = (image(site, model="shapes-vae", seed=seed).astype(int) for seed in (3, 8))
    assert np.abs(shown(page, ".scrubber-large").astype(int) - first).max() <= 1
    slider = page.get_by_role("slider", name="Frame")
    slider.press("End")
    expect(page.locator(".scrubber-where")).to_have_text("5 of 5")
    assert np.abs(shown(page, ".scrubber-large").astype(int) - last).max() <= 1
    expect(page.locator(".history-entry")).to_have_count(0)
    press(page, "Keep this frame")
    expect(page.locator(".history-entry")).to_have_count(1)


def test_the_way_between_two_images_begins_and_ends_with_them(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-flow/interpolate"), "Interpolate", "tiny-flow")
    page.get_by_role("radio", name="Two images").check()
    ends = [np.repeat(NOISE.integers(40, 216, (4, 4, 1)), 3, 2).astype(np.uint8) for _ in range(2)]
    for place, end in enumerate(ends):
        upload(page, end, place)
    press(page, "Interpolate")
    expect(page.locator(".strip-frame img")).to_have_count(8)
    for place, end in ((1, ends[0]), (8, ends[1])):
        found = shown(page, f".strip li:nth-child({place}) img").astype(int)
        assert np.abs(found - end).max() <= 1  # a flow and its inverse lose nothing


def test_a_slider_moves_one_latent_and_the_image_with_it(site: str, open_page: Opener) -> None:
    page = at(open_page(f"{site}/#digits-realnvp/latents"), "Latents", "digits-realnvp")
    sent = Sent(page)
    press(page, "Begin")
    expect(page.locator(".latents-images img")).to_be_visible()
    before = shown(page, ".latents-images img")
    expect(page.locator(".slider-row")).to_have_count(8)
    slider = page.locator(".slider-row input").first
    slider.press("Home")
    settled(lambda: len(sent.to("/v1/generate")) >= 2, "a second image was asked for", page)
    settled(
        lambda: not np.array_equal(shown(page, ".latents-images img"), before),
        "the image followed",
        page,
    )
    start, moved = (
        Latents(**body["latents"]).array().ravel()
        for body in (sent.to("/v1/generate")[0], sent.to("/v1/generate")[-1])
    )
    place = int(page.locator(".slider-row label").first.inner_text().removeprefix("z")) - 1
    assert np.flatnonzero(start != moved).tolist() == [place]
    assert abs(start[place]) == np.abs(start).max()
    assert moved[place] == float(slider.get_attribute("min") or "nan")


def test_a_strip_shows_one_dimension_from_end_to_end(site: str, open_page: Opener) -> None:
    page = at(open_page(f"{site}/#digits-realnvp/latents"), "Latents", "digits-realnvp")
    page.get_by_role("radio", name="An image").check()
    upload(page, image(site, model="digits-realnvp", seed=5))
    press(page, "Begin")
    expect(page.locator(".latents-images img")).to_have_count(2)
    sent = Sent(page)
    page.get_by_role("button", name="as a strip").nth(2).click()
    expect(page.locator(".strip-frame img")).to_have_count(9)
    walks = np.array([Latents(**b["latents"]).array().ravel() for b in sent.to("/v1/generate")])
    place = int(page.locator(".slider-row label").nth(2).inner_text().removeprefix("z")) - 1
    assert walks[:, place].tolist() == np.linspace(-3, 3, 9).tolist()
    assert (np.delete(walks, place, 1) == np.delete(walks, place, 1)[0]).all()


def test_every_place_of_a_style_matrix_mixes_its_row_and_column(
    tiny: str, open_tiny: Opener
) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-style/style_mix"), "Style mix", "tiny-style")
    page.get_by_label("Seeds of the rows").fill("1, 2")
    page.get_by_label("Seeds of the columns").fill("5; 6 7")
    press(page, "Mix")
    cells = page.locator(".matrix img")
    expect(cells).to_have_count(2 + 3 + 6)

    def mixed(*seeds: int) -> Pixels:
        return image(tiny, "/v1/edit", model="tiny-style", operation="style_mix", seeds=seeds)

    row = ".matrix tbody tr:nth-child(2)"
    assert np.array_equal(shown(page, f"{row} td:nth-of-type(3) img"), mixed(2, 7))
    assert np.array_equal(shown(page, f"{row} th img"), mixed(2, 2))
    assert np.array_equal(shown(page, ".matrix thead th:nth-of-type(1) img"), mixed(5, 5))
    page.get_by_label("Seeds of the rows").fill("one")
    press(page, "Mix")
    expect(page.locator(".field-error").first).to_contain_text("Give 1 to 8 whole numbers")


def test_variations_stand_around_the_image_of_a_seed(tiny: str, open_tiny: Opener) -> None:
    url = f"{tiny}/#tiny-diffusion/vary?seed=4&variation_seed=9&variation_strength=0.2&n=3&steps=2"
    page = at(open_tiny(url), "Vary", "tiny-diffusion")
    press(page, "Vary the seed")
    expect(page.locator(".tile[data-state=done]")).to_have_count(3)
    common = {"model": "tiny-diffusion", "seed": 4, "steps": 2}
    assert np.array_equal(shown(page, ".pair-original img"), image(tiny, **common))
    third = image(tiny, **common, variation_seed=11, variation_strength=0.2)
    assert np.array_equal(shown(page, ".tile:nth-child(3) img"), third)
    expect(page.locator(".tile-seed")).to_have_text(["9", "10", "11"])


def test_an_operation_without_a_tool_has_a_form_of_its_schema(tiny: str, open_tiny: Opener) -> None:
    page = at(
        open_tiny(f"{tiny}/#tiny-super_resolution/edit"), "More edits", "tiny-super_resolution"
    )
    given = some_image(6)
    upload(page, given)
    field = page.locator("[data-field=steps] input[type=number]")
    field.fill("2")
    sent = Sent(page)
    press(page, "Super resolution")
    expect(page.locator(".pair-result button").first).to_be_visible()
    (body,) = sent.to("/v1/edit")
    assert (body["operation"], body["steps"]) == ("super_resolution", 2)
    assert np.array_equal(pixels_of(body["images"][0]), given)
    assert shown(page, ".pair-result img").shape == (12, 12, 3)


def test_likelihood_is_shown_as_the_service_says_it(site: str, open_page: Opener) -> None:
    page = at(open_page(f"{site}/#digits-realnvp/likelihood"), "Likelihood", "digits-realnvp")
    digit = image(site, model="digits-realnvp", seed=2, temperature=0.7)
    upload(page, digit)
    sent = Sent(page)
    press(page, "Measure")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Exact")
    (body,) = sent.to("/v1/likelihood")
    said = post(site, "/v1/likelihood", **body)["data"][0]
    expect(verdict).to_contain_text(f"{said['bits_per_dim']:.3f}")
    expect(page.locator(".terms tbody tr")).to_have_count(len(said["terms"]))
    reference = httpx.get(f"{site}/v1/models/digits-realnvp/reference").json()
    low, high = reference["log_likelihoods"][0], reference["log_likelihoods"][-1]
    nats = said["log_likelihood"]
    if low <= nats <= high:
        place = float(page.locator(".chart-marker").evaluate("(m) => parseFloat(m.style.left)"))
        assert place == pytest.approx(100 * (nats - low) / (high - low), abs=0.1)

    upload(page, some_image(8))
    press(page, "Measure")
    expect(verdict.locator(".badge")).to_have_text("Anomalous")
    expect(page.locator(".chart-marker")).to_contain_text("below")
    expect(page.get_by_role("region", name="Measured images").locator("tbody tr")).to_have_count(2)


def test_no_percentile_is_shown_against_another_estimator(site: str, open_page: Opener) -> None:
    page = at(open_page(f"{site}/#shapes-vae/likelihood?samples=8"), "Likelihood", "shapes-vae")
    upload(page, some_image(32))
    press(page, "Measure")
    expect(page.locator(".likelihood")).to_contain_text("measured with samples 64")
    expect(page.locator(".chart")).to_have_count(0)
    expect(page.locator(".judgement")).to_have_count(0)
