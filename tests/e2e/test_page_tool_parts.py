"""What all of the page's tools share: their arithmetic, errors, cancelling, phones, access."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from services.core.parameters import Latents
from tests.e2e.page_fixtures import Opener, settled, violations
from tests.e2e.using_the_page import at, imported, press, shown, some_image, upload

pytestmark = pytest.mark.slow


def test_tools_are_shown_for_models_that_can(tiny: str, open_tiny: Opener) -> None:
    page = open_tiny(f"{tiny}/#tiny-diffusion/generate")
    tabs = page.locator("#tabs [role=tab]")
    expected = {
        "tiny-diffusion": [
            "Inpaint",
            "Outpaint",
            "Vary",
            "Interpolate",
            "Latents",
            "More edits",
            "Likelihood",
        ],
        "tiny-gan": ["Interpolate", "More edits"],
        "tiny-style": ["Interpolate", "Latents", "Style mix", "More edits"],
        "tiny-vae": ["Interpolate", "Latents", "More edits", "Likelihood"],
        "tiny-super_resolution": ["More edits"],
    }
    for model, tools in expected.items():
        page.goto(f"{tiny}/#{model}/generate")
        expect(page.locator("#model-button")).to_contain_text(model)
        generates = model != "tiny-super_resolution"
        expect(tabs).to_have_text(["Generate", *tools] if generates else tools)


def test_a_mask_is_what_was_painted(tiny: str, open_tiny: Opener) -> None:
    found = imported(
        open_tiny(tiny),
        "tools/bitmap.js",
        """({ Bitmap }) => {
            const mask = new Bitmap(5, 4);
            const seen = [];
            const change = (act) => { mask.begin(); act(mask); seen.push([...mask.cells]); };
            change((m) => m.rectangle(1, 1, 2, 2));
            change((m) => m.stamp(4.5, 3.5, 1, 1));
            change((m) => m.invert());
            mask.undo(); seen.push([...mask.cells]);
            mask.undo(); seen.push([...mask.cells]);
            mask.redo(); seen.push([...mask.cells]);
            change((m) => m.clear());
            seen.push(mask.redo());
            const pixels = new Bitmap(1, 1);
            pixels.invert();
            return { seen, white: [...pixels.pixels()] };
        }""",
    )
    box = np.zeros((4, 5), int)
    box[1:3, 1:3] = 1
    dotted = box.copy()
    dotted[3, 4] = 1
    expected = [box, dotted, 1 - dotted, dotted, box, dotted, 0 * box]
    for cells, wanted in zip(found["seen"], expected, strict=False):
        assert np.array_equal(np.reshape(cells, (4, 5)), wanted)
    assert found["seen"][-1] is False  # what was done again is gone after a new change
    assert found["white"] == [255, 255, 255, 255]


def test_latents_cross_the_wire_as_the_service_reads_them(tiny: str, open_tiny: Opener) -> None:
    values = np.array([[0.5, -2.25, 3e-8], [1.0, -0.0, 7.125]], np.float32)
    page = open_tiny(tiny)
    again = imported(
        page,
        "tools/tensors.js",
        """({ decoded, encoded, changed }, wire) =>
            encoded(changed(decoded(wire), new Map([[4, 9]])))""",
        Latents.from_array(values).model_dump(),
    )
    values[1, 1] = 9
    assert np.array_equal(Latents(**again).array(), values)


def test_draws_of_the_page_are_standard_normal(tiny: str, open_tiny: Opener) -> None:
    page = open_tiny(tiny)
    script = "({ drawn }, seed) => [...drawn(seed, [4, 5000]).values]"
    draws = np.array(imported(page, "tools/tensors.js", script, 7))
    assert abs(draws.mean()) < 4 / np.sqrt(len(draws))
    assert abs(draws.std() - 1) < 0.03
    assert np.mean(np.abs(draws) > 1.96) == pytest.approx(0.05, abs=0.007)
    assert np.array_equal(draws, imported(page, "tools/tensors.js", script, 7))
    assert not np.array_equal(draws, imported(page, "tools/tensors.js", script, 8))


def test_a_histogram_of_quantiles_is_that_of_the_draws(tiny: str, open_tiny: Opener) -> None:
    draws = np.random.default_rng(1).normal(-300, 20, 20000)
    quantiles = np.quantile(draws, np.linspace(0, 1, 101))
    bins = imported(
        open_tiny(tiny),
        "tools/quantiles.js",
        "({ histogram }, given) => histogram(given, 12)",
        quantiles.tolist(),
    )
    counts, edges = np.histogram(draws, 12)
    assert [one["from"] for one in bins] == pytest.approx(edges[:-1])
    shares = np.array([one["share"] for one in bins])
    assert shares.sum() == pytest.approx(1)
    # Between two quantiles the mass is spread evenly: no bin can be wrong by more than a hundredth.
    assert np.abs(shares - counts / counts.sum()).max() < 0.011


def test_an_error_stands_at_the_field_that_the_service_names(tiny: str, open_tiny: Opener) -> None:
    url = f"{tiny}/#tiny-diffusion/vary?prompt=mauve"
    page = open_tiny(url, expected=("Failed to load",))
    press(at(page, "Vary", "tiny-diffusion"), "Vary the seed")
    error = page.locator("[data-field=prompt] .field-error")
    expect(error).to_be_visible()
    expect(error).to_contain_text("mauve")


def test_a_picture_is_sent_from_one_tool_to_another(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-diffusion/generate?steps=2"), "Generate", "tiny-diffusion")
    press(page, "Generate")
    made = page.locator(".tile[data-state=done] img")
    expect(made).to_be_visible()
    pixels = shown(page, ".tile img")
    page.locator(".send button", has_text="Inpaint").click()
    at(page, "Inpaint", "tiny-diffusion")
    expect(page.locator(".picture-box.filled")).to_be_visible()
    assert np.array_equal(shown(page, ".picture-box img"), pixels)


def test_work_is_cancelled_in_the_service(tiny: str, open_tiny: Opener) -> None:
    page = at(open_tiny(f"{tiny}/#tiny-diffusion/vary?steps=200&n=64"), "Vary", "tiny-diffusion")
    press(page, "Vary the seed")
    expect(page.locator("[data-key=cancel]")).to_be_visible()
    settled(
        lambda: httpx.get(f"{tiny}/v1/status").json()["pools"][0]["trajectories"] > 0, "work", page
    )
    page.keyboard.press("Escape")
    expect(page.locator(".progress-state")).to_have_text("Cancelled")
    settled(
        lambda: httpx.get(f"{tiny}/v1/status").json()["pools"][0]["trajectories"] == 0,
        "its rows left",
        page,
    )


@pytest.mark.parametrize(
    ("model", "tool"),
    [("tiny-diffusion", tool) for tool in ("inpaint", "outpaint", "vary", "edit", "likelihood")]
    + [("tiny-style", tool) for tool in ("interpolate", "latents", "style_mix")],
)
def test_every_tool_fits_a_phone(tiny: str, open_tiny: Opener, model: str, tool: str) -> None:
    page = open_tiny(f"{tiny}/#{model}/{tool}", width=360, height=740)
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


WORKED = {
    "inpaint": ("tiny-diffusion", "Inpaint", ".painter-stage"),
    "outpaint": ("tiny-diffusion", "Outpaint", ".pair-result img"),
    "interpolate": ("tiny-vae", "Interpolate", ".strip li:last-child img"),
    "latents": ("tiny-style", "Begin", ".latents-images img"),
    "style_mix": ("tiny-style", "Mix", ".matrix tbody tr:last-child td:last-child img"),
    "likelihood": ("tiny-vae", "Measure", ".terms"),
}
"""By tool: a model, the button, and what is there once it has been pressed."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tool", WORKED)
def test_axe_finds_nothing_wrong_with_a_tool_at_work(
    tiny: str, open_page: Opener, axe: str, tool: str, scheme: str
) -> None:
    model, button, outcome = WORKED[tool]
    url = f"{tiny}/#{model}/{tool}?steps=2"
    page = open_page(url, expected=("status of 404",), color_scheme=scheme)
    expect(page.locator("#tool [data-key=run]")).to_be_visible()
    if page.locator(".picture-input:visible").count():
        upload(page, some_image(8))
    if tool == "inpaint":
        press(page, "Invert")
    press(page, button)
    expect(page.locator(outcome).first).to_be_visible()
    assert violations(page, axe) == []
