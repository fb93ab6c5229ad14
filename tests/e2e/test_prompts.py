"""Whatever a client says, a model of factors gives a defined answer: an image, or a refusal."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.asks import shown
from tests.e2e.running import Server

LONGEST = 2000


def ask(server: Server, prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "shapes-ldm", "prompt": prompt, "seed": 3, "steps": 2, **more}
    return server.post("/v1/generate", body)


@pytest.mark.parametrize(
    ("prompt", "same_as"),
    [
        ("\N{GLOWING STAR}\N{LARGE RED CIRCLE}", ""),
        (" \t\n\N{NO-BREAK SPACE}", ""),
        ("...!?", ""),
        ("\N{RIGHT-TO-LEFT OVERRIDE}a red star\N{POP DIRECTIONAL FORMATTING}", "red star"),
        ("red \N{GLOWING STAR} star", "red star"),
        ("A RED STAR!", "red star"),
        ("red " * (LONGEST // 4), "red"),
    ],
)
def test_what_is_no_word_is_passed_over(server: Server, prompt: str, same_as: str):
    found, expected = (
        shown(ask(server, text).raise_for_status().json()) for text in (prompt, same_as)
    )
    assert found == expected


def test_an_empty_prompt_is_none(server: Server):
    empty = shown(ask(server, "").raise_for_status().json())
    body = {"model": "shapes-ldm", "seed": 3, "steps": 2}
    assert shown(server.post("/v1/generate", body).raise_for_status().json()) == empty


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("red " * 2500, 413, "too_large"),
        ("x" * (LONGEST + 1), 413, "too_large"),
        ("x" * LONGEST, 422, "invalid_parameter"),
        ("\0", 422, "invalid_parameter"),
        ("a red\0star", 422, "invalid_parameter"),
        ("نجمة حمراء", 422, "invalid_parameter"),
        ("כוכב אדום", 422, "invalid_parameter"),
        ("红色的星星", 422, "invalid_parameter"),
        ("a r\N{COMBINING ACUTE ACCENT}ed star", 422, "invalid_parameter"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_what_cannot_be_read_is_refused_with_its_field(
    server: Server, prompt: str, status: int, code: str, field: str
):
    said = {"prompt": "a star", "negative_prompt": "a circle", field: prompt}
    answer = ask(server, **said)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, field)
    assert len(error["message"]) < 2000


def test_half_a_character_is_no_text(server: Server):
    body = '{"model": "shapes-ldm", "prompt": "a \\ud83c star", "steps": 2}'
    answer = httpx.post(
        f"{server.url}/v1/generate", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "prompt"
