"""The files of the workbench: how they are sent, and that they hold together."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from services.gateway.workbench import PAGE, read_page

SCRIPTS = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.js"))
DOCUMENTS = sorted(path.name for path in PAGE.glob("*.html"))
IMPORT = re.compile(r"""(?:\bfrom\s+|^import\s+|\bimport\()"(\.[^"]+)\"""", re.MULTILINE)


def test_the_page_is_open_to_anybody_and_allows_nothing_inline(connect: Any) -> None:
    answer = connect(api_keys=("0" * 64,)).get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_has_no_inline_script_and_no_inline_style(name: str) -> None:
    text = (PAGE / name).read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_module_parses_no_html_and_runs_no_text(name: str) -> None:
    text = (PAGE / name).read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(forbidden, text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_module_imports_is_there(name: str) -> None:
    for target in IMPORT.findall((PAGE / name).read_text()):
        assert (PAGE / PurePosixPath(name).parent / target).is_file(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_is_there(name: str, client: Any) -> None:
    text = client.get("/" if name == "index.html" else f"/{PurePosixPath(name).stem}").text
    named = re.findall(r'"(/page/[^"#]+)', text)
    assert named
    for path in named:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "immutable" in answer.headers["cache-control"]


def test_a_file_without_a_version_is_asked_for_again_and_not_sent_again(client: Any) -> None:
    first = client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = client.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert not again.content


def test_packed_and_plain_are_the_same_file(client: Any) -> None:
    plain = client.get("/page/api.js", headers={"accept-encoding": "identity"})
    packed = client.get("/page/api.js", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == (PAGE / "api.js").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "../settings.py",
        "..%2Fsettings.py",
        "%2e%2e/settings.py",
        "components/../../app.py",
        "/etc/passwd",
        "nothing.js",
        "0123456789abcdef/app.js",
        "",
    ],
)
def test_nothing_but_the_page_is_served(client: Any, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_the_version_changes_with_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    before = read_page(tmp_path).version
    assert read_page(tmp_path).version == before
    (tmp_path / "a.js").write_text("2")
    assert read_page(tmp_path).version != before


def test_every_file_is_in_the_wheel() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    root = PAGE.parents[2]
    found = {Path(one.path) for one in wheel.WheelBuilder(str(root)).recurse_included_files()}
    assert {path for path in PAGE.rglob("*") if path.is_file()} <= found
