"""What a text says once the tricks are taken off."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policies.block_list import Entries
from services.policies.normalization import folded, readings, spelled_out, tokens_of, views

INVISIBLE = (
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u2066\u2069\u034f\u180e\U000e0061"
)
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=12)
STAR = Entries.parse("star\nred moon\n")


@given(st.text(max_size=200))
def test_folding_what_was_folded_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@given(st.text(max_size=100))
def test_what_is_folded_holds_nothing_invisible_and_no_capitals(text: str) -> None:
    plain = folded(text)
    assert plain == plain.casefold()
    assert not any(unicodedata.category(sign) in ("Cf", "Mn", "Me") for sign in plain)


@given(word=LETTERS, data=st.data())
def test_a_word_is_found_whatever_invisible_signs_stand_in_it(word, data) -> None:
    places = data.draw(st.lists(st.integers(0, len(word)), max_size=6))
    hidden = word
    for place in sorted(places, reverse=True):
        hidden = hidden[:place] + data.draw(st.sampled_from(INVISIBLE)) + hidden[place:]
    assert Entries.parse(word).found_in(f"please make a {hidden} for me")


@given(word=LETTERS, fonts=st.data())
def test_a_word_is_found_in_any_width_and_font(word, fonts) -> None:
    starts = (0x61, 0xFF41, 0xFF21, 0x1D41A, 0x1D4EA, 0x24D0, 0x1F1E6, 0x1F170)
    shown = "".join(chr(fonts.draw(st.sampled_from(starts)) + ord(c) - ord("a")) for c in word)
    assert Entries.parse(word).found_in(shown)


@given(word=LETTERS, between=st.sampled_from([" ", ".", "-", "_", " . ", "*", "\u3000", "/"]))
def test_a_word_is_found_when_it_is_spelled_out(word: str, between: str) -> None:
    assert Entries.parse(word).found_in(between.join(word))


@given(st.text(max_size=60), LETTERS)
def test_no_word_is_found_in_letters_that_do_not_hold_it(text: str, word: str) -> None:
    letters = folded(text)
    if set(word) <= set(letters):
        return
    plain = "".join(sign for sign in letters if sign.isalpha() or sign.isspace())
    assert not Entries.parse(word).found_in(plain)


@pytest.mark.parametrize(
    "text",
    [
        "a star",
        "STAR!",
        "s\u200bt\u200ba\u200br",
        "\uff53\uff54\uff41\uff52",
        "\u0455tar",
        "st\u00e4r",
        "st4r",
        "$t4r",
        "5t@r",
        "staaaar",
        "s.t.a.r",
        "a s t a r",
        "st.ar",
        "\u202erats\u202c",
        "\u202erats",
        "s\u0336t\u0336a\u0336r\u0336",
        "\U0001d4fc\U0001d4fd\U0001d4ea\U0001d4fb",
        "red\u2060moon",
        "RED   moon",
        "r3d-m00n",
        "the rеd mооn",
    ],
)
def test_a_hidden_word_is_found(text: str) -> None:
    assert STAR.found_in(text)


@pytest.mark.parametrize(
    "text", ["starry night", "mustard", "a start", "moon red", "redmoon rising", "5 stairs", ""]
)
def test_a_word_inside_another_is_left_alone(text: str) -> None:
    assert not STAR.found_in(text)


def test_an_arabic_text_keeps_its_words() -> None:
    entries = Entries.parse("\u0643\u0644\u0628")
    assert entries.found_in("\u0635\u0648\u0631\u0629 \u0643\u064e\u0644\u0652\u0628")
    assert not entries.found_in("\u0635\u0648\u0631\u0629 \u0642\u0637")


def test_scripts_without_spaces_are_searched_throughout() -> None:
    entries = Entries.parse("\u6b66\u5668")
    assert entries.found_in("\u4e00\u628a\u6b66\u200b\u5668\u5427")
    assert not entries.found_in("\u6b66\u672f\u5668\u6750")


def test_a_text_is_read_in_a_bounded_number_of_ways() -> None:
    text = "\u202e" + "a1!$ b.c-d_e fff " * 100
    assert len(list(readings(text))) <= 3
    assert all(len(views(reading)) <= 12 for reading in readings(text))


def test_only_rows_of_single_letters_are_spelled_out() -> None:
    assert list(spelled_out(tokens_of("s t a r in a b box of c a t"))) == ["star", "cat"]
