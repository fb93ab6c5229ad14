"""The status page, as an operator with a browser reads it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from tests.e2e.page_fixtures import PATIENCE_MS, Opener, settled, violations
from tests.e2e.tool_fixtures import tiny_site
from tests.e2e.using_the_page import REFUSED, imported

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE_MS)

KEY = "a key of the tests"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service of tiny models."""
    with tiny_site(tmp_path_factory.mktemp("status")) as url:
        yield url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the same that asks for a key."""
    digests = (hashlib.sha256(KEY.encode()).hexdigest(),)
    with tiny_site(tmp_path_factory.mktemp("locked"), api_keys=digests) as url:
        yield url


def row(page: Page, table: str, name: str) -> list[str]:
    """The cells of a table's row, by the name that it begins with."""
    cells = page.locator(f"#{table} tr", has=page.get_by_role("rowheader", name=name, exact=True))
    return cells.locator("td").all_inner_texts()


def test_metrics_are_read_as_prometheus_writes_them(tiny: str, open_page: Opener) -> None:
    text = (
        "# HELP a_total Of \\ things.\n# TYPE a_total counter\n"
        'a_total{path="/x\\"y\\\\z",kind="l\\ni{n}e, b=1"} 3.0\n'
        'a_total 1e+06\nlate_bucket{le="+Inf"} 7 1395066363000\nnothing\nbad NaN\n'
    )
    found = imported(
        open_page(f"{tiny}/status"),
        "status/exposition.js",
        "({ parse }, text) => parse(text).map((s) => ({ ...s, value: String(s.value) }))",
        text,
    )
    assert found == [
        {"name": "a_total", "labels": {"path": '/x"y\\z', "kind": "l\ni{n}e, b=1"}, "value": "3"},
        {"name": "a_total", "labels": {}, "value": "1000000"},
        {"name": "late_bucket", "labels": {"le": "+Inf"}, "value": "7"},
        {"name": "bad", "labels": {}, "value": "NaN"},
    ]


def test_quantiles_are_those_of_what_came_between_two_looks(tiny: str, open_page: Opener) -> None:
    registry = CollectorRegistry()
    buckets = tuple(np.linspace(0.05, 2.0, 40))
    seconds = Histogram("s", "Seconds.", ["route"], buckets=buckets, registry=registry)
    random = np.random.default_rng(0)
    for value in random.exponential(9.0, 500):  # long ago, and quite different
        seconds.labels("/a").observe(value)
    before = generate_latest(registry).decode()
    lately = random.gamma(4.0, 0.1, 2000)
    for value in lately:
        seconds.labels("/a").observe(value)
    seconds.labels("/b").observe(5.0)
    after = generate_latest(registry).decode()
    script = """async ({ observed, quantile }, [before, after]) => {
        const { parse } = await import("/page/status/exposition.js");
        const look = (text) => ({ at: 0, samples: parse(text) });
        const found = observed(look(before), look(after), "s", "route");
        const read = (route) => [0.5, 0.95, 0.99].map((share) => quantile(found.get(route), share));
        const since = observed({ at: 0, samples: [] }, look(after), "s", "route");
        return [read("/a"), read("/b"), since.get("/a").at(-1).count, quantile([], 0.5)];
    }"""
    page = open_page(f"{tiny}/status")
    a, b, ever, nothing = imported(page, "status/rates.js", script, [before, after])
    for found, share in zip(a, (0.5, 0.95, 0.99), strict=True):
        assert found["value"] == pytest.approx(np.quantile(lately, share), abs=0.05)
        assert not found["beyond"]
    assert b[0] == {"value": pytest.approx(2.0), "beyond": True}
    assert ever == 2500
    assert nothing is None


def test_a_counter_that_began_anew_counts_from_zero(tiny: str, open_page: Opener) -> None:
    script = """({ growth }, [before, after]) => {
        const look = (values) => ({
            at: 0,
            samples: values.map(([route, code, value]) => (
                { name: "n", labels: { route, code }, value }
            )),
        });
        return [...growth(look(before), look(after), "n", "route")];
    }"""
    before = [["/a", "200", 10], ["/a", "500", 4], ["/b", "200", 100]]
    after = [["/a", "200", 15], ["/a", "500", 4], ["/b", "200", 3], ["/c", "200", 2]]
    found = imported(open_page(f"{tiny}/status"), "status/rates.js", script, [before, after])
    assert found == [["/a", 5], ["/b", 3], ["/c", 2]]


