"""The block list's file: read, bounded, read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.core.errors import InvalidParameter
from services.policies.block_list import BlockList, Entries
from services.policies.interface import Action, Asked

ASKED = Asked("r1", "me", "shapes-ldm", "generate")


def _list(path: Path, text: str) -> BlockList:
    path.write_text(text, encoding="utf-8")
    return BlockList(file=str(path))


def test_the_field_is_named_and_the_word_is_not(tmp_path: Path) -> None:
    words = _list(tmp_path / "words.txt", "# a comment\nstar\n")
    found = words.judge({"prompt": ["a moon"], "negative_prompt": ["no star"]}, ASKED)
    assert (found.action, found.field) == (Action.REFUSE, "negative_prompt")
    assert "star" not in found.reason


def test_a_phrase_is_found_across_the_parts_of_a_list(tmp_path: Path) -> None:
    words = _list(tmp_path / "words.txt", "red star\n")
    assert words.judge({"prompts": ["red", "star"]}, ASKED).action is Action.REFUSE
    assert words.judge({"prompts": ["star", "red"]}, ASKED).action is Action.ALLOW


def test_a_changed_file_counts_from_the_next_request_on(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    words = _list(path, "star\n")
    assert words.judge({"prompt": ["a moon"]}, ASKED).action is Action.ALLOW
    path.write_text("moon\nstar\n", encoding="utf-8")
    assert words.judge({"prompt": ["a moon"]}, ASKED).action is Action.REFUSE


def test_a_file_that_can_no_longer_be_used_is_an_error_and_not_an_empty_list(
    tmp_path: Path,
) -> None:
    path = tmp_path / "words.txt"
    words = _list(path, "star\n")
    path.unlink()
    with pytest.raises(InvalidParameter, match="cannot be read"):
        words.judge({"prompt": ["a moon"]}, ASKED)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("star\n!!!\n", "line 2"),
        (" ".join("word" for _ in range(20)), "16"),
        ("re:" + "a" * 501, "500"),
        ("re:(a", "line 1"),
    ],
)
def test_a_list_that_cannot_be_used_does_not_start(
    tmp_path: Path, text: str, complaint: str
) -> None:
    pytest.importorskip("re2", reason="patterns need google-re2")
    with pytest.raises(InvalidParameter, match=complaint):
        _list(tmp_path / "words.txt", text)


def test_a_missing_list_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="cannot be read"):
        BlockList(file=str(tmp_path / "none.txt"))


def test_bytes_that_are_no_text_do_not_start(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(os.urandom(64) + b"\xff\xfe")
    with pytest.raises(InvalidParameter):
        BlockList(file=str(tmp_path / "words.txt"))


@pytest.mark.parametrize("source", [r"(a)\1", r"(?=a)b", r"(?<!a)b", r"(?>a)b"])
def test_patterns_that_could_take_for_ever_are_refused(source: str) -> None:
    pytest.importorskip("re2", reason="patterns need google-re2")
    with pytest.raises(InvalidParameter, match="cannot be used"):
        Entries.parse(f"re:{source}")


@pytest.mark.parametrize("source", ["(a+)+$", "(a|aa)*$", "(.*a){12}$", r"(\w+\s?)*!"])
def test_patterns_that_are_catastrophic_elsewhere_end_here(source: str) -> None:
    pytest.importorskip("re2", reason="patterns need google-re2")
    # A backtracking engine would not come back from these; the test's own time limit would tell.
    Entries.parse(f"re:{source}").found_in("a" * 2000 + "b")


def test_patterns_search_the_folded_text() -> None:
    pytest.importorskip("re2", reason="patterns need google-re2")
    entries = Entries.parse(r"re:kill(er|ing)?\b")
    assert entries.found_in("a \uff4b\u0456ller robot")
    assert not entries.found_in("a skilled robot")
