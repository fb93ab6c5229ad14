"""``atelier reviews`` and ``atelier audit`` as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import app
from services.gateway.audit_check import tail
from services.policies.review_words import Held, Review
from services.policies.reviews import ReviewStore
from services.policies.settings import ReviewSettings


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def _folder() -> Path:
    return Path(os.environ["ATELIER_KEY_FILE"]).parent


@pytest.fixture
def held() -> Review:
    store = ReviewStore(ReviewSettings(), _folder())
    request = Held(
        owner="abc",
        request_id="r1",
        model="shapes-ldm",
        task="generate",
        policy="words",
        reason="a word",
        format="png",
        texts={"prompt": ["a [red]\x1b[31m star"]},
        values=[{"seed": 7}],
        images=[b"an image"],
    )
    kept = asyncio.run(store.keep(request))
    store.close()
    return kept


def test_what_is_held_is_listed_shown_and_approved_once(held: Review, tmp_path: Path) -> None:
    listed = run("reviews", "list")
    assert held.id[:6] in listed.stdout
    assert "\x1b[31m" not in listed.stdout
    shown = run("reviews", "show", held.id, "--out", str(tmp_path / "out"))
    assert json.loads(shown.stdout)["request"]["values"] == [{"seed": 7}]
    assert (tmp_path / "out" / f"{held.id}-0.png").read_bytes() == b"an image"
    assert run("reviews", "approve", held.id, "--note", "fine").exit_code == 0
    again = run("reviews", "reject", held.id)
    assert again.exit_code == 1
    assert "is decided: approved" in again.stderr
    (found,) = json.loads(run("reviews", "list", "--status", "approved", "--json").stdout)
    assert found["note"] == "fine"
    assert found["decided_by"].startswith("operator ")


def test_a_review_that_is_not_there_is_one_sentence() -> None:
    missing = run("reviews", "show", "nothing")
    assert missing.exit_code == 1
    assert "there is no review" in missing.stderr


def test_what_an_operator_does_is_written_down(
    held: Review, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATELIER_AUDIT__ENABLED", "true")
    made = run("keys", "create", "shop", "--scope", "generate")
    run("keys", "rotate", "shop")
    run("keys", "revoke", "shop")
    run("keys", "revoke", "shop")  # fails, and so is nothing that happened
    run("reviews", "reject", held.id)
    run("models", "remove", "nothing", "--store", str(tmp_path))
    events = tail(_folder() / "audit", 10)
    assert [event["event"] for event in events] == [
        "key.created",
        "key.rotated",
        "key.revoked",
        "review.rejected",
    ]
    assert all(event["operator"] for event in events)
    assert events[0]["owner"] == events[1]["owner"]
    text = (_folder() / "audit" / "audit.jsonl").read_text()
    assert made.stdout.strip().rpartition("_")[2] not in text


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    assert run("keys", "create", "shop").exit_code == 0
    assert not (_folder() / "audit").exists()


def test_the_log_is_verified_and_tampering_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_AUDIT__ENABLED", "true")
    for name in ("one", "two", "three"):
        run("keys", "create", name)
    good = run("audit", "verify")
    assert good.exit_code == 0
    assert "3 lines" in good.stdout
    head = good.stdout.split("head ")[1].strip()
    assert run("audit", "verify", "--head", head).exit_code == 0
    last = run("audit", "tail", "-n", "1").stdout
    assert json.loads(last)["name"] == "three"
    path = _folder() / "audit" / "audit.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    bad = run("audit", "verify")
    assert bad.exit_code == 1
    assert "does not follow" in bad.stderr
    assert run("audit", "verify", "--head", "nonsense").exit_code == 1


def test_no_log_is_one_sentence() -> None:
    for command in ("verify", "tail"):
        found = run("audit", command)
        assert found.exit_code == 1
        assert "no audit log" in found.stderr