def test_it_shows_what_the_service_does(tiny: str, open_page: Opener) -> None:
    asked = {"model": "tiny-vae", "n": 3, "seed": 1}
    for _ in range(4):
        httpx.post(f"{tiny}/v1/generate", json=asked, timeout=60).raise_for_status()
    assert httpx.post(f"{tiny}/v1/likelihood", json=asked).status_code == 422
    page = open_page(f"{tiny}/status")
    expect(page.locator("#verdict")).to_have_text("Ready")
    pool = page.locator(".pool", has_text="default")
    expect(pool).to_contain_text("fused, 1 replica")
    expect(pool.locator(".chip", has_text="tiny-vae")).to_be_visible()
    requests, _, failed, *latencies, _ = row(page, "routes", "/v1/generate")
    assert (int(requests), int(failed)) == (4, 0)
    assert all(re.fullmatch(r"(> )?[\d.]+ (ms|s)", text) for text in latencies)
    finished, evaluations, rows_each, _ = row(page, "models", "tiny-vae")
    assert int(finished) == 12
    assert float(rows_each) == pytest.approx(12 / int(evaluations), abs=0.06)
    assert not row(page, "routes", "/v1/status")


def test_it_follows_while_it_is_looked_at(tiny: str, open_page: Opener) -> None:
    page = open_page(f"{tiny}/status")
    expect(page.locator("#verdict")).to_have_text("Ready")
    page.get_by_label("Over").select_option("60")
    httpx.post(f"{tiny}/v1/generate", json={"model": "tiny-gan"}, timeout=60).raise_for_status()
    settled(lambda: (row(page, "routes", "/v1/generate") or ["0"])[0] == "1", "it is shown", page)
    line = page.locator("#tiles .sparkline").first
    expect(line).to_have_attribute("aria-label", re.compile(r"^Requests in the last two minutes"))
    values = page.locator("#tiles .tile-value").first
    expect(values).not_to_have_text("0/s")


def test_it_pauses_for_the_person_and_for_a_hidden_tab(tiny: str, open_page: Opener) -> None:
    page = open_page(f"{tiny}/status")
    expect(page.locator("#verdict")).to_have_text("Ready")
    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url))
    button = page.get_by_role("button", name="Pause")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#freshness")).to_contain_text("Paused")
    page.wait_for_load_state("networkidle")
    looks.clear()
    page.wait_for_timeout(2600)  # longer than a look takes to come round
    assert not looks
    page.keyboard.press("Enter")
    settled(lambda: looks, "it looks again", page)
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    looks.clear()
    page.wait_for_timeout(2600)
    assert not looks
    page.evaluate(hide, False)
    settled(lambda: looks, "it looks again", page)


def test_it_asks_for_a_key_and_takes_it(locked: str, open_page: Opener) -> None:
    page = open_page(f"{locked}/status", expected=(REFUSED,))
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#verdict")).to_have_text("Needs a key")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    field.fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator(".pool")).to_have_count(1)


def test_what_a_service_says_is_text(tiny: str, open_page: Opener) -> None:
    evil = "<img src=x onerror=document.title=1>"
    page = open_page("about:blank")
    status: dict[str, Any] = {
        "ready": False,
        "pools": [
            {
                "name": evil,
                "placement": evil,
                "replicas": 0,
                "loaded": [evil],
                "queue_seconds": 1.0,
                "trajectories": 1,
                "heartbeat_age": 0.1,
            }
        ],
    }
    metrics = (
        f'atelier_requests_total{{route="{evil}",code="200"}} 2\n'
        f'atelier_jobs{{state="{evil}"}} 3\natelier_jobs{{state="queued"}} 4\n'
    )
    page.route("**/v1/status", lambda route: route.fulfill(json=status))
    page.route("**/metrics", lambda route: route.fulfill(body=metrics, content_type="text/plain"))
    page.goto(f"{tiny}/status")
    expect(page.locator("#verdict")).to_have_text("Not ready")
    expect(page.locator(".pool .badge")).to_have_text("no replica")
    expect(page.locator("#jobs .tile")).to_have_count(2)
    expect(page.locator("#jobs")).to_contain_text("queued")
    assert row(page, "routes", evil)[0] == "2"
    assert page.locator("main img").count() == 0
    assert page.title() == "Status · Atelier"


def test_it_says_that_the_service_cannot_be_reached_and_when_it_can(
    tiny: str, open_page: Opener
) -> None:
    page = open_page(f"{tiny}/status", expected=("Failed", "ERR_"))
    expect(page.locator("#verdict")).to_have_text("Ready")
    page.route("**/v1/status", lambda route: route.abort())
    expect(page.locator("#verdict")).to_have_text("Cannot be reached")
    expect(page.locator(".pool")).to_have_count(1)  # what was known stays
    page.unroute("**/v1/status")
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator(".error-box")).to_have_count(0)


def test_it_fits_a_phone_in_the_dark(tiny: str, open_page: Opener) -> None:
    page = open_page(f"{tiny}/status", width=360, height=740, color_scheme="dark")
    expect(page.locator("#verdict")).to_have_text("Ready")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = [int(part) for part in re.findall(r"\d+", paper)[:3]]
    assert math.fsum(lightness) < 3 * 64


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(tiny: str, open_page: Opener, axe: str, scheme: str) -> None:
    httpx.post(f"{tiny}/v1/generate", json={"model": "tiny-gan"}, timeout=60).raise_for_status()
    page = open_page(f"{tiny}/status", color_scheme=scheme)
    expect(page.locator("#routes tbody tr").first).to_be_visible()
    assert violations(page, axe) == []
