"""What is remembered of memory that ran out, and for how long."""

from __future__ import annotations

from services.runtime.caps import TRIES, RowCaps

STEP = ("step", "denoiser")


def fit(caps: RowCaps, rows: int, times: int) -> None:
    for _ in range(times):
        caps.fitted(STEP, rows)


def test_without_trouble_there_is_no_cap() -> None:
    caps = RowCaps()
    fit(caps, 64, 2 * TRIES)
    assert caps.limit(STEP, 64) == 64


def test_a_cap_holds_for_its_own_kind_of_work() -> None:
    caps = RowCaps()
    caps.lower(STEP, 8)
    assert caps.limit(STEP, 64) == 8
    assert caps.limit(STEP, 4) == 4
    assert caps.limit(("decode", "image"), 64) == 64


def test_after_many_full_batches_a_larger_one_is_tried() -> None:
    caps = RowCaps()
    caps.lower(STEP, 8)
    fit(caps, 7, 2 * TRIES)  # says nothing about eight
    fit(caps, 8, TRIES - 1)
    assert caps.limit(STEP, 64) == 8
    fit(caps, 8, 1)
    assert caps.limit(STEP, 64) == 10


def test_a_try_that_fails_falls_back_to_what_was_known_to_fit() -> None:
    caps = RowCaps()
    caps.lower(STEP, 8)
    fit(caps, 8, TRIES)
    caps.lower(STEP, 5)
    assert caps.limit(STEP, 64) == 8
    caps.lower(STEP, 4)
    assert caps.limit(STEP, 64) == 4


def test_even_a_cap_of_one_rises_again() -> None:
    caps = RowCaps()
    caps.lower(STEP, 0)
    assert caps.limit(STEP, 64) == 1
    fit(caps, 1, TRIES)
    assert caps.limit(STEP, 64) == 2
